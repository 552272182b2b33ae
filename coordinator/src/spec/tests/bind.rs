use std::collections::BTreeMap;

use segue_proto::operator::Catalogue;
use serde_json::json;

use super::{
    super::{BoundTask, Code, EnvValue, RunSpec, Work, bind},
    NOTEBOOK, RECOMMENDED, catalogue, good,
};

const DEMO: &str = r#"
[pipeline]
name = "demo"
[params]
input   = { type = "path", help = "what to read" }
rounds  = { type = "int", default = 3, min = 1, max = 9 }
share   = 0.5
mode    = { type = "string", one_of = ["fast", "good"], default = "fast" }
columns = { type = "list", default = ["a", "b"] }
verbose = false
[tasks.clean]
op   = "retail.clean"
with = { path = "${params.input}" }
[tasks.script]
command = ["run", "--rounds=${params.rounds}", "$${HOME}", "${params.input}"]
env     = { MODE = "${params.mode}", TOKEN = { secret = "env:CRM" } }
with    = { data = "${params.input}", columns = "${params.columns}", share = "${params.share}", verbose = "${params.verbose}", text = "<${params.share}>" }
outputs = ["rows"]
[tasks.last]
op    = "core.noop"
after = ["script"]
"#;

fn params(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn bound(text: &str, given: &[(&str, &str)]) -> RunSpec {
    bind(&good(text), &catalogue(), &params(given), "/data", false).unwrap()
}

fn refused(given: &[(&str, &str)]) -> Vec<(Code, String)> {
    bind(&good(DEMO), &catalogue(), &params(given), "/data", false)
        .unwrap_err()
        .into_iter()
        .map(|fault| (fault.code, format!("{} / {}", fault.message, fault.hint.unwrap_or_default())))
        .collect()
}

fn task<'s>(spec: &'s RunSpec, name: &str) -> &'s BoundTask {
    spec.tasks.iter().find(|task| task.name.as_str() == name).unwrap()
}

