//! Fills the parameters of a run into a checked pipeline.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    path::{Component, Path, PathBuf},
};

use segue_proto::operator::{Catalogue, OperatorSpec, ParamSpec, ParamType};
use serde_json::{Map, Value};

use super::{
    code::Code,
    diagnostic::{Diagnostic, quote},
    faults::{list, nearest},
    items,
    model::{BoundTask, Concurrency, EnvValue, FanOut, Flow, Number, Over, ParamDecl, Pipeline, RunSpec, Task, Work},
    sensors,
    template::{self, Child},
    value::{self, Rule},
};
use crate::expr::{Expr, Part};

/// Most bytes that filling in parameters may make: a long parameter can be named many times.
const MOST_FILLED: usize = 64 * 1024 * 1024;

/// Children whose keys one binding looks at: tasks of a million each are written in one line.
const MOST_LOOKED_AT: u64 = 2_000_000;

/// Binds a pipeline to the parameters of a run.
///
/// `params` are values as typed. Relative paths, of parameters and in the file, are resolved against `working_dir`
/// where that is absolute; URLs and uploaded files (`blob:DIGEST`) stay as they are. Binding the parameters of the
/// result again gives the same result.
///
/// # Errors
/// Every fault, without places: what is at fault was given at submission.
pub fn bind(
    pipeline: &Pipeline,
    catalogue: &Catalogue,
    params: &BTreeMap<String, String>,
    working_dir: &str,
    no_cache: bool,
) -> Result<RunSpec, Vec<Diagnostic>> {
    let mut faults = Vec::new();
    let base = base(working_dir);
    let values = values(pipeline, params, base, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let binder = Binder { values, base, filled: Cell::new(0), children: Cell::new(MOST_LOOKED_AT), no_cache };
    let mut tasks = Vec::with_capacity(pipeline.tasks.len());
    for task in &pipeline.tasks {
        match binder.task(task, catalogue) {
            Ok(bound) => tasks.push(bound),
            Err(mut more) => faults.append(&mut more),
        }
        if binder.filled.get() > MOST_FILLED {
            let message = format!("the parameters make the tasks larger than {MOST_FILLED} bytes");
            return Err(vec![Diagnostic::error(Code::TooLarge, message)]);
        }
    }
    faults.extend(too_many_children(&tasks));
    if !faults.is_empty() {
        return Err(faults);
    }
    inline(&mut tasks);
    let concurrency = pipeline
        .concurrency
        .clone()
        .map(|concurrency| Concurrency { key: binder.text(&concurrency.key, Filling::Whole), ..concurrency });
    Ok(RunSpec {
        pipeline: pipeline.name.clone(),
        version: pipeline.version().into(),
        working_dir: working_dir.to_owned(),
        params: binder.values.iter().map(|(name, bound)| ((*name).to_owned(), value::text_of(&bound.value))).collect(),
        values: binder.values.iter().map(|(name, bound)| ((*name).to_owned(), bound.value.clone())).collect(),
        priority: pipeline.priority,
        concurrency,
        tasks,
        hooks: pipeline.hooks.clone(),
    })
}

/// Reports fan-outs that have too many children together, as far as their items are known. Those of the others count
/// when they expand.
fn too_many_children(tasks: &[BoundTask]) -> Option<Diagnostic> {
    let of = |task: &BoundTask| {
        let fan_out = task.flow.fan_out.as_ref()?;
        Some((items::items_of(&fan_out.over)?.len(), task.name.to_string()))
    };
    let mut counts: Vec<(u64, String)> = tasks.iter().filter_map(of).collect();
    let all = counts.iter().fold(0, |all: u64, (count, _)| all.saturating_add(*count));
    if all <= items::MOST_OF_RUN {
        return None;
    }
    counts.sort_by(|a, b| b.cmp(a));
    let largest = counts.iter().take(3).map(|(count, name)| format!("{} {count}", quote(name)));
    let message =
        format!("the fan-outs of the run have {all} children together: {}", largest.collect::<Vec<_>>().join(", "));
    let hint = format!("at most {}: let each child do several items, or split the pipeline", items::MOST_OF_RUN);
    Some(Diagnostic::error(Code::BadFanOut, message).hint(hint))
}

/// The value of a parameter of the pipeline.
struct Bound {
    value: Value,
    kind: ParamType,
}

/// Gives every parameter its value, given or default.
fn values<'p>(
    pipeline: &'p Pipeline,
    params: &BTreeMap<String, String>,
    base: Option<&Path>,
    faults: &mut Vec<Diagnostic>,
) -> HashMap<&'p str, Bound> {
    let names = || pipeline.params.iter().map(|decl| decl.name.as_str());
    for name in params.keys().filter(|name| !names().any(|known| known == *name)) {
        let hint = match nearest(name, names()) {
            Some(near) => format!("did you mean {}?", quote(near)),
            None if pipeline.params.is_empty() => "it has no parameters".to_owned(),
            None => format!("its parameters: {}", list(names())),
        };
        let message = format!("the pipeline {} has no parameter {}", quote(pipeline.name.as_str()), quote(name));
        faults.push(Diagnostic::error(Code::UnknownParam, message).hint(hint));
    }
    let mut values = HashMap::new();
    for decl in &pipeline.params {
        match value_of(decl, params.get(&decl.name).map(String::as_str), base) {
            Ok(value) => drop(values.insert(decl.name.as_str(), Bound { value, kind: decl.kind })),
            Err(fault) => faults.push(fault),
        }
    }
    values
}

