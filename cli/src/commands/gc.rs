//! `segue gc`: take away what no rule of retention keeps.

use clap::Args;
use segue_coordinator::spec::{Retention, age_ms, retention::MOST_RUNS};
use segue_proto::v1;
use serde_json::json;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Arguments.
#[derive(Debug, Args)]
#[command(
    after_help = "A run stays as long as one rule keeps it, and without rules for ever. The `[retention]` table of a \
    pipeline's newest text goes before these rules, and these before those that the coordinator was started with. \
    Models, their versions, and whatever a kept run or result needs are never taken away. The text of a pipeline goes \
    with the last run of its version, and the memory of a schedule's interval with its run; the newest text stays."
)]
pub struct GcArgs {
    /// Say what would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub rules: Rules,
    /// Keep blobs that were stored less than this long ago, needed or not (1h unless the coordinator says otherwise);
    /// shorter is safe only while nobody uploads
    #[arg(long, value_name = "AGE", value_parser = grace)]
    pub grace: Option<u64>,
    /// Keep events for this long, such as 30d (as the coordinator was started); those that OpenLineage or a hook has
    /// not read yet stay
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub keep_events: Option<u64>,
}

/// Rules of retention, for pipelines whose file says nothing.
#[derive(Debug, Clone, Copy, Args)]
pub struct Rules {
    /// Keep this many of the newest ended runs of each pipeline
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_RUNS)))]
    pub keep_runs: Option<u32>,
    /// Keep runs for this long after their end, such as 90d
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub keep_for: Option<u64>,
    /// Keep failed and cancelled runs for this long after their end, and no longer
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub keep_failed_for: Option<u64>,
    /// Keep logs for this long after the end of their run
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub logs_for: Option<u64>,
    /// Keep results for use by later runs for this long after they were made
    #[arg(long, value_name = "AGE", value_parser = age)]
    pub cache_for: Option<u64>,
}

impl From<Rules> for Retention {
    fn from(rules: Rules) -> Self {
        Self {
            keep_runs: rules.keep_runs,
            keep_for_ms: rules.keep_for,
            keep_failed_for_ms: rules.keep_failed_for,
            logs_for_ms: rules.logs_for,
            cache_for_ms: rules.cache_for,
        }
    }
}

/// Reads an age such as `90d`.
pub fn age(text: &str) -> Result<u64, String> {
    age_ms(text).map_err(|why| format!("it {why}: write a number with a unit of d, h, m or s, such as 90d or 12h"))
}

/// Reads a grace period, which may be none.
fn grace(text: &str) -> Result<u64, String> {
    if matches!(text, "0" | "0s") { Ok(0) } else { age(text) }
}

/// Runs the command.
pub async fn run(args: GcArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let rules = args.rules;
    let request = v1::GcRequest {
        dry_run: args.dry_run,
        rules: Some(v1::Retention {
            keep_runs: rules.keep_runs,
            keep_for_ms: rules.keep_for,
            keep_failed_for_ms: rules.keep_failed_for,
            logs_for_ms: rules.logs_for,
            cache_for_ms: rules.cache_for,
        }),
        grace_ms: args.grace,
        keep_events_ms: args.keep_events,
    };
    let answer = client.maintenance().gc(request).await?.into_inner();
    let totals = answer.totals.unwrap_or_default();
    if out.is_json() {
        out.json(&value(&answer, &totals, args.dry_run))?;
        return Ok(ExitStatus::Done);
    }
    if !(answer.runs.is_empty() && answer.logs.is_empty() && answer.cache.is_empty()) {
        out.data(&(), || rows(&answer))?;
    }
    out.text(&summary(&totals, args.dry_run))?;
    if totals.skipped > 0 {
        out.note(&format!("{} changed or were needed again in the meantime, and stay", totals.skipped));
    }
    Ok(ExitStatus::Done)
}

fn rows(answer: &v1::GcResponse) -> Rows {
    let mut rows = Rows::new(&["what", "name", "pipeline", "of", "why"]);
    for run in &answer.runs {
        rows.row(["run", &run.run_id, &run.pipeline, &format::moment(run.ended_ms), &run.reason]);
    }
    for logs in &answer.logs {
        rows.row(["logs", &logs.run_id, "", &format::bytes(logs.bytes), &logs.reason]);
    }
    for entry in &answer.cache {
        let key = entry.key.get(..12).unwrap_or(&entry.key);
        rows.row(["result", key, &entry.pipeline, &format::moment(entry.created_ms), &entry.reason]);
    }
    rows
}

