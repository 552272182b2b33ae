//! Fan-outs, conditions, pools, limits, alternatives: each key good; what is reported of bad ones is in
//! `tests/diagnostics.rs`.

use std::collections::BTreeMap;

use segue_proto::{failure::FailureClass, resources::GpuPreference};
use serde_json::{Value, json};

use super::{
    super::{
        Backoff, BoundTask, Code, EnvValue, OnFull, OutputRef, Over, Pipeline, RunIf, RunSpec, Task, Work, bind,
        child_key, items_of, resolve_child,
    },
    EVERYTHING, catalogue, check, codes, good,
};

const HEAD: &str = "[pipeline]\nname = \"demo\"\n[params]\nregions = { type = \"list\", default = [\"eu\", \"us\"] }\n\
                    customer = \"acme\"\nmode = \"full\"\n";

/// Gives a pipeline that uses every parameter, followed by a text.
fn with(text: &str) -> Pipeline {
    good(&full(text))
}

fn full(text: &str) -> String {
    format!(
        "{HEAD}{text}\n[tasks.uses]\ncommand = [\"echo\", \"${{params.regions}} ${{params.customer}} ${{params.mode}}\"]\n"
    )
}

fn task<'p>(pipeline: &'p Pipeline, name: &str) -> &'p Task {
    pipeline.tasks.iter().find(|task| task.name.as_str() == name).unwrap()
}

fn bound(text: &str, given: &[(&str, &str)]) -> RunSpec {
    try_bound(text, given).unwrap()
}

fn try_bound(text: &str, given: &[(&str, &str)]) -> Result<RunSpec, Vec<(Code, String)>> {
    let params: BTreeMap<String, String> = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    bind(&with(text), &catalogue(), &params, "/data", false)
        .map_err(|faults| faults.into_iter().map(|fault| (fault.code, fault.message)).collect())
}

fn of<'s>(spec: &'s RunSpec, name: &str) -> &'s BoundTask {
    spec.tasks.iter().find(|task| task.name.as_str() == name).unwrap()
}

fn over(text: &str) -> Over {
    let pipeline = with(&format!("[tasks.a]\ncommand = [\"x\", \"${{item}}\"]\n{text}\n"));
    task(&pipeline, "a").flow.fan_out.clone().unwrap().over
}

fn items(over: &Over) -> Vec<Value> {
    items_of(over).unwrap().iter().collect()
}

#[test]
fn items_come_from_lists_parameters_ranges_files_and_outputs() {
    assert_eq!(over("foreach = [\"eu\", 2, true]"), Over::Items(vec![json!("eu"), json!(2), json!(true)]));
    assert_eq!(over("foreach = \"${params.regions}\""), Over::Param("regions".into()));
    assert_eq!(over("foreach = { range = 3 }"), Over::Range { from: 0, to: 3, step: 1 });
    assert_eq!(over("foreach = { range = { from = 9, to = 0, step = -3 } }"), Over::Range { from: 9, to: 0, step: -3 });
    assert_eq!(over("foreach = { glob = \"data/*.csv\" }"), Over::Glob("data/*.csv".into()));
    let text = "[tasks.list]\ncommand = [\"ls\"]\noutputs = { items = \"json\" }\n[tasks.a]\ncommand = [\"x\"]\n\
                foreach = { output = \"list.items\" }";
    let pipeline = with(text);
    let a = task(&pipeline, "a");
    assert_eq!(a.flow.fan_out.as_ref().unwrap().over, Over::Output(OutputRef { task: 0, output: "items".into() }));
    let spec = bound(text, &[]);
    assert_eq!(of(&spec, "a").needs(), [0], "the list is a need");
    assert_eq!(of(&spec, "list").inline, ["items"], "its content decides what runs");
}

const RANGES: &str = "[pipeline]\nname = \"x\"\n[params]\nfirst = 0\nmost = { type = \"int\" }\nby = 2\ntext = \"t\"\n\
                      [tasks.uses]\ncommand = [\"echo\", \"${params.first} ${params.most} ${params.by} ${params.text}\"]\n";

fn ranges(range: &str) -> String {
    format!("{RANGES}[tasks.a]\ncommand = [\"x\", \"${{item}}\"]\nforeach = {{ range = {range} }}\n")
}

