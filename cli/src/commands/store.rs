//! `segue store backup|restore|verify`.

use std::{path::PathBuf, sync::Arc};

use clap::Subcommand;
use segue_coordinator::{
    blobs::BlobStore,
    logs::Logs,
    store::{self, SledStore, Source, StateDir, Store},
};
use segue_proto::v1;
use serde_json::json;

use crate::{
    args::Global,
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::Printer,
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Write a consistent copy of records, blobs and logs to a new directory, also while the coordinator runs
    Backup {
        /// Directory that does not exist yet, on the coordinator's machine
        directory: PathBuf,
    },
    /// Make a state directory from a backup
    Restore {
        /// Directory of the backup
        backup: PathBuf,
        /// State directory that does not exist yet
        directory: PathBuf,
    },
    /// Read everything once and report what does not add up
    Verify,
}

/// Runs the command.
pub async fn run(command: StoreCommand, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        StoreCommand::Backup { directory } => backup(directory, global, out).await,
        StoreCommand::Restore { backup, directory } => restore(backup, directory, out).await,
        StoreCommand::Verify => verify(global, out).await,
    }
}

async fn backup(directory: PathBuf, global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let directory = crate::embedded::absolute(&directory)?;
    let (records, blobs, bytes, problems) = match Client::running(global).await? {
        Some(client) => {
            let request = v1::BackupRequest { directory: directory.to_string_lossy().into_owned() };
            let report = client.admin().backup(request).await?.into_inner();
            (report.records, report.blobs, report.bytes, Vec::new())
        }
        None => {
            // Without a coordinator, which would not start on a damaged store: what can be read is worth saving most then.
            let (store, blobs, state_dir) = look_into(global).await?;
            let logs = Logs::open(state_dir.logs())?;
            let report = store::backup(Source::Quiet(store), &blobs, &logs, &directory).await.map_err(|e| match e {
                // Whoever asked chose the directory.
                store::Error::Directory { .. } => Error::usage(e.to_string()),
                e => e.into(),
            })?;
            (report.records, report.blobs, report.bytes, report.problems)
        }
    };
    if out.is_json() {
        out.json(
            &json!({"directory": directory, "records": records, "blobs": blobs, "bytes": bytes, "problems": problems}),
        )?;
    } else {
        for problem in &problems {
            out.text(problem)?;
        }
        out.text(&format!("{}: {records} records, {blobs} blobs, {}", directory.display(), format::bytes(bytes)))?;
    }
    if problems.is_empty() {
        return Ok(ExitStatus::Done);
    }
    out.note(
        "the backup holds what could be read; restore it into a new directory and look at it with `segue store verify`",
    );
    // Scripts look at the exit code.
    Ok(ExitStatus::Unreachable)
}

/// Opens a state directory that no coordinator holds, for what can be read of it.
async fn look_into(global: &Global) -> Result<(Arc<dyn Store>, BlobStore, StateDir), Error> {
    let state_dir = StateDir::new(crate::embedded::absolute(&global.state_dir)?);
    let store: Arc<dyn Store> = Arc::new(SledStore::open_to_look(state_dir.store())?);
    let blobs = BlobStore::open_local(&state_dir.blobs()).await?;
    Ok((store, blobs, state_dir))
}

async fn restore(backup: PathBuf, directory: PathBuf, out: &mut Printer) -> Result<ExitStatus, Error> {
    let report = store::restore(&backup, &directory).await?;
    if out.is_json() {
        out.json(
            &json!({"directory": directory, "records": report.records, "blobs": report.blobs, "logs": report.logs}),
        )?;
    } else {
        out.text(&format!(
            "{}: {} records, {} blobs, {} logs; use it with --state-dir",
            directory.display(),
            report.records,
            report.blobs,
            report.logs
        ))?;
    }
    Ok(ExitStatus::Done)
}

/// Verifies over the coordinator where one runs; else opens the store itself, so that a store that no coordinator can
/// start on can still be looked at.
async fn verify(global: &Global, out: &mut Printer) -> Result<ExitStatus, Error> {
    let (problems, records, blobs, bytes) = match Client::running(global).await? {
        Some(client) => {
            let report = client.admin().verify(v1::VerifyRequest {}).await?.into_inner();
            (report.problems, report.records, report.blobs, report.bytes)
        }
        None => {
            let (opened, blobs, _) = look_into(global).await?;
            let report = store::verify(opened, &blobs).await?;
            (report.problems, report.records, report.blobs, report.bytes)
        }
    };
    if out.is_json() {
        out.json(&json!({"problems": problems, "records": records, "blobs": blobs, "bytes": bytes}))?;
    } else {
        for problem in &problems {
            out.text(problem)?;
        }
        out.text(&format!(
            "{records} records, {blobs} blobs, {}: {}",
            format::bytes(bytes),
            format::counted(problems.len() as u64, "problem", "problems")
        ))?;
    }
    // A damaged store is no success: scripts look at the exit code.
    Ok(if problems.is_empty() { ExitStatus::Done } else { ExitStatus::Unreachable })
}
