//! How a running job hears that it must end, inside the runner.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

/// Shared by the thread that reads requests and the one that runs the job. The second one of a command only waits for
/// its end; whoever says stop sends the signals.
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
    /// The group of the command, while its leader was not waited for: until then its number is nobody else's.
    group: Option<Pid>,
    /// It was asked to end, and somebody watches that it does.
    asked: bool,
}

impl Stopper {
    /// Tells the job to end within `grace`. A second call can only shorten it.
    pub fn stop(self: &Arc<Self>, grace: Duration) {
        self.flag.store(true, Ordering::Relaxed);
        let deadline = Instant::now() + grace;
        let mut state = self.lock();
        state.deadline = Some(state.deadline.map_or(deadline, |old| old.min(deadline)));
        self.pursue(&mut state);
        self.changed.notify_all();
    }

    /// Notes the group of the command, which may have been told to stop before it began.
    pub fn began(self: &Arc<Self>, group: Pid) {
        let mut state = self.lock();
        state.group = Some(group);
        self.pursue(&mut state);
    }

    /// Notes that the leader of the group has ended and is about to be waited for; says whether it was told to.
    pub fn ended(&self) -> bool {
        let mut state = self.lock();
        state.group = None;
        self.changed.notify_all();
        state.deadline.is_some()
    }

    /// Gives the flag that operators look at.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Says when the job must be gone, if it was told to stop.
    pub fn deadline(&self) -> Option<Instant> {
        self.lock().deadline
    }

    /// Sends the group the signal that is due.
    fn pursue(self: &Arc<Self>, state: &mut State) {
        let (Some(group), Some(deadline)) = (state.group, state.deadline) else { return };
        let mut certain = deadline <= Instant::now();
        if !certain && !state.asked {
            state.asked = true;
            let _ = killpg(group, Signal::SIGTERM);
            let this = Arc::clone(self);
            certain = std::thread::Builder::new().name("grace".into()).spawn(move || this.kill_in_time()).is_err();
        }
        if certain {
            let _ = killpg(group, Signal::SIGKILL);
        }
    }

    /// Waits for the end of the grace, and kills the group if it is still there.
    fn kill_in_time(&self) {
        let mut state = self.lock();
        while let (Some(group), Some(deadline)) = (state.group, state.deadline) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let _ = killpg(group, Signal::SIGKILL);
                return;
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
    use std::{
        os::unix::process::{CommandExt as _, ExitStatusExt as _},
        process::{Child, Command},
    };

    use super::*;

    fn sleeper() -> (Child, Pid) {
        let child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let group = Pid::from_raw(child.id().cast_signed());
        (child, group)
    }

    #[test]
    fn a_second_stop_can_only_shorten_the_grace() {
        let stopper = Arc::new(Stopper::default());
        stopper.stop(Duration::from_secs(60));
        let first = stopper.deadline();
        stopper.stop(Duration::from_secs(600));
        assert_eq!(stopper.deadline(), first);
        stopper.stop(Duration::ZERO);
        assert!(stopper.deadline() < first);
        assert!(stopper.ended(), "it was told to");
    }

    #[test]
    fn a_command_that_was_stopped_before_it_began_does_not_run() {
        let stopper = Arc::new(Stopper::default());
        stopper.stop(Duration::ZERO);
        let (mut child, group) = sleeper();
        stopper.began(group);
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }

    #[test]
    fn a_group_is_asked_first_and_killed_when_its_grace_is_over() {
        let stopper = Arc::new(Stopper::default());
        let (mut polite, group) = sleeper();
        stopper.began(group);
        stopper.stop(Duration::from_secs(600));
        assert_eq!(polite.wait().unwrap().signal(), Some(15));
        assert!(stopper.ended());

        let stopper = Arc::new(Stopper::default());
        let mut stubborn = Command::new("sh");
        stubborn.args(["-c", "trap '' TERM; sleep 600; sleep 600"]).process_group(0);
        let mut child = stubborn.spawn().unwrap();
        stopper.began(Pid::from_raw(child.id().cast_signed()));
        stopper.stop(Duration::from_millis(50));
        assert!(child.wait().unwrap().signal().is_some());
    }
}
