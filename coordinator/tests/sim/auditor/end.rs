//! The end: everything is quiet, and what the coordinator says must be what happened.

use std::{collections::BTreeMap, sync::Arc};

use object_store::{ObjectStoreExt as _, memory::InMemory, path::Path as ObjectPath};
use segue_coordinator::store::Store as _;
use segue_proto::{
    ids::{Digest, RunId},
    v1::{
        self, EventKind as Kind, RunState, TaskState, event_service_client::EventServiceClient,
        log_service_client::LogServiceClient, run_service_client::RunServiceClient,
    },
};
use tonic::{Status, transport::Channel};

use super::feed::{Feed, Going, digest};
use crate::{disk::Disk, ledger::Ledger, load::shape::CANARY, worker::log_bytes};

/// What the core has in memory when everything has ended.
#[derive(Debug, Default)]
pub struct Core {
    pub runs: usize,
    pub leases: usize,
    pub next_wakeup: Option<u64>,
}

/// Gives every run as the coordinator shows it.
pub async fn views(channel: &Channel) -> Result<BTreeMap<RunId, v1::RunView>, Status> {
    let mut client = RunServiceClient::new(channel.clone());
    let request = v1::ListRunsRequest { limit: 1_000, ..v1::ListRunsRequest::default() };
    let listed = client.list_runs(request).await?.into_inner().runs;
    let mut found = BTreeMap::new();
    for run in listed {
        let id = run.run_id.clone();
        let mut view = client.get_run(v1::GetRunRequest { run_id: id.clone() }).await?.into_inner();
        // Children of fan-outs are in pages of their own.
        let mut after = 0;
        view.tasks.clear();
        loop {
            let request =
                v1::ListTasksRequest { run_id: id.clone(), after_index: after, limit: 1_000, ..Default::default() };
            let page = client.list_tasks(request).await?.into_inner();
            after = page.tasks.last().map_or(after, |task| task.index);
            view.tasks.extend(page.tasks);
            if !page.more {
                break;
            }
        }
        // Counts changes seen by watchers; not part of what is kept.
        view.revision = 0;
        if let Ok(id) = id.parse() {
            found.insert(id, view);
        }
    }
    Ok(found)
}

/// A coordinator that starts on the same disk says the same.
pub fn same_after_restart(
    before: &BTreeMap<RunId, v1::RunView>,
    after: &BTreeMap<RunId, v1::RunView>,
    ledger: &Ledger,
) {
    for (id, view) in before {
        if after.get(id) != Some(view) {
            ledger.violation("restart", format_args!("{id} is another after a restart"));
        }
    }
    if before.len() != after.len() {
        ledger.violation("restart", format_args!("{} runs before a restart, {} after it", before.len(), after.len()));
    }
}

/// Checks everything that must hold when all has ended.
pub async fn at_the_end(
    channel: &Channel,
    feed: &Feed,
    views: &BTreeMap<RunId, v1::RunView>,
    core: &Core,
    blobs: &Arc<InMemory>,
    disk: &Disk,
    ledger: &Ledger,
) -> Result<(), Status> {
    if core.leases > 0 || core.runs > 0 || core.next_wakeup.is_some() {
        ledger.violation("ended is ended", format_args!("all runs have ended, and the core still has {core:?}"));
    }
    acknowledged(views, ledger);
    intervals(views, ledger);
    processes(ledger);
    for (id, view) in views {
        match feed.runs.get(id) {
            Some(going) => compare(*id, view, going, ledger),
            None => ledger.violation("feed", format_args!("{id} is not in the feed")),
        }
        attempts(*id, view, ledger);
        reruns(*id, feed, ledger);
    }
    artifacts(channel, views, blobs, ledger).await?;
    logs(channel, views, ledger).await?;
    told_again(channel, feed, ledger).await?;
    secrets(disk, ledger);
    Ok(())
}

