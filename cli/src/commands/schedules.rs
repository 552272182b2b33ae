//! `segue schedules apply|list|show|pause|resume|delete|trigger`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use segue_proto::v1;
use serde_json::{Value, json};

use super::{read_pipeline, run::follow, submit, summary};
use crate::{
    args::{Global, Params},
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows, clean},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// Register the schedule of a pipeline file, or change it for the fires to come
    Apply(ApplyArgs),
    /// List schedules with their next fires
    List,
    /// Show a schedule: its next fires in its time zone, its last ones, what runs and what waits
    Show(ShowArgs),
    /// Stop the fires of a schedule; runs that go on are left alone
    Pause {
        /// Name of the schedule, which is that of its pipeline
        name: String,
        /// Why, for whoever wonders later
        #[arg(long, value_name = "TEXT", default_value = "")]
        note: String,
    },
    /// Let a schedule fire again; `catch_up` decides about what was missed
    Resume {
        /// Name of the schedule
        name: String,
        /// Pass over what was missed, whatever `catch_up` says
        #[arg(long)]
        skip_missed: bool,
    },
    /// Take a schedule away; its runs stay
    Delete {
        /// Name of the schedule
        name: String,
    },
    /// Submit a run now, for the last interval that is complete
    Trigger(TriggerArgs),
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Pipeline file with a table [schedule]
    pub file: PathBuf,
    /// A new schedule begins paused; one that is there keeps its state
    #[arg(long)]
    pub paused: bool,
}

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Name of the schedule, which is that of its pipeline
    pub name: String,
    /// How many fires to come are shown
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub next: u32,
    /// How many past fires are shown
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub last: u32,
}

/// Arguments of `trigger`.
#[derive(Debug, Args)]
pub struct TriggerArgs {
    /// Name of the schedule, which is that of its pipeline
    pub name: String,
    #[command(flatten)]
    pub params: Params,
    /// The same key gives the same run: safe to send twice
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the run; the exit code is its outcome
    #[arg(long)]
    pub wait: bool,
}

/// Runs the command. What needs operators or hands for longer than this command needs a coordinator that runs.
pub async fn run(command: SchedulesCommand, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    if let SchedulesCommand::Apply(_) | SchedulesCommand::Trigger(_) = &command {
        let Some(client) = Client::running(global).await? else {
            return Err(Error::internal("no coordinator is running that could fire schedules")
                .hint("start one with `segue dev`, or name one with --server"));
        };
        return with_client(command, &client, out).await;
    }
    let client = Client::connect(global).await?;
    let done = with_client(command, &client, out).await;
    let closed = client.close().await;
    done.and_then(|status| closed.map(|()| status))
}

async fn with_client(command: SchedulesCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut schedules = client.schedules();
    match command {
        SchedulesCommand::Apply(args) => return apply(args, client, out).await,
        SchedulesCommand::Trigger(args) => return trigger(args, client, out).await,
        SchedulesCommand::List => {
            let all = schedules.list(v1::ListSchedulesRequest {}).await?.into_inner().schedules;
            list(&all, out)?;
        }
        SchedulesCommand::Show(args) => {
            let request = v1::GetScheduleRequest { name: args.name, next: args.next, last: args.last };
            show(&schedules.get(request).await?.into_inner(), out)?;
        }
        SchedulesCommand::Pause { name, note } => {
            let view = schedules.pause(v1::PauseScheduleRequest { name, note }).await?.into_inner();
            changed(&view, format!("{} is paused", view.name), out)?;
        }
        SchedulesCommand::Resume { name, skip_missed } => {
            let view = schedules.resume(v1::ResumeScheduleRequest { name, skip_missed }).await?.into_inner();
            let next = next_of(&view).map_or_else(|| "no fire is to come".to_owned(), |next| format!("next at {next}"));
            changed(&view, format!("{} fires again: {next}", view.name), out)?;
        }
        SchedulesCommand::Delete { name } => {
            schedules.delete(v1::DeleteScheduleRequest { name: name.clone() }).await?;
            if out.is_json() {
                out.json(&json!({"schedule": name, "deleted": true}))?;
            } else {
                out.text(&format!("{name} is deleted; its runs stay"))?;
            }
        }
    }
    Ok(ExitStatus::Done)
}

