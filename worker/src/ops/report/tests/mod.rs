#![allow(clippy::unwrap_used)]

mod fixtures;
mod xml;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use self::fixtures::{HOSTILE, kmeans, people, products, save, save_json};
use super::{OPTIONAL, Report, figures::NAMES};
use crate::ops::{Context, Operator};

/// Connects everything, as the shipped pipelines do.
fn all_inputs(dir: &Path, customers: usize, k: usize, raw: bool) -> BTreeMap<String, PathBuf> {
    let people = people(customers, k);
    let mut inputs = BTreeMap::new();
    fixtures::segments(dir, &people, &mut inputs);
    let (neighbours, index) = products(3866);
    for (name, table) in [
        ("customers", people.rfm),
        ("clusters", people.clusters),
        ("predictions", people.predictions),
        ("pca", people.pca),
        ("tsne", people.tsne),
        ("neighbours", neighbours),
        ("index", index),
    ] {
        inputs.insert(name.to_owned(), save(dir, name, table));
    }
    let features = ["Recency", "Frequency", "Monetary", "AvgOrderValue", "Tenure", "AvgBasketSize"];
    let pca = json!({"ratio": [0.448, 0.226, 0.195], "features": features, "components": [{"Recency": 0.4, "Frequency": -0.5, "Monetary": -0.5, "AvgOrderValue": -0.2, "Tenure": 0.1, "AvgBasketSize": -0.3}, [0.1, 0.2, 0.3, 0.6, -0.5, 0.5], [0.5, 0.2, 0.0, -0.2, 0.8, 0.1]]});
    for (name, value) in [
        ("quality", fixtures::quality()),
        ("stats", fixtures::stats()),
        ("kmeans", kmeans(raw)),
        ("pca_summary", pca),
        ("tsne_summary", json!({"kl": 1.276, "perplexity": 30, "iterations": 1000, "rows": customers})),
        ("clv", fixtures::clv()),
        ("registered", fixtures::registered()),
    ] {
        inputs.insert(name.to_owned(), save_json(dir, name, &value));
    }
    inputs
}

/// Runs the report and gives its outputs by name.
fn report(inputs: BTreeMap<String, PathBuf>, facts: Value) -> BTreeMap<String, String> {
    let out = tempfile::tempdir().unwrap();
    let mut context = Context::new(inputs, out.path().to_owned(), Map::new());
    context.run_facts = facts;
    Report.run(&mut context).unwrap();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(out.path()).unwrap() {
        let entry = entry.unwrap();
        files.insert(entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap());
    }
    // Kept for eyes: SEGUE_REPORT_OUT names a folder.
    if let Ok(keep) = std::env::var("SEGUE_REPORT_OUT") {
        let keep =
            Path::new(&keep).join(std::thread::current().name().unwrap_or("report").rsplit("::").next().unwrap());
        std::fs::create_dir_all(&keep).unwrap();
        for (name, text) in &files {
            let extension = if name == "page" { "html" } else { "svg" };
            std::fs::write(keep.join(format!("{name}.{extension}")), text).unwrap();
        }
    }
    files
}

#[test]
fn a_whole_run_gives_a_page_and_every_figure() {
    let dir = tempfile::tempdir().unwrap();
    let files = report(all_inputs(dir.path(), 4338, 3, false), fixtures::facts());
    let page = &files["page"];
    assert!(page.len() < 3_000_000, "{} bytes", page.len());
    for (name, _) in NAMES {
        let figure = &files[name];
        xml::check(figure).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        assert!(
            figure.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && figure.contains("<style>"),
            "{name}"
        );
        assert!(!figure.contains("not connected"), "{name}");
        assert!(!figure.contains("NaN") && !figure.contains("inf\""), "{name}");
    }
    assert!(!page.contains("was not part of this pipeline"));
    for text in ["541,909", "8,887,209", "two-stage XGBoost", "customer-kmeans", "1 min 15 s", "from the cache"] {
        assert!(page.contains(text), "{text} is missing");
    }
}

#[test]
fn inline_drawings_are_well_formed_and_have_title_and_description() {
    let dir = tempfile::tempdir().unwrap();
    let files = report(all_inputs(dir.path(), 300, 3, false), Value::Null);
    let page = &files["page"];
    let mut seen = 0;
    for part in page.split("<svg ").skip(1).filter(|part| part.starts_with("class=\"fig")) {
        let end = part.find("</svg>").unwrap() + "</svg>".len();
        let svg = format!("<svg {}", &part[..end]);
        xml::check(&svg).unwrap_or_else(|fault| panic!("{fault}: {}", &svg[..200]));
        assert!(svg.contains("<title ") && svg.contains("<desc "), "{}", &svg[..200]);
        seen += 1;
    }
    assert!(seen > 10, "{seen} drawings");
    let mut ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "ids are unique");
}

