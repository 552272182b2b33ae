//! Segue: submit pipelines, watch runs, rerun failed nodes. The program is a function, so that the tests have another one
//! that is the same but for what lies over its store.

mod args;
mod blobs;
mod client;
mod commands;
mod embedded;
mod error;
mod format;
mod ground;
mod printer;
mod progress;
mod stop;

use std::process::ExitCode;

use clap::Parser as _;

pub use crate::ground::Over;
use crate::{args::Cli, error::ExitStatus, printer::Printer};

/// Does what the arguments of this process say. Coordinators that it starts reach their store through `over`.
#[must_use]
pub fn run(over: Over) -> ExitCode {
    // A runner is a child of a worker: nothing of the command line concerns it.
    if std::env::args_os().nth(1).is_some_and(|first| first == args::RUNNER) {
        return segue_worker::runner::runner_main();
    }
    // Two providers are in the tree (tonic brings ring, the object store aws-lc), and rustls chooses none by itself.
    // An error means that one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut cli = Cli::parse();
    cli.global = cli.global.without_empty_variables(|name| std::env::var_os(name));
    cli.global.over = over;
    let mut printer = Printer::new(cli.global.output);
    printer::log_to_stderr(cli.global.verbose, &cli.command);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            printer.error(&error::Error::internal(format!("cannot start threads: {e}")));
            return ExitStatus::Unreachable.into();
        }
    };
    let outcome = runtime.block_on(commands::dispatch(cli, &mut printer));
    // Blocking reads (standard input, a slow disk) must not hold the exit up.
    runtime.shutdown_background();
    match outcome {
        Ok(status) => status.into(),
        Err(e) => {
            printer.error(&e);
            e.status().into()
        }
    }
}
