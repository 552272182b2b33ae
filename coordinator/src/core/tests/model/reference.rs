//! The rules of a run as their pages say them, applied by looking at everything again and again.

use std::collections::BTreeSet;

use serde_json::Value;

use super::draft::{Cond, Kind, Node, puts_out};
use crate::{
    core::{Run, RunState, TaskState, rerun::Plan},
    spec::RunIf,
};

/// What has become of a task or child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Waiting,
    /// Ready, live, sensing or between two tries.
    Open,
    /// Live, and told to stop.
    Stopping,
    Expanded,
    Ended(&'static str),
}

impl Fate {
    pub fn of(state: &TaskState) -> Self {
        match state {
            TaskState::Waiting { .. } => Self::Waiting,
            TaskState::Live(live) if live.cancelling => Self::Stopping,
            TaskState::Ready | TaskState::Live(_) | TaskState::Sensing { .. } | TaskState::Backoff { .. } => Self::Open,
            TaskState::Expanded => Self::Expanded,
            state => Self::Ended(state.word()),
        }
    }

    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }

    fn is_failure(self) -> bool {
        matches!(self, Self::Ended("failed" | "upstream_failed" | "cancelled"))
    }
}

/// A task or child.
#[derive(Debug, Clone)]
pub struct Unit {
    pub fate: Fate,
    pub tries: u32,
    /// A worker has it. Told by the core: where and when work is placed is no matter of these rules.
    pub live: bool,
}

impl Unit {
    const fn new(fate: Fate) -> Self {
        Self { fate, tries: 0, live: false }
    }
}

#[derive(Debug, Clone)]
pub struct Child {
    pub key: String,
    item: i64,
    pub unit: Unit,
}

#[derive(Debug, Clone)]
pub struct Task {
    pub unit: Unit,
    pub children: Vec<Child>,
    list: Option<Value>,
    /// Children that a rerun asked for alone, by their place.
    asked: Option<BTreeSet<usize>>,
    /// A child failed since it expanded last.
    failed_now: bool,
    stopped: bool,
}

/// Names a unit: the task, and the place of the child.
pub type Place = (usize, Option<usize>);

#[derive(Debug, Clone)]
pub struct Reference {
    nodes: Vec<Node>,
    pub tasks: Vec<Task>,
    pub state: RunState,
}

impl Reference {
    pub fn new(nodes: &[Node]) -> Self {
        let unit = Unit::new(Fate::Waiting);
        let fresh = Task { unit, children: vec![], list: None, asked: None, failed_now: false, stopped: false };
        let mut made = Self { nodes: nodes.to_vec(), tasks: vec![fresh; nodes.len()], state: RunState::Running };
        made.settle();
        made
    }

    pub fn unit(&self, (task, child): Place) -> Option<&Unit> {
        let task = self.tasks.get(task)?;
        match child {
            None => Some(&task.unit),
            Some(child) => task.children.get(child).map(|child| &child.unit),
        }
    }

    fn unit_mut(&mut self, (task, child): Place) -> &mut Unit {
        let task = &mut self.tasks[task];
        match child {
            None => &mut task.unit,
            Some(child) => &mut task.children[child].unit,
        }
    }

    pub fn places(&self) -> Vec<Place> {
        let children = |task: usize| (0..self.tasks[task].children.len()).map(move |child| (task, Some(child)));
        (0..self.tasks.len()).flat_map(|task| std::iter::once((task, None)).chain(children(task))).collect()
    }

    /// Takes over who is at a worker.
    pub fn sync(&mut self, run: &Run) {
        for index in run.indices() {
            let place = (run.node_of(index), run.item_of(index).map(|item| item.ordinal as usize));
            self.unit_mut(place).live = run.task(index).is_some_and(|task| task.state.live().is_some());
        }
    }

    /// Says whether the first cancel lets it have its turn.
    fn is_spared(&self, task: usize) -> bool {
        self.nodes[task].finally || self.nodes[task].rule == RunIf::Always
    }

    fn end(&mut self, place: Place, word: &'static str) {
        let unit = self.unit_mut(place);
        unit.fate = Fate::Ended(word);
        unit.live = false;
        let failed = unit.fate.is_failure();
        if place.1.is_some() && failed {
            self.tasks[place.0].failed_now = true;
        }
    }

    pub fn succeeded(&mut self, place: Place, list: &Value) {
        if self.unit_mut(place).fate == Fate::Stopping {
            self.end(place, "cancelled");
        } else {
            if place.1.is_none() {
                self.tasks[place.0].list = Some(list.clone());
            }
            self.end(place, "succeeded");
        }
        self.settle();
    }

    /// An attempt failed. `again`: its class is one that may pass.
    pub fn failed(&mut self, place: Place, again: bool) {
        self.fail(place, again);
        self.settle();
    }

    fn fail(&mut self, place: Place, again: bool) {
        let may = self.state == RunState::Running || self.is_spared(place.0);
        let unit = self.unit_mut(place);
        unit.live = false;
        if unit.fate == Fate::Stopping {
            return self.end(place, "cancelled");
        }
        unit.tries += 1;
        if !(again && may && unit.tries < 2) {
            self.end(place, "failed");
        }
    }

