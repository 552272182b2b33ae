//! A command hook as a small run of its own: it executes on a worker, with the logs, retries and limits of any task.

use std::{collections::BTreeMap, fmt::Write as _};

use segue_proto::{
    ids::Digest,
    resources::GpuPreference,
    v1::{self, EventKind as Kind},
};
use serde_json::Value;

use crate::{
    server::feed::json,
    spec::{Backoff, EnvValue, HookCommand, RetryPolicy},
};

/// What the idempotency keys of these runs begin with. Nobody else may use it.
pub const KEY_PREFIX: &str = "hook/";

/// What the names of these pipelines end with.
const SUFFIX: &str = "-hooks";
/// Longest name of a pipeline.
const LONGEST_NAME: usize = 64;
/// Longest value of a parameter: together they must fit into the environment of a program.
const LONGEST_VALUE: usize = 16 * 1024;

/// The facts of an event that a command gets, as `SEGUE_PARAM_<NAME>`.
const FACTS: [&str; 11] =
    ["event", "kind", "run", "state", "pipeline", "version", "generation", "message", "time", "offset", "details"];

/// Names the pipeline that executes the command hooks of another one.
#[must_use]
pub fn name(pipeline: &str) -> String {
    let whole = format!("{pipeline}{SUFFIX}");
    if whole.len() <= LONGEST_NAME {
        return whole;
    }
    // Names are ASCII. The digest keeps two long names apart.
    let digest = Digest::of(pipeline.as_bytes());
    let kept = LONGEST_NAME - SUFFIX.len() - 9;
    format!("{}-{}{SUFFIX}", pipeline.chars().take(kept).collect::<String>(), &digest.short()[..8])
}

/// Gives the state of the run that an event tells of.
#[must_use]
pub const fn state(kind: Kind) -> &'static str {
    match kind {
        Kind::RunSucceeded => "succeeded",
        Kind::RunFailed => "failed",
        Kind::RunCancelled => "cancelled",
        _ => "running",
    }
}

/// Gives the parameters of the run that tells of an event.
#[must_use]
pub fn facts(event: &v1::FeedEvent) -> BTreeMap<String, String> {
    let word = super::word(event.kind()).map_or("", crate::spec::On::name);
    let value = |name: &str| match name {
        "event" => word.to_owned(),
        "kind" => json::kind_name(event.kind()).to_owned(),
        "run" => event.run_id.clone(),
        "state" => state(event.kind()).to_owned(),
        "pipeline" => event.pipeline.clone(),
        "version" => event.version.clone(),
        "generation" => event.generation.to_string(),
        "message" => event.message.clone(),
        "time" => json::time(event.time_ms),
        "offset" => event.offset.to_string(),
        _ => event.details_json.clone(),
    };
    // The environment of a program cannot hold a NUL.
    let fitting = |text: String| text.chars().filter(|c| *c != '\0').take(LONGEST_VALUE).collect();
    FACTS.iter().map(|name| ((*name).to_owned(), fitting(value(name)))).collect()
}

/// Writes the pipeline file of a command hook. Every event of the hook is a run of the same version.
#[must_use]
pub fn text(name: &str, of: &str, index: u32, command: &HookCommand) -> String {
    let number = index + 1;
    let mut out = String::new();
    // Writing to a String cannot fail, so results are dropped.
    let _ = writeln!(out, "# Made by Segue for hook {number} of the pipeline {of}.");
    let _ = writeln!(out, "[pipeline]\nname = {}", quoted(name));
    let _ = writeln!(out, "description = {}\n\n[params]", quoted(&format!("Hook {number} of {of}")));
    for fact in FACTS {
        let _ = writeln!(out, "{fact} = {{ type = \"string\" }}");
    }
    let _ = writeln!(out, "\n[tasks.hook-{number}]");
    let argv: Vec<String> = command.argv.iter().map(|word| filled(word)).collect();
    let _ = writeln!(out, "command = [{}]", argv.join(", "));
    let with: Vec<String> = FACTS.iter().map(|fact| format!("{fact} = \"${{params.{fact}}}\"")).collect();
    let _ = writeln!(out, "with = {{ {} }}", with.join(", "));
    if let Some(ms) = command.timeout_ms {
        let _ = writeln!(out, "timeout = \"{ms}ms\"");
    }
    let _ = writeln!(out, "retry = {}", retry(&command.retry));
    let _ = writeln!(out, "resources = {}", resources(command));
    if !command.env.is_empty() {
        let entries: Vec<String> = command
            .env
            .iter()
            .map(|(name, value)| match value {
                EnvValue::Text(text) => format!("{} = {}", quoted(name), filled(text)),
                EnvValue::Secret(reference) => format!("{} = {{ secret = {} }}", quoted(name), quoted(reference)),
            })
            .collect();
        let _ = writeln!(out, "env = {{ {} }}", entries.join(", "));
    }
    out
}

fn retry(policy: &RetryPolicy) -> String {
    let backoff = match policy.backoff {
        Backoff::Constant => "constant",
        Backoff::Exponential => "exponential",
    };
    let on: Vec<String> = policy.on.iter().map(|class| quoted(class.name())).collect();
    // A duration is never nothing; one millisecond is as near as it gets.
    format!(
        "{{ attempts = {}, backoff = \"{backoff}\", initial = \"{}ms\", max = \"{}ms\", jitter = {:?}, on = [{}] }}",
        policy.attempts,
        policy.initial_ms.max(1),
        policy.max_ms.max(1),
        policy.jitter,
        on.join(", ")
    )
}

