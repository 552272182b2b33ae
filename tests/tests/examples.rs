//! The example pipelines: each does what its README says, with real processes.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::symlink,
    path::PathBuf,
    time::Duration,
};

use segue_proto::v1::{AttemptState, FailureClass, RunState, RunView, TaskState};
use segue_tests::{
    Cli, TestCluster, WorkerPlan,
    cluster::{attempts, task, worker_of},
    data, program, tables, values,
};
use serde_json::{Value, json};

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(20);

fn cluster() -> TestCluster {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("plain").cpu(8.0));
    cluster
}

fn example(name: &str) -> PathBuf {
    program::shipped("examples").join(format!("{name}.toml"))
}

/// Runs an example to its end.
fn run(cluster: &TestCluster, name: &str, params: &[&str]) -> RunView {
    let args: Vec<&str> = params.iter().flat_map(|param| ["-p", param]).collect();
    let run = cluster.submit(&example(name), &args);
    cluster.wait_ended(&run)
}

/// Gives the names of the tasks in a state, in file order.
fn those(view: &RunView, state: TaskState) -> Vec<&str> {
    view.tasks.iter().filter(|task| task.state() == state).map(|task| task.name.as_str()).collect()
}

/// Gives the children of a fan-out, in the order of their items.
fn children(cluster: &TestCluster, view: &RunView, name: &str) -> Vec<Value> {
    values::list(&cluster.cli().json(["show", &view.run_id, name]), "tasks").to_vec()
}

fn keys<'a>(children: &'a [Value], state: &str) -> Vec<&'a str> {
    children.iter().filter(|child| child["state"] == state).map(|child| values::text(child, "key")).collect()
}

fn artifact(cluster: &TestCluster, view: &RunView, name: &str) -> String {
    String::from_utf8(tables::bytes(&cluster.cli(), &view.run_id, name, cluster.dir())).unwrap()
}

fn document(cluster: &TestCluster, view: &RunView, name: &str) -> Value {
    serde_json::from_str(&artifact(cluster, view, name)).unwrap()
}

/// From when to when an attempt held what it was given.
type Span = (u64, u64);

/// Gives the spans of the attempts of tasks, as `show` lists them.
fn spans(tasks: &[Value]) -> Vec<Span> {
    let span =
        |attempt: &Value| (values::number(attempt, "assigned_ms") as u64, values::number(attempt, "ended_ms") as u64);
    tasks.iter().flat_map(|task| values::list(task, "attempts")).map(span).collect()
}

/// Gives the spans of a task that is no fan-out.
fn spans_of(view: &RunView, name: &str) -> Vec<Span> {
    task(view, name).attempts.iter().map(|attempt| (attempt.assigned_ms, attempt.ended_ms)).collect()
}

/// Gives the largest sum of the weights of spans that are open at the same time. A span that begins when another ends
/// is not open together with it.
fn most_at_once(spans: &[(Span, i64)]) -> i64 {
    let mut steps: Vec<(u64, i64)> =
        spans.iter().flat_map(|&((from, to), weight)| [(from, weight), (to, -weight)]).collect();
    steps.sort_unstable();
    let (mut open, mut most) = (0, 0);
    for (_, step) in steps {
        open += step;
        most = most.max(open);
    }
    most
}

fn alone(spans: Vec<Span>) -> Vec<(Span, i64)> {
    spans.into_iter().map(|span| (span, 1)).collect()
}