fn value_of(decl: &ParamDecl, given: Option<&str>, base: Option<&Path>) -> Result<Value, Diagnostic> {
    let value = match (given, &decl.default) {
        (Some(text), _) => Rule::from(decl).parse(text),
        (None, Some(default)) => Ok(default.clone()),
        (None, None) => {
            let help = if decl.help.is_empty() { String::new() } else { format!(" ({})", decl.help) };
            let message = format!("the parameter {} has no value", quote(&decl.name));
            let hint = format!("give it: -p {}=VALUE, {}{help}", decl.name, value::type_name(decl.kind));
            return Err(Diagnostic::error(Code::MissingParam, message).hint(hint));
        }
    };
    let value = value.and_then(|value| match (decl.kind, value) {
        (ParamType::Path, Value::String(path)) => {
            value::check_path(&path)?;
            Ok(Value::from(resolve(&path, base)))
        }
        (_, value) => Ok(value),
    });
    value.map_err(|refusal| {
        let message = format!("the parameter {} {}", quote(&decl.name), refusal.reason);
        Diagnostic::error(Code::BadValue, message).hint(refusal.hint)
    })
}

/// Gives the directory that relative paths are of, where it is known.
pub(super) fn base(working_dir: &str) -> Option<&Path> {
    Some(Path::new(working_dir)).filter(|path| path.is_absolute())
}

/// Notes the outputs whose content decides what runs: conditions and `foreach` read them.
fn inline(tasks: &mut [BoundTask]) {
    let names: HashMap<String, usize> =
        tasks.iter().enumerate().map(|(at, task)| (task.name.to_string(), at)).collect();
    let mut read: Vec<(usize, String)> = Vec::new();
    for task in tasks.iter() {
        if let Some(FanOut { over: Over::Output(from), .. }) = &task.flow.fan_out {
            read.push((from.task, from.output.clone()));
        }
        // The check took the condition, so that it parses.
        let Some(Ok(when)) = task.flow.when.as_deref().map(Expr::parse) else { continue };
        for one in when.references().tasks {
            if let (Some(&at), Part::Output(output)) = (names.get(&one.task), one.part) {
                read.push((at, output));
            }
        }
    }
    for (at, output) in read {
        if let Some(task) = tasks.get_mut(at) {
            task.inline.push(output);
        }
    }
    for task in tasks {
        task.inline.sort_unstable();
        task.inline.dedup();
    }
}

