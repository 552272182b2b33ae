//! One simulation, from a seed to a verdict.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use object_store::memory::InMemory;
use segue_coordinator::{
    blobs::BlobStore,
    store::{self, Batch, Key, Store as _, keys::Meta},
};
use segue_proto::{
    ids::RunId,
    v1::{
        self, RunState, fleet_service_client::FleetServiceClient, run_service_client::RunServiceClient,
        schedule_service_client::ScheduleServiceClient,
    },
};
use tokio::time::sleep;
use tonic::{Status, transport::Channel};

use crate::{
    auditor,
    chance::Chance,
    clockwork::{self, now_ms},
    disk::Disk,
    env::Environment,
    host::Host,
    ledger::Ledger,
    load::{
        self, Client,
        shape::{POOLS, Shape},
    },
    mutants,
    net::Net,
    say,
    trace::Trace,
};

/// How long nothing may happen to runs once nothing stands in their way.
const STANDSTILL_MS: u64 = 60_000;
/// How long they may take to end: many may wait for each other, one after the other.
const LONGEST_MS: u64 = 900_000;

/// What came of a simulation.
#[derive(Debug)]
pub struct Verdict {
    pub violations: Vec<String>,
    pub digest: u64,
    pub steps: u64,
    pub simulated_ms: u64,
    /// Faults and calls by kind, and what else shows that something happened.
    pub counts: Vec<(String, u64)>,
}

/// Plays a seed. `state_dir` is empty; logs are kept there.
pub fn play(seed: u64, aloud: bool, defect: Option<&str>, state_dir: &Path) -> Verdict {
    let trace = Trace::new(aloud);
    clockwork::start(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let disk = Disk::new(seed, trace.clone());
    if let Some(defect) = defect {
        mutants::switch_on(defect, &disk);
    }
    let ledger = Ledger::new(trace.clone(), disk.clone());
    let blobs = Arc::new(InMemory::new());
    let world =
        World { seed, trace: trace.clone(), disk: disk.clone(), ledger: ledger.clone(), blobs: Arc::clone(&blobs) };
    let starts = runtime.block_on(world.play(state_dir));
    let simulated_ms = now_ms();
    // A second thread would be a second clock, and an order that nobody draws.
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        ledger.violation("determinism", format_args!("the simulation has {threads} threads"));
    }
    // Tasks are dropped in time, those of the dead as well.
    drop(runtime);
    clockwork::stop();
    verify(&disk, &blobs, &ledger);
    let book = ledger.book();
    let faults = book.faults.iter().map(|(kind, count)| (format!("fault {kind}"), *count));
    let calls = book.calls.iter().map(|(kind, count)| (format!("call {kind}"), *count));
    let cached = [
        ("runs".to_owned(), book.runs.len() as u64),
        ("processes".to_owned(), book.processes.len() as u64),
        ("starts".to_owned(), starts),
        ("batches lost".to_owned(), disk.lost()),
    ];
    Verdict {
        violations: book.violations.clone(),
        digest: trace.digest(),
        steps: trace.steps(),
        simulated_ms,
        counts: faults.chain(calls).chain(cached).collect(),
    }
}

struct World {
    seed: u64,
    trace: Trace,
    disk: Disk,
    ledger: Ledger,
    blobs: Arc<InMemory>,
}

