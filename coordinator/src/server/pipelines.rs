//! Pipelines by name: their versions, their runs, and what differs between two versions.

use std::collections::BTreeSet;

use segue_proto::{
    ids::{Digest, PipelineName, RunId},
    operator::Catalogue,
    store::v1::{PipelineRecord, PipelineRunRecord, PipelineVersionRecord, RunRecord},
    v1,
};

use super::error::Error;
use crate::{
    spec::{self, Pipeline, Retention, Work, diff},
    store::{self, Batch, Key, Store, codec, keys::prefix, visit},
};

/// Names the version that was submitted last.
const LATEST: &str = "latest";
/// Names the one before it.
const PREVIOUS: &str = "previous";
/// Characters of a version that people are shown.
const SHORT: usize = 12;

/// Adds the rows under which a submission is found by the name of its pipeline.
pub fn index(store: &dyn Store, batch: &mut Batch, pipeline: &PipelineRecord, run: &RunId) {
    let Ok(name) = pipeline.name.parse::<PipelineName>() else { return };
    if let Ok(version) = pipeline.version.parse() {
        let key = Key::PipelineVersion { name: name.clone(), version };
        // A row that cannot be read is made anew: it only dates what is under its key.
        let known = store::read::<PipelineVersionRecord>(store, &key).ok().flatten();
        let first_ms = known.map_or(pipeline.created_ms, |known| known.first_ms);
        batch.put(&key, &PipelineVersionRecord { first_ms, last_ms: pipeline.created_ms });
    }
    batch.put(&Key::PipelineRun { name, run: *run }, &PipelineRunRecord {});
}

/// Adds the rows to a store that was written before there were any.
///
/// # Errors
/// Those of the store.
pub fn index_old_store(store: &dyn Store, batch: &mut Batch) -> Result<(), Error> {
    if !store.scan(&prefix::all_pipeline_versions(), None, 1)?.is_empty() {
        return Ok(());
    }
    visit(store, &prefix::pipelines(), |key, value| {
        let (_, record) = codec::decode_row::<PipelineRecord>(&key, &value)?;
        if let (Ok(name), Ok(version)) = (record.name.parse(), record.version.parse()) {
            let dates = PipelineVersionRecord { first_ms: record.created_ms, last_ms: record.created_ms };
            batch.put(&Key::PipelineVersion { name, version }, &dates);
        }
        Ok(())
    })?;
    visit(store, &prefix::runs(), |key, value| {
        let (key, record) = codec::decode_row::<RunRecord>(&key, &value)?;
        if let (Key::Run(run), Ok(name)) = (key, record.pipeline.parse()) {
            batch.put(&Key::PipelineRun { name, run }, &PipelineRunRecord {});
        }
        Ok(())
    })?;
    Ok(())
}

/// Gives the operators that a pipeline names, as they are: with them, its text can be checked at any later time.
#[must_use]
pub fn operators(pipeline: &Pipeline, catalogue: &Catalogue) -> Vec<v1::OperatorSpec> {
    let names: BTreeSet<&str> = pipeline
        .tasks
        .iter()
        .filter_map(|task| match &task.work {
            Work::Operator { name, .. } => Some(name.as_str()),
            Work::Command { .. } | Work::Sensor { .. } => None,
        })
        .collect();
    names.into_iter().filter_map(|name| catalogue.get(name).cloned().map(Into::into)).collect()
}

/// A version of a pipeline, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub digest: Digest,
    pub first_ms: u64,
    pub last_ms: u64,
}

/// Gives the versions of a pipeline in the order of their last submission.
fn versions(store: &dyn Store, name: &PipelineName) -> Result<Vec<Version>, store::Error> {
    let mut found = Vec::new();
    visit(store, &prefix::pipeline_versions(name), |key, value| {
        let (key, dates) = codec::decode_row::<PipelineVersionRecord>(&key, &value)?;
        if let Key::PipelineVersion { version, .. } = key {
            found.push(Version { digest: version, first_ms: dates.first_ms, last_ms: dates.last_ms });
        }
        Ok(())
    })?;
    found.sort_by(|a, b| (a.last_ms, &a.digest).cmp(&(b.last_ms, &b.digest)));
    Ok(found)
}

