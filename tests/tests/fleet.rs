//! The fleet as its operators handle it: cordons, labels changed live, fewer workers, pools, and what autoscalers and
//! dashboards are told.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use segue_proto::{
    externalscaler::{
        GetMetricsRequest, IsActiveResponse, ScaledObjectRef, external_scaler_client::ExternalScalerClient,
    },
    v1::TaskState,
};
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    cluster::{task, worker_of},
    program, until,
    values::{list, text},
    wait::PATIENCE,
};
use serde_json::json;
use tonic::{Code, Streaming, transport::Channel};

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(20);

/// A command that waits for the file `go-TASK`.
const GATED: &str = r#"["sh", "-c", "until [ -e go-$SEGUE_TASK ]; do sleep 0.05; done"]"#;

fn open(dir: &Path, name: &str) {
    fs::write(dir.join(format!("go-{name}")), "").unwrap();
}

/// Waits until a ready task says why it waits.
fn wait_reason(cluster: &TestCluster, run: &str, name: &str, code: &str) {
    cluster.wait_run(run, &format!("`{name}` says {code}"), |view| {
        let task = task(view, name);
        (task.state() == TaskState::Ready && task.reason_code == code).then_some(())
    });
}

#[test]
fn a_cordoned_worker_gets_nothing_until_it_is_uncordoned_also_after_a_restart_of_the_coordinator() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(2.0));
    let cli = cluster.cli();
    let first = cluster.pipeline(
        "first",
        &format!("[pipeline]\nname = \"first\"\n[tasks.a]\ncommand = {GATED}\n[tasks.b]\ncommand = [\"true\"]\nafter = [\"a\"]\n"),
    );
    let first = cluster.submit(&first, &[]);
    cluster.wait_task(&first, "a", TaskState::Running);
    assert_eq!(cli.json(["workers", "cordon", "only"]), json!({"worker": "only", "cordoned": true, "running": 1}));
    let second = cluster.pipeline("second", "[pipeline]\nname = \"second\"\n[tasks.c]\ncommand = [\"true\"]\n");
    let second = cluster.submit(&second, &[]);
    let said = cli.json(["explain", &second]);
    assert_eq!(text(&said, "tasks.0.code"), "workers_cordoned", "{said}");
    assert!(text(&said, "tasks.0.hint").contains("segue workers uncordon only"), "{said}");

    // What it had goes on and counts; what comes after does not start.
    open(cluster.dir(), "a");
    let view = cluster.wait_run(&first, "the first task is done", |view| {
        (task(view, "a").state() == TaskState::Succeeded).then(|| view.clone())
    });
    assert_eq!(worker_of(&view, "a"), "only");
    assert_eq!(task(&view, "b").state(), TaskState::Ready, "decided with the end of the first task");

    cluster.kill_coordinator();
    cluster.start_coordinator();
    cluster.wait_worker("only", "cordoned");
    for (run, waiting) in [(&first, "b"), (&second, "c")] {
        // Placement looked in the very turn in which the worker said hello.
        assert_eq!(task(&cluster.run(run), waiting).state(), TaskState::Ready);
        wait_reason(&cluster, run, waiting, "workers_cordoned");
    }
    let workers = cli.json(["workers", "list"]);
    assert_eq!((text(&workers, "0.state"), text(&workers, "0.idle.code")), ("cordoned", "cordoned"), "{workers}");

    cli.ok(["workers", "uncordon", "only"]);
    for run in [&first, &second] {
        cluster.wait_succeeded(run);
    }
    assert_eq!(text(&cli.json(["workers", "show", "only"]), "state"), "connected");
    cli.run(["workers", "cordon", "olny"]).refuses(2, &["there is no worker `olny`"]);
}

#[test]
fn a_label_that_is_set_live_lets_a_waiting_task_run_and_outlives_the_worker() {
    let mut cluster = TestCluster::start(LEASE);
    let plan = WorkerPlan::new("only").label("zone=a");
    cluster.add_worker(&plan);
    let cli = cluster.cli();
    let file = cluster.pipeline(
        "zoned",
        "[pipeline]\nname = \"zoned\"\n[tasks.a]\ncommand = [\"true\"]\nresources = { labels = { zone = \"b\" } }\n",
    );
    let run = cluster.submit(&file, &[]);
    wait_reason(&cluster, &run, "a", "no_labels");
    assert_eq!(text(&cli.json(["workers", "list"]), "0.idle.code"), "nothing_fits");
    let said = cli.json(["workers", "label", "only", "zone=b"]);
    assert_eq!(said, json!({"worker": "only", "labels": {"zone": "b"}, "connected": true}));
    cluster.wait_succeeded(&run);

    // A new start of the worker says zone=a again; what was set lies over it.
    cluster.kill_worker("only");
    cluster.add_worker(&plan);
    let again = cluster.submit(&file, &[]);
    cluster.wait_succeeded(&again);
    let now = cli.json(["workers", "show", "only"]);
    assert_eq!(text(&now, "state"), "connected", "{now}");
    assert_eq!((&now["labels"], &now["own_labels"]), (&json!({"zone": "b"}), &json!({"zone": "a"})));

    assert_eq!(cli.json(["workers", "label", "only", "zone-"])["labels"], json!({}));
    let last = cluster.submit(&file, &[]);
    wait_reason(&cluster, &last, "a", "no_labels");
    cli.run(["workers", "label", "only", "zone"]).refuses(2, &["`zone` changes no label", "zone=b sets"]);
}

