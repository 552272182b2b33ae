//! One coordinator and one worker, processes of their own on loopback, with a state directory that is empty at first.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use segue_proto::{
    MAX_MESSAGE_BYTES,
    v1::{self, RunState, TaskState, admin_service_client::AdminServiceClient, run_service_client::RunServiceClient},
};
use segue_tests::{Cli, cluster::free_address, process::Process, rpc::Rpc, wait};
use tempfile::TempDir;
use tonic::{Response, Status, transport::Channel};

use crate::{
    fake_worker,
    measure::{self, Memory, unix_ms},
    query::{self, Answer, Query},
    workload::{self, Mode},
};

/// How long a process may take to come up, and to end when told to.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long one call may take; a submission of very many tasks is the longest of them.
const CALL: Duration = Duration::from_secs(120);

/// How often a run is looked at while it goes. A look counts its tasks inside the coordinator (some tenths of a
/// millisecond for 100,000), which this keeps far below one part in a hundred. The end is not read from the look: the
/// coordinator notes it itself.
const LOOK: Duration = Duration::from_millis(250);

/// How often something that comes up is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Cores of the worker that answers at once: attempts that may be under way.
const ANSWERING_CORES: &str = "256";

/// Tasks that are run before anything is measured: connections are open then, and runners warm.
const WARM_UP: u32 = 200;

/// Memory of both processes.
#[derive(Debug, Clone, Copy)]
pub struct Resident {
    pub coordinator: Memory,
    pub worker: Memory,
}

/// A run that was accepted.
#[derive(Debug, Clone)]
pub struct Submitted {
    pub run: String,
    /// Wall time before the call, in milliseconds since 1970.
    called_ms: f64,
    /// Seconds until the answer.
    pub accepted: f64,
}

/// What a look at a run shows.
#[derive(Debug, Clone)]
pub struct Seen {
    state: RunState,
    created_ms: u64,
    ended_ms: u64,
    /// Whether some task is under way or done.
    begun: bool,
}

impl Seen {
    /// Says whether the run had ended at a time in milliseconds since 1970.
    pub fn had_ended(&self, at_ms: f64) -> bool {
        self.ended_ms > 0 && self.ended_ms as f64 <= at_ms
    }
}

/// A cluster; its processes end with it.
#[derive(Debug)]
pub struct Cluster {
    grpc: SocketAddr,
    rpc: Rpc,
    coordinator: Process,
    worker: Option<Process>,
    // Last: processes end before their directory goes.
    dir: TempDir,
}

impl Cluster {
    /// Starts both processes, with the default lease and a state directory under `site`. `cores` is what the real worker
    /// offers; all of this machine unless told.
    ///
    /// # Errors
    /// What did not come up, with the last lines of the logs.
    pub fn start(site: &Path, mode: Mode, cores: Option<f64>) -> Result<Self, String> {
        let mut cluster = Self::start_alone(site)?;
        let mut command = cluster.worker_command(mode, cores)?;
        cluster.worker = Some(Process::start("worker", &mut command, &cluster.dir.path().join("worker.log")));
        cluster.until("the worker is connected", PATIENCE, STEP, |cluster| {
            let mut admin = AdminServiceClient::new(cluster.rpc.channel());
            let workers = cluster.ask("workers", admin.list_workers(v1::ListWorkersRequest {})).ok()?.workers;
            workers.into_iter().find(|worker| worker.state == "connected")
        })?;
        Ok(cluster)
    }

