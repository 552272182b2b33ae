//! Placement: a pure choice of a worker for one ready task.
//!
//! Wanted properties, tested below: never over capacity, on no device either; equal input, equal answer; nothing stays
//! unplaced that would still fit into what the free room is said to be; GPU workers are kept for GPU work while there is
//! any. What of the free room is kept for tasks that have waited too long, [`super::Kept`] says.

use std::{cmp::Reverse, collections::BTreeMap};

use segue_proto::resources::{Gpu, GpuPreference, Resources, WHOLE_GPU};

use super::WorkerKey;
use crate::spec::{ResourceRequest, Work};

/// A worker as one class of tasks sees it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    pub key: &'a WorkerKey,
    pub capacity: &'a Resources,
    pub gpus: &'a [Gpu],
    pub labels: &'a BTreeMap<String, String>,
    /// Says whether it offers this operator in this version.
    pub offers: bool,
}

/// What the leases of a worker leave free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Free {
    pub amounts: Resources,
    /// One for each GPU, in their order.
    pub devices: Vec<FreeDevice>,
}

/// What is left of a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeDevice {
    pub index: u32,
    pub milli: u32,
    pub memory_bytes: u64,
}

/// Why a task cannot be placed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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
    /// A worker has room, and keeps it for a task that has waited too long and stands before this one.
    Kept,
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
            Self::Kept => "room is kept for tasks that wait for longer",
        }
    }
}

/// One way of taking a class of tasks: what it needs, and which candidates could give it when idle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    pub needs: Resources,
    /// Positions among the candidates.
    pub able: Vec<usize>,
}