async fn apply(args: ApplyArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let (text, path) = read_pipeline(&args.file)?;
    let request = v1::ApplyScheduleRequest { text, path, paused: args.paused };
    let answer = client.schedules().apply(request).await?.into_inner();
    let Some(view) = answer.schedule else { return Err(Error::diagnostics(answer.diagnostics)) };
    for warning in &answer.diagnostics {
        out.note(warning.rendered.trim_end());
    }
    if out.is_json() {
        let mut value = schedule(&view);
        value["created"] = json!(answer.created);
        value["changed"] = json!(answer.changed);
        out.json(&value)?;
        return Ok(ExitStatus::Done);
    }
    let what = match (answer.created, answer.changed) {
        (true, _) => "is scheduled",
        (false, true) => "is scheduled anew, for the fires to come",
        (false, false) => "is scheduled as it was",
    };
    let version = view.version.get(..12).unwrap_or(&view.version);
    out.text(&format!("{} {what}: {}, version {version}", view.name, timing(&view)))?;
    if let Some(warning) = no_fire(&view, format::now_ms()) {
        out.note(&warning);
    }
    if view.paused {
        out.note(&format!("it is paused: segue schedules resume {}", view.name));
    }
    for next in &view.next {
        out.text(&format!("  {}", next.starts))?;
    }
    Ok(ExitStatus::Done)
}

/// Warns of a schedule that never fires.
fn no_fire(view: &v1::ScheduleView, now: u64) -> Option<String> {
    if view.end_ms > 0 && view.end_ms <= now {
        return Some(format!("it never fires: its `end` is past, {}", format::moment(view.end_ms)));
    }
    view.next.is_empty().then(|| "it never fires: no time that its schedule names is to come".to_owned())
}

async fn trigger(args: TriggerArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let request = v1::TriggerScheduleRequest {
        name: args.name,
        params: submit::params(&args.params, client).await?,
        idempotency_key: args.idempotency_key.unwrap_or_default(),
    };
    let answer = client.schedules().trigger(request).await?.into_inner();
    let interval = answer.interval.unwrap_or_default();
    if args.wait {
        out.note(&format!("{} for {} to {}", answer.run_id, interval.start, interval.end));
        let run = follow(client, &answer.run_id, false, out).await?;
        if out.is_json() {
            out.json(&format::run_outcome(&run))?;
        } else {
            summary::print(&run, client, out).await?;
        }
        return Ok(format::ended(run.state).unwrap_or(ExitStatus::Unreachable));
    }
    if out.is_json() {
        out.json(&json!({"run": answer.run_id, "interval": interval_json(Some(&interval))}))?;
    } else {
        out.text(&answer.run_id)?;
    }
    Ok(ExitStatus::Done)
}

fn changed(view: &v1::ScheduleView, said: String, out: &mut Printer) -> Result<(), Error> {
    if out.is_json() { out.json(&schedule(view)) } else { out.text(&said) }
}

fn list(all: &[v1::ScheduleView], out: &mut Printer) -> Result<(), Error> {
    let values: Vec<Value> = all.iter().map(schedule).collect();
    if all.is_empty() && !out.is_json() {
        out.note("there is no schedule: make one with `segue schedules apply FILE`");
        return Ok(());
    }
    out.data(&values, || {
        let mut rows = Rows::new(&["schedule", "fires", "time zone", "state", "next", ">running", ">waiting"]);
        for view in all {
            rows.row([
                view.name.clone(),
                trigger_text(view),
                view.timezone.clone(),
                state(view).to_owned(),
                if view.paused { "-".to_owned() } else { next_of(view).unwrap_or_else(|| "never again".to_owned()) },
                view.active.len().to_string(),
                view.waiting.len().to_string(),
            ]);
        }
        rows
    })
}

