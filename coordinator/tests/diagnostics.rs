//! What people see of a bad pipeline file: every file of `bad-pipelines/` against its snapshot.
//!
//! After a change that is meant: `INSTA_UPDATE=always cargo test -p segue-coordinator --test diagnostics`, then read
//! the changed snapshots as a user would.

#[path = "common/catalogue.rs"]
mod catalogue;

use std::{collections::BTreeSet, fs, path::Path};

use segue_coordinator::spec::{Code, check};

fn corpus() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-pipelines");
    let mut files: Vec<(String, String)> = fs::read_dir(&folder)
        .expect("the corpus is beside this test")
        .map(|entry| entry.expect("the folder can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, fs::read_to_string(&path).expect("the corpus is UTF-8"))
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_bad_file_is_explained_as_in_its_snapshot() {
    let files = corpus();
    assert!(files.len() >= 30, "only {} files", files.len());
    let catalogue = catalogue::catalogue();
    insta::with_settings!({ prepend_module_to_snapshot => false, omit_expression => true }, {
        for (name, text) in files {
            let path = format!("{name}.toml");
            let checked = check(&text, &path, &catalogue);
            assert!(!checked.diagnostics.is_empty(), "{path} is taken for good");
            insta::assert_snapshot!(name, checked.render(&path, &text, false));
        }
    });
}

#[test]
fn every_code_of_the_checker_is_shown_by_a_file() {
    let catalogue = catalogue::catalogue();
    let seen: BTreeSet<Code> = corpus()
        .iter()
        .flat_map(|(name, text)| check(text, name, &catalogue).diagnostics)
        .map(|diagnostic| diagnostic.code)
        .collect();
    // These need a file of megabytes, a thousand faults, or a submission to a coordinator.
    let elsewhere = [Code::TooLarge, Code::TooMany, Code::MissingParam, Code::SecretUnset];
    let unseen: Vec<&Code> =
        Code::ALL.iter().filter(|code| !seen.contains(code) && !elsewhere.contains(code)).collect();
    assert!(unseen.is_empty(), "no file shows {unseen:?}");
}

#[test]
fn a_pipeline_comes_out_exactly_when_there_is_no_error() {
    let catalogue = catalogue::catalogue();
    for (name, text) in corpus() {
        let checked = check(&text, &name, &catalogue);
        let errors = checked.diagnostics.iter().any(segue_coordinator::spec::Diagnostic::is_error);
        assert_eq!(checked.pipeline.is_none(), errors, "{name}");
    }
}
