//! The worker's side of one runner: feed it a job, listen to it, end it.

use std::{collections::BTreeSet, io, os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

use bytes::BytesMut;
use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use segue_proto::failure::{Failure, FailureClass};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    frame::{self, JobResult, JobUsage, Reply, Request},
    heartbeat::Heartbeat,
    memory, oom,
};
use crate::agent::redact::Redactor;

/// How much longer than its grace a supervised command may take: its runner kills and buries it meanwhile.
const BURIAL: Duration = Duration::from_secs(6);

/// Bytes of a log that are read at a time.
const LOG_PIECE: usize = 32 * 1024;

/// How many pieces of a log are read after its job has ended: what a pipe can hold at the most. Whatever comes later is
/// of a process that could not be killed.
const LAST_PIECES: usize = 64;

/// How often a group that was killed is looked at. The system has no event for "this group is empty".
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
    /// Bytes of memory that its processes may take for themselves.
    pub memory_bytes: Option<u64>,
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
    /// Ended because it gave no sign of life. No process of it is left.
    Silent { usage: JobUsage, reusable: bool },
    /// Ended because it took more memory than it may. No process of it is left.
    TooLarge { usage: JobUsage, reusable: bool },
}

/// What accompanies a job.
pub struct Supervision<'a> {
    pub limits: Limits,
    pub stop: watch::Receiver<StopKind>,
    /// When the lease ends, as far as it is known; a later time each time that it is renewed.
    pub lease: watch::Receiver<Option<std::time::Instant>>,
    /// Where the job must give signs of life.
    pub heartbeat: Option<Heartbeat>,
    /// Whether the log may go on. A job that has more to say waits meanwhile.
    pub room: watch::Receiver<bool>,
    pub redactor: Redactor,
    pub sink: &'a mut dyn LogSink,
}

impl std::fmt::Debug for Supervision<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervision").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What a runner is kept for. One that runs operators has their environment and their models; one that supervises
/// commands is never the parent of anything else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    Operators,
    Commands,
}

/// A runner process. Dropping it kills its group.
#[derive(Debug)]
pub struct Runner {
    child: Child,
    /// Its process group too.
    pid: Pid,
    duty: Duty,
    /// Group of the command that it supervises.
    command: Option<Pid>,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
    frames: BytesMut,
    piece: Vec<u8>,
    /// It ran a job before.
    used: bool,
    /// Operators that it ran.
    served: BTreeSet<String>,
    /// GPUs that it sees, by index of the worker; its drivers were told when it started.
    devices: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Stop,
    Timeout,
    Silence,
    Memory,
}

/// What the runner said about the end of a job.
struct Report {
    result: JobResult,
    usage: JobUsage,
    haunted: bool,
}

impl Runner {
    /// Takes a child with piped streams, in a process group of its own.
    ///
    /// # Errors
    /// If it is not such a child.
    pub fn new(mut child: Child, duty: Duty, devices: Vec<u32>) -> io::Result<Self> {
        let missing = || io::Error::other("the runner ended before it began");
        Ok(Self {
            pid: Pid::from_raw(child.id().and_then(|id| i32::try_from(id).ok()).ok_or_else(missing)?),
            duty,
            command: None,
            stdin: child.stdin.take().ok_or_else(missing)?,
            stdout: child.stdout.take().ok_or_else(missing)?,
            stderr: child.stderr.take().ok_or_else(missing)?,
            child,
            frames: BytesMut::new(),
            piece: vec![0; LOG_PIECE],
            used: false,
            served: BTreeSet::new(),
            devices,
        })
    }

    /// Says what it is kept for.
    pub const fn duty(&self) -> Duty {
        self.duty
    }

