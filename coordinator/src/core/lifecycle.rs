//! The arrows of an attempt's life: given out, started, ended, tried again, cancelled.

use std::{collections::BTreeSet, sync::Arc};

use segue_proto::{
    artifact::{NamedArtifact, Usage},
    failure::{Failure, FailureClass},
    ids::{RunId, Token},
    operator::Port,
};

use super::{
    AttemptState, Command, Core, Outcome, Progress, Record, Refused, Run, RunState, TaskState, UnixMillis, Verdict,
    WorkerKey, cache,
    event::{CachedResult, Past, Sight},
    rerun::Plan,
    retry,
    run::{FIRST_CHILD, Task, count},
};
use crate::{
    defect::{self, Defect},
    spec::{BoundTask, RunIf, RunSpec, Work},
};

/// Characters of a name from a worker that are shown.
const LONGEST_NAME: usize = 64;

/// Finds an output that was not declared, or that came twice. Both would be in the store under a name that nobody
/// expects.
fn unexpected<'a>(outputs: &'a [NamedArtifact], ports: &[Port]) -> Option<&'a str> {
    let mut seen = BTreeSet::new();
    outputs
        .iter()
        .map(|output| output.name.as_str())
        .find(|name| !ports.iter().any(|port| port.name == *name) || !seen.insert(*name))
}

impl Core {
    /// Starts an ended run again, as planned.
    pub(super) fn rerun(
        &mut self,
        mut run: Run,
        spec: Arc<RunSpec>,
        plan: &Plan,
        now: UnixMillis,
        past: &dyn Past,
    ) -> Result<Verdict, Refused> {
        let id = run.id;
        if self.runs.contains_key(&id) || !run.state.is_terminal() {
            return Err(Refused::RunGoing(id));
        }
        if !plan.executes() {
            return Err(Refused::NothingToDo(id));
        }
        run.spec = spec;
        run.generation += 1;
        run.waits_since = now;
        run.ended_at = 0;
        run.cancelled_for.clear();
        run.revision += 1;
        // A version may have brought new tasks; those that it dropped keep their place and have no say.
        run.tasks.resize_with(run.spec.tasks.len(), || Task::new(1));
        for (task, item) in run.tasks.iter_mut().zip(&plan.items) {
            if item.dropped {
                task.state = TaskState::Dropped;
            } else if item.execute || defect::is(Defect::RerunOfEverything) {
                task.reset();
            } else if !task.state.is_terminal() {
                task.state = TaskState::Skipped;
            }
        }
        for (node, item) in plan.items.iter().enumerate() {
            let node = count(node);
            let Some(group) = run.groups.get_mut(&node) else { continue };
            let asked = item.children.clone().filter(|_| item.execute).unwrap_or_default();
            if group.asked != asked {
                group.asked = asked;
                self.changed.groups.insert((id, node));
            }
            if !item.dropped && (!item.execute || !group.asked.is_empty()) {
                continue;
            }
            // It has no items until it expands, which it may never do: nothing of before may pass for a result of now.
            for member in group.members.clone() {
                if let Some(child) = run.task_mut(member) {
                    child.state = TaskState::Dropped;
                }
                self.changed.tasks.insert((id, member));
            }
        }
        run.index();
        self.changed.runs.insert(id);
        self.changed.tasks.extend((0..count(run.tasks.len())).map(|task| (id, task)));
        self.admit(run, now, past);
        self.watchers(id);
        Ok(Verdict::Done)
    }

    /// Running -> Cancelling: what has not started ends at once, what runs is told to stop. What runs `always` or `finally`
    /// still has its turn, unless the run was being cancelled already and this is no gentle reminder.
    pub(super) fn cancel_run(
        &mut self,
        id: RunId,
        gently: bool,
        why: &str,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        let Some(run) = self.runs.get_mut(&id) else { return Err(Refused::NoSuchRun(id)) };
        if run.state.is_terminal() {
            return Err(Refused::RunEnded(id));
        }
        if gently && run.state == RunState::Cancelling {
            return Ok(Verdict::Stale);
        }
        if run.cancelled_for.is_empty() {
            why.clone_into(&mut run.cancelled_for);
        }
        let for_good = matches!(run.state, RunState::Cancelling | RunState::Queued);
        if run.state == RunState::Running {
            run.state = RunState::Cancelling;
        }
        let spared = |bound: &BoundTask| !for_good && (bound.flow.finally || bound.flow.run_if == RunIf::Always);
        for (node, group) in &mut run.groups {
            if run.spec.tasks.get(*node as usize).is_some_and(|bound| !spared(bound)) {
                group.held.clear();
            }
        }
        self.changed.runs.insert(id);
        self.watchers(id);
        for index in self.open_tasks(id) {
            let Some(run) = self.runs.get(&id) else { break };
            let spared = run.bound(index).is_some_and(spared);
            // A fan-out ends with its children.
            let expanded = run.task(index).is_some_and(|task| task.state == TaskState::Expanded);
            if !spared && !expanded {
                self.cancel_open(id, index, now);
            }
        }
        self.touched.insert(id);
        Ok(Verdict::Done)
    }

