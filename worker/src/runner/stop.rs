//! How a running job hears that it must end, inside the runner.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Shared by the thread that reads requests and the one that runs the job.
#[derive(Debug, Default)]
pub struct Stopper {
    /// What operators look at.
    flag: Arc<AtomicBool>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When the job must be gone.
    deadline: Option<Instant>,
    /// The leader of the command's group has exited.
    exited: bool,
}

/// What a supervised command waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Exited,
    StopAt(Instant),
    Deadline,
}

impl Stopper {
    /// Tells the job to end within `grace`. A second call can only shorten it.
    pub fn stop(&self, grace: Duration) {
        self.flag.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + grace;
        let mut state = self.lock();
        state.deadline = Some(state.deadline.map_or(deadline, |old| old.min(deadline)));
        self.changed.notify_all();
    }

    /// Notes that the leader of the command's group has exited.
    pub fn exited(&self) {
        self.lock().exited = true;
        self.changed.notify_all();
    }

    /// Gives the flag that operators look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Says when the job must be gone, if it was told to stop.
    pub fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Waits until the command exited or was told to stop.
    pub fn wait_for_either(&self) -> Wake {
        let mut state = self.lock();
        loop {
            if state.exited {
                return Wake::Exited;
            }
            if let Some(deadline) = state.deadline {
                return Wake::StopAt(deadline);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits, after a stop, until the command exited or its grace is over.
    pub fn wait_for_exit(&self) -> Wake {
        let mut state = self.lock();
        loop {
            if state.exited {
                return Wake::Exited;
            }
            let left = state.deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Wake::Deadline;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves two plain fields: nothing can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stop_can_only_shorten_the_grace() {
        let stopper = Stopper::default();
        stopper.stop(Duration::from_secs(60));
        let first = stopper.deadline();
        stopper.stop(Duration::from_secs(600));
        assert_eq!(stopper.deadline(), first);
        stopper.stop(Duration::ZERO);
        assert!(stopper.deadline() < first);
        assert_eq!(stopper.wait_for_exit(), Wake::Deadline);
    }

    #[test]
    fn an_exit_wins_over_a_stop() {
        let stopper = Stopper::default();
        stopper.stop(Duration::ZERO);
        stopper.exited();
        assert_eq!(stopper.wait_for_either(), Wake::Exited);
        assert_eq!(stopper.wait_for_exit(), Wake::Exited);
    }
}
