//! What is kept and what goes: runs by count, models and cached results for good, and nothing lost while work goes on.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use segue_proto::v1::TaskState;
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    cluster::task,
    data,
    process::Process,
    program, tables, until,
    values::{list, number, text},
    wait::PATIENCE,
};
use serde_json::{Value, json};

const LEASE: Duration = Duration::from_secs(20);

const MODELS: &str = r#"
[pipeline]
name = "models"
[params]
input = { type = "path" }
seed = 1
[retention]
keep_runs = 1
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
[tasks.scale]
op = "ml.scale"
inputs = { features = "rfm.customers" }
with = { transform = "log1p" }
[tasks.kmeans]
op = "ml.kmeans"
inputs = { features = "scale.scaled", scaler = "scale.model" }
with = { k_max = 3, seed = "${params.seed}" }
[tasks.register]
op = "model.register"
inputs = { scaler = "scale.model", kmeans = "kmeans.model" }
[tasks.says]
command = ["sh", "-c", "echo something; echo ${params.seed} > $SEGUE_OUTPUT_DIR/note"]
outputs = ["note"]
"#;

/// Each task notes its execution, and makes its output of what it takes.
const CHAIN: &str = r#"
[pipeline]
name = "chain"
[params]
depth = 6
[tasks.clean]
command = ["sh", "-c", "echo clean >> executions; echo rows > $SEGUE_OUTPUT_DIR/orders"]
outputs = ["orders"]
cache = true
[tasks.rfm]
command = ["sh", "-c", "echo rfm >> executions; cat $SEGUE_INPUT_ORDERS > $SEGUE_OUTPUT_DIR/customers; echo features >> $SEGUE_OUTPUT_DIR/customers"]
inputs = { orders = "clean.orders" }
outputs = ["customers"]
cache = true
[tasks.value]
command = ["sh", "-c", "echo value >> executions; echo $SEGUE_PARAM_DEPTH > $SEGUE_OUTPUT_DIR/scores"]
inputs = { customers = "rfm.customers" }
with = { depth = "${params.depth}" }
outputs = ["scores"]
cache = true
[tasks.beside]
command = ["sh", "-c", "echo beside >> executions; echo beside > $SEGUE_OUTPUT_DIR/page"]
inputs = { customers = "rfm.customers" }
outputs = ["page"]
cache = true
[tasks.report]
command = ["sh", "-c", "echo report >> executions; cat $SEGUE_INPUT_SCORES > $SEGUE_OUTPUT_DIR/page"]
inputs = { scores = "value.scores", beside = "beside.page" }
outputs = ["page"]
cache = true
"#;

fn cluster() -> TestCluster {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    cluster
}

/// Gives the tasks that have executed since the last call, by name.
fn executed(dir: &Path) -> Vec<String> {
    let file = dir.join("executions");
    let text = fs::read_to_string(&file).unwrap_or_default();
    let _ = fs::remove_file(&file);
    let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
    names.sort();
    names
}

#[track_caller]
fn sound(cli: &Cli) {
    let report = cli.json(["store", "verify"]);
    assert_eq!(report["problems"], json!([]), "{report}");
}

/// Plans a collection, carries it out, and checks that both say the same and that nothing is left to do.
#[track_caller]
fn collected(cli: &Cli, rules: &[&str]) -> Value {
    let args = |more: &'static [&'static str]| {
        ["gc", "--grace", "0s"].iter().chain(rules).chain(more).map(|&arg| arg.to_owned()).collect::<Vec<_>>()
    };
    let mut planned = cli.json(args(&["--dry-run"]));
    let done = cli.json(args(&[]));
    assert_eq!(planned["dry_run"], true);
    planned["dry_run"] = false.into();
    if program::store_faults().is_none() {
        assert_eq!(planned, done, "what was planned is what was done");
    }
    // A collection that the store broke off has done a part of the plan, and the next one tells of the rest.
    for what in ["runs", "logs", "cache", "blobs"] {
        assert!(list(&done, what).iter().all(|one| list(&planned, what).contains(one)), "{what}: {done}");
    }
    let done = planned;
    let again = cli.json(args(&[]));
    for what in ["runs", "logs", "cache", "blobs"] {
        assert_eq!(again[what], json!([]), "{what}: {again}");
    }
    sound(cli);
    done
}

