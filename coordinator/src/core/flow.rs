//! How the end of one task begins others: rules, conditions, fan-outs, sensors, and the end of the run.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    failure::{Failure, FailureClass},
    ids::RunId,
    resources::GpuPreference,
};

use super::{
    Core, Effect, Record, Run, RunState, TaskState, UnixMillis,
    event::{CachedResult, Past},
    group::{Group, Items, room},
    readiness::{self, Condition, News, Rule},
    run::{FIRST_CHILD, Task, UNQUEUED, count},
};
use crate::{
    defect::{self, Defect},
    spec::{Over, Work},
};

/// Children of fan-outs that begin in one decision. Each costs a condition, the texts of its task and a look into the past:
/// those of a wide fan-out begin over many turns, and heartbeats are answered in between.
pub(super) const SLICE: usize = 1_000;

/// An end whose consequences are to be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Of a task of the spec.
    Task(RunId, u32),
    /// Of a child.
    Child(RunId, u32),
    /// Everything in the run that is not `finally` has ended.
    AllElse(RunId),
}

impl Core {
    /// Draws the consequences of everything that ended: what comes after it begins or is skipped, fan-outs and runs end,
    /// runs that waited for them start.
    pub(super) fn settle(&mut self, now: UnixMillis, past: &dyn Past) {
        loop {
            while let Some(settled) = self.settled.pop() {
                match settled {
                    Settled::Task(id, node) => self.after_task(id, node, now, past),
                    Settled::Child(id, child) => self.after_child(id, child, now),
                    Settled::AllElse(id) => self.begin_finally(id, now, past),
                }
            }
            let Some(id) = self.touched.pop_first() else { return };
            if self.end_run_if_done(id, now) {
                self.leave(id, now, past);
            }
        }
    }

    /// Begins what waits for nothing in a run that starts, reruns or is restored.
    pub(super) fn launch(&mut self, id: RunId, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get(&id) else { return };
        for node in 0..count(run.tasks.len()) {
            self.consider(id, node, News::Any, now, past);
        }
        self.touched.insert(id);
    }

    /// Puts what was ready, and what waits for a time, back into queue and timers.
    pub(super) fn resume(&mut self, id: RunId, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let (mut ready, mut fan_outs) = (Vec::new(), BTreeSet::new());
        let mut live = Vec::new();
        let mut next_child = BTreeMap::new();
        for (node, task) in run.tasks.iter().enumerate().filter(|(_, task)| task.next_child > 0) {
            next_child.insert(node, task.next_child);
            self.expanding.push_back((id, count(node)));
        }
        for index in run.indices() {
            let next = next_child.get(&run.node_of(index)).copied();
            let Some(task) = run.task_mut(index) else { continue };
            match &mut task.state {
                TaskState::Ready => ready.push(index),
                // A child that was never touched since it began.
                TaskState::Waiting { .. } if index >= FIRST_CHILD && next.is_none_or(|next| index < next) => {
                    task.state = TaskState::Ready;
                    ready.push(index);
                }
                TaskState::Sensing { next } => {
                    *next = now;
                    self.timers.insert((now, id, index));
                }
                TaskState::Backoff { .. } if defect::is(Defect::TimerLost) => {}
                TaskState::Backoff { until } => drop(self.timers.insert((*until, id, index))),
                TaskState::Live(attempt) => {
                    self.timers.insert((attempt.timer, id, index));
                    live.push(index);
                }
                _ => {}
            }
        }
        for index in live {
            if let Some(class) = self.classify(id, index) {
                self.queue.hold(class, (id, index));
            }
        }
        for index in ready {
            if index < FIRST_CHILD {
                self.enqueue(id, index, now);
                continue;
            }
            let Some(run) = self.runs.get_mut(&id) else { return };
            let node = count(run.node_of(index));
            if let Some(group) = run.groups.get_mut(&node) {
                group.held.push_back(index);
                fan_outs.insert(node);
            }
        }
        for node in fan_outs {
            self.release(id, node, now);
        }
    }

