//! Schedules and backfills of a cluster of real processes.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use segue_tests::{Cli, TestCluster, WorkerPlan, program, until, values};
use serde_json::Value;

/// Long enough that no pause of a busy machine looks like a lost worker; nothing waits for it.
const LEASE: Duration = Duration::from_secs(30);

/// Notes each interval that it is executed for.
const TICKS: &str = r#"
[pipeline]
name = "ticks"
[params]
since = { type = "string" }
until = { type = "string" }
[tasks.note]
command = ["sh", "-c", "echo $SEGUE_PARAM_SINCE $SEGUE_PARAM_UNTIL >> intervals"]
with    = { since = "${params.since}", until = "${params.until}" }
[schedule]
every    = "1s"
catch_up = "all"
overlap  = "queue"
params   = { since = "${interval.start}", until = "${interval.end}" }
"#;

/// Waits for the file `go`, and notes how many are waiting with it.
const GATED: &str = r#"
[pipeline]
name = "gated"
[params]
day = { type = "string" }
[tasks.day]
command = ["sh", "-c", "touch running.$0; ls -d running.* | wc -l >> widths; until [ -e go ]; do sleep 0.02; done; rm running.$0; echo $0 >> days", "${params.day}"]
[schedule]
cron   = "@daily"
params = { day = "${interval.start_date}" }
"#;

const RANGE: [&str; 4] = ["--from", "2026-01-01", "--to", "2026-01-11"];

fn lines(dir: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(dir.join(name)).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Checks that the intervals in a file follow one another, each once, and gives them.
#[track_caller]
fn chain(dir: &Path) -> Vec<String> {
    let lines = lines(dir, "intervals");
    for pair in lines.windows(2) {
        let (_, end) = pair[0].split_once(' ').unwrap();
        let (start, _) = pair[1].split_once(' ').unwrap();
        assert_eq!(end, start, "a gap or a repetition in {lines:?}");
    }
    lines
}

fn show(cli: &Cli, name: &str) -> Value {
    cli.json(["schedules", "show", name, "--last", "1000"])
}

/// Gives the intervals of past fires with an outcome, oldest first, as `START END`.
fn fires(view: &Value, outcome: &str) -> Vec<String> {
    let text = |fire: &Value, key: &str| fire["interval"][key].as_str().unwrap().to_owned();
    let mut fires: Vec<String> = values::list(view, "last")
        .iter()
        .filter(|fire| fire["outcome"] == outcome)
        .map(|fire| format!("{} {}", text(fire, "start"), text(fire, "end")))
        .collect();
    fires.sort();
    fires
}

/// Gives the runs of the intervals of a backfill, in its order.
fn runs(backfill: &Value) -> Vec<String> {
    values::list(backfill, "intervals").iter().map(|one| one["run"].as_str().unwrap().to_owned()).collect()
}

fn count(backfill: &Value, state: &str) -> u64 {
    backfill["counts"][state].as_u64().unwrap_or(0)
}

fn runs_of(cli: &Cli, pipeline: &str) -> usize {
    cli.json(["runs", "--pipeline", pipeline, "--limit", "1000"]).as_array().unwrap().len()
}

fn cluster() -> TestCluster {
    let mut cluster = TestCluster::start(LEASE);
    cluster.add_worker(&WorkerPlan::new("only").cpu(8.0));
    cluster
}

#[test]
fn a_schedule_executes_its_pipeline_for_each_interval_and_a_pause_stops_it() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir());
    let file = cluster.pipeline("ticks", TICKS).to_string_lossy().into_owned();
    let said = cli.ok(["schedules", "apply", &file, "-o", "json"]);
    let applied = said.json();
    assert_eq!((said.repeated || applied["created"] == true, values::list(&applied, "next").len()), (true, 5));
    until("three intervals are executed", || (lines(dir, "intervals").len() >= 3).then_some(()));

    cli.ok(["schedules", "pause", "ticks", "--note", "holiday"]);
    let paused = until("what was submitted has ended", || {
        let view = show(&cli, "ticks");
        let quiet = values::list(&view, "active").is_empty()
            && fires(&view, "submitted").len() == lines(dir, "intervals").len();
        quiet.then_some(view)
    });
    assert_eq!((&paused["state"], &paused["note"]), (&"paused".into(), &"holiday".into()));
    let before = chain(dir);
    assert_eq!(fires(&paused, "submitted"), before, "each fire is one execution, with its interval as parameters");
    // Two more seconds pass, by the schedule's own clock.
    let next = values::number(&paused, "next.0.starts_ms");
    until("time passes", || (values::number(&show(&cli, "ticks"), "next.0.starts_ms") >= next + 2_000.0).then_some(()));
    assert_eq!(chain(dir), before, "nothing fires meanwhile");

    cli.ok(["schedules", "resume", "ticks", "--skip-missed"]);
    let resumed = until("it fires again", || {
        let view = show(&cli, "ticks");
        (fires(&view, "submitted").len() > before.len()).then_some(view)
    });
    assert_eq!(fires(&resumed, "missed").len(), 1, "the pause is one line of the history: {resumed}");
    cli.ok(["schedules", "delete", "ticks"]);
    cli.run(["schedules", "show", "ticks"]).refuses(2, &["there is no schedule `ticks`"]);
}

