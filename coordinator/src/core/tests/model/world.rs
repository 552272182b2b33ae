//! A small world: a coordinator, two workers, what is on its way between them, and the rules applied beside it.

use std::collections::{BTreeMap, BTreeSet};

use segue_proto::{
    failure::FailureClass,
    ids::{RunId, Token},
};
use serde_json::Value;

use super::{
    draft::{self, Node},
    reference::{Fate, Place, Reference},
};
use crate::core::{
    AttemptState, Command, Event, FIRST_CHILD, Outcome, Refused, Run, Sight, TaskState, Verdict, explain,
    rerun::Selector,
    tests::{
        sim::Sim,
        support::{Bench, failure, says},
    },
};

/// What may happen; the numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Step {
    /// A worker gets its next command.
    Obey(usize),
    /// The coordinator gets the next report of a worker.
    Report(usize),
    Succeed(usize, usize),
    Fail(usize, FailureClass),
    Beat(usize),
    /// The link of a worker breaks, noticed or not; or it is made again.
    Link(usize, bool),
    Crash(usize),
    Drain(usize),
    Time(u64),
    /// Time passes while everybody talks to everybody, and no attempt ends.
    Calm(u64),
    Look(usize, u8),
    CancelRun(usize),
    CancelTask(usize, usize),
    Restart,
    Rerun(usize, u8, usize),
}

#[derive(Debug)]
pub struct World {
    pub bench: Bench,
    sims: Vec<Sim>,
    starts: u32,
    runs: Vec<(RunId, Reference)>,
    looks: BTreeSet<(RunId, u32, u64)>,
    /// Which of the many things that could happen did.
    pub seen: BTreeMap<&'static str, u32>,
    took_ms: u64,
}

fn place_of(run: &Run, index: u32) -> Place {
    let ordinal = run.item_of(index).map(|item| item.ordinal as usize);
    (run.node_of(index), ordinal)
}