    /// Puts children of a fan-out into the queue that were held back, as many as may go on at a time.
    fn release(&mut self, id: RunId, node: u32, now: UnixMillis) {
        loop {
            let Some(run) = self.runs.get_mut(&id) else { return };
            let most = run.spec.tasks[node as usize].flow.fan_out.as_ref().and_then(|fan_out| fan_out.max_parallel);
            let Some(group) = run.groups.get_mut(&node) else { return };
            if most.is_some_and(|most| group.going >= most) {
                return;
            }
            let Some(child) = group.held.pop_front() else { return };
            if run.task(child).is_none_or(|child| child.state != TaskState::Ready) {
                continue; // It was cancelled while it was held back.
            }
            if let Some(group) = run.groups.get_mut(&node) {
                group.going += 1;
            }
            self.enqueue(id, child, now);
        }
    }

    /// A task of the spec has ended: those that wait for it come one need nearer. O(out-degree).
    fn after_task(&mut self, id: RunId, node: u32, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let graph = std::sync::Arc::clone(&run.graph);
        for &next in &graph.dependants[node as usize] {
            let Some(run) = self.runs.get_mut(&id) else { return };
            if let TaskState::Waiting { needs_left } = &mut run.tasks[next as usize].state {
                let by = if defect::is(Defect::CountedTwice) { 2 } else { 1 };
                *needs_left = needs_left.saturating_sub(by);
                self.consider(id, next, News::Ended(node), now, past);
            }
        }
    }

    /// Everything else has ended: the `finally` tasks come one need nearer.
    fn begin_finally(&mut self, id: RunId, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get(&id) else { return };
        let graph = std::sync::Arc::clone(&run.graph);
        for &node in &graph.finally {
            let Some(run) = self.runs.get_mut(&id) else { return };
            if let TaskState::Waiting { needs_left } = &mut run.tasks[node as usize].state {
                *needs_left = needs_left.saturating_sub(1);
                self.consider(id, node, News::AllElse, now, past);
            }
        }
    }

    /// Asks the rule of a waiting task whether it may begin.
    fn consider(&mut self, id: RunId, node: u32, news: News, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get(&id) else { return };
        if run.state == RunState::Queued {
            return;
        }
        match readiness::rule(run, node as usize, news) {
            Rule::Wait => {}
            Rule::Run => self.begin(id, node, now, past),
            Rule::Skip => self.close(id, node, TaskState::Skipped, now),
            Rule::UpstreamFailed => self.close(id, node, TaskState::UpstreamFailed, now),
            Rule::Cancel => self.close(id, node, TaskState::Cancelled, now),
        }
    }

    /// Waiting -> Ready, Sensing or Expanded, if the condition holds.
    fn begin(&mut self, id: RunId, node: u32, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get(&id) else { return };
        let bound = &run.spec.tasks[node as usize];
        let fan_out = bound.flow.fan_out.is_some();
        if let Some(text) = &bound.flow.when
            && !(fan_out && readiness::is_per_child(text))
        {
            match Condition::of(run, node as usize, text).and_then(|when| when.holds(run, None)) {
                Ok(true) => {}
                Ok(false) => return self.close(id, node, TaskState::Skipped, now),
                Err(reason) => return self.fail_condition(id, node, &reason, now),
            }
        }
        if fan_out {
            self.expand(id, node, now, past);
        } else if matches!(bound.work, Work::Sensor { .. }) {
            self.sense(id, node, now);
        } else {
            self.offer(id, node, now, past);
        }
    }

    fn fail_condition(&mut self, id: RunId, index: u32, reason: &str, now: UnixMillis) {
        let failure = Failure::new(FailureClass::User, format!("its condition cannot be decided: {reason}"))
            .hint("`when` sees params, tasks.NAME.state, tasks.NAME.outputs.OUTPUT of its needs, item and key");
        self.fail_now(id, index, failure, now);
    }