#[test]
fn scale_in_drains_the_idle_worker_while_the_busy_one_finishes() {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("one"));
    cluster.add_worker(&WorkerPlan::new("two"));
    let cli = cluster.cli();
    let file =
        cluster.pipeline("gated", &format!("[pipeline]\nname = \"gated\"\n[tasks.a]\ncommand = {GATED}\nretry = 1\n"));
    let run = cluster.submit(&file, &[]);
    cluster.wait_task(&run, "a", TaskState::Running);
    let busy = worker_of(&cluster.run(&run), "a").to_owned();
    let idle = if busy == "one" { "two" } else { "one" };

    let shown = cli.json(["workers", "scale-in", "2", "--dry-run"]);
    assert_eq!((list(&shown, "drained").len(), list(&shown, "spared").len()), (1, 1), "{shown}");
    assert_eq!((text(&shown, "drained.0.worker"), text(&shown, "drained.0.code")), (idle, "idle"));
    assert_eq!((text(&shown, "spared.0.worker"), text(&shown, "spared.0.code")), (busy.as_str(), "last_that_can"));
    assert!(text(&shown, "spared.0.why").contains("`a`"), "it says for which task: {shown}");
    let workers = cluster.rpc().workers().unwrap();
    assert!(workers.iter().all(|worker| worker.state == "connected"), "a dry run drains nobody");

    // A coordinator that has just come back has no worker to drain yet.
    let done = until("somebody is drained", || {
        let said = cli.ok(["workers", "scale-in", "2", "-o", "json"]);
        (!said.repeated || !list(&said.json(), "drained").is_empty()).then(|| said.json())
    });
    assert_eq!((&done["drained"], &done["spared"]), (&shown["drained"], &shown["spared"]), "as it was shown");
    assert_eq!(cluster.worker(idle).wait().code(), Some(0), "a drained worker ends well");
    assert_eq!(task(&cluster.run(&run), "a").state(), TaskState::Running);
    open(cluster.dir(), "a");
    let view = cluster.wait_succeeded(&run);
    assert_eq!((worker_of(&view, "a"), task(&view, "a").attempts.len()), (busy.as_str(), 1));

    // Nothing needs it any more.
    assert_eq!(cli.json(["workers", "drain", &busy, "--wait"])["ended"], true);
    assert_eq!(cluster.worker(&busy).wait().code(), Some(0));
    assert_eq!(cli.json(["workers", "list"]), json!([]));
    cli.run(["workers", "scale-in", "0"]).refuses(2, &["0"]);
}

#[test]
fn pools_are_set_listed_and_deleted_and_outlive_the_coordinator() {
    let mut cluster = TestCluster::start(LEASE);
    let cli = cluster.cli();
    assert_eq!(cli.json(["pools", "list"]), json!([]));
    let made = cli.json(["pools", "set", "crm-api", "3", "--description", "calls to the CRM"]);
    assert_eq!(made, json!({"pool": "crm-api", "slots": 3, "previous": null}));
    assert_eq!(cli.json(["pools", "set", "crm-api", "5"])["previous"], 3);
    cluster.kill_coordinator();
    cluster.start_coordinator();
    let pools = cli.json(["pools", "list"]);
    assert_eq!((list(&pools, "").len(), text(&pools, "0.description")), (1, "calls to the CRM"), "{pools}");
    assert_eq!((&pools[0]["slots"], &pools[0]["used"], &pools[0]["holders"]), (&json!(5), &json!(0), &json!([])));
    assert_eq!(cli.json(["store", "verify"])["problems"], json!([]), "the new records are known to verify");
    cli.ok(["pools", "delete", "crm-api"]);
    assert_eq!(cli.json(["pools", "list"]), json!([]));
    cli.run(["pools", "delete", "crm-api"]).refuses(2, &["there is no pool `crm-api`"]);
    cli.run(["pools", "set", "CRM API", "1"]).refuses(2, &["pool name"]);
}

