//! What of an earlier run is used again after a change: every task but the changed one and what follows it.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    artifact::{Artifact, NamedArtifact},
    ids::Digest,
    operator::Catalogue,
};

use crate::{
    core::cache,
    spec::{self, RunSpec, tests::fixture},
};

const SHIPPED: &str = include_str!("../../../../pipelines/customer-segmentation.toml");

const COMMANDS: &str = r#"
[pipeline]
name = "commands"
[params]
depth = 6
[tasks.clean]
command = ["clean"]
outputs = ["orders"]
cache = true
[tasks.rfm]
command = ["rfm"]
inputs = { orders = "clean.orders" }
outputs = ["customers"]
cache = true
[tasks.value]
command = ["value"]
inputs = { customers = "rfm.customers" }
with = { depth = "${params.depth}" }
outputs = ["scores"]
cache = true
[tasks.report]
command = ["report"]
inputs = { scores = "value.scores" }
outputs = ["page"]
cache = true
"#;

fn bound(text: &str, params: &[(&str, &str)], catalogue: &Catalogue) -> RunSpec {
    let checked = spec::check(text, "p.toml", catalogue);
    let pipeline = checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("p.toml", text, false)));
    let params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    spec::bind(&pipeline, catalogue, &params, "/work", false).unwrap()
}

/// Gives the cache key of each task, as if every task had made outputs that depend on nothing but its key.
fn keys(run: &RunSpec) -> BTreeMap<String, Option<String>> {
    let external: BTreeMap<String, String> =
        run.params.values().map(|place| (place.clone(), Digest::of(place.as_bytes()).to_string())).collect();
    let mut keys: Vec<Option<Option<String>>> = vec![None; run.tasks.len()];
    while keys.contains(&None) {
        for (at, task) in run.tasks.iter().enumerate() {
            if keys[at].is_some() || task.needs().iter().any(|&need| keys[need].is_none()) {
                continue;
            }
            let inputs: Vec<NamedArtifact> = task
                .inputs
                .iter()
                .map(|(name, from)| {
                    let made_by = keys[from.task].clone().flatten().unwrap_or_default();
                    let digest = Digest::of(format!("{made_by} {}", from.output).as_bytes());
                    let artifact = Artifact { digest, size_bytes: 1, kind: "file".to_owned(), schema: String::new() };
                    NamedArtifact::new(name.clone(), artifact)
                })
                .collect();
            keys[at] = Some(cache::key(task, &inputs, &external));
        }
    }
    run.tasks.iter().zip(keys).map(|(task, key)| (task.name.to_string(), key.flatten())).collect()
}

/// Gives the tasks of a second run that cannot use a result of the first.
fn executes(first: &RunSpec, second: &RunSpec) -> BTreeSet<String> {
    let known: BTreeSet<String> = keys(first).into_values().flatten().collect();
    keys(second)
        .into_iter()
        .filter(|(_, key)| key.as_ref().is_none_or(|key| !known.contains(key)))
        .map(|(task, _)| task)
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_changed_parameter_executes_its_task_and_what_follows_and_nothing_else() {
    let catalogue = fixture::catalogue();
    let shipped = |params: &[(&str, &str)]| {
        let all: Vec<_> = [("input", "orders.csv")].iter().chain(params).copied().collect();
        bound(SHIPPED, &all, &catalogue)
    };
    let first = shipped(&[]);
    assert_eq!(executes(&first, &shipped(&[])), set(&["register", "report"]), "these are made anew each time");
    let value = shipped(&[("horizon_days", "30")]);
    assert_eq!(executes(&first, &value), set(&["clv", "segments", "register", "report"]));
    let clusters = shipped(&[("min_cluster_share", "0.1")]);
    assert_eq!(executes(&first, &clusters), set(&["kmeans", "segments", "register", "report"]));
}

#[test]
fn another_version_of_an_operator_and_another_command_are_not_confused_with_the_old_ones() {
    let catalogue = fixture::catalogue();
    let input = [("input", "orders.csv")];
    let first = bound(SHIPPED, &input, &catalogue);
    let mut newer = catalogue.clone();
    let mut pca = newer.get("ml.pca").unwrap().clone();
    pca.version = "2".to_owned();
    newer.insert(pca);
    assert_eq!(executes(&first, &bound(SHIPPED, &input, &newer)), set(&["pca", "register", "report"]));

    let commands = |text: &str, params: &[(&str, &str)]| bound(text, params, &catalogue);
    let first = commands(COMMANDS, &[]);
    assert_eq!(executes(&first, &first), set(&[]));
    assert_eq!(executes(&first, &commands(COMMANDS, &[("depth", "7")])), set(&["value", "report"]));
    let other = COMMANDS.replace("[\"rfm\"]", "[\"rfm\", \"--fast\"]");
    assert_eq!(executes(&first, &commands(&other, &[])), set(&["rfm", "value", "report"]));
    let slower = COMMANDS.replace("command = [\"value\"]", "command = [\"value\"]\ntimeout = \"1h\"\nretry = 1");
    assert_eq!(executes(&first, &commands(&slower, &[])), set(&[]), "how often a task is tried changes no result");
}
