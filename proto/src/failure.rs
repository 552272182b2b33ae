//! Failures and their classes. The class decides the retry, the text is for people.

use serde::{Deserialize, Serialize};

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureClass {
    /// The task or its parameters are wrong.
    User,
    /// The input data is wrong.
    Data,
    /// Disk, network, a missing program: may pass.
    Infra,
    /// Killed after its time.
    Timeout,
    /// Killed for memory.
    Oom,
    /// The worker or the runner went away.
    Lost,
}

impl FailureClass {
    /// Every class, in the order of the wire.
    pub const ALL: [Self; 6] = [Self::User, Self::Data, Self::Infra, Self::Timeout, Self::Oom, Self::Lost];

    /// Gives the name used in pipeline files and on screens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Data => "data",
            Self::Infra => "infra",
            Self::Timeout => "timeout",
            Self::Oom => "oom",
            Self::Lost => "lost",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    pub message: String,
    /// What to do about it; may be empty.
    #[serde(default)]
    pub hint: String,
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
}

impl Failure {
    /// Makes a failure without exit code or signal.
    pub fn new(class: FailureClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), hint: String::new(), exit_code: None, signal: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}
