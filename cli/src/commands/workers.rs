//! `segue workers list|show|drain|cordon|uncordon|label|scale-in`.

mod shown;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use clap::Subcommand;
use segue_proto::v1;
use serde_json::json;

use super::worker::pairs;
use crate::{
    client::Client,
    error::{Error, ExitStatus},
    format,
    printer::{Printer, Rows},
};

/// Commands.
#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// List workers: what they have, what of it is free, what they run, and why they are idle
    List,
    /// Show one worker with everything that is known of it
    Show {
        /// Name of the worker
        name: String,
    },
    /// Give a worker no more work; it ends when what it runs is done, or its grace is over
    Drain {
        /// Name of the worker
        name: String,
        /// Wait until it has ended
        #[arg(long)]
        wait: bool,
    },
    /// Give a worker no new work; it stays and goes on with what it has. Remembered by its name until uncordon
    Cordon {
        /// Name of the worker
        name: String,
    },
    /// Give a cordoned worker work again
    Uncordon {
        /// Name of the worker
        name: String,
    },
    /// Change labels of a worker while it runs. Remembered by its name, over those it is started with
    Label {
        /// Name of the worker
        name: String,
        /// KEY=VALUE sets a label, KEY- takes it away
        #[arg(required = true, value_name = "KEY=VALUE|KEY-")]
        changes: Vec<String>,
    },
    /// Drain some workers: idle ones first, then those whose work is youngest, never the last that could take a task
    ScaleIn {
        /// How many
        #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        count: u32,
        /// Only workers with this label
        #[arg(long = "label", value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// Say which and why, and drain none
        #[arg(long)]
        dry_run: bool,
    },
}

/// How often a drain that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Runs the command.
pub async fn run(command: WorkersCommand, client: &Client, out: &mut Printer) -> Result<ExitStatus, Error> {
    match command {
        WorkersCommand::List => {
            shown::list(&described(client, "").await?, out)?;
        }
        WorkersCommand::Show { name } => shown::show(&described(client, &name).await?, out)?,
        WorkersCommand::Drain { name, wait } => drain(&name, wait, client, out).await?,
        WorkersCommand::Cordon { name } => cordon(name, true, client, out).await?,
        WorkersCommand::Uncordon { name } => cordon(name, false, client, out).await?,
        WorkersCommand::Label { name, changes } => label(name, &changes, client, out).await?,
        WorkersCommand::ScaleIn { count, labels, dry_run } => scale_in(count, &labels, dry_run, client, out).await?,
    }
    Ok(ExitStatus::Done)
}

async fn described(client: &Client, name: &str) -> Result<Vec<v1::WorkerDetail>, Error> {
    let request = v1::DescribeWorkersRequest { name: name.to_owned() };
    Ok(client.fleet().describe_workers(request).await?.into_inner().workers)
}

async fn drain(name: &str, wait: bool, client: &Client, out: &mut Printer) -> Result<(), Error> {
    // The worker may come back under its name, as one that a service manager restarts: its start is what ends.
    let starts: BTreeSet<String> = if wait {
        described(client, name).await?.into_iter().filter_map(|detail| Some(detail.worker?.incarnation)).collect()
    } else {
        BTreeSet::new()
    };
    let request = v1::DrainWorkerRequest { name: name.to_owned() };
    let running = client.admin().drain_worker(request).await?.into_inner().running;
    if wait {
        wait_for_end(name, &starts, client, out).await?;
    }
    if out.is_json() {
        return out.json(&json!({"worker": name, "running": running, "ended": wait}));
    }
    out.text(&if wait {
        format!("{name} has ended")
    } else {
        format!("{name} drains: {} still running", format::counted(running.into(), "attempt", "attempts"))
    })
}