fn show(view: &v1::ScheduleView, out: &mut Printer) -> Result<(), Error> {
    if out.is_json() {
        return out.json(&schedule(view));
    }
    out.text(&format!("{}  {}  {}", view.name, state(view), timing(view)))?;
    if !view.note.is_empty() {
        out.text(&format!("  {}", clean(&view.note)))?;
    }
    out.text(&format!("  {} version {}", view.path, view.version.get(..12).unwrap_or(&view.version)))?;
    let window = span(view.catch_up_window_ms);
    let jitter = if view.jitter_ms > 0 { format!(", jitter {}", span(view.jitter_ms)) } else { String::new() };
    out.text(&format!("  overlap {}, catch up {} within {window}{jitter}", view.overlap, view.catch_up))?;
    if view.params_json != "{}" {
        out.text(&format!("  params {}", clean(&view.params_json)))?;
    }
    if !view.problem.is_empty() {
        out.text(&format!("  the last submission failed: {}", clean(&view.problem)))?;
    }
    for active in &view.active {
        let interval = active.interval.clone().unwrap_or_default();
        let doing = if active.cancelling { "is being cancelled" } else { "runs" };
        out.text(&format!("  {} {doing}, for {} to {}", active.run_id, interval.start, interval.end))?;
    }
    if let Some(first) = view.waiting.first() {
        let some = format::counted(view.waiting.len() as u64, "interval waits", "intervals wait");
        out.text(&format!("  {some}, since the one that starts at {}", first.start))?;
    }
    out.text("")?;
    out.data(&(), || {
        let mut rows = Rows::new(&["fires at", "interval from", "to"]);
        for next in &view.next {
            let interval = next.interval.clone().unwrap_or_default();
            rows.row([next.starts.clone(), interval.start, interval.end]);
        }
        rows
    })?;
    if view.last.is_empty() {
        return Ok(());
    }
    out.text("")?;
    out.data(&(), || {
        let mut rows = Rows::new(&["interval from", "to", "outcome", "=run", "state", "note"]);
        for fire in &view.last {
            let interval = fire.interval.clone().unwrap_or_default();
            rows.row([
                interval.start,
                interval.end,
                outcome(fire),
                fire.run_id.clone(),
                if fire.run_id.is_empty() { String::new() } else { format::run_state(fire.run_state).to_owned() },
                remark(fire),
            ]);
        }
        rows
    })
}

fn state(view: &v1::ScheduleView) -> &'static str {
    if view.paused { "paused" } else { "active" }
}

/// When it fires, in words.
fn timing(view: &v1::ScheduleView) -> String {
    format!("{} in {}", trigger_text(view), view.timezone)
}

fn trigger_text(view: &v1::ScheduleView) -> String {
    trigger_of(&view.cron, view.every_ms)
}

/// What makes a schedule or a backfill go, in the words of the pipeline file.
pub fn trigger_of(cron: &str, every_ms: u64) -> String {
    if !cron.is_empty() {
        return format!("cron {cron}");
    }
    format!("every {}", span(every_ms))
}

/// A span of time as the file says it: `1d12h`.
fn span(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let mut left = ms;
    let mut text = String::new();
    for (ms, unit) in units {
        if left >= ms {
            text.push_str(&format!("{}{unit}", left / ms));
            left %= ms;
        }
    }
    text
}

fn next_of(view: &v1::ScheduleView) -> Option<String> {
    view.next.first().map(|next| next.starts.clone())
}