    /// A sensor saw that its condition can never be met, or a wait took too long: nothing is tried again.
    pub fn given_up(&mut self, places: &[Place]) {
        places.iter().for_each(|place| self.end(*place, "failed"));
        self.settle();
    }

    /// Attempts came back without having ended.
    pub fn came_back(&mut self, places: &[Place]) {
        for place in places {
            match self.unit_mut(*place) {
                unit if unit.fate == Fate::Stopping => self.end(*place, "cancelled"),
                unit => unit.live = false,
            }
        }
        self.settle();
    }

    /// Leases are over, and waits; all at one time. `lost` says of each whether its attempt had begun.
    pub fn time_passed(&mut self, lost: &[(Place, bool)], given_up: &[Place]) {
        for (place, begun) in lost {
            match self.unit_mut(*place) {
                unit if unit.fate == Fate::Stopping => self.end(*place, "cancelled"),
                unit if !begun => unit.live = false,
                _ => self.fail(*place, true),
            }
        }
        given_up.iter().for_each(|place| self.end(*place, "failed"));
        self.settle();
    }

    fn stop(&mut self, place: Place) {
        let unit = self.unit_mut(place);
        match unit.fate {
            Fate::Ended(_) | Fate::Stopping | Fate::Expanded => {}
            _ if unit.live => unit.fate = Fate::Stopping,
            _ => self.end(place, "cancelled"),
        }
    }

    pub fn cancel_run(&mut self) {
        let first = self.state == RunState::Running;
        self.state = RunState::Cancelling;
        for place in self.places() {
            if !(first && self.is_spared(place.0)) {
                self.stop(place);
            }
        }
        self.settle();
    }

    pub fn cancel_task(&mut self, place: Place) {
        if self.unit_mut(place).fate == Fate::Expanded {
            for child in 0..self.tasks[place.0].children.len() {
                self.stop((place.0, Some(child)));
            }
        }
        self.stop(place);
        self.settle();
    }

    /// Starts anew as planned. What is in the plan is taken on trust here; its laws are tested on their own.
    pub fn rerun(&mut self, plan: &Plan, run: &Run) {
        self.state = RunState::Running;
        for (at, item) in plan.items.iter().enumerate().filter(|(_, item)| item.execute) {
            let task = &mut self.tasks[at];
            task.unit = Unit::new(Fate::Waiting);
            (task.list, task.failed_now, task.stopped) = (None, false, false);
            let place = |child: &u32| run.item_of(*child).unwrap().ordinal as usize;
            task.asked = item.children.as_ref().map(|children| children.iter().map(place).collect());
            if task.asked.is_none() {
                task.children.iter_mut().for_each(|child| child.unit.fate = Fate::Ended("dropped"));
            }
        }
        self.settle();
    }

    /// Looks at everything until nothing changes any more.
    fn settle(&mut self) {
        while self.look_once() {}
        if !self.state.is_terminal() && self.tasks.iter().all(|task| task.unit.fate.has_ended()) {
            self.state = self.outcome(|_| true);
        }
    }

    fn outcome(&self, counts: impl Fn(&Node) -> bool) -> RunState {
        let words: Vec<&str> = self
            .tasks
            .iter()
            .zip(&self.nodes)
            .filter(|(_, node)| counts(node))
            .filter_map(|(task, _)| match task.unit.fate {
                Fate::Ended(word) => Some(word),
                _ => None,
            })
            .collect();
        let any = |wanted: &str| words.contains(&wanted);
        if self.state == RunState::Cancelling && any("cancelled") {
            RunState::Cancelled
        } else if any("failed") {
            RunState::Failed
        } else if any("cancelled") {
            RunState::Cancelled
        } else if any("upstream_failed") {
            RunState::Failed
        } else {
            RunState::Succeeded
        }
    }

    fn look_once(&mut self) -> bool {
        for at in 0..self.tasks.len() {
            let fate = self.tasks[at].unit.fate;
            match fate {
                Fate::Waiting => match self.rule(at) {
                    "wait" => continue,
                    "run" => self.begin(at),
                    word => self.end((at, None), word),
                },
                Fate::Expanded if self.look_at_children(at) => {}
                _ => continue,
            }
            return true;
        }
        false
    }

