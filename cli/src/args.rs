//! The command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{commands, ground::Over};

/// State directory unless told otherwise.
const STATE_DIR: &str = ".segue";

/// First argument of a runner process.
pub const RUNNER: &str = "__runner";

/// Run data pipelines: submit, watch, rerun what failed.
#[derive(Debug, Parser)]
#[command(name = "segue", version, max_term_width = 100, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done; 1 the run failed, was cancelled or skipped; 2 wrong use or a bad pipeline file; \
    3 coordinator unreachable or internal error.\n\nStart here: segue run pipelines/customer-segmentation.toml -p input=data.csv"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Coordinator to talk to, such as http://127.0.0.1:7400
    #[arg(long, global = true, env = "SEGUE_SERVER", value_name = "URL", help_heading = "Global options")]
    pub server: Option<String>,
    /// State directory: its coordinator is used, or its store is opened
    #[arg(
        long,
        global = true,
        env = "SEGUE_STATE_DIR",
        value_name = "DIR",
        default_value = STATE_DIR,
        help_heading = "Global options"
    )]
    pub state_dir: PathBuf,
    /// How data is printed
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT", help_heading = "Global options")]
    pub output: Output,
    /// Say more on standard error; twice for details
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
    /// No option: what this program was made with.
    #[arg(skip)]
    pub over: Over,
}

impl Global {
    /// Takes a variable of the environment that is set to nothing as one that is not set, as other programs do. An empty
    /// option stays what it is, a mistake: it was to name something.
    #[must_use]
    pub fn without_empty_variables(mut self, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let empty = |name: &str| variable(name).is_some_and(|value| value.is_empty());
        if empty("SEGUE_SERVER") {
            self.server = self.server.filter(|server| !server.is_empty());
        }
        if empty("SEGUE_STATE_DIR") && self.state_dir.as_os_str().is_empty() {
            self.state_dir = STATE_DIR.into();
        }
        self
    }
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Tables for people
    Table,
    /// JSON for scripts
    Json,
}

/// Everything Segue does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a pipeline and wait; without a server, the whole cluster runs inside this command
    Run(commands::run::RunArgs),
    /// Submit a pipeline and print the run id
    Submit(commands::submit::SubmitArgs),
    /// Check a pipeline file and report every fault at its place
    Validate(commands::validate::ValidateArgs),
    /// Show what a submission would do: tasks, cache hits, placement
    Plan(commands::plan::PlanArgs),
    /// Draw the DAG of a pipeline file
    Graph(commands::graph::GraphArgs),
    /// Print the format of pipeline files, as JSON Schema for editors or as a reference page
    Schema(commands::schema::SchemaArgs),
    /// List runs, newest first
    Runs(commands::runs::RunsArgs),
    /// Show a run with its tasks
    Show(commands::show::ShowArgs),
    /// Follow a run until it ends
    Watch(commands::watch::WatchArgs),
    /// Wait for a run; the exit code is its outcome
    Wait(commands::watch::WaitArgs),
    /// Cancel a run
    Cancel(commands::cancel::CancelArgs),
    /// Execute tasks of an ended run again, keeping the artifacts of the others
    Rerun(commands::rerun::RerunArgs),
    /// Run pipelines by themselves: register, list, pause and trigger schedules
    #[command(subcommand)]
    Schedules(commands::schedules::SchedulesCommand),
    /// Execute a pipeline for every interval of a range
    Backfill(commands::backfill::BackfillArgs),
    /// Print or follow the logs of a run
    Logs(commands::logs::LogsArgs),
    /// Say why tasks are not running
    Explain(commands::explain::ExplainArgs),
    /// Print or follow what happens: runs, tasks, workers, models
    Events(commands::events::EventsArgs),
    /// List, fetch and trace artifacts
    #[command(subcommand)]
    Artifacts(commands::artifacts::ArtifactsCommand),
    /// List, show, alias and export registered models
    #[command(subcommand)]
    Models(commands::models::ModelsCommand),
    /// List, show and compare the versions of pipelines
    #[command(subcommand)]
    Pipelines(commands::pipelines::PipelinesCommand),
    /// List, show and drop results that later runs use instead of executing
    #[command(subcommand)]
    Cache(commands::cache::CacheCommand),
    /// Find the products most similar to a text, in the latest embedding
    Similar(commands::similar::SimilarArgs),
    /// Score new customers with registered models
    Predict(commands::predict::PredictArgs),
    /// List, cordon, label and drain workers, or have fewer of them
    #[command(subcommand)]
    Workers(commands::workers::WorkersCommand),
    /// List and set pools: slots that tasks share, wherever they run
    #[command(subcommand)]
    Pools(commands::pools::PoolsCommand),
    /// Back up, restore and verify the store
    #[command(subcommand)]
    Store(commands::store::StoreCommand),
    /// Take away what no rule of retention keeps
    Gc(commands::gc::GcArgs),
    /// Coordinator and one worker in this process, for development
    Dev(commands::dev::DevArgs),
    /// Serve as coordinator
    Coordinator(commands::coordinator::CoordinatorArgs),
    /// Serve as worker
    Worker(commands::worker::WorkerArgs),
    /// Write sample data of the schema of the UCI Online Retail set
    SampleData(commands::sample_data::SampleDataArgs),
    /// Print completions for a shell
    Completions(commands::completions::CompletionsArgs),
}

/// A `-p KEY=VALUE`.
#[derive(Debug, Clone, Args)]
pub struct Params {
    /// Parameter of the pipeline; `KEY=@FILE` uploads a file first
    #[arg(short = 'p', long = "param", value_name = "KEY=VALUE")]
    pub params: Vec<String>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;

    fn shadowing(command: &clap::Command, globals: &BTreeSet<String>, found: &mut Vec<String>) {
        for sub in command.get_subcommands() {
            let ids = sub.get_arguments().map(|argument| argument.get_id().to_string());
            found.extend(ids.filter(|id| globals.contains(id)).map(|id| format!("{} {id}", sub.get_name())));
            shadowing(sub, globals, found);
        }
    }

    /// Clap reads both under one name, and panics where their types differ.
    #[test]
    fn no_argument_has_the_name_of_a_global_one() {
        let cli = Cli::command();
        let globals = cli.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().to_string()).collect();
        let mut found = Vec::new();
        shadowing(&cli, &globals, &mut found);
        assert!(found.is_empty() && globals.len() >= 4, "{found:?} of {globals:?}");
    }

    #[test]
    fn a_variable_that_is_set_to_nothing_is_not_set() {
        let global = |server: &str| Global {
            server: Some(server.to_owned()),
            state_dir: PathBuf::new(),
            output: Output::Table,
            verbose: 0,
            over: Over::default(),
        };
        let empty = global("").without_empty_variables(|_| Some(OsString::new()));
        assert_eq!((empty.server, empty.state_dir), (None, PathBuf::from(STATE_DIR)));
        let given = global("http://a:1").without_empty_variables(|_| Some(OsString::new()));
        assert_eq!(given.server.as_deref(), Some("http://a:1"), "an option says more than the environment");
        let mistake = global("").without_empty_variables(|_| None);
        assert_eq!(mistake.server.as_deref(), Some(""), "an empty option is not passed over");
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        assert!(
            std::panic::catch_unwind(|| Cli::command()
                .flatten_help(true)
                .arg(clap::Arg::new("a"))
                .arg(clap::Arg::new("a"))
                .debug_assert())
            .is_err(),
            "clap's own checks are switched off: this test would prove nothing"
        );
        Cli::command().debug_assert();
    }
}
