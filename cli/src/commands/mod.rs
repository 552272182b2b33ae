//! One file per command.

pub mod artifacts;
pub mod backfill;
pub mod cache;
pub mod cancel;
pub mod completions;
pub mod coordinator;
pub mod dev;
pub mod events;
pub mod explain;
pub mod gc;
pub mod graph;
pub mod logs;
pub mod models;
pub mod pipelines;
pub mod plan;
pub mod pools;
pub mod predict;
pub mod rerun;
pub mod run;
pub mod runs;
pub mod sample_data;
pub mod schedules;
pub mod schema;
pub mod show;
pub mod similar;
pub mod store;
pub mod submit;
pub mod summary;
pub mod validate;
pub mod watch;
pub mod worker;
pub mod workers;

use segue_coordinator::spec;
use segue_proto::MAX_MESSAGE_BYTES;

use crate::{
    args::{Cli, Command},
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Executes the command of a command line.
pub async fn dispatch(cli: Cli, out: &mut Printer) -> Result<ExitStatus, Error> {
    let global = cli.global;
    match cli.command {
        Command::Run(args) => run::run(args, &global, out).await,
        Command::Dev(args) => dev::run(args, &global, out).await,
        Command::Coordinator(args) => coordinator::run(args, &global).await,
        Command::Worker(args) => worker::run(args, &global).await,
        Command::Validate(args) => validate::run(args, &global, out).await,
        Command::Plan(args) => plan::run(args, &global, out).await,
        Command::Graph(args) => graph::run(args, out),
        Command::Schema(args) => schema::run(args, out),
        Command::SampleData(args) => sample_data::run(args, out),
        Command::Completions(args) => completions::run(args, out),
        Command::Store(command) => store::run(command, &global, out).await,
        Command::Schedules(command) => schedules::run(command, &global, out).await,
        Command::Backfill(args) => backfill::run(args, &global, out).await,
        Command::Models(models::ModelsCommand::Fetch) => models::fetch(out).await,
        Command::Submit(args) => match Client::running(&global).await? {
            Some(client) => submit::run(args, &client, out).await,
            // A coordinator that ends with this command would leave the run to nobody.
            None => Err(Error::internal("no coordinator is running to submit to")
                .hint("start one with `segue dev`, name one with --server, or use `segue run`, which needs none")),
        },
        command => {
            let mut client = match &command {
                Command::Pools(pools) if pools.sets_up() => Client::connect_or_make(&global).await?,
                _ => Client::connect(&global).await?,
            };
            if let Command::Rerun(args) = &command
                && args.needs_worker()
            {
                rerun::with_worker(&mut client, &args.environment).await?;
            }
            let done = with_client(command, &client, out).await;
            client.finish_hooks(out).await;
            let closed = client.close().await;
            // What the command says comes first: a fault at closing must not hide it.
            done.and_then(|status| closed.map(|()| status))
        }
    }
}

async fn with_client(command: Command, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        Command::Runs(args) => runs::run(args, client, out).await,
        Command::Show(args) => show::run(args, client, out).await,
        Command::Watch(args) => watch::watch(args, client, out).await,
        Command::Wait(args) => watch::wait(args, client, out).await,
        Command::Cancel(args) => cancel::run(args, client, out).await,
        Command::Rerun(args) => rerun::run(args, client, out).await,
        Command::Logs(args) => logs::run(args, client, out).await,
        Command::Explain(args) => explain::run(args, client, out).await,
        Command::Events(args) => events::run(args, client, out).await,
        Command::Artifacts(command) => artifacts::run(command, client, out).await,
        Command::Models(command) => models::run(command, client, out).await,
        Command::Pipelines(command) => pipelines::run(command, client, out).await,
        Command::Cache(command) => cache::run(command, client, out).await,
        Command::Gc(args) => gc::run(args, client, out).await,
        Command::Similar(args) => similar::run(args, client, out).await,
        Command::Predict(args) => predict::run(args, client, out).await,
        Command::Workers(command) => workers::run(command, client, out).await,
        Command::Pools(command) => pools::run(command, client, out).await,
        _ => Err(Error::internal("this command needs no coordinator")),
    }
}

/// Reads a pipeline file that is to be sent, and gives its text and absolute path.
pub fn read_pipeline(file: &std::path::Path) -> Result<(String, String), Error> {
    let (text, path) = read_text(file)?;
    if text.len() > MOST_SENT {
        // One that no pipeline may have is refused as everywhere; what is left is too large with what goes along.
        let shown = file.to_string_lossy();
        let checked = spec::check(&text, &shown, &segue_worker::ops::catalogue());
        let faults: Vec<_> = checked.diagnostics.iter().map(|fault| fault.to_wire(&shown, &text)).collect();
        if faults.iter().any(|fault| fault.error) {
            return Err(Error::diagnostics(faults));
        }
        return Err(too_large(text.len()));
    }
    Ok((text, path))
}

/// Bytes of text and parameters that one request takes, with room for what goes along.
pub const MOST_SENT: usize = MAX_MESSAGE_BYTES - 64 * 1024;

/// Refuses a request that no link takes.
pub fn too_large(bytes: usize) -> Error {
    Error::usage(format!(
        "file and parameters have {}, and one request takes {}",
        format::bytes(bytes as u64),
        format::bytes(MOST_SENT as u64)
    ))
    .hint("give long lists as a file: -p NAME=@FILE, or `foreach` over an output of a task")
}

/// Reads a pipeline file and gives its text and absolute path.
pub fn read_text(file: &std::path::Path) -> Result<(String, String), Error> {
    let bytes = std::fs::read(file).map_err(|e| {
        Error::usage(format!("cannot read the pipeline file {}: {e}", file.display()))
            .hint("give the path of a .toml file; `pipelines/` has two that work")
    })?;
    let text = String::from_utf8(bytes).map_err(|e| {
        Error::usage(format!("{} is not UTF-8: byte {} is wrong", file.display(), e.utf8_error().valid_up_to()))
            .hint("save the file as UTF-8")
    })?;
    let path = crate::embedded::absolute(file)?;
    Ok((text, path.to_string_lossy().into_owned()))
}
