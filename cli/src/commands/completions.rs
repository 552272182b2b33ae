//! `segue completions SHELL`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{
    args::Cli,
    error::{Error, ExitStatus},
    printer::Printer,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Shell
    pub shell: Shell,
}

/// Runs the command.
pub fn run(args: CompletionsArgs, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "segue", &mut script);
    out.bytes(&script)?;
    Ok(ExitStatus::Done)
}
