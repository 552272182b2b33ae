//! `[schedule]` of a pipeline file. What people see of bad ones is in `tests/diagnostics.rs`.

use std::collections::BTreeMap;

use crate::{
    schedule::{CatchUp, Interval, Overlap, ScheduleDecl, Trigger},
    spec::{Code, bind, interval_params},
};

use super::{catalogue, codes, good};

const BASE: &str = r#"
[pipeline]
name = "demo"
[params]
day   = { type = "string" }
since = { type = "string", default = "" }
limit = { type = "int", default = 5 }
list  = { type = "list", default = [] }
[tasks.a]
command = ["echo", "${params.day}", "${params.since}", "${params.limit}", "${params.list}"]
[schedule]
"#;

fn schedule(lines: &str) -> ScheduleDecl {
    good(&format!("{BASE}{lines}")).schedule.expect("the file has a schedule")
}

#[test]
fn a_schedule_has_defaults_for_everything_but_its_time() {
    let decl = schedule("cron = '@daily'\nparams = { day = '${interval.start_date}' }");
    assert_eq!(decl.trigger, Trigger::Cron("0 0 * * *".to_owned()));
    assert_eq!((decl.timezone.as_str(), decl.start, decl.end), ("UTC", None, None));
    assert_eq!((decl.catch_up, decl.overlap), (CatchUp::Last, Overlap::Skip));
    assert_eq!((decl.catch_up_window_ms, decl.jitter_ms), (7 * 86_400_000, 0));
    assert_eq!(good("[pipeline]\nname = 'x'\n[tasks.a]\nop = 'core.noop'").schedule, None);
}

#[test]
fn every_key_of_a_schedule_is_read() {
    let decl = schedule(
        "every = '15m'\ntimezone = 'Europe/Berlin'\nstart = '2026-01-01'\nend = '2026-02-01T00:00:00Z'\n\
         catch_up = 'all'\ncatch_up_window = '30d'\noverlap = 'cancel_running'\njitter = '30s'\n\
         params = { day = 'x', limit = 7 }",
    );
    assert_eq!(decl.trigger, Trigger::Every(900_000));
    assert_eq!((decl.start, decl.end), (Some(1_767_222_000_000), Some(1_769_904_000_000)), "midnight in Berlin");
    assert_eq!((decl.catch_up, decl.overlap), (CatchUp::All, Overlap::CancelRunning));
    assert_eq!((decl.catch_up_window_ms, decl.jitter_ms), (30 * 86_400_000, 30_000));
}

#[test]
fn the_run_of_an_interval_is_bound_to_its_facts() {
    let text = format!(
        "{BASE}cron = '@daily'\ntimezone = 'Europe/Berlin'\n[schedule.params]\nday = 'day-${{interval.start_date}}'\n\
         since = '${{interval.start}}'\nlimit = 7\nlist = ['a', 'b']"
    );
    let pipeline = good(&text);
    let day = Interval { start: 1_767_222_000_000, end: 1_767_308_400_000 };
    let params = interval_params(pipeline.schedule.as_ref().unwrap(), day).unwrap();
    let spec = bind(&pipeline, &catalogue(), &params, "/data", false).unwrap();
    let expected =
        [("day", "day-2026-01-01"), ("limit", "7"), ("list", r#"["a","b"]"#), ("since", "2026-01-01T00:00:00+01:00")];
    assert_eq!(spec.params, BTreeMap::from(expected.map(|(name, value)| (name.to_owned(), value.to_owned()))));
}

#[test]
fn a_schedule_that_cannot_start_a_run_is_refused() {
    let of = |lines: &str| codes(&format!("{BASE}{lines}"));
    assert_eq!(of("cron = '@daily'"), [Code::MissingParam]);
    assert_eq!(of("cron = '@daily'\nparams = { day = 1 }"), [Code::BadValue]);
    assert_eq!(of("cron = '@daily'\nparams = { day = '${params.limit}' }"), [Code::BadIntervalReference]);
    assert_eq!(of("cron = '@daily'\nparams = { day = '$${x}', limit = '${interval.end}' }"), [Code::BadValue]);
    assert_eq!(of("every = '0s'\nparams = { day = 'x' }"), [Code::BadDuration]);
    assert_eq!(of("every = '1.5s'\nparams = { day = 'x' }"), [Code::BadSchedule]);
    assert_eq!(of("cron = '0 0 31 4 *'\nparams = { day = 'x' }"), [Code::BadCron]);
}

#[test]
fn a_schedule_is_part_of_the_version_and_its_spelling_is_not() {
    let version = |lines: &str| good(&format!("{BASE}{lines}")).version();
    let base = version("cron = '0 3 * * *'\nparams = { day = 'x', limit = 7 }");
    assert_eq!(
        version("params = { limit = 7, day = 'x' }\ncron = ' 0  3 * * * '\noverlap = 'skip'\ntimezone = 'UTC'"),
        base
    );
    for other in [
        "cron = '0 4 * * *'\nparams = { day = 'x', limit = 7 }",
        "cron = '0 3 * * *'\nparams = { day = 'y', limit = 7 }",
        "cron = '0 3 * * *'\nparams = { day = 'x', limit = 7 }\noverlap = 'queue'",
        "cron = '0 3 * * *'\nparams = { day = 'x', limit = 7 }\njitter = '1s'",
    ] {
        assert_ne!(version(other), base, "{other}");
    }
}