    /// Ends a task without an attempt.
    pub(super) fn fail_now(&mut self, id: RunId, index: u32, failure: Failure, now: UnixMillis) {
        if let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) {
            task.failure = Some(Box::new(failure));
        }
        self.close(id, index, TaskState::Failed, now);
    }

    /// -> Succeeded, where the cache has the result; else -> Ready. A state that follows from the ends of the needs is not
    /// written: a restart finds it again.
    fn offer(&mut self, id: RunId, index: u32, now: UnixMillis, past: &dyn Past) {
        if self.use_cache(id, index, now, past) {
            return;
        }
        let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) else { return };
        task.state = TaskState::Ready;
        self.watchers(id);
        self.enqueue(id, index, now);
    }

    /// Closes a task whose key has a committed result, without a lease.
    fn use_cache(&mut self, id: RunId, index: u32, now: UnixMillis, past: &dyn Past) -> bool {
        let Some(run) = self.runs.get(&id) else { return false };
        let Some((task, bound)) = run.task(index).zip(run.bound(index)) else { return false };
        if run.no_cache || task.forced || !bound.cache {
            return false;
        }
        let Some(found) = super::cache::key_of(run, index).and_then(|key| past.cached(&key)) else { return false };
        // A condition further down may need what an old entry does not have.
        if !bound.inline.iter().all(|name| found.inline.contains_key(name)) {
            return false;
        }
        let outputs = found.outputs.clone();
        self.records.push(Record::Produced { run: id, task: index, attempt: 0, outputs, cached: true });
        self.succeed(id, index, found, true, now);
        true
    }

    /// -> Succeeded, with its results.
    pub(super) fn succeed(&mut self, id: RunId, index: u32, result: CachedResult, cached: bool, now: UnixMillis) {
        if let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) {
            task.outputs = result.outputs;
            task.metrics_json = result.metrics_json;
            task.inline = result.inline;
            task.cached = cached;
            task.failure = None;
        }
        self.close(id, index, TaskState::Succeeded, now);
    }

    /// -> Expanded: one child for each item, those of an earlier generation found again by key.
    fn expand(&mut self, id: RunId, node: u32, now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let spec = std::sync::Arc::clone(&run.spec);
        let Some(fan_out) = &spec.tasks[node as usize].flow.fan_out else { return };
        let asked = run.groups.get_mut(&node).map(|group| std::mem::take(&mut group.asked)).unwrap_or_default();
        let source = match &fan_out.over {
            Over::Output(from) => run.tasks[from.task].inline.get(&from.output).cloned(),
            _ => None,
        };
        let open = if !asked.is_empty() {
            asked.iter().copied().collect()
        } else {
            let (most, children) = (self.most_children, run.children.len());
            // Items of before keep their children; how many of others are new shows only as they grow.
            let known = |items: &Items| run.groups.get(&node).is_some_and(|group| group.items == *items);
            let fitting = Items::of(fan_out, source.as_ref()).map_err(|reason| (reason, "")).and_then(|items| {
                let more = if known(&items) { 0 } else { items.len() };
                let hint = "let each child do several items, or split the pipeline into several runs";
                room(children, more, most).map(|()| items).map_err(|reason| (reason, hint))
            });
            let items = match fitting {
                Ok(items) => items,
                Err((reason, hint)) => {
                    let message = format!("its items make no fan-out: {reason}");
                    let failure = Failure::new(FailureClass::User, message).hint(hint);
                    return self.fail_now(id, node, failure, now);
                }
            };
            grow(run, node, items)
        };
        let forced = run.generation > 0 && run.tasks[node as usize].forced;
        let wanted: BTreeSet<u32> = open.iter().copied().collect();
        let members = run.groups.get(&node).map(|group| group.members.clone()).unwrap_or_default();
        for &member in &members {
            let Some(child) = run.task_mut(member) else { continue };
            if wanted.contains(&member) {
                match child.state {
                    TaskState::Waiting { .. } => child.forced = forced,
                    _ => child.reset(),
                }
            } else if asked.is_empty() {
                child.state = TaskState::Dropped;
            }
        }
        let expanded = &mut run.tasks[node as usize];
        expanded.state = TaskState::Expanded;
        // Where they begin over many turns it is in the order of their indices: new items come last.
        let wide = open.len() > SLICE;
        expanded.next_child = wanted.first().copied().filter(|_| wide).unwrap_or(0);
        if run.generation > 0 {
            // Their records speak of the generation before.
            self.changed.tasks.extend(members.iter().map(|&member| (id, member)));
        }
        let mut groups = std::mem::take(&mut run.groups);
        if let Some(group) = groups.get_mut(&node) {
            group.recount(|index| run.task(index).map(|task| &task.state));
            group.held.clear();
            group.stopped = false;
        }
        run.groups = groups;
        self.changed.groups.insert((id, node));
        self.mark(id, node);
        if !wide {
            self.begin_children(id, node, &open, now, past);
        } else if self.begin_slice(id, node, now, past) {
            self.expanding.push_back((id, node));
        }
        self.finish_group_if_done(id, node, now);
    }

    /// Begins some of the children of the fan-out whose turn it is.
    pub(super) fn begin_more_children(&mut self, now: UnixMillis, past: &dyn Past) {
        let Some((id, node)) = self.expanding.pop_front() else { return };
        if self.begin_slice(id, node, now, past) {
            self.expanding.push_back((id, node));
        }
    }

    /// Begins children of a fan-out that have not, a slice of them. Says whether more are left.
    fn begin_slice(&mut self, id: RunId, node: u32, now: UnixMillis, past: &dyn Past) -> bool {
        let Some(run) = self.runs.get_mut(&id) else { return false };
        let Some(task) = run.tasks.get(node as usize).filter(|task| task.next_child > 0) else { return false };
        let (next, members) = (task.next_child, run.groups.get(&node).map_or(&[][..], |group| &group.members));
        let waits =
            |member: &u32| run.task(*member).is_some_and(|child| matches!(child.state, TaskState::Waiting { .. }));
        let left = members[members.partition_point(|member| *member < next)..].iter().copied();
        let mut slice: Vec<u32> = left.filter(waits).take(SLICE + 1).collect();
        let next = if slice.len() > SLICE { slice.pop() } else { None };
        run.tasks[node as usize].next_child = next.unwrap_or(0);
        // Written with what has begun: after a restart the others begin as if nothing had happened.
        self.mark(id, node);
        self.begin_children(id, node, &slice, now, past);
        next.is_some()
    }

    /// Begins children: those whose condition is false are skipped, those in the cache are done, the others are ready, as
    /// many of them as may go on at a time.
    fn begin_children(&mut self, id: RunId, node: u32, children: &[u32], now: UnixMillis, past: &dyn Past) {
        let Some(run) = self.runs.get(&id) else { return };
        let spec = std::sync::Arc::clone(&run.spec);
        let flow = &spec.tasks[node as usize].flow;
        let when = flow.when.as_deref().filter(|text| readiness::is_per_child(text));
        // Made once: what it sees besides the item is the same for all children.
        let when = when.map(|text| Condition::of(run, node as usize, text));
        for &child in children {
            if let Some(when) = &when {
                let Some(run) = self.runs.get(&id) else { return };
                let holds = match when {
                    Ok(when) => when.holds(run, run.item_of(child).as_ref()),
                    Err(reason) => Err(reason.clone()),
                };
                match holds {
                    Ok(true) => {}
                    Ok(false) => {
                        self.close(id, child, TaskState::Skipped, now);
                        continue;
                    }
                    Err(reason) => {
                        self.fail_condition(id, child, &reason, now);
                        continue;
                    }
                }
            }
            if let Err(reason) = self.filled_in(id, child) {
                let failure = Failure::new(FailureClass::User, format!("its item does not fit its texts: {reason}"));
                self.fail_now(id, child, failure, now);
                continue;
            }
            if matches!(spec.tasks[node as usize].work, Work::Sensor { .. }) {
                self.sense(id, child, now);
                continue;
            }
            if self.use_cache(id, child, now, past) {
                continue;
            }
            let Some(run) = self.runs.get_mut(&id) else { return };
            if let Some(task) = run.task_mut(child) {
                task.state = TaskState::Ready;
            }
            if let Some(group) = run.groups.get_mut(&node) {
                group.held.push_back(child);
            }
        }
        self.release(id, node, now);
        self.watchers(id);
    }

    /// Says whether the item of a child can be filled into the texts of its task.
    fn filled_in(&self, id: RunId, child: u32) -> Result<(), String> {
        let Some(run) = self.runs.get(&id) else { return Ok(()) };
        let Some((bound, item)) = run.bound(child).zip(run.item_of(child)) else { return Ok(()) };
        crate::spec::resolve_child(bound, &run.spec.working_dir, &item.value, item.key.as_str(), item.ordinal).map(drop)
    }

    /// A child has ended: the next one that was held back goes, a failure too many stops the others, the last one ends the
    /// fan-out.
    fn after_child(&mut self, id: RunId, child: u32, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let node = count(run.node_of(child));
        let Some(fan_out) = run.spec.tasks.get(node as usize).and_then(|bound| bound.flow.fan_out.as_ref()) else {
            return;
        };
        let failed = run.task(child).is_some_and(|task| task.state.is_failure());
        let Some(group) = run.groups.get_mut(&node) else { return };
        let stops = failed && fan_out.fail_fast && group.failed > fan_out.tolerate && group.open > 0;
        // Once: the children that it cancels end here as well.
        if stops && !std::mem::replace(&mut group.stopped, true) {
            self.cancel_children(id, node, now);
        } else {
            self.release(id, node, now);
        }
        self.finish_group_if_done(id, node, now);
    }

    /// Expanded -> Succeeded, Failed or Cancelled, once no child is open.
    fn finish_group_if_done(&mut self, id: RunId, node: u32, now: UnixMillis) {
        let Some(run) = self.runs.get(&id) else { return };
        if run.tasks[node as usize].state != TaskState::Expanded {
            return;
        }
        let Some(group) = run.groups.get(&node).filter(|group| group.open == 0) else { return };
        let tolerate = run.spec.tasks[node as usize].flow.fan_out.as_ref().map_or(0, |fan_out| fan_out.tolerate);
        let too_many = group.failed > tolerate;
        // Where no child failed by itself, somebody stopped it.
        let all_cancelled = group.failed == group.cancelled;
        if group.cancelled > 0 && (run.state == RunState::Cancelling || (too_many && all_cancelled)) {
            self.close(id, node, TaskState::Cancelled, now);
        } else if too_many {
            let failure = group_failure(run, group);
            self.fail_now(id, node, failure, now);
        } else {
            self.close(id, node, TaskState::Succeeded, now);
        }
    }

    /// -> Sensing. The coordinator looks at once, and again at each interval.
    fn sense(&mut self, id: RunId, index: u32, now: UnixMillis) {
        let Some(task) = self.runs.get_mut(&id).and_then(|run| run.task_mut(index)) else { return };
        task.state = TaskState::Sensing { next: now };
        task.ready_at = now;
        self.timers.insert((now, id, index));
        self.mark(id, index);
    }

    /// Any open state -> a terminal one.
    pub(super) fn close(&mut self, id: RunId, index: u32, state: TaskState, now: UnixMillis) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let node = run.node_of(index);
        let Some(task) = run.task_mut(index).filter(|task| !task.state.is_terminal()) else { return };
        let (failed, cancelled) = (state.is_failure(), state == TaskState::Cancelled);
        let before = std::mem::replace(&mut task.state, state);
        task.progress = None;
        task.next_child = 0;
        task.ended_at = now;
        let went_on = match before {
            TaskState::Backoff { until: at } => {
                self.timers.remove(&(at, id, index));
                true
            }
            TaskState::Sensing { next: at } => {
                self.timers.remove(&(at, id, index));
                false
            }
            TaskState::Live(_) => true,
            TaskState::Ready => task.class != UNQUEUED,
            _ => false,
        };
        if index >= FIRST_CHILD {
            if let Some(group) = run.groups.get_mut(&count(node)) {
                group.going = group.going.saturating_sub(u32::from(went_on));
                group.open = group.open.saturating_sub(1);
                group.failed += u32::from(failed);
                group.cancelled += u32::from(cancelled);
            }
            self.settled.push(Settled::Child(id, index));
        } else {
            let bound = &run.spec.tasks[node];
            run.open = run.open.saturating_sub(1);
            if bound.resources.gpu != GpuPreference::None {
                self.gpu_open = self.gpu_open.saturating_sub(1);
                self.stirred |= self.gpu_open == 0;
            }
            if !bound.flow.finally {
                run.open_main = run.open_main.saturating_sub(1);
                if run.open_main == 0 {
                    self.settled.push(Settled::AllElse(id));
                }
            }
            self.settled.push(Settled::Task(id, index));
            self.touched.insert(id);
        }
        self.mark(id, index);
    }

    /// Running or Cancelling -> a terminal run, when no task is open.
    fn end_run_if_done(&mut self, id: RunId, now: UnixMillis) -> bool {
        let Some(run) = self.runs.get_mut(&id) else { return false };
        if run.open > 0 || run.state.is_terminal() {
            return false;
        }
        run.state = readiness::outcome(run, &run.tasks);
        run.ended_at = now;
        self.upkeep.tally.run_ended(run.state);
        self.changed.runs.insert(id);
        self.watchers(id);
        self.effects.push(Effect::RunEnded(id));
        true
    }

    /// Gives the open tasks and children of a run, children first.
    pub(super) fn open_tasks(&self, id: RunId) -> Vec<u32> {
        let Some(run) = self.runs.get(&id) else { return Vec::new() };
        let open = |index: &u32| run.task(*index).is_some_and(|task| !task.state.is_terminal());
        let mut found: Vec<u32> = run.indices().filter(open).collect();
        found.sort_unstable_by_key(|index| *index < FIRST_CHILD);
        found
    }
}

