//! What really happened, as those saw it who did it: processes on workers, calls of clients and what they were answered.
//! The auditor compares it with what the coordinator says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use segue_proto::ids::{RunId, Token};

use crate::{auditor::oracle, clockwork, disk::Disk, load::shape::Shape, say, trace::Trace};

#[derive(Debug, Clone)]
pub struct Ledger {
    book: Arc<Mutex<Book>>,
    pub trace: Trace,
    disk: Disk,
}

#[derive(Debug, Default)]
pub struct Book {
    pub processes: BTreeMap<Token, Process>,
    pub reports: BTreeMap<Token, Report>,
    /// Length of the log of each attempt that wrote one.
    pub logs: BTreeMap<Token, u64>,
    /// What was submitted, by idempotency key.
    pub asked: BTreeMap<String, Arc<Shape>>,
    /// Runs whose submission was acknowledged.
    pub runs: BTreeMap<RunId, Arc<Shape>>,
    pub cancels: BTreeMap<RunId, Vec<Cancel>>,
    pub reruns: BTreeMap<RunId, Vec<Rerun>>,
    /// Machines that stand still, and until when: their processes do nothing.
    pub frozen: BTreeMap<String, u64>,
    pub faults: BTreeMap<&'static str, u64>,
    pub calls: BTreeMap<&'static str, u64>,
    pub violations: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub worker: String,
    pub incarnation: String,
    pub ended_us: Option<u64>,
}

/// What a worker reported of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub worker: String,
    pub success: bool,
    /// Name and digest.
    pub outputs: Vec<(String, String)>,
}

#[derive(Debug, Clone)]
pub struct Cancel {
    /// Empty: the whole run.
    pub task: String,
    /// Offset after the last event on the disk when it was acknowledged.
    pub acked_at: Option<u64>,
    pub generation: u32,
}

#[derive(Debug, Clone)]
pub struct Rerun {
    /// Of the run before it.
    pub generation: u32,
    /// What the dry run has printed: task, and whether it executes.
    pub plan: Vec<(String, bool)>,
    /// Names of children that execute, of fan-outs that execute in part.
    pub acked: bool,
    /// Outputs of what is kept: task, output, digest.
    pub kept: Vec<(String, String, String)>,
}

impl Ledger {
    pub fn new(trace: Trace, disk: Disk) -> Self {
        Self { book: Arc::default(), trace, disk }
    }

    pub fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an invariant does not hold.
    pub fn violation(&self, invariant: &str, what: std::fmt::Arguments<'_>) {
        let text = format!("{invariant}: {what}");
        say!(self.trace, "AUDITOR", "VIOLATION of {text}");
        let mut book = self.book();
        if book.violations.len() < 20 {
            book.violations.push(text);
        }
    }

    pub fn violated(&self) -> bool {
        !self.book().violations.is_empty()
    }

    pub fn fault(&self, kind: &'static str) {
        *self.book().faults.entry(kind).or_default() += 1;
    }

    pub fn called(&self, what: &'static str) {
        *self.book().calls.entry(what).or_default() += 1;
    }

    /// A worker starts the process of an attempt.
    pub fn started(&self, token: &Token, worker: &str, incarnation: &str) {
        say!(self.trace, worker, "starts {token}");
        let process = Process { worker: worker.to_owned(), incarnation: incarnation.to_owned(), ended_us: None };
        let (before, other) = {
            let mut book = self.book();
            let now = clockwork::now_us();
            let other = book
                .processes
                .iter()
                .find(|(other, process)| {
                    other.run == token.run
                        && other.index == token.index
                        && process.ended_us.is_none()
                        && book.frozen.get(&process.worker).is_none_or(|until| *until < now)
                })
                .map(|(other, process)| (other.clone(), process.worker.clone()));
            (book.processes.insert(token.clone(), process), other)
        };
        if before.is_some() {
            self.violation("one execution", format_args!("{token} is started a second time, on {worker}"));
        } else if let Some((other, there)) = other {
            self.violation("one execution", format_args!("{token} starts on {worker} while {other} runs on {there}"));
        }
    }

    /// A machine stands still.
    pub fn freeze(&self, worker: &str, until_us: u64) {
        self.book().frozen.insert(worker.to_owned(), until_us);
    }

