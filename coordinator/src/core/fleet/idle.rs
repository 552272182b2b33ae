//! Why a worker is idle, and which workers a task misses because they are held back. By code, as reasons of tasks are.

use crate::{
    core::{
        Core, Worker,
        explain::Reason,
        placement::{self, Candidate, Unplaced},
    },
    spec::{BoundTask, ResourceRequest, Work},
};

/// Why a connected worker runs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// Nothing waits for a worker.
    NoWork,
    /// What waits wants something else.
    NothingFits,
    Cordoned,
    Draining,
    /// It has a GPU, and is kept for the GPU work of a run that goes on.
    KeptForGpu,
}

impl Idle {
    /// Gives the code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoWork => "no_work",
            Self::NothingFits => "nothing_fits",
            Self::Cordoned => "cordoned",
            Self::Draining => "draining",
            Self::KeptForGpu => "kept_for_gpu",
        }
    }

    /// Says it for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::NoWork => "nothing waits for a worker",
            Self::NothingFits => "what waits wants another operator, other labels, or more than it has",
            Self::Cordoned => "cordoned: it takes no new work",
            Self::Draining => "told to drain: it ends",
            Self::KeptForGpu => "kept for GPU work that is still to come; what waits needs no GPU",
        }
    }
}

impl Core {
    /// Says why a worker is idle; `None` where it has work or is not connected.
    #[must_use]
    pub fn idle(&self, worker: &Worker) -> Option<Idle> {
        if worker.link.is_none() || !worker.is_idle() {
            return None;
        }
        if worker.draining {
            return Some(Idle::Draining);
        }
        if worker.cordoned {
            return Some(Idle::Cordoned);
        }
        let mut why = Idle::NoWork;
        // What a pool or a limit holds back waits for no worker.
        for class in self.queue.open(&self.pools) {
            why = Idle::NothingFits;
            let kept = worker.capacity.gpu_milli > 0 && self.gpu_work_open() && class.request.amounts.gpu_milli == 0;
            if kept && !class.wants_gpu() && could_take(worker, &class.work, &class.request) {
                return Some(Idle::KeptForGpu);
            }
        }
        Some(why)
    }
}

/// Shows a worker as placement would see it if it were the only one.
pub(super) fn alone<'w>(worker: &'w Worker, work: &Work) -> Candidate<'w> {
    Candidate {
        key: &worker.key,
        capacity: &worker.capacity,
        gpus: &worker.gpus,
        labels: &worker.labels,
        offers: placement::offers(&worker.operators, work),
    }
}

/// Says whether a worker could take a task if it had nothing else to do and were not held back.
pub(super) fn could_take(worker: &Worker, work: &Work, request: &ResourceRequest) -> bool {
    placement::ways(request, &[alone(worker, work)], false).is_ok()
}

/// Explains a task that no worker can ever take while some are held back; `why` is what placement says of the others.
#[must_use]
pub fn held_back(core: &Core, task: &BoundTask, why: Unplaced) -> Option<Reason> {
    const NAMED: usize = 4;
    if matches!(why, Unplaced::Busy | Unplaced::Kept) {
        return None;
    }
    let back: Vec<&Worker> = core
        .workers()
        .filter(|worker| worker.link.is_some() && !worker.takes_work())
        .filter(|worker| could_take(worker, &task.work, &task.resources))
        .collect();
    let first = back.first()?;
    let mut names: Vec<String> =
        back.iter().take(NAMED).map(|worker| format!("{} ({})", worker.key.name, worker.state())).collect();
    if back.len() > NAMED {
        names.push(format!("and {} more", back.len() - NAMED));
    }
    let text = format!("the workers that could take it take no new work: {}", names.join(", "));
    let cordoned = back.iter().find(|worker| worker.cordoned && !worker.draining);
    let (code, hint) = match cordoned {
        _ if back.iter().all(|worker| worker.silent) => (
            "workers_silent",
            format!("look at the machine of `{}`: nothing was heard of it for a lease", first.key.name),
        ),
        Some(worker) => {
            ("workers_cordoned", format!("give one work again: segue workers uncordon {}", worker.key.name))
        }
        None => ("workers_draining", format!("start another one like `{}`: segue worker --server URL", first.key.name)),
    };
    Some(Reason { code, text, hint })
}
