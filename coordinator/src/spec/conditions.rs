//! What `when` reads, against the tasks and parameters that there are; and `run_if` and `finally` against the edges.

use std::collections::HashMap;

use super::{
    code::Code,
    diagnostic::quote,
    fanout::DraftOver,
    faults::{Span, list},
    fields::Check,
    flow::When,
    model::RunIf,
    params::Params,
    resolve::Edges,
    tasks::{Draft, DraftWork},
};
use crate::expr::{Part, TaskUse, Use};

/// How a task can have ended, in the words of an expression.
pub(super) const ENDS: [&str; 6] = ["succeeded", "failed", "upstream_failed", "skipped", "cancelled", "dropped"];

/// Checks the conditions of every task.
pub(super) fn check(drafts: &[Draft<'_>], edges: &[Edges], params: &mut Params, check: &mut Check<'_>) {
    let names: HashMap<&str, usize> = drafts.iter().enumerate().map(|(at, draft)| (draft.name, at)).collect();
    let mut sorted: Vec<&str> = names.keys().copied().collect();
    sorted.sort_unstable();
    let all = All { drafts, edges, names, sorted };
    for (at, draft) in drafts.iter().enumerate() {
        if let Some(when) = &draft.flow.when {
            all.when(at, when, params, check);
        }
        all.run_if(at, check);
        all.finally(at, check);
    }
}

struct All<'d, 't> {
    drafts: &'d [Draft<'t>],
    edges: &'d [Edges],
    names: HashMap<&'t str, usize>,
    sorted: Vec<&'t str>,
}

impl All<'_, '_> {
    fn needs(&self, at: usize, task: usize) -> bool {
        self.edges[at].needs.iter().any(|(needed, _)| *needed == task)
    }

    fn when(&self, at: usize, when: &When<'_>, params: &mut Params, check: &mut Check<'_>) {
        let draft = &self.drafts[at];
        let found = when.expr.references();
        let place =
            |offset: usize, length: usize, check: &Check<'_>| check.inside(when.span, when.text, offset, length);
        for one in &found.params {
            if params.refer(&one.name).is_none() {
                let hint = check.faults.did_you_mean(&one.name, params.names());
                let hint = hint
                    .unwrap_or_else(|| format!("declare it under [params]: {} = {{ type = \"string\" }}", one.name));
                let span = place(one.offset, one.length, check);
                let message = format!("there is no parameter {}", quote(&one.name));
                check.faults.error(Code::UnknownParam, span, message, hint);
            }
        }
        if found.any_param.is_some() {
            params.refer_all();
        }
        for one in &found.tasks {
            let span = place(one.offset, one.length, check);
            self.task_use(at, one, span, check);
        }
        if let Some(one) = found.any_task.as_ref().filter(|_| !draft.flow.finally) {
            let span = place(one.offset, one.length, check);
            let hint = "name the task: tasks.NAME.state, or tasks[\"my-task\"].state".to_owned();
            check.faults.error(Code::BadCondition, span, "only a `finally` task may look at all tasks", hint);
        }
        for one in found.item.iter().filter(|_| draft.flow.fan_out.is_none()) {
            let span = place(one.offset, one.length, check);
            let message = format!("{} is for the children of a fan-out, and this task is none", quote(&one.name));
            check.faults.error(Code::BadCondition, span, message, "give the task `foreach` or `matrix`".to_owned());
        }
        for one in &found.run {
            let span = place(one.offset, one.length, check);
            run(one, draft.flow.finally, span, check);
        }
        for one in &found.unknown {
            let span = place(one.offset, one.length, check);
            self.unknown(one, span, params, check);
        }
        for test in &found.states {
            let Some(&task) = self.names.get(test.task.as_str()) else { continue };
            for word in test.words.iter().filter(|word| !ENDS.contains(&word.name.as_str())) {
                let near = check.faults.did_you_mean(&word.name, ENDS);
                let hint = near.unwrap_or_else(|| format!("a task that has ended is one of {}", list(ENDS)));
                let span = place(word.offset, word.length, check);
                let message = format!("no task ends as {}", quote(&word.name));
                check.faults.error(Code::BadCondition, span, message, hint);
            }
            let other = test.words.iter().all(|word| word.name != "succeeded" && ENDS.contains(&word.name.as_str()));
            if let Some(word) = test.words.first().filter(|_| other)
                && draft.flow.run_if == RunIf::AllSucceeded
                && self.needs(at, task)
            {
                let span = place(word.offset, word.length, check);
                let message = format!("{} has succeeded whenever this is looked at", quote(&test.task));
                let hint = "add run_if = \"all_done\" to look at other ends too".to_owned();
                check.faults.warning(Code::DeadCondition, span, message, hint);
            }
        }
    }

