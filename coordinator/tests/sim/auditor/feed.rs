//! The feed, event by event, against the rules by which runs go.

use std::{collections::BTreeMap, time::Duration};

use prost::Message as _;
use segue_proto::{
    ids::{RunId, Token},
    v1::{self, EventKind as Kind, event_service_client::EventServiceClient},
};
use tokio::time::sleep;
use tonic::transport::Channel;

use crate::{
    chance::mix,
    ledger::Ledger,
    load::shape::{LIMIT, POOLS, RunIf, Shape},
    say,
};

/// What the feed has said so far.
#[derive(Debug, Clone, Default)]
pub struct Feed {
    pub next: u64,
    /// A digest of each event, from the first on.
    pub digests: Vec<u64>,
    pub runs: BTreeMap<RunId, Going>,
}

/// A run as the feed tells of it.
#[derive(Debug, Clone, Default)]
pub struct Going {
    pub pipeline: String,
    pub generation: u32,
    pub ended: Option<Kind>,
    pub tasks: BTreeMap<String, Task>,
}

#[derive(Debug, Clone, Default)]
pub struct Task {
    /// The attempt that goes on, and where.
    pub live: Option<(u32, String)>,
    pub last: u32,
    /// How it ended in this generation, or before it if it was kept.
    pub ended: Option<Kind>,
    /// It ended in this generation.
    pub fresh: bool,
    pub outputs: Vec<(String, String)>,
    /// A retry was announced and has not come.
    pub retrying: bool,
}

