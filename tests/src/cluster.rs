//! A cluster of real processes: one coordinator, any number of workers, each reaching it over its own loopback address.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use segue_proto::v1::{self, RunState, TaskState};
use tempfile::TempDir;

use crate::{Cli, process::Process, relay::Relay, rpc::Rpc, wait::until};

/// What a worker of a test offers.
#[derive(Debug, Clone)]
pub struct WorkerPlan {
    name: String,
    cpu: f64,
    gpus: u32,
    labels: Vec<String>,
    grace: f64,
    env: Vec<(String, String)>,
}

impl WorkerPlan {
    /// One core, no GPU, a grace of 20 seconds.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), cpu: 1.0, gpus: 0, labels: Vec::new(), grace: 20.0, env: Vec::new() }
    }

    /// Offers this many cores.
    #[must_use]
    pub const fn cpu(mut self, cores: f64) -> Self {
        self.cpu = cores;
        self
    }

    /// Offers this many GPUs, whether the machine has them or not.
    #[must_use]
    pub const fn gpus(mut self, gpus: u32) -> Self {
        self.gpus = gpus;
        self
    }

    /// Has a label.
    #[must_use]
    pub fn label(mut self, label: &str) -> Self {
        self.labels.push(label.to_owned());
        self
    }

    /// Lets running work finish for this many seconds when it is told to stop.
    #[must_use]
    pub const fn grace(mut self, seconds: f64) -> Self {
        self.grace = seconds;
        self
    }

    /// Has a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A cluster that ends with its test.
#[derive(Debug)]
pub struct TestCluster {
    lease: Duration,
    coordinator_args: Vec<String>,
    coordinator_env: Vec<(String, String)>,
    grpc: SocketAddr,
    http: SocketAddr,
    rpc: Rpc,
    coordinator: Option<Process>,
    workers: BTreeMap<String, Process>,
    relays: BTreeMap<String, Relay>,
    // Last: processes end before their directory goes.
    dir: TempDir,
}

