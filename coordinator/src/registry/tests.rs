#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use segue_proto::ids::{RunId, TaskRef};

use super::*;
use crate::store::{
    Code, MemoryStore,
    testing::{artifact, named, run},
};

struct Origin {
    run: RunId,
    task: TaskRef,
    attempt: u32,
    outputs: Vec<v1::NamedArtifact>,
    external: BTreeMap<String, String>,
}

fn origin(n: u32, documents: &[&[u8]]) -> Origin {
    Origin {
        run: run(n),
        task: "register".parse().unwrap(),
        attempt: 1,
        outputs: documents.iter().map(|bytes| named("model", bytes)).collect(),
        external: BTreeMap::from([("input".to_owned(), "d".to_owned())]),
    }
}

impl Origin {
    fn lineage(&self) -> Lineage<'_> {
        Lineage {
            run: &self.run,
            task: &self.task,
            attempt: self.attempt,
            pipeline: "demo",
            pipeline_version: "v",
            inputs: &self.outputs,
            outputs: &[],
            external_inputs: &self.external,
            now_ms: 9,
        }
    }
}

fn model(name: &str, document: &[u8], aliases: &[&str]) -> v1::ModelRegistration {
    v1::ModelRegistration {
        name: name.to_owned(),
        kind: "kmeans".to_owned(),
        artifact_digest: artifact(document).digest,
        metrics_json: "{\"silhouette\":0.4}".to_owned(),
        aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        ..Default::default()
    }
}

/// Registers in a batch of its own and gives the numbers.
fn registered(store: &MemoryStore, models: &[v1::ModelRegistration], from: &Origin) -> Vec<u32> {
    let mut batch = Batch::new();
    let numbers = register(store, &mut batch, models, &from.lineage()).unwrap();
    store.apply(&batch).unwrap();
    numbers.into_iter().map(|(_, number)| number).collect()
}

#[test]
fn versions_count_up_and_carry_their_lineage() {
    let store = MemoryStore::new();
    assert_eq!(registered(&store, &[model("km", b"1", &["champion"])], &origin(1, &[b"1"])), [1]);
    assert_eq!(registered(&store, &[model("km", b"2", &[])], &origin(2, &[b"2"])), [2]);
    let view = get(&store, "km").unwrap();
    assert_eq!((view.chosen, view.versions.len(), view.aliases["champion"]), (2, 2, 1));
    let first = &view.versions[0];
    assert_eq!(first.artifact, Some(artifact(b"1")));
    assert_eq!(
        (first.run_id.as_str(), first.task.as_str(), first.attempt),
        (run(1).to_string().as_str(), "register", 1)
    );
    assert_eq!((first.pipeline.as_str(), first.pipeline_version.as_str(), first.created_ms), ("demo", "v", 9));
    assert_eq!((first.inputs.len(), first.external_inputs["input"].as_str()), (1, "d"));
    assert_eq!(first.metrics_json, "{\"silhouette\":0.4}");
    assert_eq!(version(&store, &"km".parse().unwrap(), 2).unwrap().unwrap().version, 2);
}

#[test]
fn a_report_sent_twice_registers_once_also_within_one_batch() {
    let store = MemoryStore::new();
    let from = origin(1, &[b"1", b"2"]);
    let models = [model("km", b"1", &["champion"]), model("km", b"2", &[])];
    let mut batch = Batch::new();
    for _ in 0..2 {
        let numbers = register(&store, &mut batch, &models, &from.lineage()).unwrap();
        assert_eq!(numbers.iter().map(|&(_, number)| number).collect::<Vec<_>>(), [1, 2]);
    }
    store.apply(&batch).unwrap();
    assert_eq!(registered(&store, &models, &from), [1, 2]);
    let mut later = origin(1, &[b"1", b"2"]);
    later.attempt = 2;
    assert_eq!(registered(&store, &models, &later), [3, 4], "another attempt makes versions of its own");
}

