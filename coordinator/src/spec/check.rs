//! The check of a file as a whole.

use segue_proto::{ids::PipelineName, operator::Catalogue};

use super::{
    code::Code,
    cycles,
    diagnostic::{Diagnostic, quote},
    faults::{Faults, Span},
    fields::Check,
    model::{Flow, Pipeline, Task, Work},
    params::Params,
    policy::{self, Policy},
    resolve::{self, Edges},
    schedule,
    tasks::{self, Draft, DraftWork},
    toml::{self, Node, Table},
};

/// Longest text that is looked at.
pub const LONGEST: usize = 16 * 1024 * 1024;
/// Most bytes that the tasks together may copy from `[defaults]`.
const MOST_DEFAULTS: usize = 64 * 1024 * 1024;

/// What a check gives.
#[derive(Debug, Clone)]
pub struct Checked {
    /// The pipeline, unless there are errors.
    pub pipeline: Option<Pipeline>,
    /// Errors and warnings in file order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// Renders every diagnostic as people see it.
    #[must_use]
    pub fn render(&self, path: &str, text: &str, color: bool) -> String {
        let rendered: Vec<String> = self.diagnostics.iter().map(|one| one.render(path, text, color)).collect();
        rendered.join("\n")
    }
}

/// Checks the text of a pipeline file against the operators of a catalogue and reports every fault.
#[must_use]
pub fn check(text: &str, _path: &str, catalogue: &Catalogue) -> Checked {
    let mut faults = Faults::new();
    if text.len() > LONGEST {
        let message = format!("the file has {} bytes, and at most {LONGEST} are taken", text.len());
        faults.error(Code::TooLarge, Span::default(), message, None);
        return Checked { pipeline: None, diagnostics: faults.finish(text) };
    }
    let Some(tree) = toml::parse(text, &mut faults) else {
        return Checked { pipeline: None, diagnostics: faults.finish(text) };
    };
    let mut check = Check { text, tree: &tree, faults };
    let pipeline = file(tree.root(), catalogue, &mut check);
    let pipeline = pipeline.filter(|_| !check.faults.has_errors());
    Checked { pipeline, diagnostics: check.faults.finish(text) }
}

fn file<'t>(root: &'t Table, catalogue: &'t Catalogue, check: &mut Check<'t>) -> Option<Pipeline> {
    let known = ["pipeline", "params", "schedule", "defaults", "tasks"];
    for entry in root.entries.iter().filter(|entry| !known.contains(&entry.key.as_str())) {
        check.unknown_key(entry, "the file", &known);
    }
    let head = match root.get("pipeline") {
        Some(entry) => head(&entry.node, entry.key_span, check),
        None => {
            let hint = "begin it with [pipeline] and name = \"my-pipeline\"".to_owned();
            check.faults.error(Code::MissingKey, Span::default(), "the file has no table `pipeline`", hint);
            None
        }
    };
    let mut params = root.get("params").map(|entry| Params::read(&entry.node, check)).unwrap_or_default();
    let schedule = root.get("schedule").and_then(|entry| schedule::read(entry, &params, check));
    let mut defaults = Policy::default();
    if let Some(entry) = root.get("defaults")
        && let Some(table) = check.table(&entry.node, "`defaults`", &policy::KEYS)
    {
        defaults.read(table, check);
        resolve::env(&defaults, &mut params, check);
        defaults.inherit();
        let count = root.get("tasks").map_or(0, |tasks| entries(&tasks.node, check));
        if defaults.weight().saturating_mul(count) > MOST_DEFAULTS {
            let message = format!("`defaults` is too large to be copied by {count} tasks");
            check.faults.error(Code::TooLarge, entry.key_span, message, "set it on the tasks that need it".to_owned());
            defaults = Policy::default();
        }
    }
    let Some(entry) = root.get("tasks") else {
        let end = Span { start: check.text.len(), end: check.text.len() };
        let hint = "add a table [tasks.NAME] with op = \"…\" or command = […]".to_owned();
        check.faults.error(Code::NoTasks, end, "the pipeline has no tasks", hint);
        params.warn_of_unused(check);
        return None;
    };
    let drafts = tasks::read(&entry.node, &defaults, catalogue, check);
    let edges = resolve::edges(&drafts, check);
    cycles::report(&drafts, &edges, &mut check.faults);
    let mut made = Vec::with_capacity(drafts.len());
    for (draft, edges) in drafts.into_iter().zip(edges) {
        let with = resolve::with(&draft, &mut params, check);
        made.extend(task(draft, edges, with));
    }
    params.warn_of_unused(check);
    let (name, description) = head?;
    Some(Pipeline {
        name,
        description,
        params: params.into_decls(),
        tasks: made,
        priority: 0,
        concurrency: None,
        schedule,
    })
}

fn entries(node: &Node, check: &Check<'_>) -> usize {
    match node.value {
        toml::Value::Table(id) => check.tree.table(id).entries.len(),
        _ => 0,
    }
}

fn head(node: &Node, span: Span, check: &mut Check<'_>) -> Option<(PipelineName, String)> {
    let table = check.table(node, "`pipeline`", &["name", "description"])?;
    let description = match table.get("description") {
        Some(entry) => check.string(&entry.node, "`description`").unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let Some(entry) = table.get("name") else {
        check.faults.error(Code::MissingKey, span, "the pipeline has no name", "add name = \"my-pipeline\"".to_owned());
        return None;
    };
    let text = check.string(&entry.node, "`name`")?;
    match text.parse::<PipelineName>() {
        Ok(name) => Some((name, description)),
        Err(_) => {
            let hint = "1 to 64 of a-z, 0-9, _ and -".to_owned();
            check.faults.error(Code::BadName, entry.node.span, format!("{} cannot name a pipeline", quote(text)), hint);
            None
        }
    }
}

/// Makes a task of a draft; nothing where a fault was reported.
fn task(draft: Draft<'_>, edges: Edges, with: serde_json::Map<String, serde_json::Value>) -> Option<Task> {
    let work = match draft.work {
        DraftWork::Operator(spec) => Work::Operator {
            name: spec.name.clone(),
            version: spec.version.clone(),
            pure: spec.pure,
            wants_run_facts: spec.wants_run_facts,
        },
        DraftWork::Command(argv) => {
            Work::Command { argv: argv.into_iter().map(|(argument, _)| argument.to_owned()).collect() }
        }
        DraftWork::Unknown => return None,
    };
    Some(Task {
        name: draft.name.parse().ok()?,
        work,
        inputs: edges.inputs,
        after: edges.after,
        with,
        env: draft.policy.env.into_iter().map(|(name, entry)| (name, entry.value)).collect(),
        resources: draft.policy.resources,
        timeout_ms: draft.policy.timeout_ms,
        retry: draft.policy.retry,
        cache: draft.cache,
        priority: draft.priority,
        outputs: draft.outputs,
        description: draft.description.to_owned(),
        flow: Flow::default(),
    })
}
