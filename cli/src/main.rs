//! Segue: submit pipelines, watch runs, rerun failed nodes.

use std::process::ExitCode;

fn main() -> ExitCode {
    segue_cli::run(segue_cli::Over::default())
}
