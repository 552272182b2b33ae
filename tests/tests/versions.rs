//! Versions of pipelines: listed, shown as they were submitted, compared, and used by a rerun.
#![allow(clippy::unwrap_used)]

use std::fs;

use segue_tests::{
    Cli,
    values::{list, number, text},
};
use serde_json::json;

const FIRST: &str = r#"# As it was submitted, with its comments.
[pipeline]
name = "nightly"
[params]
greeting = "hello"
[tasks.a]
op = "core.noop"
[tasks.says]
command = ["sh", "-c", "echo ${params.greeting} > $SEGUE_OUTPUT_DIR/out"]
after = ["a"]
outputs = ["out"]
timeout = "90s"
"#;

#[test]
fn versions_are_listed_shown_compared_and_executed_again() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("nightly.toml");
    let submit = |text_of_file: &str| {
        fs::write(&file, text_of_file).unwrap();
        let outcome = cli.run_pipeline(&file, &[]);
        assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
        text(&outcome, "run").to_owned()
    };
    cli.run(["pipelines", "list"]).refuses(3, &["there is no coordinator"]);
    let first = submit(FIRST);
    submit(&FIRST.replace("# As it was", "# The same, for other words: as it was"));
    let second =
        FIRST.replace("\"90s\"", "\"2m\"").replace("[tasks.says]", "[tasks.new]\nop = \"core.noop\"\n[tasks.says]");
    let last = submit(&second);

    let listed = cli.json(["pipelines", "list"]);
    assert_eq!((list(&listed, "").len(), text(&listed, "0.name"), number(&listed, "0.runs")), (1, "nightly", 3.0));
    assert_eq!(list(&listed, "0.versions").len(), 2, "comments make no version: {listed}");
    assert_eq!((text(&listed, "0.last_run.run"), text(&listed, "0.last_run.state")), (last.as_str(), "succeeded"));
    let versions: Vec<&str> = list(&listed, "0.versions").iter().map(|one| text(one, "version")).collect();
    assert_eq!(text(&cli.json(["show", &first]), "version"), versions[0]);

    assert_eq!(cli.ok(["pipelines", "show", "nightly"]).stdout, second, "to the byte");
    let older = cli.ok(["pipelines", "show", &format!("nightly:{}", &versions[0][..8])]).stdout;
    assert!(
        older.starts_with("# The same, for other words"),
        "the text of a version is the one submitted last: {older}"
    );
    cli.run(["pipelines", "show", "nigthly"]).refuses(2, &["did you mean `nightly`?"]);
    cli.run(["pipelines", "show", "nightly:zzzz"]).refuses(2, &["zzzz", &versions[1][..12]]);

    let diff = cli.json(["pipelines", "diff", "nightly"]);
    assert_eq!((text(&diff, "from"), text(&diff, "to")), (versions[0], versions[1]));
    assert!(text(&diff, "unified").contains("-timeout = \"90s\"\n+timeout = \"2m\""), "{diff:#}");
    assert_eq!(text(&diff, "unstructured"), "");
    let timeout = json!({"aspect": "policy", "field": "timeout_ms", "before": 90_000, "after": 120_000});
    assert_eq!(
        diff["tasks"],
        json!([
            {"task": "new", "change": "added", "fields": []},
            {"task": "says", "change": "changed", "fields": [timeout]},
        ])
    );
    let shown = cli.ok(["pipelines", "diff", "nightly", &versions[0][..8], "latest"]).stdout;
    assert!(shown.contains("+timeout = \"2m\"") && shown.contains("timeout_ms"), "{shown}");
    let same = cli.ok(["pipelines", "diff", "nightly", "latest", "latest"]).stdout;
    assert!(same.contains("one and the same version"), "{same}");
}

#[test]
fn a_rerun_uses_the_file_as_it_is_now_or_the_newest_text_that_was_submitted() {
    let dir = tempfile::tempdir().unwrap();
    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let file = dir.path().join("nightly.toml");
    let submit = |text_of_file: &str| {
        fs::write(&file, text_of_file).unwrap();
        text(&cli.run_pipeline(&file, &[]), "run").to_owned()
    };
    let first = submit(FIRST);
    let second = FIRST.replace("echo ${params.greeting}", "echo ${params.greeting}, again");
    submit(&second);
    let plan = |args: &[&str]| {
        let plan = cli.json(["rerun", &first, "--dry-run"].iter().chain(args));
        let tasks = list(&plan, "tasks").iter().filter(|task| task["execute"] == true);
        tasks.map(|task| text(task, "task").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(plan(&[]), Vec::<String>::new(), "the pinned version: all of it succeeded");
    assert_eq!(plan(&["--version", "latest"]), ["says"]);

    // The file on disk goes before what was submitted; a file that is named goes before both.
    fs::write(&file, FIRST).unwrap();
    assert_eq!(plan(&["--version", "latest"]), Vec::<String>::new());
    assert_eq!(plan(&["--version", "stored"]), ["says"]);
    let other = dir.path().join("other.toml");
    fs::write(
        &other,
        second.replace("[tasks.a]\nop = \"core.noop\"", "[tasks.a]\nop = \"core.sleep\"\nwith = { seconds = 0 }"),
    )
    .unwrap();
    let named = other.to_string_lossy().into_owned();
    assert_eq!(plan(&["--version", "latest", "--file", &named]), ["a", "says"]);
    cli.run(["rerun", &first, "--file", &named]).refuses(2, &["--version latest"]);

    // Without the file, the newest text is what there is.
    fs::remove_file(&file).unwrap();
    assert_eq!(plan(&["--version", "latest"]), ["says"]);
    let outcome = cli.json(["rerun", &first, "--version", "latest"]);
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    let out = dir.path().join("out");
    cli.ok(["artifacts", "get", &first, "says.out", "--out", &out.to_string_lossy()]);
    assert_eq!(fs::read_to_string(&out).unwrap(), "hello, again\n");
}
