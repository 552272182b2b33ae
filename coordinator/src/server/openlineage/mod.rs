//! Events in the words of OpenLineage (<https://openlineage.io>), so that catalogues of lineage show runs, tasks and
//! artifacts without knowing Segue. A pure function of one event.
//!
//! A run is a run of the job `PIPELINE`, an attempt one of the job `PIPELINE.TASK` with the former as its parent. An
//! artifact is a version of the dataset `PIPELINE.TASK.OUTPUT`, and its digest is both that version and another name of
//! the dataset, so that equal content is recognised wherever it comes from. External inputs are datasets under the
//! names that OpenLineage gives to files and objects.

pub mod send;

use segue_proto::v1::{self, EventKind as Kind};
use serde_json::{Map, Value, json};

use super::feed::json::time;

/// Who says all this.
const PRODUCER: &str = concat!("urn:segue:coordinator:", env!("CARGO_PKG_VERSION"));
const SPEC: &str = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/";

/// Most fields of a schema that are repeated.
const MOST_FIELDS: usize = 500;

/// Gives what an event says in OpenLineage: nothing for most kinds, a start and an end for a task found in the cache.
#[must_use]
pub fn run_events(event: &v1::FeedEvent, namespace: &str) -> Vec<Value> {
    let lineage = Lineage { event, namespace };
    match event.kind() {
        Kind::RunStarted => vec![lineage.of_run("START")],
        Kind::RunSucceeded => vec![lineage.of_run("COMPLETE")],
        Kind::RunFailed => vec![lineage.of_run("FAIL")],
        Kind::RunCancelled => vec![lineage.of_run("ABORT")],
        Kind::TaskStarted => vec![lineage.of_task("START")],
        Kind::TaskSucceeded if event.cached => vec![lineage.of_task("START"), lineage.of_task("COMPLETE")],
        Kind::TaskSucceeded => vec![lineage.of_task("COMPLETE")],
        // Without an attempt nothing was ever started.
        Kind::TaskFailed | Kind::TaskTimedOut | Kind::TaskLost if event.attempt > 0 => vec![lineage.of_task("FAIL")],
        Kind::TaskHandedBack | Kind::TaskCancelled if event.attempt > 0 => vec![lineage.of_task("ABORT")],
        _ => Vec::new(),
    }
}

struct Lineage<'a> {
    event: &'a v1::FeedEvent,
    namespace: &'a str,
}