impl TestCluster {
    /// Starts a coordinator whose workers may be silent for `lease`.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start(lease: Duration) -> Self {
        Self::start_with(lease, &[], &[])
    }

    /// Starts a coordinator with further arguments and variables of its environment.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start_with(lease: Duration, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let (grpc, http) = (free_address(), free_address());
        let mut cluster = Self {
            lease,
            coordinator_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            coordinator_env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            grpc,
            http,
            rpc: Rpc::new(grpc),
            coordinator: None,
            workers: BTreeMap::new(),
            relays: BTreeMap::new(),
            dir,
        };
        cluster.start_coordinator();
        cluster
    }

    /// Starts the coordinator on the addresses and the state directory that it had before.
    ///
    /// # Panics
    /// If one runs already, or it does not come up.
    #[track_caller]
    pub fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "one coordinator at a time");
        let mut cli = Cli::state_dir(&self.state_dir(), self.dir());
        for (name, value) in &self.coordinator_env {
            cli = cli.env(name, value);
        }
        let (grpc, http, lease) = (self.grpc.to_string(), self.http.to_string(), self.lease.as_secs_f64().to_string());
        let mut args = vec!["coordinator", "-v", "--listen", &grpc, "--http", &http, "--lease", &lease];
        args.extend(self.coordinator_args.iter().map(String::as_str));
        let log = self.dir().join("coordinator.log");
        let mut process = Process::start("coordinator", &mut cli.command(args), &log);
        until("the coordinator answers", || {
            assert!(process.exit().is_none(), "the coordinator ended\n{}", process.tail());
            self.rpc.status().ok()
        });
        self.coordinator = Some(process);
    }

    /// Gives the process of the coordinator.
    ///
    /// # Panics
    /// If none runs.
    #[must_use]
    #[track_caller]
    pub fn coordinator(&self) -> &Process {
        self.coordinator.as_ref().expect("a coordinator runs")
    }

    /// Kills the coordinator with SIGKILL.
    ///
    /// # Panics
    /// If none runs.
    #[track_caller]
    pub fn kill_coordinator(&mut self) {
        let status = self.coordinator.take().expect("a coordinator runs").kill();
        assert_eq!(signal_of(status), Some(Signal::SIGKILL as i32), "the kill must have ended it");
    }

    /// Stops the coordinator with SIGTERM and gives its exit.
    ///
    /// # Panics
    /// If none runs, or it does not end.
    #[track_caller]
    pub fn stop_coordinator(&mut self) -> ExitStatus {
        let mut process = self.coordinator.take().expect("a coordinator runs");
        process.signal(Signal::SIGTERM);
        process.wait()
    }

    /// Gives the log of all coordinators so far.
    #[must_use]
    pub fn coordinator_log(&self) -> String {
        self.coordinator.as_ref().map(Process::log).unwrap_or_default()
    }

    /// Starts a worker and waits until it is connected.
    ///
    /// # Panics
    /// If it does not connect.
    #[track_caller]
    pub fn add_worker(&mut self, plan: &WorkerPlan) {
        let ip = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(self.relays.len() % 250).unwrap_or(0));
        let grpc = self.grpc;
        let relay = self.relays.entry(plan.name.clone()).or_insert_with(|| Relay::start(ip, grpc));
        let mut cli = Cli::server(&format!("http://{}", relay.address()), self.dir.path());
        for (name, value) in &plan.env {
            cli = cli.env(name, value);
        }
        let cache = self.dir.path().join(format!("cache-{}", plan.name)).to_string_lossy().into_owned();
        let (cpu, gpus, grace) = (plan.cpu.to_string(), plan.gpus.to_string(), plan.grace.to_string());
        let mut args = vec!["worker", "-v", "--name", &plan.name, "--cache-dir", &cache];
        args.extend(["--cpu", &cpu, "--gpus", &gpus, "--grace", &grace]);
        for label in &plan.labels {
            args.extend(["--label", label]);
        }
        let log = self.dir.path().join(format!("worker-{}.log", plan.name));
        let process = Process::start(&plan.name, &mut cli.command(args), &log);
        self.workers.insert(plan.name.clone(), process);
        self.wait_worker(&plan.name, "connected");
    }

    /// Waits until a worker is `connected`, `draining` or `disconnected`.
    ///
    /// # Panics
    /// If that does not happen.
    #[track_caller]
    pub fn wait_worker(&self, name: &str, state: &str) {
        until(&format!("worker `{name}` is {state}"), || {
            let workers = self.rpc.workers().ok()?;
            workers.into_iter().find(|worker| worker.name == name && worker.state == state)
        });
    }

    /// Gives the process of a worker.
    ///
    /// # Panics
    /// If there is none of that name.
    #[track_caller]
    pub fn worker(&mut self, name: &str) -> &mut Process {
        self.workers.get_mut(name).unwrap_or_else(|| panic!("no worker `{name}`"))
    }

    /// Kills a worker with SIGKILL.
    ///
    /// # Panics
    /// If it was gone already.
    #[track_caller]
    pub fn kill_worker(&mut self, name: &str) {
        let status = self.worker(name).kill();
        assert_eq!(signal_of(status), Some(Signal::SIGKILL as i32), "the kill must have ended it");
    }

    /// Gives the relay between a worker and the coordinator.
    ///
    /// # Panics
    /// If there is no such worker.
    #[must_use]
    #[track_caller]
    pub fn relay(&self, worker: &str) -> &Relay {
        self.relays.get(worker).unwrap_or_else(|| panic!("no worker `{worker}`"))
    }

    /// Gives the command line, as a user of this cluster has it.
    #[must_use]
    pub fn cli(&self) -> Cli {
        Cli::server(&format!("http://{}", self.grpc), self.dir())
    }

    /// Gives the gRPC client.
    #[must_use]
    pub const fn rpc(&self) -> &Rpc {
        &self.rpc
    }

    /// Gives the address for gRPC.
    #[must_use]
    pub const fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Gives the address for health and metrics.
    #[must_use]
    pub const fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Gives a directory for files of the test.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the state directory of the coordinator.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// Writes a pipeline file and gives its path.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn pipeline(&self, name: &str, text: &str) -> PathBuf {
        let file = self.dir().join(format!("{name}.toml"));
        std::fs::write(&file, text).expect("the temporary directory can be written");
        file
    }

    /// Submits a pipeline file with further arguments and gives the run id.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    #[track_caller]
    pub fn submit(&self, file: &Path, args: &[&str]) -> String {
        let file = file.to_string_lossy().into_owned();
        let answer = self.cli().json(["submit", &file].iter().chain(args));
        crate::values::text(&answer, "run").to_owned()
    }

    /// Gives a run as it is now.
    ///
    /// # Panics
    /// If nobody answers.
    #[must_use]
    #[track_caller]
    pub fn run(&self, run: &str) -> v1::RunView {
        self.rpc.run(run).unwrap_or_else(|e| panic!("{run}: {e}"))
    }

    /// Waits until something can be said of a run.
    ///
    /// # Panics
    /// If it cannot.
    #[track_caller]
    pub fn wait_run<T>(&self, run: &str, what: &str, look: impl Fn(&v1::RunView) -> Option<T>) -> T {
        let mut last = String::new();
        let found = crate::wait::within(crate::wait::PATIENCE, || match self.rpc.run(run) {
            Ok(view) => {
                last = shown(&view);
                look(&view)
            }
            Err(e) => {
                last = e.to_string();
                None
            }
        });
        found.unwrap_or_else(|| panic!("waited in vain: {what}; the run was last seen as {last}"))
    }

    /// Waits until a task is in a state, and gives the task.
    ///
    /// # Panics
    /// If that does not happen.
    #[track_caller]
    pub fn wait_task(&self, run: &str, name: &str, state: TaskState) -> v1::TaskView {
        self.wait_run(run, &format!("task `{name}` is {}", state.as_str_name()), |view| {
            Some(task(view, name)).filter(|task| task.state() == state).cloned()
        })
    }

    /// Waits until a run has ended.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn wait_ended(&self, run: &str) -> v1::RunView {
        self.wait_run(run, "the run ends", |view| {
            let open = [RunState::Running, RunState::Cancelling].contains(&view.state());
            (!open).then(|| view.clone())
        })
    }

    /// Waits until a run has ended, and checks that it succeeded.
    ///
    /// # Panics
    /// If it did not.
    #[track_caller]
    pub fn wait_succeeded(&self, run: &str) -> v1::RunView {
        let view = self.wait_ended(run);
        assert_eq!(view.state(), RunState::Succeeded, "{}", shown(&view));
        view
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for process in self.coordinator.iter().chain(self.workers.values()) {
                eprintln!("{}", process.tail());
            }
        }
    }
}