impl World {
    async fn play(self, state_dir: &Path) -> u64 {
        let mut chance = Chance::of(self.seed, "world");
        let net = Net::new(self.seed, self.trace.clone());
        format_disk(&self.disk);
        let host = Host::new(self.seed, &net, &self.disk, &self.ledger, &self.blobs, state_dir.to_owned());
        let clients: Vec<String> = (0..chance.between(1, 3)).map(|at| format!("client-{at}")).collect();
        let mut environment = Environment::new(
            self.seed,
            net.clone(),
            host.clone(),
            self.ledger.clone(),
            Arc::clone(&self.blobs),
            &clients,
        );
        environment.tend();

        // The auditor has a line of its own, which breaks only with the coordinator.
        let line = load::channel_of(&net, "auditor");
        let feed = Arc::new(Mutex::new(auditor::Feed::new()));
        let follower = tokio::spawn(auditor::follow(line.clone(), Arc::clone(&feed), self.ledger.clone()));
        self.set_pools(&line).await;

        let until_ms = now_ms() + chance.between(4_000, 14_000);
        let shapes: Vec<Arc<Shape>> = {
            let mut draw = Chance::of(self.seed, "shapes");
            (0..draw.between(2, 6)).map(|number| Arc::new(Shape::draw(&mut draw, number as usize))).collect()
        };
        self.schedule(&line, &shapes).await;
        let mut people = Vec::new();
        for client in &clients {
            let client = Client {
                host: client.clone(),
                net: net.clone(),
                ledger: self.ledger.clone(),
                chance: Chance::of(self.seed, client),
                shapes: shapes.clone(),
                workers: environment.workers(),
                until_ms,
                give_up_ms: until_ms + 20_000,
            };
            people.push(tokio::spawn(client.run()));
        }
        environment.trouble(until_ms).await;
        environment.calm();
        // A crash in recovery may still be on its way.
        sleep(Duration::from_millis(50)).await;
        environment.tend();
        let quiet_since = now_ms();
        for person in people {
            while !person.is_finished() {
                environment.tend();
                sleep(Duration::from_millis(20)).await;
            }
            if person.await.is_err() {
                self.ledger.violation("harness", format_args!("a client broke off"));
            }
        }
        self.until_quiet(&line, &mut environment, quiet_since).await;
        if !self.ledger.violated()
            && let Err(status) = self.audit(&line, &host, &feed, &mut environment).await
        {
            self.ledger.violation("liveness", format_args!("the coordinator does not answer at the end: {status}"));
        }
        follower.abort();
        host.starts()
    }