fn bound_range(range: &str, given: &[(&str, &str)]) -> Result<Vec<Value>, String> {
    let params: BTreeMap<String, String> = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let spec = bind(&good(&ranges(range)), &catalogue(), &params, "/data", false)
        .map_err(|faults| faults.iter().map(|fault| fault.message.clone()).collect::<String>())?;
    let again = bind(&good(&ranges(range)), &catalogue(), &spec.params, "/data", false).unwrap();
    assert_eq!(again, spec, "binding again gives the same run");
    Ok(items(&of(&spec, "a").flow.fan_out.clone().unwrap().over))
}

#[test]
fn numbers_of_a_range_may_be_parameters() {
    let whole = r#"{ from = "${params.first}", to = "${params.most}", step = "${params.by}" }"#;
    assert_eq!(bound_range(whole, &[("most", "5")]).unwrap(), [json!(0), json!(2), json!(4)]);
    let down = [("first", "3"), ("most", "0"), ("by", "-1")];
    assert_eq!(bound_range(whole, &down).unwrap(), [json!(3), json!(2), json!(1)]);
    assert_eq!(bound_range(r#""${params.most}""#, &[("most", "2")]).unwrap(), [json!(0), json!(1)]);
    assert_eq!(bound_range(r#"{ from = 4, to = "${params.most}" }"#, &[("most", "5")]).unwrap(), [json!(4)]);
    assert!(bound_range(r#""${params.most}""#, &[("most", "0")]).unwrap().is_empty(), "as a list may hold nothing");
    assert!(bound_range(r#""${params.most}""#, &[("most", "-9223372036854775808")]).unwrap().is_empty());
}

#[test]
fn a_range_that_parameters_make_impossible_is_refused_at_submission() {
    let by = r#"{ to = "${params.most}", step = "${params.by}" }"#;
    assert_eq!(
        bound_range(by, &[("most", "5"), ("by", "0")]).unwrap_err(),
        "the fan-out `a`: the step of its range is 0"
    );
    let wide = bound_range(
        r#"{ from = "${params.first}", to = "${params.most}" }"#,
        &[("first", "-9223372036854775808"), ("most", "9223372036854775807")],
    );
    assert!(wide.unwrap_err().contains("the fan-out `a`: has 18446744073709551615 items"));
    assert!(bound_range(r#""${params.most}""#, &[("most", "many")]).unwrap_err().contains("`most`"));
}

#[test]
fn a_range_of_what_is_no_number_is_refused_at_its_place() {
    for (range, says, hints) in [
        (r#""${params.text}""#, "a range takes whole numbers, but `text` is", "type = \"int\""),
        (r#"{ to = "10" }"#, "a range is text, and takes whole numbers", "10, or \"${params.NAME}\""),
        (r#"{ to = "${params.most}0" }"#, "a range is text, and takes whole numbers", "of a parameter of type int"),
        (r#"{ from = "${item}", to = 3 }"#, "", ""),
        (r#"{ to = "${params.mots}" }"#, "mots", "most"),
        (r#"{ to = "${params.most}", step = 0 }"#, "`step` cannot be 0", "never end"),
    ] {
        let text = ranges(range);
        let checked = check(&text);
        let rendered = checked.render("x.toml", &text, false);
        assert!(checked.pipeline.is_none(), "{range} was taken");
        assert!(rendered.contains(says) && rendered.contains(hints) && rendered.contains("x.toml:12:"), "{rendered}");
    }
}

#[test]
fn fan_outs_of_a_run_have_a_bound_together() {
    let three = |to: u32| {
        let task = |name: &str, to: u32| format!("[tasks.{name}]\ncommand = [\"x\"]\nforeach = {{ range = {to} }}\n");
        try_bound(&format!("{}{}{}", task("a", 1_000_000), task("b", to), task("c", 1)), &[])
    };
    assert!(three(999_999).is_ok());
    let (code, message) = three(1_000_000).unwrap_err().remove(0);
    assert_eq!(code, Code::BadFanOut);
    assert_eq!(message, "the fan-outs of the run have 2000001 children together: `b` 1000000, `a` 1000000, `c` 1");
}

#[test]
fn a_file_that_uses_every_key_is_good_and_binds() {
    assert!(check(EVERYTHING).diagnostics.is_empty(), "{}", check(EVERYTHING).render("e", EVERYTHING, false));
    let bound =
        |params: &BTreeMap<String, String>| bind(&good(EVERYTHING), &catalogue(), params, "/data", false).unwrap();
    let first = bound(&BTreeMap::new());
    assert_eq!(first.tasks.len(), 9);
    assert_eq!(bound(&first.params), first, "binding again gives the same run");
    let json = serde_json::to_string(&first).unwrap();
    assert_eq!(serde_json::from_str::<RunSpec>(&json).unwrap(), first, "a run is stored as JSON");
}

#[test]
fn items_are_counted_and_found_without_being_made() {
    let range = Over::Range { from: i64::MIN, to: i64::MAX, step: 1 };
    assert_eq!(items_of(&range).unwrap().len(), u64::MAX);
    assert_eq!(items_of(&range).unwrap().get(u64::MAX - 1), Some(json!(i64::MAX - 1)));
    assert_eq!(items(&Over::Range { from: 9, to: 0, step: -3 }), [json!(9), json!(6), json!(3)]);
    assert_eq!(items(&Over::Range { from: 0, to: 5, step: 2 }), [json!(0), json!(2), json!(4)]);
    assert!(items_of(&Over::Range { from: 0, to: 5, step: -1 }).unwrap().is_empty());
    let wide = Over::Matrix((0..16).map(|n| (format!("l{n}"), vec![Value::Null; 1_000])).collect());
    assert_eq!(items_of(&wide).unwrap().len(), u64::MAX);
    let matrix = over("matrix = { region = [\"eu\", \"us\"], size = [1, 2] }");
    assert_eq!(
        items(&matrix),
        [
            json!({ "region": "eu", "size": 1 }),
            json!({ "region": "eu", "size": 2 }),
            json!({ "region": "us", "size": 1 }),
            json!({ "region": "us", "size": 2 }),
        ],
        "the last list changes fastest"
    );
    assert!(items_of(&Over::Param("x".into())).is_none(), "not known yet");
}

#[test]
fn parameters_are_filled_into_items_and_lists_take_the_place_of_their_reference() {
    let text = "[tasks.a]\ncommand = [\"x\", \"${item.region}\"]\n\
                foreach = [{ region = \"${params.customer}\", sizes = [1, 2] }]\n\
                [tasks.b]\ncommand = [\"x\", \"${item}\"]\nforeach = [\"first\", \"${params.regions}\"]\n\
                [tasks.c]\ncommand = [\"x\"]\nforeach = \"${params.regions}\"\n\
                [tasks.d]\ncommand = [\"x\"]\nmatrix = { r = \"${params.regions}\", m = [\"${params.mode}\"] }\n";
    let spec = bound(text, &[("regions", "[1, 2]"), ("customer", "c${1")]);
    let items = |name: &str| items(&of(&spec, name).flow.fan_out.as_ref().unwrap().over);
    assert_eq!(items("a"), [json!({ "region": "c${1", "sizes": [1, 2] })]);
    assert_eq!(items("b"), [json!("first"), json!(1), json!(2)]);
    assert_eq!(items("c"), [json!(1), json!(2)]);
    assert_eq!(items("d"), [json!({ "r": 1, "m": "full" }), json!({ "r": 2, "m": "full" })]);
    assert_eq!(of(&bound(text, &[("regions", "")]), "c").flow.fan_out.as_ref().unwrap().over, Over::Items(vec![]));
}

#[test]
fn a_child_is_filled_with_its_item_and_keeps_types() {
    let text = "[tasks.a]\ncommand = [\"x\", \"--id=${item.id}\", \"${key}/${index}\", \"$${item}\", \"${params.customer}\"]\n\
                foreach = [{ id = 7, tags = [\"p\", \"q\"], at = { x = 1.5 } }]\nkey = \"id-${item.id}-${params.customer}\"\n\
                env = { ID = \"${item.id}\", S = { secret = \"env:S\" } }\n\
                with = { id = \"${item.id}\", tags = \"${item.tags}\", x = \"${item.at.x}\", first = \"${item.tags.0}\", \
                text = \"<${item.id}>\", plain = 3, all = [\"${index}\", \"z\"] }\n\
                limit = { key = \"api-${item.id}-${params.customer}\", max = 2 }\n";
    // What a parameter holds is no reference, whatever it looks like.
    let spec = bound(text, &[("customer", "${item.id}$")]);
    let a = of(&spec, "a");
    let fan_out = a.flow.fan_out.as_ref().unwrap();
    let item = items_of(&fan_out.over).unwrap().get(0).unwrap();
    let key = child_key(fan_out, &item, 0).unwrap();
    assert!(key.as_str().starts_with("id-7-__item_id__-"), "{key}");
    let child = resolve_child(a, "/data", &item, "id-7", 0).unwrap();
    let argv = ["x", "--id=7", "id-7/0", "${item}", "${item.id}$"].map(str::to_owned).to_vec();
    assert_eq!(child.work, Work::Command { argv });
    assert_eq!(child.env["ID"], EnvValue::Text("7".into()));
    assert_eq!(child.env["S"], EnvValue::Secret("env:S".into()));
    assert_eq!(
        json!(child.params),
        json!({
            "all": [0, "z"], "first": "p", "id": 7, "plain": 3, "tags": ["p", "q"], "text": "<7>", "x": 1.5
        })
    );
    assert_eq!(child.limit_key.as_deref(), Some("api-7-${item.id}$"));
    let fault = resolve_child(a, "/data", &json!({ "other": 1 }), "k", 3).unwrap_err();
    assert_eq!(fault, "the child `k` of `a`: its item has no id: {\"other\":1}");
    assert!(child_key(fan_out, &json!(3), 0).unwrap_err().contains("has no id"));
}

#[test]
fn children_are_named_by_what_tells_them_apart() {
    let key = |text: &str, item: Value, index: u32| {
        let pipeline = with(&format!("[tasks.a]\ncommand = [\"x\"]\n{text}\n"));
        child_key(task(&pipeline, "a").flow.fan_out.as_ref().unwrap(), &item, index).unwrap().to_string()
    };
    assert_eq!(key("foreach = [\"eu\"]", json!("eu"), 0), "eu");
    assert_eq!(key("foreach = [1]", json!(1), 0), "1");
    assert_eq!(key("foreach = [{ a = 1 }]", json!({ "a": 1 }), 4), "4");
    assert_eq!(key("foreach = [\"x\"]\nkey = \"${index}\"", json!("eu"), 4), "4");
    assert_eq!(key("matrix = { r = [\"eu\"], m = [\"s\"] }", json!({ "r": "eu", "m": "s" }), 0), "eu+s");
    assert!(key("foreach = [\"a/b\"]", json!("a/b"), 0).starts_with("b-"));
    assert_ne!(key("foreach = [\"x\"]", json!("a/x"), 0), key("foreach = [\"x\"]", json!("b/x"), 0));
}

#[test]
fn an_operator_of_a_fan_out_keeps_its_defaults_and_its_paths() {
    let text = "[tasks.a]\nop = \"retail.clean\"\nforeach = { glob = \"in/*.csv\" }\nwith = { path = \"${item}\" }\n\
                [tasks.b]\nop = \"retail.clean\"\nforeach = [\"x\"]\nwith = { path = \"in/${item}.csv\", customer_column = \"a$${b}\" }\n\
                [tasks.c]\ncommand = [\"wc\"]\nforeach = { glob = \"in/*.csv\" }\nwith = { file = \"${item}\", n = \"${index}\" }\n\
                [tasks.d]\nop = \"core.sleep\"\nforeach = [1]\nwith = { seconds = \"${item}\" }\n";
    let spec = bound(text, &[]);
    let a = of(&spec, "a");
    assert_eq!(a.flow.fan_out.as_ref().unwrap().over, Over::Glob("/data/in/*.csv".into()));
    let child = resolve_child(a, "/data", &json!("/data/in/1.csv"), "k", 0).unwrap();
    assert_eq!(child.params["path"], json!("/data/in/1.csv"));
    assert_eq!(child.params["date_format"], json!("auto"));
    // An item may bring a relative path, an absolute one, or a URL.
    for (item, path) in [("x.csv", "/data/x.csv"), ("s3://b/x", "s3://b/x"), ("/abs", "/abs")] {
        assert_eq!(resolve_child(a, "/data", &json!(item), "k", 0).unwrap().params["path"], json!(path));
    }
    let b = of(&spec, "b");
    let child = resolve_child(b, "/data", &json!("x"), "x", 0).unwrap();
    assert_eq!(child.params["path"], json!("/data/in/x.csv"));
    assert_eq!(child.params["customer_column"], json!("a${b}"));
    assert_eq!(of(&spec, "c").path_params, ["file"], "a file that a pattern found counts by its content");
    let child = resolve_child(of(&spec, "d"), "/data", &json!(0.5), "k", 0).unwrap();
    assert_eq!(child.params["seconds"], json!(0.5));
}

#[test]
fn children_at_a_time_failures_and_keys_are_taken_over() {
    let pipeline = with(
        "[tasks.a]\ncommand = [\"x\"]\nforeach = [1, 2]\nmax_parallel = 4\nfail_fast = true\ntolerate = 2\nkey = \"n${item}\"\n",
    );
    let fan_out = task(&pipeline, "a").flow.fan_out.clone().unwrap();
    assert_eq!((fan_out.max_parallel, fan_out.fail_fast, fan_out.tolerate), (Some(4), true, 2));
    assert_eq!(fan_out.key.as_deref(), Some("n${item}"));
}

#[test]
fn children_that_would_have_one_key_are_refused_at_submission_too() {
    let text = "[tasks.a]\ncommand = [\"x\"]\nforeach = \"${params.regions}\"\n";
    let faults = try_bound(text, &[("regions", "a,b,a")]).unwrap_err();
    assert_eq!(faults, [(Code::BadFanOut, "the fan-out `a`: two children would have the same key, `a`".to_owned())]);
    let text = "[tasks.a]\ncommand = [\"x\"]\nmatrix = { a = \"${params.regions}\", b = \"${params.regions}\" }\n";
    let many: Vec<String> = (0..2_000).map(|n| n.to_string()).collect();
    let faults = try_bound(text, &[("regions", &many.join(","))]).unwrap_err();
    assert_eq!(faults, [(Code::BadFanOut, "the fan-out `a`: has 4000000 items".to_owned())]);
}

#[test]
fn conditions_and_ends_are_taken_over() {
    let text = "[tasks.check]\ncommand = [\"x\"]\noutputs = { report = \"json\", other = \"json\" }\n\
                [tasks.a]\ncommand = [\"x\"]\nafter = [\"check\"]\nrun_if = \"all_done\"\n\
                when = \"params.mode == 'full' && has(tasks.check.outputs.report)\"\n\
                [tasks.my-end]\ncommand = [\"x\"]\nfinally = true\n\
                when = \"run.state == 'failed' && tasks.exists(t, tasks[t].state == 'failed') && tasks['a'].state != 'skipped'\"\n";
    let pipeline = with(text);
    let a = task(&pipeline, "a");
    assert_eq!(a.flow.run_if, RunIf::AllDone);
    assert!(a.flow.when.as_deref().unwrap().starts_with("params.mode"));
    assert!(task(&pipeline, "my-end").flow.finally);
    let spec = bound(text, &[]);
    assert_eq!(of(&spec, "check").inline, ["report"]);
    assert_eq!(spec.values["mode"], json!("full"));
    for (word, run_if) in [
        ("all_succeeded", RunIf::AllSucceeded),
        ("any_succeeded", RunIf::AnySucceeded),
        ("any_failed", RunIf::AnyFailed),
        ("always", RunIf::Always),
    ] {
        let text = format!("[tasks.b]\ncommand = [\"x\"]\nafter = [\"uses\"]\nrun_if = \"{word}\"\n");
        assert_eq!(task(&with(&text), "b").flow.run_if, run_if);
    }
}

#[test]
fn pools_limits_and_times_come_from_the_defaults_and_are_changed_one_by_one() {
    let text = "[defaults]\npools = { db = 2, api = 1 }\nqueue_timeout = \"1h\"\nheartbeat_timeout = \"30s\"\ngrace = \"10s\"\nmemory_limit = \"2GiB\"\n\
                [tasks.a]\ncommand = [\"x\"]\npools = { api = 0, gpu-quota = 3 }\ngrace = \"1s\"\n\
                limit = { key = \"api-${params.customer}\", max = 2 }\n\
                [tasks.b]\nop = \"core.noop\"\npool = \"one\"\n\
                [tasks.c]\nsensor = { file = \"ready\", every = \"5s\" }\n";
    let spec = bound(text, &[]);
    let a = &of(&spec, "a").flow;
    assert_eq!(a.pools, BTreeMap::from([("db".to_owned(), 2), ("gpu-quota".to_owned(), 3)]));
    let times = (a.queue_timeout_ms, a.heartbeat_timeout_ms, a.grace_ms);
    assert_eq!(times, (Some(3_600_000), Some(30_000), Some(1_000)));
    assert_eq!(a.memory_limit_bytes, Some(2 << 30));
    let limit = a.limit.as_ref().unwrap();
    assert_eq!((limit.key.as_str(), limit.max), ("api-acme", 2));
    let b = &of(&spec, "b").flow;
    assert_eq!(b.pools.get("one"), Some(&1));
    assert_eq!(b.heartbeat_timeout_ms, None, "operators have no file to touch");
    let c = of(&spec, "c");
    assert!(c.flow.pools.is_empty() && c.flow.queue_timeout_ms.is_none() && c.resources.amounts.cpu_milli == 0);
}

#[test]
fn retry_rules_take_what_they_do_not_say_from_the_policy_of_their_task() {
    let text = "[defaults]\nretry = { initial = \"2s\", never = [64, 2, 2], rules = [{ on = [\"oom\"], attempts = 2 }, \
                { exit_codes = [75], attempts = 10, backoff = \"constant\", initial = \"5s\", max = \"5s\", jitter = 0 }] }\n\
                [tasks.a]\ncommand = [\"x\"]\nretry = { max = \"30s\", attempts = 7 }\n\
                [tasks.b]\ncommand = [\"x\"]\nretry = { rules = [] }\n";
    let pipeline = with(text);
    let retry = &task(&pipeline, "a").retry;
    assert_eq!((retry.attempts, retry.initial_ms, retry.max_ms), (7, 2_000, 30_000));
    assert_eq!(retry.never, [2, 64]);
    let [oom, busy] = retry.rules.as_slice() else { panic!("{:?}", retry.rules) };
    assert_eq!((oom.on.as_slice(), oom.attempts, oom.max_ms), (&[FailureClass::Oom][..], 2, 30_000));
    assert_eq!((busy.exit_codes.as_slice(), busy.attempts, busy.backoff), (&[75][..], 10, Backoff::Constant));
    assert_eq!((busy.initial_ms, busy.max_ms, busy.jitter), (5_000, 5_000, 0.0));
    assert!(task(&pipeline, "b").retry.rules.is_empty());
}

#[test]
fn resources_have_shares_memory_alternatives_and_labels_that_must_not_be() {
    let request = |text: &str| {
        let pipeline = with(&format!("[tasks.a]\ncommand = [\"x\"]\nresources = {text}\n"));
        task(&pipeline, "a").resources.clone()
    };
    let gpu = |text: &str| {
        let request = request(&format!("{{ gpu = {text} }}"));
        (request.gpu, request.amounts.gpu_milli, request.amounts.gpu_memory_bytes)
    };
    assert_eq!(gpu("1"), (GpuPreference::Require, 1_000, 0));
    assert_eq!(gpu("2.0"), (GpuPreference::Require, 2_000, 0));
    assert_eq!(gpu("0.5"), (GpuPreference::Require, 500, 0));
    assert_eq!(gpu("0"), (GpuPreference::None, 0, 0));
    assert_eq!(gpu("\"prefer\""), (GpuPreference::Prefer, 0, 0));
    assert_eq!(gpu("{ count = 2, memory = \"20GiB\" }"), (GpuPreference::Require, 2_000, 20 << 30));
    assert_eq!(gpu("{ share = 0.25, memory = \"4GiB\" }"), (GpuPreference::Require, 250, 4 << 30));
    assert_eq!(gpu("{ memory = \"4GiB\" }"), (GpuPreference::Require, 1_000, 4 << 30));

    let labels = request("{ labels = { zone = \"a\", gpu = \"!t4\", spot = \"!\" } }");
    assert_eq!(labels.labels, BTreeMap::from([("zone".to_owned(), "a".to_owned())]));
    let not = BTreeMap::from([("gpu".to_owned(), "t4".to_owned()), ("spot".to_owned(), String::new())]);
    assert_eq!(labels.not_labels, not);

    let any = request(
        "{ cpu = 2, memory = \"4GiB\", any_of = [{ gpu = 1 }, { cpu = 8 }, { memory = \"8GiB\", licence = 1 }] }",
    );
    assert_eq!((any.gpu, any.amounts.gpu_milli, any.amounts.cpu_milli), (GpuPreference::Require, 1_000, 2_000));
    let [cpu, licence] = any.alternatives.as_slice() else { panic!("{any:?}") };
    assert_eq!((cpu.cpu_milli, cpu.gpu_milli, cpu.memory_bytes), (8_000, 0, 4 << 30));
    assert_eq!((licence.memory_bytes, licence.custom["licence"]), (8 << 30, 1));

    let text = "[defaults]\nresources = { labels = { zone = \"a\" }, any_of = [{ gpu = 1 }, { cpu = 8 }] }\n\
                [tasks.a]\ncommand = [\"x\"]\nresources = { memory = \"1GiB\", labels = { zone = \"!a\" } }\n\
                [tasks.b]\ncommand = [\"x\"]\nresources = { any_of = [] }\n";
    let pipeline = with(text);
    let a = &task(&pipeline, "a").resources;
    assert_eq!((a.amounts.memory_bytes, a.alternatives[0].memory_bytes), (1 << 30, 1 << 30));
    assert!(a.labels.is_empty() && a.not_labels["zone"] == "a");
    assert!(task(&pipeline, "b").resources.alternatives.is_empty());
}

#[test]
fn sensors_wait_for_files_addresses_times_and_artifacts() {
    let sensor = |text: &str| {
        let spec = bound(&format!("[tasks.s]\nsensor = {text}\n"), &[]);
        match &of(&spec, "s").work {
            Work::Sensor { sensor, every_ms } => (sensor.clone(), *every_ms),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(sensor("{ file = \"in/${params.customer}\" }"), (json!({ "file": "/data/in/acme" }), 30_000));
    assert_eq!(sensor("{ file = \"s3://b/k\", every = \"1m\" }"), (json!({ "file": "s3://b/k" }), 60_000));
    let http = json!({ "http": "https://acme.example/up", "status": 204 });
    assert_eq!(sensor("{ http = \"https://${params.customer}.example/up\", status = 204 }").0, http);
    assert_eq!(sensor("{ time = \"2026-01-01T00:00:00Z\" }").0, json!({ "time": "2026-01-01T00:00:00Z" }));
    assert_eq!(sensor("{ artifact = \"other/clean.orders\" }").0, json!({ "artifact": "other/clean.orders" }));
    let faults = try_bound("[tasks.s]\nsensor = { http = \"${params.customer}\" }\n", &[]).unwrap_err();
    assert_eq!(faults, [(Code::BadSensor, "the sensor `s`: `acme` is not an address of the web".to_owned())]);
    let text = "[defaults]\ntimeout = \"1m\"\n[tasks.s]\nsensor = { file = \"x\" }\n[tasks.t]\ntimeout = \"1d\"\nsensor = { file = \"x\" }\n";
    let pipeline = with(text);
    assert_eq!(task(&pipeline, "s").timeout_ms, None, "to wait is not to execute");
    assert_eq!(task(&pipeline, "t").timeout_ms, Some(86_400_000));
}

#[test]
fn a_pipeline_has_a_priority_and_a_limit_of_runs() {
    let head = |text: &str| {
        let pipeline = good(&full("").replacen("name = \"demo\"", &format!("name = \"demo\"\n{text}"), 1));
        bind(&pipeline, &catalogue(), &BTreeMap::new(), "/data", false).unwrap()
    };
    let spec = head("priority = 5\nconcurrency = 1");
    assert_eq!(spec.priority, 5);
    let concurrency = spec.concurrency.unwrap();
    assert_eq!((concurrency.max, concurrency.key.as_str(), concurrency.on_full), (1, "", OnFull::Queue));
    let spec = head("concurrency = { max = 3, key = \"${params.customer}!\", on_full = \"cancel_running\" }");
    let concurrency = spec.concurrency.unwrap();
    assert_eq!((concurrency.max, concurrency.key.as_str(), concurrency.on_full), (3, "acme!", OnFull::CancelRunning));
}

#[test]
fn a_join_goes_to_commands_and_to_inputs_that_take_many() {
    let fan = "[tasks.fan]\nop = \"retail.clean\"\nforeach = [\"a\"]\nwith = { path = \"${item}\" }\n";
    with(&format!("{fan}[tasks.j]\ncommand = [\"x\"]\ninputs = {{ all = \"fan.orders\" }}\n"));
    with(&format!("{fan}[tasks.j]\nop = \"test.join\"\ninputs = {{ parts = \"fan.orders\" }}\n"));
    let one = full(&format!("{fan}[tasks.j]\nop = \"retail.rfm\"\ninputs = {{ orders = \"fan.orders\" }}\n"));
    assert_eq!(codes(&one), [Code::ManyIntoOne]);
}

#[test]
fn what_a_task_waits_for_enters_cycles_and_versions() {
    let text = "[tasks.list]\ncommand = [\"x\"]\nafter = [\"a\"]\noutputs = { items = \"json\" }\n[tasks.a]\ncommand = [\"x\"]\n\
                foreach = { output = \"list.items\" }\n";
    assert!(codes(&full(text)).contains(&Code::Cycle));
    let version = |text: &str| with(text).version();
    let plain = "[tasks.a]\ncommand = [\"x\"]\n";
    let mut seen = vec![version(plain)];
    for more in [
        "foreach = [1]",
        "foreach = [2]",
        "foreach = { range = 2 }",
        "matrix = { a = [1] }",
        "matrix = { a = [1], b = [1] }",
        "matrix = { b = [1], a = [1] }",
        "when = \"params.mode == 'x'\"",
        "finally = true",
        "pool = \"db\"",
        "limit = { key = \"a\", max = 1 }",
        "grace = \"1s\"",
        "queue_timeout = \"1s\"",
        "heartbeat_timeout = \"1s\"",
        "retry = { never = [2] }",
        "retry = { rules = [{ on = [\"oom\"] }] }",
        "resources = { labels = { a = \"!\" } }",
        "resources = { gpu = 0.5 }",
        "resources = { any_of = [{ gpu = 1 }, { cpu = 8 }] }",
    ] {
        let one = version(&format!("{plain}{more}\n"));
        assert!(!seen.contains(&one), "{more} does not change the version");
        seen.push(one);
    }
    assert_eq!(version(&format!("{plain}pools = {{ db = 1 }}\n")), version(&format!("{plain}pool = \"db\"\n")));
    assert_eq!(version(&format!("{plain}run_if = \"all_succeeded\"\n")), version(plain));
    // Where a list comes from is a name, whatever the order of the file.
    let list = "[tasks.list]\ncommand = [\"x\"]\noutputs = { items = \"json\" }\n";
    let fan = "[tasks.a]\ncommand = [\"x\"]\nforeach = { output = \"list.items\" }\n";
    assert_eq!(version(&format!("{list}{fan}")), version(&format!("{fan}{list}")));
}

#[test]
fn a_graph_shows_fan_outs_conditions_and_where_items_come_from() {
    let text = "[tasks.list]\ncommand = [\"x\"]\noutputs = { items = \"json\" }\n[tasks.a]\ncommand = [\"x\"]\n\
                foreach = { output = \"list.items\" }\nwhen = \"item.on == \\\"yes\\\"\"\n[tasks.e]\nsensor = { file = \"x\" }\nfinally = true\n";
    let pipeline = with(text);
    let json = super::super::graph::json(&pipeline);
    assert_eq!(json["tasks"][1]["fan_out"], json!("each of items"));
    assert_eq!(json["tasks"][1]["when"], json!("item.on == \"yes\""));
    assert_eq!(json["tasks"][2]["finally"], json!(true));
    assert_eq!(json["edges"][0], json!({ "from": "list", "output": "items", "to": "a", "kind": "items" }));
    let dot = super::super::graph::dot(&pipeline);
    assert!(
        dot.contains("peripheries = 2")
            && dot.contains("when item.on == \\\"yes\\\"")
            && dot.contains("\"list\" -> \"a\"")
    );
    let mermaid = super::super::graph::mermaid(&pipeline);
    assert!(mermaid.contains("t1[[") && mermaid.contains("t0 ==>|items| t1"), "{mermaid}");
}

#[test]
fn a_caret_stands_under_the_fault_inside_a_condition() {
    let place = |when: &str| {
        let text = full(&format!("[tasks.a]\ncommand = [\"x\"]\nwhen = {when}\n"));
        let checked = check(&text);
        let place = checked.diagnostics[0].place.unwrap();
        text[place.offset..].chars().take(place.length as usize).collect::<String>()
    };
    assert_eq!(place("\"params.mode == 'full' && params.mod\""), "params.mod");
    assert_eq!(place("'params.mode = 1'"), "=");
    assert_eq!(place("\"\"\"\nparams.mode ==\n  params.nothing\"\"\""), "params.nothing");
    assert_eq!(place("\"\\\"é\\\" == \\u0070arams.mode && params.other\""), "params.other");
    assert_eq!(place("\"params.mode == \\\"x\\\" && nonsense\""), "nonsense");
}
