//! Bad input: the exit code says whose fault it is, a person is told the place and the fix, nothing panics, nothing is lost.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use segue_tests::{Cli, Said, data, program, values::list};
use tempfile::TempDir;

const HEADER: &str = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

/// The tasks that bad data reaches, without those that take long.
const PIPELINE: &str = r#"
[pipeline]
name = "bad"
[params]
input = { type = "path" }
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.eda]
op = "retail.eda"
inputs = { orders = "clean.orders" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
[tasks.scale]
op = "ml.scale"
inputs = { features = "rfm.customers" }
[tasks.kmeans]
op = "ml.kmeans"
inputs = { features = "scale.scaled", scaler = "scale.model" }
[tasks.clv]
op = "retail.clv"
inputs = { orders = "clean.orders", customers = "rfm.customers" }
"#;

/// A place of its own for one test.
struct Place {
    dir: TempDir,
    cli: Cli,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
        Self { dir, cli }
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let file = self.dir.path().join(name);
        fs::write(&file, bytes).unwrap();
        file
    }

    #[track_caller]
    fn run(&self, pipeline: &str, input: &Path) -> Said {
        let file = self.file("bad.toml", pipeline);
        self.cli.run(["run", &file.to_string_lossy(), "-p", &format!("input={}", input.display())])
    }

    /// The state directory is as good as before: it lists every run, and every record and blob is sound.
    #[track_caller]
    fn nothing_is_lost(&self, runs: usize) {
        assert_eq!(list(&self.cli.json(["runs"]), "").len(), runs);
        assert_eq!(self.cli.json(["store", "verify"])["problems"], serde_json::json!([]));
    }
}

fn line(invoice: u32, quantity: i32, customer: &str) -> String {
    format!("{invoice},85123A,WHITE HEART,{quantity},2010-12-01 08:26:00,2.55,{customer},United Kingdom\n")
}

