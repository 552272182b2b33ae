//! `segue pools list|set|delete`.

use clap::Subcommand;
use segue_proto::v1;
use serde_json::{Value, json};

use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum PoolsCommand {
    /// List pools: slots, how many are used and waited for, and who holds them
    List,
    /// Make a pool, or change its slots; 0 lets nothing new in, and what holds slots goes on. Without a coordinator it is
    /// kept in the state directory, for the runs that come
    Set {
        /// Name of the pool
        name: String,
        /// How many slots its tasks share
        slots: u32,
        /// One line for people; as it was unless told
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete a pool that nobody holds and nobody waits for
    Delete {
        /// Name of the pool
        name: String,
    },
}

impl PoolsCommand {
    /// Says whether it makes sense before anything has run.
    pub const fn sets_up(&self) -> bool {
        matches!(self, Self::Set { .. })
    }
}

/// Tasks that a line of the list names.
const NAMED: usize = 3;

/// Runs the command.
pub async fn run(command: PoolsCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        PoolsCommand::List => list(client, out).await?,
        PoolsCommand::Set { name, slots, description } => {
            let request = v1::SetPoolRequest { name: name.clone(), slots, description };
            let previous = client.fleet().set_pool(request).await?.into_inner().previous;
            if out.is_json() {
                out.json(&json!({"pool": name, "slots": slots, "previous": previous}))?;
            } else {
                let before = previous.map_or_else(|| "it is new".to_owned(), |before| format!("it had {before}"));
                out.text(&format!("pool {name} has {}; {before}", format::counted(slots.into(), "slot", "slots")))?;
            }
        }
        PoolsCommand::Delete { name } => {
            client.fleet().delete_pool(v1::DeletePoolRequest { name: name.clone() }).await?;
            if out.is_json() {
                out.json(&json!({"pool": name, "deleted": true}))?;
            } else {
                out.text(&format!("pool {name} is deleted"))?;
            }
        }
    }
    Ok(ExitStatus::Done)
}

async fn list(client: &Client, out: &mut Printer) -> Result<(), Error> {
    let pools = client.fleet().list_pools(v1::ListPoolsRequest {}).await?.into_inner().pools;
    let tasks = |tasks: &[v1::PoolTask]| -> Vec<Value> {
        tasks.iter().map(|task| json!({"run": task.run_id, "task": task.task, "slots": task.slots})).collect()
    };
    let values: Vec<Value> = pools
        .iter()
        .map(|pool| {
            json!({
                "name": pool.name, "slots": pool.slots, "used": pool.used, "waiting": pool.waiting,
                "description": pool.description, "holders": tasks(&pool.holders), "waiters": tasks(&pool.waiters),
            })
        })
        .collect();
    if pools.is_empty() && !out.is_json() {
        out.note("there is no pool: make one with `segue pools set NAME SLOTS`");
        return Ok(());
    }
    out.data(&values, || {
        let mut rows = Rows::new(&["pool", ">slots", ">used", ">waiting", "held by", "description"]);
        for pool in &pools {
            let mut holders: Vec<String> = pool
                .holders
                .iter()
                .take(NAMED)
                .map(|holder| format!("{}/{} ({})", holder.run_id, holder.task, holder.slots))
                .collect();
            if pool.holders.len() > NAMED {
                holders.push(format!("and {} more", pool.holders.len() - NAMED));
            }
            rows.row([
                pool.name.clone(),
                pool.slots.to_string(),
                pool.used.to_string(),
                pool.waiting.to_string(),
                holders.join(", "),
                pool.description.clone(),
            ]);
        }
        rows
    })
}
