//! Pipeline files: any text is checked, shown and drawn; what is good is bound, fires, runs to its end, and never breaks a rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use segue_coordinator::{
    schedule::Plan,
    server::desk::Desk,
    spec::{Pipeline, bind, check, diff, graph, interval_params},
};
use segue_proto::{ids::RunId, operator::Catalogue};

use crate::{
    honest::{self, BEGINNING, Honest, LEASE_MS},
    rules,
};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(honest::catalogue);

/// Fires of a schedule that are looked at.
const FIRES: usize = 5;
/// Tasks of a run that is played. Larger ones take their time and show nothing new.
const MOST_TASKS: usize = 24;
/// Children that a run may have to be played.
const MOST_CHILDREN: usize = 64;

/// Runs the target.
///
/// # Panics
/// If a rule is broken.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let checked = check(text, "fuzz.toml", &CATALOGUE);
    for diagnostic in &checked.diagnostics {
        if let Some(place) = diagnostic.place {
            assert!(place.line >= 1 && place.column >= 1 && place.length >= 1);
            assert!(place.offset <= text.len() && text.is_char_boundary(place.offset));
        }
        let _ = diagnostic.render("fuzz.toml", text, true);
    }
    let errors = checked.diagnostics.iter().any(|diagnostic| diagnostic.is_error());
    assert_eq!(checked.pipeline.is_none(), errors);
    if let Some(pipeline) = checked.pipeline {
        good(&pipeline);
    }
}

fn good(pipeline: &Pipeline) {
    let _ = (pipeline.version(), graph::dot(pipeline), graph::mermaid(pipeline), graph::json(pipeline));
    assert!(diff::pipelines(pipeline, pipeline).tasks.is_empty(), "a pipeline differs from itself");
    let mut params = BTreeMap::from([("input".to_owned(), "orders.csv".to_owned())]);
    if let Some(schedule) = &pipeline.schedule {
        let plan = Plan::new("fuzz", schedule.clone()).unwrap_or_else(|e| panic!("it was checked: {e}"));
        let mut at = BEGINNING;
        for _ in 0..FIRES {
            let Some(interval) = plan.after(at) else { break };
            assert!(interval.start < interval.end && interval.end > at, "{interval:?} after {at}");
            assert!(plan.starts(interval) >= interval.end);
            params.extend(interval_params(schedule, interval).unwrap_or_else(|e| panic!("it was checked: {e}")));
            at = interval.end;
        }
    }
    let known: BTreeSet<&str> = pipeline.params.iter().map(|param| param.name.as_str()).collect();
    params.retain(|name, _| known.contains(name.as_str()));
    let Ok(spec) = bind(pipeline, &CATALOGUE, &params, "/data", false) else { return };
    let again = bind(pipeline, &CATALOGUE, &spec.params, "/data", false);
    assert_eq!(again.as_ref(), Ok(&spec), "binding a run's own parameters must give the same run");
    if spec.tasks.len() <= MOST_TASKS {
        play(&Arc::new(spec));
    }
}

/// Submits a run to a coordinator with one worker and sees it through, as far as that worker can.
fn play(spec: &Arc<segue_coordinator::spec::RunSpec>) {
    let mut desk = Desk::start(Vec::new(), LEASE_MS, BEGINNING).unwrap_or_else(|e| panic!("{e}"));
    let Some(mut worker) = Honest::connect(&mut desk, honest::hello("honest", &[])) else { return };
    let accepted = desk.submit(RunId::new(1), spec).unwrap_or_else(|e| panic!("{e}"));
    if accepted.is_err() {
        return;
    }
    rules::check(desk.core(), false);
    if desk.core().runs().any(|run| run.indices().count() > MOST_TASKS + MOST_CHILDREN) {
        return;
    }
    let _ = honest::finish(&mut desk, &mut worker, 4 * (MOST_TASKS + MOST_CHILDREN));
    rules::check(desk.core(), false);
    rules::check_kept(&desk);
}
