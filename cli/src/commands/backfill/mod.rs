//! `segue backfill FILE`: a set of runs, one for each interval of a range.

mod view;

use std::{collections::BTreeMap, io::IsTerminal as _, path::Path, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use segue_proto::v1;

use self::view::{backfill, counts, list, progress, show, state};
use super::{read_pipeline, run::wait_for_worker, submit, worker::PassEnv};
use crate::{
    args::{Global, Params},
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, clean},
    stop,
};

/// Arguments.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "An interval that has a run already is left alone unless --reprocess says otherwise: the same command \
    given twice gives the same runs.\nExit codes: 0 every interval succeeded or was there; 1 one failed or was cancelled."
)]
pub struct BackfillArgs {
    #[command(subcommand)]
    pub command: Option<BackfillCommand>,
    #[command(flatten)]
    pub create: CreateArgs,
}

/// Commands on backfills that are there.
#[derive(Debug, Subcommand)]
pub enum BackfillCommand {
    /// List backfills, newest first
    List {
        /// Only those of this pipeline
        #[arg(long, value_name = "NAME")]
        pipeline: Option<String>,
        /// Most backfills to list
        #[arg(short = 'n', long, default_value_t = 20, value_name = "N")]
        limit: u32,
    },
    /// Show a backfill with its intervals
    Show {
        /// Backfill id, the start of one, or `latest`
        #[arg(default_value = "latest")]
        id: String,
    },
    /// Follow a backfill until it ends
    Wait {
        /// Backfill id, the start of one, or `latest`
        #[arg(default_value = "latest")]
        id: String,
    },
    /// Cancel what waits and what runs
    Cancel {
        /// Backfill id, the start of one, or `latest`
        id: String,
    },
}

/// Arguments of a new backfill.
#[derive(Debug, Args)]
pub struct CreateArgs {
    #[command(flatten)]
    pub environment: PassEnv,
    /// Pipeline file, or the name of a schedule or of a pipeline that was submitted before
    #[arg(required = true, value_name = "FILE_OR_PIPELINE")]
    pub target: Option<String>,
    /// Intervals that start here or later: 2026-01-31, 2026-01-31T06:00 or RFC 3339
    #[arg(long, required = true, value_name = "TIME")]
    pub from: Option<String>,
    /// Intervals that start before
    #[arg(long, required = true, value_name = "TIME")]
    pub to: Option<String>,
    /// Length of the intervals, where the pipeline has no schedule: 1d, 6h, 15m
    #[arg(long, value_name = "SPAN", conflicts_with = "cron")]
    pub every: Option<String>,
    /// Bounds of the intervals, where the pipeline has no schedule: '@daily', '0 3 * * *'
    #[arg(long, value_name = "CRON")]
    pub cron: Option<String>,
    /// Time zone of the range and of the cron expression; that of the schedule, or UTC
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Runs that go on at a time; other runs are not held back
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub max_running: u32,
    /// Intervals that have a run already
    #[arg(long, value_enum, default_value_t = Reprocess::None)]
    pub reprocess: Reprocess,
    /// Newest interval first
    #[arg(long)]
    pub reverse: bool,
    /// Priority of its runs; that of the pipeline less 10 unless told, so that other runs come first
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub priority: Option<i32>,
    #[command(flatten)]
    pub params: Params,
    /// Execute every task, even where an equal one has a committed result
    #[arg(long)]
    pub no_cache: bool,
    /// Print the intervals and create nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return as soon as the backfill is there
    #[arg(long)]
    pub no_wait: bool,
}

/// What happens to intervals that have a run already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Reprocess {
    /// They are left alone
    None,
    /// They are executed again where that run failed or was cancelled
    Failed,
    /// They are executed again
    All,
}

/// Runs the command; without a coordinator, this process is the whole cluster.
pub async fn run(args: BackfillArgs, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let mut client = match (&args.command, Client::running(global).await?) {
        (_, Some(client)) => client,
        (None, None) if args.create.no_wait => {
            return Err(Error::internal("no coordinator is running that could go on with the backfill")
                .hint("start one with `segue dev`, name one with --server, or wait here, without --no-wait"));
        }
        (None, None) => Client::embed(global).await?,
        (Some(_), None) => Client::connect(global).await?,
    };
    if args.command.is_none()
        && let Some(embedded) = client.embedded_mut()
    {
        embedded.add_worker(
            segue_worker::agent::detect(),
            BTreeMap::new(),
            args.create.environment.pass_env.clone(),
        )?;
        wait_for_worker(&mut client).await?;
    }
    let done = with_client(args, &client, out).await;
    let closed = client.close().await;
    done.and_then(|status| closed.map(|()| status))
}

async fn with_client(args: BackfillArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match args.command {
        None => create(args.create, client, out).await,
        Some(BackfillCommand::List { pipeline, limit }) => {
            let request = v1::ListBackfillsRequest { limit, pipeline: pipeline.unwrap_or_default() };
            list(&client.schedules().list_backfills(request).await?.into_inner().backfills, out)?;
            Ok(ExitStatus::Done)
        }
        Some(BackfillCommand::Show { id }) => {
            show(&get(client, &id, true).await?, out)?;
            Ok(ExitStatus::Done)
        }
        Some(BackfillCommand::Wait { id }) => {
            let view = get(client, &id, false).await?;
            if client.is_embedded() && view.ended_ms == 0 {
                return Err(Error::internal(format!("nobody executes {}: no coordinator is running", view.id))
                    .hint("start one on this state directory, which goes on with it: segue dev"));
            }
            let id = view.id;
            let view = follow(client, &id, out).await?;
            finish(&view, out)
        }
        Some(BackfillCommand::Cancel { id }) => {
            let view = client.schedules().cancel_backfill(v1::CancelBackfillRequest { id }).await?.into_inner();
            if out.is_json() {
                out.json(&backfill(&view))?;
            } else {
                out.text(&format!("{} is {}: {}", view.id, state(view.state), counts(&view)))?;
            }
            Ok(ExitStatus::Done)
        }
    }
}

