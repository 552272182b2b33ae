//! A cluster of real processes: one coordinator, any number of workers, each reaching it over its own loopback address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::{
        linux::net::SocketAddrExt as _,
        unix::{self, net::UnixListener},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use nix::{sys::signal::Signal, unistd::Pid};
use segue_proto::v1::{self, RunState, TaskState};
use tempfile::TempDir;

use crate::{Cli, canary, hosts::Network, process::Process, program, relay::Relay, rpc::Rpc, wait::until};

/// Host of the coordinator in a [`Network`]. Those of workers have the workers' names.
pub const COORDINATOR: &str = "coordinator";

/// Port of the coordinator on a host of its own, where nobody else has any.
const PORT: u16 = 7400;

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

/// What a cluster may have otherwise.
#[derive(Debug, Default)]
pub struct Setting {
    /// How long workers may be silent; what the program says where there is none.
    pub lease: Option<Duration>,
    /// Hosts for the processes, one for each; all are on loopback where there is none.
    pub network: Option<Network>,
}

/// A cluster that ends with its test.
#[derive(Debug)]
pub struct TestCluster {
    setting: Setting,
    coordinator_args: Vec<String>,
    coordinator_env: Vec<(String, String)>,
    grpc: SocketAddr,
    http: SocketAddr,
    rpc: Rpc,
    coordinator: Option<Process>,
    workers: BTreeMap<String, Process>,
    relays: BTreeMap<String, Relay>,
    unsearched: Vec<PathBuf>,
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
        Self::start_in(Setting { lease: Some(lease), network: None }, args, env)
    }

    /// Starts a coordinator in a setting of the test's own, with further arguments and variables of its environment.
    ///
    /// # Panics
    /// If it does not come up.
    #[must_use]
    #[track_caller]
    pub fn start_in(mut setting: Setting, args: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        let host = setting.network.as_mut().map(|network| network.add(COORDINATOR));
        let grpc = host.map_or_else(free_address, |address| SocketAddr::from((address, PORT)));
        let http = free_address();
        canary::watch_processes();
        let mut cluster = Self {
            setting,
            coordinator_args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            coordinator_env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            grpc,
            http,
            rpc: Rpc::new(grpc),
            coordinator: None,
            workers: BTreeMap::new(),
            relays: BTreeMap::new(),
            unsearched: Vec::new(),
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
        let (grpc, http) = (self.grpc.to_string(), self.http.to_string());
        let lease = self.setting.lease.map(|lease| lease.as_secs_f64().to_string());
        let mut args = vec!["coordinator", "-v", "--listen", &grpc, "--http", &http];
        args.extend(lease.iter().flat_map(|lease| ["--lease", lease]));
        // Nobody but its hosts reaches the network.
        args.extend(self.setting.network.iter().map(|_| "--insecure"));
        args.extend(self.coordinator_args.iter().map(String::as_str));
        let mut command = self.on_host(COORDINATOR, cli.command(args));
        let log = self.dir().join("coordinator.log");
        let mut process = Process::start("coordinator", &mut command, &log);
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

    /// Stops the coordinator with SIGTERM and gives its exit, which a signal must not have made: it listens for this one.
    ///
    /// # Panics
    /// If none runs, or it does not end.
    #[track_caller]
    pub fn stop_coordinator(&mut self) -> ExitStatus {
        let mut process = self.coordinator.take().expect("a coordinator runs");
        process.signal(Signal::SIGTERM);
        let exit = process.wait();
        assert!(exit.code().is_some(), "the coordinator ended with {exit}\n{}", process.tail());
        exit
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
        let grpc = self.grpc;
        let server = if let Some(network) = &mut self.setting.network {
            network.add(&plan.name);
            grpc
        } else {
            let ip = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(self.relays.len() % 250).unwrap_or(0));
            self.relays.entry(plan.name.clone()).or_insert_with(|| Relay::start(ip, grpc)).address()
        };
        let mut cli = Cli::server(&format!("http://{server}"), self.dir.path());
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
        let process = Process::start(&plan.name, &mut self.on_host(&plan.name, cli.command(args)), &log);
        self.workers.insert(plan.name.clone(), process);
        self.wait_worker(&plan.name, "connected");
    }

    fn on_host(&self, host: &str, command: Command) -> Command {
        if let Some(network) = &self.setting.network { network.on(host, &command) } else { command }
    }

    /// Gives the network of the hosts.
    ///
    /// # Panics
    /// If the processes are on loopback.
    #[must_use]
    #[track_caller]
    pub const fn network(&self) -> &Network {
        self.setting.network.as_ref().expect("this cluster has hosts")
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

    /// Lets a file of the test's directory hold a secret.
    pub fn may_hold_secrets(&mut self, path: PathBuf) {
        self.unsearched.push(path);
    }

    /// Searches what every process of the cluster said and left for the secrets in its environment, and ends them.
    ///
    /// # Panics
    /// If one is found.
    fn search(&mut self) {
        if let Some(metrics) = self.coordinator.is_some().then(|| canary::metrics(self.http)).flatten() {
            canary::check("the metrics", &metrics);
            // Looks at its own output.
            self.cli().run(["events", "-o", "json"]);
        }
        self.workers.clear();
        self.coordinator = None;
        let (found, _) =
            canary::Searcher::canaries().search(self.dir(), &|path| self.unsearched.iter().any(|known| known == path));
        assert!(found.is_empty(), "secrets are in what the cluster left: {found:?}");
        canary::check_processes();
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
        let asked = || match self.rpc.run(run) {
            // One that a fault of its store has stopped is on its way back.
            Err(e) if program::store_faults().is_some() && is_away(&e) => None,
            answer => Some(answer),
        };
        until("the coordinator answers", asked).unwrap_or_else(|e| panic!("{run}: {e}"))
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
        } else {
            self.search();
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

/// Gives the states of a task's attempts, oldest first. Over a store that fails, only of those that began: a coordinator
/// that stops in the middle of an assignment gives it away once more.
#[must_use]
#[track_caller]
pub fn attempts(run: &v1::RunView, name: &str) -> Vec<v1::AttemptState> {
    let all = task(run, name).attempts.iter();
    all.filter(|attempt| attempt.started_ms > 0 || program::store_faults().is_none())
        .map(v1::AttemptView::state)
        .collect()
}

/// Gives notes of the form `TASK ATTEMPT` in their order. Over a store that fails, attempts are counted among those that
/// began, as [`attempts`] does.
#[must_use]
pub fn ranked(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    if program::store_faults().is_none() {
        return lines;
    }
    let parts =
        |line: &str| line.rsplit_once(' ').map(|(task, attempt)| (task.to_owned(), attempt.parse().unwrap_or(0_u32)));
    let mut seen: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (task, attempt) in lines.iter().filter_map(|line| parts(line)) {
        seen.entry(task).or_default().insert(attempt);
    }
    let rank = |line: &String| match parts(line) {
        Some((task, attempt)) => format!("{task} {}", seen[&task].range(..=attempt).count()),
        None => line.clone(),
    };
    lines.iter().map(rank).collect()
}

/// Says whether a process runs. One that has ended and that nobody has taken yet does not.
#[must_use]
pub fn is_alive(pid: Pid) -> bool {
    // The state follows the name, which is in brackets and may hold anything.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Says whether nobody could answer for the moment.
fn is_away(status: &tonic::Status) -> bool {
    matches!(
        status.code(),
        tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled | tonic::Code::Internal
    )
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
/// again when it comes back. Ports from 32768 on are what the system gives away. Other tests look for ports at the same
/// time: each is reserved by a name that ends with this process.
///
/// # Panics
/// If every port is taken.
#[must_use]
pub fn free_address() -> SocketAddr {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + (start + step) % COUNT));
        let name = unix::net::SocketAddr::from_abstract_name(format!("segue-test-{}", address.port()));
        let Ok(reserved) = name.and_then(|name| UnixListener::bind_addr(&name)) else { continue };
        if TcpListener::bind(address).is_ok() {
            RESERVED.lock().unwrap_or_else(PoisonError::into_inner).push(reserved);
            return address;
        }
    }
    panic!("no free port from {FIRST} on");
}
