#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, collections::BTreeMap, fs, sync::Arc};

use segue_proto::{
    artifact::{Artifact, NamedArtifact},
    ids::{Digest, RunId},
};

use super::*;
use crate::{
    core::{CachedResult, Config, Core, Event, FIRST_CHILD, Past, TaskState},
    server::globs,
    spec::{bind, check, tests::fixture},
};

const GLOB: &str = r#"
[pipeline]
name = "x"
[tasks.a]
command = ["wc"]
cache   = true
with    = { file = "${item}" }
foreach = { glob = "in/*.csv" }
"#;

const LIST: &str = r#"
[pipeline]
name = "x"
[params]
names = { type = "list", default = ["b", "c"] }
[tasks.a]
op      = "retail.clean"
with    = { path = "in/${item}.csv" }
foreach = ["a", "${params.names}", "nowhere"]
"#;

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("in")).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(folder.path().join(format!("in/{name}.csv")), name).unwrap();
    }
    folder
}

fn bound(text: &str, folder: &Path) -> RunSpec {
    let catalogue = fixture::catalogue();
    let checked = check(text, "x.toml", &catalogue);
    let pipeline = checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("x.toml", text, false)));
    let mut spec = bind(&pipeline, &catalogue, &BTreeMap::new(), folder.to_str().unwrap(), false).unwrap();
    globs::expand_globs(&mut spec).unwrap();
    spec
}

/// What was asked of the cache, and what it knows.
#[derive(Default)]
struct Memory {
    asked: RefCell<BTreeSet<String>>,
    known: BTreeSet<String>,
}

impl Past for Memory {
    fn cached(&self, key: &str) -> Option<CachedResult> {
        self.asked.borrow_mut().insert(key.to_owned());
        let digest = Digest::of(key.as_bytes());
        let artifact = Artifact { digest, size_bytes: 1, kind: "file".to_owned(), schema: String::new() };
        let outputs = vec![NamedArtifact::new("out", artifact)];
        self.known.contains(key).then(|| CachedResult { outputs, ..CachedResult::default() })
    }
}

/// Submits a run over what the cache knows; gives the keys of the children that execute.
async fn executes(text: &str, folder: &Path, memory: &mut Memory) -> Vec<String> {
    let spec = Arc::new(bound(text, folder));
    let id: RunId = "run_01j8zk5m8w0000000000000000".parse().unwrap();
    let mut run = Run::new(id, Arc::clone(&spec), String::new(), 0);
    run.external_inputs = digests(&spec).await;
    let mut core = Core::new(Config { epoch: 1, lease_ms: 1_000 });
    core.decide(Event::Submit(Box::new(run)), 0, memory).unwrap();
    let asked = memory.asked.take();
    memory.known.extend(asked);
    let Some(run) = core.run(&id) else { return Vec::new() };
    let children = FIRST_CHILD..FIRST_CHILD + u32::try_from(run.children.len()).unwrap();
    let executing = children.filter(|&child| run.task(child).unwrap().state == TaskState::Ready);
    executing.map(|child| run.item_of(child).unwrap().key.as_str().split('.').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_child_executes_again_exactly_when_its_own_file_changed() {
    let folder = folder();
    let mut memory = Memory::default();
    assert_eq!(executes(GLOB, folder.path(), &mut memory).await, ["a", "b", "c"]);
    assert_eq!(memory.known.len(), 3, "each child has a key of its own");
    assert!(executes(GLOB, folder.path(), &mut memory).await.is_empty(), "nothing has changed");
    fs::write(folder.path().join("in/b.csv"), "changed").unwrap();
    assert_eq!(executes(GLOB, folder.path(), &mut memory).await, ["b"]);
    fs::write(folder.path().join("in/d.csv"), "new").unwrap();
    assert_eq!(executes(GLOB, folder.path(), &mut memory).await, ["d"]);
}

#[tokio::test]
async fn children_of_lists_and_parameters_are_digested_where_their_file_is_there() {
    let folder = folder();
    let mut memory = Memory::default();
    assert_eq!(executes(LIST, folder.path(), &mut memory).await, ["a", "b", "c", "nowhere"]);
    fs::write(folder.path().join("in/c.csv"), "changed").unwrap();
    let again = executes(LIST, folder.path(), &mut memory).await;
    assert_eq!(again, ["c", "nowhere"], "what cannot be read here is never taken from the cache");
}

#[tokio::test]
async fn too_many_children_are_not_digested_but_a_path_of_all_of_them_is() {
    let folder = folder();
    let many = |to: u64| {
        let text = LIST.replace("[\"a\", \"${params.names}\", \"nowhere\"]", &format!("{{ range = {to} }}"));
        let text = text.replace("[params]\nnames = { type = \"list\", default = [\"b\", \"c\"] }\n", "");
        places(&bound(&text, folder.path()))[0].len() as u64
    };
    assert_eq!(many(MOST_CHILDREN), MOST_CHILDREN + 1, "and the template, which is no file");
    assert_eq!(many(MOST_CHILDREN + 1), 1);
    let constant = LIST.replace("in/${item}.csv", "in/a.csv").replace("[\"a\"", "[\"z\"");
    let spec = bound(&constant, folder.path());
    let file = format!("{}/in/a.csv", folder.path().display());
    assert_eq!(digests(&spec).await.into_keys().collect::<Vec<_>>(), [file]);
}

#[tokio::test]
async fn children_whose_results_are_not_reused_are_not_read() {
    let folder = folder();
    let spec = bound(&GLOB.replace("cache   = true\n", ""), folder.path());
    assert!(digests(&spec).await.is_empty());
}

#[tokio::test]
async fn lineage_names_the_file_of_a_child() {
    let folder = folder();
    let spec = Arc::new(bound(GLOB, folder.path()));
    let mut core = Core::new(Config { epoch: 1, lease_ms: 1_000 });
    let id: RunId = "run_01j8zk5m8w0000000000000000".parse().unwrap();
    let run = Run::new(id, spec, String::new(), 0);
    core.decide(Event::Submit(Box::new(run)), 0, &Memory::default()).unwrap();
    let of = of_task(core.run(&id).unwrap(), FIRST_CHILD + 1);
    assert_eq!(of, [("file".to_owned(), format!("{}/in/b.csv", folder.path().display()))]);
}
