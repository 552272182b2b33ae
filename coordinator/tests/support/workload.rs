//! A script that touches every feature. Each step may be asked again when nobody knows what became of it, so that the
//! same script plays on one coordinator, or on many after each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, atomic::Ordering},
};

use segue_coordinator::store::{Key, Store};
use segue_proto::v1::{self, BackfillState, RunState};
use tonic::{Code, Status};

use super::{
    audit::{Ack, Evidence, Told},
    client::{Client, until},
    worker::Shop,
};

const RETRY: &str = "[defaults]\nretry = { attempts = 50, initial = \"1ms\", max = \"1ms\", jitter = 0.0, on = [\"infra\", \"lost\"] }\n";

/// Retries, a fan-out over an output with a pool, a join, a cached operator, conditions, a model, a finally, a hook.
fn everything(version: &str) -> String {
    format!(
        r#"
[pipeline]
name = "main"
description = "{version}"
[params]
mode = {{ type = "string", default = "fast" }}
{RETRY}
[tasks.list]
command = ["prints", '["eu", "us", "asia"]']
outputs = {{ regions = "json" }}
[tasks.flaky]
command = ["flaky", "1"]
[tasks.score]
foreach      = {{ output = "list.regions" }}
key          = "${{item}}"
max_parallel = 2
tolerate     = 1
command      = ["fails-on", "us"]
outputs      = {{ score = "json" }}
pool         = "db"
[tasks.join]
op     = "model.join"
inputs = {{ parts = "score.score" }}
[tasks.make]
op   = "model.make"
with = {{ value = "{version}" }}
resources = {{ labels = {{ team = "x" }} }}
[tasks.never]
command = ["ok"]
when    = "params.mode == 'full'"
[tasks.anyway]
command = ["ok"]
after   = ["never", "flaky"]
run_if  = "all_done"
[tasks.train]
op    = "model.train"
after = ["join", "make"]
[tasks.cleanup]
finally = true
command = ["ok"]
[[hooks]]
on      = ["success"]
command = ["notify"]
"#
    )
}

/// Fails, so that there is something to rerun; tells a receiver that is not there, so that it is given up.
const BREAKS: &str = r#"
[pipeline]
name = "breaks"
[tasks.kept]
command = ["ok"]
outputs = { out = "json" }
[tasks.once]
command = ["flaky", "1"]
retry   = { attempts = 1 }
[tasks.next]
command = ["ok"]
after   = ["once", "kept"]
[tasks.alarm]
command = ["ok"]
after   = ["once"]
run_if  = "any_failed"
[[hooks]]
on      = ["failure"]
webhook = "http://127.0.0.1:9/"
retry   = { attempts = 2, initial = "1ms", max = "1ms", jitter = 0.0 }
"#;

const LANE: &str = r#"
[pipeline]
name = "lane"
concurrency = 1
[tasks.a]
command = ["ok"]
[tasks.b]
command = ["ok"]
after   = ["a"]
"#;

const HALTS: &str = r#"
[pipeline]
name = "halts"
[tasks.slow]
command = ["slow"]
[tasks.after]
command = ["ok"]
after   = ["slow"]
[tasks.tidy]
finally = true
command = ["ok"]
"#;

fn senses(file: &Path) -> String {
    format!(
        "[pipeline]\nname = \"senses\"\n[tasks.there]\nsensor = {{ file = \"{}\" }}\n[tasks.then]\ncommand = [\"ok\"]\n\
         after = [\"there\"]\n",
        file.display()
    )
}

/// Three intervals of an hour, all of them two days ago.
fn ticks() -> String {
    let now = chrono::Utc::now().timestamp() / 3_600 * 3_600;
    let time = |hours: i64| {
        let at = chrono::DateTime::from_timestamp(now + (hours - 48) * 3_600, 0).unwrap();
        at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    };
    format!(
        r#"
[pipeline]
name = "ticks"
[params]
since = {{ type = "string", default = "" }}
[tasks.a]
command = ["ok", "${{params.since}}"]
[schedule]
every    = "1h"
start    = "{}"
end      = "{}"
catch_up = "all"
overlap  = "allow"
params   = {{ since = "${{interval.start}}" }}
"#,
        time(0),
        time(3)
    )
}

const DAYS: &str = r#"
[pipeline]
name = "days"
[params]
day = { type = "string", default = "" }
[tasks.a]
command = ["ok", "${params.day}"]
"#;