/// Says in one line what went and what stayed on behalf of models.
fn summary(totals: &v1::GcTotals, dry_run: bool) -> String {
    let mut line = format!(
        "{} {}: {}, {}, {}",
        if dry_run { "would free" } else { "freed" },
        format::bytes(totals.freed_bytes),
        format::counted(totals.runs, "run", "runs"),
        format::counted(totals.blobs, "blob", "blobs"),
        format::counted(totals.cache, "cache entry", "cache entries"),
    );
    if totals.events > 0 {
        line.push_str(&format!(", {}", format::counted(totals.events, "event", "events")));
    }
    for (count, one, many) in [
        (totals.texts, "pipeline version", "pipeline versions"),
        (totals.intervals, "interval of a schedule", "intervals of schedules"),
    ] {
        if count > 0 {
            line.push_str(&format!(", {}", format::counted(count, one, many)));
        }
    }
    line.push_str(&format!("; kept {}", format::counted(totals.kept_runs, "run", "runs")));
    if totals.active_runs > 0 {
        line.push_str(&format!(" ({} active)", totals.active_runs));
    }
    if totals.model_versions > 0 {
        let blobs = format::counted(totals.model_blobs, "blob", "blobs");
        line.push_str(&format!(
            ", {blobs} for {}",
            format::counted(totals.model_versions, "model version", "model versions")
        ));
    }
    if totals.young_blobs > 0 {
        line.push_str(&format!(", {} too young to go", format::counted(totals.young_blobs, "blob", "blobs")));
    }
    line
}

fn value(answer: &v1::GcResponse, totals: &v1::GcTotals, dry_run: bool) -> serde_json::Value {
    let runs: Vec<_> = answer
        .runs
        .iter()
        .map(|run| {
            json!({
                "run": run.run_id, "pipeline": run.pipeline, "state": format::run_state(run.state),
                "ended_ms": run.ended_ms, "log_bytes": run.log_bytes, "why": run.reason,
            })
        })
        .collect();
    let logs: Vec<_> =
        answer.logs.iter().map(|logs| json!({"run": logs.run_id, "bytes": logs.bytes, "why": logs.reason})).collect();
    let cache: Vec<_> = answer
        .cache
        .iter()
        .map(|entry| {
            json!({
                "key": entry.key, "operator": entry.operator, "pipeline": entry.pipeline, "task": entry.task,
                "created_ms": entry.created_ms, "why": entry.reason,
            })
        })
        .collect();
    let blobs: Vec<_> =
        answer.blobs.iter().map(|blob| json!({"digest": blob.digest, "size_bytes": blob.size_bytes})).collect();
    json!({
        "dry_run": dry_run, "runs": runs, "logs": logs, "cache": cache, "blobs": blobs,
        "totals": {
            "freed_bytes": totals.freed_bytes, "runs": totals.runs, "cache": totals.cache, "blobs": totals.blobs,
            "blob_bytes": totals.blob_bytes, "log_bytes": totals.log_bytes, "events": totals.events,
            "texts": totals.texts, "intervals": totals.intervals,
            "kept_runs": totals.kept_runs, "active_runs": totals.active_runs, "model_versions": totals.model_versions,
            "model_blobs": totals.model_blobs, "young_blobs": totals.young_blobs, "skipped": totals.skipped,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_in_words() {
        let totals = v1::GcTotals {
            freed_bytes: 1_288_490_189,
            runs: 34,
            blobs: 210,
            cache: 3,
            events: 1_204,
            texts: 2,
            intervals: 1,
            kept_runs: 100,
            active_runs: 1,
            model_blobs: 12,
            model_versions: 3,
            ..v1::GcTotals::default()
        };
        assert_eq!(
            summary(&totals, true),
            "would free 1.2 GiB: 34 runs, 210 blobs, 3 cache entries, 1204 events, 2 pipeline versions, \
             1 interval of a schedule; kept 100 runs (1 active), 12 blobs for 3 model versions"
        );
        let one = v1::GcTotals { runs: 1, cache: 1, young_blobs: 1, ..v1::GcTotals::default() };
        assert_eq!(
            summary(&one, false),
            "freed 0 B: 1 run, 0 blobs, 1 cache entry; kept 0 runs, 1 blob too young to go"
        );
    }

    #[test]
    fn an_age_that_is_none_says_how_to_write_one() {
        assert_eq!(age("90d"), Ok(90 * 86_400_000));
        assert_eq!(grace("0s"), Ok(0));
        assert!(age("90").is_err_and(|why| why.contains("90d")));
        assert!(age("0d").is_err());
    }
}
