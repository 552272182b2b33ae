//! A runner as a program of its own, for workers that are not started through the `segue` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    segue_worker::runner::runner_main()
}
