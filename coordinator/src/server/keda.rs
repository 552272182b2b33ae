//! What an autoscaler is told: a trigger's metadata read into a class of work, and the demand for it. Pure.

use std::collections::BTreeMap;

use segue_proto::resources::{GpuPreference, WHOLE_GPU};

use crate::{
    core::fleet::{Class, QueueSummary},
    spec::nearest,
};

/// Metadata that is ours. Everything else (`scalerAddress` and the like) is between KEDA and the trigger.
const KEYS: [&str; 3] = ["class", "tasksPerWorker", "prefer"];

/// The most tasks that one worker is believed to take.
const MOST_PER_WORKER: f64 = 1_000_000.0;

/// Which work a trigger is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    /// Tasks that require a GPU; those that only prefer one, where `prefer` says so.
    Gpu {
        prefer: bool,
    },
    /// Tasks without GPUs; those that prefer one, unless `prefer` says otherwise.
    Cpu {
        prefer: bool,
    },
    Command,
    Operator(String),
    /// Tasks that ask for all of these labels.
    Labels(BTreeMap<String, String>),
}

/// A trigger of an autoscaler, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    selector: Selector,
    tasks_per_worker: Option<f64>,
}

/// How much work of a trigger's class there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Demand {
    pub waiting: u64,
    pub running: u64,
}

impl Demand {
    /// Says whether there is anything to have workers for.
    #[must_use]
    pub const fn is_active(self) -> bool {
        self.waiting > 0 || self.running > 0
    }

    /// Gives the tasks that want a worker or have one: a worker that works is still wanted.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.waiting + self.running
    }
}

/// Metadata of a trigger that makes no sense, with what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTrigger(String);

impl Trigger {
    /// Reads the metadata of a trigger.
    ///
    /// # Errors
    /// Names the key, what is wrong with it, and what to write.
    pub fn parse(metadata: &BTreeMap<String, String>) -> Result<Self, BadTrigger> {
        for key in metadata.keys().filter(|key| !KEYS.contains(&key.as_str())) {
            // A slip in one of our keys would silently mean its default.
            if let Some(meant) = nearest(key, KEYS) {
                return Err(BadTrigger(format!("metadata has no key `{}`: did you mean `{meant}`?", clip(key))));
            }
        }
        let prefer = match metadata.get("prefer").map(String::as_str) {
            None => None,
            Some("true") => Some(true),
            Some("false") => Some(false),
            Some(other) => {
                let text = format!("`prefer` is `{}`: write \"true\" or \"false\", in quotes", clip(other));
                return Err(BadTrigger(text));
            }
        };
        let class = metadata.get("class").ok_or_else(|| {
            BadTrigger(format!("metadata has no `class`: say which work the workers are for, {CLASSES}"))
        })?;
        let selector = selector(class, prefer)?;
        if prefer.is_some() && !matches!(selector, Selector::Gpu { .. } | Selector::Cpu { .. }) {
            let text = format!("`prefer` goes with class gpu or cpu, not with `{}`: leave it out", clip(class));
            return Err(BadTrigger(text));
        }
        let tasks_per_worker = metadata.get("tasksPerWorker").map(|text| per_worker(text)).transpose()?;
        Ok(Self { selector, tasks_per_worker })
    }

    /// Names the metric: the same trigger always gives the same name.
    #[must_use]
    pub fn metric(&self) -> String {
        let text = match &self.selector {
            Selector::Gpu { .. } => "gpu".to_owned(),
            Selector::Cpu { .. } => "cpu".to_owned(),
            Selector::Command => "command".to_owned(),
            Selector::Operator(name) => format!("operator-{name}"),
            Selector::Labels(labels) => {
                labels.iter().fold("label".to_owned(), |text, (name, value)| format!("{text}-{name}-{value}"))
            }
        };
        // It becomes a part of a URL and of a Kubernetes name.
        let plain = text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
        format!("segue-{}", plain.collect::<String>())
    }

    /// Adds up the work of this trigger's class.
    #[must_use]
    pub fn demand(&self, queue: &QueueSummary) -> Demand {
        self.classes(queue).fold(Demand::default(), |sum, (_, depth)| Demand {
            waiting: sum.waiting + depth.waiting,
            running: sum.running + depth.running,
        })
    }