fn resources(command: &HookCommand) -> String {
    let request = &command.resources;
    let mut parts = vec![format!("cpu = {:?}", f64::from(request.amounts.cpu_milli) / 1_000.0)];
    if request.amounts.memory_bytes > 0 {
        parts.push(format!("memory = \"{}B\"", request.amounts.memory_bytes));
    }
    match request.gpu {
        GpuPreference::None => {}
        GpuPreference::Prefer => parts.push("gpu = \"prefer\"".to_owned()),
        GpuPreference::Require => parts.push(format!("gpu = {:?}", f64::from(request.amounts.gpu_milli) / 1_000.0)),
    }
    if !request.labels.is_empty() {
        let labels = request.labels.iter().map(|(name, value)| format!("{} = {}", quoted(name), quoted(value)));
        parts.push(format!("labels = {{ {} }}", labels.collect::<Vec<_>>().join(", ")));
    }
    parts.extend(request.amounts.custom.iter().map(|(name, amount)| format!("{} = {amount}", quoted(name))));
    format!("{{ {} }}", parts.join(", "))
}

/// Writes a string of TOML: that of JSON, and with DEL escaped too.
fn quoted(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Writes a string that is filled in like those of any pipeline, so that a literal `${` stays one.
fn filled(text: &str) -> String {
    quoted(&text.replace("${", "$${"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use segue_proto::operator::Catalogue;

    use super::*;
    use crate::spec::{self, HookAction, Work};

    const NASTY: &str = r#"
[pipeline]
name = "nightly"
[tasks.a]
command = ["true"]
[[hooks]]
on        = ["failure"]
command   = ["sh", "-c", 'printf "%s\n" "$${HOME} $$$${x} \t é" > out', ""]
env       = { LEVEL = "a \"b\" $${c}\u0001", TOKEN = { secret = "env:CRM" } }
timeout   = "90s"
retry     = { attempts = 2, backoff = "constant", initial = "250ms", max = "1s", jitter = 0.5, on = ["oom"] }
resources = { cpu = 0.25, memory = "1.5GiB", gpu = "prefer", licence = 2, labels = { "a b" = "c\"d" } }
"#;

    fn command(text: &str) -> HookCommand {
        let checked = spec::check(text, "p.toml", &Catalogue::default());
        let pipeline = checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("p.toml", text, false)));
        match pipeline.hooks.list[0].action.clone() {
            HookAction::Command(command) => command,
            HookAction::Webhook(_) => panic!("a command was written"),
        }
    }

    fn event() -> v1::FeedEvent {
        v1::FeedEvent {
            offset: 7,
            time_ms: 1_700_000_000_123,
            kind: Kind::RunFailed.into(),
            run_id: "run_01j8zk5m8w0000000000000000".to_owned(),
            pipeline: "nightly".to_owned(),
            message: "task `a` failed (user): \0 ${x}".to_owned(),
            ..v1::FeedEvent::default()
        }
    }

    #[test]
    fn the_generated_pipeline_executes_what_the_hook_says() {
        let hook = command(NASTY);
        let text = text("nightly-hooks", "nightly", 0, &hook);
        let checked = spec::check(&text, "h.toml", &Catalogue::default());
        let pipeline = checked.pipeline.clone().unwrap_or_else(|| panic!("{}", checked.render("h.toml", &text, false)));
        assert!(checked.diagnostics.is_empty(), "{}", checked.render("h.toml", &text, false));
        let bound = spec::bind(&pipeline, &Catalogue::default(), &facts(&event()), "/srv", false).unwrap();
        let task = &bound.tasks[0];
        assert_eq!(bound.pipeline.to_string(), "nightly-hooks");
        assert_eq!(task.work, Work::Command { argv: hook.argv.clone() });
        assert_eq!(hook.argv[2], "printf \"%s\\n\" \"${HOME} $$${x} \\t é\" > out");
        assert_eq!(task.env, hook.env);
        assert_eq!(task.resources, hook.resources);
        assert_eq!(task.retry, hook.retry);
        assert_eq!(task.timeout_ms, Some(90_000));
        let param = |name: &str| task.params[name].as_str().unwrap().to_owned();
        assert_eq!((param("event"), param("state")), ("failure".to_owned(), "failed".to_owned()));
        assert_eq!(param("run"), event().run_id);
        assert_eq!(param("offset"), "7");
        assert_eq!(param("time"), "2023-11-14T22:13:20.123Z");
        assert_eq!(param("message"), "task `a` failed (user):  ${x}", "no NUL, and nothing is filled in");
        assert!(pipeline.hooks.is_empty(), "hooks of hook runs do not exist");
    }

    #[test]
    fn a_plain_hook_needs_nothing_but_its_command() {
        let hook = command(
            "[pipeline]\nname = \"p\"\n[tasks.a]\ncommand = [\"true\"]\n[[hooks]]\non = [\"success\"]\ncommand = [\"true\"]\n",
        );
        let text = text("p-hooks", "p", 3, &hook);
        let pipeline = spec::check(&text, "h.toml", &Catalogue::default()).pipeline.unwrap();
        assert_eq!(pipeline.tasks[0].name.as_str(), "hook-4");
        assert_eq!(pipeline.tasks[0].resources, hook.resources);
    }

    #[test]
    fn a_long_name_stays_a_name_of_its_own() {
        let long = |last: char| format!("{}{last}", "a".repeat(63));
        let (a, b) = (name(&long('a')), name(&long('b')));
        assert_ne!(a, b);
        for name in [a, b, name("nightly")] {
            assert!(name.ends_with("-hooks") && name.parse::<segue_proto::ids::PipelineName>().is_ok(), "{name}");
        }
    }
}
