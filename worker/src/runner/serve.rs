//! The body of a runner process: reads requests, runs one job at a time, ends with its worker.

use std::{
    fmt,
    fs::File,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd as _,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::Duration,
};

use nix::sys::{prctl, signal::Signal};

use super::{
    command,
    frame::{self, Reply, Request},
    lease::{Job, Lease},
    operator::{self, Operators},
    stop::Stopper,
    usage::Meter,
};
use crate::ops::{self, Operator};

/// How long a supervised command and its children may take to die after the worker did.
const LAST_BREATH: Duration = Duration::from_secs(10);

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
    let replies = match take_stdout() {
        Ok(stdout) => Arc::new(Replies::to(stdout)),
        Err(e) => {
            eprintln!("the runner cannot set up its streams: {e}");
            return ExitCode::FAILURE;
        }
    };
    // Dies with the thread that started it, even where it is too busy to see the end of its stdin.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    start_log();
    let (operators, mut meter) = (Operators::new(operators), Meter::open());
    let (jobs, inbox) = mpsc::channel::<(Request, Arc<Stopper>)>();
    let started = Lease::watched().and_then(|lease| {
        let told = Arc::clone(&lease);
        std::thread::Builder::new().name("requests".into()).spawn(move || read_requests(jobs, &told))?;
        Ok(lease)
    });
    let lease = match started {
        Ok(lease) => lease,
        Err(e) => {
            eprintln!("the runner cannot start a thread: {e}");
            return ExitCode::FAILURE;
        }
    };
    for (request, stopper) in inbox {
        let ended = match request {
            Request::Operator(job) => {
                let (result, usage) = operator::run(job, &operators, &mut meter, &stopper, &replies);
                Reply::Ended { result, usage, haunted: false }
            }
            Request::Command(job) => command::run(&job, &stopper, &replies),
            Request::Stop { .. } | Request::Lease { .. } => continue,
        };
        lease.ends();
        // The worker takes the log as whole once it hears of the end.
        let _ = io::stdout().flush();
        replies.send(&ended);
    }
    ExitCode::SUCCESS
}

/// Reads requests until the worker is gone. Then an operator ends with the process, and a command is killed first.
fn read_requests(jobs: mpsc::Sender<(Request, Arc<Stopper>)>, lease: &Lease) {
    let mut stdin = io::stdin().lock();
    let mut current: Option<(bool, Arc<Stopper>)> = None;
    loop {
        match frame::read(&mut stdin) {
            Ok(Some(Request::Stop { grace_ms })) => {
                if let Some((_, stopper)) = &current {
                    stopper.stop(Duration::from_millis(grace_ms));
                }
            }
            Ok(Some(Request::Lease { left_ms })) => lease.renew(Duration::from_millis(left_ms)),
            Ok(Some(job)) => {
                let stopper = Arc::new(Stopper::default());
                let is_command = matches!(job, Request::Command(_));
                lease.begins(if is_command { Job::Command(Arc::clone(&stopper)) } else { Job::Operator });
                current = Some((is_command, Arc::clone(&stopper)));
                if jobs.send((job, stopper)).is_err() {
                    return;
                }
            }
            Ok(None) | Err(_) => break,
        }
    }
    if let Some((true, stopper)) = current {
        stopper.stop(Duration::ZERO);
        // The main thread kills the group, finds that no request can come, and ends the process before this one does.
        drop(jobs);
        std::thread::sleep(LAST_BREATH);
    }
    std::process::exit(0);
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