    fn rule(&self, at: usize) -> &'static str {
        let node = &self.nodes[at];
        let fates: Vec<Fate> = node.needs.iter().map(|&need| self.tasks[need].unit.fate).collect();
        let any = |words: &[&str]| fates.iter().any(|fate| matches!(fate, Fate::Ended(word) if words.contains(word)));
        let lost = any(&["failed", "upstream_failed", "cancelled"]);
        if node.rule == RunIf::AllSucceeded && lost {
            return "upstream_failed";
        }
        let main = || self.tasks.iter().zip(&self.nodes).filter(|(_, node)| !node.finally);
        let rest = node.finally && main().any(|(task, _)| !task.unit.fate.has_ended());
        if rest || fates.iter().any(|fate| !fate.has_ended()) {
            return "wait";
        }
        if self.state == RunState::Cancelling && !self.is_spared(at) {
            return "cancelled";
        }
        match node.rule {
            RunIf::AllSucceeded if any(&["skipped"]) => "skipped",
            RunIf::AnySucceeded if any(&["succeeded"]) => "run",
            RunIf::AnySucceeded if lost => "upstream_failed",
            RunIf::AnyFailed if any(&["failed", "upstream_failed"]) => "run",
            RunIf::AnySucceeded | RunIf::AnyFailed => "skipped",
            RunIf::AllSucceeded | RunIf::AllDone | RunIf::Always => "run",
        }
    }

    /// What a need has put out, where it has.
    fn list_of(&self, need: usize) -> Option<&Vec<Value>> {
        let task = &self.tasks[need];
        let there = task.unit.fate == Fate::Ended("succeeded") && puts_out(&self.nodes[need]);
        task.list.as_ref().filter(|_| there)?.as_array()
    }

    /// Whether its condition holds; `None`: it cannot be decided.
    fn condition(&self, at: usize, item: Option<i64>) -> Option<bool> {
        let node = &self.nodes[at];
        match node.cond {
            Cond::None | Cond::True => Some(true),
            Cond::False => Some(false),
            Cond::Broken => None,
            Cond::NeedIs(need, word) => Some(self.tasks[node.needs[need]].unit.fate == Fate::Ended(word)),
            Cond::NeedSays(need) => self.list_of(node.needs[need]).map(|list| list.len() > 1),
            Cond::Odd => Some(item.is_none_or(|item| item % 2 == 1)),
            Cond::RunIs(word) => {
                let ended = match self.outcome(|node| !node.finally) {
                    RunState::Cancelled => "cancelled",
                    RunState::Failed => "failed",
                    _ => "succeeded",
                };
                Some(ended == word)
            }
        }
    }

    fn begin(&mut self, at: usize) {
        match self.condition(at, None) {
            None => return self.end((at, None), "failed"),
            Some(false) => return self.end((at, None), "skipped"),
            Some(true) => {}
        }
        let items: Vec<i64> = match self.nodes[at].kind {
            Kind::Plain | Kind::Sensor => {
                self.tasks[at].unit.fate = Fate::Open;
                return;
            }
            Kind::Each(to) => (0..to).collect(),
            Kind::EachOf(need) => match self.list_of(self.nodes[at].needs[need]) {
                Some(list) => list.iter().filter_map(Value::as_i64).collect(),
                None => Vec::new(),
            },
        };
        let open: Vec<usize> = match self.tasks[at].asked.take() {
            Some(asked) => asked.into_iter().collect(),
            None => match self.take_items(at, &items) {
                Some(open) => open,
                None => return self.end((at, None), "failed"),
            },
        };
        self.tasks[at].unit.fate = Fate::Expanded;
        for child in open {
            let item = self.tasks[at].children[child].item;
            self.tasks[at].children[child].unit = Unit::new(Fate::Open);
            match self.condition(at, Some(item)) {
                None => self.end((at, Some(child)), "failed"),
                Some(false) => self.end((at, Some(child)), "skipped"),
                Some(true) => {}
            }
        }
    }

    /// Gives the places of the children for these items; `None` where they make no fan-out.
    fn take_items(&mut self, at: usize, items: &[i64]) -> Option<Vec<usize>> {
        if let Kind::EachOf(need) = self.nodes[at].kind {
            self.list_of(self.nodes[at].needs[need])?;
        }
        if items.iter().collect::<BTreeSet<_>>().len() < items.len() {
            return None;
        }
        let children = &mut self.tasks[at].children;
        let open = items.iter().map(|item| {
            let key = item.to_string();
            children.iter().position(|child| child.key == key).unwrap_or_else(|| {
                children.push(Child { key, item: *item, unit: Unit::new(Fate::Waiting) });
                children.len() - 1
            })
        });
        Some(open.collect())
    }

    fn look_at_children(&mut self, at: usize) -> bool {
        let node = &self.nodes[at];
        let task = &self.tasks[at];
        let fates = || task.children.iter().map(|child| child.unit.fate);
        let failed = fates().filter(|fate| fate.is_failure()).count() as u32;
        let cancelled = fates().filter(|fate| *fate == Fate::Ended("cancelled")).count() as u32;
        let open = fates().any(|fate| !fate.has_ended());
        if open && node.fail_fast && failed > node.tolerate && task.failed_now && !task.stopped {
            self.tasks[at].stopped = true;
            for child in 0..self.tasks[at].children.len() {
                self.stop((at, Some(child)));
            }
            return true;
        }
        if open {
            return false;
        }
        let too_many = failed > node.tolerate;
        let word = match () {
            () if cancelled > 0 && self.state == RunState::Cancelling => "cancelled",
            () if too_many && failed == cancelled => "cancelled",
            () if too_many => "failed",
            () => "succeeded",
        };
        self.end((at, None), word);
        true
    }
}