fn runs_of(collected: &Value) -> Vec<&str> {
    list(collected, "runs").iter().map(|run| text(run, "run")).collect()
}

#[test]
fn old_runs_go_models_and_cached_results_stay_and_are_used() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir().to_owned());
    let file = cluster.pipeline("models", MODELS);
    let input = format!("input={}", data::sample(&dir, 4_000).display());
    let run = |seed: &str, key: &str| {
        let run = cluster.submit(&file, &["-p", &input, "-p", seed, "--idempotency-key", key]);
        cluster.wait_succeeded(&run);
        run
    };
    let (first, second) = (run("seed=1", "one"), run("seed=2", "two"));
    let digests = tables::digests(&cli, &first);

    let done = collected(&cli, &[]);
    assert_eq!(runs_of(&done), [first.as_str()], "the file keeps one run");
    assert!(text(&done, "runs.0.why").contains("newest 1"), "{done}");
    assert!(number(&done, "totals.blobs") >= 1.0 && number(&done, "totals.freed_bytes") > 0.0, "{done}");
    assert_eq!(number(&done, "totals.kept_runs"), 1.0);
    cli.run(["show", &first]).refuses(2, &["there is no run"]);
    cli.ok(["show", &second]);
    let freed: Vec<&str> = list(&done, "blobs").iter().map(|blob| text(blob, "digest")).collect();
    assert!(freed.contains(&digests["says.note"].as_str()), "nothing needs the note of the first run");
    assert!(
        !freed.contains(&digests["kmeans.model"].as_str()),
        "the first version of the model does need its document"
    );

    // The model of the collected run is as good as before.
    let shown = cli.json(["models", "show", "customer-kmeans:1"]);
    assert_eq!(text(&shown, "lineage.run"), first);
    let exported = dir.join("exported").to_string_lossy().into_owned();
    cli.ok(["models", "export", "customer-kmeans:1", "--out", &exported]);
    let csv = dir.join("new.csv");
    let rows =
        "CustomerID,Recency,Frequency,Monetary,AvgOrderValue,Tenure,AvgBasketSize\n1,3,12,4200.5,350.04,300,20.5\n";
    fs::write(&csv, rows).unwrap();
    let (csv, out) = (csv.to_string_lossy().into_owned(), dir.join("scored.csv").to_string_lossy().into_owned());
    cli.ok(["predict", "customer-kmeans:1", "--input", &csv, "--out", &out]);

    // Its results are used again, though the run that made them is gone.
    let third = run("seed=1", "three");
    let view = cluster.run(&third);
    for name in ["clean", "rfm", "scale", "kmeans"] {
        assert!(task(&view, name).cached, "{name} is not taken from the cache");
    }
    assert_eq!(tables::digests(&cli, &third)["kmeans.model"], digests["kmeans.model"]);
    assert!(list(&cli.json(["artifacts", "lineage", &digests["kmeans.model"]]), "").len() > 1, "lineage goes on");
    let fourth = run("seed=3", "one");
    assert_ne!(fourth, first, "the memory of its idempotency key went with the run");

    // Logs go by a rule of their own.
    assert!(cli.ok(["logs", &fourth, "says"]).stdout.contains("something"));
    let done = collected(&cli, &["--logs-for", "1ms"]);
    assert_eq!(runs_of(&done), [second.as_str(), third.as_str()]);
    assert_eq!(text(&done, "logs.0.run"), fourth);
    assert_eq!(cli.ok(["logs", &fourth, "says"]).stdout, "[… 10 bytes lost …]\n", "what is gone is said");
    assert!(cli.ok(["gc", "--dry-run"]).stdout.starts_with("would free 0 B: 0 runs, 0 blobs, 0 cache entries"));
}

