#![allow(clippy::unwrap_used)]

use segue_proto::ids::Digest;

use super::*;

const RUN: &str = "run_01hf7yat00000000000000000a";

fn event(kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent {
        offset: 9,
        time_ms: 1_700_000_000_250,
        kind: kind.into(),
        run_id: RUN.to_owned(),
        pipeline: "nightly".to_owned(),
        version: "v1".to_owned(),
        ..v1::FeedEvent::default()
    }
}

fn of_task(kind: Kind) -> v1::FeedEvent {
    v1::FeedEvent { task: "rfm".to_owned(), attempt: 2, worker: "w".to_owned(), ..event(kind) }
}

fn artifact(content: &str) -> v1::Artifact {
    v1::Artifact {
        digest: Digest::of(content.as_bytes()).into(),
        size_bytes: 1_234,
        kind: "table".to_owned(),
        schema:
            r#"{"rows": 40, "columns": [{"name": "CustomerID", "type": "str"}, {"name": "Recency", "type": "i64"}]}"#
                .to_owned(),
    }
}

fn started() -> v1::FeedEvent {
    let input = v1::EventInput {
        name: "orders".to_owned(),
        task: "clean".to_owned(),
        output: "orders".to_owned(),
        artifact: Some(artifact("orders")),
    };
    let external = |place: &str| v1::ExternalInput {
        param: "path".to_owned(),
        place: place.to_owned(),
        digest: Digest::of(b"csv").into(),
    };
    let external_inputs = vec![
        external("/data/orders.csv"),
        external("s3://bucket/in/orders.csv"),
        external(&format!("blob:{}", Digest::of(b"csv"))),
    ];
    v1::FeedEvent { inputs: vec![input], external_inputs, ..of_task(Kind::TaskStarted) }
}

fn succeeded() -> v1::FeedEvent {
    let output =
        v1::NamedArtifact { name: "customers".to_owned(), artifact: Some(artifact("customers")), key: String::new() };
    v1::FeedEvent { outputs: vec![output], ..of_task(Kind::TaskSucceeded) }
}

fn one(event: &v1::FeedEvent) -> Value {
    let mut documents = run_events(event, "prod");
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn own(rest: Value) -> Value {
    let mut own = json!({
        "_producer": PRODUCER, "_schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunFacet",
        "run": RUN, "version": "v1", "generation": 0, "offset": 9,
    });
    for (key, value) in rest.as_object().unwrap() {
        own[key] = value.clone();
    }
    own
}

fn published(schema: &str, says: Value) -> Value {
    let name = schema.split('/').next_back().unwrap();
    let mut says = says;
    says["_producer"] = json!(PRODUCER);
    says["_schemaURL"] = json!(format!("https://openlineage.io/spec/facets/{schema}.json#/$defs/{name}"));
    says
}

#[test]
fn the_start_of_a_run_is_this_document() {
    let document = one(&event(Kind::RunStarted));
    let run_id = document["run"]["runId"].clone();
    let expected = json!({
        "eventType": "START",
        "eventTime": "2023-11-14T22:13:20.250Z",
        "producer": PRODUCER,
        "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {
            "runId": run_id,
            "facets": {
                "processing_engine": published(
                    "1-1-1/ProcessingEngineRunFacet",
                    json!({ "name": "segue", "version": env!("CARGO_PKG_VERSION") })
                ),
                "segue": own(json!({})),
            },
        },
        "job": {
            "namespace": "prod",
            "name": "nightly",
            "facets": {
                "jobType": published(
                    "2-0-3/JobTypeJobFacet",
                    json!({ "processingType": "BATCH", "integration": "SEGUE", "jobType": "DAG" })
                ),
            },
        },
        "inputs": [],
        "outputs": [],
    });
    assert_eq!(document, expected);
}