/// Makes a path absolute, unless it is one that no directory changes.
pub(super) fn resolve(path: &str, base: Option<&Path>) -> String {
    let Some(base) = base else { return path.to_owned() };
    if value::is_remote(path) || Path::new(path).is_absolute() {
        return path.to_owned();
    }
    let plain: PathBuf = base.join(path).components().filter(|part| *part != Component::CurDir).collect();
    plain.to_string_lossy().into_owned()
}

/// Whether a text is whole once parameters are filled in, or waits for the items of a fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filling {
    Whole,
    ForChildren,
}

impl Filling {
    const fn of(task: &Task) -> Self {
        if task.flow.fan_out.is_some() { Self::ForChildren } else { Self::Whole }
    }

    /// Writes a finished value so that the children get it as it is.
    fn done(self, value: Value) -> Value {
        match (self, value) {
            (Self::ForChildren, Value::String(text)) => Value::from(template::literal(&text)),
            (Self::ForChildren, Value::Array(items)) => items.into_iter().map(|item| self.done(item)).collect(),
            (_, value) => value,
        }
    }
}

struct Binder<'p> {
    values: HashMap<&'p str, Bound>,
    base: Option<&'p Path>,
    /// Bytes made so far by filling in.
    filled: Cell<usize>,
    /// Children that may still be looked at.
    children: Cell<u64>,
    no_cache: bool,
}