    /// A machine goes on, and has looked at its lease: what still runs there runs nowhere else. A machine that stands
    /// still itself runs nothing, and is looked at when it goes on.
    pub fn thawed(&self, worker: &str) {
        let double: Vec<String> = {
            let mut book = self.book();
            book.frozen.remove(worker);
            let (book, now) = (&*book, clockwork::now_us());
            let stands = |worker: &str| book.frozen.get(worker).is_some_and(|until| *until >= now);
            let running =
                || book.processes.iter().filter(|(_, process)| process.ended_us.is_none() && !stands(&process.worker));
            let here = running().filter(|(_, process)| process.worker == worker);
            here.filter(|(token, _)| {
                running().any(|(other, _)| other != *token && other.run == token.run && other.index == token.index)
            })
            .map(|(token, _)| token.to_string())
            .collect()
        };
        for token in double {
            self.violation("one execution", format_args!("{token} goes on on {worker} and is given to another"));
        }
    }

    /// The process of an attempt has gone, whatever the reason.
    pub fn ended(&self, token: &Token, worker: &str, how: &str) {
        say!(self.trace, worker, "process of {token} is gone: {how}");
        if let Some(process) = self.book().processes.get_mut(token) {
            process.ended_us.get_or_insert(clockwork::now_us());
        }
    }

    /// A worker died: so did its processes.
    pub fn died(&self, worker: &str, incarnation: &str) {
        let now = clockwork::now_us();
        let mut book = self.book();
        book.frozen.remove(worker);
        for process in book.processes.values_mut() {
            if process.worker == worker && process.incarnation == incarnation {
                process.ended_us.get_or_insert(now);
            }
        }
    }

    pub fn reported(&self, token: &Token, report: Report) {
        self.book().reports.insert(token.clone(), report);
    }

    /// The coordinator acknowledged the end of an attempt: its outcome is on the disk.
    pub fn report_acked(&self, token: &Token) {
        if let Err(why) = oracle::attempt_is_over(&self.disk, token) {
            self.violation("acknowledged is durable", format_args!("the end of {token} was acknowledged, but {why}"));
        }
    }

    pub fn submit_asked(&self, key: &str, shape: &Arc<Shape>) {
        self.book().asked.insert(key.to_owned(), Arc::clone(shape));
    }

    pub fn submit_acked(&self, run: RunId, shape: &Arc<Shape>) {
        self.book().runs.insert(run, Arc::clone(shape));
        if oracle::run(&self.disk, run).is_none() {
            self.violation("acknowledged is durable", format_args!("{run} was acknowledged and is not on the disk"));
        }
    }

    pub fn cancel_asked(&self, run: RunId, task: &str, generation: u32) -> usize {
        let mut book = self.book();
        let cancels = book.cancels.entry(run).or_default();
        cancels.push(Cancel { task: task.to_owned(), acked_at: None, generation });
        cancels.len() - 1
    }

    pub fn cancel_acked(&self, run: RunId, at: usize) {
        let end = oracle::feed_end(&self.disk);
        let whole = {
            let mut book = self.book();
            let cancel = book.cancels.get_mut(&run).and_then(|cancels| cancels.get_mut(at));
            cancel.map(|cancel| {
                cancel.acked_at = Some(end);
                cancel.task.is_empty()
            })
        };
        if whole == Some(true) && !oracle::run(&self.disk, run).is_some_and(oracle::is_cancelled_or_over) {
            self.violation(
                "acknowledged is durable",
                format_args!("the cancel of {run} was acknowledged and is not on the disk"),
            );
        }
    }

    pub fn rerun_asked(&self, run: RunId, rerun: Rerun) -> usize {
        let mut book = self.book();
        let reruns = book.reruns.entry(run).or_default();
        reruns.push(rerun);
        reruns.len() - 1
    }

    pub fn rerun_acked(&self, run: RunId, at: usize) {
        let before = {
            let mut book = self.book();
            let rerun = book.reruns.get_mut(&run).and_then(|reruns| reruns.get_mut(at));
            rerun.map(|rerun| {
                rerun.acked = true;
                rerun.generation
            })
        };
        let stored = oracle::run(&self.disk, run).map_or(0, |record| record.generation);
        if before.is_some_and(|before| stored <= before) {
            self.violation(
                "acknowledged is durable",
                format_args!("the rerun of {run} was acknowledged and is not on the disk"),
            );
        }
    }
}