/// Everything acknowledged is there.
fn acknowledged(views: &BTreeMap<RunId, v1::RunView>, ledger: &Ledger) {
    let runs: Vec<RunId> = ledger.book().runs.keys().copied().collect();
    for run in runs.iter().filter(|run| !views.contains_key(run)) {
        ledger.violation("acknowledged is durable", format_args!("{run} was acknowledged and is gone"));
    }
    let reruns: Vec<(RunId, u32)> = {
        let book = ledger.book();
        let acked = book.reruns.iter().flat_map(|(run, reruns)| reruns.iter().map(move |rerun| (*run, rerun)));
        let any = |plan: &[(String, bool)]| plan.iter().any(|(_, execute)| *execute);
        acked.filter(|(_, rerun)| rerun.acked && any(&rerun.plan)).map(|(run, rerun)| (run, rerun.generation)).collect()
    };
    for (run, before) in reruns {
        if views.get(&run).is_none_or(|view| view.generation <= before) {
            ledger.violation("acknowledged is durable", format_args!("a rerun of {run} was acknowledged and is gone"));
        }
    }
}

/// An interval of a schedule gets one run, however often the coordinator starts and wherever the clock jumps.
fn intervals(views: &BTreeMap<RunId, v1::RunView>, ledger: &Ledger) {
    let mut fired: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for view in views.values() {
        if let (Some(schedule), Some(interval)) = (view.tags.get("schedule"), view.tags.get("interval")) {
            *fired.entry((schedule.as_str(), interval.as_str())).or_default() += 1;
        }
    }
    for ((schedule, interval), count) in fired.into_iter().filter(|(_, count)| *count > 1) {
        ledger.violation("schedules", format_args!("the interval {interval} of {schedule} has {count} runs"));
    }
}

/// No process outlives its run.
fn processes(ledger: &Ledger) {
    let left: Vec<String> = {
        let book = ledger.book();
        let open = book.processes.iter().filter(|(_, process)| process.ended_us.is_none());
        open.map(|(token, process)| format!("{token} on {}", process.worker)).collect()
    };
    for process in left {
        ledger.violation("ended is ended", format_args!("all runs have ended, and the process of {process} goes on"));
    }
}

fn compare(id: RunId, view: &v1::RunView, going: &Going, ledger: &Ledger) {
    let said = match view.state() {
        RunState::Succeeded => Kind::RunSucceeded,
        RunState::Failed => Kind::RunFailed,
        RunState::Cancelled => Kind::RunCancelled,
        RunState::Skipped => Kind::RunSkipped,
        other => return ledger.violation("liveness", format_args!("{id} is {}", other.as_str_name())),
    };
    if going.ended != Some(said) || going.generation != view.generation {
        ledger.violation(
            "feed",
            format_args!(
                "{id} is {} in generation {}, and the feed says {:?} in {}",
                said.as_str_name(),
                view.generation,
                going.ended,
                going.generation
            ),
        );
    }
    for task in &view.tasks {
        let wanted = match task.state() {
            TaskState::Succeeded => Kind::TaskSucceeded,
            TaskState::Failed => Kind::TaskFailed,
            TaskState::Cancelled => Kind::TaskCancelled,
            TaskState::UpstreamFailed => Kind::TaskUpstreamFailed,
            TaskState::Skipped => Kind::TaskSkipped,
            TaskState::Dropped => continue,
            other => {
                ledger.violation(
                    "ended is ended",
                    format_args!("{id} has ended, and {} is {}", task.name, other.as_str_name()),
                );
                continue;
            }
        };
        let told = going.tasks.get(&task.name).and_then(|task| task.ended);
        if told != Some(wanted) {
            ledger.violation(
                "feed",
                format_args!("{id} {} is {}, and the feed says {told:?}", task.name, wanted.as_str_name()),
            );
        }
    }
}

