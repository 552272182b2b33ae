//! The version of a pipeline: the digest of what it says, however it is written down.

use segue_proto::ids::Digest;
use serde_json::{Map, Value, json};

use super::model::{Flow, OutputRef, Over, Pipeline, Task, Work};

impl Pipeline {
    /// Digests the normalised content. Comments, spelling and the order of keys, parameters and tasks do not enter, and
    /// neither do the versions of operators: those are part of each task's cache key.
    #[must_use]
    pub fn version(&self) -> Digest {
        Digest::of(self.canonical().as_bytes())
    }

    /// Gives the normalised content: JSON with sorted keys and with names in the place of positions.
    fn canonical(&self) -> String {
        let mut params: Vec<_> = self.params.iter().collect();
        params.sort_by(|a, b| a.name.cmp(&b.name));
        let mut tasks: Vec<_> = self.tasks.iter().collect();
        tasks.sort_by(|a, b| a.name.cmp(&b.name));
        let mut whole = json!({
            "format": 1,
            "name": self.name,
            "description": self.description,
            "params": params,
            "tasks": tasks.into_iter().map(|task| self.task(task)).collect::<Vec<_>>(),
        });
        // Pipelines without a schedule keep the version that they had before there were any.
        if let Some(schedule) = &self.schedule {
            whole["schedule"] = json!(schedule);
        }
        // What says nothing does not enter, so that new keys leave the versions of files without them as they are.
        if self.priority != 0 {
            whole["priority"] = json!(self.priority);
        }
        if let Some(concurrency) = &self.concurrency {
            whole["concurrency"] = json!(concurrency);
        }
        // Without hooks the version is what it was before there were any.
        if !self.hooks.is_empty() {
            whole["hooks"] = json!(self.hooks);
        }
        sorted(whole).to_string()
    }

    /// Gives what differs from a task that runs once, after its needs have succeeded.
    fn flow(&self, flow: &Flow) -> Value {
        let name = |from: &OutputRef| {
            let task = self.tasks.get(from.task).map_or("", |task| task.name.as_str());
            json!([task, from.output])
        };
        let Value::Object(mut said) = json!(flow) else { return Value::Null };
        let Value::Object(default) = json!(Flow::default()) else { return Value::Null };
        said.retain(|key, value| default.get(key) != Some(value));
        if let Some(fan_out) = &flow.fan_out {
            match &fan_out.over {
                Over::Output(from) => said["fan_out"]["over"] = json!({ "output": name(from) }),
                // The order of the lists is that of the children.
                Over::Matrix(lists) => said["fan_out"]["over"] = json!({ "matrix": lists }),
                _ => {}
            }
        }
        Value::Object(said)
    }

    /// Gives the normalised content of a task.
    pub(super) fn task(&self, task: &Task) -> Value {
        let name = |at: usize| self.tasks.get(at).map_or("", |task| task.name.as_str());
        let work = match &task.work {
            Work::Operator { name, .. } => json!({ "op": name }),
            Work::Command { argv } => json!({ "command": argv }),
            Work::Sensor { sensor, every_ms } => json!({ "sensor": sensor, "every_ms": every_ms }),
        };
        let inputs: Map<String, Value> =
            task.inputs.iter().map(|(input, from)| (input.clone(), json!([name(from.task), from.output]))).collect();
        let mut after: Vec<&str> = task.after.iter().map(|&at| name(at)).collect();
        after.sort_unstable();
        let mut outputs: Vec<_> = task.outputs.iter().collect();
        outputs.sort_by(|a, b| a.name.cmp(&b.name));
        let mut whole = json!({
            "name": task.name,
            "description": task.description,
            "work": work,
            "inputs": inputs,
            "after": after,
            "with": task.with,
            "env": task.env,
            "resources": task.resources,
            "timeout_ms": task.timeout_ms,
            "retry": task.retry,
            "cache": task.cache,
            "priority": task.priority,
            "outputs": outputs,
        });
        match self.flow(&task.flow) {
            Value::Object(flow) if !flow.is_empty() => whole["flow"] = Value::Object(flow),
            _ => {}
        }
        whole
    }
}

/// Sorts the keys of every object. Depth is bounded: nothing in a pipeline nests further than this module builds.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}