/// Gives a task of a run.
///
/// # Panics
/// If there is none of that name.
#[must_use]
#[track_caller]
pub fn task<'a>(run: &'a v1::RunView, name: &str) -> &'a v1::TaskView {
    run.tasks.iter().find(|task| task.name == name).unwrap_or_else(|| panic!("no task `{name}`"))
}

/// Gives the worker of a task's last attempt.
///
/// # Panics
/// If it has none.
#[must_use]
#[track_caller]
pub fn worker_of<'a>(run: &'a v1::RunView, name: &str) -> &'a str {
    &task(run, name).attempts.last().unwrap_or_else(|| panic!("`{name}` was never tried")).worker
}

/// Gives the states of a task's attempts, oldest first.
#[must_use]
#[track_caller]
pub fn attempts(run: &v1::RunView, name: &str) -> Vec<v1::AttemptState> {
    task(run, name).attempts.iter().map(v1::AttemptView::state).collect()
}

/// Says whether a process runs. One that has ended and that nobody has taken yet does not.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    // The state follows the name, which is in brackets and may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

/// Shows a run in one line for each task.
fn shown(run: &v1::RunView) -> String {
    let tasks = run.tasks.iter().map(|task| {
        let failure = task.failure.as_ref().map(|failure| failure.message.as_str()).unwrap_or_default();
        let attempts: Vec<_> = task.attempts.iter().map(|a| format!("{} {:?}", a.worker, a.state())).collect();
        format!("\n  {} {:?} [{}] {} {failure}", task.name, task.state(), attempts.join(", "), task.reason)
    });
    format!("{:?}{}", run.state(), tasks.collect::<String>())
}

/// Finds a loopback address whose port nobody uses, and which nobody gets by chance: a coordinator must find it free
/// again when it comes back. Ports from 32768 on are what the system gives away.
///
/// # Panics
/// If every port is taken.
#[must_use]
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (start + step) % COUNT));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port from {FIRST} on");
}