/// The attempts that are shown are those that were, and successes those that workers reported.
fn attempts(id: RunId, view: &v1::RunView, ledger: &Ledger) {
    use v1::AttemptState as State;
    for task in &view.tasks {
        let mut successes: BTreeMap<u32, u32> = BTreeMap::new();
        for attempt in &task.attempts {
            if matches!(attempt.state(), State::Assigned | State::Running | State::Unspecified) {
                ledger.violation("ended is ended", format_args!("{id} {} #{} goes on", task.name, attempt.attempt));
            }
            if attempt.state() == State::Succeeded {
                *successes.entry(attempt.generation).or_default() += 1;
            }
        }
        if let Some((generation, count)) = successes.iter().find(|(_, count)| **count > 1) {
            ledger.violation(
                "one execution",
                format_args!("{id} {} has {count} successes in generation {generation}", task.name),
            );
        }
        let numbers: Vec<u32> = task.attempts.iter().map(|attempt| attempt.attempt).collect();
        if numbers.iter().enumerate().any(|(at, number)| *number != at as u32 + 1) {
            ledger.violation("one current attempt", format_args!("{id} {} has the attempts {numbers:?}", task.name));
        }
    }
}

/// A rerun executes what its dry run has printed; what it keeps, it keeps byte for byte.
fn reruns(id: RunId, feed: &Feed, ledger: &Ledger) {
    let Some(going) = feed.runs.get(&id) else { return };
    let last = {
        let book = ledger.book();
        let of = book.reruns.get(&id).map(Vec::as_slice).unwrap_or_default();
        of.iter().rfind(|rerun| rerun.acked && rerun.generation + 1 == going.generation).cloned()
    };
    let Some(rerun) = last else { return };
    for (task, execute) in &rerun.plan {
        let fresh = going.tasks.get(task).is_some_and(|task| task.fresh);
        if fresh != *execute {
            let word = if *execute { "was to execute and has not" } else { "was to be kept and has executed" };
            ledger.violation("rerun as printed", format_args!("{id} {task} {word} in generation {}", going.generation));
        }
    }
    for (task, output, digest) in &rerun.kept {
        let now = going.tasks.get(task).and_then(|task| task.outputs.iter().find(|(name, _)| name == output));
        if now.is_some_and(|(_, now)| now != digest) {
            ledger.violation("rerun as printed", format_args!("{id} {task}.{output} was kept and is another"));
        }
    }
}

/// An artifact is visible when its bytes are stored and its attempt is committed, and only then.
async fn artifacts(
    channel: &Channel,
    views: &BTreeMap<RunId, v1::RunView>,
    blobs: &Arc<InMemory>,
    ledger: &Ledger,
) -> Result<(), Status> {
    let mut client = RunServiceClient::new(channel.clone());
    for (id, view) in views {
        let request = v1::ListArtifactsRequest { run_id: id.to_string(), limit: 1_000, ..Default::default() };
        let listed = client.list_artifacts(request).await?.into_inner().artifacts;
        for shown in &listed {
            let artifact = shown.artifact.clone().unwrap_or_default();
            let Ok(digest) = artifact.digest.parse::<Digest>() else { continue };
            let path = ObjectPath::from(segue_proto::blob_key(&digest));
            let good = match blobs.get(&path).await {
                Ok(found) => found.bytes().await.is_ok_and(|bytes| Digest::of(&bytes) == digest),
                Err(_) => false,
            };
            if !good {
                ledger.violation(
                    "artifacts",
                    format_args!("{id} {}.{} is shown without its bytes", shown.task, shown.output),
                );
            }
            let task = view.tasks.iter().find(|task| task.name == shown.task);
            let committed = task.is_some_and(|task| {
                shown.cached
                    || task.attempts.iter().any(|attempt| {
                        attempt.attempt == shown.attempt && attempt.state() == v1::AttemptState::Succeeded
                    })
            });
            if !committed {
                ledger.violation(
                    "artifacts",
                    format_args!(
                        "{id} {}.{} is shown, and its attempt #{} is not committed",
                        shown.task, shown.output, shown.attempt
                    ),
                );
            }
        }
        for task in view.tasks.iter().filter(|task| task.state() == TaskState::Succeeded) {
            for output in &task.outputs {
                let digest = output.artifact.clone().unwrap_or_default().digest;
                let there = listed.iter().any(|shown| {
                    shown.task == task.name
                        && shown.output == output.name
                        && shown.artifact.as_ref().is_some_and(|artifact| artifact.digest == digest)
                });
                if !there {
                    ledger.violation(
                        "artifacts",
                        format_args!("{id} {}.{} succeeded and is not listed", task.name, output.name),
                    );
                }
            }
        }
    }
    Ok(())
}

