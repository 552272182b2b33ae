#![allow(clippy::unwrap_used)]

use segue_proto::ids::RunId;

use super::*;
use crate::store::{
    MemoryStore,
    testing::{run, run_record},
};

fn text(name: &str, seed: u32) -> String {
    format!("[pipeline]\nname = \"{name}\"\n[tasks.a]\ncommand = [\"true\"]\nwith = {{ seed = {seed} }}\n")
}

/// Submits as the actor does, and gives the version.
fn submit(store: &MemoryStore, text: &str, at: u64, n: u32) -> String {
    let pipeline = spec::check(text, "p.toml", &Catalogue::default()).pipeline.unwrap();
    let version = pipeline.version();
    let record = PipelineRecord {
        name: pipeline.name.to_string(),
        version: version.to_string(),
        text: text.to_owned(),
        path: "/x/p.toml".to_owned(),
        created_ms: at,
        operators: operators(&pipeline, &Catalogue::default()),
    };
    let mut batch = Batch::new();
    batch.put(&Key::Pipeline(version.clone()), &record);
    let id: RunId = run(n);
    let run = RunRecord {
        pipeline: record.name.clone(),
        version: version.to_string(),
        state: v1::RunState::Failed.into(),
        ..run_record(&id, 1)
    };
    batch.put(&Key::Run(id), &run);
    index(store, &mut batch, &record, &id);
    store.apply(&batch).unwrap();
    version.to_string()
}

fn message(store: &MemoryStore, reference: &str) -> String {
    get(store, reference).unwrap_err().to_string()
}

#[test]
fn pipelines_are_listed_by_name_with_versions_in_the_order_of_submission_and_the_last_run() {
    let store = MemoryStore::new();
    let first = submit(&store, &text("nightly", 1), 10, 1);
    let second = submit(&store, &text("nightly", 2), 20, 2);
    submit(&store, &text("a", 1), 15, 3);
    submit(&store, &text("nightly-2", 1), 15, 4);
    // The first version again: now it is the latest.
    assert_eq!(submit(&store, &text("nightly", 1), 30, 5), first);
    let listed = list(&store).unwrap();
    let names: Vec<_> = listed.iter().map(|view| (view.name.as_str(), view.runs)).collect();
    assert_eq!(names, [("a", 1), ("nightly", 3), ("nightly-2", 1)]);
    let versions: Vec<_> =
        listed[1].versions.iter().map(|one| (one.version.as_str(), one.first_ms, one.last_ms)).collect();
    assert_eq!(versions, [(second.as_str(), 20, 20), (first.as_str(), 10, 30)]);
    let last = listed[1].last_run.as_ref().unwrap();
    assert_eq!((last.run_id.as_str(), last.state()), (run(5).to_string().as_str(), v1::RunState::Failed));
}

#[test]
fn a_reference_names_the_latest_the_one_before_or_the_start_of_a_version() {
    let store = MemoryStore::new();
    let first = submit(&store, &text("nightly", 1), 10, 1);
    assert!(message(&store, "nightly@previous").contains("no version of pipeline `nightly` before"));
    let second = submit(&store, &text("nightly", 2), 20, 2);
    let version = |reference: &str| get(&store, reference).unwrap().version;
    assert_eq!((version("nightly"), version("nightly@latest")), (second.clone(), second.clone()));
    assert_eq!(version("nightly@previous"), first);
    assert_eq!(version(&format!("nightly:{}", &first[..8])), first);
    let found = get(&store, "nightly").unwrap();
    assert_eq!(
        (found.text.as_str(), found.path.as_str(), found.latest),
        (text("nightly", 2).as_str(), "/x/p.toml", true)
    );
    assert!(!get(&store, "nightly@previous").unwrap().latest);
}

#[test]
fn what_does_not_exist_is_answered_with_what_is_nearest() {
    let store = MemoryStore::new();
    assert!(message(&store, "nightly").contains("nothing has been submitted yet"));
    let version = submit(&store, &text("nightly", 1), 10, 1);
    assert!(message(&store, "nigthly").contains("did you mean `nightly`?"));
    assert!(message(&store, "weather").contains("segue pipelines list"));
    assert!(message(&store, "nightly:zz").contains(&version[..12]));
    assert!(message(&store, "nightly:").contains("there is no version"));
    assert!(message(&store, "nightly@champion").contains("NAME@latest"));
    assert!(message(&store, "Nicht/gut").contains("there is no pipeline"));
}

