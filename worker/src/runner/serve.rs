//! The body of a runner process: reads requests, runs one job at a time, ends with its worker.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::{AsFd as _, OwnedFd},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{Builder, Scope, scope},
    time::{Duration, Instant},
};

use nix::{
    sys::{
        prctl,
        signal::{Signal, killpg},
    },
    unistd::getpgrp,
};

use super::{
    command,
    ending::Lease,
    frame::{self, OperatorJob, Reply, Request},
    operator::{self, Operators},
    requests::{Heard, Requests},
    usage::Meter,
};
use crate::ops::{self, Operator};

/// The stack of the thread that runs operators: as much as the first thread of a process has.
const OPERATOR_STACK: usize = 8 << 20;

/// Where requests come from.
pub type Ear = Requests<OwnedFd>;

/// Where replies go. A lock keeps frames whole: progress may come from any thread.
pub struct Replies(Mutex<Box<dyn Write + Send>>);

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}

impl Replies {
    /// Sends replies to this stream.
    pub fn to(stream: impl Write + Send + 'static) -> Self {
        Self(Mutex::new(Box::new(stream)))
    }

    /// Sends one reply. A worker that is gone is noticed by the thread that reads.
    pub fn send(&self, reply: &Reply) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frame::write(&mut *stream, reply);
    }

    /// Sends the reply that ends a job. The worker takes the log as whole once it hears of it.
    pub fn ended(&self, reply: &Reply) {
        let _ = io::stdout().flush();
        self.send(reply);
    }
}

/// Runs a runner with every built-in operator: the body of the hidden subcommand that workers start.
#[must_use]
pub fn runner_main() -> ExitCode {
    if io::stdin().is_terminal() {
        eprintln!("this command is started by a worker and is of no use by hand");
        return ExitCode::from(2);
    }
    serve(&ops::all())
}

/// Runs a runner with these operators, until its stdin ends.
#[must_use]
pub fn serve(operators: &[Box<dyn Operator>]) -> ExitCode {
    let streams = io::stdin().as_fd().try_clone_to_owned().and_then(|stdin| Ok((stdin, take_stdout()?)));
    let (stdin, replies) = match streams {
        Ok((stdin, stdout)) => (stdin, Replies::to(stdout)),
        Err(e) => {
            eprintln!("the runner cannot set up its streams: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Dies with the thread that started it, even where it is too busy to see the end of its stdin.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    start_log();
    let (operators, replies, mut ear) = (Operators::new(operators), Arc::new(replies), Requests::of(stdin));
    scope(|threads| {
        let mut bench: Option<Bench> = None;
        let (mut lease, mut keeps) = (Lease::default(), false);
        while ear.is_open() {
            let busy = bench.as_ref().filter(|bench| bench.is_busy());
            let until = lease.until().filter(|_| busy.is_some());
            match ear.wait(None, until) {
                Heard::Request(Request::Operator(job)) => {
                    let started = match bench.take() {
                        Some(bench) => Ok(bench),
                        None => Bench::start(threads, &operators, &replies),
                    };
                    match started {
                        Ok(started) => bench.insert(started).work(*job),
                        Err(e) => {
                            eprintln!("the runner cannot start a thread: {e}");
                            return ExitCode::FAILURE;
                        }
                    }
                }
                Heard::Request(Request::Command(job)) => {
                    if !std::mem::replace(&mut keeps, true) {
                        command::prepare();
                    }
                    let ended = command::run(&job, &mut ear, &mut lease, &replies);
                    replies.ended(&ended);
                }
                Heard::Request(Request::Lease { left_ms }) => {
                    lease.renew(Instant::now(), Duration::from_millis(left_ms));
                }
                // The worker kills one that does not listen.
                Heard::Request(Request::Stop { .. }) => busy.into_iter().for_each(Bench::stop),
                Heard::Time if lease.has_passed(Instant::now()) && bench.as_ref().is_some_and(Bench::is_busy) => {
                    // The runner leads its group.
                    let _ = killpg(getpgrp(), Signal::SIGKILL);
                }
                Heard::Time | Heard::Ended | Heard::Gone => {}
            }
        }
        // An operator ends with its process.
        std::process::exit(0)
    })
}

/// The thread that runs operators, one at a time.
struct Bench {
    jobs: mpsc::Sender<(OperatorJob, Arc<AtomicBool>)>,
    busy: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Bench {
    fn start<'scope>(
        threads: &'scope Scope<'scope, '_>,
        operators: &'scope Operators<'_>,
        replies: &Arc<Replies>,
    ) -> io::Result<Self> {
        let (jobs, inbox) = mpsc::channel::<(OperatorJob, Arc<AtomicBool>)>();
        let (busy, replies) = (Arc::new(AtomicBool::new(false)), Arc::clone(replies));
        let (done, mut meter) = (Arc::clone(&busy), Meter::open());
        let body = move || {
            for (job, stop) in inbox {
                let (result, usage) = operator::run(job, operators, &mut meter, stop, &replies);
                // Before it is told: the next job may come at once.
                done.store(false, Ordering::Release);
                replies.ended(&Reply::Ended { result, usage, haunted: false });
            }
        };
        Builder::new().name("operator".into()).stack_size(OPERATOR_STACK).spawn_scoped(threads, body)?;
        Ok(Self { jobs, busy, stop: Arc::default() })
    }

    fn work(&mut self, job: OperatorJob) {
        self.stop = Arc::default();
        self.busy.store(true, Ordering::Release);
        // The thread ends only with the process.
        let _ = self.jobs.send((job, Arc::clone(&self.stop)));
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

/// Takes the stream of frames away from fd 1 and points fd 1 at the log, so that a print of a library cannot break it.
fn take_stdout() -> io::Result<File> {
    // Marked close-on-exec: no command inherits it.
    let stream = io::stdout().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdout(io::stderr())?;
    Ok(File::from(stream))
}

/// Sends traces of operators to the log of the attempt, as plain lines.
fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SEGUE_LOG")
        // XGBoost names the shape of every matrix that it is given: no news for anybody.
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,xgboost_rs=warn"));
    // A second subscriber in one process is refused; the first one is as good.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
}
