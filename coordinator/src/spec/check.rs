//! The check of a file as a whole.

use segue_proto::{ids::PipelineName, operator::Catalogue};

use super::{
    code::Code,
    conditions, cycles,
    diagnostic::{Diagnostic, quote},
    faults::{Faults, Span},
    fields::Check,
    flow,
    hooks::{self, Hooks},
    keys,
    model::{Concurrency, Flow, Limit, Pipeline, Task, Work},
    params::Params,
    policy::Policy,
    resolve::{self, Edges},
    retention, schedule,
    strings::{self, Children},
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
    check.known_keys(root, "the file", &keys::FILE);
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
    let retention = root.get("retention").map(|entry| retention::read(&entry.node, check)).unwrap_or_default();
    if let Some((concurrency, span)) = head.as_ref().and_then(|head| head.concurrency.as_ref()) {
        strings::references(&concurrency.key, *span, Children::Never, &mut params, check);
    }
    let mut defaults = Policy::default();
    if let Some(entry) = root.get("defaults")
        && let Some(table) = check.table(&entry.node, "`defaults`", &keys::DEFAULTS)
    {
        defaults.read(table, check);
        resolve::env(&defaults, Children::Never, &mut params, check);
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
    conditions::check(&drafts, &edges, &mut params, check);
    let mut made = Vec::with_capacity(drafts.len());
    for (draft, edges) in drafts.into_iter().zip(edges) {
        let with = resolve::with(&draft, &mut params, check);
        made.extend(task(draft, edges, with, &mut params, check));
    }
    params.warn_of_unused(check);
    // One that cannot be read is reported already, and a hook that waits for it is no second fault.
    let sla = sla(root, check);
    let list = root.get("hooks").map(|entry| hooks::read(&entry.node, sla.is_some(), check)).unwrap_or_default();
    let hooks = Hooks { sla_ms: sla.flatten(), list };
    let Head { name, description, priority, concurrency } = head?;
    Some(Pipeline {
        name: name?,
        description,
        params: params.into_decls(),
        tasks: made,
        priority,
        concurrency: concurrency.map(|(concurrency, _)| concurrency),
        schedule,
        retention,
        hooks,
    })
}

/// What `[pipeline]` says.
struct Head {
    /// Absent where it is at fault.
    name: Option<PipelineName>,
    description: String,
    priority: i32,
    /// With the place of its key.
    concurrency: Option<(Concurrency, Span)>,
}

/// Gives the time after which a run is late; nothing where none is asked for.
fn sla<'t>(root: &'t Table, check: &mut Check<'t>) -> Option<Option<u64>> {
    let toml::Value::Table(id) = root.get("pipeline")?.node.value else { return None };
    let entry = check.tree.table(id).get("sla")?;
    Some(hooks::sla(entry, check))
}

fn entries(node: &Node, check: &Check<'_>) -> usize {
    match node.value {
        toml::Value::Table(id) => check.tree.table(id).entries.len(),
        _ => 0,
    }
}

fn head(node: &Node, span: Span, check: &mut Check<'_>) -> Option<Head> {
    let table = check.table(node, "`pipeline`", &keys::PIPELINE)?;
    let description = match table.get("description") {
        Some(entry) => check.string(&entry.node, "`description`").unwrap_or_default().to_owned(),
        None => String::new(),
    };
    let priority = table.get("priority").map_or(0, |entry| tasks::priority(&entry.node, check));
    let concurrency = table.get("concurrency").and_then(|entry| flow::concurrency(&entry.node, check));
    Some(Head { name: name(table, span, check), description, priority, concurrency })
}

fn name(table: &Table, span: Span, check: &mut Check<'_>) -> Option<PipelineName> {
    let Some(entry) = table.get("name") else {
        check.faults.error(Code::MissingKey, span, "the pipeline has no name", "add name = \"my-pipeline\"".to_owned());
        return None;
    };
    let text = check.string(&entry.node, "`name`")?;
    match text.parse::<PipelineName>() {
        Ok(name) => Some(name),
        Err(_) => {
            let hint = "1 to 64 of a-z, 0-9, _ and -".to_owned();
            check.faults.error(Code::BadName, entry.node.span, format!("{} cannot name a pipeline", quote(text)), hint);
            None
        }
    }
}

/// Makes a task of a draft; nothing where a fault was reported.
fn task(
    draft: Draft<'_>,
    edges: Edges,
    with: serde_json::Map<String, serde_json::Value>,
    params: &mut Params,
    check: &mut Check<'_>,
) -> Option<Task> {
    let flow = draft.flow;
    let wants_items = flow.fan_out.is_some();
    let fan_out = flow.fan_out.and_then(|fan| fan.finish(edges.foreach, params, check));
    if wants_items && fan_out.is_none() {
        return None;
    }
    let policy = draft.policy;
    let (retry, resources) = (policy.retry(), policy.resources());
    let (sensor, command) = (matches!(draft.work, DraftWork::Sensor(_)), matches!(draft.work, DraftWork::Command(_)));
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
        DraftWork::Sensor(sensor) => Work::Sensor { sensor: sensor.json(), every_ms: sensor.every_ms },
        DraftWork::Unknown => return None,
    };
    // A sensor takes nothing from a worker, whatever `[defaults]` say.
    let (resources, env, pools) = match sensor {
        true => Default::default(),
        false => (resources, policy.env.into_iter().map(|(name, entry)| (name, entry.value)).collect(), policy.pools),
    };
    Some(Task {
        name: draft.name.parse().ok()?,
        work,
        inputs: edges.inputs,
        after: edges.after,
        with,
        env,
        resources,
        timeout_ms: policy.timeout_ms,
        retry,
        cache: draft.cache,
        priority: draft.priority,
        outputs: draft.outputs,
        description: draft.description.to_owned(),
        flow: Flow {
            run_if: flow.run_if,
            when: flow.when.map(|when| when.text.to_owned()),
            finally: flow.finally,
            fan_out,
            pools,
            limit: flow.limit.map(|((key, _), max)| Limit { key: key.to_owned(), max }),
            queue_timeout_ms: policy.queue_timeout_ms.filter(|_| !sensor),
            heartbeat_timeout_ms: policy.heartbeat_timeout_ms.filter(|_| command),
            grace_ms: policy.grace_ms.filter(|_| !sensor),
            memory_limit_bytes: policy.memory_limit_bytes.filter(|_| !sensor),
        },
    })
}
