//! Data that tests need and that may be absent: then they say so and are skipped.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Cli, program};

/// Finds the real data: `SEGUE_TEST_DATA`, or `shared/data` beside the checkout. Says so where it is absent.
#[must_use]
pub fn online_retail() -> Option<PathBuf> {
    let given = std::env::var_os("SEGUE_TEST_DATA").map(PathBuf::from);
    let beside = program::checkout().parent().map(|dir| dir.join("shared/data/online_retail.csv.xz"));
    let found = given.or(beside).filter(|path| path.is_file());
    if found.is_none() {
        skipped("the real data is not on this machine; SEGUE_TEST_DATA names the file");
    }
    found
}

/// Says whether the embedding model is on this machine, and says so where it is absent.
#[must_use]
#[track_caller]
pub fn has_embedding_model() -> bool {
    let here = std::env::temp_dir();
    let found = Cli::state_dir(&here.join("none"), &here).env("HF_HUB_OFFLINE", "1").run(["models", "fetch"]);
    if found.code != 0 {
        skipped(&format!("what needs the embedding model: {}", found.stderr.trim()));
    }
    found.code == 0
}

/// Writes sample data into `dir` with the program itself.
///
/// # Panics
/// If the program refuses.
#[must_use]
#[track_caller]
pub fn sample(dir: &Path, rows: u32) -> PathBuf {
    let file = dir.join(format!("sample-{rows}.csv"));
    let (rows, out) = (rows.to_string(), file.to_string_lossy().into_owned());
    Cli::state_dir(&dir.join("none"), dir).ok(["sample-data", "--rows", &rows, "--out", &out]);
    file
}

/// Tells that something was not tested, past the capture of the test harness, which shows only failures.
pub fn skipped(reason: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {reason}");
}
