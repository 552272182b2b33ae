//! Errors of commands, their exit codes, and the one place where a gRPC status is read.

use std::process::ExitCode;

use segue_proto::v1;

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0
    Done,
    /// 1: the run failed or was cancelled.
    RunFailed,
    /// 2: wrong use, bad input or a bad pipeline file.
    Usage,
    /// 3: coordinator unreachable, or an internal error.
    Unreachable,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(match status {
            ExitStatus::Done => 0,
            ExitStatus::RunFailed => 1,
            ExitStatus::Usage => 2,
            ExitStatus::Unreachable => 3,
        })
    }
}

/// Why a command failed, for people.
#[derive(Debug)]
pub struct Error {
    pub message: String,
    /// What to do about it; may be empty.
    pub hint: String,
    /// Faults of a pipeline file; shown instead of the message.
    pub diagnostics: Vec<v1::Diagnostic>,
    status: ExitStatus,
}

impl Error {
    /// Wrong use or bad input.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: String::new(), diagnostics: Vec::new(), status: ExitStatus::Usage }
    }

    /// Nothing the user did.
    pub fn internal(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Unreachable, ..Self::usage(message) }
    }

    /// Faults of a pipeline file.
    pub fn diagnostics(diagnostics: Vec<v1::Diagnostic>) -> Self {
        let errors = diagnostics.iter().filter(|diagnostic| diagnostic.error).count();
        let message = format!("{errors} error{} in the pipeline", if errors == 1 { "" } else { "s" });
        Self { diagnostics, ..Self::usage(message) }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Gives the exit code.
    pub const fn status(&self) -> ExitStatus {
        self.status
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message().to_owned();
        match status.code() {
            Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::OutOfRange => Self::usage(message),
            // A call whose connection ends is cancelled.
            Code::Unavailable | Code::Cancelled => Self::internal(format!("the coordinator went away: {message}"))
                .hint("is it running? look at its log, or start one with `segue dev`"),
            Code::DataLoss => Self::internal(message),
            code => Self::internal(format!("{message} ({code:?})")),
        }
    }
}

impl From<segue_worker::ops::OpError> for Error {
    fn from(error: segue_worker::ops::OpError) -> Self {
        Self::usage(error.0.message).hint(error.0.hint)
    }
}

impl From<segue_coordinator::store::Error> for Error {
    fn from(error: segue_coordinator::store::Error) -> Self {
        let hint = error.hint().unwrap_or_default().to_owned();
        Self::internal(error.to_string()).hint(hint)
    }
}

impl From<segue_coordinator::server::Error> for Error {
    fn from(error: segue_coordinator::server::Error) -> Self {
        match error {
            segue_coordinator::server::Error::Store(error) => error.into(),
            error => Self::internal(error.to_string()),
        }
    }
}
