//! The store of a small cluster: what a decision changed is written, and what is read back is what was there.

use super::support::Bench;
use crate::{
    core::{Attempt, Config, Core, Dirty, Live, Run, Task, TaskState},
    server::records,
    store::{Batch, Key, Store as _},
};

impl Bench {
    /// Writes what a decision changed, as the server does.
    pub fn persist(&self, dirty: &Dirty) {
        let mut batch = Batch::new();
        let run = |id| self.core.run(id).expect("what changed is in memory until it is written");
        for id in &dirty.runs {
            batch.put(&Key::Run(*id), &records::run_record(run(id)));
        }
        for (id, task) in &dirty.tasks {
            let record = records::task_record(run(id).task(*task).expect("a task of the run"));
            batch.put(&Key::Task { run: *id, task: *task }, &record);
        }
        for (id, task) in &dirty.groups {
            batch.put(&Key::Expansion { run: *id, task: *task }, &records::expansion_record(&run(id).groups[task]));
        }
        for (id, task, number) in &dirty.attempts {
            let attempts = &run(id).task(*task).expect("a task of the run").attempts;
            let attempt = attempts.iter().find(|attempt| attempt.number == *number).expect("an attempt of the task");
            let key = Key::Attempt { run: *id, task: *task, attempt: *number };
            batch.put(&key, &records::attempt_record(attempt));
        }
        self.store.apply(&batch).unwrap();
    }

    /// Reads a run back, as a start of the server and a rerun do.
    pub fn load(&self, id: &segue_proto::ids::RunId) -> Option<Run> {
        records::load_run(&*self.store, id).unwrap()
    }

    /// Compares every run in memory with what a restart would make of the store.
    pub fn check_store(&self) {
        for run in self.core.runs() {
            let Some(read) = self.load(&run.id) else {
                assert!(!self.submitted.contains(&run.id), "run {} was never written", run.id);
                continue;
            };
            if run.state.is_terminal() {
                assert_same(run, &read);
                continue;
            }
            let mut after = Core::new(Config { epoch: 9, lease_ms: 1 });
            after.restore(read, self.now);
            assert_same(run, after.run(&run.id).unwrap());
        }
    }

    /// Stops the coordinator and starts it again: everything that was not written is gone, every link is closed.
    pub fn restart(&mut self) {
        let epoch = self.core.config().epoch + 1;
        let mut core = Core::new(Config { epoch, lease_ms: self.core.config().lease_ms });
        let active: Vec<_> = self.core.runs().filter(|run| !run.state.is_terminal()).map(|run| run.id).collect();
        for (name, slots) in self.core.pools() {
            core.set_pool(name.clone(), Some(*slots));
        }
        for id in active {
            core.restore(self.load(&id).expect("an active run is in the store"), self.now);
        }
        self.core = core;
        self.turn();
    }
}

fn assert_same(memory: &Run, read: &Run) {
    assert_eq!(facts(memory), facts(read));
    assert_eq!(memory.spec, read.spec);
    for index in memory.indices().chain(read.indices()) {
        let (one, other) = (memory.task(index), read.task(index));
        let (Some(one), Some(other)) = (one, other) else { panic!("child {index} is missing") };
        let name = memory.name_of(index);
        assert_eq!(name, read.name_of(index));
        assert_eq!(outline(one), outline(other), "{name:?}");
        assert_eq!(memory.item_of(index), read.item_of(index));
        let (known, found) = (attempts(one), attempts(other));
        assert_eq!(known, found, "attempts of {name:?}");
        let (known, found) = (results(one), results(other));
        assert_eq!(known, found, "results of {name:?}");
    }
    let asked = |run: &Run| run.groups.iter().map(|(node, group)| (*node, group.asked.clone())).collect::<Vec<_>>();
    assert_eq!(asked(memory), asked(read));
}

fn facts(run: &Run) -> impl PartialEq + std::fmt::Debug {
    let texts = (run.path.clone(), run.idempotency_key.clone(), run.external_inputs.clone(), run.tags.clone());
    let times = (run.created_at, run.waits_since, run.ended_at, run.generation, run.priority);
    (run.id, run.state, texts, times, run.no_cache)
}

/// The state of a task without what is derived.
fn outline(task: &Task) -> impl PartialEq + std::fmt::Debug {
    let state = match &task.state {
        // Whether work given ahead has its room by now, the worker says when it comes back.
        TaskState::Live(live) => {
            let Live { attempt, epoch, worker, started, cancelling, reserved, .. } = &**live;
            let live = (*attempt, *epoch, worker.clone(), *started, *cancelling, reserved.clone());
            (TaskState::Ready, Some(live))
        }
        TaskState::Sensing { .. } => (TaskState::Sensing { next: 0 }, None),
        state => (state.clone(), None),
    };
    let waits = matches!(task.state, TaskState::Backoff { .. } | TaskState::Sensing { .. } | TaskState::Live(_));
    (state, task.tries, task.forced, task.cached, task.next_child, task.ended_at, if waits { task.ready_at } else { 0 })
}

fn attempts(task: &Task) -> Vec<Attempt> {
    task.attempts.clone()
}

fn results(task: &Task) -> impl PartialEq + std::fmt::Debug {
    (task.outputs.clone(), task.failure.clone(), task.metrics_json.clone(), task.inline.clone())
}
