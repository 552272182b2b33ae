//! The worker's side of one runner: feed it a job, listen to it, end it.

use std::{collections::BTreeSet, io, os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use bytes::BytesMut;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use segue_proto::failure::{Failure, FailureClass};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    frame::{self, JobResult, JobUsage, Reply, Request},
    oom,
};
use crate::agent::redact::Redactor;

/// How much longer than its grace a supervised command may take: its runner kills and buries it meanwhile.
const BURIAL: Duration = Duration::from_secs(6);

/// How long the rest of a log may take after its job has ended. Only a process that escaped can hold it open.
const LOG_TAIL: Duration = Duration::from_secs(2);

/// How an attempt is told to stop. Later ones are more urgent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StopKind {
    #[default]
    GoOn,
    /// With the grace of the task.
    Politely,
    /// The lease is gone: not one more moment.
    AtOnce,
}

/// Limits of one job.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub deadline: Option<Instant>,
    pub grace: Duration,
}

/// Where the news of a job go.
pub trait LogSink: Send {
    /// The job runs in the process group of this number.
    fn started(&mut self, group: u32);
    /// The job reports progress.
    fn progress(&mut self, done: u64, total: u64, message: String);
    /// Bytes of the log, secrets already taken out.
    fn log(&mut self, bytes: &[u8]);
}

/// How a job ended, as the worker sees it.
#[derive(Debug)]
pub enum Exit {
    /// The runner said how; it can take another job if `reusable`.
    Ended { result: JobResult, usage: JobUsage, reusable: bool },
    /// The runner itself is gone.
    Crashed(Failure),
    /// Ended because of a stop. No process of it is left.
    Stopped { usage: JobUsage, reusable: bool },
    /// Ended because its time was over. No process of it is left.
    TimedOut { usage: JobUsage, reusable: bool },
}

/// What accompanies a job.
pub struct Supervision<'a> {
    pub limits: Limits,
    pub stop: watch::Receiver<StopKind>,
    pub redactor: Redactor,
    pub sink: &'a mut dyn LogSink,
}

impl std::fmt::Debug for Supervision<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervision").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A runner process. Dropping it kills its group.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    /// Its process group too.
    pid: Pid,
    /// Group of the command that it supervises.
    command: Option<Pid>,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
    frames: BytesMut,
    /// Operators that it ran.
    served: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Stop,
    Timeout,
}

