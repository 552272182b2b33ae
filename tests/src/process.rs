//! A long-running process of a test: its output goes to a file, and it never outlives its test.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::until;

/// Lines of a log that are shown after a failure.
const TAIL: usize = 20;

/// A process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command. Output and errors are appended to `log`, so that restarts share one.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file can be opened");
        let errors = file.try_clone().expect("a file handle can be copied");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Gives the process id.
    #[must_use]
    pub fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone already: then the test would test nothing.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(self.id(), signal).unwrap_or_else(|e| panic!("cannot send {signal} to {}: {e}", self.name));
    }

    /// Kills it at once, and gives its exit, so that a test can tell that the kill did it.
    ///
    /// # Panics
    /// If it was gone already.
    #[track_caller]
    pub fn kill(&mut self) -> ExitStatus {
        assert!(self.exit().is_none(), "{} ended before it was to be killed\n{}", self.name, self.tail());
        self.signal(Signal::SIGKILL);
        self.wait()
    }

    /// Gives its exit if it has ended.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, || self.exit())
    }

    /// Gives everything that it wrote.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Gives the last lines that it wrote, under its name.
    #[must_use]
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines.len().saturating_sub(TAIL);
        format!("── {} ──\n{}\n", self.name, lines[last..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
