//! What time alone brings about: leases end, tries come due, waits end, sensors look again.

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::RunId,
};

use super::{Core, Effect, Live, TaskState, UnixMillis};
use crate::defect::{self, Defect};

/// How long an answer of a sensor is awaited before somebody looks again: the one who looked may have gone.
const ANSWER_MS: u64 = 600_000;

impl Core {
    /// Does everything whose time has come.
    pub(super) fn tick(&mut self, now: UnixMillis) {
        while let Some((at, id, index)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            self.ring(id, index, at, now);
        }
        self.forget_idle_workers();
    }

    /// Looks at one task. A timer speaks for a task only while it is still in that very wait.
    fn ring(&mut self, id: RunId, index: u32, at: UnixMillis, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let Some(bound) = run.bound(index) else { return };
        let (queue_timeout, timeout) = (bound.flow.queue_timeout_ms, bound.timeout_ms);
        let Some(task) = run.task_mut(index) else { return };
        match &mut task.state {
            TaskState::Live(live) if live.timer == at => {
                let given_at = task.attempts.last().map_or(0, |attempt| attempt.assigned_at);
                let heard_at = self.workers.get(&live.worker).map_or(0, |worker| worker.heartbeat_at);
                let until = lease_end(live, given_at, heard_at, self.config.lease_ms);
                if until > now || defect::is(Defect::LeaseWithoutEnd) {
                    live.timer = until.max(now + 1);
                    let again = (live.timer, id, index);
                    self.timers.insert(again);
                } else {
                    self.lease_expired(id, index, now);
                }
            }
            TaskState::Backoff { until } if *until == at => self.back_to_ready(id, index, now),
            TaskState::Ready => {
                let Some(wait) = queue_timeout else { return };
                if task.ready_at.saturating_add(wait) <= now {
                    self.dequeue(id, index);
                    let message = format!("waited {} s for a worker, as long as `queue_timeout` allows", wait / 1_000);
                    let failure = Failure::new(FailureClass::Timeout, message)
                        .hint("`segue explain` says what a task waits for while it does");
                    self.fail_now(id, index, failure, now);
                }
            }
            TaskState::Sensing { next } if *next == at => {
                let since = task.ready_at;
                if timeout.is_some_and(|timeout| since.saturating_add(timeout) <= now) {
                    let why = task.progress.as_ref().map_or("", |progress| progress.message.as_str());
                    let message = format!("the condition was not met in time: {why}");
                    self.fail_now(id, index, Failure::new(FailureClass::Timeout, message), now);
                } else {
                    let last = timeout.map_or(u64::MAX, |timeout| since.saturating_add(timeout));
                    *next = now.saturating_add(ANSWER_MS).min(last);
                    self.timers.insert((*next, id, index));
                    self.effects.push(Effect::Probe { run: id, task: index, since });
                }
            }
            _ => {}
        }
    }

    /// Gives the next time at which a tick may change something; 0 where it would at once.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<UnixMillis> {
        if !self.expanding.is_empty() {
            return Some(0);
        }
        let timer = self.timers.first().map(|(at, ..)| *at);
        timer.into_iter().chain(self.look_ahead_at).chain(self.kept.next_at).min()
    }
}

/// Says when the worker of an attempt has certainly ended it.
///
/// A heartbeat that was sent before the assignment was read does not name the attempt, and its answer lets the worker go on
/// for a lease all the same, with the attempt that it has by then. So while the worker never named an attempt, every
/// heartbeat counts for it that can be such a one: the worker read the assignment within a lease of its sending, or it
/// has given up the link and with it the assignment; and the answer reached it within another one.
fn lease_end(live: &Live, given_at: UnixMillis, heard_at: UnixMillis, lease_ms: u64) -> UnixMillis {
    let is_named = live.started || live.lease_until != given_at.saturating_add(lease_ms);
    if is_named {
        return live.lease_until;
    }
    let last = heard_at.min(given_at.saturating_add(lease_ms.saturating_mul(2)));
    live.lease_until.max(last.saturating_add(lease_ms))
}