/// Gives the ways in which a request can be met by these workers when they are idle, best first.
///
/// `gpu_work_open` says whether any unfinished task wants a GPU: while one does, work that needs none stays off GPU
/// workers unless no other worker could ever take it.
///
/// # Errors
/// The reason why no worker can ever take it.
pub fn ways(request: &ResourceRequest, workers: &[Candidate<'_>], gpu_work_open: bool) -> Result<Vec<Way>, Unplaced> {
    if workers.is_empty() {
        return Err(Unplaced::NoWorkers);
    }
    let offering: Vec<usize> = (0..workers.len()).filter(|&at| workers[at].offers).collect();
    if offering.is_empty() {
        return Err(Unplaced::NoOperator);
    }
    let labelled: Vec<usize> = offering.into_iter().filter(|&at| has_labels(&workers[at], request)).collect();
    if labelled.is_empty() {
        return Err(Unplaced::NoLabels);
    }
    let able = |needs: &Resources| -> Vec<usize> {
        labelled.iter().copied().filter(|&at| can_ever(&workers[at], needs)).collect()
    };
    let mut found = Vec::new();
    let mut add = |needs: Resources| {
        let mut able = able(&needs);
        if needs.gpu_milli == 0 && gpu_work_open {
            let without: Vec<usize> = able.iter().copied().filter(|&at| workers[at].capacity.gpu_milli == 0).collect();
            if !without.is_empty() {
                able = without;
            }
        }
        if !able.is_empty() {
            found.push(Way { needs, able });
        }
    };
    match request.gpu {
        GpuPreference::Prefer => {
            let with_gpu = Resources { gpu_milli: request.amounts.gpu_milli.max(WHOLE_GPU), ..request.amounts.clone() };
            add(with_gpu);
            // A GPU that is only busy is waited for: the fallback is for where there is none.
            if found.is_empty() {
                found.extend(
                    Some(Way { able: able(&request.amounts), needs: request.amounts.clone() })
                        .filter(|way| !way.able.is_empty()),
                );
            }
        }
        GpuPreference::Require | GpuPreference::None => add(request.amounts.clone()),
    }
    for needs in &request.alternatives {
        let mut able = able(needs);
        if needs.gpu_milli == 0 && gpu_work_open {
            let without: Vec<usize> = able.iter().copied().filter(|&at| workers[at].capacity.gpu_milli == 0).collect();
            if !without.is_empty() {
                able = without;
            }
        }
        if !able.is_empty() {
            found.push(Way { needs: needs.clone(), able });
        }
    }
    if found.is_empty() { Err(Unplaced::TooLarge) } else { Ok(found) }
}

/// Chooses a worker that has room now, and says what the lease reserves there, devices included.
///
/// The first way that finds room wins; in it the tightest fit, workers without GPUs first for work without GPUs;
/// workers that hold more of the inputs win ties (`local` gives those bytes by position), then the smaller name, so
/// that equal inputs give equal answers.
#[must_use]
pub fn pick(
    ways: &[Way],
    workers: &[Candidate<'_>],
    free: &[Free],
    local: impl Fn(usize) -> u64,
) -> Option<(usize, Resources)> {
    ways.iter().find_map(|way| {
        let needs = &way.needs;
        way.able
            .iter()
            .copied()
            .filter(|&at| free[at].amounts.fits(needs))
            .filter_map(|at| Some((at, devices(&free[at].devices, needs)?)))
            .min_by_key(|(at, _)| {
                let (worker, free) = (&workers[*at], &free[*at]);
                (
                    needs.gpu_milli == 0 && worker.capacity.gpu_milli > 0,
                    free.amounts.cpu_milli - needs.cpu_milli,
                    Reverse(local(*at)),
                    free.amounts.memory_bytes - needs.memory_bytes,
                    worker.key,
                )
            })
            .map(|(at, devices)| (at, Resources { devices, ..needs.clone() }))
    })
}

/// Chooses a worker for a task: [`ways`] and [`pick`] in one.
///
/// # Errors
/// The reason why no worker can take it now.
pub fn choose(
    request: &ResourceRequest,
    workers: &[Candidate<'_>],
    free: &[Free],
    gpu_work_open: bool,
) -> Result<(usize, Resources), Unplaced> {
    pick(&ways(request, workers, gpu_work_open)?, workers, free, |_| 0).ok_or(Unplaced::Busy)
}

/// Chooses the worker to be kept for a task that finds room on none: the one that lacks the least of what it needs. Says
/// what is kept there, devices included.
#[must_use]
pub fn keep(ways: &[Way], workers: &[Candidate<'_>], free: &[Free]) -> Option<(usize, Resources)> {
    let all = ways.iter().flat_map(|way| way.able.iter().map(move |&at| (&way.needs, at)));
    all.map(|(needs, at)| {
        let (lacks, devices) = lacking(needs, &workers[at], &free[at]);
        (lacks, at, Resources { devices, ..needs.clone() })
    })
    .min_by_key(|(lacks, at, _)| (*lacks, workers[*at].key))
    .map(|(_, at, needs)| (at, needs))
}

/// Adds up how much of each need is not free, in thousandths of it, and chooses the devices that lack the least. It never
/// grows while a worker is only given back what it runs.
fn lacking(needs: &Resources, worker: &Candidate<'_>, free: &Free) -> (u64, Vec<u32>) {
    let lacks = |need: u64, have: u64| match need {
        0 => 0,
        need => need.saturating_sub(have).saturating_mul(1_000).div_ceil(need),
    };
    let custom =
        needs.custom.iter().map(|(name, need)| lacks(*need, free.amounts.custom.get(name).copied().unwrap_or(0)));
    let amounts = lacks(needs.cpu_milli.into(), free.amounts.cpu_milli.into())
        .saturating_add(lacks(needs.memory_bytes, free.amounts.memory_bytes))
        .saturating_add(custom.fold(0, u64::saturating_add));
    if needs.gpu_milli == 0 {
        return (amounts, Vec::new());
    }
    let (each, wanted) = parts(needs);
    let large =
        |index: u32| worker.gpus.iter().any(|gpu| gpu.index == index && gpu.memory_bytes >= needs.gpu_memory_bytes);
    let mut devices: Vec<(u64, u32)> = free
        .devices
        .iter()
        .filter(|device| large(device.index))
        .map(|device| {
            let milli = lacks(each.into(), device.milli.into());
            (milli.saturating_add(lacks(needs.gpu_memory_bytes, device.memory_bytes)), device.index)
        })
        .collect();
    devices.sort_unstable();
    devices.truncate(wanted);
    let lacks = devices.iter().fold(amounts, |sum, (lacks, _)| sum.saturating_add(*lacks));
    let mut chosen: Vec<u32> = devices.into_iter().map(|(_, index)| index).collect();
    chosen.sort_unstable();
    (lacks, chosen)
}

/// Says how much of a device is needed, and of how many of them.
const fn parts(needs: &Resources) -> (u32, usize) {
    if needs.gpu_milli < WHOLE_GPU { (needs.gpu_milli, 1) } else { (WHOLE_GPU, (needs.gpu_milli / WHOLE_GPU) as usize) }
}

/// Chooses devices: for a share the fullest one that still has room, for whole ones the smallest memory that will do.
/// `None` where there are not enough.
fn devices(free: &[FreeDevice], needs: &Resources) -> Option<Vec<u32>> {
    if needs.gpu_milli == 0 {
        return Some(Vec::new());
    }
    let (each, wanted) = parts(needs);
    let mut fitting: Vec<&FreeDevice> =
        free.iter().filter(|device| device.milli >= each && device.memory_bytes >= needs.gpu_memory_bytes).collect();
    if fitting.len() < wanted {
        return None;
    }
    fitting.sort_unstable_by_key(|device| (device.milli, device.memory_bytes, device.index));
    let mut chosen: Vec<u32> = fitting[..wanted].iter().map(|device| device.index).collect();
    chosen.sort_unstable();
    Some(chosen)
}

/// Says whether a worker could take it when idle.
fn can_ever(worker: &Candidate<'_>, needs: &Resources) -> bool {
    worker.capacity.fits(needs) && devices(&idle(worker.gpus), needs).is_some()
}

/// Gives the devices of an idle worker.
#[must_use]
pub fn idle(gpus: &[Gpu]) -> Vec<FreeDevice> {
    gpus.iter().map(|gpu| FreeDevice { index: gpu.index, milli: WHOLE_GPU, memory_bytes: gpu.memory_bytes }).collect()
}

impl Free {
    /// Takes what a lease reserves. The caller has made sure that it fits; what does not is taken as far as it goes.
    pub fn take(&mut self, reserved: &Resources) {
        let left = |have: u64, take: u64| have.saturating_sub(take);
        self.amounts.cpu_milli = self.amounts.cpu_milli.saturating_sub(reserved.cpu_milli);
        self.amounts.memory_bytes = left(self.amounts.memory_bytes, reserved.memory_bytes);
        self.amounts.gpu_milli = self.amounts.gpu_milli.saturating_sub(reserved.gpu_milli);
        for (name, amount) in &reserved.custom {
            if let Some(have) = self.amounts.custom.get_mut(name) {
                *have = left(*have, *amount);
            }
        }
        for device in self.devices.iter_mut().filter(|device| reserved.devices.contains(&device.index)) {
            device.milli = device.milli.saturating_sub(reserved.gpu_milli.min(WHOLE_GPU));
            // A whole device takes its memory along: nobody else gets a share of it.
            device.memory_bytes =
                if reserved.gpu_milli >= WHOLE_GPU { 0 } else { left(device.memory_bytes, reserved.gpu_memory_bytes) };
        }
    }
}

fn has_labels(candidate: &Candidate<'_>, request: &ResourceRequest) -> bool {
    request.labels.iter().all(|(name, value)| candidate.labels.get(name) == Some(value))
        && request.not_labels.iter().all(|(name, unwanted)| {
            candidate.labels.get(name).is_none_or(|value| !unwanted.is_empty() && value != unwanted)
        })
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