    /// Starts a coordinator without workers.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_alone(site: &Path) -> Result<Self, String> {
        let dir = tempfile::Builder::new().prefix("state-").tempdir_in(site);
        let dir = dir.map_err(|e| format!("cannot make a directory in {}: {e}", site.display()))?;
        let grpc = free_address();
        let coordinator = coordinator(grpc, dir.path());
        let mut cluster = Self { grpc, rpc: Rpc::new(grpc), coordinator, worker: None, dir };
        cluster.until("the coordinator answers", PATIENCE, STEP, |cluster| {
            let mut admin = AdminServiceClient::new(cluster.rpc.channel());
            cluster.ask("status", admin.get_status(v1::GetStatusRequest {})).ok()
        })?;
        Ok(cluster)
    }

    /// Kills the coordinator and starts it again at once, without waiting for anything. Gives when the new one was started.
    ///
    /// # Errors
    /// If it had ended before.
    pub fn restart_coordinator(&mut self) -> Result<Instant, String> {
        if let Some(status) = self.coordinator.exit() {
            return Err(self.fault(&format!("the coordinator ended before it was killed: {status}")));
        }
        let killed = self.coordinator.kill();
        let started = Instant::now();
        self.coordinator = coordinator(self.grpc, self.dir.path());
        let by_kill = std::os::unix::process::ExitStatusExt::signal(&killed) == Some(Signal::SIGKILL as i32);
        if by_kill { Ok(started) } else { Err(format!("the coordinator was not killed: {killed}")) }
    }

    /// Gives the address of the coordinator.
    pub const fn address(&self) -> SocketAddr {
        self.grpc
    }

    /// Fails if a process has ended although nobody asked it to.
    ///
    /// # Errors
    /// Which, with the last lines of the logs.
    pub fn check(&mut self) -> Result<(), String> {
        self.dead().map_or(Ok(()), |dead| Err(self.fault(&dead)))
    }

    fn worker_command(&self, mode: Mode, cores: Option<f64>) -> Result<Command, String> {
        let url = format!("http://{}", self.grpc);
        if mode == Mode::Schedule {
            let this = std::env::current_exe().map_err(|e| format!("this program cannot be found: {e}"))?;
            let mut command = Command::new(this);
            command.args([fake_worker::ARGUMENT, "--server", &url, "--cpu", ANSWERING_CORES, "--trace"]);
            command.arg(self.trace()).current_dir(self.dir.path());
            return Ok(command);
        }
        let cache = self.dir.path().join("cache").to_string_lossy().into_owned();
        let mut args =
            vec!["worker".to_owned(), "--name".to_owned(), "bench".to_owned(), "--cache-dir".to_owned(), cache];
        args.extend(["--gpus", "0", "--grace", "1"].map(str::to_owned));
        args.extend(cores.into_iter().flat_map(|cores| ["--cpu".to_owned(), cores.to_string()]));
        Ok(Cli::server(&url, self.dir.path()).command(args))
    }

    fn trace(&self) -> PathBuf {
        self.dir.path().join("assignments")
    }

    /// Runs some tasks that are not measured.
    ///
    /// # Errors
    /// As [`Cluster::wait_ended`].
    pub fn warm_up(&mut self, mode: Mode) -> Result<(), String> {
        let submitted = self.submit(&workload::explicit(mode, WARM_UP))?;
        self.wait_ended(&submitted, PATIENCE).map(|_| ())
    }

    /// Submits a pipeline text and waits until it is accepted.
    ///
    /// # Errors
    /// A refusal, or no answer.
    pub fn submit(&mut self, text: &str) -> Result<Submitted, String> {
        let path = self.dir.path().join("bench.toml").to_string_lossy().into_owned();
        let request = v1::SubmitRequest { text: text.to_owned(), path, no_cache: true, ..v1::SubmitRequest::default() };
        let mut runs = self.runs();
        let (called_ms, start) = (unix_ms(), Instant::now());
        let answer = self.ask("submit", runs.submit(request)).map_err(|reason| self.fault(&reason))?;
        let accepted = start.elapsed().as_secs_f64();
        if answer.run_id.is_empty() {
            let faults: Vec<&str> = answer.diagnostics.iter().map(|fault| fault.rendered.trim_end()).collect();
            return Err(format!("the pipeline of the bench is refused:\n{}", faults.join("\n")));
        }
        Ok(Submitted { run: answer.run_id, called_ms, accepted })
    }

    /// Looks at a run without its tasks. It must be the newest.
    ///
    /// # Errors
    /// No answer.
    pub fn look(&self, run: &str) -> Result<Option<Seen>, String> {
        let mut runs = self.runs();
        let request = v1::ListRunsRequest { limit: 1, ..v1::ListRunsRequest::default() };
        let newest = self.ask("list runs", runs.list_runs(request))?.runs.into_iter().next();
        Ok(newest.filter(|newest| newest.run_id == run).map(|newest| Seen {
            state: newest.state(),
            created_ms: newest.created_ms,
            ended_ms: newest.ended_ms,
            begun: newest.counts.iter().any(|c| !matches!(c.state(), TaskState::Waiting | TaskState::Ready)),
        }))
    }

    /// Counts the children of the only task of a run: those that are under way, and all that have not ended.
    ///
    /// # Errors
    /// No answer.
    pub fn children(&self, run: &str) -> Result<(u32, u32), String> {
        let mut runs = self.runs();
        let view = self.ask("get run", runs.get_run(v1::GetRunRequest { run_id: run.to_owned() }))?;
        let counts: Vec<_> = view.tasks.into_iter().flat_map(|task| task.children).collect();
        let of = |states: &[TaskState]| {
            counts.iter().filter(|count| states.contains(&count.state())).map(|count| count.count).sum()
        };
        use TaskState::{Assigned, Backoff, Ready, Running, Waiting};
        Ok((of(&[Running]), of(&[Waiting, Ready, Assigned, Running, Backoff])))
    }

    /// Waits until some task of a run is under way.
    ///
    /// # Errors
    /// As [`Cluster::wait_ended`].
    pub fn wait_begun(&mut self, submitted: &Submitted) -> Result<(), String> {
        self.until("the first task is under way", PATIENCE, STEP, |cluster| {
            cluster.look(&submitted.run).ok().flatten().filter(|seen| seen.begun)
        })?;
        Ok(())
    }

    /// Waits until a run has succeeded, and gives the seconds from the call that submitted it to its recorded end.
    ///
    /// # Errors
    /// A process that ended, another outcome, or none within `limit`; with the last lines of the logs.
    pub fn wait_ended(&mut self, submitted: &Submitted, limit: Duration) -> Result<f64, String> {
        let mut last = None;
        let ended = self.until("the run ends", limit, LOOK, |cluster| {
            // One that is not answered is asked again: a busy coordinator may refuse.
            last = cluster.look(&submitted.run).ok().flatten().or(last.take());
            last.clone().filter(|seen| seen.ended_ms > 0)
        });
        let ended = ended.map_err(|reason| format!("{reason}\nlast seen: {last:?}"))?;
        if ended.state != RunState::Succeeded {
            return Err(self.fault(&format!("the run ended as {}", ended.state.as_str_name())));
        }
        // Both clocks are of this machine; one that was set meanwhile must not make a run shorter than it says itself.
        let wall = ended.ended_ms as f64 - submitted.called_ms;
        let own = ended.ended_ms.saturating_sub(ended.created_ms) as f64;
        Ok(wall.max(own).max(1.0) / 1_000.0)
    }

    /// Gives when the tasks of a run started, in milliseconds, in that order; those that never did are not in it.
    ///
    /// # Errors
    /// No answer.
    pub fn started_ms(&self, run: &str) -> Result<Vec<f64>, String> {
        let mut runs = self.runs();
        let view = self.ask("get run", runs.get_run(v1::GetRunRequest { run_id: run.to_owned() }))?;
        let mut times: Vec<f64> =
            view.tasks.iter().filter(|task| task.started_ms > 0).map(|task| task.started_ms as f64).collect();
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Executes the command of a user.
    ///
    /// # Errors
    /// As [`query::timed`].
    pub fn query(&self, query: Query, run: &str) -> Result<Answer, String> {
        let cli = Cli::server(&format!("http://{}", self.grpc), self.dir.path());
        query::timed(cli.command(query.arguments(run)), CALL)
    }

    /// Reads the memory of both processes.
    pub fn memory(&self) -> Resident {
        let worker = self.worker.as_ref().map(|worker| measure::memory(worker.id()));
        Resident { coordinator: measure::memory(self.coordinator.id()), worker: worker.unwrap_or_default() }
    }

    /// Lets the peaks of memory start again.
    pub fn reset_peaks(&self) {
        for process in [&self.coordinator].into_iter().chain(&self.worker) {
            measure::reset_peak(process.id());
        }
    }

    /// Ends the worker as a service manager would, so that nothing of it is left behind.
    ///
    /// # Errors
    /// If it does not end, or not well.
    pub fn stop_worker(&mut self) -> Result<(), String> {
        let Some(worker) = &mut self.worker else { return Ok(()) };
        if worker.exit().is_none() {
            worker.signal(Signal::SIGTERM);
        }
        match wait::within(PATIENCE, || worker.exit()) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.fault(&format!("the worker ended badly: {status}"))),
            None => Err(self.fault("the worker does not end")),
        }
    }

    /// Gives when the worker that answers at once got each assignment of a run, in milliseconds. It must have been stopped.
    ///
    /// # Errors
    /// If it left no trace.
    pub fn assigned_ms(&self, run: &str) -> Result<Vec<f64>, String> {
        let text = fs::read_to_string(self.trace()).map_err(|e| format!("the worker left no trace: {e}"))?;
        let own = text.lines().filter_map(|line| line.split_once(' ')).filter(|(of, _)| *of == run);
        own.map(|(_, at)| at.parse::<f64>().map(|ns| ns / 1e6).map_err(|e| format!("the trace is broken: {e}")))
            .collect()
    }

    fn runs(&self) -> RunServiceClient<Channel> {
        RunServiceClient::new(self.rpc.channel())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Waits for an answer, but not for ever.
    fn ask<T>(&self, what: &str, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, String> {
        match self.rpc.wait(async { tokio::time::timeout(CALL, answer).await }) {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(format!("{what}: {:?}: {}", status.code(), status.message())),
            Err(_) => Err(format!("{what}: no answer within {} s", CALL.as_secs())),
        }
    }

    fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        step: Duration,
        mut look: impl FnMut(&Self) -> Option<T>,
    ) -> Result<T, String> {
        let start = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            if let Some(dead) = self.dead() {
                return Err(self.fault(&format!("waited for: {what}; but {dead}")));
            }
            if start.elapsed() > limit {
                return Err(self.fault(&format!("waited {} s in vain: {what}", limit.as_secs())));
            }
            thread::sleep(step);
        }
    }

    /// Says which process has ended although nobody asked it to.
    fn dead(&mut self) -> Option<String> {
        let said = |name: &str, process: &mut Process| Some(format!("the {name} ended: {}", process.exit()?));
        said("coordinator", &mut self.coordinator).or_else(|| said("worker", self.worker.as_mut()?))
    }

    /// Adds the last lines of both logs to what went wrong.
    fn fault(&self, what: &str) -> String {
        let tails: String = [&self.coordinator].into_iter().chain(&self.worker).map(Process::tail).collect();
        format!("{what}\n{tails}")
    }
}

/// Starts a coordinator on what is in `dir`, and waits for nothing.
fn coordinator(grpc: SocketAddr, dir: &Path) -> Process {
    let cli = Cli::state_dir(&dir.join("state"), dir);
    let mut command = cli.command(["coordinator", "--listen", &grpc.to_string(), "--http", "off"]);
    Process::start("coordinator", &mut command, &dir.join("coordinator.log"))
}