#[test]
fn collecting_while_runs_go_on_loses_nothing() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir().to_owned());
    let gated = cluster.pipeline(
        "gated",
        r#"
[pipeline]
name = "gated"
[tasks.a]
command = ["sh", "-c", "echo made by a > $SEGUE_OUTPUT_DIR/out"]
outputs = ["out"]
[tasks.b]
command = ["sh", "-c", "echo early > $SEGUE_OUTPUT_DIR/early; touch waiting; until [ -e go ]; do sleep 0.05; done; cat $SEGUE_INPUT_IN > $SEGUE_OUTPUT_DIR/out"]
inputs = { in = "a.out" }
outputs = ["early", "out"]
[tasks.c]
command = ["sh", "-c", "cat $SEGUE_INPUT_A $SEGUE_INPUT_B > $SEGUE_OUTPUT_DIR/out"]
inputs = { a = "a.out", b = "b.out" }
outputs = ["out"]
"#,
    );
    let going = cluster.submit(&gated, &[]);
    cluster.wait_task(&going, "b", TaskState::Running);
    let collect = || cli.json(["gc", "--grace", "0s", "--keep-runs", "1", "--cache-for", "1ms"]);
    let done = collect();
    assert_eq!(number(&done, "totals.active_runs"), 1.0, "{done}");
    // Others come, end, and are collected, with everything that the cache knew of them.
    let chain = cluster.pipeline("chain", CHAIN);
    for depth in 0..4 {
        let run = cluster.submit(&chain, &["-p", &format!("depth={depth}")]);
        collect();
        let view = cluster.wait_succeeded(&run);
        assert!(view.tasks.iter().all(|task| task.state() == TaskState::Succeeded));
        collect();
        sound(&cli);
        let page = tables::bytes(&cli, &run, "report.page", &dir);
        assert_eq!(String::from_utf8_lossy(&page).trim(), depth.to_string());
    }
    fs::write(dir.join("go"), "").unwrap();
    cluster.wait_succeeded(&going);
    let out = tables::bytes(&cli, &going, "c.out", &dir);
    assert_eq!(String::from_utf8_lossy(&out), "made by a\nmade by a\n");

    // All the time, between any two steps of a run.
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let collecting = scope.spawn(|| {
            let (mut freed, start) = (0.0, Instant::now());
            // Ends by itself too: after a failure nobody says stop.
            while !stop.load(Ordering::Relaxed) && start.elapsed() < 2 * PATIENCE {
                freed += number(&collect(), "totals.blobs");
            }
            freed + number(&collect(), "totals.blobs")
        });
        for depth in 10..16 {
            let run = cluster.submit(&chain, &["-p", &format!("depth={depth}")]);
            cluster.wait_succeeded(&run);
            let page = tables::bytes(&cli, &run, "report.page", &dir);
            assert_eq!(String::from_utf8_lossy(&page).trim(), depth.to_string());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(collecting.join().unwrap() > 0.0, "nothing was collected meanwhile: this tests nothing");
    });
    let done = collect();
    assert_eq!(number(&done, "totals.kept_runs"), 2.0, "one of each pipeline: {done}");
    sound(&cli);
}

#[test]
fn a_fan_out_goes_with_its_run_and_leaves_nothing() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir().to_owned());
    let file = cluster.pipeline(
        "fan",
        r#"
[pipeline]
name = "fan"
[params]
salt = "a"
[retention]
keep_runs = 1
[tasks.list]
command = ["sh", "-c", 'printf "[\"x\", \"y\"]" > $SEGUE_OUTPUT_DIR/items']
outputs = { items = "json" }
[tasks.each]
command = ["sh", "-c", "echo said; echo $SEGUE_KEY ${params.salt} > $SEGUE_OUTPUT_DIR/part"]
foreach = { output = "list.items" }
outputs = ["part"]
[tasks.join]
command = ["sh", "-c", "cat $SEGUE_INPUT_PARTS/* > $SEGUE_OUTPUT_DIR/all"]
inputs = { parts = "each.part" }
outputs = ["all"]
"#,
    );
    let run = |salt: &str| {
        let run = cluster.submit(&file, &["-p", salt]);
        cluster.wait_succeeded(&run);
        run
    };
    let (first, second) = (run("salt=a"), run("salt=b"));
    let before = number(&cli.json(["store", "verify"]), "records");
    let done = collected(&cli, &[]);
    assert_eq!(runs_of(&done), [first.as_str()]);
    assert_eq!(list(&done, "blobs").len(), 3, "two parts and what joins them: the list is that of the second run too");
    let after = number(&cli.json(["store", "verify"]), "records");
    assert!(before - after > 8.0, "tasks, children, their expansion, outputs: {before} to {after}");
    let all = tables::bytes(&cli, &second, "join.all", &dir);
    assert_eq!(String::from_utf8_lossy(&all), "x b\ny b\n");
}

