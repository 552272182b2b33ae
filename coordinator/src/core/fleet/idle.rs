//! Why a worker is idle, and which workers a task misses because they are held back. By code, as reasons of tasks are.

use segue_proto::resources::GpuPreference;

use crate::{
    core::{Core, Worker, explain::Reason, placement},
    spec::BoundTask,
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
        if worker.link.is_none() || !worker.leased.is_empty() {
            return None;
        }
        if worker.draining {
            return Some(Idle::Draining);
        }
        if worker.cordoned {
            return Some(Idle::Cordoned);
        }
        let mut any = false;
        for (_, _, task) in self.heads() {
            any = true;
            let plain = task.resources.gpu == GpuPreference::None && worker.capacity.gpu > 0;
            if plain && self.gpu_work_open() && could_take(worker, task) {
                return Some(Idle::KeptForGpu);
            }
        }
        Some(if any { Idle::NothingFits } else { Idle::NoWork })
    }
}

/// Says whether a worker could take a task if it had nothing else to do and were not held back.
pub(super) fn could_take(worker: &Worker, task: &BoundTask) -> bool {
    let wanted = &task.resources;
    placement::offers(&worker.operators, &task.work)
        && wanted.labels.iter().all(|(name, value)| worker.labels.get(name) == Some(value))
        && worker.capacity.fits(&wanted.amounts)
}

/// Explains a task that no worker can ever take while some are held back; `why` is what placement says of the others.
#[must_use]
pub fn held_back(core: &Core, task: &BoundTask, why: placement::Unplaced) -> Option<Reason> {
    const NAMED: usize = 4;
    if why == placement::Unplaced::Busy {
        return None;
    }
    let back: Vec<&Worker> = core
        .workers()
        .filter(|worker| worker.link.is_some() && !worker.takes_work() && could_take(worker, task))
        .collect();
    let mut names: Vec<String> =
        back.iter().take(NAMED).map(|worker| format!("{} ({})", worker.key.name, worker.state())).collect();
    if back.len() > NAMED {
        names.push(format!("and {} more", back.len() - NAMED));
    }
    let text = format!("the workers that could take it take no new work: {}", names.join(", "));
    let cordoned = back.iter().find(|worker| worker.cordoned && !worker.draining);
    match (cordoned, back.is_empty()) {
        (_, true) => None,
        (Some(worker), _) => Some(Reason {
            code: "workers_cordoned",
            text,
            hint: format!("give one work again: segue workers uncordon {}", worker.key.name),
        }),
        (None, _) => Some(Reason {
            code: "workers_draining",
            text,
            hint: "start another one: segue worker --server URL".to_owned(),
        }),
    }
}