    /// Cancels one task or child; what needs its success fails upstream.
    pub(super) fn cancel_task(&mut self, id: RunId, index: u32, now: UnixMillis) -> Result<Verdict, Refused> {
        let Some(run) = self.runs.get(&id) else { return Err(Refused::NoSuchRun(id)) };
        let Some(task) = run.task(index) else { return Err(Refused::NoSuchTask { run: id, index }) };
        if task.state.is_terminal() {
            let task = run.name_of(index).map(|name| name.to_string()).unwrap_or_default();
            return Err(Refused::TaskEnded { run: id, task });
        }
        if task.state == TaskState::Expanded {
            self.cancel_children(id, index, now);
        } else {
            self.cancel_open(id, index, now);
        }
        Ok(Verdict::Done)
    }

    /// Cancels every open child of a fan-out.
    pub(super) fn cancel_children(&mut self, id: RunId, node: u32, now: UnixMillis) {
        let Some(group) = self.runs.get_mut(&id).and_then(|run| run.groups.get_mut(&node)) else { return };
        group.held.clear();
        for child in group.members.clone() {
            self.cancel_open(id, child, now);
        }
    }

    /// Live -> Live (cancelling), any other open state -> Cancelled.
    fn cancel_open(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let token = run.live_token(index);
        let Some(task) = run.task_mut(index) else { return };
        match &mut task.state {
            state if state.is_terminal() => {}
            TaskState::Live(live) => {
                if std::mem::replace(&mut live.cancelling, true) {
                    return;
                }
                // Whatever was kept for it is free.
                self.stirred = true;
                let worker = live.worker.clone();
                if let Some(token) = token {
                    self.send(&worker, Command::Cancel { token });
                }
                self.mark(id, index);
            }
            _ if defect::is(Defect::CancelForgotten) => {}
            state => {
                if *state == TaskState::Ready {
                    self.dequeue(id, index);
                }
                self.close(id, index, TaskState::Cancelled, now);
            }
        }
    }

    pub(super) fn started(&mut self, worker: &WorkerKey, token: &Token, now: UnixMillis) -> Result<Verdict, Refused> {
        let Some(index) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        // A heartbeat that was on its way before the assignment arrived renews the worker's own lease and does not name this
        // attempt: without this, it would end here before it ends there.
        self.renew(token.run, index, now);
        self.mark_started(token.run, index, now);
        Ok(Verdict::Done)
    }