const SHED: &str = "[pipeline]\nname = \"shed\"\n[retention]\nkeep_runs = 1\n[tasks.a]\nop = \"model.make\"\n\
                    cache = false\nwith = { value = \"shed\" }\n";

/// The script, and what it was told.
#[allow(missing_debug_implementations)] // It holds a function.
pub struct Script<'a> {
    pub client: Client,
    pub shop: Arc<Shop>,
    pub told: Vec<Told>,
    /// A file that is there.
    pub file: &'a Path,
    /// How much is on disk.
    pub written: &'a (dyn Fn() -> usize + Sync),
    /// Hears every answer as it comes.
    pub on_told: Option<Listener>,
}

/// Hears answers.
pub type Listener = Box<dyn FnMut(&Ack) + Send>;

impl<'a> Script<'a> {
    pub fn new(client: &Client, shop: &Arc<Shop>, file: &'a Path, written: &'a (dyn Fn() -> usize + Sync)) -> Self {
        Self { client: client.clone(), shop: Arc::clone(shop), told: Vec::new(), file, written, on_told: None }
    }

    fn hear(&mut self, what: Ack) {
        if let Some(hear) = &mut self.on_told {
            hear(&what);
        }
        self.told.push(Told { written: (self.written)(), what });
    }

    /// Plays everything.
    pub async fn play(&mut self) {
        self.set_up().await;
        let first = self.submit("main-1", &everything("one")).await;
        self.ended(&first).await;
        // The same work again: what is pure is found in the cache. And a second version of the same name.
        let again = self.submit("main-2", &everything("one")).await;
        let newer = self.submit("main-3", &everything("two")).await;
        let broken = self.submit("breaks-1", BREAKS).await;
        let lanes = [self.submit("lane-1", LANE).await, self.submit("lane-2", LANE).await];
        let sensing = self.submit("senses-1", &senses(self.file)).await;
        let halting = self.submit("halts-1", HALTS).await;
        self.cancel(&halting).await;
        for run in [&again, &newer, &broken, &lanes[0], &lanes[1], &sensing, &halting] {
            self.ended(run).await;
        }
        self.rerun(&broken).await;
        self.ended(&broken).await;
        self.alias().await;
        self.schedule().await;
        self.backfill().await;
        for n in 1..=3 {
            let run = self.submit(&format!("shed-{n}"), SHED).await;
            self.ended(&run).await;
        }
        self.drop_cache().await;
        self.collect().await;
    }

    async fn set_up(&mut self) {
        let pool = v1::SetPoolRequest { name: "db".to_owned(), slots: 1, description: None };
        let set = |client: Client| {
            let pool = pool.clone();
            async move { client.fleet().set_pool(pool).await }
        };
        self.client.insist("pool", set).await.unwrap();
        self.hear(Ack::Pool { name: "db".to_owned() });
        let team = BTreeMap::from([("team".to_owned(), "x".to_owned())]);
        let label = |client: Client| {
            let label = v1::LabelRequest { name: "w1".to_owned(), set: team.clone(), remove: Vec::new() };
            async move { retry_unknown_worker(client.fleet().label(label).await) }
        };
        self.client.insist("label", label).await.unwrap();
        for on in [true, false] {
            let cordon = |client: Client| async move {
                retry_unknown_worker(client.fleet().cordon(v1::CordonRequest { name: "w2".to_owned(), on }).await)
            };
            self.client.insist("cordon", cordon).await.unwrap();
        }
    }

    pub async fn submit(&mut self, key: &str, text: &str) -> String {
        let request = v1::SubmitRequest {
            text: text.to_owned(),
            path: "/nowhere/p.toml".to_owned(),
            idempotency_key: key.to_owned(),
            ..v1::SubmitRequest::default()
        };
        // The operators are known when a worker has said hello; after a restart that takes a moment.
        let (client, request) = (self.client.clone(), &request);
        let answer = until("submission", || async {
            let submit = |client: Client| {
                let request = request.clone();
                async move { client.runs().submit(request).await }
            };
            let answer = client.insist("submit", submit).await.unwrap();
            if answer.run_id.is_empty() { Err(format!("{:?}", answer.diagnostics)) } else { Ok(answer) }
        })
        .await;
        self.hear(Ack::Submitted { key: key.to_owned(), run: answer.run_id.clone() });
        answer.run_id
    }

