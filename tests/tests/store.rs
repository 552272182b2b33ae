//! What is kept survives: backup while work goes on and at rest, restore, verify, and a flipped byte that is found.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path, time::Duration};

use segue_proto::v1::TaskState;
use segue_tests::{Cli, TestCluster, WorkerPlan, cluster::task, data, tables, values::text};
use serde_json::{Value, json};

const PIPELINE: &str = r#"
[pipeline]
name = "kept"
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
[tasks.register]
op = "model.register"
inputs = { scaler = "scale.model", kmeans = "kmeans.model" }
[tasks.says]
command = ["sh", "-c", "echo something to keep; cp $SEGUE_INPUT_CUSTOMERS $SEGUE_OUTPUT_DIR/copy"]
inputs = { customers = "rfm.customers" }
outputs = ["copy"]
"#;

const GATED: &str = r#"
[pipeline]
name = "gated"
[tasks.a]
command = ["sh", "-c", "until [ -e go ]; do sleep 0.05; done"]
[tasks.b]
command = ["true"]
after = ["a"]
"#;

/// Everything that a user can ask of one run and of the registry.
fn asked(cli: &Cli, run: &str) -> Value {
    json!({
        "show": cli.json(["show", run]),
        "artifacts": cli.json(["artifacts", "list", run]),
        "models": cli.json(["models", "list"]),
        "champion": cli.json(["models", "show", "customer-kmeans@champion"]),
        "logs": cli.ok(["logs", run, "says"]).stdout,
    })
}

fn sound(cli: &Cli) -> Value {
    let report = cli.json(["store", "verify"]);
    assert_eq!(report["problems"], json!([]), "{report}");
    report
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_string_lossy().into_owned()
}

#[test]
fn a_backup_restores_runs_artifacts_models_and_logs_and_a_flipped_byte_is_found() {
    let mut cluster = TestCluster::start(Duration::from_secs(20));
    cluster.add_worker(&WorkerPlan::new("only").cpu(4.0));
    let dir = cluster.dir().to_owned();
    let sample = data::sample(&dir, 4_000);
    let input = format!("input={}", sample.display());
    let file = cluster.pipeline("kept", PIPELINE);
    let run = cluster.submit(&file, &["-p", &input]);
    cluster.wait_succeeded(&run);
    let going = cluster.submit(&cluster.pipeline("gated", GATED), &[]);
    cluster.wait_task(&going, "a", TaskState::Running);

    // While a run goes on.
    let before = asked(&cluster.cli(), &run);
    assert!(text(&before, "logs").contains("something to keep"));
    let (hot, warm) = (path(&dir, "backup-hot"), path(&dir, "restored-hot"));
    let report = cluster.cli().json(["store", "backup", &hot]);
    assert!(report["records"].as_u64().unwrap() > 20 && report["blobs"].as_u64().unwrap() > 5, "{report}");
    cluster.cli().run(["store", "backup", &hot]).refuses(2, &["backup-hot"]);
    sound(&cluster.cli());
    let restored = Cli::state_dir(Path::new(&warm), &dir);
    restored.json(["store", "restore", &hot, &warm]);
    sound(&restored);
    assert_eq!(asked(&restored, &run), before);
    assert_eq!(restored.json(["show", &going])["tasks"][1]["state"], "waiting", "what went on goes on");
    let same = |cli: &Cli| tables::bytes(cli, &run, "rfm.customers", &dir);
    assert_eq!(same(&restored), same(&cluster.cli()));

    // At rest.
    fs::write(dir.join("go"), "").unwrap();
    let ended = cluster.wait_succeeded(&going);
    assert_eq!(task(&ended, "b").state(), TaskState::Succeeded);
    assert_eq!(cluster.stop_coordinator().code(), Some(0));
    let offline = Cli::state_dir(&cluster.state_dir(), &dir);
    let (cold, cool) = (path(&dir, "backup-cold"), path(&dir, "restored-cold"));
    offline.json(["store", "backup", &cold]);
    let restored = Cli::state_dir(Path::new(&cool), &dir);
    restored.json(["store", "restore", &cold, &cool]);
    sound(&restored);
    assert_eq!(asked(&restored, &run), before);
    assert_eq!(restored.json(["runs"]), offline.json(["runs"]));
    restored.run(["store", "restore", &cold, &cool]).refuses(3, &["restored-cold"]);

    // One byte.
    let digest = tables::digests(&restored, &run)["rfm.customers"].clone();
    let blob = Path::new(&cool).join(format!("blobs/{}/{digest}", &digest[..2]));
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&blob, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    let said = restored.run(["store", "verify", "-o", "json"]);
    assert_eq!(said.code, 3, "{}", said.stderr);
    let problems = said.json()["problems"].as_array().unwrap().clone();
    assert_eq!(problems.len(), 1, "{problems:?}");
    let problem = problems[0].as_str().unwrap();
    assert!(problem.contains(&digest) && problem.contains("damaged") && problem.contains("rfm"), "{problem}");
    let out = path(&dir, "damaged.parquet");
    restored.run(["artifacts", "get", &run, "rfm.customers", "--out", &out]).refuses(3, &[&digest, "store verify"]);
    let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let left = left.iter().filter(|name| name.to_string_lossy().starts_with("damaged.parquet")).count();
    assert_eq!(left, 0, "damaged bytes are not given to anybody");
    sound(&offline);
}
