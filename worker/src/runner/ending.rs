//! When a job must end, as its runner sees it: asked by the worker, or because the lease has passed that the worker told of
//! last. A worker that is stopped or starved cannot end its attempts in time, so that each runner does it by itself.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

/// How long jobs may go on.
#[derive(Debug, Default)]
pub struct Lease(Option<Instant>);

impl Lease {
    /// Lets the job, this one or the next, go on for so long. One without end is none.
    pub fn renew(&mut self, now: Instant, left: Duration) {
        self.0 = now.checked_add(left);
    }

    /// Gives the end; none where nobody has spoken of a lease.
    pub const fn until(&self) -> Option<Instant> {
        self.0
    }

    /// Says whether a job must not go on.
    pub fn has_passed(&self, now: Instant) -> bool {
        self.0.is_some_and(|until| until <= now)
    }
}

/// The wish that a command ends, and what was done about it.
#[derive(Debug, Default)]
pub struct Ending {
    /// When it must be gone.
    by: Option<Instant>,
    asked: bool,
    killed: bool,
}

impl Ending {
    /// Wants the end within `grace`. A second wish can only shorten it.
    pub fn want(&mut self, now: Instant, grace: Duration) {
        // A grace without end is a year.
        let by = now.checked_add(grace).unwrap_or(now + Duration::from_secs(365 * 24 * 3_600));
        self.by = Some(self.by.map_or(by, |before| before.min(by)));
    }

    /// Says whether the end is wanted.
    pub const fn is_wanted(&self) -> bool {
        self.by.is_some()
    }

    /// Says whether it was killed.
    pub const fn is_certain(&self) -> bool {
        self.killed
    }

    /// Gives the time of the next signal, if one is to come.
    pub fn wake(&self) -> Option<Instant> {
        self.by.filter(|_| !self.killed)
    }

    /// Gives the signal that is due, each once: first a polite one, and a certain one when the grace is over.
    pub fn due(&mut self, now: Instant) -> Option<Signal> {
        let by = self.wake()?;
        if by <= now {
            self.killed = true;
            return Some(Signal::SIGKILL);
        }
        (!std::mem::replace(&mut self.asked, true)).then_some(Signal::SIGTERM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_group_is_asked_once_and_killed_once_when_its_grace_is_over() {
        let (now, mut ending) = (Instant::now(), Ending::default());
        assert_eq!((ending.due(now), ending.wake(), ending.is_wanted()), (None, None, false));
        ending.want(now, SECOND);
        assert_eq!((ending.due(now), ending.due(now)), (Some(Signal::SIGTERM), None));
        assert_eq!(ending.wake(), Some(now + SECOND));
        assert_eq!(ending.due(now + SECOND), Some(Signal::SIGKILL));
        assert!(ending.is_certain() && ending.wake().is_none() && ending.due(now + SECOND).is_none());
    }

    #[test]
    fn a_second_wish_can_only_shorten_the_grace() {
        let (now, mut ending) = (Instant::now(), Ending::default());
        ending.want(now, SECOND);
        ending.want(now, 10 * SECOND);
        assert_eq!(ending.wake(), Some(now + SECOND));
        ending.want(now, Duration::ZERO);
        assert_eq!(ending.due(now), Some(Signal::SIGKILL), "without a polite word before it");
        ending.want(now, Duration::MAX);
        assert!(ending.is_certain());
    }

    #[test]
    fn a_lease_passes_when_nobody_renews_it_and_none_never_does() {
        let (now, mut lease) = (Instant::now(), Lease::default());
        assert!(!lease.has_passed(now) && lease.until().is_none());
        lease.renew(now, SECOND);
        assert!(!lease.has_passed(now) && lease.has_passed(now + SECOND));
        lease.renew(now + SECOND, SECOND);
        assert!(!lease.has_passed(now + SECOND));
        lease.renew(now, Duration::MAX);
        assert!(!lease.has_passed(now + 1_000 * SECOND));
    }
}