    pub async fn ended(&self, run: &str) {
        until(&format!("the end of {run}"), || async {
            let view = self.client.run(run).await;
            let over = matches!(view.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled);
            if over { Ok(()) } else { Err(why(&self.client, &view).await) }
        })
        .await;
    }

    async fn cancel(&mut self, run: &str) {
        let cancel = |client: Client| {
            let request = v1::CancelRunRequest { run_id: run.to_owned(), ..Default::default() };
            async move { client.runs().cancel_run(request).await }
        };
        match self.client.insist("cancel", cancel).await {
            Ok(_) => self.hear(Ack::Cancelled { run: run.to_owned() }),
            // An earlier try was heard after all.
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        }
    }

    async fn rerun(&mut self, run: &str) {
        let before = self.client.run(run).await;
        let outputs = before.tasks.iter().map(|task| (task.name.clone(), task.outputs.clone())).collect();
        let request =
            |dry_run| v1::RerunRequest { run_id: run.to_owned(), failed: true, dry_run, ..Default::default() };
        let plan = |client: Client| {
            let request = request(true);
            async move { client.runs().rerun(request).await }
        };
        let planned = self.client.insist("plan", plan).await.unwrap();
        let rerun = |client: Client| {
            let request = request(false);
            async move { client.runs().rerun(request).await }
        };
        match self.client.insist("rerun", rerun).await {
            Ok(answer) => {
                // Asked again after an answer that was lost, it has another plan: nothing is left to be done.
                if answer.items.iter().any(|item| item.execute) {
                    assert_eq!(answer.items, planned.items, "it does what was shown");
                    let generation = before.generation + 1;
                    self.hear(Ack::Rerun { run: run.to_owned(), generation, items: planned.items, before: outputs });
                }
            }
            Err(status) => assert_eq!(status.code(), Code::FailedPrecondition, "{status}"),
        }
    }

    async fn alias(&mut self) {
        let set = |client: Client| async move {
            let request = v1::SetAliasRequest { name: "toy".to_owned(), alias: "stable".to_owned(), version: 1 };
            client.registry().set_alias(request).await
        };
        self.client.insist("alias", set).await.unwrap();
        self.hear(Ack::Alias { model: "toy".to_owned(), alias: "stable".to_owned() });
    }

    async fn schedule(&mut self) {
        let request = v1::ApplyScheduleRequest { text: ticks(), path: String::new(), paused: false };
        let apply = |client: Client| {
            let request = request.clone();
            async move { client.schedules().apply(request).await }
        };
        let answer = self.client.insist("schedule", apply).await.unwrap();
        assert!(answer.schedule.is_some(), "{:?}", answer.diagnostics);
        self.hear(Ack::Schedule { name: "ticks".to_owned() });
        until("three fires", || async {
            let runs = self.client.all_runs().await.into_iter().filter(|run| run.pipeline == "ticks").count();
            if runs == 3 { Ok(()) } else { Err(format!("{runs} runs")) }
        })
        .await;
    }

    async fn backfill(&mut self) {
        let create = |client: Client| async move {
            let request = v1::BackfillRequest {
                text: DAYS.to_owned(),
                from: "2026-01-01".to_owned(),
                to: "2026-01-04".to_owned(),
                every_ms: 86_400_000,
                params: BTreeMap::from([("day".to_owned(), "${interval.start_date}".to_owned())]),
                max_running: 2,
                ..v1::BackfillRequest::default()
            };
            client.schedules().backfill(request).await
        };
        let answer = self.client.insist("backfill", create).await.unwrap();
        let id = answer.backfill.map(|backfill| backfill.id).unwrap_or_default();
        assert!(!id.is_empty(), "{:?}", answer.diagnostics);
        self.hear(Ack::Backfill { id });
        settled(&self.client, None).await;
    }

    async fn drop_cache(&mut self) {
        let drop = |client: Client| async move {
            let request = v1::DropCacheRequest { filter: None, dry_run: false, all: true };
            client.maintenance().drop_cache(request).await
        };
        self.client.insist("cache", drop).await.unwrap();
    }

    async fn collect(&mut self) {
        let collect = |client: Client| async move { client.maintenance().gc(v1::GcRequest::default()).await };
        self.client.insist("collection", collect).await.unwrap();
    }
}

