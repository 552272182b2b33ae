//! Ids as types: each is made only through its check.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A name or id that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a {kind}: {rule}")]
pub struct BadId {
    kind: &'static str,
    rule: &'static str,
    value: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Gives the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;

            fn try_from(value: String) -> Result<Self, BadId> {
                let check: fn(&str) -> bool = $check;
                if check(&value) { Ok(Self(value)) } else { Err(BadId { kind: $kind, rule: $rule, value: clip(value) }) }
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(value: &str) -> Result<Self, BadId> {
                Self::try_from(value.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

fn plain(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len()) && text.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9' | '_' | '-'))
}

id!(
    /// Names a task, unique in its pipeline.
    TaskName, "task name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names an output or input of a task.
    PortName, "port name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a pipeline.
    PipelineName, "pipeline name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a worker, stable over its restarts.
    WorkerName, "worker name", "1 to 64 of a-z, A-Z, 0-9, _, . and -",
    |s| (1..=64).contains(&s.len()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
);
id!(
    /// One start of a worker process.
    Incarnation, "worker incarnation", "1 to 64 of a-z, A-Z, 0-9, _ and -",
    |s| (1..=64).contains(&s.len()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
);
id!(
    /// One execution of a pipeline version: `run_` and 26 characters that sort by time.
    RunId, "run id", "run_ and 26 of 0-9, a-z",
    |s| s.strip_prefix("run_").is_some_and(|rest| rest.len() == 26 && rest.chars().all(|c| matches!(c, '0'..='9' | 'a'..='z')))
);
id!(
    /// BLAKE3 of some bytes.
    Digest, "digest", "64 of 0-9, a-f",
    |s| s.len() == 64 && s.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
);
id!(
    /// Names a registered model.
    ModelName, "model name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a movable pointer to a model version.
    AliasName, "alias", "1 to 64 of a-z, 0-9, _ and -, not a number",
    |s| plain(s, 64) && s.parse::<u64>().is_err()
);

id!(
    /// Names a pool: slots that tasks share, wherever they run.
    PoolName, "pool name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);

/// Keeps a hostile value from filling a message.
fn clip(mut value: String) -> String {
    const LONGEST: usize = 80;
    if value.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|&i| value.is_char_boundary(i)).unwrap_or(0);
        value.truncate(end);
        value.push('…');
    }
    value
}

impl Digest {
    /// Digests bytes that are at hand.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(blake3::hash(bytes))
    }

    /// Gives the first 12 characters, enough for people.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(hash.to_hex().to_string())
    }
}

/// The fencing token: one attempt of one task, and the coordinator epoch that assigned it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    pub run: RunId,
    pub task: TaskName,
    pub attempt: u32,
    pub epoch: u64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}@{}", self.run, self.task, self.attempt, self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_only_through_its_check() {
        assert!("rfm".parse::<TaskName>().is_ok());
        assert!("RFM".parse::<TaskName>().is_err());
        assert!("".parse::<TaskName>().is_err());
        assert!("run_01j8zk5m8w0000000000000000".parse::<RunId>().is_ok());
        assert!("run_short".parse::<RunId>().is_err());
        assert!("3".parse::<AliasName>().is_err(), "a number would be read as a version");
    }

    #[test]
    fn a_long_hostile_value_is_clipped_in_the_message() {
        let error = "é".repeat(10_000).parse::<TaskName>().expect_err("too long");
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn a_digest_is_the_blake3_of_the_bytes() {
        assert_eq!(Digest::of(b"").as_str(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
    }
}
