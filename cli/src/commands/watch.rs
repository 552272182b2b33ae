//! `segue watch RUN` and `segue wait RUN`.

use clap::Args;
use segue_proto::v1;

use super::{run::follow, summary};
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
}

/// Arguments of `wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// Run id, the start of one, or `latest`
    #[arg(default_value = "latest")]
    pub run: String,
}

/// Follows with progress; the exit code is the outcome.
pub async fn watch(args: WatchArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    finish(&args.run, false, client, out).await
}

/// Waits in silence; the exit code is the outcome.
pub async fn wait(args: WaitArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    finish(&args.run, true, client, out).await
}

async fn finish(run: &str, quiet: bool, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    // `latest` may be another run soon.
    let run = client.runs().get_run(v1::GetRunRequest { run_id: run.to_owned() }).await?.into_inner();
    client.executes(&run)?;
    let run = follow(client, &run.run_id, quiet, out).await?;
    if out.is_json() {
        out.json(&format::run_outcome(&run))?;
    } else if !quiet {
        summary::print(&run, client, out).await?;
    }
    Ok(format::ended(run.state).unwrap_or(ExitStatus::Unreachable))
}
