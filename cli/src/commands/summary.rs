//! What a run ends with: state and timings, and for a segmentation its segments, top customers and report.

use segue_proto::v1;
use serde_json::Value;

use crate::{
    blobs,
    client::Client,
    error::Error,
    format,
    printer::{Printer, Rows, clean},
};

/// Rows of the short lists.
const SHORT: usize = 5;

/// Prints the summary of an ended run.
pub async fn print(run: &v1::RunView, client: &Client, out: &mut Printer) -> Result<(), Error> {
    out.data(&(), || timings(run))?;
    let segments = output(run, |task| task.work == "retail.segments", "summary");
    if let Some(digest) = segments {
        let bytes = blobs::bytes(client, &digest).await?;
        if let Ok(summary) = serde_json::from_slice::<Value>(&bytes) {
            print_segments(&summary, out)?;
        }
    }
    let mut took = format::run_ms(run).map_or_else(String::new, |ms| format!(" in {}", format::duration(ms)));
    if run.generation > 0 {
        took.push_str(&format!(", rerun {}", run.generation));
    }
    out.text(&format!("\n{} {}{took}", run.run_id, format::run_state(run.state)))?;
    if let Some(digest) = output(run, |task| task.work == "report.html", "page") {
        let path =
            crate::embedded::absolute(std::path::Path::new(&format!("segue-report-{}.html", short(&run.run_id))))?;
        blobs::file(client, &digest, &path).await?;
        out.text(&format!("report: {}", path.display()))?;
    }
    let failures = failures(run);
    if !failures.is_empty() {
        out.note(&failures);
    }
    Ok(())
}

/// Tells what failed and where its log is, and once how to try again.
fn failures(run: &v1::RunView) -> String {
    let mut text = String::new();
    for task in &run.tasks {
        let Some(failure) = task.failure.as_ref().filter(|_| task.state == i32::from(v1::TaskState::Failed)) else {
            continue;
        };
        text.push_str(&format!("\n{} failed: {}\n", task.name, clean(&failure.message)));
        if !failure.hint.is_empty() {
            text.push_str(&format!("  hint: {}\n", clean(&failure.hint)));
        }
        // A condition or a sensor that failed has executed nothing that could log.
        if !task.attempts.is_empty() || !task.children.is_empty() {
            text.push_str(&format!("  log: segue logs {} {}\n", run.run_id, task.name));
        }
    }
    if !text.is_empty() {
        text.push_str(&format!("\nagain: segue rerun {} --failed", run.run_id));
    }
    text
}

fn short(run_id: &str) -> &str {
    run_id.get(run_id.len().saturating_sub(8)..).unwrap_or(run_id)
}

fn output(run: &v1::RunView, is: impl Fn(&v1::TaskView) -> bool, name: &str) -> Option<String> {
    let task = run.tasks.iter().find(|task| is(task) && task.state == i32::from(v1::TaskState::Succeeded))?;
    let output = task.outputs.iter().find(|output| output.name == name)?;
    Some(output.artifact.as_ref()?.digest.clone())
}

fn timings(run: &v1::RunView) -> Rows {
    let mut rows = Rows::new(&["task", "state", ">seconds", "worker"]);
    for task in &run.tasks {
        let state = match format::task_state(task.state) {
            _ if task.cached => "cached",
            "succeeded" if format::is_kept(task, run.generation) => "kept",
            state => state,
        };
        rows.row([
            task.name.clone(),
            state.to_owned(),
            format::spent_ms(run, task).map_or_else(|| "-".to_owned(), |ms| format!("{:.2}", ms as f64 / 1_000.0)),
            task.attempts.last().map_or_else(String::new, |attempt| attempt.worker.clone()),
        ]);
    }
    rows
}

fn print_segments(summary: &Value, out: &mut Printer) -> Result<(), Error> {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_f64);
    if let Some(clusters) = summary.get("clusters").and_then(Value::as_array) {
        let mut rows =
            Rows::new(&["segment", ">customers", ">share", ">of sales", ">recency", ">frequency", ">monetary"]);
        for cluster in clusters {
            let means = cluster.get("means").cloned().unwrap_or_default();
            let percent = |value: Option<f64>| value.map_or_else(String::new, |v| format!("{:.0} %", v * 100.0));
            let mean =
                |key: &str, digits: usize| number(&means, key).map_or_else(String::new, |v| format!("{v:.digits$}"));
            rows.row([
                cluster.get("name").and_then(Value::as_str).unwrap_or("?").to_owned(),
                number(cluster, "size").map_or_else(String::new, |v| format!("{v:.0}")),
                percent(number(cluster, "share")),
                percent(number(cluster, "share_of_sales")),
                mean("Recency", 0),
                mean("Frequency", 1),
                mean("Monetary", 0),
            ]);
        }
        out.text("")?;
        out.data(&(), || rows)?;
    }
    for (title, key) in [("top customers", "high_value"), ("likely to churn", "churn_prone")] {
        let Some(list) = summary.get(key) else { continue };
        let Some(customers) = list.get("customers").and_then(Value::as_array).filter(|all| !all.is_empty()) else {
            continue;
        };
        let mut rows = Rows::new(&[title, "segment", ">recency", ">frequency", ">monetary", ">predicted"]);
        for customer in customers.iter().take(SHORT) {
            let show = |key: &str| {
                customer.get(key).map_or_else(String::new, |value| match value.as_f64() {
                    Some(v) => format!("{v:.0}"),
                    None => value.as_str().unwrap_or_default().to_owned(),
                })
            };
            rows.row([
                show("CustomerID"),
                show("Segment"),
                show("Recency"),
                show("Frequency"),
                show("Monetary"),
                show("Predicted"),
            ]);
        }
        out.text("")?;
        out.data(&(), || rows)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_to_try_again_is_said_once_and_a_log_only_where_there_is_one() {
        let failed = |name: &str, attempts: usize| v1::TaskView {
            name: name.to_owned(),
            state: v1::TaskState::Failed.into(),
            failure: Some(v1::Failure { message: "no".to_owned(), ..v1::Failure::default() }),
            attempts: vec![v1::AttemptView::default(); attempts],
            ..v1::TaskView::default()
        };
        let tasks = vec![failed("load", 2), failed("decide", 0)];
        let run = v1::RunView { run_id: "run_1".to_owned(), tasks, ..v1::RunView::default() };
        let text = failures(&run);
        assert_eq!(text.matches("segue rerun run_1 --failed").count(), 1, "{text}");
        assert!(text.contains("segue logs run_1 load") && !text.contains("segue logs run_1 decide"), "{text}");
        assert_eq!(failures(&v1::RunView::default()), "");
    }
}
