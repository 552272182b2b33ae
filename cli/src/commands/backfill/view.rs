//! Backfills in the words of people, and as JSON.

use std::collections::BTreeMap;

use segue_proto::v1;
use serde_json::{Value, json};

use super::super::schedules::{interval_json, trigger_of};
use crate::{
    error::Error,
    format,
    printer::{Printer, Rows, clean},
};

/// Intervals that need nothing more, and all of them.
pub(super) fn progress(view: &v1::BackfillView) -> (u32, u32) {
    use v1::BackfillIntervalState as S;
    let open = |count: &&v1::BackfillCount| matches!(S::try_from(count.state), Ok(S::Waiting | S::Running));
    let all = view.counts.iter().map(|count| count.count).sum();
    let left: u32 = view.counts.iter().filter(open).map(|count| count.count).sum();
    (all - left, all)
}

/// Says in words how many intervals are how far.
pub(super) fn counts(view: &v1::BackfillView) -> String {
    let counts: Vec<String> =
        view.counts.iter().map(|count| format!("{} {}", count.count, interval_state(count.state))).collect();
    if counts.is_empty() { "no intervals".to_owned() } else { counts.join(", ") }
}

/// Prints backfills.
pub(super) fn list(all: &[v1::BackfillView], out: &mut Printer) -> Result<(), Error> {
    let values: Vec<Value> = all.iter().map(backfill).collect();
    if all.is_empty() && !out.is_json() {
        out.note("there is no backfill: make one with `segue backfill FILE --from TIME --to TIME`");
        return Ok(());
    }
    out.data(&values, || {
        let mut rows = Rows::new(&["=backfill", "pipeline", "state", "from", "to", ">done", "created"]);
        for view in all {
            let (done, all) = progress(view);
            rows.row([
                view.id.clone(),
                view.pipeline.clone(),
                state(view.state).to_owned(),
                view.from.clone(),
                view.to.clone(),
                format!("{done}/{all}"),
                format::moment(view.created_ms),
            ]);
        }
        rows
    })
}

/// Prints a backfill with its intervals.
pub(super) fn show(view: &v1::BackfillView, out: &mut Printer) -> Result<(), Error> {
    if out.is_json() {
        return out.json(&backfill(view));
    }
    let trigger = trigger_of(&view.cron, view.every_ms);
    if view.id.is_empty() {
        out.text(&format!("{} would be executed for each interval of {trigger} in {}", view.pipeline, view.timezone))?;
    } else {
        let state = state(view.state);
        out.text(&format!("{}  {}  {state}  {trigger} in {}", view.id, view.pipeline, view.timezone))?;
    }
    out.text(&format!("  {} to {}, at most {} at a time: {}", view.from, view.to, view.max_running, counts(view)))?;
    if !view.problem.is_empty() {
        out.text(&format!("  the last submission failed: {}", clean(&view.problem)))?;
    }
    out.text("")?;
    out.data(&(), || {
        let mut rows = Rows::new(&["interval from", "to", "state", "=run", "note"]);
        for one in &view.intervals {
            let interval = one.interval.clone().unwrap_or_default();
            let anew = if one.generation > 0 { format!("run {} of it", one.generation + 1) } else { String::new() };
            let note = if one.message.is_empty() { anew } else { one.message.clone() };
            rows.row([interval.start, interval.end, interval_state(one.state).to_owned(), one.run_id.clone(), note]);
        }
        rows
    })
}

/// Names the state of a backfill.
pub(super) fn state(state: i32) -> &'static str {
    match v1::BackfillState::try_from(state) {
        Ok(v1::BackfillState::Running) => "running",
        Ok(v1::BackfillState::Cancelling) => "cancelling",
        Ok(v1::BackfillState::Succeeded) => "succeeded",
        Ok(v1::BackfillState::Failed) => "failed",
        Ok(v1::BackfillState::Cancelled) => "cancelled",
        Ok(v1::BackfillState::Unspecified) | Err(_) => "unknown",
    }
}

fn interval_state(state: i32) -> &'static str {
    match v1::BackfillIntervalState::try_from(state) {
        Ok(v1::BackfillIntervalState::Waiting) => "waiting",
        Ok(v1::BackfillIntervalState::Running) => "running",
        Ok(v1::BackfillIntervalState::Succeeded) => "succeeded",
        Ok(v1::BackfillIntervalState::Failed) => "failed",
        Ok(v1::BackfillIntervalState::Cancelled) => "cancelled",
        Ok(v1::BackfillIntervalState::Kept) => "kept",
        Ok(v1::BackfillIntervalState::Unspecified) | Err(_) => "unknown",
    }
}

/// A backfill as JSON.
pub(super) fn backfill(view: &v1::BackfillView) -> Value {
    let counts: BTreeMap<&str, u32> =
        view.counts.iter().map(|count| (interval_state(count.state), count.count)).collect();
    let intervals: Vec<Value> = view
        .intervals
        .iter()
        .map(|one| {
            json!({
                "interval": interval_json(one.interval.as_ref()), "state": interval_state(one.state), "run": one.run_id,
                "generation": one.generation, "message": one.message,
            })
        })
        .collect();
    let reprocess = v1::Reprocess::try_from(view.reprocess).map_or("none", |reprocess| reprocess.as_str_name());
    json!({
        "backfill": view.id, "pipeline": view.pipeline, "version": view.version, "state": state(view.state),
        "from": view.from, "to": view.to, "timezone": view.timezone, "cron": view.cron, "every_ms": view.every_ms,
        "max_running": view.max_running, "reprocess": reprocess.trim_start_matches("REPROCESS_").to_lowercase(),
        "reverse": view.reverse, "created_ms": view.created_ms, "ended_ms": view.ended_ms, "left_out": view.left_out,
        "problem": view.problem, "params": view.params, "counts": counts, "intervals": intervals,
    })
}