#[test]
fn hello_dag_runs_in_the_order_of_its_edges() {
    let cluster = cluster();
    let view = run(&cluster, "hello-dag", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!(those(&view, TaskState::Succeeded), ["greet", "shout", "count", "letter", "done"]);
    for (before, after) in
        [("greet", "shout"), ("greet", "count"), ("shout", "letter"), ("count", "letter"), ("letter", "done")]
    {
        assert!(spans_of(&view, before)[0].1 <= spans_of(&view, after)[0].0, "`{after}` did not wait for `{before}`");
    }
    assert_eq!(artifact(&cluster, &view, "letter.text"), "HELLO, WORLD\n13 characters\n");
    let view = run(&cluster, "hello-dag", &["name=Ada"]);
    assert_eq!(artifact(&cluster, &view, "letter.text"), "HELLO, ADA\n11 characters\n");
}

#[test]
fn retries_by_class_tries_again_what_may_pass_and_nothing_else() {
    use AttemptState::{Failed, Lost, Succeeded, TimedOut};
    let cluster = cluster();
    let view = run(&cluster, "retries-by-class", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!(attempts(&view, "busy"), [Failed, Failed, Failed, Succeeded]);
    let first = task(&view, "busy").attempts[0].failure.as_ref().unwrap();
    assert_eq!(
        (first.class(), first.exit_code),
        (FailureClass::User, Some(75)),
        "a rule for its exit code, not its class"
    );
    assert_eq!(attempts(&view, "slow"), [TimedOut, Succeeded]);
    assert_eq!(attempts(&view, "killed"), [Lost, Succeeded]);
    assert_eq!(those(&view, TaskState::Skipped), ["wrong"]);

    let view = run(&cluster, "retries-by-class", &["code=2"]);
    assert_eq!(
        (view.state(), attempts(&view, "wrong")),
        (RunState::Failed, vec![Failed]),
        "`never` is never tried again"
    );
    assert_eq!(task(&view, "wrong").failure.as_ref().unwrap().exit_code, Some(2));
    let view = run(&cluster, "retries-by-class", &["code=3"]);
    assert_eq!((view.state(), attempts(&view, "wrong")), (RunState::Failed, vec![Failed; 3]));
}

#[test]
fn branch_on_a_result_takes_one_branch_and_joins_by_rule() {
    let cluster = cluster();
    for (params, taken, left, page) in
        [(&[][..], "full", "quick", "the long way\n"), (&["rows=5"], "quick", "full", "the short way\n")]
    {
        let view = run(&cluster, "branch-on-a-result", params);
        assert_eq!(view.state(), RunState::Succeeded, "to be skipped is not to fail");
        let done: BTreeSet<&str> = those(&view, TaskState::Succeeded).into_iter().collect();
        assert_eq!(done, BTreeSet::from(["count", taken, "publish"]));
        let skipped: BTreeSet<&str> = those(&view, TaskState::Skipped).into_iter().collect();
        assert_eq!(skipped, BTreeSet::from([left, "both"]));
        assert!(task(&view, left).attempts.is_empty());
        assert_eq!(artifact(&cluster, &view, "publish.page"), page);
        let said = cluster.cli().json(["explain", &view.run_id, left]);
        assert_eq!(values::text(&said, "tasks.0.code"), "condition_false", "{said}");
    }
}

#[test]
fn cleanup_always_cleans_up_after_success_and_after_failure() {
    let cluster = cluster();
    let view = run(&cluster, "cleanup-always", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!(those(&view, TaskState::Succeeded), ["prepare", "work", "deliver", "cleanup"]);
    assert_eq!(those(&view, TaskState::Skipped), ["alarm", "post-mortem"]);

    let view = run(&cluster, "cleanup-always", &["break=true"]);
    assert_eq!(view.state(), RunState::Failed, "a `finally` task does not make it good");
    assert_eq!(cluster.cli().run(["wait", &view.run_id]).code, 1);
    assert_eq!(those(&view, TaskState::Failed), ["work"]);
    assert_eq!(those(&view, TaskState::UpstreamFailed), ["deliver"]);
    assert_eq!(those(&view, TaskState::Succeeded), ["prepare", "alarm", "cleanup", "post-mortem"]);
    let begun = |name: &str| spans_of(&view, name)[0].0;
    assert!(spans_of(&view, "alarm")[0].1 <= begun("cleanup"), "`finally` comes after everything else");
    assert!(begun("cleanup") < begun("post-mortem"));
}

#[test]
fn fan_out_and_join_has_a_child_for_each_item_and_joins_what_succeeded() {
    let cluster = cluster();
    let view = run(&cluster, "fan-out-and-join", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    let score = children(&cluster, &view, "score");
    assert_eq!(keys(&score, "succeeded"), ["eu", "us", "asia"], "in the order of the items");
    assert_eq!(values::text(&score[0], "name"), "score[eu]");
    assert!(most_at_once(&alone(spans(&score))) <= 2, "max_parallel");
    assert_eq!(document(&cluster, &view, "collect.all"), json!({ "asia": 20, "eu": 80, "us": 50 }));
    assert_eq!(artifact(&cluster, &view, "table.table"), "asia 20\neu 80\nus 50\n");

    let plan = cluster.cli().json(["rerun", &view.run_id, "--only", "score[us]", "--dry-run"]);
    let executing: Vec<&Value> = values::list(&plan, "tasks").iter().filter(|item| item["execute"] == true).collect();
    assert_eq!(executing.len(), 1, "{plan}");
    let item = executing[0];
    assert_eq!((&item["task"], &item["children"], &item["keys"]), (&json!("score"), &json!(3), &json!(["us"])));

    let view = run(&cluster, "fan-out-and-join", &["fails=us"]);
    assert_eq!(view.state(), RunState::Succeeded, "one failed child is tolerated");
    let score = children(&cluster, &view, "score");
    assert_eq!((keys(&score, "failed"), keys(&score, "succeeded")), (vec!["us"], vec!["eu", "asia"]));
    assert_eq!(document(&cluster, &view, "collect.all"), json!({ "asia": 20, "eu": 80 }));
    assert_eq!(artifact(&cluster, &view, "table.table"), "asia 20\neu 80\n");
}

#[test]
fn matrix_has_a_child_for_each_combination_that_makes_sense() {
    let cluster = cluster();
    let view = run(&cluster, "matrix", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    let train = children(&cluster, &view, "train");
    assert_eq!(keys(&train, "succeeded"), ["eu+line", "eu+tree", "eu+net", "us+line", "us+tree"]);
    assert_eq!(keys(&train, "skipped"), ["us+net"]);
    let all = json!({ "eu+line": 30, "eu+net": 25, "eu+tree": 20, "us+line": 32, "us+tree": 22 });
    assert_eq!(document(&cluster, &view, "collect.all"), all);
    assert_eq!(artifact(&cluster, &view, "compare.best"), "20 eu+tree\n");

    let view = run(&cluster, "matrix", &["models=tree"]);
    assert_eq!(keys(&children(&cluster, &view, "train"), "succeeded"), ["eu+tree", "us+tree"]);
}

#[test]
fn pools_and_limits_hold_for_runs_slots_and_keys() {
    let cluster = cluster();
    let cli = cluster.cli();
    let file = example("pools-and-limits");
    let first = cluster.submit(&file, &[]);
    let second = cluster.submit(&file, &[]);
    // Without its pool the first one cannot end, so that both can be looked at.
    let waiting = cluster.run(&second);
    assert_eq!((waiting.state(), waiting.reason_code.as_str()), (RunState::Queued, "concurrency_full"));
    assert_eq!(values::text(&cli.json(["explain", &first, "vacuum"]), "tasks.0.code"), "no_pool");
    assert!(task(&cluster.run(&first), "vacuum").attempts.is_empty());

    cli.ok(["pools", "set", "reports-db", "2"]);
    let views = [&first, &second].map(|run| cluster.wait_succeeded(run));
    for view in &views {
        let (vacuum, load) = (spans_of(view, "vacuum"), spans(&children(&cluster, view, "load")));
        assert_eq!((vacuum.len(), load.len()), (1, 4));
        assert!(load.iter().all(|(from, _)| vacuum[0].1 <= *from), "the larger priority goes first, alone");
        assert_eq!(most_at_once(&alone(load.clone())), 2, "two slots, and both are used");
        let held: Vec<(Span, i64)> = vacuum.into_iter().map(|span| (span, 2)).chain(alone(load)).collect();
        assert_eq!(most_at_once(&held), 2, "never more than there are: {held:?}");
        let call = children(&cluster, view, "call");
        assert_eq!(keys(&call, "succeeded"), ["acme-1", "acme-2", "zeta-1", "zeta-2"]);
        for tenant in call.chunks(2) {
            assert_eq!(most_at_once(&alone(spans(tenant))), 1, "one at a time with the same key");
        }
    }
    let begun = spans_of(&views[1], "vacuum")[0].0;
    assert!(views[0].ended_ms <= begun, "the second run waited for the first");
}

#[test]
fn sensor_and_schedule_waits_for_its_file_and_runs_for_each_day() {
    let cluster = cluster();
    let cli = cluster.cli();
    let file = example("sensor-and-schedule");
    let there = run(&cluster, "sensor-and-schedule", &[]);
    assert_eq!(there.state(), RunState::Succeeded, "the README is beside it");

    let flag = cluster.dir().join("ready");
    let ready = format!("ready={}", flag.display());
    let run = cluster.submit(&file, &["-p", &ready]);
    cluster.wait_task(&run, "wait", TaskState::Sensing);
    let said = cli.json(["explain", &run, "wait"]);
    assert_eq!(values::text(&said, "tasks.0.code"), "sensing", "{said}");
    fs::write(&flag, "").unwrap();
    let view = cluster.wait_succeeded(&run);
    assert!(task(&view, "wait").attempts.is_empty(), "a sensor takes no worker");
    assert_eq!(artifact(&cluster, &view, "load.note"), "2026-01-01\n");

    let file = file.to_string_lossy().into_owned();
    let done = cli.json(["backfill", &file, "--from", "2026-01-05", "--to", "2026-01-08", "-p", &ready]);
    assert_eq!((&done["state"], &done["counts"]["succeeded"]), (&json!("succeeded"), &json!(3)), "{done}");
    let mut days: Vec<String> = values::list(&done, "intervals")
        .iter()
        .map(|interval| artifact(&cluster, &cluster.run(values::text(interval, "run")), "load.note"))
        .collect();
    days.sort();
    assert_eq!(days, ["2026-01-05\n", "2026-01-06\n", "2026-01-07\n"]);

    let applied = cli.json(["schedules", "apply", &file]);
    assert_eq!((&applied["created"], values::list(&applied, "next").len()), (&json!(true), 5), "{applied}");
    cli.ok(["schedules", "delete", "sensor-and-schedule"]);
}

#[test]
fn gpu_or_cpu_takes_what_there_is() {
    let places = |cluster: &TestCluster, view: &RunView| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for child in children(cluster, view, "score") {
            *count.entry(values::text(&child, "attempts.0.worker").to_owned()).or_default() += 1;
        }
        count
    };
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("plain").cpu(4.0));
    let view = run(&cluster, "gpu-or-cpu", &[]);
    assert_eq!(view.state(), RunState::Succeeded, "it runs without a GPU");
    assert_eq!((worker_of(&view, "embed"), worker_of(&view, "publish")), ("plain", "plain"));
    assert_eq!(places(&cluster, &view), BTreeMap::from([("plain".to_owned(), 3)]));

    cluster.add_worker(&WorkerPlan::new("gpu").cpu(4.0).gpus(1).label("spot=yes"));
    let view = run(&cluster, "gpu-or-cpu", &[]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!((worker_of(&view, "embed"), worker_of(&view, "publish")), ("gpu", "plain"));
    let expected = BTreeMap::from([("gpu".to_owned(), 2), ("plain".to_owned(), 1)]);
    assert_eq!(places(&cluster, &view), expected, "two halves of one GPU, and one that did not wait");
}

#[test]
fn etl_with_quality_gate_lets_through_what_is_good_enough() {
    let cluster = cluster();
    let input = format!("input={}", data::sample(cluster.dir(), 2_000).display());
    let view = run(&cluster, "etl-with-quality-gate", &[&input]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!(those(&view, TaskState::Succeeded), ["clean", "gate", "rfm", "report"]);
    assert_eq!(those(&view, TaskState::Skipped), ["quarantine"]);
    let (quality, summary) = (document(&cluster, &view, "clean.quality"), document(&cluster, &view, "rfm.summary"));
    assert_eq!(summary["customers"], quality["customers"]);
    let page = artifact(&cluster, &view, "report.page");
    assert!(page.starts_with("Customers:\n") && page.contains("\"rows_read\": 2000"), "{page}");

    let view = run(&cluster, "etl-with-quality-gate", &[&input, "least_kept=0.9"]);
    assert_eq!(view.state(), RunState::Succeeded);
    assert_eq!(those(&view, TaskState::Succeeded), ["clean", "quarantine"]);
    assert_eq!(those(&view, TaskState::Skipped), ["gate", "rfm", "report"]);
    assert!(task(&view, "clean").cached, "same operator, parameters and content");
    let digests = tables::digests(&cluster.cli(), &view.run_id);
    assert_eq!(digests["quarantine.complaint"], digests["clean.quality"]);
}

/// A row of the table in the README of the examples.
struct Row {
    file: String,
    commands: Vec<String>,
}

/// Reads the table: the file of the first column, and the commands of the third.
fn rows() -> Vec<Row> {
    let readme = fs::read_to_string(program::shipped("examples").join("README.md")).unwrap();
    let row = |line: &str| {
        let columns: Vec<&str> = line.split(" | ").collect();
        let [first, _, commands, _] = columns.as_slice() else { panic!("not four columns: {line}") };
        let file = first.split('`').nth(1).unwrap().to_owned();
        let commands = commands.split('`').filter(|text| text.starts_with("segue ")).map(str::to_owned).collect();
        Row { file, commands }
    };
    readme.lines().filter(|line| line.starts_with("| [`")).map(row).collect()
}

#[test]
fn the_readme_lists_every_example_and_every_listed_file_is_there() {
    let listed: Vec<String> = rows().into_iter().map(|row| row.file).collect();
    let distinct: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(distinct.len(), listed.len(), "listed twice: {listed:?}");
    let names = fs::read_dir(program::shipped("examples")).unwrap().map(|entry| entry.unwrap().file_name());
    let there: BTreeSet<String> =
        names.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".toml")).collect();
    assert_eq!(distinct, there);
    for file in &there {
        let text = fs::read_to_string(program::shipped("examples").join(file)).unwrap();
        let name = format!("name        = \"{}\"\n", file.trim_end_matches(".toml"));
        assert!(text.contains(&name), "{file}: a pipeline is named as its file");
    }
}

#[test]
fn every_command_of_the_readme_works_as_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    symlink(program::checkout().join("pipelines"), dir.path().join("pipelines")).unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    for row in rows() {
        let wanted = format!("segue run pipelines/examples/{}", row.file);
        assert!(row.commands.iter().any(|command| command.starts_with(&wanted)), "{}: {:?}", row.file, row.commands);
        for command in &row.commands {
            cli.ok(command.split_whitespace().skip(1));
        }
    }
}

#[test]
fn every_pipeline_of_the_comparison_is_valid() {
    let text = fs::read_to_string(program::shipped("COMING-FROM.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("none"), dir.path());
    let blocks: Vec<&str> =
        text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert_eq!(blocks.len(), 3, "one for each system that is shown side by side");
    for block in blocks {
        let file = dir.path().join("pipeline.toml");
        fs::write(&file, block).unwrap();
        let said = cli.ok(["validate", "pipeline.toml"]);
        assert!(!said.stderr.contains("warning"), "{}\n{block}", said.stderr);
    }
}
