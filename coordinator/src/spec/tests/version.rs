use super::{RECOMMENDED, good};

const BASE: &str = r#"
[pipeline]
name = "demo"
description = "d"
[params]
x = { type = "int", default = 3, min = 0 }
[defaults]
env = { A = "1" }
[tasks.a]
op   = "core.sleep"
with = { seconds = 1 }
[tasks.b]
command = ["echo", "${params.x}"]
after   = ["a"]
outputs = { rows = "table", log = "file" }
timeout = "90s"
resources = { cpu = 0.5, memory = "1GiB" }
"#;

#[test]
fn comments_spelling_and_order_do_not_change_the_version() {
    let version = good(BASE).version();
    let other = r#"
        # The same, written by somebody else.
        tasks.b.resources.memory = '1024MiB'
        tasks.b.resources.cpu    = 0.500
        tasks.b.timeout = "1m30s"
        tasks.b.retry   = 3   # the default
        tasks.b.outputs = { log = "file", rows = "table" }
        tasks.b.command = [
            "echo",
            """${params.x}""",
        ]
        tasks.b.after = ["a", "a"]

        [defaults.env]
        "A" = "1"

        [tasks.a]
        with.seconds = 1.0
        op = "core.sleep"

        [params.x]
        min = 0
        default = 0x3
        type = "int"

        [pipeline]
        description = "d"
        name = "demo"
    "#;
    assert_eq!(good(other).version(), version);
    assert_eq!(good(&BASE.replace('\n', "\r\n")).version(), version);
}

#[test]
fn every_change_of_meaning_changes_the_version() {
    let version = good(BASE).version();
    let edits = [
        ("\"demo\"", "\"demo2\""),
        ("\"d\"", "\"e\""),
        ("default = 3", "default = 4"),
        ("min = 0", "min = 1"),
        ("A = \"1\"", "A = \"2\""),
        ("seconds = 1", "seconds = 2"),
        ("\"echo\"", "\"print\""),
        ("after   = [\"a\"]", ""),
        ("rows = \"table\"", "rows = \"json\""),
        ("\"90s\"", "\"91s\""),
        ("cpu = 0.5", "cpu = 1"),
        ("memory = \"1GiB\"", "memory = \"1GB\""),
        ("timeout =", "cache = true\ntimeout ="),
        ("timeout =", "priority = 1\ntimeout ="),
        ("timeout =", "retry = 1\ntimeout ="),
        ("[tasks.a]", "[tasks.c]\nop = \"core.noop\"\n[tasks.a]"),
    ];
    for (from, to) in edits {
        let edited = BASE.replacen(from, to, 1);
        assert_ne!(edited, BASE, "{from} is not there");
        assert_ne!(good(&edited).version(), version, "{from} -> {to}");
    }
}

#[test]
fn the_version_does_not_depend_on_the_version_of_an_operator() {
    let mut pipeline = good(RECOMMENDED);
    let version = pipeline.version();
    for task in &mut pipeline.tasks {
        if let super::super::Work::Operator { version, .. } = &mut task.work {
            "2".clone_into(version);
        }
    }
    assert_eq!(pipeline.version(), version);
}
