//! Errors of the server, and the one place where a gRPC status is made of them.

use segue_proto::convert::BadMessage;
use tonic::{Code, Status};

use crate::{core::Refused, store};

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("there is no run `{0}`")]
    NoSuchRun(String),
    #[error("more than one run starts with `{0}`: give more characters")]
    AmbiguousRun(String),
    #[error("{0}")]
    Refused(Refused),
    #[error("{0}")]
    BadMessage(#[from] BadMessage),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Ended(String),
    #[error("{0}")]
    Unavailable(String),
    #[error("{}", events_gone(*.wanted, *.oldest, *.next))]
    EventsGone { wanted: u64, oldest: u64, next: u64 },
    #[error("the coordinator is overloaded: try again")]
    Overloaded,
    #[error("the coordinator is stopping")]
    Stopping,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("{0}")]
    Internal(String),
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match &error {
            Error::NoSuchRun(_) | Error::NotFound(_) => Code::NotFound,
            Error::AmbiguousRun(_) | Error::BadMessage(_) | Error::BadRequest(_) => Code::InvalidArgument,
            Error::Refused(refused) => match refused {
                Refused::NoSuchRun(_)
                | Refused::NoSuchWorker(_)
                | Refused::NoSuchTask { .. }
                | Refused::NoSuchPool(_) => Code::NotFound,
                Refused::RunEnded(_)
                | Refused::TaskEnded { .. }
                | Refused::RunGoing(_)
                | Refused::NothingToDo(_)
                | Refused::TooManyLabels(_)
                | Refused::PoolInUse { .. } => Code::FailedPrecondition,
                Refused::FleetChanged => Code::Aborted,
                Refused::UnknownWorker(_) | Refused::NotYours { .. } => Code::PermissionDenied,
            },
            Error::EventsGone { .. } => Code::OutOfRange,
            Error::Overloaded => Code::ResourceExhausted,
            Error::Ended(_) => Code::FailedPrecondition,
            Error::Stopping | Error::Unavailable(_) => Code::Unavailable,
            Error::Store(store) => store_code(store),
            Error::Internal(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}

fn events_gone(wanted: u64, oldest: u64, next: u64) -> String {
    if wanted > next {
        return format!("event {wanted} has not happened yet: the next one will be {next}");
    }
    format!(
        "event {wanted} is not kept any more: the oldest that is has the offset {oldest}. Go on from there (`segue events \
         --from {oldest}`); what was between is gone"
    )
}

const fn store_code(error: &store::Error) -> Code {
    match error {
        store::Error::NoBlob { .. } | store::Error::NoModel { .. } => Code::NotFound,
        store::Error::Model { .. } | store::Error::Upload { .. } | store::Error::WrongDigest { .. } => {
            Code::InvalidArgument
        }
        store::Error::Conflict { .. } => Code::Aborted,
        store::Error::Stopped { .. } => Code::Unavailable,
        store::Error::Corrupt { .. } | store::Error::Damaged { .. } => Code::DataLoss,
        store::Error::NewerSchema { .. }
        | store::Error::NotAStore { .. }
        | store::Error::InUse { .. }
        | store::Error::Directory { .. }
        | store::Error::Io { .. }
        | store::Error::Blobs { .. }
        | store::Error::BadBackup { .. }
        | store::Error::Log { .. } => Code::Internal,
    }
}
