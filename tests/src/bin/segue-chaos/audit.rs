//! The auditor: what was said once stays said, what begins begins once, what was accepted ends.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use segue_proto::v1::{self, AttemptState, RunState, TaskState, run_service_client::RunServiceClient};
use segue_tests::rpc::Rpc;

/// How often the runs are looked at.
const LOOK: Duration = Duration::from_millis(30);

/// How long runs may take to end once nobody disturbs them any more. Those that do not are stuck.
const SETTLE: Duration = Duration::from_secs(180);

/// Runs of one answer.
const PAGE: u32 = 500;

/// What was seen of the cluster.
#[derive(Debug)]
pub struct Auditor {
    ledger: PathBuf,
    seen: Mutex<Seen>,
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct Seen {
    open: BTreeSet<String>,
    ended: BTreeMap<String, RunState>,
    /// Of tasks that have ended: state, and attempts at that time.
    tasks: HashMap<(String, String), (TaskState, usize)>,
    looks: u64,
    /// Of the runs of the last look: attempts by state, and tasks that failed.
    attempts: BTreeMap<AttemptState, usize>,
    failed: usize,
    violations: Vec<String>,
}

/// What was counted.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub runs: usize,
    pub tasks: usize,
    pub looks: u64,
    pub begun: usize,
    pub ended: usize,
    /// Attempts of all tasks in the end, by their states.
    pub attempts: BTreeMap<AttemptState, usize>,
    /// Tasks that failed, also because of another one.
    pub failed: usize,
}