impl Binder<'_> {
    fn task(&self, task: &Task, catalogue: &Catalogue) -> Result<BoundTask, Vec<Diagnostic>> {
        let mut faults = Vec::new();
        let mut env = BTreeMap::new();
        for (name, value) in &task.env {
            let value = match value {
                EnvValue::Text(text) => EnvValue::Text(self.local_text(task, text, &mut faults)),
                EnvValue::Secret(reference) => EnvValue::Secret(reference.clone()),
            };
            env.insert(name.clone(), value);
        }
        let (work, outputs, params, path_params, pure) = match &task.work {
            Work::Operator { name, .. } => {
                let Some(spec) = catalogue.get(name) else {
                    let message = format!(
                        "the task {} needs the operator {}, which no worker offers",
                        quote(task.name.as_str()),
                        quote(name)
                    );
                    return Err(vec![
                        Diagnostic::error(Code::UnknownOperator, message)
                            .hint("start a worker that offers it".to_owned()),
                    ]);
                };
                let (params, paths) = self.operator(task, spec, &mut faults);
                (operator(spec), spec.outputs.clone(), params, paths, spec.pure)
            }
            Work::Command { argv } => {
                let argv = argv.iter().map(|argument| self.local_text(task, argument, &mut faults)).collect();
                let (params, paths) = self.command(task);
                (Work::Command { argv }, task.outputs.clone(), params, paths, false)
            }
            Work::Sensor { sensor, every_ms } => {
                let work = Work::Sensor { sensor: self.sensor(task, sensor, &mut faults), every_ms: *every_ms };
                (work, Vec::new(), Map::new(), Vec::new(), false)
            }
        };
        let flow = self.flow(task, &mut faults);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(BoundTask {
            name: task.name.clone(),
            work,
            inputs: task.inputs.clone(),
            after: task.after.clone(),
            params,
            path_params,
            env,
            resources: task.resources.clone(),
            timeout_ms: task.timeout_ms,
            retry: task.retry.clone(),
            cache: !self.no_cache && task.cache.unwrap_or(pure),
            priority: task.priority,
            outputs,
            flow,
            inline: Vec::new(),
        })
    }

    fn flow(&self, task: &Task, faults: &mut Vec<Diagnostic>) -> Flow {
        let mut flow = task.flow.clone();
        if let Some(limit) = &mut flow.limit {
            limit.key = self.text(&limit.key, Filling::of(task));
        }
        let Some(fan_out) = &mut flow.fan_out else { return flow };
        if let Some(key) = &mut fan_out.key {
            *key = self.text(key, Filling::ForChildren);
        }
        fan_out.over = match std::mem::replace(&mut fan_out.over, Over::Items(Vec::new())) {
            Over::Items(items) => Over::Items(self.list(&items)),
            Over::Param(name) => Over::Items(self.list(&[Value::from(format!("${{params.{name}}}"))])),
            Over::Glob(pattern) => Over::Glob(self.pattern(&pattern)),
            Over::Matrix(lists) => {
                Over::Matrix(lists.into_iter().map(|(name, values)| (name, self.list(&values))).collect())
            }
            Over::RangeOf { from, to, step } => {
                let [from, to, step] = [from, to, step].map(|number| self.number(&number));
                if step == 0 {
                    let message = format!("the fan-out {}: the step of its range is 0", quote(task.name.as_str()));
                    let hint = "it would never end: give its parameter another value".to_owned();
                    faults.push(Diagnostic::error(Code::BadFanOut, message).hint(hint));
                }
                Over::Range { from, to, step }
            }
            over @ (Over::Range { .. } | Over::Output(_)) => over,
        };
        let count = items::items_of(&fan_out.over).map_or(0, |items| items.len());
        let fault = if self.filled.get() > MOST_FILLED {
            return flow;
        } else if count <= items::MOST && !self.may_look_at(count) {
            // What is too much to look at now is looked at when the run gets there.
            None
        } else if count > items::MOST {
            Some((format!("has {count} items"), format!("at most {}", items::MOST)))
        } else {
            let hint = "add key = \"…\" with what tells them apart; \"${index}\" always does".to_owned();
            items::check_keys(fan_out).err().map(|message| (message, hint))
        };
        if let Some((message, hint)) = fault {
            let message = format!("the fan-out {}: {message}", quote(task.name.as_str()));
            faults.push(Diagnostic::error(Code::BadFanOut, message).hint(hint));
        }
        flow
    }

    /// Gives a number of a range. The check let no parameter pass that is of another type.
    fn number(&self, number: &Number) -> i64 {
        match number {
            Number::Int(number) => *number,
            Number::Param(name) => {
                self.values.get(name.as_str()).and_then(|bound| bound.value.as_i64()).unwrap_or_default()
            }
        }
    }

    /// Fills the items of a list; a reference to a list stands for its items.
    fn list(&self, items: &[Value]) -> Vec<Value> {
        let mut all = Vec::with_capacity(items.len());
        for item in items {
            let filled = self.item(item);
            match (item.as_str().and_then(template::exact), filled) {
                (Some(_), Value::Array(more)) => all.extend(more),
                (_, filled) => all.push(filled),
            }
        }
        all
    }

    /// Fills an item. Recursion is as deep as the parser of the file lets values nest.
    fn item(&self, item: &Value) -> Value {
        match item {
            Value::Object(map) => {
                Value::Object(map.iter().map(|(name, value)| (name.clone(), self.item(value))).collect())
            }
            Value::Array(items) => Value::Array(self.list(items)),
            other => self.value(other, Filling::Whole),
        }
    }

    /// Fills a pattern of files and makes it absolute. The directory of the pipeline is no pattern itself.
    fn pattern(&self, pattern: &str) -> String {
        let pattern = self.text(pattern, Filling::Whole);
        match self.base {
            Some(base) if !Path::new(&pattern).is_absolute() => {
                let base = glob::Pattern::escape(&base.to_string_lossy());
                format!("{}/{}", base.trim_end_matches('/'), pattern.trim_start_matches("./"))
            }
            _ => pattern,
        }
    }

    fn sensor(&self, task: &Task, sensor: &Value, faults: &mut Vec<Diagnostic>) -> Value {
        let Value::Object(map) = sensor else { return sensor.clone() };
        let mut filled = Map::new();
        for (kind, value) in map {
            let Value::String(text) = value else {
                filled.insert(kind.clone(), value.clone());
                continue;
            };
            let mut text = self.text(text, Filling::Whole);
            if let Err((message, hint)) = sensors::target(kind, &text) {
                let message = format!("the sensor {}: {message}", quote(task.name.as_str()));
                faults.push(Diagnostic::error(Code::BadSensor, message).hint(hint.to_owned()));
            }
            if kind == "file" {
                text = resolve(&text, self.base);
            }
            filled.insert(kind.clone(), Value::from(text));
        }
        Value::Object(filled)
    }

    /// Gives the parameters of an operator in the order of its contract, defaults filled in, and which are paths.
    fn operator(
        &self,
        task: &Task,
        spec: &OperatorSpec,
        faults: &mut Vec<Diagnostic>,
    ) -> (Map<String, Value>, Vec<String>) {
        let mut params = Map::new();
        let mut paths = Vec::new();
        for param in &spec.params {
            match self.operator_param(task, spec, param) {
                Ok(Some(value)) => {
                    if param.kind == ParamType::Path {
                        paths.push(param.name.clone());
                    }
                    params.insert(param.name.clone(), value);
                }
                Ok(None) => {}
                Err(fault) => faults.push(fault),
            }
        }
        // The operators may have changed since the check.
        for name in task.with.keys().filter(|name| !spec.params.iter().any(|param| param.name == **name)) {
            let message = format!("{} has no parameter {}", quote(&spec.name), quote(name));
            faults.push(Diagnostic::error(Code::UnknownWith, message).hint("check the pipeline again".to_owned()));
        }
        (params, paths)
    }

    fn operator_param(&self, task: &Task, spec: &OperatorSpec, param: &ParamSpec) -> Result<Option<Value>, Diagnostic> {
        let Some(given) = task.with.get(&param.name) else {
            if param.required {
                let message = format!(
                    "the task {} lacks the parameter `{}` of {}",
                    quote(task.name.as_str()),
                    param.name,
                    quote(&spec.name)
                );
                return Err(Diagnostic::error(Code::MissingWith, message));
            }
            return Ok(param.default.clone().map(|value| Filling::of(task).done(value)));
        };
        if mentions_child(given) {
            let value = self.value(given, Filling::ForChildren);
            return Ok(Some(if param.kind == ParamType::Path { self.path_for_children(value) } else { value }));
        }
        let value = self.value(given, Filling::Whole);
        let admitted = Rule::from(param).admit(value).and_then(|value| match (param.kind, value) {
            (ParamType::Path, Value::String(path)) => {
                value::check_path(&path)?;
                Ok(Value::from(resolve(&path, self.base)))
            }
            (_, value) => Ok(value),
        });
        admitted.map(|value| Some(Filling::of(task).done(value))).map_err(|refusal| {
            let origin = given.as_str().and_then(template::exact);
            let origin = origin.map_or(String::new(), |name| format!(", the value of {}", quote(name)));
            let message = format!(
                "the task {}: the parameter `{}` of {} {}{origin}",
                quote(task.name.as_str()),
                param.name,
                quote(&spec.name),
                refusal.reason
            );
            Diagnostic::error(Code::BadValue, message).hint(refusal.hint)
        })
    }

    /// Makes a path absolute that does not begin with what an item brings; the rest is done for each child.
    fn path_for_children(&self, value: Value) -> Value {
        let (Value::String(path), Some(base)) = (&value, self.base) else { return value };
        let own = !path.starts_with("${") && !Path::new(path).is_absolute() && !value::is_remote(path);
        if own { Value::from(format!("{}/{path}", template::literal(&base.to_string_lossy()))) } else { value }
    }

    /// Gives the parameters of a command by name; those that are a path parameter of the pipeline are paths.
    fn command(&self, task: &Task) -> (Map<String, Value>, Vec<String>) {
        let mut names: Vec<&String> = task.with.keys().collect();
        names.sort_unstable();
        let is_path = |name: &&String| {
            let exact = task.with.get(name.as_str()).and_then(Value::as_str).and_then(template::exact);
            exact.and_then(|param| self.values.get(param)).is_some_and(|bound| bound.kind == ParamType::Path)
                // An item of a pattern of files is a file, whose content is what counts.
                || matches!(&task.flow.fan_out, Some(FanOut { over: Over::Glob(_), .. }))
                    && task.with.get(name.as_str()).and_then(Value::as_str).and_then(template::exact_child)
                        == Some(Child::Item(""))
        };
        let paths = names.iter().copied().filter(is_path).cloned().collect();
        let value =
            |name: &String| task.with.get(name).map_or(Value::Null, |given| self.value(given, Filling::of(task)));
        (names.into_iter().map(|name| (name.clone(), value(name))).collect(), paths)
    }

    /// Fills a value. A string that is one reference takes the value and the type of its parameter.
    fn value(&self, given: &Value, filling: Filling) -> Value {
        match given {
            Value::String(text) => match template::exact(text).and_then(|name| self.values.get(name)) {
                // Past the limit the result is thrown away, so nothing more is made.
                Some(_) if self.filled.get() > MOST_FILLED => Value::Null,
                Some(bound) => {
                    self.grew(value::text_of(&bound.value).len());
                    filling.done(bound.value.clone())
                }
                None => Value::from(self.text(text, filling)),
            },
            Value::Array(items) => items.iter().map(|item| self.value(item, filling)).collect(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str, filling: Filling) -> String {
        let value = |name: &str| {
            // Past the limit the result is thrown away, so nothing more is made.
            let text = self.values.get(name).map(|bound| value::text_of(&bound.value))?;
            self.grew(text.len());
            Some(if self.filled.get() > MOST_FILLED { String::new() } else { text })
        };
        let filled = match filling {
            Filling::Whole => template::fill(text, value),
            Filling::ForChildren => template::fill_for_children(text, value),
        };
        // The check let no reference pass that is malformed or unknown.
        filled.unwrap_or_else(|| text.to_owned())
    }

    /// Fills text that a program reads as it is, which cannot name an uploaded file.
    fn local_text(&self, task: &Task, text: &str, faults: &mut Vec<Diagnostic>) -> String {
        for part in template::parts(text).unwrap_or_default() {
            let template::Part::Param(name) = part else { continue };
            let Some(bound) = self.values.get(name).filter(|bound| bound.kind == ParamType::Path) else { continue };
            if value::text_of(&bound.value).starts_with(value::BLOB) {
                let message = format!(
                    "the task {} names the uploaded file {} in its command or environment",
                    quote(task.name.as_str()),
                    quote(name)
                );
                let hint = format!(
                    "hand it over as with = {{ {name} = \"${{params.{name}}}\" }}; the command reads $SEGUE_PARAM_{}",
                    name.to_uppercase()
                );
                let fault = Diagnostic::error(Code::BadValue, message).hint(hint);
                // Said once, however often the command names it.
                if !faults.contains(&fault) {
                    faults.push(fault);
                }
            }
        }
        self.text(text, Filling::of(task))
    }

    /// Says whether so many children may still be looked at, and counts them.
    fn may_look_at(&self, children: u64) -> bool {
        let left = self.children.get().checked_sub(children);
        self.children.set(left.unwrap_or(self.children.get()));
        left.is_some()
    }

    fn grew(&self, bytes: usize) {
        self.filled.set(self.filled.get().saturating_add(bytes));
    }
}

fn mentions_child(value: &Value) -> bool {
    match value {
        Value::String(text) => template::mentions_child(text),
        Value::Array(items) => items.iter().any(mentions_child),
        _ => false,
    }
}

fn operator(spec: &OperatorSpec) -> Work {
    Work::Operator {
        name: spec.name.clone(),
        version: spec.version.clone(),
        pure: spec.pure,
        wants_run_facts: spec.wants_run_facts,
    }
}