    pub(super) fn mark_started(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) else { return };
        let TaskState::Live(live) = &mut task.state else { return };
        if std::mem::replace(&mut live.started, true) {
            return;
        }
        let (number, ahead, worker) = (live.attempt, live.ahead, live.worker.clone());
        if let Some(attempt) = task.attempt_mut(number) {
            attempt.state = AttemptState::Running;
            attempt.started_at = now;
        }
        if ahead {
            // The worker found room for it: from now on it counts.
            self.promote(&worker, id, index);
        }
        self.mark(id, index);
    }

    pub(super) fn progress(
        &mut self,
        worker: &WorkerKey,
        token: &Token,
        progress: Progress,
    ) -> Result<Verdict, Refused> {
        let Some(index) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        if let Some(task) = self.runs.get_mut(&token.run).and_then(|run| run.task_mut(index)) {
            task.progress = Some(Box::new(progress));
            self.watchers(token.run);
        }
        Ok(Verdict::Done)
    }

    pub(super) fn finished(
        &mut self,
        worker: &WorkerKey,
        token: &Token,
        usage: Usage,
        outcome: Outcome,
        log_bytes: u64,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        // Acknowledged in any case, or the worker would send it for ever.
        self.send(worker, Command::FinishedAck { token: token.clone() });
        let Some(index) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        let id = token.run;
        self.mark_started(id, index, now);
        let Some(run) = self.runs.get_mut(&id) else { return Ok(Verdict::Stale) };
        let Some(task) = run.task_mut(index) else { return Ok(Verdict::Stale) };
        let (cancelling, class) = (task.state.is_cancelling(), task.class);
        if let Some(attempt) = task.attempt_mut(token.attempt) {
            attempt.usage = usage;
            attempt.log_bytes = log_bytes;
        }
        self.queue.learn(class, usage.wall_ms.saturating_mul(1_000));
        if cancelling {
            self.end_attempt(id, index, AttemptState::Cancelled, None, now);
            self.close(id, index, TaskState::Cancelled, now);
            return Ok(Verdict::Done);
        }
        let Some(bound) = self.runs.get(&id).and_then(|run| run.bound(index)) else { return Ok(Verdict::Stale) };
        match outcome {
            Outcome::Success { outputs, models, metrics_json, inline } => {
                let inline = inline.into_iter().filter(|(name, _)| bound.inline.contains(name)).collect();
                match wrong_outputs(&outputs, bound, &inline) {
                    Some(failure) => self.attempt_failed(id, index, failure, now, now),
                    None => {
                        let result = CachedResult { outputs, metrics_json, inline };
                        self.attempt_succeeded(id, index, token.attempt, result, models, now);
                    }
                }
            }
            Outcome::Failure(failure) => self.attempt_failed(id, index, failure, now, now),
            Outcome::Cancelled => {
                // The worker stopped it without being told by this coordinator: as good as lost.
                let failure = Failure::new(FailureClass::Lost, "the worker stopped the attempt");
                self.attempt_failed(id, index, failure, now, now);
            }
        }
        Ok(Verdict::Done)
    }

    fn attempt_succeeded(
        &mut self,
        id: RunId,
        index: u32,
        number: u32,
        result: CachedResult,
        models: Vec<segue_proto::artifact::ModelRegistration>,
        now: UnixMillis,
    ) {
        self.end_attempt(id, index, AttemptState::Succeeded, None, now);
        let Some(run) = self.runs.get_mut(&id) else { return };
        let key = if models.is_empty() { cache::key_of(run, index) } else { None };
        let inputs = if models.is_empty() { Vec::new() } else { run.inputs_of(index).unwrap_or_default() };
        if let Some(attempt) = run.task_mut(index).and_then(|task| task.attempt_mut(number)) {
            attempt.outputs.clone_from(&result.outputs);
        }
        if let Some(key) = key {
            self.records.push(Record::Cached { key, run: id, task: index, attempt: number, result: result.clone() });
        }
        if !result.outputs.is_empty() {
            let outputs = result.outputs.clone();
            self.records.push(Record::Produced { run: id, task: index, attempt: number, outputs, cached: false });
        }
        if !models.is_empty() {
            self.records.push(Record::Models { run: id, task: index, attempt: number, models, inputs });
        }
        self.succeed(id, index, result, false, now);
    }

    /// Live -> Backoff, Ready or Failed.
    /// `since` is when it failed; the pause before the next try counts from there.
    fn attempt_failed(&mut self, id: RunId, index: u32, failure: Failure, since: UnixMillis, now: UnixMillis) {
        let state = match failure.class {
            FailureClass::Timeout => AttemptState::TimedOut,
            FailureClass::Lost => AttemptState::Lost,
            _ => AttemptState::Failed,
        };
        let Some(token) = self.runs.get(&id).and_then(|run| run.live_token(index)) else { return };
        self.end_attempt(id, index, state, Some(failure.clone()), now);
        let Some(run) = self.runs.get_mut(&id) else { return };
        let going = run.state == RunState::Running
            || run.bound(index).is_some_and(|bound| bound.flow.finally || bound.flow.run_if == RunIf::Always);
        let spec = Arc::clone(&run.spec);
        let node = run.node_of(index);
        let Some(task) = run.task_mut(index) else { return };
        task.tries += 1;
        let next = retry::next_try(&spec.tasks[node].retry, &failure, task.tries, &token, since);
        task.failure = Some(Box::new(failure));
        match next {
            Some(until) if going => {
                // However little is left of the pause, it is seen that there will be another try.
                let until = if since < now { until.max(now.saturating_add(1)) } else { until };
                task.state = TaskState::Backoff { until };
                self.upkeep.tally.retries += 1;
                self.timers.insert((until, id, index));
                self.mark(id, index);
            }
            _ => self.close(id, index, TaskState::Failed, now),
        }
    }

    /// The lease is over: the worker has stopped the attempt on its side, this side reschedules.
    pub(super) fn lease_expired(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(live) = self.runs.get(&id).and_then(|run| run.task(index)).and_then(|task| task.state.live()) else {
            return;
        };
        let (cancelling, started, worker) = (live.cancelling, live.started, live.worker.clone());
        self.upkeep.tally.leases_lost += 1;
        let lease_ms = self.config.lease_ms;
        if let Some(holder) = self.workers.get_mut(&worker) {
            holder.silent |= holder.heartbeat_at.saturating_add(lease_ms) <= now;
        }
        if cancelling {
            self.end_attempt(id, index, AttemptState::Cancelled, None, now);
            self.close(id, index, TaskState::Cancelled, now);
        } else if started {
            let message = format!("worker `{}` was silent for longer than its lease", worker.name);
            // Nobody heard of it for a lease: that much of the pause is over.
            let silent_since = now.saturating_sub(lease_ms);
            self.attempt_failed(id, index, Failure::new(FailureClass::Lost, message), silent_since, now);
        } else {
            // It never began: no try is burnt.
            self.end_attempt(id, index, AttemptState::Lost, None, now);
            self.back_to_ready(id, index, now);
        }
    }

    pub(super) fn hand_back(
        &mut self,
        worker: &WorkerKey,
        token: &Token,
        started: bool,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        let Some(index) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        if started {
            self.mark_started(token.run, index, now);
        }
        self.undelivered(token.run, index, now);
        Ok(Verdict::Done)
    }

    /// An attempt comes back without having ended: it burns no try.
    pub(super) fn undelivered(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let cancelling =
            self.runs.get(&id).and_then(|run| run.task(index)).is_some_and(|task| task.state.is_cancelling());
        if cancelling {
            self.end_attempt(id, index, AttemptState::Cancelled, None, now);
            self.close(id, index, TaskState::Cancelled, now);
        } else {
            self.end_attempt(id, index, AttemptState::HandedBack, None, now);
            self.back_to_ready(id, index, now);
        }
    }

    /// Any live or waiting state -> Ready, in the queue.
    pub(super) fn back_to_ready(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) else { return };
        task.state = TaskState::Ready;
        task.progress = None;
        task.ready_at = now;
        self.mark(id, index);
        self.enqueue(id, index, now);
    }

    /// Ends the live attempt of a task and frees its lease. The caller chooses the next state of the task.
    pub(super) fn end_attempt(
        &mut self,
        id: RunId,
        index: u32,
        outcome: AttemptState,
        failure: Option<Failure>,
        now: UnixMillis,
    ) {
        let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) else { return };
        let TaskState::Live(live) = &task.state else { return };
        let (number, timer, ahead, worker, class) =
            (live.attempt, live.timer, live.ahead, live.worker.clone(), task.class);
        self.upkeep.tally.attempt_ended(outcome, failure.as_ref());
        if let Some(attempt) = task.attempt_mut(number) {
            attempt.state = outcome;
            attempt.ended_at = now;
            attempt.failure = failure.map(Box::new);
        }
        self.timers.remove(&(timer, id, index));
        self.queue.give_back(class, (id, index));
        if let Some(holder) = self.workers.get_mut(&worker) {
            if ahead {
                // Work given ahead is done in its order: it is at the front, or near it.
                if let Some(at) = holder.ahead.iter().position(|waiting| *waiting == (id, index)) {
                    holder.ahead.remove(at);
                }
            } else {
                holder.leased.remove(&(id, index));
            }
            let gone = holder.link.is_none() && holder.is_idle();
            self.freed.insert(worker);
            if gone {
                self.forget_idle_workers();
            }
        }
        self.changed.tasks.insert((id, index));
    }

    /// Takes what a sensor saw. One that speaks of an earlier wait of the task means nothing.
    pub(super) fn sensed(
        &mut self,
        id: RunId,
        index: u32,
        since: UnixMillis,
        seen: Sight,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        let Some(run) = self.runs.get_mut(&id) else { return Ok(Verdict::Stale) };
        let (every, timeout) = match run.bound(index).map(|bound| (&bound.work, bound.timeout_ms)) {
            Some((Work::Sensor { every_ms, .. }, timeout)) => ((*every_ms).max(1), timeout),
            _ => return Ok(Verdict::Stale),
        };
        let Some(task) = run.task_mut(index) else { return Ok(Verdict::Stale) };
        let TaskState::Sensing { next } = task.state else { return Ok(Verdict::Stale) };
        if task.ready_at != since {
            return Ok(Verdict::Stale);
        }
        self.timers.remove(&(next, id, index));
        match seen {
            Sight::Met(note) => {
                let metrics_json = serde_json::json!({ "seen": note }).to_string();
                let result = CachedResult { metrics_json, ..CachedResult::default() };
                self.succeed(id, index, result, false, now);
            }
            Sight::NotYet(why) => {
                let next = look_again(task, since, every, timeout, now);
                task.progress = Some(Box::new(Progress { done: 0, total: 0, message: why }));
                self.timers.insert((next, id, index));
                self.watchers(id);
            }
            Sight::Baseline(there) => {
                let next = look_again(task, since, every, timeout, now);
                let what = if there.is_empty() { "nothing was there" } else { "it is noted what was there" };
                let seconds = every.div_ceil(1_000);
                let message = format!("{what} when the wait began; it looks for a change every {seconds} s");
                task.progress = Some(Box::new(Progress { done: 0, total: 0, message }));
                // Kept, so that a change is noticed even if the coordinator is away when it comes.
                task.metrics_json = serde_json::json!({ "seen": there }).to_string();
                self.timers.insert((next, id, index));
                self.mark(id, index);
            }
            Sight::Fault(message) => {
                self.fail_now(id, index, Failure::new(FailureClass::User, message), now);
            }
        }
        Ok(Verdict::Done)
    }

    /// Gives the index of the task whose live attempt the token names and this worker holds; `None` for a stale token.
    pub(super) fn current(&self, worker: &WorkerKey, token: &Token) -> Result<Option<u32>, Refused> {
        let Some(run) = self.runs.get(&token.run) else { return Ok(None) };
        let Some(live) = run.task(token.index).and_then(|task| task.state.live()) else { return Ok(None) };
        if defect::is(Defect::TokenUnchecked) {
            return Ok(Some(token.index));
        }
        if live.attempt != token.attempt || live.epoch != token.epoch {
            return Ok(None);
        }
        if live.worker != *worker {
            return Err(Refused::NotYours { worker: worker.clone(), token: token.clone() });
        }
        // A token whose name speaks of another task is forged.
        let (name, key) = token.task.parts();
        let named = run.bound(token.index).is_some_and(|bound| bound.name.as_str() == name)
            && key.is_some() == (token.index >= FIRST_CHILD);
        Ok(named.then_some(token.index))
    }
}