/// A worker that is not connected yet, after a restart, is asked for again.
fn retry_unknown_worker<T>(answer: Result<T, Status>) -> Result<T, Status> {
    answer
        .map_err(|status| if status.code() == Code::NotFound { Status::unavailable(status.message()) } else { status })
}

/// Says why a run does not go on.
pub async fn why(client: &Client, run: &v1::RunView) -> String {
    let request = v1::ExplainRequest { run_id: run.run_id.clone(), task: String::new() };
    let explained = client.runs().explain(request).await;
    format!("{} {:?} {explained:?}", run.pipeline, run.state())
}

/// Waits until nothing is left to be done: runs, backfills, schedules, deliveries.
pub async fn settled(client: &Client, store: Option<&dyn Store>) {
    until("the end of everything", || async {
        let runs = client.all_runs().await;
        for run in &runs {
            let over =
                matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled | RunState::Skipped);
            if !over {
                return Err(why(client, run).await);
            }
        }
        let list = |client: Client| async move {
            client.schedules().list_backfills(v1::ListBackfillsRequest::default()).await
        };
        let backfills = client.insist("backfills", list).await.unwrap().backfills;
        let going = |state| matches!(state, BackfillState::Running | BackfillState::Cancelling);
        if let Some(going) = backfills.into_iter().find(|backfill| going(backfill.state())) {
            return Err(format!("{going:?}"));
        }
        let list = |client: Client| async move { client.schedules().list(v1::ListSchedulesRequest::default()).await };
        for schedule in client.insist("schedules", list).await.unwrap().schedules {
            if !schedule.active.is_empty() || !schedule.waiting.is_empty() || !schedule.next.is_empty() {
                return Err(format!("{schedule:?}"));
            }
        }
        let waiting = store.map_or(0, deliveries);
        if waiting > 0 {
            return Err(format!("{waiting} deliveries"));
        }
        // A hook, an interval or a fire may have become a run since the runs were looked at.
        let now = client.all_runs().await.len();
        if now == runs.len() { Ok(()) } else { Err(format!("{now} runs")) }
    })
    .await;
}

fn deliveries(store: &dyn Store) -> usize {
    let rows = store.scan(&[], None, usize::MAX).unwrap_or_default();
    rows.iter().filter(|(key, _)| matches!(Key::decode(key), Ok(Key::Delivery(_)))).count()
}

/// Gathers everything that the auditor looks at. `told` is what clients heard of what is on disk.
pub async fn evidence(client: &Client, store: &dyn Store, shop: &Shop, told: Vec<Told>) -> Evidence {
    shop.quick.load(Ordering::SeqCst);
    let runs = client.all_runs().await;
    let mut tasks = BTreeMap::new();
    for run in &runs {
        tasks.insert(run.run_id.clone(), client.tasks(&run.run_id).await);
    }
    let executions = shop.executions.lock().unwrap().clone();
    let mut logs = Vec::new();
    for execution in &executions {
        let token = &execution.token;
        logs.push(client.log(&token.run_id, &token.task, token.attempt).await);
    }
    let described = client.fleet().describe_workers(v1::DescribeWorkersRequest::default()).await.unwrap().into_inner();
    let slots = BTreeMap::from([(("main".to_owned(), "score".to_owned()), ("db".to_owned(), 1))]);
    Evidence {
        events: client.all_events().await,
        runs,
        tasks,
        workers: described.workers,
        pools: client.fleet().list_pools(v1::ListPoolsRequest {}).await.unwrap().into_inner().pools,
        schedules: client.schedules().list(v1::ListSchedulesRequest {}).await.unwrap().into_inner().schedules,
        backfills: client
            .schedules()
            .list_backfills(v1::ListBackfillsRequest { limit: 100, ..Default::default() })
            .await
            .unwrap()
            .into_inner()
            .backfills,
        models: client.registry().list_models(v1::ListModelsRequest {}).await.unwrap().into_inner().models,
        rows: store.scan(&[], None, usize::MAX).unwrap(),
        verified: client.admin().verify(v1::VerifyRequest {}).await.unwrap().into_inner().problems,
        executions,
        logs,
        told,
        slots,
        lanes: BTreeMap::from([("lane".to_owned(), 1)]),
        collected: BTreeSet::from(["shed".to_owned()]),
        complaints: shop.faults.lock().unwrap().clone(),
    }
}
