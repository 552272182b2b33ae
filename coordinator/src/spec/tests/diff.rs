use super::{
    super::diff::{Kind, pipelines},
    good,
};

const BASE: &str = r#"
[pipeline]
name = "demo"
[params]
rounds = 200
[retention]
keep_runs = 10
[tasks.clean]
command = ["clean"]
outputs = ["orders"]
[tasks.rfm]
command = ["rfm"]
inputs = { orders = "clean.orders" }
outputs = ["customers"]
cache = true
[tasks.clv]
command = ["clv", "${params.rounds}"]
inputs = { customers = "rfm.customers" }
with = { seed = 1, depth = 6 }
timeout = "90s"
resources = { cpu = 1 }
"#;

/// Gives what differs as `task kind aspect:field …`.
fn shown(from: &str, to: &str) -> Vec<String> {
    let diff = pipelines(&good(from), &good(to));
    let fields = |fields: &[super::super::diff::FieldDiff]| -> String {
        fields.iter().map(|field| format!(" {}:{}", field.aspect, field.field)).collect()
    };
    let mut lines: Vec<String> = diff
        .tasks
        .iter()
        .map(|task| {
            let kind = match task.kind {
                Kind::Added => "+",
                Kind::Dropped => "-",
                Kind::Changed => "~",
            };
            format!("{kind}{}{}", task.task, fields(&task.fields))
        })
        .collect();
    if !diff.pipeline.is_empty() {
        lines.push(format!("pipeline{}", fields(&diff.pipeline)));
    }
    lines
}

#[test]
fn another_spelling_and_another_order_are_no_difference() {
    let other = BASE
        .replace("\"90s\"", "\"1m30s\"")
        .replace("cpu = 1 ", "cpu = 1.0 ")
        .replace("with = { seed = 1, depth = 6 }", "with = { depth = 6, seed = 1 } # as before");
    assert_ne!(other, BASE);
    assert_eq!(shown(BASE, &other), Vec::<String>::new());
}

#[test]
fn each_change_is_told_with_its_task_and_what_it_is_a_part_of() {
    let edits = [
        ("command = [\"rfm\"]", "command = [\"rfm\", \"-v\"]", "~rfm work:work.command"),
        ("seed = 1", "seed = 2", "~clv params:with.seed"),
        ("depth = 6", "width = 6", "~clv params:with.depth params:with.width"),
        ("\"90s\"", "\"91s\"", "~clv policy:timeout_ms"),
        ("cache = true", "cache = false", "~rfm policy:cache"),
        ("cpu = 1 ", "cpu = 2 ", "~clv resources:resources.amounts.cpu_milli"),
        ("inputs = { customers = \"rfm.customers\" }", "", "~clv inputs:inputs.customers"),
        ("timeout", "after = [\"clean\"]\ntimeout", "~clv inputs:after"),
        ("timeout", "env = { A = \"1\" }\ntimeout", "~clv params:env.A"),
        ("rounds = 200", "rounds = 300", "pipeline params:params.rounds.default"),
        ("keep_runs = 10", "keep_runs = 10\nlogs_for = \"1d\"", "pipeline retention:retention.logs_for_ms"),
        ("[tasks.clv]", "[tasks.new]\ncommand = [\"true\"]\n[tasks.clv]", "+new"),
    ];
    for (from, to, expected) in edits {
        let edited = BASE.replacen(from, to, 1);
        assert_ne!(edited, BASE, "{from} is not there");
        assert_eq!(shown(BASE, &edited), [expected], "{from} -> {to}");
    }
    let without = BASE.split("[tasks.clv]").next().unwrap().replace("[params]\nrounds = 200\n", "");
    assert_eq!(shown(BASE, &without), ["-clv", "pipeline params:params.rounds"]);
    assert_eq!(shown(&without, BASE), ["+clv", "pipeline params:params.rounds"]);
}

#[test]
fn values_are_given_as_they_were_and_as_they_are() {
    let diff = pipelines(&good(BASE), &good(&BASE.replace("seed = 1", "seed = 2")));
    let field = &diff.tasks[0].fields[0];
    assert_eq!((field.before.clone(), field.after.clone()), (Some(1.into()), Some(2.into())));
}

#[test]
fn rules_of_retention_are_no_part_of_the_version() {
    let other = BASE.replace("keep_runs = 10", "keep_for = \"1d\"");
    assert_eq!(good(&other).version(), good(BASE).version());
    assert_ne!(good(&other).retention, good(BASE).retention);
}
