//! `LogService`: logs of attempts, whole or followed.

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::Pin,
    time::Duration,
};

use futures::Stream;
use segue_proto::{
    ids::{RunId, Token},
    v1::{self, log_service_server::LogService},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::Shared;
use crate::{
    core::{Core, FIRST_CHILD, Run, UnixMillis},
    server::{error::Error, find::resolve, records},
};

/// Implements the service.
#[derive(Debug, Clone)]
pub struct LogsApi(pub Shared);

/// A follower looks again after this long when no change of the run told it to: log bytes alone change no state.
const FOLLOW: Duration = Duration::from_millis(200);

/// The same for a follower of a large run or fan-out.
const FOLLOW_LARGE: Duration = Duration::from_secs(1);

/// Tasks that one read of the core goes over. A follower of a million children looks in many steps, between which others
/// have their turn.
const SLICE: usize = 10_000;

/// An attempt whose log is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source {
    index: u32,
    attempt: u32,
    assigned_at: UnixMillis,
    /// Whether it may still grow.
    live: bool,
    /// What its worker has said of its length, once it has ended.
    bytes: u64,
    /// Left out where the reader has it from an earlier look: a million names are not made again at each look.
    token: Option<Token>,
}

/// What one look, or one step of it, has found.
#[derive(Debug, Default)]
struct Look {
    sources: Vec<Source>,
    /// Tasks gone over.
    seen: usize,
    /// Where the next step begins; absent: this was the last one.
    next: Option<usize>,
    /// Whether the run has ended.
    ended: bool,
}

/// How far the log of an attempt is read.
#[derive(Debug)]
struct Reading {
    token: Token,
    offset: u64,
    /// Read to its end after the attempt had ended. What comes later yet, after a worker's reconnect, is read when the run
    /// ends.
    done: bool,
}

#[tonic::async_trait]
impl LogService for LogsApi {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<v1::ReadLogsResponse, Status>> + Send>>;

