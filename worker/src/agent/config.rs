//! How a worker is set up, and why it can refuse to run.

use std::{collections::BTreeMap, io, path::PathBuf, time::Duration};

use segue_proto::ids::WorkerName;

use super::machine::Machine;

/// Set-up of one worker process.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    pub name: WorkerName,
    /// Address of the coordinator, `http://HOST:PORT` or `https://HOST:PORT`.
    pub server: String,
    /// What this worker offers; [`crate::agent::detect`] gives what the machine has.
    pub machine: Machine,
    pub labels: BTreeMap<String, String>,
    /// Directory of this worker alone: cached blobs and the working directories of attempts.
    pub cache_dir: PathBuf,
    /// Bytes of cached blobs that are kept; blobs in use may exceed it.
    pub cache_limit_bytes: u64,
    /// Program and arguments that start a runner, for example the current program and `__runner`.
    pub runner_command: Vec<String>,
    /// Variables of this process that commands inherit beside those that every program needs; `AWS_*` names all that
    /// begin so.
    pub pass_env: Vec<String>,
    /// How long running attempts may take to finish after a drain began.
    pub drain_grace: Duration,
    /// Needed for an `https` address with a private authority; public ones are known to the system.
    pub tls: Option<Tls>,
}

/// How the coordinator is recognised.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Certificates (PEM) of the authority that signed the coordinator's.
    pub ca_pem: Option<Vec<u8>>,
    /// Name in the coordinator's certificate, where it is not the host of the address.
    pub domain: Option<String>,
}

/// Why a worker stopped, or never started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{server}` is not an address of a coordinator: {reason}; give one such as http://127.0.0.1:7400")]
    Address { server: String, reason: String },
    #[error("the TLS settings are wrong: {0}")]
    Tls(String),
    #[error("no command to start runners with")]
    NoRunner,
    #[error("the worker cannot use its directory {}: {source}; give another one or mend its permissions", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the directory {} belongs to another worker that is running; give each worker its own", .0.display())]
    DirectoryInUse(PathBuf),
    #[error("the coordinator ended the link: {0}; two workers of one name?")]
    Superseded(String),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Part of what a `Goodbye` says when another process took over the name of this worker. Any other goodbye ends the link
/// alone.
pub const SUPERSEDED: &str = "newer start of this worker";