/// Sets when a sensor looks again: after its interval, and no later than its time is up.
fn look_again(task: &mut Task, since: UnixMillis, every: u64, timeout: Option<u64>, now: UnixMillis) -> UnixMillis {
    let last = timeout.map_or(u64::MAX, |timeout| since.saturating_add(timeout));
    let next = now.saturating_add(every).min(last.max(now.saturating_add(1)));
    task.state = TaskState::Sensing { next };
    next
}

/// Says what is wrong with the outputs of a success.
fn wrong_outputs(
    outputs: &[NamedArtifact],
    bound: &BoundTask,
    inline: &std::collections::BTreeMap<String, serde_json::Value>,
) -> Option<Failure> {
    if let Some(name) = unexpected(outputs, &bound.outputs) {
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let failure = Failure::new(FailureClass::User, format!("`{name}` is not an output of the task, or came twice"));
        return Some(failure.hint("declare it in `outputs`, and write each output once"));
    }
    let is_missing = |port: &&Port| !port.optional && !outputs.iter().any(|output| output.name == port.name);
    let missing = bound.outputs.iter().find(is_missing);
    if let Some(port) = missing {
        let output = &port.name;
        let failure = Failure::new(FailureClass::User, format!("the task ended without its output `{output}`"));
        return Some(
            failure.hint(format!("write the file `{output}` under $SEGUE_OUTPUT_DIR, or drop it from `outputs`")),
        );
    }
    let unread = bound.inline.iter().find(|name| !inline.contains_key(*name))?;
    let failure = Failure::new(
        FailureClass::Infra,
        format!("the worker did not deliver the JSON of `{unread}`, which a condition or a `foreach` reads"),
    );
    Some(failure.hint("the worker may be of an older release"))
}