fn outcome(fire: &v1::PastFire) -> String {
    let word = match v1::FireOutcome::try_from(fire.outcome) {
        Ok(v1::FireOutcome::Submitted) => "submitted",
        Ok(v1::FireOutcome::Overlapped) => "skipped",
        Ok(v1::FireOutcome::Missed) => "missed",
        Ok(v1::FireOutcome::Replaced) => "replaced",
        Ok(v1::FireOutcome::Refused) => "refused",
        Ok(v1::FireOutcome::QueueFull) => "queue full",
        Ok(v1::FireOutcome::Unspecified) | Err(_) => "unknown",
    };
    if fire.count > 1 { format!("{word} ({})", fire.count) } else { word.to_owned() }
}

fn remark(fire: &v1::PastFire) -> String {
    let mut remarks = Vec::new();
    if fire.origin != "schedule" {
        remarks.push(format!("by {}", fire.origin));
    }
    if fire.late {
        remarks.push("caught up".to_owned());
    }
    if !fire.message.is_empty() {
        remarks.push(fire.message.clone());
    }
    remarks.join(", ")
}

/// An interval as JSON.
pub fn interval_json(interval: Option<&v1::Interval>) -> Value {
    interval.map_or(Value::Null, |interval| {
        json!({
            "start": interval.start, "end": interval.end, "start_ms": interval.start_ms, "end_ms": interval.end_ms,
        })
    })
}

/// A schedule as JSON.
fn schedule(view: &v1::ScheduleView) -> Value {
    let next: Vec<Value> = view
        .next
        .iter()
        .map(|next| json!({"starts": next.starts, "starts_ms": next.starts_ms, "interval": interval_json(next.interval.as_ref())}))
        .collect();
    let last: Vec<Value> = view
        .last
        .iter()
        .map(|fire| {
            let name = v1::FireOutcome::try_from(fire.outcome).map_or("unknown", |outcome| outcome.as_str_name());
            json!({
                "interval": interval_json(fire.interval.as_ref()),
                "outcome": name.trim_start_matches("FIRE_OUTCOME_").to_lowercase(),
                "run": fire.run_id, "state": if fire.run_id.is_empty() { "" } else { format::run_state(fire.run_state) },
                "late": fire.late, "message": fire.message, "count": fire.count, "decided_ms": fire.decided_ms,
                "origin": fire.origin,
            })
        })
        .collect();
    let active: Vec<Value> = view
        .active
        .iter()
        .map(|run| json!({"run": run.run_id, "cancelling": run.cancelling, "interval": interval_json(run.interval.as_ref())}))
        .collect();
    let waiting: Vec<Value> = view.waiting.iter().map(|interval| interval_json(Some(interval))).collect();
    json!({
        "schedule": view.name, "version": view.version, "path": view.path, "cron": view.cron, "every_ms": view.every_ms,
        "timezone": view.timezone, "start_ms": view.start_ms, "end_ms": view.end_ms, "catch_up": view.catch_up,
        "catch_up_window_ms": view.catch_up_window_ms, "overlap": view.overlap, "jitter_ms": view.jitter_ms,
        "params": format::embedded_json(&view.params_json), "state": state(view), "note": view.note,
        "created_ms": view.created_ms, "applied_ms": view.applied_ms, "problem": view.problem,
        "next": next, "last": last, "active": active, "waiting": waiting,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_that_never_fires_is_told() {
        let next = vec![v1::NextFire::default()];
        let mut view = v1::ScheduleView { next, ..v1::ScheduleView::default() };
        assert_eq!(no_fire(&view, 5_000), None);
        view.end_ms = 4_000;
        assert!(no_fire(&view, 5_000).is_some_and(|said| said.contains("`end` is past")));
        view = v1::ScheduleView { end_ms: 9_000, ..v1::ScheduleView::default() };
        assert!(no_fire(&view, 5_000).is_some_and(|said| said.contains("never fires")), "none is left before the end");
    }

    #[test]
    fn a_trigger_is_said_as_the_file_says_it() {
        assert_eq!(trigger_of("0 3 * * *", 0), "cron 0 3 * * *");
        assert_eq!(trigger_of("", 900_000), "every 15m");
        assert_eq!(trigger_of("", 90_061_000), "every 1d1h1m1s");
    }
}
