//! Fills the parameters of a run into a checked pipeline.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    path::{Component, Path, PathBuf},
};

use segue_proto::operator::{Catalogue, OperatorSpec, ParamSpec, ParamType, Port};
use serde_json::{Map, Value};

use super::{
    code::Code,
    diagnostic::{Diagnostic, quote},
    faults::{list, nearest},
    model::{BoundTask, EnvValue, ParamDecl, Pipeline, RunSpec, Task, Work},
    template,
    value::{self, Rule},
};

/// Most bytes that filling in parameters may make: a long parameter can be named many times.
const MOST_FILLED: usize = 64 * 1024 * 1024;

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
    let base = Path::new(working_dir).is_absolute().then(|| Path::new(working_dir));
    let values = values(pipeline, params, base, &mut faults);
    if !faults.is_empty() {
        return Err(faults);
    }
    let binder = Binder { values, base, filled: Cell::new(0), no_cache };
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
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(RunSpec {
        pipeline: pipeline.name.clone(),
        version: pipeline.version().into(),
        working_dir: working_dir.to_owned(),
        params: binder.values.iter().map(|(name, bound)| ((*name).to_owned(), value::text_of(&bound.value))).collect(),
        values: binder.values.iter().map(|(name, bound)| ((*name).to_owned(), bound.value.clone())).collect(),
        priority: pipeline.priority,
        concurrency: pipeline.concurrency.clone(),
        tasks,
    })
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

/// Makes a path absolute, unless it is one that no directory changes.
fn resolve(path: &str, base: Option<&Path>) -> String {
    let Some(base) = base else { return path.to_owned() };
    if value::is_remote(path) || Path::new(path).is_absolute() {
        return path.to_owned();
    }
    let plain: PathBuf = base.join(path).components().filter(|part| *part != Component::CurDir).collect();
    plain.to_string_lossy().into_owned()
}

struct Binder<'p> {
    values: HashMap<&'p str, Bound>,
    base: Option<&'p Path>,
    /// Bytes made so far by filling in.
    filled: Cell<usize>,
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
            Work::Sensor { .. } => (task.work.clone(), Vec::new(), Map::new(), Vec::new(), false),
        };
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
            outputs: required(outputs),
            flow: task.flow.clone(),
            inline: Vec::new(),
        })
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
            return Ok(param.default.clone());
        };
        let admitted = Rule::from(param).admit(self.value(given)).and_then(|value| match (param.kind, value) {
            (ParamType::Path, Value::String(path)) => {
                value::check_path(&path)?;
                Ok(Value::from(resolve(&path, self.base)))
            }
            (_, value) => Ok(value),
        });
        admitted.map(Some).map_err(|refusal| {
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

    /// Gives the parameters of a command by name; those that are a path parameter of the pipeline are paths.
    fn command(&self, task: &Task) -> (Map<String, Value>, Vec<String>) {
        let mut names: Vec<&String> = task.with.keys().collect();
        names.sort_unstable();
        let is_path = |name: &&String| {
            let exact = task.with.get(name.as_str()).and_then(Value::as_str).and_then(template::exact);
            exact.and_then(|param| self.values.get(param)).is_some_and(|bound| bound.kind == ParamType::Path)
        };
        let paths = names.iter().copied().filter(is_path).cloned().collect();
        let value = |name: &String| task.with.get(name).map_or(Value::Null, |given| self.value(given));
        (names.into_iter().map(|name| (name.clone(), value(name))).collect(), paths)
    }

    /// Fills a value. A string that is one reference takes the value and the type of its parameter.
    fn value(&self, given: &Value) -> Value {
        match given {
            Value::String(text) => match template::exact(text).and_then(|name| self.values.get(name)) {
                Some(bound) => {
                    self.grew(value::text_of(&bound.value).len());
                    bound.value.clone()
                }
                None => Value::from(self.text(text)),
            },
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            other => other.clone(),
        }
    }

    fn text(&self, text: &str) -> String {
        let filled = template::fill(text, |name| {
            // Past the limit the result is thrown away, so nothing more is made.
            let text = self.values.get(name).map(|bound| value::text_of(&bound.value))?;
            self.grew(text.len());
            Some(if self.filled.get() > MOST_FILLED { String::new() } else { text })
        });
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
                faults.push(Diagnostic::error(Code::BadValue, message).hint(hint));
            }
        }
        self.text(text)
    }

    fn grew(&self, bytes: usize) {
        self.filled.set(self.filled.get().saturating_add(bytes));
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

/// Gives the outputs that a success must bring.
fn required(mut outputs: Vec<Port>) -> Vec<Port> {
    outputs.retain(|port| !port.optional);
    outputs
}