#[test]
fn a_change_executes_its_task_and_what_follows_and_dropped_results_are_made_again() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir().to_owned());
    let file = cluster.pipeline("chain", CHAIN);
    let run = |args: &[&str]| {
        let run = cluster.submit(&file, args);
        cluster.wait_succeeded(&run);
        executed(&dir)
    };
    assert_eq!(run(&[]), ["beside", "clean", "report", "rfm", "value"]);
    assert_eq!(run(&[]), Vec::<String>::new(), "all of it is there");
    assert_eq!(run(&["-p", "depth=7"]), ["report", "value"], "the changed task and what follows it");
    assert_eq!(run(&["-p", "depth=6"]), Vec::<String>::new());
    let _ = cluster.pipeline("chain", &CHAIN.replace("echo beside > ", "echo beside, and more > "));
    assert_eq!(run(&[]), ["beside", "report"], "another command is another task");
    let _ = cluster.pipeline("chain", CHAIN);

    let entries = cli.json(["cache", "list", "--operator", "command", "--pipeline", "chain"]);
    assert_eq!(list(&entries, "").len(), 5 + 2 + 2, "{entries}");
    assert_eq!(list(&cli.json(["cache", "list", "--operator", "retail.clv"]), "").len(), 0);
    let of_rfm = list(&entries, "").iter().find(|entry| entry["task"] == "rfm").unwrap();
    let key = text(of_rfm, "key");
    let shown = cli.json(["cache", "show", &key[..12]]);
    assert_eq!((text(&shown, "key"), text(&shown, "pipeline")), (key, "chain"));
    assert!(number(&shown, "outputs.customers.size_bytes") > 0.0);
    cli.run(["cache", "show", "0123456789"]).refuses(2, &["0123456789", "segue cache list"]);
    cli.run(["cache", "drop"]).refuses(2, &["--all"]);

    let dry = cli.json(["cache", "drop", &key[..12], "--dry-run"]);
    assert_eq!(number(&dry, "total"), 1.0);
    assert_eq!(run(&[]), Vec::<String>::new(), "a dry run drops nothing");
    let dropped = cli.json(["cache", "drop", &key[..12]]);
    assert_eq!(dropped["dropped"], dry["dropped"]);
    assert_eq!(run(&[]), ["rfm"], "what it made is what it had made: those after it are taken from the cache");
    assert_eq!(number(&cli.json(["cache", "drop", "--older-than", "1d"]), "total"), 0.0);
    assert_eq!(number(&cli.json(["cache", "drop", "--all"]), "total"), 9.0);
    assert_eq!(run(&[]), ["beside", "clean", "report", "rfm", "value"]);
    sound(&cli);
}

#[test]
fn a_coordinator_that_is_told_to_collects_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("noop.toml");
    fs::write(&file, "[pipeline]\nname = \"noop\"\n[tasks.a]\nop = \"core.noop\"\n").unwrap();
    let runs: Vec<String> = (0..3).map(|_| text(&cli.run_pipeline(&file, &[]), "run").to_owned()).collect();
    let args = ["coordinator", "--listen", "127.0.0.1:0", "--http", "off", "--keep-runs", "1", "--gc-every", "100ms"];
    let mut coordinator = Process::start("coordinator", &mut cli.command(args), &dir.path().join("coordinator.log"));
    // Before that, a command would open the store itself.
    until("the coordinator serves", || {
        assert!(coordinator.exit().is_none(), "{}", coordinator.tail());
        coordinator.log().contains("coordinator serving").then_some(())
    });
    let left = until("one run is left", || {
        let said = cli.run(["runs", "-o", "json"]);
        let left = (said.code == 0).then(|| said.json())?;
        (list(&left, "").len() == 1).then_some(left)
    });
    assert_eq!(text(&left, "0.run"), runs[2]);
    sound(&cli);
}

#[test]
fn rules_that_make_no_sense_are_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    cli.run(["gc", "--keep-runs", "0"]).refuses(2, &["--keep-runs"]);
    cli.run(["gc", "--keep-for", "90"]).refuses(2, &["--keep-for", "has no unit", "90d"]);
    let file = dir.path().join("bad.toml");
    fs::write(&file, "[pipeline]\nname = \"bad\"\n[retention]\nkeep_for = \"soon\"\n[tasks.a]\nop = \"core.noop\"\n")
        .unwrap();
    cli.run(["validate", &file.to_string_lossy()]).refuses(2, &["P050", "bad.toml:4:12", "such as \"90d\""]);
}