/// Gives a fan-out its items, and a child for each new one. Gives the children that the items have, in their order.
fn grow(run: &mut Run, node: u32, items: Items) -> Vec<u32> {
    let next = FIRST_CHILD + count(run.children.len());
    let present = match run.groups.get_mut(&node) {
        Some(group) => group.replace(items, next),
        None => {
            let members: Vec<u32> = (next..next + count(items.len())).collect();
            run.groups.insert(node, Group::new(items, members.clone()));
            members
        }
    };
    let members = run.groups.get(&node).map_or(&[][..], |group| &group.members);
    let fresh = members.iter().filter(|&&member| member >= next).count();
    let first = count(members.len() - fresh);
    run.children.reserve_exact(fresh);
    for ordinal in first..first + count(fresh) {
        run.children.push(Task::new(0));
        run.homes.push((node, ordinal));
    }
    present
}

/// Says what became of a fan-out whose children failed, in the class of the first of them.
fn group_failure(run: &Run, group: &Group) -> Failure {
    let failing =
        group.members.iter().find(|&&member| run.task(member).is_some_and(|task| task.state == TaskState::Failed));
    let all = group.members.len();
    let Some(&first) = failing else {
        return Failure::new(FailureClass::User, format!("{} of {all} children were cancelled", group.cancelled));
    };
    let name = run.name_of(first).map(|name| name.to_string()).unwrap_or_default();
    let (class, message, hint) = run
        .task(first)
        .and_then(|task| task.failure.as_deref())
        .map_or((FailureClass::User, "no reason given", ""), |failure| {
            (failure.class, failure.message.as_str(), failure.hint.as_str())
        });
    let failed = group.failed.saturating_sub(group.cancelled);
    let cancelled =
        if group.cancelled > 0 { format!(" and {} were cancelled", group.cancelled) } else { String::new() };
    Failure::new(class, format!("{failed} of {all} children failed{cancelled}, first `{name}`: {message}")).hint(hint)
}
