//! The arrows of a task's life: the only place that changes task and run states.

use std::{collections::BTreeSet, sync::Arc};

use segue_proto::{
    artifact::{NamedArtifact, Usage},
    failure::{Failure, FailureClass},
    ids::{RunId, Token},
    operator::Port,
    resources::GpuPreference,
};

use super::{
    AttemptState, Command, Core, Effect, Live, Outcome, Record, Refused, Run, RunState, TaskState, UnixMillis, Verdict,
    WorkerKey, cache, event::Past, retry, run::count,
};
use crate::spec::RunSpec;

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
    pub(super) fn submit(&mut self, run: Run, now: UnixMillis, past: &dyn Past) -> Result<Verdict, Refused> {
        let id = run.id.clone();
        self.changed.runs.insert(id.clone());
        self.changed.tasks.extend((0..run.tasks.len()).map(|task| (id.clone(), count(task))));
        self.effects.push(Effect::RunChanged(id.clone()));
        self.enter(run);
        let fresh = self.ready_of(&id);
        self.use_cache(&id, fresh, now, past);
        self.end_run_if_done(&id, now);
        Ok(Verdict::Done)
    }

    pub(super) fn rerun(
        &mut self,
        mut run: Run,
        spec: Arc<RunSpec>,
        execute: &[bool],
        dropped: &[bool],
        now: UnixMillis,
        past: &dyn Past,
    ) -> Result<Verdict, Refused> {
        let id = run.id.clone();
        if self.runs.contains_key(&id) || !run.state.is_terminal() {
            return Err(Refused::RunGoing(id));
        }
        if !execute.contains(&true) {
            return Err(Refused::NothingToDo(id));
        }
        run.spec = spec;
        run.generation += 1;
        run.state = RunState::Running;
        run.ended_at = 0;
        run.revision += 1;
        // A version may have brought new tasks; those that it dropped keep their place and are skipped.
        run.tasks.resize_with(run.spec.tasks.len(), || super::Task::new(1));
        for (index, task) in run.tasks.iter_mut().enumerate() {
            if dropped.get(index) == Some(&true) {
                // Not part of the version any more: its past must not decide the outcome of the run.
                task.state = TaskState::Skipped;
            } else if execute.get(index) == Some(&true) {
                let attempts = std::mem::take(&mut task.attempts);
                *task = super::Task::new(1);
                task.attempts = attempts;
                task.forced = true;
            } else if !task.state.is_terminal() {
                task.state = TaskState::Skipped;
            }
        }
        run.index();
        // A task that waits for a kept one which has no result can never start: the plan excludes it, so this is a guard.
        let stuck: Vec<usize> = (0..run.tasks.len())
            .filter(|&task| {
                matches!(run.tasks[task].state, TaskState::Waiting { .. })
                    && run.spec.tasks[task].needs().iter().any(|&need| {
                        let state = &run.tasks[need].state;
                        state.is_terminal() && !state.satisfies_downstream()
                    })
            })
            .collect();
        self.changed.runs.insert(id.clone());
        self.changed.tasks.extend((0..run.tasks.len()).map(|task| (id.clone(), count(task))));
        self.effects.push(Effect::RunChanged(id.clone()));
        self.enter(run);
        for task in stuck {
            self.fail_downstream(&id, task, now);
        }
        let fresh = self.ready_of(&id);
        self.use_cache(&id, fresh, now, past);
        self.end_run_if_done(&id, now);
        Ok(Verdict::Done)
    }

    pub(super) fn cancel_run(&mut self, id: &RunId, now: UnixMillis) -> Result<Verdict, Refused> {
        let Some(run) = self.runs.get_mut(id) else { return Err(Refused::NoSuchRun(id.clone())) };
        if run.state.is_terminal() {
            return Err(Refused::RunEnded(id.clone()));
        }
        run.state = RunState::Cancelling;
        run.revision += 1;
        self.changed.runs.insert(id.clone());
        self.effects.push(Effect::RunChanged(id.clone()));
        for task in 0..run.tasks.len() {
            let Some(run) = self.runs.get_mut(id) else { break };
            let token = run.live_token(task);
            match &mut run.tasks[task].state {
                TaskState::Live(live) => {
                    live.cancelling = true;
                    let worker = live.worker.clone();
                    if let (Some(token), Some(link)) = (token, self.workers.get(&worker).and_then(|w| w.link)) {
                        self.effects.push(Effect::Send { worker, link, command: Command::Cancel { token } });
                    }
                    self.changed.tasks.insert((id.clone(), count(task)));
                }
                state if !state.is_terminal() => {
                    if *state == TaskState::Ready {
                        self.dequeue(id, task);
                    }
                    self.close(id, task, TaskState::Cancelled, now);
                }
                _ => {}
            }
        }
        self.end_run_if_done(id, now);
        Ok(Verdict::Done)
    }

    pub(super) fn started(&mut self, worker: &WorkerKey, token: &Token, now: UnixMillis) -> Result<Verdict, Refused> {
        let Some(task) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        self.mark_started(&token.run, task, now);
        Ok(Verdict::Done)
    }

    pub(super) fn mark_started(&mut self, id: &RunId, task: usize, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let state = &mut run.tasks[task];
        let TaskState::Live(live) = &mut state.state else { return };
        if std::mem::replace(&mut live.started, true) {
            return;
        }
        let number = live.attempt;
        if let Some(attempt) = state.attempt_mut(number) {
            attempt.state = AttemptState::Running;
            attempt.started_at = now;
        }
        run.revision += 1;
        self.changed.tasks.insert((id.clone(), count(task)));
        self.changed.attempts.insert((id.clone(), count(task), number));
        self.effects.push(Effect::RunChanged(id.clone()));
    }

    #[allow(clippy::too_many_arguments)] // The fields of one event.
    pub(super) fn finished(
        &mut self,
        worker: &WorkerKey,
        token: &Token,
        usage: Usage,
        outcome: Outcome,
        log_bytes: u64,
        now: UnixMillis,
        past: &dyn Past,
    ) -> Result<Verdict, Refused> {
        // Acknowledged in any case, or the worker would send it for ever.
        let acknowledge = |core: &mut Self| {
            if let Some(link) = core.workers.get(worker).and_then(|worker| worker.link) {
                let command = Command::FinishedAck { token: token.clone() };
                core.effects.push(Effect::Send { worker: worker.clone(), link, command });
            }
        };
        let task = match self.current(worker, token) {
            Ok(Some(task)) => task,
            Ok(None) => {
                acknowledge(self);
                return Ok(Verdict::Stale);
            }
            Err(refused) => {
                acknowledge(self);
                return Err(refused);
            }
        };
        acknowledge(self);
        let id = &token.run;
        self.mark_started(id, task, now);
        let Some(run) = self.runs.get_mut(id) else { return Ok(Verdict::Stale) };
        let cancelling = matches!(&run.tasks[task].state, TaskState::Live(Live { cancelling: true, .. }));
        if let Some(attempt) = run.tasks[task].attempt_mut(token.attempt) {
            attempt.usage = usage;
            attempt.log_bytes = log_bytes;
        }
        if cancelling {
            self.end_attempt(id, task, AttemptState::Cancelled, None, now);
            self.close(id, task, TaskState::Cancelled, now);
            self.end_run_if_done(id, now);
            return Ok(Verdict::Done);
        }
        if let Outcome::Success { outputs, .. } = &outcome
            && let Some(name) = unexpected(outputs, &run.spec.tasks[task].outputs)
        {
            let name: String = name.chars().take(LONGEST_NAME).collect();
            let failure =
                Failure::new(FailureClass::User, format!("`{name}` is not an output of the task, or came twice"))
                    .hint("declare it in `outputs`, and write each output once");
            self.attempt_failed(id, task, failure, now);
            self.end_run_if_done(id, now);
            return Ok(Verdict::Done);
        }
        let missing = match &outcome {
            Outcome::Success { outputs, .. } => run.spec.tasks[task]
                .outputs
                .iter()
                .find(|port| !outputs.iter().any(|output| output.name == port.name))
                .map(|port| port.name.clone()),
            _ => None,
        };
        match (outcome, missing) {
            (Outcome::Success { .. }, Some(output)) => {
                let failure = Failure::new(FailureClass::User, format!("the task ended without its output `{output}`"))
                    .hint(format!("write the file `{output}` under $SEGUE_OUTPUT_DIR, or drop it from `outputs`"));
                self.attempt_failed(id, task, failure, now);
            }
            (Outcome::Success { outputs, models, metrics_json }, None) => {
                let fresh = self.attempt_succeeded(id, task, token.attempt, outputs, models, metrics_json, now);
                self.use_cache(id, fresh, now, past);
            }
            (Outcome::Failure(failure), _) => self.attempt_failed(id, task, failure, now),
            (Outcome::Cancelled, _) => {
                // The worker stopped it without being told by this coordinator: as good as lost.
                let failure = Failure::new(FailureClass::Lost, "the worker stopped the attempt");
                self.attempt_failed(id, task, failure, now);
            }
        }
        self.end_run_if_done(id, now);
        Ok(Verdict::Done)
    }

    #[allow(clippy::too_many_arguments)] // The fields of one success.
    fn attempt_succeeded(
        &mut self,
        id: &RunId,
        task: usize,
        number: u32,
        outputs: Vec<NamedArtifact>,
        models: Vec<segue_proto::artifact::ModelRegistration>,
        metrics_json: String,
        now: UnixMillis,
    ) -> Vec<usize> {
        self.end_attempt(id, task, AttemptState::Succeeded, None, now);
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let inputs = run.inputs_of(task).unwrap_or_default();
        if let Some(attempt) = run.tasks[task].attempt_mut(number) {
            attempt.outputs.clone_from(&outputs);
        }
        let index = count(task);
        if let Some(key) = cache::key(&run.spec.tasks[task], &inputs, &run.external_inputs)
            && models.is_empty()
        {
            self.records.push(Record::Cached {
                key,
                run: id.clone(),
                task: index,
                attempt: number,
                outputs: outputs.clone(),
                metrics_json: metrics_json.clone(),
            });
        }
        self.records.push(Record::Produced {
            run: id.clone(),
            task: index,
            attempt: number,
            outputs: outputs.clone(),
            cached: false,
        });
        if !models.is_empty() {
            self.records.push(Record::Models { run: id.clone(), task: index, attempt: number, models, inputs });
        }
        self.succeed(id, task, outputs, metrics_json, false, now)
    }

    /// Marks a task done and counts down those that wait for it: O(out-degree). Gives those that became ready.
    fn succeed(
        &mut self,
        id: &RunId,
        task: usize,
        outputs: Vec<NamedArtifact>,
        metrics_json: String,
        cached: bool,
        now: UnixMillis,
    ) -> Vec<usize> {
        if let Some(state) = self.runs.get_mut(id).map(|run| &mut run.tasks[task]) {
            state.outputs = outputs;
            state.metrics_json = metrics_json;
            state.cached = cached;
            state.failure = None;
        }
        self.close(id, task, TaskState::Succeeded, now);
        let Some(run) = self.runs.get_mut(id) else { return Vec::new() };
        let mut ready = Vec::new();
        for &next in &run.dependants[task] {
            let next = next as usize;
            if let TaskState::Waiting { needs_left } = &mut run.tasks[next].state {
                *needs_left = needs_left.saturating_sub(1);
                if *needs_left == 0 {
                    run.tasks[next].state = TaskState::Ready;
                    ready.push(next);
                }
            }
        }
        for &next in &ready {
            self.changed.tasks.insert((id.clone(), count(next)));
            self.enqueue(id, next);
        }
        ready
    }

    /// Closes those of the freshly ready tasks whose key has a committed result, and those that become ready by it,
    /// without a lease.
    fn use_cache(&mut self, id: &RunId, mut fresh: Vec<usize>, now: UnixMillis, past: &dyn Past) {
        while let Some(task) = fresh.pop() {
            let Some(run) = self.runs.get(id) else { return };
            if run.no_cache || run.tasks[task].forced || run.tasks[task].state != TaskState::Ready {
                continue;
            }
            let found = run
                .inputs_of(task)
                .and_then(|inputs| cache::key(&run.spec.tasks[task], &inputs, &run.external_inputs))
                .and_then(|key| past.cached(&key));
            let Some((outputs, metrics_json)) = found else { continue };
            self.dequeue(id, task);
            self.records.push(Record::Produced {
                run: id.clone(),
                task: count(task),
                attempt: 0,
                outputs: outputs.clone(),
                cached: true,
            });
            fresh.extend(self.succeed(id, task, outputs, metrics_json, true, now));
        }
    }

    /// Gives the ready tasks of a run that just entered.
    fn ready_of(&self, id: &RunId) -> Vec<usize> {
        let Some(run) = self.runs.get(id) else { return Vec::new() };
        (0..run.tasks.len()).filter(|&task| run.tasks[task].state == TaskState::Ready).collect()
    }

    /// Live -> Backoff, Ready or Failed.
    fn attempt_failed(&mut self, id: &RunId, task: usize, failure: Failure, now: UnixMillis) {
        let state = match failure.class {
            FailureClass::Timeout => AttemptState::TimedOut,
            FailureClass::Lost => AttemptState::Lost,
            _ => AttemptState::Failed,
        };
        let Some(token) = self.runs.get(id).and_then(|run| run.live_token(task)) else { return };
        self.end_attempt(id, task, state, Some(failure.clone()), now);
        let Some(run) = self.runs.get_mut(id) else { return };
        let entry = &mut run.tasks[task];
        entry.tries += 1;
        entry.failure = Some(failure.clone());
        let next = retry::next_try(&run.spec.tasks[task].retry, failure.class, entry.tries, &token, now);
        match next {
            Some(until) if run.state == RunState::Running => {
                entry.state = TaskState::Backoff { until };
                self.fleet.tally.retries += 1;
                run.revision += 1;
                self.backoffs.insert((until, id.clone(), count(task)));
                self.changed.tasks.insert((id.clone(), count(task)));
                self.effects.push(Effect::RunChanged(id.clone()));
            }
            _ => {
                self.close(id, task, TaskState::Failed, now);
                self.fail_downstream(id, task, now);
            }
        }
    }

    /// The lease is over: the worker has stopped the attempt on its side, this side reschedules.
    pub(super) fn lease_expired(&mut self, id: &RunId, task: usize, now: UnixMillis) {
        let Some(run) = self.runs.get(id) else {
            self.release(id, task);
            return;
        };
        let TaskState::Live(live) = &run.tasks[task].state else {
            self.release(id, task);
            return;
        };
        let (cancelling, started, worker) = (live.cancelling, live.started, live.worker.clone());
        self.fleet.tally.leases_lost += 1;
        if cancelling {
            self.end_attempt(id, task, AttemptState::Cancelled, None, now);
            self.close(id, task, TaskState::Cancelled, now);
        } else if started {
            let message = format!("worker `{}` was silent for longer than its lease", worker.name);
            self.attempt_failed(id, task, Failure::new(FailureClass::Lost, message), now);
        } else {
            // It never began: no try is burnt.
            self.end_attempt(id, task, AttemptState::Lost, None, now);
            self.back_to_ready(id, task, now);
        }
        self.end_run_if_done(id, now);
    }

    pub(super) fn hand_back(
        &mut self,
        worker: &WorkerKey,
        token: &Token,
        started: bool,
        now: UnixMillis,
    ) -> Result<Verdict, Refused> {
        let Some(task) = self.current(worker, token)? else { return Ok(Verdict::Stale) };
        let id = &token.run;
        if started {
            self.mark_started(id, task, now);
        }
        let cancelling = self
            .runs
            .get(id)
            .is_some_and(|run| matches!(&run.tasks[task].state, TaskState::Live(Live { cancelling: true, .. })));
        self.end_attempt(id, task, AttemptState::HandedBack, None, now);
        if cancelling {
            self.close(id, task, TaskState::Cancelled, now);
            self.end_run_if_done(id, now);
        } else {
            self.back_to_ready(id, task, now);
        }
        Ok(Verdict::Done)
    }

    /// Any live or waiting state -> Ready, in the queue.
    pub(super) fn back_to_ready(&mut self, id: &RunId, task: usize, _now: UnixMillis) {
        let Some(run) = self.runs.get_mut(id) else { return };
        run.tasks[task].state = TaskState::Ready;
        run.tasks[task].progress = None;
        run.revision += 1;
        self.changed.tasks.insert((id.clone(), count(task)));
        self.effects.push(Effect::RunChanged(id.clone()));
        self.enqueue(id, task);
    }

    /// Ends the live attempt of a task and frees its lease. The caller chooses the next state of the task.
    pub(super) fn end_attempt(
        &mut self,
        id: &RunId,
        task: usize,
        outcome: AttemptState,
        failure: Option<Failure>,
        now: UnixMillis,
    ) {
        self.release(id, task);
        let Some(run) = self.runs.get_mut(id) else { return };
        let TaskState::Live(live) = &run.tasks[task].state else { return };
        let number = live.attempt;
        self.fleet.tally.attempt_ended(outcome, failure.as_ref());
        if let Some(attempt) = run.tasks[task].attempt_mut(number) {
            attempt.state = outcome;
            attempt.ended_at = now;
            attempt.failure = failure;
        }
        self.changed.attempts.insert((id.clone(), count(task), number));
    }

    fn release(&mut self, id: &RunId, task: usize) {
        let holder = match self.runs.get(id).and_then(|run| run.tasks.get(task)).map(|task| &task.state) {
            Some(TaskState::Live(live)) => Some(live.worker.clone()),
            _ => None,
        };
        let key = (id.clone(), count(task));
        match holder.and_then(|worker| self.workers.get_mut(&worker)) {
            Some(worker) => {
                worker.leased.remove(&key);
            }
            None => {
                for worker in self.workers.values_mut() {
                    worker.leased.remove(&key);
                }
            }
        }
        self.forget_idle_workers();
    }

    /// Any open state -> a terminal one.
    pub(super) fn close(&mut self, id: &RunId, task: usize, state: TaskState, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(id) else { return };
        let entry = &mut run.tasks[task];
        if entry.state.is_terminal() {
            return;
        }
        entry.state = state;
        entry.progress = None;
        entry.ended_at = now;
        run.open = run.open.saturating_sub(1);
        run.revision += 1;
        if run.spec.tasks[task].resources.gpu != GpuPreference::None {
            self.gpu_open = self.gpu_open.saturating_sub(1);
        }
        self.changed.tasks.insert((id.clone(), count(task)));
        self.effects.push(Effect::RunChanged(id.clone()));
    }

    /// Waiting -> UpstreamFailed for everything after a failed task.
    fn fail_downstream(&mut self, id: &RunId, task: usize, now: UnixMillis) {
        let mut stack = vec![task];
        while let Some(failed) = stack.pop() {
            let Some(run) = self.runs.get(id) else { return };
            let waiting: Vec<usize> = run.dependants[failed]
                .iter()
                .map(|&next| next as usize)
                .filter(|&next| matches!(run.tasks[next].state, TaskState::Waiting { .. }))
                .collect();
            for next in waiting {
                self.close(id, next, TaskState::UpstreamFailed, now);
                stack.push(next);
            }
            let Some(run) = self.runs.get(id) else { return };
            if matches!(run.tasks[failed].state, TaskState::Waiting { .. }) {
                self.close(id, failed, TaskState::UpstreamFailed, now);
            }
        }
    }

    /// Running or Cancelling -> a terminal run, when no task is open.
    pub(super) fn end_run_if_done(&mut self, id: &RunId, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(id) else { return };
        if run.open > 0 || run.state.is_terminal() {
            return;
        }
        let any = |wanted: &TaskState| run.tasks.iter().any(|task| task.state == *wanted);
        run.state = if run.state == RunState::Cancelling && any(&TaskState::Cancelled) {
            RunState::Cancelled
        } else if any(&TaskState::Failed) || any(&TaskState::UpstreamFailed) {
            RunState::Failed
        } else if any(&TaskState::Cancelled) {
            RunState::Cancelled
        } else {
            RunState::Succeeded
        };
        run.ended_at = now;
        run.revision += 1;
        self.fleet.tally.run_ended(run.state);
        self.changed.runs.insert(id.clone());
        self.effects.push(Effect::RunChanged(id.clone()));
    }
}
