//! External inputs once more: whether an attempt that has succeeded read what was there at submission.
//!
//! The key of a committed result has the digests of files as they were when their run was submitted, and the worker reads
//! the files later. So they are digested again once the attempt has ended, off the actor, before its result is committed
//! to the cache. Where one has changed there is no result in the cache, and the lineage of the attempt says so. A file that
//! was changed and changed back in between is not noticed.
//!
//! The run does not wait for this; a coordinator that dies before it is done has one result less in its cache.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt as _, stream};
use segue_proto::{
    ids::RunId,
    store::v1::{CacheRecord, ChangedInputsRecord},
};
use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::external;
use crate::{
    core::{Core, Record, Run},
    store::{self, Batch, Committer, Key},
};

/// Attempts that may wait to be looked at; beyond, a result is not cached.
const QUEUE: usize = 16_384;
/// Attempts that are looked at together: each file is read once for all of them.
const GROUP: usize = 4_096;
/// Files that are digested at a time.
const AT_A_TIME: usize = 4;
/// How often a write is tried over a run that keeps changing.
const TRIES: usize = 32;
/// Files whose stamps are remembered.
const MOST_STAMPS: usize = 1_024;
/// A file that was changed less than this before it was digested may change again under the same stamp.
const FRESH_SECONDS: u64 = 3;

/// An attempt whose inputs are digested again.
#[derive(Debug)]
pub struct Check {
    run: RunId,
    task: u32,
    attempt: u32,
    /// Place to its digest at submission.
    inputs: BTreeMap<String, String>,
    /// What is committed to the cache if nothing has changed.
    result: Option<(String, CacheRecord)>,
}

/// Attempts of one commit that are to be looked at once it is flushed.
#[derive(Debug, Default)]
pub struct Checks(BTreeMap<(RunId, u32, u32), Check>);

impl Checks {
    /// Notes the attempt that a record is of, if it read external inputs whose digests are known.
    pub fn note(&mut self, record: &Record, core: &Core) {
        let (Record::Produced { run, task, attempt, cached: false, .. }
        | Record::Cached { run, task, attempt, .. }
        | Record::Models { run, task, attempt, .. }) = record
        else {
            return;
        };
        let place = (*run, *task, *attempt);
        let Some(run) = core.run(run).filter(|_| !self.0.contains_key(&place)) else { return };
        let inputs = inputs(run, *task);
        if !inputs.is_empty() {
            let check = Check { run: run.id, task: *task, attempt: *attempt, inputs, result: None };
            self.0.insert(place, check);
        }
    }

    /// Takes the result of an attempt that was noted; gives it back where it was not.
    pub fn hold(
        &mut self,
        attempt: (RunId, u32, u32),
        key: String,
        result: CacheRecord,
    ) -> Option<(String, CacheRecord)> {
        match self.0.get_mut(&attempt) {
            Some(check) => {
                check.result = Some((key, result));
                None
            }
            None => Some((key, result)),
        }
    }
}

/// Gives the external inputs of a task that can change, with their digests at submission.
fn inputs(run: &Run, task: u32) -> BTreeMap<String, String> {
    let Some(bound) = run.bound(task) else { return BTreeMap::new() };
    let places = bound.path_params.iter().filter_map(|param| bound.params.get(param)?.as_str());
    places
        .filter(|place| !external::is_upload(place))
        .filter_map(|place| Some((place.to_owned(), run.external_inputs.get(place)?.clone())))
        .collect()
}

/// The way to who digests again.
#[derive(Debug, Clone)]
pub struct Rereads {
    queue: mpsc::Sender<(Check, Held)>,
    unsettled: Unsettled,
}

impl Rereads {
    /// Gives the way there, and what arrives by it.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<(Check, Held)>) {
        let (queue, checks) = mpsc::channel(QUEUE);
        (Self { queue, unsettled: Unsettled::default() }, checks)
    }

    /// Gives what tells whether places are being looked at.
    #[must_use]
    pub fn unsettled(&self) -> Unsettled {
        self.unsettled.clone()
    }

    /// Has attempts looked at whose commit is flushed.
    pub fn look(&self, checks: Checks) {
        for check in checks.0.into_values() {
            let held = self.unsettled.hold(check.inputs.keys().cloned().collect());
            if let Err(refused) = self.queue.try_send((check, held)) {
                let (check, _) = refused.into_inner();
                warn!(run = %check.run, task = check.task, "too many inputs to digest again: result not cached");
            }
        }
    }
}

/// Places that are still to be looked at.
#[derive(Debug, Clone, Default)]
pub struct Unsettled(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// How many attempts wait for a place.
    places: Mutex<HashMap<String, usize>>,
    changed: Notify,
}

/// Places that wait as long as this lives.
#[derive(Debug)]
pub struct Held {
    places: Vec<String>,
    of: Arc<Waiting>,
}

impl Unsettled {
    fn hold(&self, places: Vec<String>) -> Held {
        let mut waiting = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &places {
            *waiting.entry(place.clone()).or_default() += 1;
        }
        drop(waiting);
        Held { places, of: Arc::clone(&self.0) }
    }

