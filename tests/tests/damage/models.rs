//! Damaged models: registered versions, and the files of the embedding model.

use std::{fs, path::Path};

use segue_tests::{Cli, data, tables, values::text};
use serde_json::json;

use crate::{Damage, EACH, blob, copy, damage};

const PIPELINE: &str = r#"
[pipeline]
name = "models"
[params]
input = { type = "path" }
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
[tasks.scale]
op = "ml.scale"
inputs = { features = "rfm.customers" }
[tasks.kmeans]
op = "ml.kmeans"
inputs = { features = "scale.scaled", scaler = "scale.model" }
with = { k_max = 3 }
[tasks.clv]
op = "retail.clv"
inputs = { orders = "clean.orders", customers = "rfm.customers" }
[tasks.register]
op = "model.register"
inputs = { scaler = "scale.model", kmeans = "kmeans.model", clv = "clv.model" }
"#;

#[test]
fn a_damaged_model_is_refused_by_name_and_version_and_its_task_makes_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let cli = Cli::state_dir(&state, dir.path());
    let file = dir.path().join("models.toml");
    fs::write(&file, PIPELINE).unwrap();
    let sample = data::sample(dir.path(), 6_000);
    let outcome = cli.run_pipeline(&file, &["-p", &format!("input={}", sample.display())]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    let run = text(&outcome, "run");
    let digests = tables::digests(&cli, run);
    let (input, out) = (sample.to_string_lossy().into_owned(), dir.path().join("out.csv"));
    let predict = |model: &str| cli.run(["predict", model, "--input", &input, "--out", out.to_str().unwrap()]);

    for (model, task) in [("customer-kmeans", "kmeans"), ("customer-clv", "clv"), ("customer-scaler", "scale")] {
        let digest = &digests[&format!("{task}.model")];
        let place = blob(&state, digest);
        for how in EACH {
            let whole = damage(&place, how);
            let next = format!("segue rerun {run} --from {task}");
            let named = [model, "version 1", digest.as_str(), next.as_str()];
            // The reruns register newer versions.
            let first = format!("{model}:1");
            if model != "customer-scaler" {
                let said = predict(&first);
                said.refuses(said.code, &named);
                assert!(said.code > 1 && !out.exists(), "{how:?}: nothing was scored: {}", said.stderr);
            }
            let exported = dir.path().join("exported");
            let said = cli.run(["models", "export", &first, "--out", exported.to_str().unwrap()]);
            said.refuses(said.code, &named);
            assert!(said.code > 1 && !exported.exists(), "{how:?}: {}", said.stderr);
            // Back as it was, for the next damage; the last one is mended by its task.
            if how != Damage::Gone {
                fs::write(&place, whole).unwrap();
            }
        }
        let whole = fs::read(blob(&state, &digests["rfm.customers"])).unwrap();
        cli.ok(["rerun", run, "--from", task]);
        assert!(place.is_file(), "`{task}` has made it again");
        assert_eq!(fs::read(blob(&state, &digests["rfm.customers"])).unwrap(), whole, "what was kept is as it was");
        if model != "customer-scaler" {
            let said = predict(&format!("{model}:1"));
            assert_eq!(said.code, 0, "{}", said.stderr);
            fs::remove_file(&out).unwrap();
        }
    }
    assert_eq!(cli.json(["store", "verify"])["problems"], json!([]));
}

const EMBED: &str = r#"
[pipeline]
name = "embed"
[params]
input = { type = "path" }
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.embed]
op = "text.embed"
inputs = { texts = "clean.products" }
retry = { attempts = 1 }
"#;

fn embedding_model(here: &Path) -> Option<std::path::PathBuf> {
    let cli = Cli::state_dir(&here.join("none"), here).env("HF_HUB_OFFLINE", "1");
    let found = cli.run(["models", "fetch", "-o", "json"]);
    (found.code == 0).then(|| text(&found.json(), "directory").into())
}

#[test]
fn a_damaged_file_of_the_embedding_model_is_named_with_the_way_to_fetch_it_again() {
    if !data::has_embedding_model() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let whole = embedding_model(dir.path()).unwrap();
    let mine = dir.path().join("model");
    copy(&whole, &mine);
    let file = dir.path().join("embed.toml");
    fs::write(&file, EMBED).unwrap();
    let input = format!("input={}", data::sample(dir.path(), 300).display());
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path()).env("SEGUE_MODEL_DIR", &mine);
    for (name, how) in [
        ("model.safetensors", Damage::Cut(0.6)),
        ("model.safetensors", Damage::Flipped(0.3)),
        ("tokenizer.json", Damage::Cut(0.5)),
        // One letter of the vocabulary: it would still be read, and the vectors would be others.
        ("tokenizer.json", Damage::Flipped(0.5)),
        ("config.json", Damage::Emptied),
        ("config.json", Damage::Gone),
    ] {
        let place = mine.join(name);
        damage(&place, how);
        let outcome = cli.run_pipeline(&file, &["-p", &input]);
        assert_eq!(outcome["state"], "failed", "{name} {how:?}: {outcome:#}");
        let said = cli.run(["explain", text(&outcome, "run"), "embed"]);
        let shown = format!("{}{}", said.stdout, said.stderr);
        for part in [name, mine.to_str().unwrap(), "deploy/bootstrap.sh model"] {
            assert!(shown.contains(part), "{name} {how:?}: `{part}` is not in: {shown}");
        }
        assert!(!shown.contains("panicked"), "{shown}");
        let fetched = cli.run(["models", "fetch"]);
        fetched.refuses(2, &[name, "deploy/bootstrap.sh model"]);
        fs::copy(whole.join(name), &place).unwrap();
    }
    let outcome = cli.run_pipeline(&file, &["-p", &input]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
}