#[test]
fn a_pool_may_be_the_first_thing_in_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    cli.run(["pools", "list"]).refuses(3, &["holds no store"]);
    assert_eq!(cli.json(["pools", "set", "db", "2"]), json!({"pool": "db", "slots": 2, "previous": null}));
    assert_eq!(cli.json(["pools", "list"])[0]["slots"], 2);
}

/// KEDA, asking for one class of work.
struct Keda<'c> {
    cluster: &'c TestCluster,
    client: ExternalScalerClient<Channel>,
    object: ScaledObjectRef,
}

impl<'c> Keda<'c> {
    fn new(cluster: &'c TestCluster, metadata: &[(&str, &str)]) -> Self {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let object = ScaledObjectRef {
            name: "segue-worker".to_owned(),
            namespace: "data".to_owned(),
            scaler_metadata: metadata.chain([("scalerAddress".to_owned(), "segue:7400".to_owned())]).collect(),
        };
        Self { cluster, client: ExternalScalerClient::new(cluster.rpc().channel()), object }
    }

    fn active(&mut self) -> bool {
        self.cluster.rpc().wait(self.client.is_active(self.object.clone())).unwrap().into_inner().result
    }

    /// Gives name and value of the metric.
    fn metric(&mut self) -> (String, f64) {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(self.object.clone()), metric_name: "s0-whatever".to_owned() };
        let answer = self.cluster.rpc().wait(self.client.get_metrics(request)).unwrap().into_inner();
        let [value] = &answer.metric_values[..] else { panic!("{answer:?}") };
        assert_eq!(value.metric_value as f64, value.metric_value_float, "old and new releases read the same");
        (value.metric_name.clone(), value.metric_value_float)
    }

    fn stream(&mut self) -> Streaming<IsActiveResponse> {
        self.cluster.rpc().wait(self.client.stream_is_active(self.object.clone())).unwrap().into_inner()
    }

    /// Waits for the next word of a stream.
    fn next(&self, stream: &mut Streaming<IsActiveResponse>) -> bool {
        let next = async { tokio::time::timeout(PATIENCE, stream.message()).await };
        self.cluster.rpc().wait(next).expect("the stream says something").unwrap().expect("the stream is open").result
    }
}

#[test]
fn keda_is_told_to_scale_as_work_of_its_class_comes_and_goes() {
    let mut cluster = TestCluster::start(LEASE);
    let gpu_file = cluster.pipeline(
        "gpu",
        &format!("[pipeline]\nname = \"gpu\"\n[tasks.train]\ncommand = {GATED}\nresources = {{ gpu = 1 }}\n"),
    );
    let cpu_file = cluster.pipeline(
        "cpu",
        &format!("[pipeline]\nname = \"cpu\"\n[tasks.plain]\ncommand = {GATED}\n[tasks.prefers]\ncommand = {GATED}\nresources = {{ gpu = \"prefer\" }}\n"),
    );
    let run = {
        let mut gpu = Keda::new(&cluster, &[("class", "gpu")]);
        let mut cpu = Keda::new(&cluster, &[("class", "cpu")]);
        let mut willing = Keda::new(&cluster, &[("class", "gpu"), ("prefer", "true"), ("tasksPerWorker", "4")]);
        assert!(!gpu.active() && !cpu.active() && !willing.active(), "nothing waits");
        let mut stream = gpu.stream();
        assert!(!gpu.next(&mut stream), "the present state comes first");

        // Work without a need for GPUs wants CPU workers and never GPU workers.
        let plain = cluster.submit(&cpu_file, &[]);
        assert!(cpu.active() && !gpu.active());
        assert_eq!((cpu.metric(), gpu.metric().1), (("segue-cpu".to_owned(), 2.0), 0.0));
        assert_eq!((willing.active(), willing.metric().1), (true, 1.0), "only what prefers a GPU");
        cluster.cli().ok(["cancel", &plain]);
        cluster.wait_ended(&plain);
        assert!(!cpu.active() && !willing.active());

        let run = cluster.submit(&gpu_file, &[]);
        assert!(gpu.next(&mut stream), "told as it changes");
        assert!(gpu.active() && !cpu.active());
        assert_eq!(gpu.metric(), ("segue-gpu".to_owned(), 1.0));

        let rpc = cluster.rpc();
        let spec = rpc.wait(willing.client.get_metric_spec(willing.object.clone())).unwrap().into_inner();
        let [spec] = &spec.metric_specs[..] else { panic!("{spec:?}") };
        assert_eq!((spec.metric_name.as_str(), spec.target_size, spec.target_size_float), ("segue-gpu", 4, 4.0));
        let mut slip = Keda::new(&cluster, &[("class", "gpu"), ("taskPerWorker", "4")]);
        let refused = rpc.wait(slip.client.is_active(slip.object.clone())).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("did you mean `tasksPerWorker`?"), "{refused}");
        assert!(refused.message().contains("data/segue-worker"), "it says whose trigger it is: {refused}");
        run
    };

    // A worker that works is still wanted; one that is done is not.
    cluster.add_worker(&WorkerPlan::new("gpu").gpus(1));
    cluster.wait_task(&run, "train", TaskState::Running);
    let mut gpu = Keda::new(&cluster, &[("class", "gpu")]);
    let mut stream = gpu.stream();
    assert!(gpu.next(&mut stream));
    assert_eq!((gpu.active(), gpu.metric().1), (true, 1.0));
    open(cluster.dir(), "train");
    cluster.wait_succeeded(&run);
    assert!(!gpu.next(&mut stream));
    assert_eq!((gpu.active(), gpu.metric().1), (false, 0.0));
}

