//! Pipelines drawn from a seed: the text that is submitted, and what the auditor has to know of it.

use std::fmt::Write as _;

use crate::chance::Chance;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunIf {
    AllSucceeded,
    AnySucceeded,
    AnyFailed,
    AllDone,
    Always,
}

impl RunIf {
    const fn word(self) -> &'static str {
        match self {
            Self::AllSucceeded => "all_succeeded",
            Self::AnySucceeded => "any_succeeded",
            Self::AnyFailed => "any_failed",
            Self::AllDone => "all_done",
            Self::Always => "always",
        }
    }
}

#[derive(Debug, Clone)]
pub struct TaskShape {
    pub name: String,
    /// Places of the tasks that it comes after.
    pub needs: Vec<usize>,
    pub run_if: RunIf,
    pub finally: bool,
    pub fan_out: bool,
    pub pool: Option<(&'static str, u32)>,
    pub limited: bool,
}

#[derive(Debug, Clone)]
pub struct Shape {
    pub name: String,
    pub text: String,
    pub tasks: Vec<TaskShape>,
    /// Runs that may go on at a time.
    pub concurrency: Option<u32>,
    /// A task of it fits on no worker: it never ends by itself.
    pub stuck: bool,
    /// It has a schedule, which somebody may apply.
    pub scheduled: bool,
}

/// Pools of every simulation, and their slots.
pub const POOLS: [(&str, u32); 2] = [("db", 2), ("api", 3)];
/// Attempts at a time of tasks with the same limit.
pub const LIMIT: usize = 2;
/// A secret that must show up nowhere.
pub const CANARY: &str = "canary-7f3a91-do-not-tell";
/// Where it is.
pub const CANARY_NAME: &str = "SEGUE_SIM_CANARY";

impl Shape {
    pub fn find(&self, task: &str) -> Option<(usize, &TaskShape)> {
        let name = task.split('[').next().unwrap_or(task);
        self.tasks.iter().enumerate().find(|(_, shape)| shape.name == name)
    }

    /// Draws a pipeline. `number` tells pipelines of one seed apart.
    pub fn draw(chance: &mut Chance, number: usize) -> Self {
        let count = chance.between(1, 7) as usize;
        let mut shape = Self {
            name: format!("p{number}"),
            text: String::new(),
            tasks: Vec::new(),
            concurrency: None,
            stuck: chance.percent(2),
            scheduled: number == 0 && chance.percent(35),
        };
        let mut text = format!("[pipeline]\nname = \"p{number}\"\n");
        if chance.percent(30) {
            let max = chance.between(1, 2) as u32;
            let word = *chance.pick(&["queue", "queue", "skip", "cancel_running"]);
            let _ = writeln!(text, "concurrency = {{ max = {max}, on_full = \"{word}\" }}");
            shape.concurrency = Some(max);
        }
        if chance.percent(30) {
            let _ = writeln!(text, "priority = {}", chance.between(0, 9));
        }
        text.push_str("[params]\nmode = { type = \"string\", default = \"full\" }\n[defaults]\nretry = { ");
        let attempts = chance.between(1, 4);
        let backoff = *chance.pick(&["constant", "exponential"]);
        let initial = chance.pick(&["100ms", "500ms", "2s"]);
        let _ = writeln!(
            text,
            "attempts = {attempts}, backoff = \"{backoff}\", initial = \"{initial}\", max = \"3s\", jitter = 0.2, on = [\"infra\", \"timeout\", \"lost\", \"oom\"] }}"
        );
        let stuck_at = chance.below(count);
        for at in 0..count {
            shape.task(chance, &mut text, at, at == stuck_at);
        }
        if chance.percent(25) {
            shape.finally(chance, &mut text);
        }
        if shape.scheduled {
            let (every, overlap, catch_up) = (
                chance.between(1, 4),
                chance.pick(&["skip", "queue", "cancel_running", "allow"]),
                chance.pick(&["none", "last", "all"]),
            );
            let _ = writeln!(
                text,
                "[schedule]\nevery = \"{every}s\"\noverlap = \"{overlap}\"\ncatch_up = \"{catch_up}\"\ncatch_up_window = \"15s\""
            );
        }
        shape.text = text;
        shape
    }

