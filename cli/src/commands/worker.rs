//! `segue worker`: serve until told to stop, then drain.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;
use segue_proto::ids::PortName;
use segue_worker::agent::{self, Machine, Tls, WorkerConfig};

use super::coordinator::read;
use crate::{
    args::Global,
    client::plain,
    embedded,
    error::{Error, ExitStatus},
    stop,
};

/// Arguments.
#[derive(Debug, Args)]
pub struct WorkerArgs {
    /// Name, stable over restarts; the host's name unless told
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub amounts: Amounts,
    /// Directory for cached blobs and attempts; one of its own under the temporary directory unless told
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Bytes of blobs to keep, such as 20GiB
    #[arg(long, default_value = "20GiB", value_name = "SIZE", value_parser = size)]
    pub cache_limit: u64,
    /// Seconds that running work may take to finish once the worker was told to stop
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub grace: f64,
    /// PEM certificate of a private authority, for an https coordinator
    #[arg(long, value_name = "FILE", env = "SEGUE_CA_CERT")]
    pub ca_cert: Option<PathBuf>,
}

/// What a worker offers, where it is not what the machine has.
#[derive(Debug, Args)]
pub struct Amounts {
    /// Cores to offer; all of this machine unless told
    #[arg(long, value_name = "CORES")]
    pub cpu: Option<f64>,
    /// Memory to offer, such as 8GiB; all of this machine unless told
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub memory: Option<u64>,
    /// GPUs to offer; those of this machine unless told
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=MOST_GPUS))]
    pub gpus: Option<u32>,
    /// Memory of each GPU, such as 80GiB; what the driver says unless told
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub gpu_memory: Option<u64>,
    /// Custom resource to offer
    #[arg(long = "resource", value_name = "NAME=N")]
    pub custom: Vec<String>,
    /// Label that tasks may ask for
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    #[command(flatten)]
    pub environment: PassEnv,
}

/// What commands inherit.
#[derive(Debug, Args)]
pub struct PassEnv {
    /// Variables that commands inherit beside PATH, HOME, USER, LANG, TZ and the like; `AWS_*` is all that begin so
    #[arg(long, value_name = "NAME", env = "SEGUE_PASS_ENV", value_delimiter = ',')]
    pub pass_env: Vec<String>,
}

/// GPUs that one worker can offer.
const MOST_GPUS: i64 = 64;

impl Amounts {
    /// Gives what is offered: what was detected, with what was told.
    pub fn machine(&self) -> Result<Machine, Error> {
        let mut machine = agent::detect();
        if let Some(gpus) = self.gpus {
            machine = machine.gpu_count(gpus);
        }
        if let Some(bytes) = self.gpu_memory {
            machine = machine.gpu_memory(bytes);
        }
        let offered = &mut machine.capacity;
        if let Some(cpu) = self.cpu {
            if !(0.001..=4_096.0).contains(&cpu) {
                return Err(Error::usage(format!("`--cpu {cpu}` is not between 0.001 and 4096")));
            }
            offered.cpu_milli = (cpu * 1_000.0).round() as u32;
        }
        if let Some(memory) = self.memory {
            offered.memory_bytes = memory;
        }
        offered.custom.extend(custom(&self.custom)?);
        Ok(machine)
    }

    /// Gives the labels that tasks may ask for.
    pub fn labels(&self) -> Result<BTreeMap<String, String>, Error> {
        labels(&self.labels)
    }
}

/// Words of `resources` in a pipeline file that mean something else than a custom resource.
const TAKEN: [(&str, &str); 5] =
    [("cpu", "--cpu"), ("memory", "--memory"), ("gpu", "--gpus"), ("labels", "--label"), ("any_of", "another name")];

/// Reads custom resources: what a task could never ask for is a mistake.
fn custom(given: &[String]) -> Result<BTreeMap<String, u64>, Error> {
    let mut amounts = BTreeMap::new();
    for (name, value) in pairs("--resource", given)? {
        let wrong = |why: String| Error::usage(format!("`--resource {name}={value}`: {why}"));
        if let Some((_, instead)) = TAKEN.iter().find(|(word, _)| *word == name) {
            return Err(wrong(format!("`{name}` is no custom resource")).hint(format!("give {instead}")));
        }
        name.parse::<PortName>()
            .map_err(|_| wrong("a custom resource is named with 1 to 64 of a-z, 0-9, _ and -".to_owned()))?;
        let amount = value.parse::<u64>().ok().filter(|&amount| amount > 0);
        let amount = amount.ok_or_else(|| wrong("the amount is a whole number from 1 on".to_owned()))?;
        if amounts.insert(name.clone(), amount).is_some() {
            return Err(wrong("it is given twice".to_owned()));
        }
    }
    Ok(amounts)
}