fn metrics(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("application/openmetrics-text"), "Prometheus chooses its reader by it\n{answer}");
    answer
}

#[test]
fn metrics_show_the_depth_of_the_queue_by_class_and_what_workers_do() {
    if program::store_faults().is_some() {
        eprintln!("skipped: counters begin anew with each coordinator, and this one would stop in the middle");
        return;
    }
    let mut cluster = TestCluster::start(LEASE);
    let file = cluster.pipeline(
        "deep",
        &format!(
            "[pipeline]\nname = \"deep\"\n[tasks.a]\ncommand = {GATED}\n[tasks.b]\ncommand = {GATED}\n\
             [tasks.sleeps]\nop = \"core.sleep\"\nwith = {{ seconds = 0.1 }}\nafter = [\"a\"]\n\
             [tasks.train]\ncommand = {GATED}\nresources = {{ cpu = 0.5, gpu = 1, labels = {{ zone = \"b\" }} }}\n"
        ),
    );
    // Operators are known from the workers; one is there before the submission, and cordoned at once.
    cluster.add_worker(&WorkerPlan::new("only"));
    cluster.cli().ok(["workers", "cordon", "only"]);
    let run = cluster.submit(&file, &[]);
    let has = |lines: &[&str]| {
        until(&format!("{lines:?} in /metrics"), || {
            let found = metrics(cluster.http_address());
            lines.iter().all(|line| found.lines().any(|one| one == *line)).then_some(())
        });
    };
    let plain = r#"{work="command",gpu="none",cpu="1",labels=""}"#;
    has(&[
        &format!("segue_queue_waiting{plain} 2"),
        &format!("segue_queue_running{plain} 0"),
        r#"segue_queue_waiting{work="command",gpu="require",cpu="0.5",labels="zone=b"} 1"#,
        r#"segue_worker_busy{worker="only"} 0"#,
        r#"segue_workers{state="cordoned"} 1"#,
        r#"segue_runs{state="running"} 1"#,
    ]);
    assert!(!metrics(cluster.http_address()).contains("core.sleep"), "what waits for others is not in the queue");

    cluster.cli().ok(["workers", "uncordon", "only"]);
    cluster.wait_task(&run, "a", TaskState::Running);
    has(&[
        &format!("segue_queue_waiting{plain} 1"),
        &format!("segue_queue_running{plain} 1"),
        r#"segue_worker_busy{worker="only"} 1"#,
        r#"segue_worker_capacity{worker="only",resource="cpu"} 1.0"#,
        r#"segue_worker_leased{worker="only",resource="cpu"} 1.0"#,
    ]);
    let body = metrics(cluster.http_address());
    let value = |name: &str| -> f64 {
        let line = body.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{body}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert!(value(&format!("segue_queue_oldest_wait_seconds{plain}")) > 0.0);
    assert!(value("segue_placement_seconds_count") >= 1.0 && value("segue_commit_seconds_count") >= 1.0);
    open(cluster.dir(), "a");
    open(cluster.dir(), "b");
    cluster.wait_task(&run, "sleeps", TaskState::Succeeded);
    cluster.wait_task(&run, "b", TaskState::Succeeded);
    has(&[r#"segue_attempts_ended_total{outcome="succeeded",class=""} 3"#]);
    cluster.cli().ok(["cancel", &run]);
    cluster.wait_ended(&run);
    has(&[r#"segue_runs_ended_total{state="cancelled"} 1"#, "segue_runs_active 0"]);
}
