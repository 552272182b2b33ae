//! Whether a task may begin: its rule over the ends of its needs, then its condition.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    Run, RunState, Task, TaskState,
    run::{Item, count},
};
use crate::{
    defect::{self, Defect},
    expr::{Expr, Scope},
    spec::RunIf,
};

/// Children of a fan-out that a condition can see: more would cost more than a condition is worth.
const MOST_CHILDREN_SEEN: usize = 10_000;

/// What the needs of a waiting task say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Wait,
    Run,
    Skip,
    UpstreamFailed,
    Cancel,
}

/// What has happened since the rule of a task was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Anything: its run starts, or is taken from the store.
    Any,
    /// This need has ended.
    Ended(u32),
    /// Everything in the run that is not `finally` has ended.
    AllElse,
}

/// Applies the rule of a task of the spec.
///
/// A rule is decided once all needs have ended, so that the outcome does not depend on their order; a failed need that
/// must succeed is the one thing that cannot get better, and is decided at once. A cancelled run begins nothing but
/// what runs `always` or `finally`.
///
/// While needs are left it costs one look at the need that has ended, so that an end costs as many steps as there are
/// tasks behind it, however many there are beside it.
pub(super) fn rule(run: &Run, node: usize, news: News) -> Rule {
    let TaskState::Waiting { needs_left } = run.tasks[node].state else { return Rule::Wait };
    let flow = &run.spec.tasks[node].flow;
    let states = || run.graph.needs[node].iter().map(|&need| &run.tasks[need as usize].state);
    if flow.run_if == RunIf::AllSucceeded {
        let failed = match news {
            News::Ended(need) if needs_left > 0 => run.tasks[need as usize].state.is_failure(),
            News::AllElse if needs_left > 0 => false,
            News::Any | News::Ended(_) | News::AllElse => states().any(TaskState::is_failure),
        };
        if failed {
            return Rule::UpstreamFailed;
        }
    }
    if needs_left > 0 {
        return Rule::Wait;
    }
    let cancelled = run.state == RunState::Cancelling && !defect::is(Defect::CancelForgotten);
    if cancelled && !flow.finally && flow.run_if != RunIf::Always {
        return Rule::Cancel;
    }
    let any = |wanted: fn(&TaskState) -> bool| states().any(wanted);
    match flow.run_if {
        RunIf::AllSucceeded if any(|state| *state == TaskState::Skipped) => Rule::Skip,
        RunIf::AllSucceeded | RunIf::AllDone | RunIf::Always => Rule::Run,
        RunIf::AnySucceeded if any(|state| *state == TaskState::Succeeded) => Rule::Run,
        RunIf::AnySucceeded if any(TaskState::is_failure) => Rule::UpstreamFailed,
        RunIf::AnyFailed if any(|state| matches!(state, TaskState::Failed | TaskState::UpstreamFailed)) => Rule::Run,
        RunIf::AnySucceeded | RunIf::AnyFailed => Rule::Skip,
    }
}

/// Says whether a condition speaks of the items of a fan-out, and so is asked for each child.
pub(super) fn is_per_child(text: &str) -> bool {
    Expr::parse(text).is_ok_and(|expr| !expr.references().item.is_empty())
}

/// The condition of a task, with what it sees.
#[derive(Debug)]
pub(super) struct Condition {
    expr: Expr,
    tasks: Map<String, Value>,
    facts: Map<String, Value>,
}

impl Condition {
    /// Reads the condition of a task of the spec.
    ///
    /// # Errors
    /// Says what is wrong with it, for the author of the pipeline.
    pub fn of(run: &Run, node: usize, text: &str) -> Result<Self, String> {
        let expr = Expr::parse(text).map_err(|e| e.to_string())?;
        Ok(Self { expr, tasks: tasks_of(run, node), facts: facts_of(run) })
    }

    /// Evaluates it for the task, or for one child of it.
    ///
    /// # Errors
    /// As [`Condition::of`].
    pub fn holds(&self, run: &Run, item: Option<&Item>) -> Result<bool, String> {
        let scope = Scope {
            params: &run.spec.values,
            tasks: &self.tasks,
            item: item.map(|item| &item.value),
            key: item.map(|item| item.key.as_str()),
            index: item.map(|item| item.ordinal),
            run: &self.facts,
        };
        self.expr.eval_bool(&scope).map_err(|e| e.to_string())
    }
}

/// Gives what a condition can see of other tasks: the needs of its own, for a `finally` task everything.
fn tasks_of(run: &Run, node: usize) -> Map<String, Value> {
    let seen: BTreeSet<usize> = if run.spec.tasks[node].flow.finally {
        (0..run.tasks.len()).collect()
    } else {
        run.graph.needs[node].iter().map(|&need| need as usize).collect()
    };
    seen.into_iter()
        .map(|need| {
            let task = &run.tasks[need];
            let outputs: Map<String, Value> =
                task.inline.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            let mut seen = json!({ "state": task.state.word(), "outputs": outputs });
            if let (Some(group), Some(seen)) = (run.groups.get(&count(need)), seen.as_object_mut()) {
                let children: Map<String, Value> = group
                    .members
                    .iter()
                    .enumerate()
                    .take(MOST_CHILDREN_SEEN)
                    .filter_map(|(ordinal, member)| {
                        let (key, _) = group.items.get(count(ordinal))?;
                        let child = run.task(*member).filter(|child| child.state != TaskState::Dropped)?;
                        Some((key.to_string(), child.state.word().into()))
                    })
                    .collect();
                seen.insert("children".to_owned(), Value::Object(children));
            }
            (run.spec.tasks[need].name.to_string(), seen)
        })
        .collect()
}

/// Says how a run ends whose tasks have ended like these.
pub(super) fn outcome<'a>(run: &Run, tasks: impl IntoIterator<Item = &'a Task>) -> RunState {
    let (mut failed, mut cancelled, mut stopped) = (false, false, false);
    for task in tasks {
        failed |= task.state == TaskState::Failed;
        cancelled |= task.state == TaskState::Cancelled;
        stopped |= task.state == TaskState::UpstreamFailed;
    }
    let wanted = matches!(run.state, RunState::Cancelling | RunState::Queued);
    match (failed, cancelled) {
        (_, true) if wanted => RunState::Cancelled,
        (true, _) => RunState::Failed,
        // What comes after a cancelled task fails upstream, which makes no failure of a cancel.
        (false, true) => RunState::Cancelled,
        (false, false) if stopped => RunState::Failed,
        (false, false) => RunState::Succeeded,
    }
}

/// Gives what a condition can see of the run. To a `finally` task its state is what has come of everything else, which
/// no longer changes.
fn facts_of(run: &Run) -> Map<String, Value> {
    let main = || run.tasks.iter().zip(&run.spec.tasks).filter(|(_, bound)| !bound.flow.finally).map(|(task, _)| task);
    let state = match run.state {
        RunState::Cancelling if run.open_main > 0 => "cancelling",
        _ if run.open_main > 0 => "running",
        _ => match outcome(run, main()) {
            RunState::Cancelled => "cancelled",
            RunState::Failed => "failed",
            _ => "succeeded",
        },
    };
    let facts = json!({ "id": run.id.to_string(), "state": state, "generation": run.generation });
    match facts {
        Value::Object(facts) => facts,
        _ => Map::new(),
    }
}