/// A log is whole, or says where it is not.
async fn logs(channel: &Channel, views: &BTreeMap<RunId, v1::RunView>, ledger: &Ledger) -> Result<(), Status> {
    let written: Vec<_> = ledger.book().logs.iter().map(|(token, length)| (token.clone(), *length)).collect();
    let mut client = LogServiceClient::new(channel.clone());
    // Each costs a call: a few of each run are enough to see a rule that is broken.
    let mut looked: BTreeMap<RunId, u32> = BTreeMap::new();
    for (token, length) in written {
        let committed = views.get(&token.run).is_some_and(|view| {
            let task = view.tasks.iter().find(|task| task.name == token.task.as_str());
            task.is_some_and(|task| {
                task.attempts.iter().any(|attempt| {
                    attempt.attempt == token.attempt
                        && attempt.epoch == token.epoch
                        && attempt.state() == v1::AttemptState::Succeeded
                })
            })
        });
        let count = looked.entry(token.run).or_default();
        if !committed || *count >= 3 {
            continue;
        }
        *count += 1;
        let request = v1::ReadLogsRequest {
            run_id: token.run.to_string(),
            task: token.task.to_string(),
            attempt: token.attempt,
            follow: false,
        };
        let mut pieces = client.read(request).await?.into_inner();
        let mut end = 0;
        while let Some(piece) = pieces.message().await? {
            if piece.offset != end + piece.lost_before {
                ledger.violation(
                    "logs",
                    format_args!("{token}: a piece at {} after {end}, with {} lost", piece.offset, piece.lost_before),
                );
            }
            end = piece.offset + piece.data.len() as u64;
            if log_bytes(&token, piece.offset, end) != piece.data {
                ledger.violation("logs", format_args!("{token}: other bytes at {} than were written", piece.offset));
            }
        }
        if end != length {
            ledger.violation("logs", format_args!("{token}: {end} of {length} bytes, and no gap says so"));
        }
    }
    Ok(())
}

/// The feed, read again from its start, says what it said when it was followed.
async fn told_again(channel: &Channel, feed: &Feed, ledger: &Ledger) -> Result<(), Status> {
    let mut client = EventServiceClient::new(channel.clone());
    let mut parts = client.read(v1::ReadEventsRequest { from_offset: 1, ..Default::default() }).await?.into_inner();
    let mut at = 0;
    while let Some(part) = parts.message().await? {
        for event in part.events {
            if feed.digests.get(at).is_some_and(|told| *told != digest(&event)) {
                ledger.violation("feed", format_args!("event {} is another than it was", event.offset));
            }
            at += 1;
        }
    }
    if at < feed.digests.len() {
        ledger.violation("feed", format_args!("{} events were told, {at} are there", feed.digests.len()));
    }
    Ok(())
}

/// No secret is on the disk.
fn secrets(disk: &Disk, ledger: &Ledger) {
    let rows = disk.durable().scan(&[], None, usize::MAX).unwrap_or_default();
    let canary = CANARY.as_bytes();
    for (key, value) in rows {
        if value.windows(canary.len()).any(|window| window == canary) {
            ledger.violation(
                "secrets",
                format_args!("a record holds the canary: {}", segue_coordinator::store::keys::describe(&key)),
            );
        }
    }
}