    fn task(&mut self, chance: &mut Chance, text: &mut String, at: usize, here: bool) {
        let name = format!("t{at}");
        let _ = writeln!(text, "[tasks.{name}]");
        let _ = writeln!(text, "command = {}", command(chance));
        let _ = writeln!(text, "outputs = {{ out = \"table\", items = \"json\" }}");
        let mut needs: Vec<usize> = Vec::new();
        let (mut after, mut inputs) = (Vec::new(), Vec::new());
        for before in at.saturating_sub(4)..at {
            if !chance.percent(if before + 1 == at { 60 } else { 25 }) {
                continue;
            }
            needs.push(before);
            // The outputs of a fan-out are joined, which a command need not want.
            if chance.percent(50) && !self.tasks[before].fan_out { inputs.push(before) } else { after.push(before) }
        }
        let mut fan_out = false;
        if chance.percent(22) {
            fan_out = true;
            match needs.iter().copied().find(|&need| !self.tasks[need].fan_out).filter(|_| chance.percent(60)) {
                Some(from) => {
                    let _ = writeln!(text, "foreach = {{ output = \"t{from}.items\" }}");
                    after.retain(|&need| need != from);
                }
                None => {
                    let items: Vec<String> = (0..chance.between(1, 5)).map(|item| format!("\"k{item}\"")).collect();
                    let _ = writeln!(text, "foreach = [{}]", items.join(", "));
                }
            }
            if chance.percent(40) {
                let _ = writeln!(text, "max_parallel = {}", chance.between(1, 3));
            }
            if chance.percent(30) {
                let _ = writeln!(text, "tolerate = {}", chance.between(1, 2));
            }
            if chance.percent(30) {
                text.push_str("fail_fast = true\n");
            }
        }
        if !after.is_empty() {
            let names: Vec<String> = after.iter().map(|need| format!("\"t{need}\"")).collect();
            let _ = writeln!(text, "after = [{}]", names.join(", "));
        }
        if !inputs.is_empty() {
            let ports: Vec<String> = inputs.iter().map(|need| format!("in{need} = \"t{need}.out\"")).collect();
            let _ = writeln!(text, "inputs = {{ {} }}", ports.join(", "));
        }
        // What reads an output needs its success: other rules would have nothing to read.
        let free = inputs.is_empty() && !text_reads(text, at) && !needs.is_empty();
        let run_if = if free && chance.percent(35) {
            *chance.pick(&[RunIf::AnySucceeded, RunIf::AnyFailed, RunIf::AllDone, RunIf::Always])
        } else {
            RunIf::AllSucceeded
        };
        if run_if != RunIf::AllSucceeded {
            let _ = writeln!(text, "run_if = \"{}\"", run_if.word());
        }
        let conditional = chance.percent(12);
        if conditional {
            let condition = match needs.first() {
                Some(need) if chance.percent(50) => format!("tasks.t{need}.state == 'succeeded'"),
                _ => format!("params.mode == '{}'", chance.pick(&["full", "fast"])),
            };
            let _ = writeln!(text, "when = \"{condition}\"");
        }
        let cpu = *chance.pick(&[0.5, 1.0, 1.0, 2.0]);
        if self.stuck && here {
            let _ = writeln!(text, "resources = {{ cpu = {cpu:?}, labels = {{ zone = \"nowhere\" }} }}");
        } else if chance.percent(15) {
            let _ = writeln!(text, "resources = {{ cpu = {cpu:?}, labels = {{ zone = \"a\" }} }}");
        } else {
            let _ = writeln!(text, "resources = {{ cpu = {cpu:?} }}");
        }
        let pool = chance.percent(20).then(|| (chance.pick(&POOLS).0, 1));
        if let Some((name, slots)) = pool {
            let _ = writeln!(text, "pools = {{ {name} = {slots} }}");
        }
        let limited = pool.is_none() && chance.percent(10);
        if limited {
            let _ = writeln!(text, "limit = {{ key = \"shared\", max = {LIMIT} }}");
        }
        let cached = chance.percent(15);
        if cached {
            text.push_str("cache = true\n");
        }
        if chance.percent(30) {
            let _ = writeln!(text, "timeout = \"{}ms\"", chance.pick(&[400, 1_500, 6_000]));
        }
        if chance.percent(15) {
            let _ = writeln!(text, "env = {{ TOKEN = {{ secret = \"env:{CANARY_NAME}\" }} }}");
        }
        self.tasks.push(TaskShape { name, needs, run_if, finally: false, fan_out, pool, limited });
    }

    fn finally(&mut self, chance: &mut Chance, text: &mut String) {
        let _ = writeln!(text, "[tasks.last]\ncommand = {}\nfinally = true", command(chance));
        self.tasks.push(TaskShape {
            name: "last".to_owned(),
            needs: Vec::new(),
            run_if: RunIf::AllSucceeded,
            finally: true,
            fan_out: false,
            pool: None,
            limited: false,
        });
    }
}

/// Says whether the task that was written last reads an output for its items.
fn text_reads(text: &str, at: usize) -> bool {
    text.rsplit(&format!("[tasks.t{at}]")).next().is_some_and(|own| own.contains("foreach = { output"))
}

/// Draws what a task does, in words that the model worker understands.
fn command(chance: &mut Chance) -> String {
    let ms = if chance.percent(12) { chance.between(1_000, 5_000) } else { chance.delay_us(5, 900) };
    let class = *chance.pick(&["infra", "infra", "user", "oom", "data"]);
    let of_hundred = *chance.pick(&[0, 0, 0, 15, 40]);
    let items = chance.between(0, 4);
    format!("[\"sim\", \"{ms}\", \"{class}\", \"{of_hundred}\", \"{items}\"]")
}