#[test]
fn the_start_of_a_task_names_its_parent_and_what_it_takes() {
    let document = one(&started());
    let run_id = one(&event(Kind::RunStarted))["run"]["runId"].clone();
    assert_eq!(document["job"]["name"], "nightly.rfm");
    assert_eq!(document["job"]["facets"]["jobType"]["jobType"], "TASK");
    assert_eq!(
        document["run"]["facets"]["parent"],
        published(
            "1-0-1/ParentRunFacet",
            json!({ "run": { "runId": run_id }, "job": { "namespace": "prod", "name": "nightly" } })
        )
    );
    assert_eq!(document["run"]["facets"]["segue"], own(json!({ "attempt": 2, "worker": "w" })));
    let orders = Digest::of(b"orders");
    let dataset = json!({
        "namespace": "prod",
        "name": "nightly.clean.orders",
        "facets": {
            "version": published("1-0-1/DatasetVersionDatasetFacet", json!({ "datasetVersion": orders.as_str() })),
            "symlinks": published("1-0-1/SymlinksDatasetFacet", json!({ "identifiers": [
                { "namespace": "prod", "name": format!("artifacts/{orders}"), "type": "ARTIFACT" },
            ] })),
            "schema": published("1-1-1/SchemaDatasetFacet", json!({ "fields": [
                { "name": "CustomerID", "type": "str" }, { "name": "Recency", "type": "i64" },
            ] })),
        },
    });
    assert_eq!(document["inputs"][0], dataset);
    let csv = Digest::of(b"csv");
    let named: Vec<(String, String)> = document["inputs"].as_array().unwrap()[1..]
        .iter()
        .map(|input| {
            assert_eq!(input["facets"]["version"]["datasetVersion"], csv.as_str());
            (input["namespace"].as_str().unwrap().to_owned(), input["name"].as_str().unwrap().to_owned())
        })
        .collect();
    let pair = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
    let expected = [
        pair("file", "/data/orders.csv"),
        pair("s3://bucket", "in/orders.csv"),
        pair("prod", &format!("artifacts/{csv}")),
    ];
    assert_eq!(named, expected);
}

#[test]
fn the_end_of_a_task_names_what_it_gave_under_the_name_that_takers_use() {
    let document = one(&succeeded());
    assert_eq!(document["eventType"], "COMPLETE");
    assert_eq!(document["run"]["runId"], one(&of_task(Kind::TaskStarted))["run"]["runId"], "one attempt, one id");
    let output = &document["outputs"][0];
    assert_eq!(output["name"], "nightly.rfm.customers");
    assert_eq!(
        output["outputFacets"]["outputStatistics"],
        published("1-0-2/OutputStatisticsOutputDatasetFacet", json!({ "rowCount": 40, "size": 1_234 }))
    );
    let taken = v1::EventInput {
        name: "x".to_owned(),
        task: "rfm".to_owned(),
        output: "customers".to_owned(),
        artifact: Some(artifact("customers")),
    };
    let taker = one(&v1::FeedEvent { inputs: vec![taken], ..of_task(Kind::TaskStarted) });
    assert_eq!(taker["inputs"][0]["name"], output["name"]);
    assert_eq!(taker["inputs"][0]["facets"]["version"], output["facets"]["version"]);
}

#[test]
fn failures_say_what_went_wrong_and_cancelled_work_is_aborted() {
    for kind in [Kind::TaskFailed, Kind::TaskTimedOut, Kind::TaskLost] {
        let document = one(&v1::FeedEvent { message: "disk full".to_owned(), ..of_task(kind) });
        assert_eq!(document["eventType"], "FAIL");
        assert_eq!(
            document["run"]["facets"]["errorMessage"],
            published(
                "1-0-1/ErrorMessageRunFacet",
                json!({ "message": "disk full", "programmingLanguage": "unknown" })
            )
        );
    }
    assert_eq!(one(&event(Kind::RunFailed))["eventType"], "FAIL");
    for aborted in [event(Kind::RunCancelled), of_task(Kind::TaskCancelled), of_task(Kind::TaskHandedBack)] {
        assert_eq!(one(&aborted)["eventType"], "ABORT");
    }
}

#[test]
fn a_task_from_the_cache_starts_and_ends() {
    let cached = v1::FeedEvent { cached: true, attempt: 0, inputs: started().inputs, ..succeeded() };
    let documents = run_events(&cached, "prod");
    assert_eq!((&documents[0]["eventType"], &documents[1]["eventType"]), (&json!("START"), &json!("COMPLETE")));
    assert_eq!(documents[0]["run"]["runId"], documents[1]["run"]["runId"]);
    assert_eq!(documents[0]["outputs"], json!([]));
    assert_eq!(documents[1]["outputs"][0]["name"], "nightly.rfm.customers");
    assert_eq!(documents[1]["run"]["facets"]["segue"]["cached"], true);
}

#[test]
fn what_executed_nothing_is_not_lineage() {
    let never_tried = v1::FeedEvent { attempt: 0, ..of_task(Kind::TaskCancelled) };
    assert!(run_events(&never_tried, "prod").is_empty());
    for kind in [Kind::TaskAssigned, Kind::TaskRetrying, Kind::TaskUpstreamFailed, Kind::WorkerLost, Kind::HookGaveUp] {
        assert!(run_events(&of_task(kind), "prod").is_empty(), "{kind:?}");
    }
}