#[test]
fn a_file_that_holds_no_order_lines_is_refused_by_name_with_what_to_do() {
    let place = Place::new();
    let lines: String = (0..200).map(|i| line(536_365 + i, 6, "17850")).collect();
    let mut packed = Vec::new();
    let whole = format!("{HEADER}{lines}");
    let mut encoder = liblzma::write::XzEncoder::new(&mut packed, 6);
    encoder.write_all(whole.as_bytes()).unwrap();
    encoder.finish().unwrap();
    // Numbers that no text begins with, the same at each run.
    let garbage: Vec<u8> = (0..60_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let returned: String = (0..50).map(|i| line(536_365 + i, -6, "17850")).collect();
    let nobody: String = (0..50).map(|i| line(536_365 + i, 6, "")).collect();
    // Nothing runs for a file that is not there: no run is made of a slip of the fingers.
    let said = place.run(PIPELINE, &place.dir.path().join("absent.csv"));
    said.refuses(2, &["absent.csv", "does not exist", "hint:"]);
    let cases: [(PathBuf, &[&str]); 7] = [
        (place.file("empty.csv", ""), &["empty.csv", "is empty"]),
        (place.file("header.csv", HEADER), &["header.csv", "no rows"]),
        (place.file("columns.csv", "a,b,c\n1,2,3\n"), &["columns.csv", "InvoiceNo", "column"]),
        (place.file("garbage.csv", garbage), &["garbage.csv", "not text"]),
        (place.file("cut.csv.xz", &packed[..packed.len() / 2]), &["cut.csv.xz", "xz"]),
        (place.file("returned.csv", format!("{HEADER}{returned}")), &["returned.csv", "no order line is left"]),
        (place.file("nobody.csv", format!("{HEADER}{nobody}")), &["nobody.csv", "no order line is left"]),
    ];
    let runs = cases.len();
    for (input, words) in cases {
        let said = place.run(PIPELINE, &input);
        said.refuses(1, words);
        said.refuses(1, &["clean failed", "hint:", "segue rerun"]);
    }
    place.nothing_is_lost(runs);
    // The same state directory still works.
    let rows = data::sample(place.dir.path(), 2_000);
    let said = place.run(PIPELINE, &rows);
    assert_eq!(said.code, 0, "{}", said.stderr);
    place.nothing_is_lost(runs + 1);
}

#[test]
fn one_customer_is_too_few_to_cluster_and_the_message_says_so() {
    let place = Place::new();
    let one: String = (0..20).map(|i| line(536_365 + i, 6, "17850")).collect();
    let input = place.file("one.csv", format!("{HEADER}{one}"));
    let said = place.run(PIPELINE, &input);
    said.refuses(1, &["kmeans failed", "1 row", "hint:"]);
    let run = place.cli.json(["show", "latest"]);
    let state = |name: &str| list(&run, "tasks").iter().find(|task| task["name"] == name).unwrap()["state"].clone();
    assert_eq!(state("rfm"), "succeeded", "what one customer is enough for is kept");
    place.nothing_is_lost(1);
}

#[test]
fn a_directory_that_does_not_hold_the_embedding_model_is_named() {
    let place = Place::new();
    let texts = "[pipeline]\nname = \"bad\"\n[params]\ninput = { type = \"path\" }\n\
        [tasks.clean]\nop = \"retail.clean\"\nwith = { path = \"${params.input}\" }\n\
        [tasks.embed]\nop = \"text.embed\"\ninputs = { texts = \"clean.products\" }\n";
    let input = data::sample(place.dir.path(), 1_000);
    let with_models = |dir: &Path| Place {
        dir: tempfile::tempdir().unwrap(),
        cli: Cli::state_dir(&place.dir.path().join("state"), place.dir.path()).env("SEGUE_MODEL_DIR", dir),
    };
    let absent = place.dir.path().join("absent");
    with_models(&absent).run(texts, &input).refuses(1, &["embed failed", "absent", "no such directory", "hint:"]);

    let damaged = place.dir.path().join("damaged");
    fs::create_dir(&damaged).unwrap();
    for (name, bytes) in [("config.json", &b"{}"[..]), ("tokenizer.json", b"{}"), ("model.safetensors", b"\x10 torn")] {
        fs::write(damaged.join(name), bytes).unwrap();
    }
    with_models(&damaged).run(texts, &input).refuses(1, &["embed failed", "damaged", "model.safetensors", "hint:"]);
    place.nothing_is_lost(2);
}

#[test]
fn an_unknown_model_or_a_bad_reference_is_wrong_use() {
    let place = Place::new();
    let input = place.file("customers.csv", "CustomerID,Recency\n1,2\n");
    let (input, out) = (input.to_string_lossy().into_owned(), "scored.csv");
    // Without any store there is nothing to ask.
    place.cli.run(["models", "list"]).refuses(3, &["holds no store", "hint"]);
    let sample = data::sample(place.dir.path(), 1_000);
    let clean = "[pipeline]\nname = \"c\"\n[params]\ninput = { type = \"path\" }\n\
        [tasks.clean]\nop = \"retail.clean\"\nwith = { path = \"${params.input}\" }\n";
    assert_eq!(place.run(clean, &sample).code, 0);
    place.cli.run(["predict", "nobody", "--input", &input, "--out", out]).refuses(2, &["nobody"]);
    place.cli.run(["predict", "nobody", "--input", "absent.csv", "--out", out]).refuses(2, &["absent.csv"]);
    place.cli.run(["models", "export", "nobody", "--out", "exported"]).refuses(2, &["nobody"]);
    place.cli.run(["models", "alias", "nobody", "champion", "1"]).refuses(2, &["nobody"]);
    place.cli.run(["show", "run_00000000000000000000000000"]).refuses(2, &["run_00000000000000000000000000"]);
    place.cli.run(["show", "what is this"]).refuses(2, &["what is this"]);
    place.cli.run(["logs", "latest", "claen"]).refuses(2, &["claen"]);
    place
        .cli
        .run(["artifacts", "get", "latest", "clean.order", "--out", "x"])
        .refuses(2, &["did you mean `clean.orders`"]);
    place.cli.run(["artifacts", "get", "latest", "clean", "--out", "x"]).refuses(2, &["TASK.OUTPUT"]);
    place.cli.run(["similar", "teapot"]).refuses(2, &["no embedding", "hint"]);
    place.cli.run(["frobnicate"]).refuses(2, &["frobnicate"]);
    place.nothing_is_lost(1);
}

#[test]
fn a_bad_pipeline_file_or_parameter_is_shown_at_its_place_and_nothing_is_submitted() {
    let place = Place::new();
    let shipped = program::shipped("customer-segmentation.toml").to_string_lossy().into_owned();
    let sample = data::sample(place.dir.path(), 1_000);
    let input = format!("input={}", sample.display());
    let bad = place.file("bad.toml", PIPELINE.replace("clean.orders", "claen.orders").replace("ml.kmeans", "ml.kmean"));
    let bad = bad.to_string_lossy().into_owned();
    for command in ["validate", "run", "plan"] {
        let said = place.cli.run([command, &bad]);
        said.refuses(2, &["error[", "bad.toml:", "claen", "did you mean", "kmean", "^"]);
    }
    place.cli.run(["run", "absent.toml"]).refuses(2, &["absent.toml", "hint"]);
    let binary = place.file("binary.toml", b"\xff\xfe\x00").to_string_lossy().into_owned();
    place.cli.run(["run", &binary]).refuses(2, &["binary.toml", "UTF-8"]);
    place.cli.run(["run", &shipped]).refuses(2, &["input"]);
    place.cli.run(["run", &shipped, "-p", "input"]).refuses(2, &["KEY=VALUE"]);
    place.cli.run(["run", &shipped, "-p", &input, "-p", "sead=1"]).refuses(2, &["sead", "seed"]);
    place.cli.run(["run", &shipped, "-p", &input, "-p", "seed=one"]).refuses(2, &["seed", "one"]);
    place.cli.run(["run", &shipped, "-p", &input, "-p", "frequency=daily"]).refuses(2, &["frequency", "orders"]);
    place.cli.run(["run", &shipped, "-p", "input=@absent.csv"]).refuses(2, &["absent.csv"]);
    assert_eq!(list(&place.cli.json(["runs"]), "").len(), 0, "nothing was submitted");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named() {
    let place = Place::new();
    let pipeline = place.file("p.toml", "[pipeline]\nname = \"p\"\n[tasks.a]\ncommand = [\"true\"]\n");
    let pipeline = pipeline.to_string_lossy().into_owned();
    let in_the_way = place.file("in-the-way", "a file");
    let run = |state: &Path| Cli::state_dir(state, place.dir.path()).run(["run", &pipeline]);
    run(&in_the_way).refuses(3, &["in-the-way"]);
    run(&in_the_way.join("below")).refuses(3, &["in-the-way"]);
    assert_eq!(fs::read_to_string(&in_the_way).unwrap(), "a file", "what was there is still there");

    let closed = place.dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(closed.join("probe"), "").is_ok() {
        data::skipped("a directory that cannot be written: this user may write everywhere");
    } else {
        run(&closed).refuses(3, &["closed"]);
    }
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_coordinator_that_is_not_there_is_exit_code_3_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    // Port 1 is nobody's on a machine that runs tests.
    Cli::server("http://127.0.0.1:1", dir.path()).run(["runs"]).refuses(3, &["http://127.0.0.1:1", "--server"]);
    Cli::server("127.0.0.1:1", dir.path()).run(["runs"]).refuses(2, &["http://"]);
    Cli::server("http://127.0.0.1:1", dir.path())
        .run(["coordinator", "--listen", "0.0.0.0:0"])
        .refuses(2, &["0.0.0.0", "--insecure"]);
}

#[test]
fn a_task_that_nobody_can_ever_take_ends_a_run_of_this_machine_alone() {
    let place = Place::new();
    let file = place.file(
        "greedy.toml",
        "[pipeline]\nname = \"greedy\"\n[tasks.big]\ncommand = [\"true\"]\nresources = { licences = 3 }\n",
    );
    let said = place.cli.run(["run", &file.to_string_lossy()]);
    said.refuses(1, &["big", "3 licences", "cancelling the run", "--resource"]);
    let said = place.cli.run(["run", &file.to_string_lossy(), "--resource", "licences=3"]);
    assert_eq!(said.code, 0, "{}", said.stderr);
}