#[test]
fn two_writers_that_choose_the_same_number_cannot_both_commit() {
    let store = MemoryStore::new();
    let (mut one, mut two) = (Batch::new(), Batch::new());
    register(&store, &mut one, &[model("km", b"1", &[])], &origin(1, &[b"1"]).lineage()).unwrap();
    register(&store, &mut two, &[model("km", b"2", &[])], &origin(2, &[b"2"]).lineage()).unwrap();
    store.apply(&one).unwrap();
    assert_eq!(store.apply(&two).unwrap_err().code(), Code::Conflict);
}

#[test]
fn a_registration_that_makes_no_sense_is_refused_and_adds_nothing() {
    let store = MemoryStore::new();
    let from = origin(1, &[b"1"]);
    let bad_json = v1::ModelRegistration { params_json: "[1]".to_owned(), ..model("km", b"1", &[]) };
    let bad_digest = v1::ModelRegistration { artifact_digest: "xyz".to_owned(), ..model("km", b"1", &[]) };
    for bad in [model("KM", b"1", &[]), model("km", b"1", &["7"]), model("km", b"strange", &[]), bad_json, bad_digest] {
        let mut batch = Batch::new();
        let error = register(&store, &mut batch, &[model("ok", b"1", &[]), bad], &from.lineage()).unwrap_err();
        assert_eq!(error.code(), Code::Model, "{error}");
        assert!(batch.is_empty());
    }
}

#[test]
fn an_alias_moves_and_says_where_it_was() {
    let store = MemoryStore::new();
    registered(&store, &[model("km", b"1", &[])], &origin(1, &[b"1"]));
    registered(&store, &[model("km", b"2", &[])], &origin(2, &[b"2"]));
    let (name, alias) = ("km".parse().unwrap(), "champion".parse().unwrap());
    for (version, previous) in [(1, 0), (2, 1), (1, 2)] {
        let mut batch = Batch::new();
        assert_eq!(set_alias(&store, &mut batch, &name, &alias, version).unwrap(), previous);
        store.apply(&batch).unwrap();
        assert_eq!(get(&store, "km@champion").unwrap().chosen, version);
        assert_eq!(store.apply(&batch).unwrap_err().code(), Code::Conflict, "it has moved since it was read");
    }
    let error = set_alias(&store, &mut Batch::new(), &name, &alias, 3).unwrap_err();
    assert!(error.to_string().contains("from 1 to 2"), "{error}");
}

#[test]
fn what_does_not_exist_is_answered_with_what_is_nearest() {
    let store = MemoryStore::new();
    let message = |reference: &str| get(&store, reference).unwrap_err().to_string();
    assert!(message("km").contains("no model has been registered yet"));
    registered(&store, &[model("customer-kmeans", b"1", &["champion"])], &origin(1, &[b"1"]));
    assert!(message("customer-kmean").contains("did you mean `customer-kmeans`?"));
    assert!(message("weather").contains("segue models list"));
    assert!(message("customer-kmeans@champoin").contains("did you mean `customer-kmeans@champion`?"));
    assert!(message("customer-kmeans@blue").contains("it has `champion`"));
    assert!(message("customer-kmeans:4").contains("from 1 to 1"));
}

#[test]
fn models_are_listed_by_name_and_do_not_mix() {
    let store = MemoryStore::new();
    let documents: [&[u8]; 3] = [b"1", b"2", b"3"];
    let models = [model("b", b"1", &["x"]), model("a-2", b"2", &[]), model("a", b"3", &["y"])];
    registered(&store, &models, &origin(1, &documents));
    registered(&store, &models, &origin(2, &documents));
    let views = list(&store).unwrap();
    let shown: Vec<_> =
        views.iter().map(|v| (v.name.as_str(), v.versions.len(), v.chosen, v.aliases.clone())).collect();
    let alias = |name: &str| BTreeMap::from([(name.to_owned(), 2)]);
    assert_eq!(shown, [("a", 2, 2, alias("y")), ("a-2", 2, 2, BTreeMap::new()), ("b", 2, 2, alias("x"))]);
}
