//! `segue events`: what has happened, and what happens.

use std::time::Duration;

use clap::Args;
use segue_coordinator::server::{feed::json, openlineage};
use segue_proto::v1;
use tonic::Code;

use super::coordinator::LINEAGE_NAMESPACE;
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, clean},
};

/// Arguments.
#[derive(Debug, Args)]
#[command(after_help = "With -o json each line is one event, and its `next` is the offset to go on from: \
    segue events --from OFFSET. Events are kept for 30 days (`segue coordinator --keep-events`, `segue gc \
    --keep-events`); an offset that is not kept any more is an error that names the oldest that is.\n\nKinds: run.submitted, run.started, run.succeeded, run.failed, run.cancelled, \
    run.rerun, run.skipped, task.assigned, task.started, task.succeeded, task.failed, task.retrying, task.lost, \
    task.timed_out, task.skipped, task.upstream_failed, task.cancelled, task.handed_back, worker.connected, \
    worker.disconnected, worker.draining, worker.lost, model.registered, alias.moved, sla.missed, hook.gave_up; or a \
    group, such as run.")]
pub struct EventsArgs {
    /// Go on with what happens
    #[arg(short, long)]
    pub follow: bool,
    /// First event: an offset, `begin` for the oldest that is kept, `end` for what happens from now on
    #[arg(long, default_value = "begin", value_name = "OFFSET|begin|end", value_parser = start)]
    pub from: u64,
    /// Only events of this run: an id, the start of one, or `latest`
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Only events of runs of this pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Only events of this kind, such as run.failed, or of this group, such as run; may be given several times
    #[arg(long = "kind", value_name = "KIND", value_parser = kinds)]
    pub kinds: Vec<Kinds>,
    /// Print OpenLineage run events, one JSON document a line
    #[arg(long)]
    pub openlineage: bool,
    /// Namespace of jobs and artifacts in OpenLineage
    #[arg(long, env = "SEGUE_OPENLINEAGE_NAMESPACE", default_value = LINEAGE_NAMESPACE, value_name = "NAME")]
    pub openlineage_namespace: String,
}

/// The kinds that one word means.
#[derive(Debug, Clone)]
pub struct Kinds(Vec<v1::EventKind>);

/// How long to wait before a lost coordinator is asked again.
const AGAIN: Duration = Duration::from_millis(500);

fn start(text: &str) -> Result<u64, String> {
    match text {
        "begin" => Ok(0),
        "end" => Ok(u64::MAX),
        number => match number.parse::<u64>() {
            Ok(offset) if offset > 0 => Ok(offset),
            _ => Err("offsets are whole numbers from 1 on; `begin` and `end` are words for the two ends".to_owned()),
        },
    }
}

fn kinds(word: &str) -> Result<Kinds, String> {
    let found = json::kinds_of(word);
    if !found.is_empty() {
        return Ok(Kinds(found));
    }
    Err(match json::nearest_kind(word) {
        Some(near) => format!("there are no such events; did you mean `{near}`?"),
        None => "there are no such events; `segue events --help` lists the kinds".to_owned(),
    })
}