async fn create(args: CreateArgs, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let target = args.target.unwrap_or_default();
    let named = !target.ends_with(".toml") && !Path::new(&target).is_file();
    let (pipeline, (text, path)) =
        if named { (target, Default::default()) } else { (String::new(), read_pipeline(Path::new(&target))?) };
    let every_ms = match &args.every {
        Some(text) => segue_coordinator::spec::duration_ms(text).map_err(|why| {
            Error::usage(format!("`--every {text}` {why}")).hint("write a number with a unit, such as 1d, 6h or 15m")
        })?,
        None => 0,
    };
    let reprocess = match args.reprocess {
        Reprocess::None => v1::Reprocess::None,
        Reprocess::Failed => v1::Reprocess::Failed,
        Reprocess::All => v1::Reprocess::All,
    };
    let request = v1::BackfillRequest {
        pipeline,
        text,
        path,
        from: args.from.unwrap_or_default(),
        to: args.to.unwrap_or_default(),
        cron: args.cron.unwrap_or_default(),
        every_ms,
        timezone: args.timezone.unwrap_or_default(),
        params: submit::params(&args.params, client).await?,
        max_running: args.max_running,
        reprocess: reprocess.into(),
        reverse: args.reverse,
        dry_run: args.dry_run,
        no_cache: args.no_cache,
        priority: args.priority,
    };
    let answer = client.schedules().backfill(request).await?.into_inner();
    let Some(view) = answer.backfill else { return Err(Error::diagnostics(answer.diagnostics)) };
    for warning in &answer.diagnostics {
        out.note(warning.rendered.trim_end());
    }
    if view.left_out > 0 {
        let some = format::counted(view.left_out.into(), "interval", "intervals");
        out.note(&format!("left out, because not at an end yet: {some} of the range"));
    }
    if args.dry_run {
        show(&view, out)?;
        return Ok(ExitStatus::Done);
    }
    if answer.existing {
        out.note("the same backfill is there already: it is given");
    }
    if args.no_wait {
        if out.is_json() {
            out.json(&backfill(&view))?;
        } else {
            out.text(&view.id)?;
        }
        return Ok(ExitStatus::Done);
    }
    out.note(&format!("{} {}: {}", view.pipeline, view.id, counts(&view)));
    let followed = tokio::select! {
        view = follow(client, &view.id, out) => view?,
        () = stop::next() => {
            if client.is_embedded() {
                out.note("stopping; the same command goes on where this one ends");
            } else {
                out.note(&format!("the backfill goes on: segue backfill wait {}, or cancel {}", view.id, view.id));
            }
            return Ok(ExitStatus::RunFailed);
        }
    };
    finish(&followed, out)
}

fn finish(view: &v1::BackfillView, out: &mut Printer) -> Result<ExitStatus, Error> {
    if out.is_json() {
        out.json(&backfill(view))?;
    } else {
        out.text(&format!("{} {}: {}", view.id, state(view.state), counts(view)))?;
        for one in view.intervals.iter().filter(|one| one.state == i32::from(v1::BackfillIntervalState::Failed)) {
            let interval = one.interval.clone().unwrap_or_default();
            out.text(&format!("  {} failed: {}{}", interval.start, one.run_id, clean(&one.message)))?;
        }
    }
    let succeeded = view.state == i32::from(v1::BackfillState::Succeeded);
    Ok(if succeeded { ExitStatus::Done } else { ExitStatus::RunFailed })
}

async fn get(client: &Client, id: &str, with_intervals: bool) -> Result<v1::BackfillView, Error> {
    let request = v1::GetBackfillRequest { id: id.to_owned(), with_intervals };
    Ok(client.schedules().get_backfill(request).await?.into_inner())
}

/// Follows a backfill until it ends, over restarts of the coordinator too.
async fn follow(client: &Client, id: &str, out: &Printer) -> Result<v1::BackfillView, Error> {
    const LOOK: Duration = Duration::from_millis(300);
    /// A coordinator that restarts is back within seconds.
    const PATIENCE: u32 = 200;
    // `latest` may be another one soon.
    let id = get(client, id, false).await?.id;
    let bar = (std::io::stderr().is_terminal() && !out.is_json()).then(|| {
        let style = ProgressStyle::with_template("{elapsed:>5} {wide_bar:.cyan/dim} {pos}/{len} intervals {msg}");
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━━╌"));
        bar.enable_steady_tick(Duration::from_millis(200));
        bar
    });
    let mut told = String::new();
    let mut silent = 0;
    loop {
        match get(client, &id, false).await {
            Ok(view) => {
                silent = 0;
                let (done, all) = progress(&view);
                let said = if view.problem.is_empty() {
                    counts(&view)
                } else {
                    format!("{}, waits: {}", counts(&view), view.problem)
                };
                match &bar {
                    Some(bar) => {
                        bar.set_length(all.into());
                        bar.set_position(done.into());
                        bar.set_message(clean(&said));
                    }
                    None if said != told && !out.is_json() => out.note(&format!("  {done}/{all}: {said}")),
                    None => {}
                }
                told = said;
                if view.ended_ms > 0 {
                    if let Some(bar) = &bar {
                        bar.finish_and_clear();
                    }
                    return get(client, &id, true).await;
                }
            }
            Err(e) if e.status() == ExitStatus::Unreachable && silent < PATIENCE => silent += 1,
            Err(e) => return Err(e),
        }
        tokio::time::sleep(LOOK).await;
    }
}