    fn task_use(&self, at: usize, one: &TaskUse, span: Span, check: &mut Check<'_>) {
        let draft = &self.drafts[at];
        let name = one.task.as_str();
        let Some(&task) = self.names.get(name) else {
            // `tasks.my-task.state` is read as a difference.
            let long = format!("{name}-");
            let longer = self.sorted.get(self.sorted.partition_point(|known| *known < long.as_str()));
            let longer = longer.filter(|known| known.starts_with(&long));
            let hint = match longer {
                Some(long) => Some(format!("a name with - is written tasks[\"{long}\"]")),
                None => check.faults.did_you_mean(name, self.drafts.iter().map(|draft| draft.name)),
            };
            let message =
                format!("the condition of {} reads {}, which is not in this pipeline", quote(draft.name), quote(name));
            check.faults.error(Code::UnknownTask, span, message, hint);
            return;
        };
        if task == at {
            let message = format!("the condition of {} reads the task itself", quote(draft.name));
            check.faults.error(Code::SelfDependency, span, message, "it has not run yet".to_owned());
            return;
        }
        let other = &self.drafts[task];
        // What is not `finally` has ended before anything that is.
        let ended = draft.flow.finally && !other.flow.finally;
        if !ended && !self.needs(at, task) {
            let message = format!(
                "the condition of {} reads {}, which may not have ended by then",
                quote(draft.name),
                quote(name)
            );
            let hint = format!("wait for it: add \"{name}\" to `after`");
            check.faults.error(Code::BadCondition, span, message, hint);
            return;
        }
        let refuse = |message: String, hint: String, check: &mut Check<'_>| {
            check.faults.error(Code::BadCondition, span, message, hint);
        };
        match &one.part {
            Part::State => {}
            Part::Children if other.flow.fan_out.is_some() => {}
            Part::Children => {
                refuse(
                    format!("{} is no fan-out and has no children", quote(name)),
                    "read its `state`".to_owned(),
                    check,
                );
            }
            Part::Whole | Part::Outputs => {
                let hint = "name what of it: `state`, `outputs.NAME`, or `children` of a fan-out".to_owned();
                refuse("this is no value that a condition can look at".to_owned(), hint, check);
            }
            Part::Unknown(part) => {
                let near = check.faults.did_you_mean(part, ["state", "outputs", "children"]);
                let hint = near.unwrap_or_else(|| "it has `state`, `outputs` and, as a fan-out, `children`".to_owned());
                refuse(format!("a task has no {}", quote(part)), hint, check);
            }
            Part::Output(output) => self.output(other, output, span, check),
        }
    }

    fn output(&self, task: &Draft<'_>, output: &str, span: Span, check: &mut Check<'_>) {
        let name = task.name;
        if task.flow.fan_out.is_some() {
            let hint = "read its `state` or its `children`, or join the outputs in a task after it".to_owned();
            let message = format!("{} is a fan-out: each child has a {} of its own", quote(name), quote(output));
            check.faults.error(Code::BadCondition, span, message, hint);
            return;
        }
        let Some(ports) = task.outputs() else { return };
        let json = || ports.iter().filter(|port| port.kind == "json").map(|port| port.name.as_str());
        match task.port(output) {
            Some(port) if port.kind == "json" => {}
            Some(port) => {
                let message = format!(
                    "{} is of kind {}, and a condition reads json",
                    quote(&format!("{name}.{output}")),
                    port.kind
                );
                let hint = match json().next() {
                    Some(_) => format!("outputs of that kind: {}", list(json())),
                    None => "let the task put out what is to be looked at as json".to_owned(),
                };
                check.faults.error(Code::KindMismatch, span, message, hint);
            }
            None => {
                let hint = check.faults.did_you_mean(output, json()).or_else(|| match &task.work {
                    DraftWork::Command(_) => Some(format!("declare it there: outputs = {{ {output} = \"json\" }}")),
                    _ => json().next().map(|_| format!("its outputs of kind json: {}", list(json()))),
                });
                let message = format!("{} has no output {}", quote(name), quote(output));
                check.faults.error(Code::UnknownOutput, span, message, hint);
            }
        }
    }

    fn unknown(&self, one: &Use, span: Span, params: &mut Params, check: &mut Check<'_>) {
        let name = one.name.as_str();
        let hint = if params.refer(name).is_some() {
            format!("did you mean `params.{name}`?")
        } else if self.names.contains_key(name) {
            format!("did you mean `tasks.{name}`?")
        } else if super::keys::RUN_IF.contains(&name) {
            format!("did you mean run_if = \"{name}\"?")
        } else {
            let roots = ["params", "tasks", "item", "key", "index", "run"];
            let near = check.faults.did_you_mean(name, roots);
            near.unwrap_or_else(|| format!("a condition reads {}; text stands in quotes: '{name}'", list(roots)))
        };
        check.faults.error(Code::BadCondition, span, format!("there is no {}", quote(name)), hint);
    }

    fn run_if(&self, at: usize, check: &mut Check<'_>) {
        let draft = &self.drafts[at];
        let Some(span) = draft.flow.run_if_span.filter(|_| draft.flow.run_if != RunIf::AllSucceeded) else { return };
        if draft.inputs.is_empty() && draft.after.is_empty() && self.edges[at].needs.is_empty() {
            let hint = if draft.flow.finally {
                "look at the run instead: when = \"run.state == 'failed'\"".to_owned()
            } else {
                "name what it waits for in `after`".to_owned()
            };
            let message = format!("{} waits for no task, so that `run_if` has nothing to look at", quote(draft.name));
            check.faults.warning(Code::DeadCondition, span, message, hint);
        }
        if let Some(DraftOver::Output((from, span))) = draft.flow.fan_out.as_ref().map(|fan| &fan.over) {
            let message = format!("without {} there are no items, so that it must have succeeded", quote(from));
            let hint = "keep run_if = \"all_succeeded\" on a task that fans out over an output".to_owned();
            check.faults.error(Code::MayBeMissing, *span, message, hint);
        }
        let DraftWork::Operator(spec) = &draft.work else { return };
        for ((input, _), (_, span)) in &draft.inputs {
            let Some(port) = spec.inputs.iter().find(|port| port.name == *input && !port.optional) else { continue };
            let message = format!(
                "{} needs the input `{}`, but the task may run although what makes it did not succeed",
                quote(&spec.name),
                port.name
            );
            let optional: Vec<&str> =
                spec.inputs.iter().filter(|port| port.optional).map(|port| port.name.as_str()).collect();
            let hint = if optional.is_empty() {
                "leave `run_if` at all_succeeded, or use a command, which may look whether the file is there".to_owned()
            } else {
                format!("its optional inputs: {}; or leave `run_if` at all_succeeded", list(optional))
            };
            check.faults.error(Code::MayBeMissing, *span, message, hint);
        }
    }

    fn finally(&self, at: usize, check: &mut Check<'_>) {
        let draft = &self.drafts[at];
        if draft.flow.finally {
            return;
        }
        for &(task, span) in &self.edges[at].needs {
            if self.drafts[task].flow.finally {
                let name = quote(self.drafts[task].name);
                let message = format!("{} waits for {name}, which runs when all else has ended", quote(draft.name));
                let hint = format!("add finally = true to {} too, or take it away from {name}", quote(draft.name));
                check.faults.error(Code::AfterFinally, span, message, hint);
            }
        }
    }
}

fn run(one: &Use, finally: bool, span: Span, check: &mut Check<'_>) {
    let (message, hint) = match one.name.as_str() {
        "id" => return,
        "state" if finally => return,
        "state" => (
            "only a `finally` task may look at the state of the run".to_owned(),
            "add finally = true, or look at tasks".to_owned(),
        ),
        "" => ("this is no value that a condition can look at".to_owned(), "write run.id or run.state".to_owned()),
        other => (format!("a run has no {}", quote(other)), "it has `id` and `state`".to_owned()),
    };
    check.faults.error(Code::BadCondition, span, message, hint);
}
