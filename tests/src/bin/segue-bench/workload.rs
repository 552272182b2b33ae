//! The pipelines of the bench: tasks that do nothing, in a row or side by side.

use std::fmt::Write as _;

use clap::ValueEnum;

/// Who answers, and so what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A worker that answers at once: the coordinator, its store and the link alone
    Schedule,
    /// The real worker with `core.noop` in warm runners
    Runner,
    /// The real worker with the command `true`, a new process each time
    Command,
}

impl Mode {
    /// Gives its name in the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Runner => "runner",
            Self::Command => "command",
        }
    }

    /// Says what it is.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Schedule => "schedule: a worker that answers at once",
            Self::Runner => "runner: core.noop in the warm runners of the real worker",
            Self::Command => "command: the program `true` by the real worker, a process for each task",
        }
    }

    /// Gives the line of a task that says what it does.
    const fn work(self) -> &'static str {
        match self {
            Self::Schedule | Self::Runner => "op = \"core.noop\"",
            Self::Command => "command = [\"true\"]",
        }
    }
}

/// The program of [`Mode::Command`].
pub const COMMAND: &str = "true";

/// Name of the one task of [`mapped`].
pub const FAN: &str = "fan";

/// Tasks of which each waits for the one before it.
pub fn chain(mode: Mode, steps: u32) -> String {
    let mut text = header("bench-chain");
    for step in 1..=steps {
        task(&mut text, mode, step);
        if step > 1 {
            let _ = writeln!(text, "after = [\"{}\"]", name(step - 1));
        }
    }
    text
}

/// Independent tasks, each written out.
pub fn explicit(mode: Mode, count: u32) -> String {
    let mut text = header("bench-explicit");
    for number in 1..=count {
        task(&mut text, mode, number);
    }
    text
}

/// Independent tasks as the children of one.
pub fn mapped(mode: Mode, count: u32) -> String {
    let mut text = header("bench-fan");
    let _ = writeln!(text, "[tasks.{FAN}]\n{}", mode.work());
    let _ = writeln!(text, "foreach = {{ range = {{ from = 0, to = {count} }} }}");
    text
}

fn header(pipeline: &str) -> String {
    format!("[pipeline]\nname = \"{pipeline}\"\n\n")
}

fn task(text: &mut String, mode: Mode, number: u32) {
    let _ = writeln!(text, "[tasks.{}]\n{}", name(number), mode.work());
}

fn name(number: u32) -> String {
    format!("t{number:04}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_of_a_chain_but_the_first_waits_for_the_one_before_it() {
        let text = chain(Mode::Schedule, 3);
        assert_eq!(text.matches("[tasks.").count(), 3);
        assert_eq!(text.matches("after = ").count(), 2);
        assert!(text.ends_with("[tasks.t0003]\nop = \"core.noop\"\nafter = [\"t0002\"]\n"), "{text}");
    }

    #[test]
    fn tasks_that_are_written_out_wait_for_nothing() {
        let text = explicit(Mode::Command, 12_000);
        assert_eq!(Mode::Command.work(), format!("command = [\"{COMMAND}\"]"));
        assert_eq!(text.matches("command = [\"true\"]").count(), 12_000);
        assert!(text.contains("[tasks.t12000]") && !text.contains("after"), "five digits where four are too few");
    }

    #[test]
    fn a_mapped_task_is_one_table_whatever_its_size() {
        assert_eq!(mapped(Mode::Runner, 100_000).len(), mapped(Mode::Runner, 999_999).len());
        assert!(mapped(Mode::Runner, 7).contains("to = 7 "));
    }
}