impl Auditor {
    /// Reads the ledger of the load in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { ledger: dir.join("ledger"), seen: Mutex::default(), stopped: AtomicBool::new(false) }
    }

    /// Notes a run that was acknowledged.
    pub fn accepted(&self, run: &str) {
        self.lock().open.insert(run.to_owned());
    }

    /// Says how many runs have not ended.
    pub fn open(&self) -> usize {
        self.lock().open.len()
    }

    /// Says how many runs were acknowledged.
    pub fn submitted(&self) -> usize {
        let seen = self.lock();
        seen.open.len() + seen.ended.len()
    }

    /// Looks at the runs that have not ended, until it is told to stop.
    pub fn observe(&self, rpc: &Rpc) {
        while !self.stopped.load(Ordering::SeqCst) {
            let open: Vec<String> = self.lock().open.iter().cloned().collect();
            let begun = Instant::now();
            for run in open {
                match rpc.run_with_children(&run) {
                    Ok(view) => self.lock().note(&view),
                    Err(status) if status.code() == tonic::Code::NotFound => {
                        let mut seen = self.lock();
                        seen.violations.push(format!("{run} was acknowledged and is not there"));
                        seen.open.remove(&run);
                    }
                    // Nobody answers: the coordinator is away.
                    Err(_) => break,
                }
            }
            // Looking at large runs must not be the load.
            thread::sleep(LOOK.max(begun.elapsed()));
        }
    }

    /// Waits until every run has ended; those that do not are stuck.
    pub fn settle(&self) {
        let begun = Instant::now();
        while self.open() > 0 {
            if begun.elapsed() > SETTLE {
                let mut seen = self.lock();
                let stuck: Vec<String> = seen.open.iter().map(|run| format!("{run} is stuck")).collect();
                seen.violations.extend(stuck);
                return;
            }
            thread::sleep(LOOK);
        }
    }

    /// Ends the observation.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Looks at everything once more, and gives what is wrong.
    pub fn verdict(&self, rpc: &Rpc, submitted: u32) -> Vec<String> {
        let ended: Vec<String> = self.lock().ended.keys().cloned().collect();
        let ledger = Ledger::read(&self.ledger);
        let mut violations = ledger.violations();
        for run in ended {
            match rpc.run_with_children(&run) {
                Ok(view) => {
                    let mut seen = self.lock();
                    seen.note(&view);
                    seen.count(&view);
                    violations.extend(ledger.compare(&view));
                }
                Err(e) => violations.push(format!("{run} cannot be read: {e}")),
            }
        }
        let known = count_runs(rpc);
        if known != Ok(submitted as usize) {
            violations
                .push(format!("{submitted} runs were submitted, each under a key of its own, and there are {known:?}"));
        }
        let mut all = std::mem::take(&mut self.lock().violations);
        all.extend(violations);
        all
    }

    /// Gives what was counted.
    pub fn figures(&self) -> Figures {
        let ledger = Ledger::read(&self.ledger);
        let seen = self.lock();
        Figures {
            runs: seen.ended.len(),
            tasks: seen.tasks.len(),
            looks: seen.looks,
            begun: ledger.begun.len(),
            ended: ledger.ended.len(),
            attempts: seen.attempts.clone(),
            failed: seen.failed,
        }
    }

    /// Says how many executions the commands have noted so far.
    pub fn executions(&self) -> usize {
        Ledger::read(&self.ledger).begun.len()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_runs(rpc: &Rpc) -> Result<usize, String> {
    let (mut count, mut before) = (0, String::new());
    loop {
        let request =
            v1::ListRunsRequest { limit: PAGE, before_run_id: before.clone(), ..v1::ListRunsRequest::default() };
        let answer = rpc.wait(RunServiceClient::new(rpc.channel()).list_runs(request)).map_err(|e| e.to_string())?;
        let runs = answer.into_inner().runs;
        count += runs.len();
        match runs.last() {
            Some(last) if runs.len() == PAGE as usize => before.clone_from(&last.run_id),
            _ => return Ok(count),
        }
    }
}

const fn is_over(state: TaskState) -> bool {
    matches!(
        state,
        TaskState::Succeeded
            | TaskState::Failed
            | TaskState::UpstreamFailed
            | TaskState::Skipped
            | TaskState::Cancelled
    )
}

impl Seen {
    /// Counts the attempts of a run, and its tasks that failed.
    fn count(&mut self, view: &v1::RunView) {
        for task in &view.tasks {
            self.failed += usize::from(matches!(task.state(), TaskState::Failed | TaskState::UpstreamFailed));
            for attempt in &task.attempts {
                *self.attempts.entry(attempt.state()).or_default() += 1;
            }
        }
    }

    /// Compares a run with what was seen of it before.
    fn note(&mut self, view: &v1::RunView) {
        self.looks += 1;
        let run = &view.run_id;
        if let Some(before) = self.ended.get(run)
            && *before != view.state()
        {
            self.violations.push(format!("{run} was {before:?} and is {:?}", view.state()));
        }
        for task in &view.tasks {
            let key = (run.clone(), task.name.clone());
            let now = (task.state(), task.attempts.len());
            match self.tasks.get(&key) {
                Some(before) if *before != now => {
                    self.violations.push(format!("{run} {} was {before:?} and is {now:?}", task.name));
                }
                Some(_) => {}
                None if is_over(task.state()) => {
                    self.tasks.insert(key, now);
                }
                None => {}
            }
        }
        let over = [RunState::Succeeded, RunState::Failed, RunState::Cancelled].contains(&view.state());
        if over && self.open.remove(run) {
            self.ended.insert(run.clone(), view.state());
            if view.state() != RunState::Succeeded {
                self.violations.push(format!("{run} {:?}, although every fault may be tried again", view.state()));
            }
        }
    }
}

type Executed = (String, String, u32);

/// What the commands themselves noted.
#[derive(Debug, Default)]
struct Ledger {
    begun: BTreeMap<Executed, u32>,
    ended: BTreeSet<Executed>,
    overlaps: Vec<Executed>,
}

impl Ledger {
    fn read(file: &Path) -> Self {
        Self::parse(&fs::read_to_string(file).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut ledger = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(what), Some(run), Some(task), Some(attempt)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let executed = (run.to_owned(), task.to_owned(), attempt.parse().unwrap_or(0));
            match what {
                "begin" => *ledger.begun.entry(executed).or_default() += 1,
                "end" => {
                    ledger.ended.insert(executed);
                }
                _ => ledger.overlaps.push(executed),
            }
        }
        ledger
    }

    /// What needs nobody else to be wrong.
    fn violations(&self) -> Vec<String> {
        let doubled = self.begun.iter().filter(|(_, times)| **times > 1);
        let doubled = doubled
            .map(|((run, task, attempt), times)| format!("{run} {task} attempt {attempt} was executed {times} times"));
        let overlaps = self.overlaps.iter().map(|(run, task, attempt)| {
            format!("{run} {task} attempt {attempt} began while the one before it was alive")
        });
        doubled.chain(overlaps).collect()
    }

    /// Compares with what the coordinator says of a run.
    fn compare(&self, view: &v1::RunView) -> Vec<String> {
        let run = &view.run_id;
        let mut wrong = Vec::new();
        let mut known = BTreeSet::new();
        for task in &view.tasks {
            for attempt in &task.attempts {
                let executed = (run.clone(), task.name.clone(), attempt.attempt);
                if attempt.state() == AttemptState::Succeeded && !self.ended.contains(&executed) {
                    wrong.push(format!("{run} {} attempt {} succeeded without an end", task.name, attempt.attempt));
                }
                known.insert(executed);
            }
            let successes = task.attempts.iter().filter(|attempt| attempt.state() == AttemptState::Succeeded).count();
            let is_fan_out = !task.children.is_empty();
            if task.state() == TaskState::Succeeded && !is_fan_out && successes != 1 {
                wrong.push(format!("{run} {} succeeded {successes} times", task.name));
            }
        }
        let unknown = self.begun.keys().filter(|executed| executed.0 == *run && !known.contains(*executed));
        wrong
            .extend(unknown.map(|(run, task, attempt)| {
                format!("{run} {task} attempt {attempt} began unknown to the coordinator")
            }));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(state: TaskState, attempts: &[AttemptState]) -> v1::RunView {
        let attempts = attempts.iter().zip(1..).map(|(state, attempt)| v1::AttemptView {
            attempt,
            state: (*state).into(),
            ..v1::AttemptView::default()
        });
        let task = v1::TaskView {
            name: "t".into(),
            state: state.into(),
            attempts: attempts.collect(),
            ..v1::TaskView::default()
        };
        v1::RunView { run_id: "r".into(), state: RunState::Running.into(), tasks: vec![task], ..v1::RunView::default() }
    }

    #[test]
    fn an_attempt_that_is_executed_twice_or_beside_another_is_found() {
        let ledger = Ledger::parse("begin r t 1\nbegin r t 1\noverlap r t 2\nbegin r t 2\nend r t 2\n");
        let found = ledger.violations();
        assert!(found[0].contains("executed 2 times") && found[1].contains("while the one before"), "{found:?}");
        assert_eq!(Ledger::parse("begin r t 1\nbegin r t 2\nend r t 2\n").violations(), Vec::<String>::new());
    }

    #[test]
    fn a_success_that_nobody_executed_and_an_execution_that_nobody_knows_are_found() {
        let ledger = Ledger::parse("begin r t 1\nbegin r t 3\nend r t 3\n");
        let found = ledger.compare(&view(TaskState::Succeeded, &[AttemptState::Lost, AttemptState::Succeeded]));
        assert!(
            found[0].contains("attempt 2 succeeded without an end") && found[1].contains("attempt 3 began unknown"),
            "{found:?}"
        );
        let twice = Ledger::parse("begin r t 1\nend r t 1\nbegin r t 2\nend r t 2\n");
        let found = twice.compare(&view(TaskState::Succeeded, &[AttemptState::Succeeded, AttemptState::Succeeded]));
        assert!(found[0].contains("succeeded 2 times"), "{found:?}");
    }

    #[test]
    fn what_was_said_and_is_not_so_any_more_is_found() {
        let mut seen = Seen::default();
        seen.note(&view(TaskState::Running, &[AttemptState::Running]));
        seen.note(&view(TaskState::Succeeded, &[AttemptState::Succeeded]));
        assert!(seen.violations.is_empty());
        seen.note(&view(TaskState::Running, &[AttemptState::Running]));
        assert_eq!(seen.violations.len(), 1, "{:?}", seen.violations);
    }
}