    async fn set_pools(&self, line: &Channel) {
        let mut fleet = FleetServiceClient::new(line.clone());
        for (name, slots) in POOLS {
            let request = v1::SetPoolRequest { name: name.to_owned(), slots, description: None };
            while let Err(status) = fleet.set_pool(request.clone()).await {
                say!(self.trace, "world", "no pool yet: {status}");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// Applies the schedules that pipelines have.
    async fn schedule(&self, line: &Channel, shapes: &[Arc<Shape>]) {
        let mut schedules = ScheduleServiceClient::new(line.clone());
        for shape in shapes.iter().filter(|shape| shape.scheduled) {
            self.ledger.submit_asked("schedule", shape);
            let request = v1::ApplyScheduleRequest {
                text: shape.text.clone(),
                path: format!("/pipelines/{}.toml", shape.name),
                paused: false,
            };
            match schedules.apply(request).await {
                Ok(applied) if applied.get_ref().schedule.is_some() => self.ledger.called("schedule"),
                Ok(refused) => panic!("a drawn schedule is refused: {:?}", refused.into_inner().diagnostics),
                Err(status) => say!(self.trace, "world", "no schedule: {status}"),
            }
        }
    }

    /// Waits until every run has ended. One that cannot has to say why, and is cancelled then.
    async fn until_quiet(&self, line: &Channel, environment: &mut Environment, since: u64) {
        let mut runs = RunServiceClient::new(line.clone());
        let mut fleet = FleetServiceClient::new(line.clone());
        let mut schedules = ScheduleServiceClient::new(line.clone());
        let mut asked = 0;
        let mut last = (0, since);
        loop {
            environment.tend();
            let end = auditor::oracle::feed_end(&self.disk);
            if end != last.0 {
                last = (end, now_ms());
            }
            let too_long = now_ms() > last.1 + STANDSTILL_MS || now_ms() > since + LONGEST_MS;
            for name in environment.workers() {
                // People may have left a worker cordoned.
                if asked % 20 == 0 {
                    let _ = fleet.cordon(v1::CordonRequest { name, on: false }).await;
                }
            }
            asked += 1;
            if let Ok(left) = schedules.list(v1::ListSchedulesRequest {}).await {
                for schedule in left.into_inner().schedules {
                    let _ = schedules.delete(v1::DeleteScheduleRequest { name: schedule.name }).await;
                }
            }
            let listed = runs.list_runs(v1::ListRunsRequest { limit: 1_000, ..Default::default() }).await;
            let open: Vec<v1::RunView> = match listed {
                Ok(listed) => listed.into_inner().runs.into_iter().filter(|run| !is_terminal(run.state())).collect(),
                Err(status) if too_long => {
                    return self
                        .ledger
                        .violation("liveness", format_args!("the coordinator does not answer: {status}"));
                }
                Err(_) => {
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            if open.is_empty() || self.ledger.violated() {
                return;
            }
            for run in &open {
                self.unstick(&mut runs, run, since).await;
            }
            if too_long {
                let names: Vec<String> =
                    open.iter().map(|run| format!("{} ({:?} {})", run.run_id, run.state(), run.reason)).collect();
                for run in &open {
                    let request = v1::ExplainRequest { run_id: run.run_id.clone(), task: String::new() };
                    if let Ok(explained) = runs.explain(request).await {
                        say!(self.trace, "world", "{}: {:?}", run.run_id, explained.into_inner().explanations);
                    }
                }
                return self.ledger.violation("liveness", format_args!("these do not end: {}", names.join(", ")));
            }
            sleep(Duration::from_millis(250)).await;
        }
    }

    async fn unstick(&self, runs: &mut RunServiceClient<Channel>, run: &v1::RunView, since: u64) {
        let shape = self.ledger.book().asked.values().find(|shape| shape.name == run.pipeline).cloned();
        if !shape.is_some_and(|shape| shape.stuck) || now_ms() < since + 8_000 {
            return;
        }
        let request = v1::ExplainRequest { run_id: run.run_id.clone(), task: String::new() };
        let Ok(explained) = runs.explain(request).await else { return };
        let explained = explained.into_inner();
        // Every task that is not running says why.
        let mute = explained.explanations.iter().find(|one| one.code.is_empty() && one.text.is_empty());
        if let Some(mute) = mute {
            self.ledger.violation("liveness", format_args!("{} {} waits and does not say why", run.run_id, mute.task));
        }
        let _ = runs.cancel_run(v1::CancelRunRequest { run_id: run.run_id.clone(), task: String::new() }).await;
    }

    async fn audit(
        &self,
        line: &Channel,
        host: &Host,
        feed: &Arc<Mutex<auditor::Feed>>,
        environment: &mut Environment,
    ) -> Result<(), Status> {
        // What has ended is told, and acknowledged reports are forgotten.
        sleep(Duration::from_secs(6)).await;
        environment.tend();
        let core = host.core().await.unwrap_or_default();
        let views = auditor::views(line).await?;
        {
            let told = feed.lock().expect("one thread").next;
            if told != auditor::oracle::feed_end(&self.disk) {
                self.ledger.violation("feed", format_args!("the follower is at {told}, the disk elsewhere"));
            }
        }
        let told = feed.lock().expect("one thread").clone();
        auditor::at_the_end(line, &told, &views, &core, &self.blobs, &self.disk, &self.ledger).await?;
        host.crash(true);
        environment.tend();
        let again = until_answered(line).await?;
        auditor::same_after_restart(&views, &again, &self.ledger);
        Ok(())
    }
}

async fn until_answered(line: &Channel) -> Result<std::collections::BTreeMap<RunId, v1::RunView>, Status> {
    for _ in 0..100 {
        if let Ok(views) = auditor::views(line).await {
            return Ok(views);
        }
        sleep(Duration::from_millis(50)).await;
    }
    auditor::views(line).await
}

const fn is_terminal(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Skipped)
}

/// Writes what a store has from the day on which it is made.
fn format_disk(disk: &Disk) {
    let mut batch = Batch::new();
    batch.put_raw(Key::Meta(Meta::Schema).encode(), b"segue-store 1".to_vec());
    batch.put_raw(Key::Meta(Meta::StoreId).encode(), b"simulated".to_vec());
    let mount = disk.mount();
    let done = mount.apply(&batch).and_then(|()| mount.flush());
    assert!(done.is_ok(), "an empty disk takes everything");
}

/// Lets the product's own check read every record, outside of simulated time.
fn verify(disk: &Disk, blobs: &Arc<InMemory>, ledger: &Ledger) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let blobs = BlobStore::over(Arc::clone(blobs) as Arc<dyn object_store::ObjectStore>, "memory:///sim");
    match runtime.block_on(store::verify(disk.durable(), &blobs)) {
        Ok(report) => {
            for problem in report.problems {
                ledger.violation("store verify", format_args!("{problem}"));
            }
        }
        Err(e) => ledger.violation("store verify", format_args!("{e}")),
    }
}
