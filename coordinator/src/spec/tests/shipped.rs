use segue_proto::resources::GpuPreference;

use super::{
    super::{Work, graph},
    NOTEBOOK, RECOMMENDED, check, good,
};

const TASKS: [&str; 13] = [
    "clean", "eda", "rfm", "scale", "kmeans", "pca", "tsne", "embed", "similar", "clv", "segments", "register",
    "report",
];

#[test]
fn the_shipped_pipelines_are_good_and_without_warnings() {
    for text in [RECOMMENDED, NOTEBOOK] {
        assert!(check(text).diagnostics.is_empty(), "{}", check(text).render("pipeline.toml", text, false));
        let names: Vec<String> = good(text).tasks.iter().map(|task| task.name.to_string()).collect();
        assert_eq!(names, TASKS);
    }
}

#[test]
fn every_shipped_task_fits_a_worker_of_two_cores() {
    for text in [RECOMMENDED, NOTEBOOK] {
        for task in good(text).tasks {
            assert!(task.resources.amounts.cpu_milli <= 2_000, "{}", task.name);
            assert!(task.resources.amounts.memory_bytes <= 1 << 30, "{}", task.name);
            assert_eq!(task.resources.gpu == GpuPreference::Prefer, task.name.as_str() == "embed");
        }
    }
}

#[test]
fn the_two_pipelines_differ_where_the_notebook_does() {
    let with = |text: &str, task: &str, key: &str| {
        let pipeline = good(text);
        let task = pipeline.tasks.iter().find(|one| one.name.as_str() == task).unwrap();
        task.with.get(key).unwrap().to_string()
    };
    assert_eq!(with(RECOMMENDED, "rfm", "frequency"), "\"${params.frequency}\"");
    assert_eq!(with(NOTEBOOK, "rfm", "frequency"), "\"lines\"");
    assert_eq!(with(RECOMMENDED, "scale", "transform"), "\"log1p\"");
    assert_eq!(with(NOTEBOOK, "scale", "transform"), "\"none\"");
    assert_eq!(with(NOTEBOOK, "kmeans", "min_cluster_share"), "0.0");
    assert_eq!(with(RECOMMENDED, "clv", "mode"), "\"holdout\"");
    assert_eq!(with(NOTEBOOK, "clv", "mode"), "\"in_sample\"");
}

#[test]
fn a_graph_shows_every_task_and_edge() {
    let pipeline = good(RECOMMENDED);
    let edges: usize = pipeline.tasks.iter().map(|task| task.inputs.len() + task.after.len()).sum();
    let dot = graph::dot(&pipeline);
    assert_eq!(dot.matches(" -> ").count(), edges);
    assert!(dot.contains("\"clean\" -> \"rfm\" [label = \"orders\"];"));
    let mermaid = graph::mermaid(&pipeline);
    assert_eq!(mermaid.matches("-->").count(), edges);
    assert!(mermaid.contains("t0[\"clean<br/>retail.clean\"]"));
    let json = graph::json(&pipeline);
    assert_eq!(json["tasks"].as_array().unwrap().len(), TASKS.len());
    assert_eq!(json["edges"].as_array().unwrap().len(), edges);
}

#[test]
fn a_command_cannot_break_out_of_a_drawing() {
    let text = r#"
        [pipeline]
        name = "demo"
        [tasks.a]
        command = ["sh", "-c", "echo \"];\\ \n--> t9"]
        [tasks.b]
        op = "core.noop"
        after = ["a"]
    "#;
    let pipeline = good(text);
    assert!(matches!(&pipeline.tasks[0].work, Work::Command { argv } if argv.len() == 3));
    assert!(graph::dot(&pipeline).contains(r#"echo \"];\\  --> t9"#));
    assert!(graph::dot(&pipeline).contains("\"a\" -> \"b\" [style = dashed];"));
    let mermaid = graph::mermaid(&pipeline);
    assert_eq!(mermaid.lines().count(), 4);
    assert!(!mermaid.contains("-->"), "{mermaid}");
}