#[test]
fn a_killed_coordinator_neither_doubles_nor_loses_an_interval() {
    const KILLS: usize = 4;
    let mut cluster = cluster();
    let cli = cluster.cli();
    let file = cluster.pipeline("ticks", TICKS).to_string_lossy().into_owned();
    cli.ok(["schedules", "apply", &file]);
    for kill in 1..=KILLS {
        until("more intervals are executed", || (lines(cluster.dir(), "intervals").len() >= 2 * kill).then_some(()));
        cluster.kill_coordinator();
        cluster.start_coordinator();
    }
    let done = lines(cluster.dir(), "intervals").len();
    until("it goes on", || (lines(cluster.dir(), "intervals").len() > done + 1).then_some(()));
    cli.ok(["schedules", "pause", "ticks"]);
    let view = until("what was submitted has ended", || {
        let view = show(&cli, "ticks");
        let executed = lines(cluster.dir(), "intervals").len();
        (values::list(&view, "active").is_empty() && fires(&view, "submitted").len() == executed).then_some(view)
    });
    assert_eq!(chain(cluster.dir()), fires(&view, "submitted"));
    assert!(fires(&view, "missed").is_empty() && fires(&view, "overlapped").is_empty(), "{view}");
    assert_eq!(runs_of(&cli, "ticks"), fires(&view, "submitted").len(), "one run an interval");
    assert_eq!(cli.ok(["store", "verify"]).code, 0);
}

#[test]
fn a_fire_during_a_run_is_skipped_or_waits_as_the_file_says() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir());
    let text =
        GATED.replace("cron   = \"@daily\"", "every = \"1s\"\noverlap = \"skip\"").replace("start_date", "start");
    let file = cluster.pipeline("gated", &text).to_string_lossy().into_owned();
    let apply = || cli.json(["schedules", "apply", &file]);
    apply();
    let view = until("two fires are skipped", || {
        let view = show(&cli, "gated");
        (fires(&view, "overlapped").len() >= 2).then_some(view)
    });
    assert_eq!((fires(&view, "submitted").len(), runs_of(&cli, "gated")), (1, 1));
    assert_eq!(values::list(&view, "active").len(), 1);

    fs::write(&file, text.replace("\"skip\"", "\"queue\"")).unwrap();
    let applied = apply();
    assert_eq!((&applied["created"], &applied["changed"]), (&Value::Bool(false), &Value::Bool(true)));
    let waiting = until("two fires wait", || {
        let view = show(&cli, "gated");
        (values::list(&view, "waiting").len() >= 2).then_some(view)
    });
    assert_eq!(runs_of(&cli, "gated"), 1, "they wait without a run");
    let expected = values::text(&waiting, "waiting.0.start").to_owned();
    fs::write(dir.join("go"), "").unwrap();
    until("those that waited are executed", || lines(dir, "days").contains(&expected).then_some(()));
    cli.ok(["schedules", "pause", "gated"]);
    assert!(lines(dir, "widths").iter().all(|width| width.trim() == "1"), "never two at a time");
}

