//! One file for each kind of bytes.

pub mod coordinator_message;
pub mod csv;
pub mod expression;
pub mod model;
pub mod pipeline;
pub mod runner_frame;
pub mod store;
pub mod worker_message;

use std::path::{Path, PathBuf};

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Directories of files that it begins with beside its own, from the root of the repository.
    beside: &'static [&'static str],
}

/// Every target.
pub const TARGETS: [Target; 8] = [
    Target { name: "pipeline", run: pipeline::run, beside: &["coordinator/tests/bad-pipelines", "pipelines/examples"] },
    Target { name: "expression", run: expression::run, beside: &[] },
    Target { name: "worker-message", run: worker_message::run, beside: &[] },
    Target { name: "coordinator-message", run: coordinator_message::run, beside: &[] },
    Target { name: "runner-frame", run: runner_frame::run, beside: &[] },
    Target { name: "store", run: store::run, beside: &[] },
    Target { name: "csv", run: csv::run, beside: &[] },
    Target { name: "model", run: model::run, beside: &[] },
];

impl Target {
    /// Gives the directories that hold its corpus, its own first.
    #[must_use]
    pub fn corpus(&self) -> Vec<PathBuf> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        std::iter::once(own).chain(self.beside.iter().map(|place| root.join(place))).collect()
    }
}