/// Follows the feed over every restart, for ever.
pub async fn follow(channel: Channel, feed: std::sync::Arc<std::sync::Mutex<Feed>>, ledger: Ledger) {
    loop {
        let from = feed.lock().expect("one thread").next;
        let mut client = EventServiceClient::new(channel.clone());
        let request = v1::ReadEventsRequest { from_offset: from, follow: true, ..v1::ReadEventsRequest::default() };
        if let Ok(response) = client.read(request).await {
            let mut parts = response.into_inner();
            while let Ok(Some(part)) = parts.message().await {
                let mut feed = feed.lock().expect("one thread");
                for event in part.events {
                    feed.take(&event, &ledger);
                }
                feed.next = feed.next.max(part.next_offset);
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Gives the digest of an event.
pub fn digest(event: &v1::FeedEvent) -> u64 {
    event.encode_to_vec().iter().fold(17, |h, b| mix(h ^ u64::from(*b)))
}

impl Feed {
    pub fn new() -> Self {
        Self { next: 1, ..Self::default() }
    }

    /// Takes one event and checks it.
    pub fn take(&mut self, event: &v1::FeedEvent, ledger: &Ledger) {
        let kind = event.kind();
        say!(
            ledger.trace,
            "feed",
            "{} {} {} {} #{} {} {}",
            event.offset,
            kind.as_str_name().trim_start_matches("EVENT_KIND_"),
            event.run_id,
            event.task,
            event.attempt,
            event.worker,
            event.message.chars().take(60).collect::<String>()
        );
        if event.offset != self.next {
            ledger.violation("feed", format_args!("offset {} where {} was due", event.offset, self.next));
        }
        self.next = event.offset + 1;
        self.digests.push(digest(event));
        let Ok(run) = event.run_id.parse::<RunId>() else { return };
        match kind {
            Kind::RunSubmitted => {
                let going = Going { pipeline: event.pipeline.clone(), ..Going::default() };
                if self.runs.insert(run, going).is_some() {
                    ledger.violation("feed", format_args!("{run} is submitted twice"));
                }
                return;
            }
            Kind::RunRerun => return self.rerun(run, event, ledger),
            _ => {}
        }
        let shape = shape_of(&event.pipeline, ledger);
        let Some(going) = self.runs.get_mut(&run) else {
            return ledger
                .violation("feed", format_args!("{} of {run}, which was never submitted", kind.as_str_name()));
        };
        if event.generation != going.generation {
            ledger.violation(
                "feed",
                format_args!("an event of generation {} of {run}, which is in {}", event.generation, going.generation),
            );
        }
        if matches!(kind, Kind::SlaMissed | Kind::HookGaveUp | Kind::ModelRegistered) {
            return;
        }
        if let Some(how) = going.ended {
            ledger.violation(
                "ended is ended",
                format_args!("{} after {} of {run}", kind.as_str_name(), how.as_str_name()),
            );
        }
        match kind {
            Kind::RunSucceeded | Kind::RunFailed | Kind::RunCancelled | Kind::RunSkipped => {
                going.end(run, kind, shape.as_deref(), ledger);
            }
            Kind::RunStarted => {}
            _ => going.task_event(run, event, shape.as_deref(), ledger),
        }
        if kind == Kind::TaskAssigned {
            self.shared_slots(ledger);
        }
    }

    fn rerun(&mut self, run: RunId, event: &v1::FeedEvent, ledger: &Ledger) {
        let Some(going) = self.runs.get_mut(&run) else {
            return ledger.violation("feed", format_args!("a rerun of {run}, which was never submitted"));
        };
        if going.ended.is_none() {
            ledger.violation("feed", format_args!("a rerun of {run}, which goes on"));
        }
        if event.generation != going.generation + 1 {
            ledger.violation(
                "feed",
                format_args!("{run} goes from generation {} to {}", going.generation, event.generation),
            );
        }
        going.generation = event.generation;
        going.ended = None;
        for task in going.tasks.values_mut() {
            task.fresh = false;
        }
    }

    /// Slots of pools and limits hold over all runs.
    fn shared_slots(&self, ledger: &Ledger) {
        let mut pools: BTreeMap<&str, u32> = BTreeMap::new();
        let mut limited = 0;
        for going in self.runs.values() {
            let Some(shape) = shape_of(&going.pipeline, ledger) else { continue };
            for (name, task) in &going.tasks {
                let Some((_, bound)) = shape.find(name).filter(|_| task.live.is_some()) else { continue };
                if let Some((pool, slots)) = bound.pool {
                    *pools.entry(pool).or_default() += slots;
                }
                limited += usize::from(bound.limited);
            }
        }
        for (name, slots) in POOLS {
            let used = pools.get(name).copied().unwrap_or(0);
            if used > slots {
                ledger.violation("capacity", format_args!("{used} of {slots} slots of pool {name} are in use"));
            }
        }
        if limited > LIMIT {
            ledger.violation("capacity", format_args!("{limited} attempts under a limit of {LIMIT}"));
        }
    }
}

fn shape_of(pipeline: &str, ledger: &Ledger) -> Option<std::sync::Arc<Shape>> {
    let book = ledger.book();
    book.asked.values().find(|shape| shape.name == pipeline).cloned()
}

const fn is_failure(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::TaskFailed | Kind::TaskLost | Kind::TaskTimedOut | Kind::TaskUpstreamFailed | Kind::TaskCancelled
    )
}

impl Going {
    fn task_event(&mut self, run: RunId, event: &v1::FeedEvent, shape: Option<&Shape>, ledger: &Ledger) {
        let (kind, name, number) = (event.kind(), &event.task, event.attempt);
        if kind == Kind::TaskAssigned
            && let Some(shape) = shape
        {
            self.may_begin(run, name, shape, ledger);
            cancelled_stays_cancelled(run, event, shape, ledger);
        }
        let task = self.tasks.entry(name.clone()).or_default();
        let wrong = |why: &str| {
            ledger.violation(
                "one current attempt",
                format_args!("{} of {run} {name} #{number}: {why}", kind.as_str_name()),
            );
        };
        if task.ended.is_some() && task.fresh {
            wrong("the task has ended in this generation");
        }
        let live = task.live.as_ref().map(|(live, _)| *live);
        match kind {
            Kind::TaskAssigned => {
                if live.is_some() {
                    wrong("another attempt goes on");
                }
                if number <= task.last {
                    wrong("an attempt of this number was there before");
                }
                task.last = number;
                task.live = Some((number, event.worker.clone()));
                task.ended = None;
                task.retrying = false;
            }
            Kind::TaskStarted if live != Some(number) => wrong("it is not the one that goes on"),
            Kind::TaskFailed if number == 0 => {
                if live.is_some() {
                    wrong("an attempt goes on");
                }
                (task.ended, task.fresh) = (Some(kind), true);
            }
            Kind::TaskFailed | Kind::TaskLost | Kind::TaskTimedOut | Kind::TaskHandedBack => {
                if live != Some(number) {
                    wrong("it is not the one that goes on");
                }
                task.live = None;
                if event.task_ended {
                    (task.ended, task.fresh) = (Some(Kind::TaskFailed), true);
                }
            }
            Kind::TaskRetrying => task.retrying = true,
            Kind::TaskSucceeded => {
                if number == 0 {
                    if live.is_some() {
                        wrong("an attempt goes on");
                    }
                } else {
                    if live != Some(number) {
                        wrong("it is not the one that goes on");
                    }
                    check_success(run, event, ledger);
                }
                task.live = None;
                task.outputs = event
                    .outputs
                    .iter()
                    .map(|output| (output.name.clone(), output.artifact.clone().unwrap_or_default().digest))
                    .collect();
                (task.ended, task.fresh) = (Some(kind), true);
            }
            Kind::TaskCancelled => {
                if number > 0 && live != Some(number) {
                    wrong("it is not the one that goes on");
                }
                if number == 0 && live.is_some() {
                    wrong("an attempt goes on");
                }
                task.live = None;
                (task.ended, task.fresh) = (Some(kind), true);
            }
            Kind::TaskSkipped | Kind::TaskUpstreamFailed => {
                if live.is_some() {
                    wrong("an attempt goes on");
                }
                (task.ended, task.fresh) = (Some(kind), true);
            }
            _ => {}
        }
    }

    /// A task begins only when its rule holds over the ends of its needs.
    fn may_begin(&self, run: RunId, name: &str, shape: &Shape, ledger: &Ledger) {
        let Some((_, bound)) = shape.find(name) else {
            return ledger.violation("feed", format_args!("{run} has no task {name}"));
        };
        let plan = self.plan(run, ledger);
        let end_of = |need: &str| {
            let task = self.tasks.get(need)?;
            // What a rerun executes has to end again.
            let again = plan.as_ref().is_some_and(|plan| plan.get(need).copied().unwrap_or(false));
            task.ended.filter(|_| task.fresh || !again)
        };
        let early = |why: &str| {
            ledger.violation(
                "trigger rule",
                format_args!("{run} {name} begins in generation {}: {why}", self.generation),
            );
        };
        if bound.finally {
            let open = shape.tasks.iter().find(|task| !task.finally && end_of(&task.name).is_none());
            // Of what a rerun keeps there may be nothing to say.
            if let Some(open) = open.filter(|_| self.generation == 0) {
                early(&format!("it runs finally, and {} goes on", open.name));
            }
            return;
        }
        let ends: Vec<(&str, Option<Kind>)> =
            bound.needs.iter().map(|&need| &shape.tasks[need].name).map(|need| (need.as_str(), end_of(need))).collect();
        if let Some((need, _)) = ends.iter().find(|(_, end)| end.is_none()) {
            return early(&format!("{need} has not ended"));
        }
        let kinds = || ends.iter().filter_map(|(_, end)| *end);
        let holds = match bound.run_if {
            RunIf::AllSucceeded => kinds().all(|kind| kind == Kind::TaskSucceeded),
            RunIf::AnySucceeded => kinds().any(|kind| kind == Kind::TaskSucceeded),
            RunIf::AnyFailed => kinds().any(is_failure),
            RunIf::AllDone | RunIf::Always => true,
        };
        if !holds {
            early(&format!("{:?} does not hold over {ends:?}", bound.run_if));
        }
    }

    /// Gives the plan of the rerun that made this generation, if it is known.
    fn plan(&self, run: RunId, ledger: &Ledger) -> Option<BTreeMap<String, bool>> {
        let before = self.generation.checked_sub(1)?;
        let book = ledger.book();
        let asked = book.reruns.get(&run)?.iter().filter(|rerun| rerun.generation == before);
        let asked: Vec<_> = asked.collect();
        // Several that were asked for, and one that was done: only an acknowledged one says which.
        let done = asked.iter().find(|rerun| rerun.acked).or_else(|| asked.first().filter(|_| asked.len() == 1))?;
        Some(done.plan.iter().cloned().collect())
    }

    fn end(&mut self, run: RunId, kind: Kind, shape: Option<&Shape>, ledger: &Ledger) {
        self.ended = Some(kind);
        if let Some((name, task)) = self.tasks.iter().find(|(_, task)| task.live.is_some()) {
            let wrong = format!("{} of {run}, and {name} #{} goes on", kind.as_str_name(), task.last);
            ledger.violation("ended is ended", format_args!("{wrong}"));
        }
        let Some(shape) = shape else { return };
        for bound in &shape.tasks {
            let end = self.tasks.get(&bound.name).and_then(|task| task.ended);
            match (kind, end) {
                (_, None) if kind != Kind::RunSkipped => {
                    ledger.violation(
                        "ended is ended",
                        format_args!("{} of {run}, and {} has no end", kind.as_str_name(), bound.name),
                    );
                }
                (Kind::RunSucceeded, Some(end)) if is_failure(end) => {
                    ledger.violation(
                        "ended is ended",
                        format_args!("{run} succeeded although {} is {}", bound.name, end.as_str_name()),
                    );
                }
                _ => {}
            }
        }
    }
}

/// A success counts only if the worker of that very attempt reported it, with these outputs.
fn check_success(run: RunId, event: &v1::FeedEvent, ledger: &Ledger) {
    let outputs: Vec<(String, String)> = event
        .outputs
        .iter()
        .map(|output| (output.name.clone(), output.artifact.clone().unwrap_or_default().digest))
        .collect();
    let found = {
        let book = ledger.book();
        let of =
            |token: &Token| token.run == run && token.task.as_str() == event.task && token.attempt == event.attempt;
        book.reports
            .iter()
            .filter(|(token, _)| of(token))
            .any(|(_, report)| report.success && report.worker == event.worker && report.outputs == outputs)
    };
    // A fan-out has no attempt of its own.
    if !found {
        ledger.violation(
            "fencing",
            format_args!(
                "{run} {} #{} succeeded on {}, where nobody reported that",
                event.task, event.attempt, event.worker
            ),
        );
    }
}

/// After a cancel that was acknowledged, a run begins nothing but what runs always or finally.
fn cancelled_stays_cancelled(run: RunId, event: &v1::FeedEvent, shape: &Shape, ledger: &Ledger) {
    let spared = shape.find(&event.task).is_some_and(|(_, task)| task.finally || task.run_if == RunIf::Always);
    let late = {
        let book = ledger.book();
        let cancels = book.cancels.get(&run).map(Vec::as_slice).unwrap_or_default();
        cancels.iter().any(|cancel| {
            let whole = cancel.task.is_empty() && !spared;
            let this = cancel.task == event.task;
            (whole || this)
                && cancel.generation == event.generation
                && cancel.acked_at.is_some_and(|end| event.offset >= end)
        })
    };
    if late {
        ledger.violation(
            "cancelled is cancelled",
            format_args!("{run} {} #{} is assigned after the cancel was acknowledged", event.task, event.attempt),
        );
    }
}