#[test]
fn two_versions_differ_in_text_and_in_meaning() {
    let store = MemoryStore::new();
    submit(&store, &text("nightly", 1), 10, 1);
    submit(&store, &text("nightly", 2), 20, 2);
    let request = |from: &str, to: &str| v1::DiffPipelinesRequest {
        name: "nightly".to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let found = compare(&store, &Catalogue::default(), &request("previous", "latest")).unwrap();
    assert!(found.unified.contains("-with = { seed = 1 }\n+with = { seed = 2 }"), "{}", found.unified);
    assert_eq!(found.unstructured, "");
    assert_eq!((found.tasks.len(), found.tasks[0].task.as_str()), (1, "a"));
    let field = &found.tasks[0].fields[0];
    assert_eq!(
        (field.aspect.as_str(), field.field.as_str(), field.before_json.as_str(), field.after_json.as_str()),
        ("params", "with.seed", "1", "2")
    );
    let same = compare(&store, &Catalogue::default(), &request("latest", "latest")).unwrap();
    assert!(same.unified.is_empty() && same.tasks.is_empty() && same.pipeline.is_empty());
}

#[test]
fn versions_are_compared_with_the_operators_of_their_submission_and_else_the_reason_is_told() {
    let store = MemoryStore::new();
    let noop = segue_proto::operator::OperatorSpec::new("core.noop", "1", "");
    let known: Catalogue = [noop].into_iter().collect();
    for (at, task) in [(10, "a"), (20, "b")] {
        let text = format!("[pipeline]\nname = \"nightly\"\n[tasks.{task}]\nop = \"core.noop\"\n");
        let pipeline = spec::check(&text, "p.toml", &known).pipeline.unwrap();
        let record = PipelineRecord {
            name: "nightly".to_owned(),
            version: pipeline.version().to_string(),
            text,
            created_ms: at,
            // The first was submitted before operators were kept.
            operators: if at == 10 { Vec::new() } else { operators(&pipeline, &known) },
            ..Default::default()
        };
        let mut batch = Batch::new();
        batch.put(&Key::Pipeline(pipeline.version()), &record);
        index(&store, &mut batch, &record, &run(at as u32));
        store.apply(&batch).unwrap();
    }
    let request = |from: &str| v1::DiffPipelinesRequest {
        name: "nightly".to_owned(),
        from: from.to_owned(),
        to: "latest".to_owned(),
    };
    let nobody = Catalogue::default();
    assert_eq!(compare(&store, &nobody, &request("latest")).unwrap().unstructured, "");
    let found = compare(&store, &nobody, &request("previous")).unwrap();
    assert!(found.unstructured.contains("core.noop") && found.tasks.is_empty(), "{}", found.unstructured);
    assert!(!found.unified.is_empty());
    let found = compare(&store, &known, &request("previous")).unwrap();
    let kinds: Vec<_> = found.tasks.iter().map(|task| (task.task.as_str(), task.kind())).collect();
    assert_eq!(kinds, [("a", v1::TaskDiffKind::Dropped), ("b", v1::TaskDiffKind::Added)]);
}

#[test]
fn a_store_without_the_index_gets_it_once() {
    let store = MemoryStore::new();
    submit(&store, &text("nightly", 1), 10, 1);
    let mut batch = Batch::new();
    for (key, _) in store.scan(&[], None, 99).unwrap() {
        if matches!(Key::decode(&key), Ok(Key::PipelineVersion { .. } | Key::PipelineRun { .. })) {
            batch.delete_raw(key);
        }
    }
    store.apply(&batch).unwrap();
    assert!(list(&store).unwrap().is_empty());
    let mut batch = Batch::new();
    index_old_store(&store, &mut batch).unwrap();
    store.apply(&batch).unwrap();
    let listed = list(&store).unwrap();
    assert_eq!((listed.len(), listed[0].runs, listed[0].versions[0].last_ms), (1, 1, 10));
    let mut again = Batch::new();
    index_old_store(&store, &mut again).unwrap();
    assert!(again.is_empty());
}
