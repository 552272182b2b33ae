//! A worker that answers every assignment at once, as a process of its own: what is left is the coordinator's part.
//!
//! It speaks the link as real workers do (hello, heartbeats, reports under the token of the assignment), executes nothing,
//! and notes when each assignment came.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    operator::OperatorSpec,
    v1::{self, command::Command, finished::Outcome, worker_event::Event, worker_service_client::WorkerServiceClient},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant as Moment, MissedTickBehavior, interval_at, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::say;

/// First argument of this process.
pub const ARGUMENT: &str = "answer-at-once";

/// Name of the worker.
const NAME: &str = "answers-at-once";

/// How long connecting and the first answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages that may wait for the link. There is at most one for each message of the coordinator, which sends no more
/// than it has leases for, so that this never fills.
const WAITING: usize = 1_024;

#[derive(Debug, Parser)]
#[command(name = "segue-bench answer-at-once")]
struct Args {
    #[arg(long)]
    server: String,
    /// Cores to offer: attempts that may be under way.
    #[arg(long)]
    cpu: u32,
    /// Where the times of the assignments are written at the end.
    #[arg(long)]
    trace: PathBuf,
}

/// Serves until SIGTERM or the end of the link, then writes the trace.
pub fn main() -> ExitCode {
    let args = Args::parse_from(std::env::args_os().skip(1));
    // One thread: it must take as little as it can of what the coordinator could use.
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the runtime: {e}"))
        .and_then(|runtime| runtime.block_on(serve(&args)))
        .and_then(|trace| trace.write(&args.trace).map_err(|e| format!("cannot write the trace: {e}")));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            say(&reason);
            ExitCode::FAILURE
        }
    }
}

/// When assignments came.
#[derive(Debug)]
struct Trace {
    start: Instant,
    /// Run, and nanoseconds since the start, in the order of coming.
    came: Vec<(usize, u128)>,
    runs: Vec<String>,
}

impl Trace {
    fn note(&mut self, run: &str, at: u128) {
        if self.runs.last().is_none_or(|last| last != run) {
            self.runs.push(run.to_owned());
        }
        self.came.push((self.runs.len() - 1, at));
    }

    /// Writes one line for each assignment: the run and the nanoseconds.
    fn write(&self, path: &std::path::Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for (run, at) in &self.came {
            writeln!(file, "{} {at}", self.runs[*run])?;
        }
        file.flush()
    }
}

async fn serve(args: &Args) -> Result<Trace, String> {
    let mut stop = signal(SignalKind::terminate()).map_err(|e| format!("cannot listen for signals: {e}"))?;
    let endpoint = Endpoint::from_shared(args.server.clone()).map_err(|e| format!("{}: {e}", args.server))?;
    let channel = endpoint.tcp_nodelay(true).connect_timeout(PATIENCE).connect().await;
    let channel = channel.map_err(|e| format!("no coordinator at {}: {e}", args.server))?;
    let mut client = WorkerServiceClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (up, outgoing) = mpsc::channel(WAITING);
    let gone = |_| "the link ended".to_owned();
    up.send(message(vec![Event::Hello(hello(args))])).await.map_err(gone)?;
    let mut down = match timeout(PATIENCE, client.connect(ReceiverStream::new(outgoing))).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(format!("the coordinator refuses: {status}")),
        Err(_) => return Err("the coordinator does not answer".to_owned()),
    };
    let mut trace = Trace { start: Instant::now(), came: Vec::new(), runs: Vec::new() };
    let mut beat = interval_at(Moment::now() + PATIENCE, PATIENCE);
    let mut sequence = 0;
    loop {
        tokio::select! {
            _ = stop.recv() => return Ok(trace),
            _ = beat.tick() => {
                sequence += 1;
                // Nothing is held: each attempt was answered in the moment in which it came.
                let heartbeat = v1::Heartbeat { sequence, tokens: Vec::new() };
                up.send(message(vec![Event::Heartbeat(heartbeat)])).await.map_err(gone)?;
            }
            came = down.message() => {
                let commands = match came {
                    Ok(Some(message)) => message.commands,
                    // The coordinator ends first where the bench is broken off. What was seen is still worth writing.
                    Ok(None) => return Ok(trace),
                    Err(status) => {
                        say(&format!("the link broke: {status}"));
                        return Ok(trace);
                    }
                };
                let now = trace.start.elapsed().as_nanos();
                let mut answers = Vec::new();
                for command in commands.into_iter().filter_map(|command| command.command) {
                    match command {
                        Command::Assign(assign) => {
                            trace.note(assign.token.as_ref().map_or("", |token| token.run_id.as_str()), now);
                            answers.push(Event::Finished(success(assign.token)));
                        }
                        Command::Welcome(welcome) => {
                            let period = Duration::from_millis(welcome.heartbeat_ms.max(1).into());
                            beat = interval_at(Moment::now() + period, period);
                            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                        }
                        Command::Goodbye(goodbye) => return Err(format!("sent away: {}", goodbye.reason)),
                        // Acknowledgements need nothing, and there is never anything to cancel or to give back.
                        _ => {}
                    }
                }
                if !answers.is_empty() {
                    up.send(message(answers)).await.map_err(gone)?;
                }
            }
        }
    }
}

/// Puts events into one message.
pub fn message(events: Vec<Event>) -> v1::WorkerMessage {
    v1::WorkerMessage { events: events.into_iter().map(|event| v1::WorkerEvent { event: Some(event) }).collect() }
}

fn hello(args: &Args) -> v1::Hello {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    v1::Hello {
        worker: NAME.to_owned(),
        incarnation: format!("{}-{:016x}", std::process::id(), since & u128::from(u64::MAX)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capacity: Some(v1::Resources {
            cpu_milli: args.cpu.saturating_mul(1_000),
            memory_bytes: 1 << 40,
            ..v1::Resources::default()
        }),
        operators: vec![noop().into()],
        pid: std::process::id(),
        ..v1::Hello::default()
    }
}

/// Gives the one operator, as the catalogue of the real worker has it.
pub fn noop() -> OperatorSpec {
    OperatorSpec::new("core.noop", "1", "does nothing").impure()
}

/// Reports an end that made nothing.
pub fn success(token: Option<v1::Token>) -> v1::Finished {
    v1::Finished {
        token,
        usage: Some(v1::Usage::default()),
        outcome: Some(Outcome::Success(v1::Success::default())),
        ..v1::Finished::default()
    }
}
