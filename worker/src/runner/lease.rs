//! The lease as a runner sees it: a worker that is stopped or starved cannot end its attempts in time, so that each runner
//! does it by itself when it has not heard for too long that the lease goes on.

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::getpgrp,
};

use super::stop::Stopper;

/// What ends with the lease.
#[derive(Debug, Clone)]
pub enum Job {
    /// It ends with its process.
    Operator,
    Command(Arc<Stopper>),
}

/// How long the current job may go on. Shared by the thread that reads requests, the one that runs jobs, and one that
/// waits for the end.
#[derive(Debug, Default)]
pub struct Lease {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// None where nobody has spoken of a lease.
    until: Option<Instant>,
    job: Option<Job>,
}

impl Lease {
    /// Starts the thread that waits for the end.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn watched() -> io::Result<Arc<Self>> {
        let lease = Arc::new(Self::default());
        let watched = Arc::clone(&lease);
        std::thread::Builder::new().name("lease".into()).spawn(move || {
            loop {
                match watched.passed() {
                    Job::Command(stopper) => stopper.stop(Duration::ZERO),
                    // The runner leads its group.
                    Job::Operator => {
                        let _ = killpg(getpgrp(), Signal::SIGKILL);
                    }
                }
            }
        })?;
        Ok(lease)
    }

    /// Lets the job, this one or the next, go on for so long.
    pub fn renew(&self, left: Duration) {
        self.lock().until = Some(Instant::now() + left);
        self.changed.notify_all();
    }

    /// Notes that a job begins.
    pub fn begins(&self, job: Job) {
        self.lock().job = Some(job);
        self.changed.notify_all();
    }

    /// Notes that it has ended.
    pub fn ends(&self) {
        self.lock().job = None;
    }

    /// Waits until the lease of a job has passed, and gives that job, once.
    fn passed(&self) -> Job {
        let mut state = self.lock();
        loop {
            let (Some(until), true) = (state.until, state.job.is_some()) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero()
                && let Some(job) = state.job.take()
            {
                return job;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread leaves plain fields: nothing can be half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_job_is_ended_once_its_lease_has_passed_and_not_before() {
        let lease = Lease::watched().unwrap();
        let stopper = Arc::new(Stopper::default());
        let begun = Instant::now();
        lease.renew(Duration::from_millis(20));
        lease.begins(Job::Command(Arc::clone(&stopper)));
        lease.renew(Duration::from_millis(60));
        while stopper.deadline().is_none() {
            std::thread::yield_now();
        }
        assert!(begun.elapsed() >= Duration::from_millis(60), "the renewal counted");
    }

    #[test]
    fn a_job_that_has_ended_or_was_never_leased_is_left_alone() {
        let lease = Lease::default();
        let (ended, free) = (Arc::new(Stopper::default()), Arc::new(Stopper::default()));
        lease.begins(Job::Command(Arc::clone(&ended)));
        lease.ends();
        lease.renew(Duration::ZERO);
        assert!(lease.lock().job.is_none());
        lease.lock().until = None;
        lease.begins(Job::Command(free));
        assert!(lease.lock().until.is_none());
        // The lease of the job before does not count for the next one, whose own is told first.
        lease.renew(Duration::ZERO);
        assert!(matches!(lease.passed(), Job::Command(_)));
        assert!(ended.deadline().is_none());
    }
}
