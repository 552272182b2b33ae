//! `segue workers list|drain`.

use clap::Subcommand;
use segue_proto::v1;
use serde_json::json;

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// List workers with what they have and what is leased
    List,
    /// Give a worker no more work; it ends when what it runs is done
    Drain {
        /// Name of the worker
        name: String,
    },
}

/// Runs the command.
pub async fn run(command: WorkersCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        WorkersCommand::List => list(client, out).await,
        WorkersCommand::Drain { name } => {
            let running =
                client.admin().drain_worker(v1::DrainWorkerRequest { name: name.clone() }).await?.into_inner().running;
            if out.is_json() {
                out.json(&json!({"worker": name, "running": running}))?;
            } else {
                out.text(&format!("{name} drains: {running} attempt(s) still running"))?;
            }
            Ok(ExitStatus::Done)
        }
    }
}

async fn list(client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    let workers = client.admin().list_workers(v1::ListWorkersRequest {}).await?.into_inner().workers;
    let values: Vec<_> = workers
        .iter()
        .map(|worker| {
            let attempts: Vec<_> = worker
                .attempts
                .iter()
                .map(|token| json!({"run": token.run_id, "task": token.task, "attempt": token.attempt}))
                .collect();
            json!({
                "name": worker.name, "incarnation": worker.incarnation, "state": worker.state, "host": worker.hostname,
                "capacity": amounts(worker.capacity.as_ref()), "leased": amounts(worker.leased.as_ref()),
                "labels": worker.labels, "operators": worker.operators, "attempts": attempts,
                "connected_ms": worker.connected_ms, "heartbeat_ms": worker.heartbeat_ms, "version": worker.version,
            })
        })
        .collect();
    out.data(&values, || {
        let mut rows = Rows::new(&["worker", "state", "host", "has", "leased", "labels", ">attempts", "heartbeat"]);
        for worker in &workers {
            let labels: Vec<String> = worker.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let age = format::now_ms().saturating_sub(worker.heartbeat_ms);
            rows.row([
                worker.name.clone(),
                worker.state.clone(),
                worker.hostname.clone(),
                format::resources(&worker.capacity.clone().unwrap_or_default().into()),
                format::resources(&worker.leased.clone().unwrap_or_default().into()),
                labels.join(", "),
                worker.attempts.len().to_string(),
                if worker.heartbeat_ms == 0 { "-".to_owned() } else { format!("{} ago", format::duration(age)) },
            ]);
        }
        rows
    })?;
    Ok(ExitStatus::Done)
}

fn amounts(resources: Option<&v1::Resources>) -> serde_json::Value {
    let resources = resources.cloned().unwrap_or_default();
    json!({
        "cpu": f64::from(resources.cpu_milli) / 1_000.0, "memory_bytes": resources.memory_bytes, "gpu": f64::from(resources.gpu_milli) / 1_000.0,
        "custom": resources.custom,
    })
}
