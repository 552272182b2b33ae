//! Progress of a run on standard error: bars on a terminal, plain lines elsewhere.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use segue_proto::v1;

use crate::{
    format,
    printer::{Printer, clean},
};

/// Reasons that only a change of the cluster or of the pipeline removes.
const STUCK: [&str; 8] = [
    "no_workers",
    "no_operator",
    "no_labels",
    "no_worker_fits",
    "no_pool",
    "pool_too_small",
    "workers_cordoned",
    "workers_draining",
];

/// Shows a run while it goes.
#[derive(Debug)]
pub struct Progress {
    bars: Option<Bars>,
    quiet: bool,
    /// Last state told of each task.
    told: BTreeMap<String, String>,
}

#[derive(Debug)]
struct Bars {
    group: MultiProgress,
    total: ProgressBar,
    tasks: BTreeMap<String, ProgressBar>,
}

impl Progress {
    /// Starts it. `quiet` shows nothing at all.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bars = (terminal && !quiet).then(|| {
            let group = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
            let total =
                group.add(ProgressBar::new(0).with_style(style("{elapsed:>5} {wide_bar:.cyan/dim} {pos}/{len} tasks")));
            total.enable_steady_tick(Duration::from_millis(200));
            Bars { group, total, tasks: BTreeMap::new() }
        });
        Self { bars, quiet, told: BTreeMap::new() }
    }

    /// Shows the state of the run.
    pub fn show(&mut self, run: &v1::RunView, printer: &Printer) {
        if self.quiet {
            return;
        }
        for task in &run.tasks {
            let state = format::task_state(task.state);
            // A task that no worker can take would wait in silence for ever.
            let stuck = STUCK.contains(&task.reason_code.as_str());
            let said = format!("{state} {} {stuck}", format::attempts_made(task));
            let news = self.told.get(&task.name) != Some(&said);
            self.told.insert(task.name.clone(), said);
            match &mut self.bars {
                Some(bars) => bars.task(run, task, state, news),
                None if news => {
                    if let Some(line) = line(run, task, state) {
                        printer.note(&line);
                    }
                }
                None => {}
            }
        }
        if let Some(bars) = &self.bars {
            let done = run.tasks.iter().filter(|task| is_done(task)).count();
            bars.total.set_length(run.tasks.len() as u64);
            bars.total.set_position(done as u64);
        }
    }

    /// Takes the bars away.
    pub fn finish(self) {
        if let Some(bars) = self.bars {
            bars.total.finish_and_clear();
            let _ = bars.group.clear();
        }
    }
}

impl Bars {
    fn task(&mut self, run: &v1::RunView, task: &v1::TaskView, state: &str, news: bool) {
        if is_running(task) {
            let bar = self.tasks.entry(task.name.clone()).or_insert_with(|| {
                let bar =
                    ProgressBar::new(0).with_style(style("  {spinner:.cyan} {prefix:<10} {elapsed:>4} {wide_msg}"));
                let bar = self.group.insert_before(&self.total, bar).with_prefix(task.name.clone());
                bar.enable_steady_tick(Duration::from_millis(120));
                bar
            });
            if let Some(progress) = &task.progress_now {
                let message = clean(&progress.message);
                if progress.total > 0 {
                    bar.set_style(style(
                        "  {spinner:.cyan} {prefix:<10} {elapsed:>4} {bar:24.cyan/dim} {percent:>3}% {wide_msg}",
                    ));
                    bar.set_length(progress.total);
                    bar.set_position(progress.done.min(progress.total));
                }
                bar.set_message(message);
            } else if news {
                bar.set_message(state.to_owned());
            }
        } else if let Some(bar) = self.tasks.remove(&task.name) {
            bar.finish_and_clear();
        }
        if news
            && let Some(line) = line(run, task, state)
            && !is_running(task)
        {
            let _ = self.group.println(line);
        }
    }
}

fn is_running(task: &v1::TaskView) -> bool {
    matches!(v1::TaskState::try_from(task.state), Ok(v1::TaskState::Running | v1::TaskState::Cancelling))
}