/// Reads labels: what a task could not write, or nobody could tell apart, is a mistake.
fn labels(given: &[String]) -> Result<BTreeMap<String, String>, Error> {
    const LONGEST: usize = 253;
    let mut labels = BTreeMap::new();
    for (name, value) in pairs("--label", given)? {
        let wrong = |why: &str| Error::usage(format!("`--label {name}={value}`: {why}"));
        if name.len() > LONGEST || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(wrong("a label is named with at most 253 characters, none of them a space"));
        }
        if value.len() > LONGEST || value.contains(char::is_control) {
            return Err(wrong("a label has a value of at most 253 characters, none of them a control character"));
        }
        if labels.insert(name.clone(), value.clone()).is_some() {
            return Err(wrong("it is given twice"));
        }
    }
    Ok(labels)
}

/// Runs the command.
pub async fn run(args: WorkerArgs, global: &Global) -> Result<ExitStatus, Error> {
    let Some(server) = global.server.clone() else {
        return Err(Error::usage("a worker needs the address of its coordinator")
            .hint("segue worker --server http://127.0.0.1:7400"));
    };
    plain(&server)?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let name: segue_proto::ids::WorkerName =
        name.parse().map_err(|e| Error::usage(format!("{e}")).hint("choose one with --name"))?;
    let tls = match &args.ca_cert {
        Some(file) => Some(Tls { ca_pem: Some(read(file)?), domain: None }),
        None => None,
    };
    if !(0.0..=86_400.0).contains(&args.grace) {
        return Err(Error::usage(format!("`--grace {}` is not between 0 and 86400 seconds", args.grace)));
    }
    let cache_dir = match &args.cache_dir {
        Some(dir) => embedded::absolute(dir)?,
        None => std::env::temp_dir().join(format!("segue-worker-{name}")),
    };
    let config = WorkerConfig {
        name,
        server,
        machine: args.amounts.machine()?,
        pass_env: args.amounts.environment.pass_env.clone(),
        labels: args.amounts.labels()?,
        cache_dir,
        cache_limit_bytes: args.cache_limit,
        runner_command: embedded::runner_command()?,
        drain_grace: Duration::from_secs_f64(args.grace),
        tls,
    };
    agent::run(config, stop::on_signals()).await.map_err(|e| Error::internal(e.to_string()))?;
    Ok(ExitStatus::Done)
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '-' })
        .take(64)
        .collect();
    if name.is_empty() { "worker".to_owned() } else { name }
}

/// Reads what was given as NAME=VALUE under an option.
pub fn pairs(option: &str, given: &[String]) -> Result<Vec<(String, String)>, Error> {
    given
        .iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => Err(Error::usage(format!("`{option} {pair}` is not NAME=VALUE"))),
        })
        .collect()
}

/// Reads a size such as 8GiB, 500MB or 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| format!("`{text}` is not a size: give one such as 8GiB"))?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        "TiB" | "T" => 1 << 40,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        other => return Err(format!("`{other}` is not a unit of size: KiB, MiB, GiB, TiB, KB, MB, GB, TB")),
    };
    Ok((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_resource_that_no_task_can_ask_for_is_refused() {
        for bad in ["cpu=3", "gpu=1", "lic=0", "lic=-1", "lic=some", "A B=2", "Lic=2", "lic", "=2"] {
            assert!(custom(&words(&[bad])).is_err(), "{bad} was taken");
        }
        assert!(custom(&words(&["lic=1", "lic=2"])).is_err());
        assert!(custom(&words(&["cpu=3"])).is_err_and(|e| e.hint.contains("--cpu")));
        let taken = custom(&words(&["lic=2", "tape_drive=1"])).map_err(|e| e.message);
        assert_eq!(taken, Ok(BTreeMap::from([("lic".to_owned(), 2), ("tape_drive".to_owned(), 1)])));
    }

    #[test]
    fn a_label_has_a_name_without_spaces() {
        for bad in ["a b=c", " a=b", "a\tb=c", "=b", "a", "a=\x1b[0m"] {
            assert!(labels(&words(&[bad])).is_err(), "{bad:?} was taken");
        }
        assert!(labels(&words(&["zone=a", "zone=b"])).is_err());
        assert!(labels(&words(&["topology.kubernetes.io/zone=eu 1", "spot="])).is_ok());
    }
}