#[test]
fn ids_are_uuids_that_tell_runs_reruns_and_attempts_apart() {
    let id = |event: &v1::FeedEvent| one(event)["run"]["runId"].as_str().unwrap().to_owned();
    let rerun = v1::FeedEvent { generation: 1, ..event(Kind::RunStarted) };
    let other = v1::FeedEvent { attempt: 3, ..of_task(Kind::TaskStarted) };
    let ids = [id(&event(Kind::RunStarted)), id(&rerun), id(&of_task(Kind::TaskStarted)), id(&other)];
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
    for id in &ids {
        assert_eq!(&id[14..15], "7", "version 7: {id}");
        let time = u64::from_str_radix(&id[..13].replace('-', ""), 16).unwrap();
        assert_eq!(time, ulid::Ulid::from_string(&RUN[4..].to_uppercase()).unwrap().timestamp_ms());
    }
    assert_eq!(id(&event(Kind::RunSucceeded)), ids[0], "the end of a run is that of its start");
}

/// What the published schemas require: of a run event, and of the facets under their keys.
#[test]
fn every_document_has_the_shape_that_the_standard_requires() {
    let mut seen = std::collections::BTreeSet::new();
    let events = [
        event(Kind::RunStarted),
        event(Kind::RunSucceeded),
        event(Kind::RunFailed),
        event(Kind::RunCancelled),
        started(),
        succeeded(),
        v1::FeedEvent { cached: true, attempt: 0, external_inputs: started().external_inputs, ..succeeded() },
        v1::FeedEvent { message: "m".to_owned(), ..of_task(Kind::TaskFailed) },
        of_task(Kind::TaskCancelled),
    ];
    for document in events.iter().flat_map(|event| run_events(event, "prod")) {
        texts(&document, &["eventType", "eventTime", "producer", "schemaURL"]);
        let kind = document["eventType"].as_str().unwrap();
        assert!(["START", "COMPLETE", "FAIL", "ABORT"].contains(&kind));
        assert!(chrono::DateTime::parse_from_rfc3339(document["eventTime"].as_str().unwrap()).is_ok());
        uri(&document["producer"]);
        is_uuid(&document["run"]["runId"]);
        texts(&document["job"], &["namespace", "name"]);
        facets(&document["run"]["facets"], &mut seen);
        facets(&document["job"]["facets"], &mut seen);
        for dataset in document["inputs"].as_array().unwrap().iter().chain(document["outputs"].as_array().unwrap()) {
            texts(dataset, &["namespace", "name"]);
            facets(&dataset["facets"], &mut seen);
            if let Some(more) = dataset.get("outputFacets") {
                facets(more, &mut seen);
            }
        }
    }
    let all = [
        "errorMessage",
        "jobType",
        "outputStatistics",
        "parent",
        "processing_engine",
        "schema",
        "segue",
        "symlinks",
        "version",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), all);
}

fn texts(value: &Value, keys: &[&str]) {
    for key in keys {
        assert!(value[*key].as_str().is_some_and(|text| !text.is_empty()), "`{key}` of {value}");
    }
}

fn uri(value: &Value) {
    assert!(url::Url::parse(value.as_str().unwrap()).is_ok(), "{value}");
}

fn is_uuid(value: &Value) {
    let text = value.as_str().unwrap();
    let lengths: Vec<usize> = text.split('-').map(str::len).collect();
    assert_eq!(lengths, [8, 4, 4, 4, 12], "{text}");
    assert!(text.chars().all(|c| c == '-' || c.is_ascii_hexdigit()), "{text}");
}

fn facets(facets: &Value, seen: &mut std::collections::BTreeSet<String>) {
    for (name, facet) in facets.as_object().unwrap() {
        seen.insert(name.clone());
        for key in ["_producer", "_schemaURL"] {
            uri(&facet[key]);
        }
        match name.as_str() {
            "parent" => {
                is_uuid(&facet["run"]["runId"]);
                texts(&facet["job"], &["namespace", "name"]);
            }
            "jobType" => texts(facet, &["processingType", "integration"]),
            "processing_engine" => texts(facet, &["version"]),
            "errorMessage" => {
                assert!(facet["message"].is_string());
                texts(facet, &["programmingLanguage"]);
            }
            "version" => texts(facet, &["datasetVersion"]),
            "schema" => facet["fields"].as_array().unwrap().iter().for_each(|field| texts(field, &["name"])),
            "symlinks" => {
                facet["identifiers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .for_each(|one| texts(one, &["namespace", "name", "type"]));
            }
            "outputStatistics" => assert!(facet["size"].is_u64() && facet["rowCount"].is_u64()),
            _ => {}
        }
    }
}