    async fn read(&self, request: Request<v1::ReadLogsRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let reference = request.run_id.clone();
        let id = self.0.blocking(move |shared| resolve(&*shared.store, &reference)).await?;
        let began = self.0.clock.now();
        let first = look(&self.0, &id, &request, 0).await?;
        if first.sources.is_empty() && !request.task.is_empty() && !request.follow {
            return Err(Status::not_found(format!("task `{}` of run `{id}` has no such attempt", request.task)));
        }
        let (sender, receiver) = mpsc::channel(16);
        let shared = self.0.clone();
        tokio::spawn(async move {
            if let Err(e) = stream(&shared, &id, &request, (first, began), &sender).await {
                let _ = sender.send(Err(e.into())).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Sends what the logs have, again and again where they are followed. `first` is the first look and when it began.
async fn stream(
    shared: &Shared,
    id: &RunId,
    request: &v1::ReadLogsRequest,
    first: (Look, UnixMillis),
    sender: &mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
) -> Result<(), Error> {
    let mut readings: HashMap<(u32, u32), Reading> = HashMap::new();
    let (mut seen, mut began) = first;
    loop {
        let live = seen.sources.iter().any(|source| source.live);
        for source in seen.sources {
            let place = (source.index, source.attempt);
            let reading = match (readings.entry(place), source.token) {
                (Entry::Occupied(known), _) => known.into_mut(),
                (Entry::Vacant(free), Some(token)) => free.insert(Reading { token, offset: 0, done: false }),
                (Entry::Vacant(_), None) => continue,
            };
            if reading.done && !seen.ended {
                continue;
            }
            if !read_on(shared, reading, sender).await? {
                return Ok(());
            }
            reading.done = !source.live;
            // Nothing comes any more: what its worker has sent and this coordinator could not keep is a gap too.
            if !source.live && (seen.ended || !request.follow) && !tell_missing(reading, source.bytes, sender).await {
                return Ok(());
            }
        }
        if !request.follow || (seen.ended && !live) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(if seen.seen > SLICE { FOLLOW_LARGE } else { FOLLOW }) => {}
            () = sender.closed() => return Ok(()),
            () = shared.stop.cancelled() => return Ok(()),
        }
        // Whatever the last look has missed was given out after it began.
        let since = began;
        began = shared.clock.now();
        seen = look(shared, id, request, since).await?;
    }
}

/// Sends what a log has beyond what was sent. Says whether somebody still listens.
async fn read_on(
    shared: &Shared,
    reading: &mut Reading,
    sender: &mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
) -> Result<bool, Error> {
    loop {
        let (logs, token, from) = (shared.logs.clone(), reading.token.clone(), reading.offset);
        let read = move || logs.read(&token.run, &token.task, token.attempt, from, segue_proto::CHUNK_BYTES);
        let piece = shared.offload.run("a log read", read).await??;
        let Some(piece) = piece else { return Ok(true) };
        reading.offset = piece.next();
        let response = v1::ReadLogsResponse {
            task: reading.token.task.to_string(),
            attempt: reading.token.attempt,
            offset: piece.offset,
            data: piece.data,
            lost_before: piece.lost_before,
        };
        if sender.send(Ok(response)).await.is_err() {
            return Ok(false);
        }
    }
}

/// Says how many bytes are missing at the end of a log. Says whether somebody still listens.
async fn tell_missing(
    reading: &mut Reading,
    bytes: u64,
    sender: &mpsc::Sender<Result<v1::ReadLogsResponse, Status>>,
) -> bool {
    let Some(lost_before) = bytes.checked_sub(reading.offset).filter(|missing| *missing > 0) else { return true };
    reading.offset = bytes;
    let (task, attempt) = (reading.token.task.to_string(), reading.token.attempt);
    let data = bytes::Bytes::new();
    sender.send(Ok(v1::ReadLogsResponse { task, attempt, offset: bytes, data, lost_before })).await.is_ok()
}

/// Finds the attempts that the request means, in the order of their start. Those that were given out before `since` come
/// without their names.
async fn look(shared: &Shared, id: &RunId, request: &v1::ReadLogsRequest, since: UnixMillis) -> Result<Look, Error> {
    let id = *id;
    let mut whole = Look::default();
    loop {
        let (task, attempt, from) = (request.task.clone(), request.attempt, whole.seen);
        let step = move |core: &Core| core.run(&id).map(|run| step(run, &task, attempt, from, since));
        match shared.handle.read(step).await? {
            Some(step) => {
                let step = step?;
                whole.sources.extend(step.sources);
                (whole.seen, whole.next, whole.ended) = (step.seen, step.next, step.ended);
            }
            // Not active, or not any more: all of it is in the store.
            None => {
                let (task, attempt) = (request.task.clone(), request.attempt);
                whole = shared.blocking(move |shared| stored(shared, &id, &task, attempt)).await?;
            }
        }
        if whole.next.is_none() {
            whole.sources.sort_by_key(|source| (source.assigned_at, source.index));
            return Ok(whole);
        }
    }
}

fn stored(shared: &Shared, id: &RunId, task: &str, attempt: u32) -> Result<Look, Error> {
    let run = records::load_run(&*shared.store, id)?.ok_or_else(|| Error::NoSuchRun(id.to_string()))?;
    let mut whole = Look::default();
    loop {
        let step = step(&run, task, attempt, whole.seen, 0)?;
        whole.sources.extend(step.sources);
        (whole.seen, whole.next, whole.ended) = (step.seen, step.next, step.ended);
        if whole.next.is_none() {
            return Ok(whole);
        }
    }
}

/// Goes over the next tasks that a name means, from the one at `from` on.
fn step(run: &Run, task: &str, attempt: u32, from: usize, since: UnixMillis) -> Result<Look, Error> {
    let meant = Meant::by(run, task)?;
    let end = meant.len(run).min(from.saturating_add(SLICE));
    let mut sources = Vec::new();
    for index in (from..end).filter_map(|at| meant.at(run, at)) {
        let Some(entry) = run.task(index) else { continue };
        let chosen = match attempt {
            0 => entry.attempts.last(),
            number => entry.attempts.iter().find(|attempt| attempt.number == number),
        };
        let Some(chosen) = chosen else { continue };
        let name = if chosen.assigned_at >= since { run.name_of(index) } else { None };
        let (attempt, epoch) = (chosen.number, chosen.epoch);
        sources.push(Source {
            index,
            attempt,
            assigned_at: chosen.assigned_at,
            live: entry.state.live().is_some_and(|live| live.attempt == attempt),
            bytes: chosen.log_bytes,
            token: name.map(|task| Token { run: run.id, index, task, attempt, epoch }),
        });
    }
    let next = (end < meant.len(run)).then_some(end);
    Ok(Look { sources, seen: end, next, ended: run.state.is_terminal() })
}

/// The tasks whose logs are meant, found without going over the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meant {
    All,
    One(u32),
    /// A fan-out stands for all of its children.
    FanOut(u32),
}

impl Meant {
    fn by(run: &Run, task: &str) -> Result<Self, Error> {
        if task.is_empty() {
            return Ok(Self::All);
        }
        let Some(index) = run.find(task) else {
            let known: Vec<&str> = run.spec.tasks.iter().map(|task| task.name.as_str()).collect();
            let hint =
                crate::spec::nearest(task, known).map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
            return Err(Error::NotFound(format!("run `{}` has no task `{task}`{hint}", run.id)));
        };
        Ok(if run.groups.contains_key(&index) { Self::FanOut(index) } else { Self::One(index) })
    }

    fn len(self, run: &Run) -> usize {
        match self {
            Self::All => run.tasks.len() + run.children.len(),
            Self::One(_) => 1,
            Self::FanOut(node) => 1 + run.groups.get(&node).map_or(0, |group| group.members.len()),
        }
    }

    /// Gives the index of the task at a place among them.
    fn at(self, run: &Run, place: usize) -> Option<u32> {
        match self {
            Self::All => match place.checked_sub(run.tasks.len()) {
                None => u32::try_from(place).ok(),
                Some(child) => FIRST_CHILD.checked_add(u32::try_from(child).ok()?),
            },
            Self::One(index) => Some(index),
            Self::FanOut(node) => match place.checked_sub(1) {
                None => Some(node),
                Some(child) => run.groups.get(&node)?.members.get(child).copied(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::core::tests::support::{Bench, each, task};

    /// Takes all steps of a look; gives what they found and how many there were.
    fn all(run: &Run, task: &str, attempt: u32, since: UnixMillis) -> (Vec<Source>, usize) {
        let (mut found, mut from, mut steps) = (Vec::new(), 0, 0);
        loop {
            let look = step(run, task, attempt, from, since).unwrap();
            assert!(look.seen - from <= SLICE, "one step holds nobody up");
            found.extend(look.sources);
            steps += 1;
            match look.next {
                Some(next) => from = next,
                None => return (found, steps),
            }
        }
    }

    fn names(found: &[Source]) -> Vec<String> {
        found.iter().map(|source| source.token.as_ref().map_or_else(String::new, |t| t.task.to_string())).collect()
    }

    #[test]
    fn a_name_means_a_task_a_child_or_a_fan_out_with_its_children_and_nothing_else_is_gone_over() {
        let mut bench = Bench::new();
        bench.worker("large", 16);
        let id =
            bench.submit(1, vec![task("load", &[]), each("fan", &[], &["a", "b", "c"]), each("other", &[], &["x"])]);
        let run = bench.core.run(&id).unwrap();
        assert_eq!(names(&all(run, "load", 0, 0).0), ["load"]);
        assert_eq!(names(&all(run, "fan", 0, 0).0), ["fan[a]", "fan[b]", "fan[c]"]);
        assert_eq!(names(&all(run, "fan[b]", 0, 0).0), ["fan[b]"]);
        assert_eq!(all(run, "", 0, 0).0.len(), 5);
        assert_eq!(all(run, "fan", 2, 0).0, [], "nothing has a second attempt");
        assert_eq!(step(run, "load", 0, 0, 0).unwrap().seen, 1);
        assert_eq!(step(run, "fan", 0, 0, 0).unwrap().seen, 4);
        let error = step(run, "lod", 0, 0, 0).unwrap_err();
        assert!(error.to_string().contains("did you mean `load`?"), "{error}");
    }

    #[test]
    fn a_large_fan_out_is_gone_over_in_steps_and_what_was_seen_is_not_named_again() {
        let mut bench = Bench::new();
        bench.looks_closely = false;
        let items: Vec<String> = (0..SLICE + 5).map(|n| n.to_string()).collect();
        let items: Vec<&str> = items.iter().map(String::as_str).collect();
        bench.worker("small", 2);
        let id = bench.submit(1, vec![each("fan", &[], &items)]);
        let first_at = bench.now;
        bench.now += 1;
        bench.worker("late", 1);
        let run = bench.core.run(&id).unwrap();
        let (found, steps) = all(run, "fan", 0, 0);
        assert_eq!((found.len(), steps), (3, 2));
        assert!(found.iter().all(|source| source.token.is_some() && source.live));
        let later = all(run, "fan", 0, first_at + 1).0;
        assert_eq!(later.iter().filter(|source| source.token.is_some()).count(), 1, "the new one alone");
    }
}