#[test]
fn hostile_names_stay_text() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = all_inputs(dir.path(), 300, 3, false);
    let hostile = json!({"run": HOSTILE[0], "pipeline": HOSTILE[0], "created": HOSTILE[1], "version": HOSTILE[2],
        "params": {HOSTILE[1]: HOSTILE[3]}, "tasks": [{"name": HOSTILE[1], "worker": HOSTILE[0]}]});
    inputs.insert("registered".into(), save_json(dir.path(), "r", &json!([{HOSTILE[0]: HOSTILE[1]}])));
    let page = &report(inputs, hostile)["page"];
    // In the blocks of data quotes are JSON's own; no character of markup is left in them.
    let mut markup = String::new();
    for part in page.split("<script type=\"application/json\"") {
        let (block, rest) = if markup.is_empty() { ("", part) } else { part.split_once("</script>").unwrap() };
        assert!(
            !block[block.find('>').map_or(0, |at| at + 1)..].contains(['<', '>', '&']),
            "markup in a block of data"
        );
        markup.push_str(rest);
    }
    for bad in ["<script>alert", "<img", "<svg/", "\" onmouseover=", "<b>not"] {
        assert!(!markup.contains(bad), "{bad} reached the page");
    }
    // Its own script and two blocks of data, each closed once.
    assert_eq!(page.matches("<script").count(), 3);
    assert_eq!(page.matches("</script").count(), 3);
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;alert(1)"));
}

#[test]
fn the_page_loads_nothing_from_anywhere() {
    let dir = tempfile::tempdir().unwrap();
    let page = &report(all_inputs(dir.path(), 300, 3, false), fixtures::facts())["page"];
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"));
    for load in ["src=\"", "url(", "@import", "<link", "<iframe", "fetch(", "XMLHttpRequest", "srcset", "xlink"] {
        assert!(!page.contains(load), "{load} loads something");
    }
    // Links lead to places in the page; a product name may well contain an address, as text.
    assert_eq!(page.matches("href=\"").count(), page.matches("href=\"#").count());
    let plain = page.replace("https://evil.example/x.js", "");
    assert!(!plain.contains("http://") && !plain.contains("https://"));
}

#[test]
fn equal_inputs_give_equal_figures() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = all_inputs(dir.path(), 5000, 3, false);
    assert_eq!(report(inputs.clone(), fixtures::facts()), report(inputs, fixtures::facts()));
}

#[test]
fn missing_inputs_are_named_and_leave_every_output_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = BTreeMap::new();
    fixtures::segments(dir.path(), &people(50, 2), &mut inputs);
    inputs.remove("segments_summary");
    let files = report(inputs, Value::Null);
    let page = &files["page"];
    for port in ["quality", "stats", "kmeans", "clv", "neighbours", "registered", "segments_summary"] {
        assert!(page.contains(&format!("<code>{port}</code>")), "{port} is not named");
    }
    assert_eq!(files.len(), NAMES.len() + 1);
    for name in ["fig_quantity", "fig_silhouette", "fig_pca", "fig_tsne", "fig_quality", "fig_heatmap"] {
        xml::check(&files[name]).unwrap();
        assert!(files[name].contains("not connected"), "{name}");
    }
    assert!(!files["fig_monetary"].contains("not connected"), "segments alone are enough for this one");
}

#[test]
fn a_single_cluster_and_empty_lists_give_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = all_inputs(dir.path(), 40, 1, false);
    let empty = |name: &str, value: Value| save_json(dir.path(), name, &value);
    inputs.insert("kmeans".into(), empty("k0", json!({"candidates": []})));
    inputs.insert("clv".into(), empty("c0", json!({"models": []})));
    inputs.insert("stats".into(), empty("s0", json!({})));
    inputs.insert("registered".into(), empty("r0", json!({})));
    inputs.insert("quality".into(), empty("q0", json!({"rows_read": 0, "dropped": {}})));
    let (neighbours, index) = products(1);
    inputs.insert("neighbours".into(), save(dir.path(), "n0", neighbours));
    inputs.insert("index".into(), save(dir.path(), "i0", index));
    let files = report(inputs, json!({"tasks": [], "params": {}}));
    assert!(files["page"].contains("All customers"));
    assert!(files["page"].contains("There are no products to compare."));
    for (name, _) in NAMES {
        xml::check(&files[name]).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}

#[test]
fn the_weakness_of_raw_features_is_said_with_the_numbers_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let page = &report(all_inputs(dir.path(), 300, 3, true), Value::Null)["page"];
    assert!(page.contains("Silhouette alone prefers k = 2 (0.9159), which gives clusters of 4,330 and 8 customers"));
    assert!(page.contains("known weakness of clustering raw standardised features"));
}

#[test]
fn an_input_that_is_not_json_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut inputs = BTreeMap::new();
    fixtures::segments(dir.path(), &people(20, 2), &mut inputs);
    let path = dir.path().join("broken");
    std::fs::write(&path, [0xff, 0x00]).unwrap();
    inputs.insert("stats".to_owned(), path);
    let out = tempfile::tempdir().unwrap();
    let error = Report.run(&mut Context::new(inputs, out.path().to_owned(), Map::new())).unwrap_err();
    assert!(error.to_string().contains("input `stats` is not JSON"), "{error}");
}

#[test]
fn every_input_but_the_segments_is_optional() {
    let spec = Report.spec();
    let required: Vec<&str> = spec.inputs.iter().filter(|p| !p.optional).map(|p| p.name.as_str()).collect();
    assert_eq!(required, ["segments"]);
    assert_eq!(spec.inputs.len(), OPTIONAL.len() + 1);
    assert!(spec.wants_run_facts && !spec.pure);
    assert_eq!(spec.outputs.len(), NAMES.len() + 1);
}