#[test]
fn parameters_are_filled_in_with_their_types() {
    let spec = bound(DEMO, &[("input", "orders.csv"), ("rounds", "7"), ("columns", "x, y"), ("verbose", "true")]);
    let script = task(&spec, "script");
    assert_eq!(
        json!(script.params),
        json!({ "columns": ["x", "y"], "data": "/data/orders.csv", "share": 0.5, "text": "<0.5>", "verbose": true })
    );
    assert_eq!(script.path_params, ["data"]);
    let argv = ["run", "--rounds=7", "${HOME}", "/data/orders.csv"].map(str::to_owned).to_vec();
    assert_eq!(script.work, Work::Command { argv });
    assert_eq!(script.env["MODE"], EnvValue::Text("fast".into()));
    assert_eq!(script.env["TOKEN"], EnvValue::Secret("env:CRM".into()));
    assert_eq!(script.outputs.len(), 1);
    assert_eq!(spec.params["columns"], r#"["x","y"]"#);
}

#[test]
fn an_operator_gets_its_defaults_and_its_outputs() {
    let spec = bound(DEMO, &[("input", "orders.csv")]);
    let clean = task(&spec, "clean");
    assert_eq!(clean.params["path"], json!("/data/orders.csv"));
    assert_eq!(clean.params["date_format"], json!("auto"));
    assert_eq!(clean.path_params, ["path"]);
    let outputs: Vec<&str> = clean.outputs.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(outputs, ["orders", "products", "quality"]);
    assert!(!clean.params.contains_key("columns"), "optional parameters stay away");
}

#[test]
fn pure_operators_are_cached_and_commands_are_not() {
    let spec = bound(RECOMMENDED, &[("input", "x.csv")]);
    for one in &spec.tasks {
        assert_eq!(one.cache, !["register", "report"].contains(&one.name.as_str()), "{}", one.name);
    }
    assert!(!task(&bound(DEMO, &[("input", "x")]), "script").cache);
    let asked = DEMO.replace("outputs = [\"rows\"]", "outputs = [\"rows\"]\ncache = true");
    assert!(task(&bound(&asked, &[("input", "x")]), "script").cache);
    let none = bind(&good(&asked), &catalogue(), &params(&[("input", "x")]), "", true).unwrap();
    assert!(none.tasks.iter().all(|task| !task.cache));
}

#[test]
fn urls_uploads_and_absolute_paths_stay_as_they_are() {
    let upload = format!("blob:{}", "0".repeat(64));
    for path in ["s3://bucket/x.csv", "file:///x.csv", "/abs/x.csv", &upload] {
        let spec = bind(&good(NOTEBOOK), &catalogue(), &params(&[("input", path)]), "/data", false).unwrap();
        assert_eq!(task(&spec, "clean").params["path"], json!(path));
    }
    let spec = bind(&good(NOTEBOOK), &catalogue(), &params(&[("input", "./a/../b.csv")]), "/data", false).unwrap();
    assert_eq!(task(&spec, "clean").params["path"], json!("/data/a/../b.csv"));
}

#[test]
fn binding_the_parameters_of_a_run_again_gives_the_same_run() {
    let first = bound(DEMO, &[("input", "orders.csv"), ("columns", "[1, 2]")]);
    let again = bind(&good(DEMO), &catalogue(), &first.params, "/data", false).unwrap();
    assert_eq!(first, again);
}

#[test]
fn every_bad_parameter_is_reported_at_once() {
    let faults = refused(&[
        ("ruonds", "3"),
        ("rounds", "ten"),
        ("share", "inf"),
        ("mode", "god"),
        ("verbose", "yes"),
        ("columns", "[1, \"x\"]"),
    ]);
    let codes: Vec<Code> = faults.iter().map(|fault| fault.0).collect();
    assert_eq!(
        codes,
        [
            Code::UnknownParam,
            Code::MissingParam,
            Code::BadValue,
            Code::BadValue,
            Code::BadValue,
            Code::BadValue,
            Code::BadValue
        ]
    );
    let text: Vec<String> = faults.into_iter().map(|fault| fault.1).collect();
    assert_eq!(text[0], "the pipeline `demo` has no parameter `ruonds` / did you mean `rounds`?");
    assert_eq!(text[1], "the parameter `input` has no value / give it: -p input=VALUE, a path (what to read)");
    assert_eq!(text[4], "the parameter `mode` cannot be `god` / did you mean `good`?");
}

#[test]
fn limits_of_the_pipeline_and_of_the_operator_both_hold() {
    assert_eq!(
        refused(&[("input", "x"), ("rounds", "10")])[0].1,
        "the parameter `rounds` cannot be 10 / it must be from 1 to 9"
    );
    let text = RECOMMENDED.replace("min = 7, max = 365, default = 90", "default = 90");
    let faults =
        bind(&good(&text), &catalogue(), &params(&[("input", "x"), ("horizon_days", "0")]), "", false).unwrap_err();
    assert_eq!(
        faults[0].message,
        "the task `clv`: the parameter `horizon_days` of `retail.clv` cannot be 0, the value of `horizon_days`"
    );
}

#[test]
fn an_upload_reaches_a_command_only_as_a_parameter() {
    let upload = format!("blob:{}", "0".repeat(64));
    assert_eq!(refused(&[("input", &upload)])[0].0, Code::BadValue);
    assert_eq!(refused(&[("input", "blob:x")])[0].0, Code::BadValue);
}

#[test]
fn an_operator_that_no_worker_offers_is_named() {
    let faults = bind(&good(RECOMMENDED), &Catalogue::default(), &params(&[("input", "x")]), "", false).unwrap_err();
    assert_eq!(faults.len(), 13);
    assert_eq!(faults[0].code, Code::UnknownOperator);
}

#[test]
fn a_parameter_cannot_blow_up_a_run() {
    let many = "${params.mode}".repeat(100_000);
    let text = format!("[pipeline]\nname = \"x\"\n[params]\nmode = \"a\"\n[tasks.a]\ncommand = [\"x\", \"{many}\"]\n");
    let long = "x".repeat(10_000);
    let faults = bind(&good(&text), &catalogue(), &params(&[("mode", &long)]), "", false).unwrap_err();
    assert_eq!(faults[0].code, Code::TooLarge);
}

#[test]
fn a_kept_spec_whose_edges_lead_nowhere_or_back_does_not_add_up() {
    let sound = bound(DEMO, &[("input", "x")]);
    assert_eq!(sound.adds_up(), Ok(()));
    let refused = |spoil: &dyn Fn(&mut RunSpec)| {
        let mut spec = bound(DEMO, &[("input", "x")]);
        spoil(&mut spec);
        spec.adds_up().unwrap_err()
    };
    let last = sound.tasks.len() - 1;
    assert_eq!(sound.tasks[last].needs().len(), 1, "the last task waits for one other");
    let before = sound.tasks[last].needs()[0];
    assert!(refused(&|spec| spec.tasks[last].after.push(99)).contains("needs task 99, and there is none"));
    assert!(refused(&|spec| spec.tasks[before].after.push(last)).contains("wait for each other"));
    assert!(refused(&|spec| spec.tasks[last].after.push(last)).contains("wait for each other"));
    assert!(refused(&|spec| spec.tasks[0].name = spec.tasks[last].name.clone()).contains("the same name"));
}