impl Runner {
    /// Takes a child with piped streams, in a process group of its own.
    ///
    /// # Errors
    /// If it is not such a child.
    pub fn new(mut child: Child) -> io::Result<Self> {
        let missing = || io::Error::other("the runner ended before it began");
        Ok(Self {
            pid: Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(missing)?),
            command: None,
            stdin: child.stdin.take().ok_or_else(missing)?,
            stdout: child.stdout.take().ok_or_else(missing)?,
            stderr: child.stderr.take().ok_or_else(missing)?,
            child,
            frames: BytesMut::new(),
            served: BTreeSet::new(),
        })
    }

    /// Says whether it ran this operator before.
    pub fn knows(&self, operator: &str) -> bool {
        self.served.contains(operator)
    }

    /// Says whether the process is still there.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Runs one job to its end, whatever that is. When it returns, no process works on the job any more.
    pub async fn run(&mut self, request: &Request, mut with: Supervision<'_>) -> Exit {
        let kills_before = oom::kills();
        let is_command = matches!(request, Request::Command(_));
        if let Request::Operator(job) = request {
            self.served.insert(job.name.clone());
        }
        let frame = match frame::encode(request) {
            Ok(frame) => frame,
            Err(e) => return Exit::Crashed(Failure::new(FailureClass::User, format!("the task is too large: {e}"))),
        };
        // Small beside the pipe; a runner that does not read it is found dead below.
        let _ = self.stdin.write_all(&frame).await;

        let mut cause: Option<Cause> = None;
        let mut kill_at: Option<Instant> = None;
        let mut ended: Option<(JobResult, JobUsage)> = None;
        let (mut replies_open, mut log_open) = (true, true);
        let mut log_until: Option<Instant> = None;
        let mut buffer = vec![0; 32 * 1024];
        let mut urgency = StopKind::GoOn;
        while replies_open && ended.is_none() || log_open && !with.redactor.ended() {
            let wanted = *with.stop.borrow_and_update();
            if wanted > urgency && ended.is_none() {
                urgency = wanted;
                cause.get_or_insert(Cause::Stop);
                let grace = if wanted == StopKind::AtOnce { Duration::ZERO } else { with.limits.grace };
                kill_at = Some(self.ask_to_stop(grace, is_command, kill_at).await);
            }
            let deadline = with.limits.deadline.filter(|_| cause.is_none() && ended.is_none());
            tokio::select! {
                read = self.stdout.read_buf(&mut self.frames), if replies_open && ended.is_none() => {
                    replies_open = matches!(read, Ok(n) if n > 0);
                    loop {
                        match frame::decode::<Reply>(&mut self.frames) {
                            Ok(Some(Reply::Started { group })) => {
                                self.command = is_command.then(|| Pid::from_raw(group));
                                with.sink.started(u32::try_from(group).unwrap_or(0));
                            }
                            Ok(Some(Reply::Progress { done, total, message })) => with.sink.progress(done, total, with.redactor.mask(message)),
                            Ok(Some(Reply::Ended { result, usage })) => ended = Some((masked(result, &with.redactor), usage)),
                            Ok(None) => break,
                            Err(error) => {
                                tracing::warn!(%error, "a runner spoke nonsense and is killed");
                                replies_open = false;
                                break;
                            }
                        }
                    }
                    if !replies_open || ended.is_some() {
                        log_until = Some(Instant::now() + LOG_TAIL);
                    }
                    if !replies_open && ended.is_none() {
                        self.kill_groups();
                    }
                }
                read = self.stderr.read(&mut buffer), if log_open && !with.redactor.ended() => {
                    let read = read.unwrap_or(0);
                    log_open = read > 0;
                    let clean = with.redactor.push(&buffer[..read]);
                    with.sink.log(&clean);
                }
                Ok(()) = with.stop.changed(), if ended.is_none() => {}
                () = at(deadline), if deadline.is_some() => {
                    cause = Some(Cause::Timeout);
                    kill_at = Some(self.ask_to_stop(with.limits.grace, is_command, None).await);
                }
                () = at(kill_at), if kill_at.is_some() && ended.is_none() && replies_open => {
                    kill_at = None;
                    self.kill_groups();
                }
                () = at(log_until), if log_until.is_some() => log_open = false,
            }
        }
        let rest = with.redactor.finish();
        with.sink.log(&rest);
        self.command = None;

        let (reusable, usage) = match &ended {
            Some((_, usage)) => (log_open && !is_command, *usage),
            None => (false, JobUsage::default()),
        };
        let status = if ended.is_none() { self.wait().await } else { None };
        match (cause, ended) {
            (Some(Cause::Stop), _) => Exit::Stopped { usage, reusable },
            (Some(Cause::Timeout), _) => Exit::TimedOut { usage, reusable },
            (None, Some((result, usage))) => Exit::Ended { result, usage, reusable },
            (None, None) => Exit::Crashed(crash(status, oom::kills() > kills_before)),
        }
    }

    /// Kills the group and waits until the process is gone.
    pub async fn kill(&mut self) {
        self.kill_groups();
        self.wait().await;
    }

    /// Tells the job to end within `grace` and gives the time at which it is killed if it did not.
    async fn ask_to_stop(&mut self, grace: Duration, is_command: bool, earlier: Option<Instant>) -> Instant {
        // A command is killed by the runner that supervises it, which knows its descendants. An operator stops by
        // itself between two steps of its work, or is killed with its runner.
        if is_command || !grace.is_zero() {
            let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
            if let Ok(frame) = frame::encode(&Request::Stop { grace_ms }) {
                let _ = self.stdin.write_all(&frame).await;
            }
        }
        let kill_at = Instant::now() + grace + if is_command { BURIAL } else { Duration::ZERO };
        earlier.map_or(kill_at, |earlier| earlier.min(kill_at))
    }

    fn kill_groups(&mut self) {
        if self.is_alive() {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        if let Some(command) = self.command.take() {
            let _ = killpg(command, Signal::SIGKILL);
        }
    }

    async fn wait(&mut self) -> Option<ExitStatus> {
        timeout(BURIAL, self.child.wait()).await.ok()?.ok()
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.kill_groups();
    }
}

/// Takes secrets out of what a failure says.
fn masked(result: JobResult, redactor: &Redactor) -> JobResult {
    match result {
        JobResult::Failed(mut failure) => {
            failure.message = redactor.mask(failure.message);
            failure.hint = redactor.mask(failure.hint);
            JobResult::Failed(failure)
        }
        succeeded => succeeded,
    }
}

/// Waits until a time; for ever where there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Says why a runner went away by itself.
fn crash(status: Option<ExitStatus>, killed_for_memory: bool) -> Failure {
    let Some(status) = status else {
        return Failure::new(FailureClass::Lost, "the runner closed its streams and does not end");
    };
    let Some(number) = status.signal() else {
        let mut failure = Failure::new(FailureClass::Lost, "the runner ended in the middle of the attempt")
            .hint("the log of the attempt may say why");
        failure.exit_code = status.code();
        return failure;
    };
    let signal = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |signal| signal.to_string());
    let mut failure = match number {
        9 if killed_for_memory => Failure::new(FailureClass::Oom, "the attempt was killed for memory")
            .hint("ask for more memory in the task's resources, or give the worker more"),
        9 | 15 => Failure::new(FailureClass::Lost, format!("the runner was killed from outside with {signal}")),
        _ => Failure::new(FailureClass::Lost, format!("the runner crashed with {signal}"))
            .hint("an operator that crashes every time is a bug; the log of the attempt may say where"),
    };
    failure.signal = Some(number);
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_from_a_kill_for_memory() {
        assert_eq!(crash(Some(ExitStatus::from_raw(9)), true).class, FailureClass::Oom);
        let lost = crash(Some(ExitStatus::from_raw(9)), false);
        assert_eq!((lost.class, lost.signal), (FailureClass::Lost, Some(9)));
        let crashed = crash(Some(ExitStatus::from_raw(11)), true);
        assert_eq!((crashed.class, crashed.signal), (FailureClass::Lost, Some(11)));
        assert_eq!(crash(Some(ExitStatus::from_raw(2 << 8)), false).exit_code, Some(2));
    }

    #[test]
    fn stops_are_ordered_by_urgency() {
        assert!(StopKind::GoOn < StopKind::Politely && StopKind::Politely < StopKind::AtOnce);
    }
}