    /// Lists the GPUs that it sees.
    pub fn devices(&self) -> &[u32] {
        &self.devices
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
        let kills_before = oom::kills_before();
        let is_command = matches!(request, Request::Command(_));
        let frame = match frame::encode(request) {
            Ok(frame) => frame,
            Err(e) => return Exit::Crashed(Failure::new(FailureClass::User, format!("the task is too large: {e}"))),
        };
        if std::mem::replace(&mut self.used, true) {
            // What a library said after the job before had ended is nobody's log.
            self.rest_of_log(|_| {});
        }
        // Both in one piece: each costs the runner a wake-up. One that does not read them is found dead below.
        let mut begin = lease_frame(&mut with.lease);
        begin.extend_from_slice(&frame);
        let _ = self.stdin.write_all(&begin).await;
        if let Request::Operator(job) = request {
            if !self.knows(&job.name) {
                self.served.insert(job.name.clone());
            }
            with.sink.started(u32::try_from(self.pid.as_raw()).unwrap_or(0));
        }

        let mut cause: Option<Cause> = None;
        let mut kill_at: Option<Instant> = None;
        let mut ended: Option<Report> = None;
        let (mut replies_open, mut log_open) = (true, true);
        let mut urgency = StopKind::GoOn;
        let mut weigh_at = with.limits.memory_bytes.map(|_| Instant::now() + memory::LOOK_EVERY);
        while ended.is_none() && replies_open {
            let wanted = *with.stop.borrow_and_update();
            if wanted > urgency {
                urgency = wanted;
                cause.get_or_insert(Cause::Stop);
                let grace = if wanted == StopKind::AtOnce { Duration::ZERO } else { with.limits.grace };
                kill_at = Some(self.ask_to_stop(grace, is_command, kill_at).await);
            }
            let deadline = with.limits.deadline.filter(|_| cause.is_none());
            let look_at = with.heartbeat.as_ref().map(Heartbeat::look_at).filter(|_| cause.is_none());
            let hears = log_open && *with.room.borrow_and_update();
            tokio::select! {
                read = self.stdout.read_buf(&mut self.frames) => {
                    replies_open = matches!(read, Ok(n) if n > 0);
                    while ended.is_none() && replies_open {
                        match frame::decode::<Reply>(&mut self.frames) {
                            Ok(Some(Reply::Started { group })) => {
                                self.command = Some(Pid::from_raw(group)).filter(|_| is_command);
                                with.sink.started(u32::try_from(group).unwrap_or(0));
                            }
                            Ok(Some(Reply::Progress { done, total, message })) => with.sink.progress(done, total, with.redactor.mask(message)),
                            Ok(Some(Reply::Ended { result, usage, haunted })) => {
                                ended = Some(Report { result: masked(result, &with.redactor), usage, haunted });
                            }
                            Ok(None) => break,
                            Err(error) => {
                                tracing::warn!(%error, "a runner spoke nonsense and is killed");
                                replies_open = false;
                            }
                        }
                    }
                }
                read = self.stderr.read(&mut self.piece), if hears => {
                    let read = read.unwrap_or(0);
                    log_open = read > 0;
                    let clean = with.redactor.push(&self.piece[..read]);
                    with.sink.log(&clean);
                }
                Ok(()) = with.stop.changed() => {}
                Ok(()) = with.room.changed() => {}
                Ok(()) = with.lease.changed() => {
                    let _ = self.stdin.write_all(&lease_frame(&mut with.lease)).await;
                }
                () = at(deadline), if deadline.is_some() => {
                    cause = Some(Cause::Timeout);
                    kill_at = Some(self.ask_to_stop(with.limits.grace, is_command, None).await);
                }
                () = at(look_at), if look_at.is_some() => {
                    if with.heartbeat.as_mut().is_some_and(|heartbeat| heartbeat.is_silent(Instant::now())) {
                        cause = Some(Cause::Silence);
                        kill_at = Some(self.ask_to_stop(with.limits.grace, is_command, None).await);
                    }
                }
                () = at(weigh_at), if weigh_at.is_some() => {
                    weigh_at = Some(Instant::now() + memory::LOOK_EVERY);
                    if cause.is_none() && self.is_too_large(with.limits.memory_bytes, is_command) {
                        cause = Some(Cause::Memory);
                        weigh_at = None;
                        kill_at = Some(self.ask_to_stop(Duration::ZERO, is_command, None).await);
                    }
                }
                () = at(kill_at), if kill_at.is_some() => {
                    kill_at = None;
                    self.kill_groups();
                }
            }
        }
        let status = if ended.is_none() { self.bury().await } else { None };
        self.command = None;
        // Everything that the job wrote is in the pipe by now.
        let Supervision { redactor, sink, .. } = &mut with;
        self.rest_of_log(|bytes| sink.log(&redactor.push(bytes)));
        sink.log(&redactor.finish());

        let (reusable, usage) = match &ended {
            Some(report) => (log_open && !report.haunted, report.usage),
            None => (false, JobUsage::default()),
        };
        match (cause, ended) {
            (Some(Cause::Stop), _) => Exit::Stopped { usage, reusable },
            (Some(Cause::Timeout), _) => Exit::TimedOut { usage, reusable },
            (Some(Cause::Silence), _) => Exit::Silent { usage, reusable },
            (Some(Cause::Memory), _) => Exit::TooLarge { usage, reusable },
            (None, Some(report)) => Exit::Ended { result: report.result, usage, reusable },
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

    /// Looks at the memory of the job. A runner that supervises a command does not count.
    fn is_too_large(&self, limit: Option<u64>, is_command: bool) -> bool {
        let of = if is_command { memory::Of::Children } else { memory::Of::Tree };
        limit.is_some_and(|limit| memory::own_bytes(self.pid, of) > limit)
    }

    /// Gives what is in the pipe of the log now, without waiting for more.
    fn rest_of_log(&mut self, mut take: impl FnMut(&[u8])) {
        for _ in 0..LAST_PIECES {
            // The pipe does not block: tokio set it so.
            match nix::unistd::read(&self.stderr, &mut self.piece) {
                Ok(read) if read > 0 => take(&self.piece[..read]),
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
        }
    }

    /// Kills what is left of a runner that went away in the middle of a job, and waits until it is gone.
    async fn bury(&mut self) -> Option<ExitStatus> {
        self.kill_groups();
        let status = self.wait().await;
        if let Some(command) = self.command {
            let gone = async {
                while killpg(command, None) != Err(Errno::ESRCH) {
                    sleep(LOOK_EVERY).await;
                }
            };
            if timeout(BURIAL, gone).await.is_err() {
                tracing::warn!(group = command.as_raw(), "processes of a command do not die");
            }
        }
        status
    }

    fn kill_groups(&mut self) {
        if self.is_alive() {
            let _ = killpg(self.pid, Signal::SIGKILL);
        }
        if let Some(command) = self.command {
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

/// Tells a runner how long its job may go on. It ends the job by itself then: this process may be stopped. Empty where no
/// lease is known.
fn lease_frame(lease: &mut watch::Receiver<Option<std::time::Instant>>) -> Vec<u8> {
    let Some(until) = *lease.borrow_and_update() else { return Vec::new() };
    let left = until.saturating_duration_since(std::time::Instant::now());
    let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    frame::encode(&Request::Lease { left_ms }).unwrap_or_default()
}

/// Takes secrets out of what a failure says, and of what an operator tells beside its outputs.
fn masked(result: JobResult, redactor: &Redactor) -> JobResult {
    match result {
        JobResult::Failed(failure) => JobResult::Failed(redactor.mask_failure(failure)),
        JobResult::Succeeded(mut produced) => {
            produced.mask(&|text| redactor.mask(text));
            JobResult::Succeeded(produced)
        }
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