fn names(store: &dyn Store) -> Result<Vec<PipelineName>, store::Error> {
    let mut found: Vec<PipelineName> = Vec::new();
    visit(store, &prefix::all_pipeline_versions(), |key, _| {
        if let Ok(Key::PipelineVersion { name, .. }) = Key::decode(&key)
            && found.last() != Some(&name)
        {
            found.push(name);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Lists every pipeline by name. `last_run` is what the store says of the newest run.
///
/// # Errors
/// Those of the store.
pub fn list(store: &dyn Store) -> Result<Vec<v1::PipelineView>, Error> {
    let mut views = Vec::new();
    for name in names(store)? {
        let versions = versions(store, &name)?;
        let runs = prefix::pipeline_runs(&name);
        let mut count = 0;
        visit(store, &runs, |_, _| {
            count += 1;
            Ok(())
        })?;
        let last_run = match store.scan_back(&runs, None, 1)?.first().map(|(key, _)| Key::decode(key)) {
            Some(Ok(Key::PipelineRun { run, .. })) => {
                store::read::<RunRecord>(store, &Key::Run(run))?.map(run_without_tasks)
            }
            _ => None,
        };
        let retention = match versions.last() {
            Some(newest) => text_of(store, &newest.digest)?.map(|record| Retention::of_text(&record.text)),
            None => None,
        };
        views.push(v1::PipelineView {
            name: name.to_string(),
            versions: versions
                .into_iter()
                .map(|version| v1::PipelineVersionView {
                    version: version.digest.into(),
                    first_ms: version.first_ms,
                    last_ms: version.last_ms,
                })
                .collect(),
            runs: count,
            last_run,
            retention: retention.filter(|rules| *rules != Retention::default()).map(wire_rules),
        });
    }
    Ok(views)
}

fn run_without_tasks(record: RunRecord) -> v1::RunView {
    v1::RunView {
        run_id: record.run_id,
        pipeline: record.pipeline,
        version: record.version,
        state: record.state,
        created_ms: record.created_ms,
        ended_ms: record.ended_ms,
        params: record.params,
        generation: record.generation,
        path: record.path,
        ..v1::RunView::default()
    }
}

/// Gives the wire form of rules.
#[must_use]
pub const fn wire_rules(rules: Retention) -> v1::Retention {
    v1::Retention {
        keep_runs: rules.keep_runs,
        keep_for_ms: rules.keep_for_ms,
        keep_failed_for_ms: rules.keep_failed_for_ms,
        logs_for_ms: rules.logs_for_ms,
        cache_for_ms: rules.cache_for_ms,
    }
}

fn text_of(store: &dyn Store, version: &Digest) -> Result<Option<PipelineRecord>, store::Error> {
    store::read(store, &Key::Pipeline(version.clone()))
}

/// Gives the version of a pipeline that was submitted last.
///
/// # Errors
/// Those of the store.
pub fn latest(store: &dyn Store, name: &PipelineName) -> Result<Option<PipelineRecord>, Error> {
    match versions(store, name)?.last() {
        Some(newest) => Ok(text_of(store, &newest.digest)?),
        None => Ok(None),
    }
}

/// A version with its text, and whether it is the newest.
struct Found {
    record: PipelineRecord,
    version: Version,
    latest: bool,
}

impl Found {
    fn view(&self, with_text: bool) -> v1::PipelineText {
        v1::PipelineText {
            name: self.record.name.clone(),
            version: self.version.digest.to_string(),
            text: if with_text { self.record.text.clone() } else { String::new() },
            path: self.record.path.clone(),
            first_ms: self.version.first_ms,
            last_ms: self.version.last_ms,
            latest: self.latest,
        }
    }
}

/// Gives the text of a version: `NAME`, `NAME@latest`, or `NAME:VERSION` with the start of a version.
///
/// # Errors
/// A reference that cannot be read or names nothing, with what is nearest; those of the store.
pub fn get(store: &dyn Store, reference: &str) -> Result<v1::PipelineText, Error> {
    let (name, version) = match (reference.split_once('@'), reference.split_once(':')) {
        (Some((name, word)), _) if word == LATEST || word == PREVIOUS => (name, word),
        (Some(_), _) => {
            return Err(Error::BadRequest(format!(
                "`{}` names no version: write NAME, NAME@latest, NAME@previous or NAME:VERSION",
                clip(reference)
            )));
        }
        (None, Some((name, version))) => (name, version),
        (None, None) => (reference, LATEST),
    };
    Ok(find(store, name, version)?.view(true))
}

fn find(store: &dyn Store, name: &str, wanted: &str) -> Result<Found, Error> {
    let known = match name.parse::<PipelineName>() {
        Ok(name) => versions(store, &name)?,
        Err(_) => Vec::new(),
    };
    let Some(newest) = known.last() else {
        let names = names(store)?;
        let hint = match spec::nearest(name, names.iter().map(PipelineName::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if names.is_empty() => "nothing has been submitted yet".to_owned(),
            None => "see `segue pipelines list`".to_owned(),
        };
        return Err(Error::NotFound(format!("there is no pipeline `{}`: {hint}", clip(name))));
    };
    let matching: Vec<&Version> = match wanted {
        LATEST => vec![newest],
        PREVIOUS => known.iter().rev().skip(1).take(1).collect(),
        "" => Vec::new(),
        start => known.iter().filter(|version| version.digest.as_str().starts_with(&start.to_lowercase())).collect(),
    };
    let version = match matching.as_slice() {
        [version] => (*version).clone(),
        [] => {
            let listed: Vec<&str> = known.iter().rev().take(8).map(|version| version.digest.short()).collect();
            let of = format!("of pipeline `{name}`");
            return Err(Error::NotFound(match wanted {
                PREVIOUS => format!("there is no version {of} before {}", newest.digest.short()),
                wanted => format!("there is no version `{}` {of}: it has {}", clip(wanted), listed.join(", ")),
            }));
        }
        several => {
            let listed: Vec<&str> =
                several.iter().take(8).map(|version| &version.digest.as_str()[..SHORT + 4]).collect();
            return Err(Error::BadRequest(format!(
                "more than one version of pipeline `{name}` starts with `{}`: {}",
                clip(wanted),
                listed.join(", ")
            )));
        }
    };
    let record = text_of(store, &version.digest)?
        .ok_or_else(|| Error::Internal(format!("the text of version {} is missing", version.digest)))?;
    let latest = version.digest == newest.digest;
    Ok(Found { record, version, latest })
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Compares two versions, given by their start or as `latest` and `previous`. `known` are the operators that workers
/// offer now, for versions that were submitted before their operators were kept with them.
///
/// # Errors
/// As [`get`].
pub fn compare(
    store: &dyn Store,
    known: &Catalogue,
    request: &v1::DiffPipelinesRequest,
) -> Result<v1::DiffPipelinesResponse, Error> {
    let from = find(store, &request.name, &request.from)?;
    let to = find(store, &request.name, &request.to)?;
    let mut response = v1::DiffPipelinesResponse {
        from: Some(from.view(false)),
        to: Some(to.view(false)),
        unified: super::text_diff::unified(
            &from.record.text,
            &to.record.text,
            from.version.digest.short(),
            to.version.digest.short(),
        ),
        ..v1::DiffPipelinesResponse::default()
    };
    match (check(&from.record, known), check(&to.record, known)) {
        (Ok(from), Ok(to)) => {
            let found = diff::pipelines(&from, &to);
            response.tasks = found.tasks.into_iter().map(wire_task).collect();
            response.pipeline = found.pipeline.into_iter().map(wire_field).collect();
        }
        (Err(reason), _) | (_, Err(reason)) => response.unstructured = reason,
    }
    Ok(response)
}

/// Checks a text against the operators that it was checked against when it was submitted.
fn check(record: &PipelineRecord, known: &Catalogue) -> Result<Pipeline, String> {
    let mut catalogue = known.clone();
    record.operators.iter().filter_map(|wire| wire.clone().try_into().ok()).for_each(|spec| catalogue.insert(spec));
    let checked = spec::check(&record.text, &record.path, &catalogue);
    checked.pipeline.ok_or_else(|| {
        let first = checked.diagnostics.first().map(|first| first.message.clone()).unwrap_or_default();
        let version = record.version.get(..SHORT).unwrap_or(&record.version);
        format!("version {version} does not check against the operators that are known here: {first}")
    })
}

fn wire_task(task: diff::TaskDiff) -> v1::TaskDiff {
    let kind = match task.kind {
        diff::Kind::Added => v1::TaskDiffKind::Added,
        diff::Kind::Dropped => v1::TaskDiffKind::Dropped,
        diff::Kind::Changed => v1::TaskDiffKind::Changed,
    };
    v1::TaskDiff { task: task.task, kind: kind.into(), fields: task.fields.into_iter().map(wire_field).collect() }
}

fn wire_field(field: diff::FieldDiff) -> v1::FieldDiff {
    let json = |value: Option<serde_json::Value>| value.map(|value| value.to_string()).unwrap_or_default();
    v1::FieldDiff {
        aspect: field.aspect.to_owned(),
        field: field.field,
        before_json: json(field.before),
        after_json: json(field.after),
    }
}

#[cfg(test)]
#[path = "pipelines_tests.rs"]
mod tests;
