//! What can go wrong with what is kept. Every message names the place and, where there is one, the fix.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use segue_proto::ids::Digest;

/// Errors of store, blobs, registry and logs. Cheap to clone: one failed flush answers many commits.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A precondition of a batch did not hold; nothing was written.
    #[error("`{key}` was changed in the meantime: nothing was written")]
    Conflict { key: String },

    /// The store was written by a later release.
    #[error(
        "the store in {} has schema version {found}, and this program reads version {supported}: \
         use the newer release of segue that wrote it", .dir.display()
    )]
    NewerSchema { dir: PathBuf, found: u32, supported: u32 },

    /// There is data, but it is not ours.
    #[error("{} holds data, but no segue store: {reason}; choose another state directory", .dir.display())]
    NotAStore { dir: PathBuf, reason: String },

    /// Another process has it open.
    #[error(
        "the store in {} is in use by another process ({}); talk to it with --server, or stop it",
        .dir.display(), owner(*.pid)
    )]
    InUse { dir: PathBuf, pid: Option<u32> },

    /// A directory is missing or cannot be used.
    #[error("{}: {reason}; {fix}", .dir.display())]
    Directory { dir: PathBuf, reason: String, fix: &'static str },

    /// A value cannot be decoded.
    #[error("the record `{key}` is corrupt: {reason}; run `segue store verify`, and restore a backup if it is needed")]
    Corrupt { key: String, reason: String },

    /// The database files themselves are damaged.
    #[error(
        "the store in {} is damaged: {reason}; look at it with `segue store verify`, then bring back a backup into a \
         new directory with `segue store restore`. Where there is none, `segue store backup` saves what can still be read",
        .dir.display()
    )]
    Damaged { dir: PathBuf, reason: String },

    /// The disk or the network said no.
    #[error("{what}: {source}{}", advice(.source))]
    Io { what: String, source: Arc<io::Error> },

    /// The commit thread has ended, by request or after a flush that failed.
    #[error("the store takes no more writes: {reason}")]
    Stopped { reason: String },

    /// The blob store said no.
    #[error("blob store {url}: {reason}")]
    Blobs { url: String, reason: String },

    /// No such blob.
    #[error("blob {digest} is not in {url}")]
    NoBlob { digest: Digest, url: String },

    /// The bytes are not those that the digest names.
    #[error("{what} has the digest {actual}, not {expected}: it was damaged on its way or on disk")]
    WrongDigest { what: String, expected: Digest, actual: Digest },

    /// The sender of a stream gave up.
    #[error("the upload broke off: {reason}")]
    Upload { reason: String },

    /// A backup that cannot be restored.
    #[error("{} is not a usable backup: {reason}", .place.display())]
    BadBackup { place: PathBuf, reason: String },

    /// A model reference, registration or alias that makes no sense.
    #[error("{reason}")]
    Model { reason: String, hint: Option<String> },

    /// A model, version or alias that does not exist.
    #[error("there is no {what}{}", suggestion(.hint))]
    NoModel { what: String, hint: Option<String> },

    /// A piece of a log that breaks its rules.
    #[error("log of {attempt}: {reason}")]
    Log { attempt: String, reason: String },
}

/// Which error it is, for programs. A code is never used twice for different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    Conflict,
    NewerSchema,
    NotAStore,
    InUse,
    Directory,
    Corrupt,
    Damaged,
    Io,
    Stopped,
    Blobs,
    NoBlob,
    WrongDigest,
    Upload,
    BadBackup,
    Model,
    NoModel,
    Log,
}

impl Code {
    /// Gives the code as people and logs see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "S001",
            Self::NewerSchema => "S002",
            Self::NotAStore => "S003",
            Self::InUse => "S004",
            Self::Directory => "S005",
            Self::Corrupt => "S006",
            Self::Damaged => "S007",
            Self::Io => "S008",
            Self::Stopped => "S009",
            Self::Blobs => "S010",
            Self::NoBlob => "S011",
            Self::WrongDigest => "S012",
            Self::Upload => "S013",
            Self::BadBackup => "S014",
            Self::Model => "S015",
            Self::NoModel => "S016",
            Self::Log => "S017",
        }
    }
}

impl Error {
    /// Gives the code.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Conflict { .. } => Code::Conflict,
            Self::NewerSchema { .. } => Code::NewerSchema,
            Self::NotAStore { .. } => Code::NotAStore,
            Self::InUse { .. } => Code::InUse,
            Self::Directory { .. } => Code::Directory,
            Self::Corrupt { .. } => Code::Corrupt,
            Self::Damaged { .. } => Code::Damaged,
            Self::Io { .. } => Code::Io,
            Self::Stopped { .. } => Code::Stopped,
            Self::Blobs { .. } => Code::Blobs,
            Self::NoBlob { .. } => Code::NoBlob,
            Self::WrongDigest { .. } => Code::WrongDigest,
            Self::Upload { .. } => Code::Upload,
            Self::BadBackup { .. } => Code::BadBackup,
            Self::Model { .. } => Code::Model,
            Self::NoModel { .. } => Code::NoModel,
            Self::Log { .. } => Code::Log,
        }
    }

    /// Gives what to try next, where it is not part of the message.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Model { hint, .. } => hint.as_deref(),
            Self::Stopped { .. } => {
                Some("mend that and start the coordinator again: what was acknowledged is on the disk")
            }
            _ => None,
        }
    }

    /// Makes an error of a file operation; `doing` is a verb form such as `reading`.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{doing} {}", path.display()), source: Arc::new(source) }
    }

    pub(crate) fn damaged(dir: &Path, reason: impl ToString) -> Self {
        Self::Damaged { dir: dir.to_owned(), reason: reason.to_string() }
    }

    pub(crate) fn corrupt(key: impl ToString, reason: impl ToString) -> Self {
        Self::Corrupt { key: key.to_string(), reason: reason.to_string() }
    }
}

/// Says what helps against an error of the disk, where that is known.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; make room on that disk",
        io::ErrorKind::ReadOnlyFilesystem => "; mount that disk for writing",
        _ => "",
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}

fn suggestion(hint: &Option<String>) -> String {
    hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default()
}