    /// Waits until none of these places is being looked at: a run that follows another one at once finds its results.
    pub async fn settled<'a>(&self, places: impl Iterator<Item = &'a String> + Clone) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Listening begins before the look, so that no end falls between the two.
            changed.as_mut().enable();
            if !self.any(places.clone()) {
                return;
            }
            changed.await;
        }
    }

    fn any<'a>(&self, mut places: impl Iterator<Item = &'a String>) -> bool {
        let waiting = self.0.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.any(|place| waiting.contains_key(place))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut waiting = self.of.places.lock().unwrap_or_else(PoisonError::into_inner);
        for place in &self.places {
            if let Some(count) = waiting.get_mut(place) {
                *count -= 1;
                if *count == 0 {
                    waiting.remove(place);
                }
            }
        }
        drop(waiting);
        self.of.changed.notify_waiters();
    }
}

/// Looks at what arrives until nobody is left who could send something: the last results of a coordinator that stops are
/// still committed.
pub async fn run(mut checks: mpsc::Receiver<(Check, Held)>, committer: Committer) {
    let mut group = Vec::new();
    let mut stamps = Stamps::default();
    while checks.recv_many(&mut group, GROUP).await > 0 {
        let places: BTreeSet<String> = group.iter().flat_map(|(check, _)| check.inputs.keys().cloned()).collect();
        let now = stamps.digests(places).await;
        let mut of_run: BTreeMap<RunId, Vec<(Check, Held)>> = BTreeMap::new();
        for (check, held) in group.drain(..) {
            of_run.entry(check.run).or_default().push((check, held));
        }
        for (run, checks) in of_run {
            let (committer, now) = (committer.clone(), Arc::clone(&now));
            let written = tokio::task::spawn_blocking(move || {
                let (checks, _held): (Vec<Check>, Vec<Held>) = checks.into_iter().unzip();
                write(&committer, &run, &checks, &now)
            });
            match written.await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => warn!(%run, error = %e, "results with external inputs not cached"),
                Err(e) => warn!(%run, error = %e, "results with external inputs not cached"),
            }
        }
    }
}

/// Commits what is known now of attempts of a run, if the run is still there.
fn write(
    committer: &Committer,
    run: &RunId,
    checks: &[Check],
    now: &BTreeMap<String, String>,
) -> Result<(), store::Error> {
    let key = Key::Run(*run);
    let mut tries = 0;
    loop {
        let record = committer.store().get(&key.encode())?;
        if record.is_none() {
            return Ok(());
        }
        let mut batch = Batch::new();
        // A run that is collected meanwhile takes everything of it along.
        batch.require_unchanged(&key, record);
        checks.iter().for_each(|check| check.outcome(now, &mut batch));
        tries += 1;
        match committer.commit_blocking(batch) {
            Err(store::Error::Conflict { .. }) if tries < TRIES => {}
            done => return done,
        }
    }
}

impl Check {
    fn outcome(&self, now: &BTreeMap<String, String>, batch: &mut Batch) {
        let after = |place: &String| now.get(place).cloned().unwrap_or_default();
        let changed = self.inputs.iter().filter(|(place, before)| after(place) != **before);
        let digests: BTreeMap<String, String> = changed.map(|(place, _)| (place.clone(), after(place))).collect();
        if !digests.is_empty() {
            let (run, task, attempt) = (self.run, self.task, self.attempt);
            info!(%run, task, attempt, ?digests, "an input changed before the attempt had ended: result not cached");
            batch.put(&Key::ChangedInputs { run, task, attempt }, &ChangedInputsRecord { digests });
        } else if let Some((key, result)) = &self.result {
            batch.put(&Key::Cache(key.clone()), result);
        }
    }
}

/// Digests of local files that need not be read again: by what the file system says, they are as they were.
#[derive(Debug, Default)]
struct Stamps(HashMap<String, (Stamp, String)>);

/// What the file system says of a file; the time of its last change cannot be set by programs.
type Stamp = (u64, u64, u64, i64, i64);

impl Stamps {
    /// Gives the digests of places as they are now; one that cannot be read is left out.
    async fn digests(&mut self, places: BTreeSet<String>) -> Arc<BTreeMap<String, String>> {
        let mut now = BTreeMap::new();
        let mut unknown = Vec::new();
        for place in places {
            let stamp = stamp(&place).await;
            match self.0.get(&place).filter(|(known, _)| stamp.as_ref() == Some(known)) {
                Some((_, digest)) => drop(now.insert(place, digest.clone())),
                None => unknown.push((place, stamp.filter(is_settled))),
            }
        }
        let read = stream::iter(unknown).map(|(place, stamp)| async move {
            let digest = external::digest(&place).await;
            (place, stamp, digest)
        });
        let mut read = std::pin::pin!(read.buffer_unordered(AT_A_TIME));
        while let Some((place, stamp, digest)) = read.next().await {
            let Ok(digest) = digest else { continue };
            if let Some(stamp) = stamp {
                if self.0.len() >= MOST_STAMPS {
                    self.0.clear();
                }
                self.0.insert(place.clone(), (stamp, digest.to_string()));
            }
            now.insert(place, digest.to_string());
        }
        Arc::new(now)
    }
}

async fn stamp(place: &str) -> Option<Stamp> {
    let path = external::local_path(place)?;
    tokio::task::spawn_blocking(move || stamp_of(&path)).await.ok()?
}

#[cfg(unix)]
fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let about = std::fs::metadata(path).ok()?;
    Some((about.dev(), about.ino(), about.len(), about.ctime(), about.ctime_nsec()))
}

#[cfg(not(unix))]
fn stamp_of(_: &Path) -> Option<Stamp> {
    None
}

fn is_settled((_, _, _, changed, _): &Stamp) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    u64::try_from(*changed).is_ok_and(|changed| changed.saturating_add(FRESH_SECONDS) < now)
}

#[cfg(test)]
#[path = "reread_tests.rs"]
mod tests;
