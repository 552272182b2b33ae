//! Damaged backups: refused before anything is made of them.

use std::{fs, path::Path};

use segue_tests::Cli;
use serde_json::json;

use crate::{Random, copy, damage, files, seeds};

const PIPELINE: &str = r#"
[pipeline]
name = "kept"
[tasks.make]
command = ["sh", "-c", "echo a line to keep; printf 'the orders of the year' > $SEGUE_OUTPUT_DIR/orders"]
outputs = ["orders"]
[tasks.take]
command = ["sh", "-c", "cp $SEGUE_INPUT_ORDERS $SEGUE_OUTPUT_DIR/copy; echo and another one >> $SEGUE_OUTPUT_DIR/copy"]
inputs = { orders = "make.orders" }
outputs = ["copy"]
"#;

/// Everything that a restored directory answers.
fn asked(cli: &Cli, run: &str) -> serde_json::Value {
    json!({
        "show": cli.json(["show", run]), "artifacts": cli.json(["artifacts", "list", run]),
        "logs": cli.ok(["logs", run, "make"]).stdout, "verify": cli.json(["store", "verify"])["problems"],
    })
}

#[test]
fn a_damaged_backup_is_refused_before_anything_is_made_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("kept.toml");
    fs::write(&file, PIPELINE).unwrap();
    let outcome = cli.run_pipeline(&file, &[]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    let run = outcome["run"].as_str().unwrap();
    cli.ok(["store", "backup", &path("backup")]);
    let restored = |name: &str| Cli::state_dir(&dir.path().join(name), dir.path());
    cli.ok(["store", "restore", &path("backup"), &path("whole")]);
    let whole = asked(&restored("whole"), run);
    assert_eq!(whole["verify"], json!([]));

    let mut all = files(&dir.path().join("backup"));
    all.retain(|file| fs::metadata(file).unwrap().len() > 0);
    let relative = |file: &Path| file.strip_prefix(dir.path().join("backup")).unwrap().to_owned();
    // Each kind of file at least once, whatever the seeds say.
    let kinds = ["records.segue", "manifest.json", "blobs/", "logs/"];
    for kind in kinds {
        assert!(all.iter().any(|file| relative(file).to_str().unwrap().starts_with(kind)), "no {kind}: {all:?}");
    }
    let mut harmless = 0;
    for seed in seeds(16, 400) {
        let mut random = Random::new(seed);
        let copied = dir.path().join("damaged");
        copy(&dir.path().join("backup"), &copied);
        let victim = match kinds.get(usize::try_from(seed).unwrap() - 1) {
            Some(kind) => all.iter().find(|file| relative(file).to_str().unwrap().starts_with(kind)).unwrap(),
            None => &all[usize::try_from(random.next() % all.len() as u64).unwrap()],
        };
        let how = random.damage();
        let what = format!("SEGUE_SEED={seed}: {} {how:?}", relative(victim).display());
        damage(&copied.join(relative(victim)), how);
        let said = cli.run(["store", "restore", &path("damaged"), &path("restored")]);
        if said.code == 0 {
            // What the manifest says for people (who made it, and when) is not what is restored, and an id is made anew.
            let is_free = ["manifest.json", "store-id"].iter().any(|name| victim.ends_with(name));
            assert!(is_free, "{what}: it was restored");
            assert_eq!(asked(&restored("restored"), run), whole, "{what}");
            fs::remove_dir_all(dir.path().join("restored")).unwrap();
            harmless += 1;
        } else {
            said.refuses(3, &["damaged"]);
            assert!(!dir.path().join("restored").exists(), "{what}: something was made of it");
            let left = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
            let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("restor")).collect();
            assert!(left.is_empty(), "{what}: {left:?} is left over");
        }
        fs::remove_dir_all(&copied).unwrap();
    }
    eprintln!("{harmless} were harmless");
    // The whole one is as good as before.
    cli.ok(["store", "restore", &path("backup"), &path("again")]);
    assert_eq!(asked(&restored("again"), run), whole);
}