/// Runs the command.
pub async fn run(args: EventsArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut request = v1::ReadEventsRequest {
        from_offset: args.from,
        kinds: args.kinds.iter().flat_map(|kinds| &kinds.0).map(|kind| i32::from(*kind)).collect(),
        run: args.run.clone().unwrap_or_default(),
        pipeline: args.pipeline.clone().unwrap_or_default(),
        follow: args.follow,
    };
    let mut lost = false;
    if args.follow && client.is_embedded() {
        // It would hold the store, so that no coordinator could start.
        return Err(Error::internal("no coordinator is running: nothing happens that could be followed")
            .hint("leave --follow out to see what has happened, or start one with `segue dev`"));
    }
    loop {
        // Whatever was printed is not asked for again.
        let ended = read(&mut request, &args, client, out, &mut lost).await;
        match ended {
            Ok(()) if !args.follow => return Ok(ExitStatus::Done),
            Err(Fault::Call(status)) if !args.follow || !passes(&status) => return Err(status.into()),
            Err(Fault::Print(e)) => return Err(e),
            // A follower outlives its coordinator. One that never answered is not lost, it is not there.
            Ok(()) | Err(Fault::Call(_)) => {}
        }
        if !std::mem::replace(&mut lost, true) {
            out.note("the coordinator went away; going on when it is back");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Why reading a stream ended early.
#[derive(Debug)]
pub enum Fault {
    Call(tonic::Status),
    Print(Error),
}

impl From<tonic::Status> for Fault {
    fn from(status: tonic::Status) -> Self {
        Self::Call(status)
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Call(status) => status.into(),
            Fault::Print(error) => error,
        }
    }
}

/// Says whether a coordinator that comes back may answer otherwise.
pub fn passes(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

async fn read(
    request: &mut v1::ReadEventsRequest,
    args: &EventsArgs,
    client: &Client,
    out: &mut Printer,
    lost: &mut bool,
) -> Result<(), Fault> {
    let mut stream = client.events().read(request.clone()).await?.into_inner();
    while let Some(part) = stream.message().await? {
        if std::mem::take(lost) {
            out.note("the coordinator is back");
        }
        for event in &part.events {
            print(event, args, out).map_err(Fault::Print)?;
        }
        request.from_offset = part.next_offset;
    }
    Ok(())
}

fn print(event: &v1::FeedEvent, args: &EventsArgs, out: &mut Printer) -> Result<(), Error> {
    if args.openlineage {
        return openlineage::run_events(event, &args.openlineage_namespace)
            .iter()
            .try_for_each(|document| out.text(&document.to_string()));
    }
    if out.is_json() {
        let mut value = json::event(event);
        value["next"] = event.offset.saturating_add(1).into();
        return out.text(&value.to_string());
    }
    out.text(&line(event))
}

/// Shows an event in one line: a stream has no widths to make a table of.
fn line(event: &v1::FeedEvent) -> String {
    let mut what = Vec::new();
    if !event.run_id.is_empty() {
        what.push(format!("{} {}", event.pipeline, event.run_id));
    }
    if !event.task.is_empty() {
        let attempt = if event.attempt > 0 { format!("#{}", event.attempt) } else { String::new() };
        what.push(format!("{}{attempt}", event.task));
    }
    if !event.worker.is_empty() {
        what.push(format!("on {}", event.worker));
    }
    if event.cached {
        what.push("cached".to_owned());
    }
    if event.retry_at_ms > 0 {
        what.push(format!("again at {}", format::moment(event.retry_at_ms)));
    }
    if !event.message.is_empty() {
        what.push(event.message.clone());
    }
    let kind = json::kind_name(event.kind());
    let text = format!("{:>8}  {}  {kind:<20}  {}", event.offset, format::moment(event.time_ms), what.join("  "));
    clean(&text).replace('\n', " ").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_start_is_an_offset_or_one_of_two_words() {
        assert_eq!((start("begin"), start("end"), start("17")), (Ok(0), Ok(u64::MAX), Ok(17)));
        for bad in ["0", "-1", "first", ""] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_misspelt_kind_is_answered_with_the_nearest() {
        assert_eq!(kinds("task.failed").unwrap().0, [v1::EventKind::TaskFailed]);
        assert!(kinds("run").unwrap().0.len() > 4);
        assert!(kinds("task.faild").unwrap_err().contains("`task.failed`"));
    }

    #[test]
    fn a_line_is_one_line_whatever_the_message_holds() {
        let event = v1::FeedEvent {
            offset: 12,
            kind: v1::EventKind::TaskFailed.into(),
            run_id: "run_1".to_owned(),
            pipeline: "p".to_owned(),
            task: "a".to_owned(),
            attempt: 2,
            worker: "w".to_owned(),
            message: "first\nsecond \x1b[31m".to_owned(),
            ..v1::FeedEvent::default()
        };
        let line = line(&event);
        assert!(line.contains("task.failed") && line.contains("p run_1  a#2  on w  first second"), "{line}");
        assert!(!line.contains(['\n', '\x1b']), "{line:?}");
    }
}