fn is_done(task: &v1::TaskView) -> bool {
    matches!(
        v1::TaskState::try_from(task.state),
        Ok(v1::TaskState::Succeeded
            | v1::TaskState::Failed
            | v1::TaskState::UpstreamFailed
            | v1::TaskState::Cancelled
            | v1::TaskState::Skipped)
    )
}

/// One line about a task whose state changed; nothing for states that say nothing yet.
fn line(run: &v1::RunView, task: &v1::TaskView, state: &str) -> Option<String> {
    let name = &task.name;
    if is_done(task) && format::is_kept(task, run.generation) {
        return Some(format!("  · {name} kept"));
    }
    let failure = || {
        task.failure.as_ref().map_or_else(String::new, |failure| {
            let hint =
                if failure.hint.is_empty() { String::new() } else { format!("\n    hint: {}", clean(&failure.hint)) };
            format!(": {}{hint}", clean(&failure.message))
        })
    };
    match v1::TaskState::try_from(task.state).ok()? {
        v1::TaskState::Running => {
            Some(format!("  ▸ {name} on {}", task.attempts.last().map_or("", |attempt| attempt.worker.as_str())))
        }
        v1::TaskState::Succeeded if task.cached => Some(format!("  ✓ {name} (cached)")),
        v1::TaskState::Succeeded => {
            let took =
                format::spent_ms(run, task).map_or_else(String::new, |ms| format!(" {:.1} s", ms as f64 / 1_000.0));
            Some(format!("  ✓ {name}{took}"))
        }
        v1::TaskState::Failed => Some(format!("  ✗ {name} failed{}", failure())),
        v1::TaskState::UpstreamFailed => Some(format!("  - {name} not run: something before it did not succeed")),
        v1::TaskState::Backoff => Some(format!("  ↻ {name} will be tried again{}", failure())),
        v1::TaskState::Ready if STUCK.contains(&task.reason_code.as_str()) => {
            Some(format!("  … {name} waits: {}", clean(&task.reason)))
        }
        v1::TaskState::Cancelled => Some(format!("  - {name} {state}")),
        _ => None,
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are constants of this file; a bad one falls back to the plain bar.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: v1::TaskState, generations: &[u32]) -> v1::TaskView {
        let attempt = |&generation: &u32| v1::AttemptView {
            generation,
            started_ms: 1_000,
            ended_ms: 2_500,
            ..v1::AttemptView::default()
        };
        let attempts = generations.iter().map(attempt).collect();
        v1::TaskView { name: "a".to_owned(), state: state.into(), attempts, ..v1::TaskView::default() }
    }

    fn said(generation: u32, task: &v1::TaskView) -> String {
        let run = v1::RunView { generation, ..v1::RunView::default() };
        line(&run, task, format::task_state(task.state)).unwrap_or_default()
    }

    #[test]
    fn a_task_that_a_rerun_keeps_is_not_told_as_executed() {
        let succeeded = v1::TaskState::Succeeded;
        assert_eq!(said(0, &task(succeeded, &[0])), "  ✓ a 1.5 s");
        assert_eq!(said(1, &task(succeeded, &[0])), "  · a kept");
        assert_eq!(said(1, &task(succeeded, &[0, 1])), "  ✓ a 1.5 s");
        assert!(said(1, &task(v1::TaskState::Failed, &[0, 1])).contains("failed"));
    }

    #[test]
    fn a_fan_out_takes_as_long_as_its_children() {
        let children = vec![v1::TaskCount { state: v1::TaskState::Succeeded.into(), count: 2 }];
        let mut fan_out = task(v1::TaskState::Succeeded, &[]);
        assert_eq!(said(0, &fan_out), "  ✓ a", "nothing is known, and no time is made up");
        fan_out = v1::TaskView { children, started_ms: 1_000, ended_ms: 2_500, ..fan_out };
        assert_eq!(said(0, &fan_out), "  ✓ a 1.5 s");
    }

    #[test]
    fn what_an_earlier_failure_stopped_is_not_called_skipped() {
        let line = said(0, &task(v1::TaskState::UpstreamFailed, &[]));
        assert!(!line.contains("skipped") && line.contains("not run"), "{line}");
    }
}
