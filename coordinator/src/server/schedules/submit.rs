//! Pipelines of schedules and backfills: checked when they come, submitted as any other.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, RwLock},
};

use chrono_tz::Tz;
use segue_proto::{
    operator::{Catalogue, OperatorSpec},
    v1,
};

use crate::{
    schedule::{Interval, zone},
    server::{
        api::{Shared, runs::Runs},
        deliver,
        error::Error,
        pipelines,
    },
    spec::{self, Pipeline},
};

/// A text that was checked, with the operators that it needs.
pub(super) struct Checked {
    pub pipeline: Pipeline,
    pub operators: Vec<v1::OperatorSpec>,
    pub warnings: Vec<v1::Diagnostic>,
}

/// Why there is no run.
#[derive(Debug)]
pub(super) enum NotSubmitted {
    /// The same again would be refused again.
    Refused(String),
    /// It may pass.
    Later(String),
}

/// Gives the operators that workers have advertised, and those that were known before and that nobody offers now.
pub(super) fn catalogue(shared: &Shared, known: &[v1::OperatorSpec]) -> Catalogue {
    let mut catalogue = shared.operators();
    for spec in known.iter().cloned().filter_map(|spec| OperatorSpec::try_from(spec).ok()) {
        if catalogue.get(&spec.name).is_none() {
            catalogue.insert(spec);
        }
    }
    catalogue
}

/// Checks a text; faults are for the client.
pub(super) fn check(catalogue: &Catalogue, text: &str, path: &str) -> Result<Checked, Vec<v1::Diagnostic>> {
    let checked = spec::check(text, path, catalogue);
    let mut warnings: Vec<_> = checked.diagnostics.iter().map(|one| one.to_wire(path, text)).collect();
    let Some(pipeline) = checked.pipeline else { return Err(warnings) };
    warnings.extend(deliver::unset(&pipeline.hooks, deliver::is_set).iter().map(|one| one.to_wire(path, text)));
    let operators = pipelines::operators(&pipeline, catalogue);
    Ok(Checked { pipeline, operators, warnings })
}

/// Tries whether a run could be made with some parameters; faults are for the client.
pub(super) fn try_bind(
    checked: &Checked,
    catalogue: &Catalogue,
    params: &BTreeMap<String, String>,
    path: &str,
) -> Result<(), Vec<v1::Diagnostic>> {
    let folder = Path::new(path).parent().map(|folder| folder.to_string_lossy().into_owned()).unwrap_or_default();
    let bound = spec::bind(&checked.pipeline, catalogue, params, &folder, false);
    bound.map(drop).map_err(|faults| faults.iter().map(|one| one.to_wire(path, "")).collect())
}

/// Submits a run the way every run is submitted; gives its id. `known` are operators that count even where no worker
/// offers them at the moment: then its tasks wait, as those of any run do.
pub(super) async fn submit(
    shared: &Shared,
    request: v1::SubmitRequest,
    known: &[v1::OperatorSpec],
) -> Result<v1::SubmitResponse, NotSubmitted> {
    let catalogue = Arc::new(RwLock::new(catalogue(shared, known)));
    let runs = Runs(Shared { catalogue, ..shared.clone() });
    match runs.submit(request).await {
        Ok(answer) if answer.run_id.is_empty() => Err(NotSubmitted::Refused(first(&answer.diagnostics))),
        Ok(answer) => Ok(answer),
        Err(
            e @ (Error::Overloaded | Error::Stopping | Error::Unavailable(_) | Error::Store(_) | Error::Internal(_)),
        ) => Err(NotSubmitted::Later(e.to_string())),
        Err(e) => Err(NotSubmitted::Refused(e.to_string())),
    }
}

/// Gives the tags of a run, by which it is found among others: what asked for it, and the start of its interval.
pub(super) fn tags(origin: &str, name: &str, interval: Interval, zone: Tz) -> BTreeMap<String, String> {
    let start = zone::rfc3339(zone, interval.start);
    [(origin, name), ("interval", start.as_str())].map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

/// Gives the first error of a refusal in one line.
pub(super) fn first(diagnostics: &[v1::Diagnostic]) -> String {
    let error = diagnostics.iter().find(|one| one.error).or(diagnostics.first());
    error.map_or_else(|| "the pipeline was refused".to_owned(), |one| format!("{}: {}", one.code, one.message))
}
