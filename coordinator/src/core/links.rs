//! Workers come, go, beat and drain.

use std::collections::BTreeSet;

use segue_proto::ids::{RunId, Token, WorkerName};

use super::{Command, Core, Effect, Held, Refused, TaskState, UnixMillis, Verdict, Worker, WorkerKey};

/// Earlier starts of one worker that are remembered, so that none of them comes back as if it were the newest.
const OLD_STARTS: usize = 16;

impl Core {
    pub(super) fn hello(&mut self, mut worker: Worker, held: Vec<Held>, now: UnixMillis) -> Result<Verdict, Refused> {
        let key = worker.key.clone();
        if self.workers.get(&key).is_some_and(|known| known.superseded) {
            if let Some(link) = worker.link {
                let command = Command::Goodbye { reason: "a newer start of this worker has connected" };
                self.effects.push(Effect::Send { worker: key, link, command });
            }
            return Ok(Verdict::Stale);
        }
        for other in self.workers.values_mut().filter(|other| other.key.name == key.name && other.key != key) {
            // Its leases go on: the old process may still be alive somewhere, and stops itself when they end.
            other.superseded = true;
            if let Some(link) = other.link.take() {
                let command = Command::Goodbye { reason: "a newer start of this worker has connected" };
                self.effects.push(Effect::Send { worker: other.key.clone(), link, command });
            }
        }
        worker.name_devices();
        self.upkeep.dress(&mut worker);
        if let Some(before) = self.workers.get(&key) {
            worker.leased = before.leased.clone();
            worker.ahead = before.ahead.clone();
            worker.ahead_alike = before.ahead_alike;
            worker.draining |= before.draining;
        }
        worker.connected_at = now;
        worker.heartbeat_at = now;
        let link = worker.link;
        let given: Vec<(RunId, u32)> = worker.leased.keys().chain(&worker.ahead).copied().collect();
        self.workers.insert(key.clone(), worker);
        self.freed.insert(key.clone());
        self.forget_old_starts(&key.name);

        let (mut adopted, mut unknown) = (Vec::new(), Vec::new());
        let mut held_tasks = BTreeSet::new();
        for Held { token, started } in held {
            match self.current(&key, &token) {
                Ok(Some(index)) => {
                    held_tasks.insert((token.run, index));
                    self.renew(token.run, index, now);
                    if started {
                        self.mark_started(token.run, index, now);
                    }
                    adopted.push(token);
                }
                Ok(None) | Err(_) => unknown.push(token),
            }
        }
        if let Some(link) = link {
            let command = Command::Welcome { unknown, adopted };
            self.effects.push(Effect::Send { worker: key.clone(), link, command });
        }
        for (run, index) in given {
            if !held_tasks.contains(&(run, index)) {
                // The assignment never arrived: the worker lists everything it holds. It burns no try.
                self.undelivered(run, index, now);
            } else if let Some(token) = self.runs.get(&run).and_then(|run| run.live_token(index))
                && self.runs[&run].task(index).is_some_and(|task| task.state.is_cancelling())
            {
                self.send(&key, Command::Cancel { token });
            }
        }
        self.repeat_drain(&key);
        Ok(Verdict::Done)
    }

    /// Keeps the number of earlier starts of one name bounded, whoever says hello how often: the oldest that hold nothing
    /// are forgotten first.
    fn forget_old_starts(&mut self, name: &WorkerName) {
        let old = self.workers.values().filter(|worker| worker.key.name == *name && worker.superseded);
        let mut old: Vec<(UnixMillis, WorkerKey)> =
            old.filter(|worker| worker.is_idle()).map(|worker| (worker.connected_at, worker.key.clone())).collect();
        old.sort_unstable();
        for (_, key) in old.iter().take(old.len().saturating_sub(OLD_STARTS)) {
            self.workers.remove(key);
        }
    }

    pub(super) fn link_closed(&mut self, worker: &WorkerKey, link: u64) -> Result<Verdict, Refused> {
        let Some(known) = self.workers.get_mut(worker) else { return Ok(Verdict::Stale) };
        if known.link != Some(link) {
            return Ok(Verdict::Stale);
        }
        known.link = None;
        self.forget_idle_workers();
        Ok(Verdict::Done)
    }

    /// Drops workers that are gone and hold no lease.
    pub(super) fn forget_idle_workers(&mut self) {
        let connected: BTreeSet<WorkerName> = self
            .workers
            .values()
            .filter(|worker| worker.link.is_some())
            .map(|worker| worker.key.name.clone())
            .collect();
        // A superseded start is remembered while its successor is there, or it would supersede that one in turn.
        self.workers.retain(|key, worker| {
            worker.link.is_some() || !worker.is_idle() || (worker.superseded && connected.contains(&key.name))
        });
    }

    pub(super) fn heartbeat(
        &mut self,
        worker: &WorkerKey,
        sequence: u64,
        tokens: Vec<Token>,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        if self.workers.get(worker).and_then(|worker| worker.link).is_none() {
            return Err(Refused::UnknownWorker(worker.clone()));
        }
        let mut lost = Vec::new();
        for token in tokens {
            match self.current(worker, &token) {
                Ok(Some(index)) => self.renew(token.run, index, now),
                Ok(None) | Err(_) => lost.push(token),
            }
        }
        if let Some(known) = self.workers.get_mut(worker) {
            known.heartbeat_at = now;
            if std::mem::take(&mut known.silent) {
                self.freed.insert(worker.clone());
            }
        }
        self.send(worker, Command::HeartbeatAck { sequence, lost });
        Ok(Verdict::Done)
    }

    /// Moves the end of the lease of an attempt that its worker named. Its timer stays where it is, and is moved when it
    /// rings.
    pub(super) fn renew(&mut self, run: RunId, index: u32, now: UnixMillis) {
        let until = now.saturating_add(self.config.lease_ms);
        if let Some(TaskState::Live(live)) =
            self.runs.get_mut(&run).and_then(|run| run.task_mut(index)).map(|task| &mut task.state)
        {
            live.lease_until = live.lease_until.max(until);
        }
    }

    pub(super) fn drain_worker(&mut self, name: WorkerName) -> Result<Verdict, Refused> {
        let keys: Vec<WorkerKey> = self
            .workers
            .values_mut()
            .filter(|worker| worker.key.name == name && !worker.superseded)
            .map(|worker| {
                worker.draining = true;
                worker.key.clone()
            })
            .collect();
        for key in &keys {
            self.send(key, Command::Drain);
        }
        if keys.is_empty() { Err(Refused::NoSuchWorker(name)) } else { Ok(Verdict::Done) }
    }
}
