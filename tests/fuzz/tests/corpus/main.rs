//! Every input of every corpus, those that once broke something included, goes through its target.

#![allow(clippy::unwrap_used)]

mod found;
mod record;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use segue_fuzz::{TARGETS, Target};

/// Most bytes of all corpora of this package together.
const MOST_BYTES: u64 = 1 << 20;

/// Gives the files of a corpus.
fn files(target: &Target) -> Vec<PathBuf> {
    let inside = |directory: PathBuf| {
        let found = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
        found.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect::<Vec<_>>()
    };
    let mut files: Vec<PathBuf> = target.corpus().into_iter().flat_map(inside).collect();
    files.sort();
    files
}

/// Hands a target its corpus; all that it breaks at is named.
fn passes(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let files = files(target);
    assert!(files.len() >= 8, "{name} has {} inputs", files.len());
    let broken: Vec<String> = files
        .iter()
        .filter(|file| {
            let bytes = fs::read(file).unwrap();
            catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err()
        })
        .map(|file| file.display().to_string())
        .collect();
    assert!(broken.is_empty(), "{name} breaks at {}", broken.join(", "));
}

#[test]
fn pipelines_of_the_corpus_break_nothing() {
    passes("pipeline");
}

#[test]
fn expressions_of_the_corpus_break_nothing() {
    passes("expression");
}

#[test]
fn messages_of_workers_in_the_corpus_break_nothing() {
    passes("worker-message");
}

#[test]
fn messages_of_coordinators_in_the_corpus_break_nothing() {
    passes("coordinator-message");
}

#[test]
fn frames_of_runners_in_the_corpus_break_nothing() {
    passes("runner-frame");
}

#[test]
fn stores_of_the_corpus_break_nothing() {
    passes("store");
}

#[test]
fn csv_files_of_the_corpus_break_nothing() {
    passes("csv");
}

#[test]
fn model_files_of_the_corpus_break_nothing() {
    passes("model");
}

#[test]
fn the_corpora_are_small_enough_for_a_repository() {
    let own = TARGETS.iter().flat_map(|target| fs::read_dir(&target.corpus()[0]).unwrap());
    let bytes: u64 = own.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}