    /// Gives how many tasks one more worker takes: as told; else as many as fit on the smallest worker that can take the
    /// work there is; else one for each GPU or core of the smallest worker of the kind; else one.
    #[must_use]
    pub fn per_worker(&self, queue: &QueueSummary) -> f64 {
        if let Some(told) = self.tasks_per_worker {
            return told;
        }
        let fits = self.classes(queue).filter_map(|(_, depth)| depth.per_worker).min();
        let kind = queue.capacities.iter().filter_map(|capacity| match self.selector {
            Selector::Gpu { .. } => Some(capacity.gpu_milli / WHOLE_GPU),
            _ if capacity.gpu_milli > 0 => None,
            _ => Some(capacity.cpu_milli / 1_000),
        });
        f64::from(fits.or_else(|| kind.filter(|&slots| slots > 0).min()).unwrap_or(1)).clamp(1.0, MOST_PER_WORKER)
    }

    fn classes<'q>(
        &'q self,
        queue: &'q QueueSummary,
    ) -> impl Iterator<Item = (&'q Class, &'q crate::core::fleet::Depth)> {
        queue.classes.iter().filter(|(class, _)| self.covers(class))
    }

    fn covers(&self, class: &Class) -> bool {
        match &self.selector {
            Selector::Gpu { prefer } => match class.gpu {
                GpuPreference::Require => true,
                GpuPreference::Prefer => *prefer,
                GpuPreference::None => false,
            },
            Selector::Cpu { prefer } => match class.gpu {
                GpuPreference::Require => false,
                GpuPreference::Prefer => *prefer,
                GpuPreference::None => true,
            },
            Selector::Command => class.operator.is_none(),
            Selector::Operator(name) => class.operator.as_ref() == Some(name),
            Selector::Labels(labels) => labels.iter().all(|(name, value)| class.labels.get(name) == Some(value)),
        }
    }
}

/// What a class may be, for people.
const CLASSES: &str = "such as gpu, cpu, command, operator=text.embed or label.zone=b";

fn selector(class: &str, prefer: Option<bool>) -> Result<Selector, BadTrigger> {
    match class {
        "gpu" => return Ok(Selector::Gpu { prefer: prefer.unwrap_or(false) }),
        "cpu" => return Ok(Selector::Cpu { prefer: prefer.unwrap_or(true) }),
        "command" => return Ok(Selector::Command),
        _ => {}
    }
    if let Some(name) = class.strip_prefix("operator=") {
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(BadTrigger(format!(
                "`class` is `{}`: write operator=NAME, such as operator=text.embed",
                clip(class)
            )));
        }
        return Ok(Selector::Operator(name.to_owned()));
    }
    if class.starts_with("label.") {
        let labels = class.split(',').map(|part| {
            let pair = part.trim().strip_prefix("label.").and_then(|pair| pair.split_once('='));
            pair.filter(|(name, _)| !name.is_empty()).map(|(name, value)| (name.to_owned(), value.to_owned()))
        });
        let labels: Option<BTreeMap<String, String>> = labels.collect();
        return labels.map(Selector::Labels).ok_or_else(|| {
            BadTrigger(format!("`class` is `{}`: write label.NAME=VALUE, several with commas between", clip(class)))
        });
    }
    Err(BadTrigger(format!("`class` is `{}`, which names no work: write one {CLASSES}", clip(class))))
}

fn per_worker(text: &str) -> Result<f64, BadTrigger> {
    text.trim().parse::<f64>().ok().filter(|n| n.is_finite() && *n > 0.0 && *n <= MOST_PER_WORKER).ok_or_else(|| {
        BadTrigger(format!("`tasksPerWorker` is `{}`: write a number above 0, such as \"4\"", clip(text)))
    })
}

/// Keeps a hostile value from filling a message.
fn clip(text: &str) -> String {
    const SHOWN: usize = 80;
    let clipped: String = text.chars().take(SHOWN).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN).is_some() { format!("{clipped}…") } else { clipped }
}

#[cfg(test)]
#[path = "keda_tests.rs"]
mod tests;
