//! Tests of the check and of binding as a whole. What people see of bad files is in `tests/diagnostics.rs`.

#![allow(clippy::unwrap_used)]

mod bind;
mod diff;
mod flow;
mod hooks;
mod hostile;
mod properties;
mod schedule;
mod schema;
mod shipped;
mod toml;
mod version;

#[path = "../../../tests/common/catalogue.rs"]
pub(crate) mod fixture;

use fixture::catalogue;

use super::{Checked, Code, Pipeline};

const RECOMMENDED: &str = include_str!("../../../../pipelines/customer-segmentation.toml");
const NOTEBOOK: &str = include_str!("../../../../pipelines/customer-segmentation-notebook.toml");

/// Uses every key of tasks.
const EVERYTHING: &str = include_str!("everything.toml");

fn check(text: &str) -> Checked {
    super::check(text, "pipeline.toml", &catalogue())
}

/// Gives the pipeline of a text that has no errors.
fn good(text: &str) -> Pipeline {
    let checked = check(text);
    checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("pipeline.toml", text, false)))
}

fn codes(text: &str) -> Vec<Code> {
    check(text).diagnostics.iter().map(|diagnostic| diagnostic.code).collect()
}