impl World {
    pub fn new(pipelines: &[Vec<Node>], cpus: [u32; 2], took_ms: u64) -> Self {
        let mut bench = Bench::new();
        bench.core.set_pool("p".into(), Some(draft::SLOTS));
        let sims = cpus.iter().enumerate().map(|(at, cpus)| Sim::new(&format!("w{at}"), 0, *cpus)).collect();
        let mut world =
            Self { bench, sims, starts: 0, runs: Vec::new(), looks: BTreeSet::new(), seen: BTreeMap::new(), took_ms };
        for (n, nodes) in pipelines.iter().enumerate() {
            let n = u32::try_from(n).unwrap() + 1;
            let id = world.bench.submit_spec(n, draft::spec(nodes));
            world.runs.push((id, Reference::new(nodes)));
            world.after();
        }
        for at in 0..world.sims.len() {
            world.link(at);
        }
        world
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    pub fn all_ended(&self) -> bool {
        self.runs.iter().all(|(id, _)| self.bench.core.run(id).is_none_or(|run| run.state.is_terminal()))
    }

    /// Notes what has happened, so that the test can say that it did.
    fn take_note(&mut self) {
        let mut seen = Vec::new();
        for (id, _) in &self.runs {
            let Some(run) = self.bench.core.run(id) else { continue };
            for index in run.indices() {
                let task = run.task(index).unwrap();
                seen.extend(explain::explain(&self.bench.core, run, index).map(|reason| reason.code));
                seen.extend(task.state.is_terminal().then(|| task.state.word()));
                seen.extend(task.state.live().filter(|live| live.ahead).map(|_| "ahead"));
                seen.extend(task.attempts.iter().map(|attempt| match attempt.state {
                    AttemptState::Succeeded => "Succeeded",
                    AttemptState::Failed => "Failed",
                    AttemptState::TimedOut | AttemptState::Lost => "TimedOut or lost",
                    AttemptState::Cancelled => "Cancelled",
                    AttemptState::HandedBack => "HandedBack",
                    AttemptState::Assigned | AttemptState::Running => "Running",
                }));
            }
        }
        let commands = self.sims.iter().flat_map(|sim| &sim.inbox);
        seen.extend(commands.filter(|command| matches!(command, Command::Retract { .. })).map(|_| "retract"));
        seen.into_iter().for_each(|what| self.note(what));
    }

    /// Attempts that this worker has and does not hold, by run.
    fn never_arrived(&self, sim: &Sim) -> Vec<Vec<Place>> {
        let held = sim.held();
        let missing = |run: &Run| {
            let here = run.indices().filter(|index| {
                let live = run.task(*index).and_then(|task| task.state.live());
                live.is_some_and(|live| live.worker == sim.key)
                    && !held.iter().any(|held| Some(&held.token) == run.live_token(*index).as_ref())
            });
            here.map(|index| place_of(run, index)).collect()
        };
        self.runs.iter().map(|(id, _)| self.bench.core.run(id).map(missing).unwrap_or_default()).collect()
    }

    /// Brings commands to the workers and looks to whoever looks, then compares.
    fn after(&mut self) {
        for (worker, command) in std::mem::take(&mut self.bench.sent) {
            if let Some(sim) = self.sims.iter_mut().find(|sim| sim.key == worker && sim.is_linked()) {
                sim.inbox.push_back(command);
            }
        }
        for effect in &self.bench.last.effects {
            if let crate::core::Effect::Probe { run, task, since } = effect {
                self.looks.insert((*run, *task, *since));
            }
        }
        self.take_note();
        for sim in &self.sims {
            assert!(sim.capacity.fits(&sim.used()));
        }
        let mut running: BTreeSet<(RunId, u32)> = BTreeSet::new();
        for (token, _) in self.sims.iter().flat_map(|sim| sim.running.values()) {
            assert!(running.insert((token.run, token.index)), "{token} runs twice");
        }
        for (id, reference) in &mut self.runs {
            let Some(run) = self.bench.core.run(id) else { continue };
            assert_eq!(run.state, reference.state);
            for index in run.indices() {
                let (place, task) = (place_of(run, index), run.task(index).unwrap());
                let unit = reference.unit(place).unwrap_or_else(|| panic!("{place:?} should not be there"));
                let name = run.name_of(index).unwrap();
                assert_eq!((Fate::of(&task.state), task.tries), (unit.fate, unit.tries), "{name}");
            }
            let children: usize = reference.tasks.iter().map(|task| task.children.len()).sum();
            assert_eq!(run.children.len(), children);
            for place in reference.places() {
                if let (task, Some(child)) = place {
                    let key = &reference.tasks[task].children[child].key;
                    let found = run.find(&format!("{}[{key}]", draft::name(task)));
                    assert_eq!(found.map(|index| place_of(run, index)), Some(place));
                }
            }
            reference.sync(run);
        }
    }

    fn link(&mut self, at: usize) {
        let missing = self.never_arrived(&self.sims[at]);
        if self.sims[at].hello(&mut self.bench) == Ok(Verdict::Done) {
            for ((_, reference), places) in self.runs.iter_mut().zip(missing) {
                reference.came_back(&places);
            }
        }
        self.after();
    }

    fn reference_of(&mut self, token: &Token) -> Option<(Place, &mut Reference)> {
        let place = place_of(self.bench.core.run(&token.run)?, token.index);
        let reference = self.runs.iter_mut().find(|(id, _)| *id == token.run).map(|(_, reference)| reference)?;
        Some((place, reference))
    }

    fn report(&mut self, at: usize) -> bool {
        let Some(event) = self.sims[at].next_event() else { return false };
        let (token, kind) = match &event {
            Event::Finished { token, outcome, .. } => (Some(token.clone()), Some(outcome.clone())),
            Event::HandBack { token, .. } => (Some(token.clone()), None),
            _ => (None, None),
        };
        let verdict = self.bench.tell(event);
        if let (Some(token), Ok(Verdict::Done)) = (token, verdict)
            && let Some((place, reference)) = self.reference_of(&token)
        {
            match kind {
                None => reference.came_back(&[place]),
                Some(Outcome::Success { inline, .. }) => reference.succeeded(place, &inline["out"]),
                Some(Outcome::Failure(failure)) => reference.failed(place, failure.class == FailureClass::Infra),
                Some(Outcome::Cancelled) => reference.failed(place, true),
            }
        }
        self.after();
        true
    }

    /// Delivers everything that is on its way to and from a worker.
    fn exchange(&mut self, at: usize) {
        while self.report(at) || !self.sims[at].inbox.is_empty() {
            self.sims[at].obey();
        }
    }

    fn time(&mut self, ms: u64) {
        self.bench.now += ms;
        let now = self.bench.now;
        self.sims.iter_mut().for_each(|sim| sim.pass(now));
        for run in 0..self.runs.len() {
            let (id, _) = self.runs[run];
            let Some(state) = self.bench.core.run(&id) else { continue };
            let (mut lost, mut given_up) = (Vec::new(), Vec::new());
            for index in state.indices() {
                let (task, bound, place) =
                    (state.task(index).unwrap(), state.bound(index).unwrap(), place_of(state, index));
                let over = |limit: Option<u64>| limit.is_some_and(|limit| task.ready_at + limit <= now);
                match &task.state {
                    TaskState::Live(live) if live.lease_until <= now => lost.push((place, live.started)),
                    TaskState::Ready if !task.is_held() && over(bound.flow.queue_timeout_ms) => given_up.push(place),
                    TaskState::Sensing { next } if *next <= now && over(bound.timeout_ms) => given_up.push(place),
                    _ => {}
                }
            }
            self.runs[run].1.time_passed(&lost, &given_up);
        }
        self.bench.tell(Event::Tick).unwrap();
        self.after();
    }

    fn look(&mut self, pick: usize, what: u8) {
        let Some((run, task, since)) = self.looks.iter().nth(pick % self.looks.len().max(1)).copied() else { return };
        self.looks.remove(&(run, task, since));
        let seen = match what % 6 {
            0 => Sight::Fault("as told".into()),
            1 | 2 => Sight::NotYet("as told".into()),
            3 => Sight::Baseline("as told".into()),
            _ => Sight::Met("as told".into()),
        };
        let verdict = self.bench.tell(Event::Sensed { run, task, since, seen: seen.clone() }).unwrap();
        if verdict == Verdict::Done
            && let Some((_, reference)) = self.runs.iter_mut().find(|(id, _)| *id == run)
        {
            match seen {
                Sight::Met(_) => reference.succeeded((task as usize, None), &Value::Null),
                Sight::Fault(_) => reference.given_up(&[(task as usize, None)]),
                Sight::NotYet(_) | Sight::Baseline(_) => {}
            }
        }
        self.after();
    }

    fn end(&mut self, at: usize, pick: usize, outcome: Outcome) {
        let sim = &mut self.sims[at];
        let Some((token, _)) = sim.running.values().nth(pick % sim.running.len().max(1)).cloned() else { return };
        sim.took_ms = self.took_ms;
        sim.end(token, outcome);
    }

    fn rerun(&mut self, run: usize, what: u8, pick: usize) {
        let (id, _) = self.runs[run];
        if self.bench.core.run(&id).is_some_and(|run| !run.state.is_terminal()) {
            return;
        }
        self.bench.core.forget_terminal();
        let state = self.bench.load(&id).unwrap();
        let indices: Vec<u32> = state.indices().collect();
        let name = || state.name_of(indices[pick % indices.len()]).unwrap().to_string();
        let selector = match what % 3 {
            0 => Selector { failed: true, ..Selector::default() },
            1 => Selector { from: vec![name()], ..Selector::default() },
            _ => Selector { only: vec![name()], ..Selector::default() },
        };
        let plan = crate::core::rerun::plan(&state, &selector, None);
        // A child whose item is gone cannot be asked for, and a plan may be empty: then it stays as it is.
        let Some(plan) = plan.ok().filter(|plan| plan.executes()) else {
            self.runs.remove(run);
            return;
        };
        self.note("rerun");
        if plan.items.iter().any(|item| item.children.is_some()) {
            self.note("one child");
        }
        let spec = std::sync::Arc::clone(&plan.spec);
        self.runs[run].1.rerun(&plan, &state);
        self.bench.tell(Event::Rerun { run: Box::new(state), spec, plan: Box::new(plan) }).unwrap();
        self.after();
    }

    pub fn step(&mut self, step: Step) {
        match step {
            Step::Obey(at) => self.sims[at].obey(),
            Step::Report(at) => drop(self.report(at)),
            Step::Succeed(pick, draw) => self.end(pick % 2, pick, says(draft::list(draw))),
            Step::Fail(pick, class) => self.end(pick % 2, pick, failure(class)),
            Step::Beat(at) => self.sims[at].beat(self.bench.now),
            Step::Link(at, told) if self.sims[at].is_linked() => {
                let (sim, bench) = (&mut self.sims[at], &mut self.bench);
                sim.cut(bench, told);
                self.note("cut");
                self.after();
            }
            Step::Link(at, _) => self.link(at),
            Step::Crash(at) => {
                let bench = &mut self.bench;
                self.sims[at].cut(bench, true);
                self.starts += 1;
                let cpus = self.sims[at].capacity.cpu_milli / 1_000;
                self.sims[at] = Sim::new(&format!("w{at}"), self.starts, cpus);
                self.note("crash");
                self.after();
                self.link(at);
            }
            Step::Drain(at) => {
                let worker = self.sims[at].key.name.clone();
                let told = self.bench.tell(Event::Drain { worker });
                assert!(matches!(told, Ok(_) | Err(Refused::NoSuchWorker(_))));
                self.after();
            }
            Step::Time(ms) => self.time(ms),
            Step::Calm(ms) => {
                for part in [ms / 2, ms - ms / 2] {
                    for at in 0..self.sims.len() {
                        self.sims[at].beat(self.bench.now);
                        self.exchange(at);
                    }
                    self.time(part);
                }
            }
            Step::Look(pick, what) => self.look(pick, what),
            Step::CancelRun(pick) => {
                let Some((id, reference)) = self.runs.get_mut(pick) else { return };
                if self.bench.tell(Event::CancelRun { run: *id, gently: false, why: String::new() }).is_ok() {
                    reference.cancel_run();
                    self.note("cancel run");
                }
                self.after();
            }
            Step::CancelTask(pick, task) => {
                let Some((id, reference)) = self.runs.get_mut(pick) else { return };
                let Some(run) = self.bench.core.run(id) else { return };
                let indices: Vec<u32> = run.indices().collect();
                let index = indices[task % indices.len()];
                let place = place_of(run, index);
                if self.bench.tell(Event::CancelTask { run: *id, task: index }).is_ok() {
                    reference.cancel_task(place);
                    self.note(if index >= FIRST_CHILD { "cancel child" } else { "cancel task" });
                }
                self.after();
            }
            Step::Restart => {
                for sim in &mut self.sims {
                    sim.drop_link();
                }
                self.bench.core.forget_terminal();
                self.looks.clear();
                self.bench.restart();
                self.note("restart");
                self.after();
            }
            Step::Rerun(run, what, pick) if run < self.runs.len() => self.rerun(run, what, pick),
            Step::Rerun(..) => {}
        }
    }

    /// Lets everything come to its end without further faults.
    pub fn finish(&mut self) {
        for round in 0..400 {
            if self.all_ended() {
                return;
            }
            for at in 0..self.sims.len() {
                // Whoever takes no work, or is too small for some of it, makes room for another one.
                if self.sims[at].is_drained() || (round == 0 && self.sims[at].capacity.cpu_milli < 2_000) {
                    self.sims[at].capacity.cpu_milli = 2_000;
                    self.step(Step::Crash(at));
                }
                if !self.sims[at].is_linked() {
                    self.link(at);
                }
                self.sims[at].beat(self.bench.now);
                self.exchange(at);
                while !self.sims[at].running.is_empty() {
                    self.end(at, 0, says(draft::list(round)));
                }
                while self.report(at) {}
            }
            while !self.looks.is_empty() {
                self.look(0, 5);
            }
            self.time(200);
        }
        let left = |run: &Run| run.tasks.iter().map(|task| task.state.word()).collect::<Vec<_>>();
        let left: Vec<_> = self.runs.iter().filter_map(|(id, _)| self.bench.core.run(id)).map(left).collect();
        panic!("stuck: {left:?}");
    }

    /// What must be gone when nothing goes on any more.
    pub fn nothing_is_left(&mut self) {
        let core = &self.bench.core;
        assert!(core.workers().all(|worker| worker.leased.is_empty() && worker.ahead.is_empty()));
        assert!(core.queue.pool_use.is_empty() && core.queue.limit_use.is_empty() && core.queue.is_empty());
        assert!(core.timers.is_empty());
        assert_eq!((core.gpu_open, core.next_wakeup()), (0, None));
        self.bench.core.forget_terminal();
        assert_eq!(self.bench.core.runs().count(), 0);
        assert!(self.bench.core.order.is_empty() && self.bench.core.arrival.is_empty());
        for (id, reference) in &self.runs {
            let read = self.bench.load(id).unwrap();
            assert_eq!(read.state, reference.state);
        }
    }
}
