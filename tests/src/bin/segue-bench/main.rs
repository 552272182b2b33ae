//! `make bench`: how fast the shipped pipeline is, and what a task costs beside its work.

mod bare;
mod cluster;
mod fake_worker;
mod holder;
mod measure;
mod orchestration;
mod pipeline;
mod query;
mod report;
mod restart;
mod workload;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

/// Times the whole recommended pipeline, and the orchestration around it.
#[derive(Debug, Parser)]
#[command(name = "segue-bench", max_term_width = 100)]
struct Args {
    /// Which part; all unless told
    #[arg(value_enum)]
    part: Option<Part>,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
    /// End with exit code 1 where a target is missed
    #[arg(long)]
    check: bool,
    /// CSV of order lines; the real data where it is found, else sample data
    #[arg(long, value_name = "FILE", help_heading = "Pipeline")]
    input: Option<PathBuf>,
    #[command(flatten, next_help_heading = "Orchestration")]
    orchestration: orchestration::Plan,
    #[command(flatten, next_help_heading = "Restart")]
    restart: restart::Kills,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The recommended pipeline on real data, stage by stage
    Pipeline,
    /// Tasks that do nothing: what is left is Segue
    Orchestration,
    /// A coordinator that is killed with very many tasks in flight: how long until it serves again
    Restart,
}

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Tables for people
    Table,
    /// One JSON object for scripts
    Json,
}

/// What a part found.
struct Found {
    name: &'static str,
    value: Value,
    text: String,
    /// Whether every target was met.
    met: bool,
    /// Whether everything could be measured.
    whole: bool,
}

fn main() -> ExitCode {
    // The worker of one mode is this program again: nothing of the command line concerns it.
    if std::env::args_os().nth(1).is_some_and(|first| first == fake_worker::ARGUMENT) {
        return fake_worker::main();
    }
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            say(&reason);
            ExitCode::from(3)
        }
    }
}

/// Measures and prints. Says whether everything could be measured and, where that was asked for, every target was met.
fn run(args: &Args) -> Result<bool, String> {
    let mut good = true;
    let mut parts = Map::new();
    for part in [Part::Pipeline, Part::Orchestration, Part::Restart] {
        if args.part.is_some_and(|wanted| wanted != part) {
            continue;
        }
        let found = match part {
            Part::Pipeline => measure_pipeline(args)?,
            Part::Orchestration => measure_orchestration(args)?,
            Part::Restart => measure_restart(args)?,
        };
        good &= found.whole && (found.met || !args.check);
        match args.output {
            Output::Table => print(&found.text)?,
            Output::Json => {
                parts.insert(found.name.to_owned(), found.value);
            }
        }
    }
    if args.output == Output::Json {
        print(&format!("{:#}\n", Value::Object(parts)))?;
    }
    Ok(good)
}

fn measure_pipeline(args: &Args) -> Result<Found, String> {
    let value = pipeline::measure(args.runs, args.input.clone())?;
    let (text, met) = (pipeline::table(&value), pipeline::met(&value));
    Ok(Found { name: "pipeline", value, text, met, whole: true })
}

fn measure_orchestration(args: &Args) -> Result<Found, String> {
    let measured = orchestration::measure(&args.orchestration, args.runs)?;
    Ok(Found {
        name: "orchestration",
        text: measured.table(),
        met: measured.figures.all_met(),
        whole: measured.figures.is_whole(),
        value: measured.json(),
    })
}

fn measure_restart(args: &Args) -> Result<Found, String> {
    let site = orchestration::site(&args.orchestration)?;
    let figures = restart::measure(&args.restart, site.path());
    Ok(Found {
        name: "restart",
        text: restart::table(&args.restart, &figures),
        met: figures.all_met(),
        whole: figures.is_whole(),
        value: figures.json(),
    })
}

fn print(text: &str) -> Result<(), String> {
    anstream::stdout().write_all(text.as_bytes()).map_err(|e| format!("cannot write the result: {e}"))
}

/// Tells people how it goes; the result alone goes to standard output.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Args::command().debug_assert();
        let args = Args::try_parse_from([
            "segue-bench",
            "orchestration",
            "--modes",
            "runner,command",
            "--sizes",
            "10,20",
            "-o",
            "json",
        ]);
        assert_eq!(args.expect("as the README writes it").part, Some(Part::Orchestration));
        assert!(Args::try_parse_from(["segue-bench", "--sizes", "0"]).is_err(), "a fan-out of nothing");
    }
}
