//! A command of a user, timed from its start to its end.

use std::{
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::workload::FAN;

/// What people ask about a large run.
#[derive(Debug, Clone, Copy)]
pub struct Query {
    pub name: &'static str,
    /// Before the run id, and after it.
    args: (&'static str, &'static [&'static str]),
    /// Whether a coordinator may refuse it because the run is still going: that is an answer too.
    needs_end: bool,
}

/// The three that must be quick.
pub const QUERIES: [Query; 3] = [
    Query { name: "show", args: ("show", &[]), needs_end: false },
    Query { name: "explain", args: ("explain", &[]), needs_end: false },
    Query { name: "rerun --dry-run", args: ("rerun", &["--from", FAN, "--dry-run"]), needs_end: true },
];

impl Query {
    /// Gives the arguments of the command line.
    pub fn arguments(self, run: &str) -> Vec<&str> {
        let (command, rest) = self.args;
        [command, run].into_iter().chain(rest.iter().copied()).collect()
    }

    /// Says whether the answer is that the run must end first.
    pub fn refused(self, answer: &Answer) -> bool {
        self.needs_end && answer.code == 2 && answer.stderr.contains("still going")
    }

    /// Judges an answer: the seconds that it took, if it is one.
    ///
    /// # Errors
    /// What the command said instead.
    pub fn seconds(self, answer: &Answer, going: bool) -> Result<f64, String> {
        if (answer.code == 0 && answer.printed > 0) || (going && self.refused(answer)) {
            return Ok(answer.seconds);
        }
        let said = answer.stderr.lines().next().unwrap_or("and says nothing");
        Err(format!("`{}` ends with {} after {:.2} s: {said}", self.name, answer.code, answer.seconds))
    }
}

/// What a command did.
#[derive(Debug, Clone)]
pub struct Answer {
    pub seconds: f64,
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Bytes on standard output.
    pub printed: usize,
    pub stderr: String,
}

/// Executes a command; its output is read through pipes as it comes.
///
/// # Errors
/// If it cannot be started, or does not end within `limit`; then it is killed.
pub fn timed(mut command: Command, limit: Duration) -> Result<Answer, String> {
    let shown = format!("{command:?}");
    let start = Instant::now();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = spawned.map_err(|e| format!("cannot start {shown}: {e}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let ended = child.wait_with_output();
        let _ = sender.send((ended, start.elapsed())); // The caller may have given up.
    });
    match receiver.recv_timeout(limit) {
        Ok((Ok(output), took)) => Ok(Answer {
            seconds: took.as_secs_f64(),
            code: output.status.code().unwrap_or(-1),
            printed: output.stdout.len(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }),
        Ok((Err(e), _)) => Err(format!("cannot wait for {shown}: {e}")),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            Err(format!("{shown} does not end within {} s", limit.as_secs()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, printed: usize) -> Answer {
        Answer { seconds: 0.5, code, printed, stderr: "error: the run is still going\nhint".to_owned() }
    }

    #[test]
    fn only_a_rerun_may_refuse_and_only_while_the_run_goes() {
        let [show, _, rerun] = QUERIES;
        assert_eq!(rerun.seconds(&answer(2, 0), true), Ok(0.5));
        assert!(rerun.seconds(&answer(2, 0), false).is_err());
        let unknown = Answer { stderr: "error: there is no task `fan`".to_owned(), ..answer(2, 0) };
        assert!(rerun.seconds(&unknown, true).is_err());
        assert!(
            show.seconds(&answer(2, 0), true).is_err_and(|reason| reason.ends_with("error: the run is still going"))
        );
    }

    #[test]
    fn success_without_a_word_is_no_answer() {
        assert!(QUERIES[0].seconds(&answer(0, 0), false).is_err());
        assert_eq!(QUERIES[0].seconds(&answer(0, 9), false), Ok(0.5));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed_in_time() {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        let start = Instant::now();
        assert!(timed(sleep, Duration::from_millis(50)).is_err());
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn an_answer_tells_its_code_and_what_was_printed() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "printf abc; echo no >&2; exit 3"]);
        let answer = timed(shell, Duration::from_secs(60)).expect("sh is everywhere");
        assert_eq!((answer.code, answer.printed, answer.stderr.as_str()), (3, 3, "no\n"));
    }
}