async fn wait_for_end(name: &str, starts: &BTreeSet<String>, client: &Client, out: &Printer) -> Result<(), Error> {
    let mut told = String::new();
    loop {
        let request = v1::DescribeWorkersRequest { name: name.to_owned() };
        let workers = match client.fleet().describe_workers(request).await {
            Ok(answer) => answer.into_inner().workers,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(()),
            Err(status) => return Err(status.into()),
        };
        let left: Vec<&v1::WorkerDetail> = workers
            .iter()
            .filter(|detail| {
                let open = |worker: &v1::WorkerView| {
                    starts.contains(&worker.incarnation)
                        && (worker.state != "disconnected" || !worker.attempts.is_empty())
                };
                detail.worker.as_ref().is_some_and(open)
            })
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let tasks: Vec<String> = left.iter().flat_map(|detail| shown::tasks(detail)).collect();
        let said = if tasks.is_empty() { "it ends".to_owned() } else { format!("it runs {}", tasks.join(", ")) };
        if said != told {
            out.note(&format!("{name} drains: {said}"));
            told = said;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn cordon(name: String, on: bool, client: &Client, out: &mut Printer) -> Result<(), Error> {
    let request = v1::CordonRequest { name: name.clone(), on };
    let running = client.fleet().cordon(request).await?.into_inner().running;
    if out.is_json() {
        return out.json(&json!({"worker": name, "cordoned": on, "running": running}));
    }
    out.text(&if on {
        let some = format::counted(running.into(), "attempt goes on", "attempts go on");
        format!("{name} is cordoned: no new work; {some}")
    } else {
        format!("{name} takes work again")
    })
}

async fn label(name: String, changes: &[String], client: &Client, out: &mut Printer) -> Result<(), Error> {
    let (set, remove) = read_changes(changes)?;
    let request = v1::LabelRequest { name: name.clone(), set, remove };
    let answer = client.fleet().label(request).await?.into_inner();
    if out.is_json() {
        return out.json(&json!({"worker": name, "labels": answer.labels, "connected": answer.connected}));
    }
    let labels = shown::labels(&answer.labels);
    let labels = if labels.is_empty() { "no labels".to_owned() } else { labels };
    out.text(&if answer.connected {
        format!("{name} has {labels}")
    } else {
        format!("{name} is not connected; over its own labels it will have {labels}")
    })
}

/// Reads `KEY=VALUE` and `KEY-`.
fn read_changes(changes: &[String]) -> Result<(BTreeMap<String, String>, Vec<String>), Error> {
    let (mut set, mut remove) = (BTreeMap::new(), Vec::new());
    for change in changes {
        match (change.split_once('='), change.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() => {
                if set.insert(key.to_owned(), value.to_owned()).is_some() {
                    return Err(Error::usage(format!("the label `{key}` is set twice")));
                }
            }
            (None, Some(key)) if !key.is_empty() => remove.push(key.to_owned()),
            _ => {
                return Err(Error::usage(format!("`{change}` changes no label"))
                    .hint("zone=b sets the label zone, zone- takes it away"));
            }
        }
    }
    Ok((set, remove))
}

async fn scale_in(
    count: u32,
    labels: &[String],
    dry_run: bool,
    client: &Client,
    out: &mut Printer,
) -> Result<(), Error> {
    let labels = pairs("--label", labels)?.into_iter().collect();
    let request = v1::ScaleInRequest { count, labels, dry_run };
    let answer = client.fleet().scale_in(request).await?.into_inner();
    let item = |item: &v1::ScaleInItem| {
        json!({
            "worker": item.name, "incarnation": item.incarnation, "code": item.code, "why": item.text,
            "running": item.running,
        })
    };
    let value = json!({
        "dry_run": dry_run,
        "drained": answer.drained.iter().map(item).collect::<Vec<_>>(),
        "spared": answer.spared.iter().map(item).collect::<Vec<_>>(),
    });
    if !out.is_json() && answer.drained.is_empty() && answer.spared.is_empty() {
        out.note("no worker can go: none is connected, has the labels and does not drain already");
        return Ok(());
    }
    out.data(&value, || {
        let mut rows = Rows::new(&["worker", "what", "why", ">running"]);
        let what = if dry_run { "would drain" } else { "drains" };
        for (items, what) in [(&answer.drained, what), (&answer.spared, "stays")] {
            for item in items {
                rows.row([item.name.clone(), what.to_owned(), item.text.clone(), item.running.to_string()]);
            }
        }
        rows
    })?;
    let chosen = answer.drained.len();
    if chosen < count as usize {
        out.note(&format!("{chosen} of {count}: no other worker can go"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn labels_are_set_with_a_sign_and_taken_away_with_a_dash() {
        let (set, remove) =
            read_changes(&words(&["zone=b", "disk-", "empty=", "a-b=c-", "x=y=z"])).expect("all are good");
        let expected = [("a-b", "c-"), ("empty", ""), ("x", "y=z"), ("zone", "b")];
        assert_eq!(set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(remove, ["disk"]);
    }

    #[test]
    fn what_changes_no_label_is_said() {
        for bad in ["zone", "=b", "-", ""] {
            let error = read_changes(&words(&[bad])).expect_err(bad);
            assert!(error.hint.contains("zone=b"), "{error:?}");
        }
        assert!(read_changes(&words(&["zone=a", "zone=b"])).is_err());
    }
}