impl Lineage<'_> {
    fn of_run(&self, kind: &str) -> Value {
        let mut facets = self.run_facets();
        self.add_error(kind, &mut facets);
        self.document(kind, &self.run_id(), facets, &self.event.pipeline, "DAG")
    }

    fn of_task(&self, kind: &str) -> Value {
        let event = self.event;
        let mut facets = self.run_facets();
        self.add_error(kind, &mut facets);
        let parent = json!({
            "run": { "runId": self.run_id() },
            "job": { "namespace": self.namespace, "name": event.pipeline },
        });
        facets.insert("parent".to_owned(), facet("1-0-1/ParentRunFacet", parent));
        let run_id = uuid(event, &format!("{}/{}/{}/{}", event.run_id, event.generation, event.task, event.attempt));
        let job = format!("{}.{}", event.pipeline, event.task);
        let mut document = self.document(kind, &run_id, facets, &job, "TASK");
        let inputs = event.inputs.iter().map(|input| self.input(input));
        let external = event.external_inputs.iter().map(|input| self.external(input));
        document["inputs"] = inputs.chain(external).collect();
        // Of a task from the cache, the start tells what it takes and the end what it gives.
        let outputs = event.outputs.iter().filter(|_| kind == "COMPLETE");
        document["outputs"] = outputs.map(|output| self.output(output)).collect();
        document
    }

    fn document(&self, kind: &str, run_id: &str, run_facets: Map<String, Value>, job: &str, job_type: &str) -> Value {
        let job_type = json!({ "processingType": "BATCH", "integration": "SEGUE", "jobType": job_type });
        json!({
            "eventType": kind,
            "eventTime": time(self.event.time_ms),
            "producer": PRODUCER,
            "schemaURL": format!("{SPEC}RunEvent"),
            "run": { "runId": run_id, "facets": run_facets },
            "job": {
                "namespace": self.namespace,
                "name": job,
                "facets": { "jobType": facet("2-0-3/JobTypeJobFacet", job_type) },
            },
            "inputs": [],
            "outputs": [],
        })
    }

    /// Identifies a run. A rerun is another one: what has ended does not start again.
    fn run_id(&self) -> String {
        uuid(self.event, &format!("{}/{}", self.event.run_id, self.event.generation))
    }

    fn run_facets(&self) -> Map<String, Value> {
        let event = self.event;
        let engine = json!({ "name": "segue", "version": env!("CARGO_PKG_VERSION") });
        let mut own = json!({
            "_producer": PRODUCER,
            "_schemaURL": format!("{SPEC}RunFacet"),
            "run": event.run_id,
            "version": event.version,
            "generation": event.generation,
            "offset": event.offset,
        });
        if event.attempt > 0 {
            own["attempt"] = json!(event.attempt);
            own["worker"] = json!(event.worker);
        }
        if event.cached {
            own["cached"] = json!(true);
        }
        Map::from_iter([
            ("processing_engine".to_owned(), facet("1-1-1/ProcessingEngineRunFacet", engine)),
            ("segue".to_owned(), own),
        ])
    }

    fn add_error(&self, kind: &str, facets: &mut Map<String, Value>) {
        if kind == "FAIL" {
            let error = json!({ "message": self.event.message, "programmingLanguage": "unknown" });
            facets.insert("errorMessage".to_owned(), facet("1-0-1/ErrorMessageRunFacet", error));
        }
    }

    fn input(&self, input: &v1::EventInput) -> Value {
        let digest = input.artifact.as_ref().map_or("", |artifact| artifact.digest.as_str());
        let name = if input.task.is_empty() {
            artifact_name(digest)
        } else {
            format!("{}.{}.{}", self.event.pipeline, input.task, input.output)
        };
        json!({ "namespace": self.namespace, "name": name, "facets": self.artifact_facets(input.artifact.as_ref()) })
    }

    fn output(&self, output: &v1::NamedArtifact) -> Value {
        let name = format!("{}.{}.{}", self.event.pipeline, self.event.task, output.name);
        let mut dataset = json!({
            "namespace": self.namespace, "name": name, "facets": self.artifact_facets(output.artifact.as_ref()),
        });
        if let Some(artifact) = &output.artifact {
            let mut statistics = json!({ "size": artifact.size_bytes });
            if let Some(rows) = table(&artifact.schema).and_then(|table| table.get("rows").and_then(Value::as_u64)) {
                statistics["rowCount"] = json!(rows);
            }
            let statistics = facet("1-0-2/OutputStatisticsOutputDatasetFacet", statistics);
            dataset["outputFacets"] = json!({ "outputStatistics": statistics });
        }
        dataset
    }

    fn external(&self, input: &v1::ExternalInput) -> Value {
        let (namespace, name) = place(&input.place, self.namespace);
        let mut facets = Map::new();
        if !input.digest.is_empty() {
            facets.insert("version".to_owned(), version(&input.digest));
        }
        json!({ "namespace": namespace, "name": name, "facets": facets })
    }

    fn artifact_facets(&self, artifact: Option<&v1::Artifact>) -> Map<String, Value> {
        let mut facets = Map::new();
        let Some(artifact) = artifact else { return facets };
        facets.insert("version".to_owned(), version(&artifact.digest));
        let identifier = json!({
            "namespace": self.namespace, "name": artifact_name(&artifact.digest), "type": "ARTIFACT",
        });
        let links = json!({ "identifiers": [identifier] });
        facets.insert("symlinks".to_owned(), facet("1-0-1/SymlinksDatasetFacet", links));
        let columns = table(&artifact.schema).and_then(|table| table.get("columns").cloned());
        let fields: Vec<Value> = columns
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .take(MOST_FIELDS)
            .filter_map(|column| {
                let mut field = json!({ "name": column.get("name")?.as_str()? });
                if let Some(kind) = column.get("type").and_then(Value::as_str) {
                    field["type"] = json!(kind);
                }
                Some(field)
            })
            .collect();
        if !fields.is_empty() {
            let schema = facet("1-1-1/SchemaDatasetFacet", json!({ "fields": fields }));
            facets.insert("schema".to_owned(), schema);
        }
        facets
    }
}

/// Puts the head of every facet before what it says. `schema` is `VERSION/NAME`.
fn facet(schema: &str, mut says: Value) -> Value {
    let name = schema.rsplit('/').next().unwrap_or(schema);
    says["_producer"] = json!(PRODUCER);
    says["_schemaURL"] = json!(format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}"));
    says
}

fn version(digest: &str) -> Value {
    facet("1-0-1/DatasetVersionDatasetFacet", json!({ "datasetVersion": digest }))
}

fn artifact_name(digest: &str) -> String {
    format!("artifacts/{digest}")
}

/// Reads the schema of a table, as workers write it: rows, and columns with name and type.
fn table(schema: &str) -> Option<Value> {
    if schema.is_empty() { None } else { serde_json::from_str(schema).ok() }
}

/// Gives namespace and name of an external input.
fn place<'a>(place: &'a str, own: &'a str) -> (&'a str, String) {
    if let Some(digest) = place.strip_prefix("blob:") {
        return (own, artifact_name(digest));
    }
    let Some((scheme, rest)) = place.split_once("://") else { return ("file", place.to_owned()) };
    if scheme == "file" {
        return ("file", rest.to_owned());
    }
    match rest.split_once('/') {
        Some((host, path)) => (&place[..scheme.len() + 3 + host.len()], path.to_owned()),
        None => (place, "/".to_owned()),
    }
}

/// Makes an id of version 7: the time of the run in front, so that ids sort, and a digest of what it names behind.
fn uuid(event: &v1::FeedEvent, of: &str) -> String {
    let ulid = event.run_id.strip_prefix("run_").and_then(|id| ulid::Ulid::from_string(&id.to_uppercase()).ok());
    let time = ulid.map_or(0, |ulid| ulid.timestamp_ms());
    let hash = blake3::hash(of.as_bytes());
    let mut bytes: [u8; 16] = hash.as_bytes()[..16].try_into().expect("a hash has 32 bytes");
    bytes[..6].copy_from_slice(&time.to_be_bytes()[2..]);
    bytes[6] = (bytes[6] & 0x0f) | 0x70;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
