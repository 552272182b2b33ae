//! Placement: a pure choice of a worker for one ready task.
//!
//! Wanted properties, tested below: never over capacity; equal input, equal answer; nothing stays unplaced that would
//! still fit; GPU workers are kept for GPU work while there is any.

use std::{cmp::Reverse, collections::BTreeMap};

use segue_proto::resources::{GpuPreference, Resources};

use super::WorkerKey;
use crate::spec::{ResourceRequest, Work};

/// A worker with what its leases leave free.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub key: &'a WorkerKey,
    pub capacity: &'a Resources,
    pub free: Resources,
    pub labels: &'a BTreeMap<String, String>,
    /// Says whether it offers this operator in this version.
    pub offers: bool,
    /// Bytes of the task's inputs that it made and so holds in its cache.
    pub local_bytes: u64,
}

/// Why a task cannot be placed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unplaced {
    /// No worker is connected.
    NoWorkers,
    /// No connected worker offers the operator in the pinned version.
    NoOperator,
    /// No connected worker has the labels.
    NoLabels,
    /// No connected worker is large enough, even when idle.
    TooLarge,
    /// Workers that could take it are busy.
    Busy,
}

impl Unplaced {
    /// Says it in a few words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoWorkers => "no worker connected",
            Self::NoOperator => "no worker offers the operator",
            Self::NoLabels => "no worker has the labels",
            Self::TooLarge => "no worker is large enough",
            Self::Busy => "workers are busy",
        }
    }
}

/// Chooses a worker for a task, and says what the lease reserves there.
///
/// The tightest fit wins, workers without GPUs first for work without GPUs; workers that hold more of the inputs win
/// ties, then the smaller name, so that equal inputs give equal answers. `gpu_work_open` says whether any unfinished
/// task wants a GPU: while one does, work that needs none stays off GPU workers unless no other worker could ever take it.
///
/// # Errors
/// The reason why no worker can take it now.
pub fn choose<'a>(
    request: &ResourceRequest,
    candidates: &[Candidate<'a>],
    gpu_work_open: bool,
) -> Result<(&'a WorkerKey, Resources), Unplaced> {
    if candidates.is_empty() {
        return Err(Unplaced::NoWorkers);
    }
    let offering: Vec<&Candidate<'a>> = candidates.iter().filter(|candidate| candidate.offers).collect();
    if offering.is_empty() {
        return Err(Unplaced::NoOperator);
    }
    let labelled: Vec<&Candidate<'a>> =
        offering.into_iter().filter(|candidate| has_labels(candidate, request)).collect();
    if labelled.is_empty() {
        return Err(Unplaced::NoLabels);
    }
    let (needs, pool) = pool(request, &labelled, gpu_work_open);
    if pool.is_empty() {
        return Err(Unplaced::TooLarge);
    }
    pool.into_iter()
        .filter(|candidate| candidate.free.fits(&needs))
        .min_by_key(|candidate| {
            (
                needs.gpu_milli == 0 && candidate.capacity.gpu_milli > 0,
                candidate.free.cpu_milli - needs.cpu_milli,
                Reverse(candidate.local_bytes),
                candidate.free.memory_bytes - needs.memory_bytes,
                candidate.key,
            )
        })
        .map(|candidate| (candidate.key, needs.clone()))
        .ok_or(Unplaced::Busy)
}

/// Gives the workers that could take the task when idle, and what it needs there.
fn pool<'a, 'b>(
    request: &ResourceRequest,
    workers: &[&'b Candidate<'a>],
    gpu_work_open: bool,
) -> (Resources, Vec<&'b Candidate<'a>>) {
    let able = |needs: &Resources| -> Vec<&'b Candidate<'a>> {
        workers.iter().copied().filter(|candidate| candidate.capacity.fits(needs)).collect()
    };
    let plain = request.amounts.clone();
    match request.gpu {
        GpuPreference::Require => {
            let pool = able(&plain);
            (plain, pool)
        }
        GpuPreference::Prefer => {
            let with_gpu = Resources { gpu_milli: plain.gpu_milli.max(1_000), ..plain.clone() };
            let pool = able(&with_gpu);
            if pool.is_empty() {
                let pool = able(&plain);
                (plain, pool)
            } else {
                (with_gpu, pool)
            }
        }
        GpuPreference::None => {
            let pool = able(&plain);
            let without: Vec<_> = pool.iter().copied().filter(|candidate| candidate.capacity.gpu_milli == 0).collect();
            let keep_free = gpu_work_open && !without.is_empty();
            (plain, if keep_free { without } else { pool })
        }
    }
}

fn has_labels(candidate: &Candidate<'_>, request: &ResourceRequest) -> bool {
    request.labels.iter().all(|(name, value)| candidate.labels.get(name) == Some(value))
}

/// Says whether a worker that advertises `operators` can do `work`. Commands need no operator.
#[must_use]
pub fn offers(operators: &std::collections::BTreeSet<(String, String)>, work: &Work) -> bool {
    match work {
        Work::Command { .. } => true,
        Work::Sensor { .. } => false,
        Work::Operator { name, version, .. } => operators.contains(&(name.clone(), version.clone())),
    }
}