#[test]
fn a_backfill_of_ten_days_keeps_to_its_width_survives_a_kill_and_is_the_same_when_it_is_asked_for_again() {
    let mut cluster = cluster();
    let cli = cluster.cli();
    let file = cluster.pipeline("gated", GATED);
    let file = file.to_string_lossy().into_owned();
    let asked: Vec<&str> = ["backfill", &file].into_iter().chain(RANGE).chain(["--max-running", "2"]).collect();
    let with = |more: &[&'static str]| asked.iter().copied().chain(more.iter().copied()).collect::<Vec<_>>();
    let dry = cli.json(with(&["--dry-run"]));
    assert_eq!((count(&dry, "waiting"), runs_of(&cli, "gated")), (10, 0), "a dry run creates nothing");

    let made = cli.json(with(&["--no-wait"]));
    let id = values::text(&made, "backfill").to_owned();
    let two = |cli: &Cli| {
        until("two runs wait at the gate", || {
            let view = cli.json(["backfill", "show", &id]);
            let running = runs(&view).into_iter().filter(|run| !run.is_empty()).count();
            (running == 2 && lines(cluster.dir(), "widths").len() >= 2).then_some(view)
        })
    };
    let before = two(&cli);
    // Others are not held back.
    let other = cluster.pipeline("other", "[pipeline]\nname = \"other\"\n[tasks.a]\ncommand = [\"true\"]\n");
    assert_eq!(cli.run_pipeline(&other, &[])["state"], "succeeded");

    cluster.kill_coordinator();
    cluster.start_coordinator();
    let again = cli.json(with(&["--no-wait"]));
    assert_eq!(again["backfill"], made["backfill"], "the same that goes on");
    let after = cli.json(["backfill", "show", &id]);
    assert_eq!((runs(&after), runs_of(&cli, "gated")), (runs(&before), 2), "a kill adds no run");

    fs::write(cluster.dir().join("go"), "").unwrap();
    let done = cli.json(["backfill", "wait", &id]);
    assert_eq!((&done["state"], count(&done, "succeeded")), (&"succeeded".into(), 10));
    let expected: Vec<String> = (1..=10).map(|day| format!("2026-01-{day:02}")).collect();
    assert_eq!(lines(cluster.dir(), "days"), expected, "each day once");
    let widths: BTreeSet<String> = lines(cluster.dir(), "widths").iter().map(|width| width.trim().to_owned()).collect();
    assert!(widths.contains("2") && widths.iter().all(|width| ["1", "2"].contains(&width.as_str())), "{widths:?}");

    let same = cli.json(with(&[]));
    assert_eq!(runs(&same), runs(&done));
    // Over a store that fails, the end of an interval may be noted late: then its run is taken over by another one.
    assert!(same["backfill"] == made["backfill"] || program::store_faults().is_some(), "{same}");
    assert_eq!(runs_of(&cli, "gated"), 10);
    // A wider range executes what it adds, and keeps the rest.
    let wider = cli.json(["backfill", &file, "--from", "2026-01-01", "--to", "2026-01-13", "--reverse"]);
    assert_eq!((count(&wider, "kept"), count(&wider, "succeeded")), (10, 2));
    assert_eq!(cli.ok(["store", "verify"]).code, 0);
}

#[test]
fn a_cancelled_backfill_ends_its_runs_and_begins_no_other() {
    let cluster = cluster();
    let cli = cluster.cli();
    let file = cluster.pipeline("gated", GATED).to_string_lossy().into_owned();
    let made = cli.json(["backfill", &file, "--no-wait"].into_iter().chain(RANGE).collect::<Vec<_>>());
    let id = values::text(&made, "backfill").to_owned();
    until("four runs wait at the gate", || (lines(cluster.dir(), "widths").len() == 4).then_some(()));
    let cancelled = cli.json(["backfill", "cancel", &id]);
    assert_eq!(count(&cancelled, "cancelled"), 6, "what waited");
    let ended = cli.run(["backfill", "wait", &id, "-o", "json"]);
    assert_eq!(ended.code, 1, "a cancelled backfill is exit code 1");
    let ended = ended.json();
    assert_eq!((&ended["state"], count(&ended, "cancelled")), (&"cancelled".into(), 10));
    assert_eq!(runs_of(&cli, "gated"), 4);
    let left = until("no run is left", || {
        let runs = cli.json(["runs", "--pipeline", "gated"]);
        let open = runs
            .as_array()
            .unwrap()
            .iter()
            .filter(|run| run["state"] == "running" || run["state"] == "cancelling")
            .count();
        (open == 0).then_some(runs)
    });
    assert!(left.as_array().unwrap().iter().all(|run| run["state"] == "cancelled"), "{left}");
    cli.run(["backfill", "cancel", &id]).refuses(2, &["has ended"]);
}

#[test]
fn only_the_intervals_that_failed_are_executed_again_where_that_is_asked_for() {
    let cluster = cluster();
    let (cli, dir) = (cluster.cli(), cluster.dir());
    let text = r#"
[pipeline]
name = "flaky"
[params]
day = { type = "string" }
[tasks.day]
command = ["sh", "-c", "echo $0 >> days; [ $0 != 2026-01-03 ] || [ -e mended ]", "${params.day}"]
"#;
    let file = cluster.pipeline("flaky", text).to_string_lossy().into_owned();
    let base = [
        "backfill",
        &file,
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-06",
        "--cron",
        "@daily",
        "-p",
        "day=${interval.start_date}",
    ];
    let first = cli.run(base.iter().copied().chain(["-o", "json"]));
    assert_eq!(first.code, 1, "{}", first.stderr);
    let first = first.json();
    assert_eq!((count(&first, "failed"), count(&first, "succeeded")), (1, 4));
    assert_eq!(lines(dir, "days").len(), 5);

    fs::write(dir.join("mended"), "").unwrap();
    assert_eq!(cli.run(base).code, 1, "without a word nothing is executed again, and it did fail");
    let mended = cli.json(base.iter().copied().chain(["--reprocess", "failed"]));
    assert_eq!((count(&mended, "kept"), count(&mended, "succeeded")), (4, 1));
    assert_eq!(lines(dir, "days").len(), 6);
    let all = cli.json(base.iter().copied().chain(["--reprocess", "all"]));
    assert_eq!(count(&all, "succeeded"), 5);
    assert_eq!(lines(dir, "days").len(), 11);
    let known: BTreeSet<String> = runs(&first).into_iter().chain(runs(&mended)).collect();
    assert!(runs(&all).iter().all(|run| !known.contains(run)), "runs of their own");
}

#[test]
fn without_a_coordinator_a_backfill_is_executed_by_its_command() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("gated.toml");
    fs::write(&file, GATED).unwrap();
    fs::write(dir.path().join("go"), "").unwrap();
    let asked: Vec<&str> = ["backfill", "gated.toml"].into_iter().chain(RANGE).collect();
    let done = cli.json(&asked);
    assert_eq!((&done["state"], count(&done, "succeeded")), (&"succeeded".into(), 10));
    assert_eq!(lines(dir.path(), "days").len(), 10);
    let again = cli.json(&asked);
    assert_eq!((&again["backfill"], lines(dir.path(), "days").len()), (&done["backfill"], 10));
    assert_eq!(values::list(&cli.json(["backfill", "list"]), "").len(), 1);
    cli.run(["schedules", "apply", "gated.toml"]).refuses(3, &["no coordinator is running"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_words_that_help() {
    let cluster = cluster();
    let cli = cluster.cli();
    let plain = cluster.pipeline("plain", "[pipeline]\nname = \"plain\"\n[tasks.a]\ncommand = [\"true\"]\n");
    let plain = plain.to_string_lossy().into_owned();
    cli.run(["schedules", "apply", &plain]).refuses(2, &["plain", "has no schedule", "[schedule]"]);
    let bad = cluster.pipeline("bad", &GATED.replace("@daily", "0 25 * * *"));
    let bad = bad.to_string_lossy().into_owned();
    cli.run(["schedules", "apply", &bad]).refuses(2, &["P060", "`25` is no hour", "from 0 to 23"]);
    cli.run(["backfill", &plain].into_iter().chain(RANGE)).refuses(2, &["--every 1d"]);
    cli.run(["backfill", &plain, "--every", "soon"].into_iter().chain(RANGE)).refuses(2, &["--every soon"]);
    cli.run(["backfill", &plain, "--every", "1d", "--from", "x", "--to", "y"]).refuses(2, &["`from` is `x`"]);
    cli.run(["backfill", "nobody"].into_iter().chain(RANGE)).refuses(2, &["there is no schedule `nobody`"]);
    cli.run(["backfill", &plain]).refuses(2, &["--from"]);
    cli.run(["backfill", "show", "bf_0"]).refuses(2, &["there is no backfill"]);
    cli.run(["schedules", "trigger", "nobody"]).refuses(2, &["there is no schedule `nobody`"]);
}
