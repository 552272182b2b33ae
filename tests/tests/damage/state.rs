//! A damaged state directory: the database, the files that say what it is, and logs.

use std::{collections::BTreeMap, fs, path::Path};

use segue_tests::Cli;
use serde_json::{Value, json};

use crate::{Damage, EACH, Random, copy, damage, files, seeds};

const PIPELINE: &str = r#"
[pipeline]
name = "kept"
[tasks.make]
command = ["sh", "-c", "echo a line to keep; printf 'the orders of the year' > $SEGUE_OUTPUT_DIR/orders"]
outputs = ["orders"]
[tasks.many]
foreach = { range = 40 }
command = ["true"]
"#;

/// A state directory with three runs, and what it answers.
struct Kept {
    dir: tempfile::TempDir,
    run: String,
    answers: Value,
}

/// Everything that a user can ask of the run. The epoch is no part of it: each command is a start.
fn asked(cli: &Cli, run: &str) -> Value {
    json!({ "runs": cli.json(["runs"]), "show": cli.json(["show", run]), "artifacts": cli.json(["artifacts", "list", run]) })
}

fn kept() -> Kept {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("kept.toml");
    fs::write(&file, PIPELINE).unwrap();
    let mut run = String::new();
    for _ in 0..3 {
        let outcome = cli.run_pipeline(&file, &[]);
        assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
        run = outcome["run"].as_str().unwrap().to_owned();
    }
    let answers = asked(&cli, &run);
    Kept { dir, run, answers }
}

impl Kept {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// Gives the command line over a copy of the state directory.
    fn copied(&self) -> Cli {
        let place = self.dir.path().join("damaged");
        let _ = fs::remove_dir_all(&place);
        copy(&self.dir.path().join("state"), &place);
        Cli::state_dir(&place, self.dir.path())
    }
}

#[test]
fn a_damaged_database_is_refused_with_the_next_step_or_answers_as_before() {
    let kept = kept();
    let whole = Cli::state_dir(&kept.dir.path().join("state"), kept.dir.path());
    whole.ok(["store", "backup", &kept.path("backup")]);
    let mut ended: BTreeMap<String, u32> = BTreeMap::new();
    let database: Vec<_> = files(&kept.dir.path().join("state/store"))
        .into_iter()
        .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| !["lock", "segue-store"].contains(&name.as_str()))
        .collect();
    for seed in seeds(12, 300) {
        let mut random = Random::new(seed);
        let cli = kept.copied();
        let name = if random.next() % 4 < 3 {
            "db"
        } else {
            database[usize::try_from(random.next() % database.len() as u64).unwrap()].as_str()
        };
        // The front of the file is where the records of so small a store are.
        let how = match random.damage() {
            Damage::Flipped(share) if name == "db" => Damage::Flipped(share * 0.3),
            how => how,
        };
        let what = format!("SEGUE_SEED={seed}: {name} {how:?}");
        let place = kept.dir.path().join("damaged/store").join(name);
        damage(&place, how);
        let said = cli.run(["runs", "-o", "json"]);
        let kind = format!("{how:?}").split('(').next().unwrap_or_default().to_owned();
        if said.code == 0 {
            assert_eq!(asked(&cli, &kept.run), kept.answers, "{what}");
            assert_eq!(cli.json(["store", "verify"])["problems"], json!([]), "{what}");
            *ended.entry(format!("{name} {kind}: as before")).or_default() += 1;
            continue;
        }
        *ended.entry(format!("{name} {kind}: refused")).or_default() += 1;
        let store = kept.path("damaged/store");
        let next = ["segue store verify", "segue store restore", "segue store backup"];
        said.refuses(3, &[&[store.as_str()], &next[..]].concat());
        // Looking at it finds it too, and so does the next start.
        let verified = cli.run(["store", "verify"]);
        assert_eq!(verified.code, 3, "{what}: {} {}", verified.stdout, verified.stderr);
        assert!(format!("{}{}", verified.stdout, verified.stderr).contains("is damaged"), "{what}");
        cli.run(["runs"]).refuses(3, &next);
        // What can still be read can be saved, and is not taken for a whole backup.
        let _ = fs::remove_dir_all(kept.dir.path().join("saved"));
        let saved = cli.run(["store", "backup", &kept.path("saved")]);
        saved.refuses(3, &[]);
        if saved.stdout.contains("records") {
            let _ = fs::remove_dir_all(kept.dir.path().join("saved-restored"));
            cli.run(["store", "restore", &kept.path("saved"), &kept.path("saved-restored")]).refuses(0, &[]);
        }
    }
    eprintln!("{ended:#?}");
    // The next step that was named.
    let restored = Cli::state_dir(&kept.dir.path().join("restored"), kept.dir.path());
    restored.ok(["store", "restore", &kept.path("backup"), &kept.path("restored")]);
    assert_eq!(asked(&restored, &kept.run), kept.answers);
}

#[test]
fn an_older_copy_of_the_database_is_not_taken_for_the_last_one() {
    let kept = kept();
    let state = kept.dir.path().join("state");
    let cli = Cli::state_dir(&state, kept.dir.path());
    copy(&state.join("store"), &kept.dir.path().join("older"));
    let outcome = cli.run_pipeline(&kept.dir.path().join("kept.toml"), &[]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    // All of it but the mark, as a tool that puts back changed files by their size might do.
    for file in files(&state.join("store")) {
        if !file.ends_with("segue-store") {
            fs::remove_file(file).unwrap();
        }
    }
    for file in files(&kept.dir.path().join("older")) {
        if !file.ends_with("segue-store") {
            fs::copy(&file, state.join("store").join(file.file_name().unwrap())).unwrap();
        }
    }
    cli.run(["runs"]).refuses(3, &["batches that were on the disk are lost", "segue store restore"]);
}

#[test]
fn damage_of_the_files_that_say_what_a_directory_is_costs_nothing() {
    let kept = kept();
    let answers = |cli: &Cli| asked(cli, &kept.run);
    for name in ["store/segue-store", "store/lock", "store-id", "coordinator.json"] {
        for how in EACH {
            let cli = kept.copied();
            let place = kept.dir.path().join("damaged").join(name);
            if name == "coordinator.json" {
                // As one that was killed leaves it.
                fs::write(&place, r#"{"address":"http://127.0.0.1:1","epoch":1}"#).unwrap();
            }
            if name == "store/lock" {
                fs::write(&place, "12345\n").unwrap();
            }
            damage(&place, how);
            assert_eq!(answers(&cli), kept.answers, "{name} {how:?}");
            fs::write(&place, [0xFF; 100]).unwrap();
            assert_eq!(answers(&cli), kept.answers, "{name}: garbage");
            assert_eq!(cli.json(["store", "verify"])["problems"], json!([]), "{name} {how:?}");
        }
    }
}

#[test]
fn what_is_left_of_a_damaged_log_is_shown() {
    let kept = kept();
    let of_make = |dir: &Path| {
        let all = files(&dir.join("logs").join(&kept.run));
        all.into_iter().find(|file| fs::read_to_string(file).unwrap_or_default().contains("a line to keep")).unwrap()
    };
    for how in EACH {
        let cli = kept.copied();
        damage(&of_make(&kept.dir.path().join("damaged")), how);
        let said = cli.run(["logs", &kept.run, "make"]);
        said.refuses(0, &[]);
        assert_ne!(said.stdout, "a line to keep\n", "{how:?}: nothing keeps a second copy of a log");
        assert_eq!(asked(&cli, &kept.run), kept.answers, "{how:?}");
    }
}
