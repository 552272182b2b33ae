//! The whole recommended pipeline, some times over, stage by stage, beside what a user would run instead.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use segue_tests::{
    Cli, data, program,
    values::{list, number, text},
};
use serde_json::{Value, json};

use crate::say;

/// Tasks whose cost is known elsewhere: seconds on 2 cores of pandas with scikit-learn, xgboost and torch, and of a
/// straightforward Rust program; 0 where it was not measured.
const KNOWN: [(&str, f64, f64); 6] = [
    ("clean", 0.85, 0.7),
    ("rfm", 0.04, 0.015),
    ("kmeans", 2.0, 0.9),
    ("tsne", 16.1, 24.3),
    ("embed", 10.6, 13.8),
    ("clv", 0.2, 0.0),
];

/// Seconds that the whole may take on the real data and 2 cores.
const LIMIT: f64 = 45.0;

/// Rows of sample data where the real data is absent: about as many.
const SAMPLE_ROWS: u32 = 500_000;

/// Times it, each time from nothing, on `input` or on what is found.
///
/// # Errors
/// If there is no place for it.
pub fn measure(runs: u32, input: Option<PathBuf>) -> Result<Value, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("cannot make a temporary directory: {e}"))?;
    let (input, real) = match input.or_else(data::online_retail) {
        Some(found) => (found, true),
        None => (data::sample(dir.path(), SAMPLE_ROWS), false),
    };
    let mut measured = Vec::new();
    for number in 1..=runs {
        say(&format!("pipeline: run {number} of {runs}"));
        // Nothing of the last run is left to be reused.
        let state = dir.path().join(format!("state-{number}"));
        measured.push(once(&Cli::state_dir(&state, dir.path()), &input));
        let _ = std::fs::remove_dir_all(state);
    }
    Ok(report(&measured, &input.display().to_string(), real))
}

/// Says whether it stayed within its limit.
pub fn met(report: &Value) -> bool {
    report["within_limit"] == true
}

/// Runs the pipeline once as a user does, and gives the answer with the wall time of the whole command.
fn once(cli: &Cli, input: &Path) -> Value {
    let input = format!("input={}", input.display());
    let start = Instant::now();
    let mut outcome =
        cli.run_pipeline(&program::shipped("customer-segmentation.toml"), &["--no-cache", "--quiet", "-p", &input]);
    outcome["wall"] = json!(start.elapsed().as_secs_f64());
    assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
    outcome
}

fn report(measured: &[Value], input: &str, real: bool) -> Value {
    let times = |of: &dyn Fn(&Value) -> f64| -> Vec<f64> {
        let mut all: Vec<f64> = measured.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let names: Vec<&str> = list(&measured[0], "tasks").iter().map(|task| text(task, "name")).collect();
    let stages: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let all = times(&|run| number(run, &format!("tasks.{index}.seconds")));
            let known = KNOWN.iter().find(|(known, ..)| known == name);
            let seconds = |value: f64| if value > 0.0 { json!(value) } else { Value::Null };
            json!({
                "task": name, "min": all[0], "median": all[all.len() / 2],
                "python": known.map_or(Value::Null, |known| seconds(known.1)),
                "plain_rust": known.map_or(Value::Null, |known| seconds(known.2)),
            })
        })
        .collect();
    let walls = times(&|run| number(run, "wall"));
    json!({
        "input": input,
        "real_data": real,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "runs": measured.len(),
        "stages": stages,
        "total": { "min": walls[0], "median": walls[walls.len() / 2], "max": walls[walls.len() - 1] },
        "limit": LIMIT,
        "within_limit": walls[walls.len() / 2] <= LIMIT,
    })
}

/// Shows it to people.
pub fn table(report: &Value) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(format!("{} ({} runs, {} cores), seconds", text(report, "input"), report["runs"], report["cores"]));
    line(format!("{:<10} {:>8} {:>8} {:>22} {:>12}", "task", "min", "median", "pandas, sklearn, torch", "plain Rust"));
    let cell = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}"));
    for stage in list(report, "stages") {
        line(format!(
            "{:<10} {:>8} {:>8} {:>22} {:>12}",
            text(stage, "task"),
            cell(&stage["min"]),
            cell(&stage["median"]),
            cell(&stage["python"]),
            cell(&stage["plain_rust"]),
        ));
    }
    let total = &report["total"];
    line(format!(
        "{:<10} {:>8} {:>8}   from the command line to its end",
        "total",
        cell(&total["min"]),
        cell(&total["median"])
    ));
    if report["real_data"] == true {
        let verdict = if report["within_limit"] == true { "within" } else { "OVER" };
        line(format!("{verdict} the limit of {LIMIT} s, by the median"));
    } else {
        line("on sample data: the limit and the other columns are of the real data".to_owned());
    }
    out
}
