//! `segue` over a store that fails: the same program, with faults between its coordinator and the store on disk, as
//! `SEGUE_STORE_FAULTS` asks for them (see [`plan`]). End-to-end tests are started with it instead of `segue`.
//!
//! A coordinator that a fault has stopped comes back at once, as systemd would bring it back: this process executes itself
//! again, so that to whoever started it it is still the same one.

mod plan;
mod store;

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
    sync::{Arc, atomic::Ordering},
};

use segue_cli::Over;
use segue_coordinator::store::Store;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    plan::{Plan, Spec},
    store::{FAILED, FaultyStore, STOPPING},
};

/// Where the faults are said.
const FAULTS: &str = "SEGUE_STORE_FAULTS";

fn main() -> ExitCode {
    let command = std::env::args().nth(1).unwrap_or_default();
    // Other commands end with a fault as with any other, and nobody starts them again.
    let serves = ["coordinator", "dev"].contains(&command.as_str());
    if serves {
        std::thread::spawn(note_stop);
    }
    let code = segue_cli::run(Over::new(if serves { over_all } else { over_passing }));
    if !serves || !FAILED.load(Ordering::SeqCst) || code == ExitCode::SUCCESS {
        return code;
    }
    if STOPPING.load(Ordering::SeqCst) {
        // It was told to end while it was failing.
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr(), "segue-faulty: started again after a fault of its store");
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program).args(std::env::args_os().skip(1)).exec(),
        Err(error) => error,
    };
    let _ = writeln!(std::io::stderr(), "segue-faulty: cannot start again: {error}");
    code
}

/// Notes that the process is told to end: one that is to go has no fault any more, and does not come back.
fn note_stop() {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return;
        };
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        STOPPING.store(true, Ordering::SeqCst);
    });
}

fn over_all(state_dir: &Path, store: Arc<dyn Store>) -> Arc<dyn Store> {
    over(state_dir, store, true)
}

fn over_passing(state_dir: &Path, store: Arc<dyn Store>) -> Arc<dyn Store> {
    over(state_dir, store, false)
}

fn over(state_dir: &Path, store: Arc<dyn Store>, stops: bool) -> Arc<dyn Store> {
    let Ok(text) = std::env::var(FAULTS) else { return store };
    let planned = Spec::read(&text).and_then(|spec| Plan::open(&spec, state_dir, stops));
    match planned {
        Ok(plan) => Arc::new(FaultyStore::new(store, plan)),
        Err(why) => {
            // A test that believes in faults that nobody injects would prove nothing.
            let _ = writeln!(std::io::stderr(), "segue-faulty: {FAULTS}: {why}");
            std::process::exit(2);
        }
    }
}
