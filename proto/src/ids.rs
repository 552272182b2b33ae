//! Ids as types: each is made only through its check.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// A name or id that breaks the rule of its kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not {kind}: {rule}")]
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
        pub struct $name(Arc<str>);

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
                if check(&value) { Ok(Self(value.into())) } else { Err(BadId { kind: $kind, rule: $rule, value: clip(value) }) }
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
                id.as_str().to_owned()
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
    TaskName, "a task name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names an output or input of a task.
    PortName, "a port name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a pipeline.
    PipelineName, "a pipeline name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a worker, stable over its restarts.
    WorkerName, "a worker name", "1 to 64 of a-z, A-Z, 0-9, _, . and -",
    |s| (1..=64).contains(&s.len()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
);
id!(
    /// One start of a worker process.
    Incarnation, "a worker incarnation", "1 to 64 of a-z, A-Z, 0-9, _ and -",
    |s| (1..=64).contains(&s.len()) && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
);
id!(
    /// BLAKE3 of some bytes.
    Digest, "a digest", "64 of 0-9, a-f",
    |s| s.len() == 64 && s.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
);
id!(
    /// Names a registered model.
    ModelName, "a model name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
);
id!(
    /// Names a movable pointer to a model version.
    AliasName, "an alias", "1 to 64 of a-z, 0-9, _ and -, not a number",
    |s| plain(s, 64) && s.parse::<u64>().is_err()
);
id!(
    /// One backfill: `bf_` and 26 characters that sort by time.
    BackfillId, "a backfill id", "bf_ and 26 of 0-9, a-z",
    |s| s.strip_prefix("bf_").is_some_and(|rest| rest.len() == 26 && rest.chars().all(|c| matches!(c, '0'..='9' | 'a'..='z')))
);

/// One execution of a pipeline version: a ULID, whose text sorts by time. A number of 16 bytes inside, because the
/// scheduler keeps millions of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(u128);

impl RunId {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    const LENGTH: usize = 26;

    /// Takes the number of a ULID.
    #[must_use]
    pub const fn new(ulid: u128) -> Self {
        Self(ulid)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = *b"run_00000000000000000000000000";
        let mut rest = self.0;
        for place in text[4..].iter_mut().rev() {
            *place = Self::DIGITS[(rest % 32) as usize];
            rest /= 32;
        }
        f.pad(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for RunId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId {
            kind: "a run id",
            rule: "run_ and 26 of 0-9, a-z without i, l, o, u",
            value: clip(text.to_owned()),
        };
        let digits = text.strip_prefix("run_").filter(|digits| digits.len() == Self::LENGTH).ok_or_else(bad)?;
        let mut number = 0_u128;
        for digit in digits.bytes() {
            let value = Self::DIGITS.iter().position(|known| *known == digit).ok_or_else(bad)?;
            // 26 digits hold 130 bits: the first two must be empty.
            number = number.checked_mul(32).ok_or_else(bad)? + value as u128;
        }
        Ok(Self(number))
    }
}

impl TryFrom<String> for RunId {
    type Error = BadId;

    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

id!(
    /// A task of a run: its name, and in brackets the key of a child of a fan-out: `score`, `score[eu]`.
    TaskRef, "a task of a run", "a task name, and a key in brackets for a child",
    |s| match s.split_once('[') {
        None => plain(s, 64),
        Some((name, key)) => plain(name, 64) && key.strip_suffix(']').is_some_and(is_key),
    }
);

impl TaskRef {
    /// Names a task, or one of its children.
    #[must_use]
    pub fn new(task: &TaskName, key: Option<&ItemKey>) -> Self {
        match key {
            None => Self(Arc::clone(&task.0)),
            Some(key) => Self(format!("{task}[{key}]").into()),
        }
    }

    /// Gives the name of the task, and the key.
    #[must_use]
    pub fn parts(&self) -> (&str, Option<&str>) {
        match self.0.split_once('[') {
            None => (&self.0, None),
            Some((name, key)) => (name, key.strip_suffix(']')),
        }
    }
}

id!(
    /// Names a child of a fan-out, unique in it and the same in every rerun.
    ItemKey, "a key of an item", "1 to 64 of a-z, A-Z, 0-9, _, -, ., =, + and @, not only dots", is_key
);

fn is_key(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '=' | '+' | '@'))
        && text.chars().any(|c| c != '.')
}

impl ItemKey {
    /// Makes a key from any text: characters that a key cannot have become `_`, and a digest at the end keeps two such
    /// texts apart.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        if is_key(text) {
            return Self(text.into());
        }
        let clean: String = text
            .chars()
            .take(48)
            .map(|c| if c.is_ascii() && is_key(c.encode_utf8(&mut [0; 4])) { c } else { '_' })
            .collect();
        let digest = blake3::hash(text.as_bytes()).to_hex();
        Self(format!("{clean}-{}", &digest[..8]).into())
    }
}

id!(
    /// Names a pool: slots that tasks share, wherever they run.
    PoolName, "a pool name", "1 to 64 of a-z, 0-9, _ and -", |s| plain(s, 64)
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
        Self(hash.to_hex().as_str().into())
    }
}

/// The fencing token: one attempt of one task, and the coordinator epoch that assigned it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Token {
    pub run: RunId,
    /// Of the task in the run: what the coordinator finds it by.
    pub index: u32,
    pub attempt: u32,
    pub epoch: u64,
    /// For people and paths.
    pub task: TaskRef,
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
    fn a_run_id_is_a_number_inside_and_the_same_text_again_outside() {
        for text in
            ["run_01j8zk5m8w0000000000000000", "run_7zzzzzzzzzzzzzzzzzzzzzzzzz", "run_00000000000000000000000000"]
        {
            assert_eq!(text.parse::<RunId>().expect("a run id").to_string(), text);
        }
        for bad in
            ["run_8zzzzzzzzzzzzzzzzzzzzzzzzz", "run_01J8ZK5M8W0000000000000000", "run_0ilou000000000000000000000"]
        {
            assert!(bad.parse::<RunId>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn a_child_is_named_by_its_task_and_its_key() {
        let task: TaskName = "score".parse().expect("a name");
        let child = TaskRef::new(&task, Some(&ItemKey::from_text("eu")));
        assert_eq!(child.as_str(), "score[eu]");
        assert_eq!(child.parts(), ("score", Some("eu")));
        assert!("score[eu]".parse::<TaskRef>().is_ok());
        for bad in ["score[", "score[]", "score[..]", "score[a/b]", "score]x[", "[x]", "score[a]b"] {
            assert!(bad.parse::<TaskRef>().is_err(), "{bad} was taken");
        }
    }

    #[test]
    fn keys_of_texts_that_look_alike_stay_apart() {
        let (one, other) = (ItemKey::from_text("a/b"), ItemKey::from_text("a:b"));
        assert_ne!(one, other);
        assert!(one.as_str().parse::<ItemKey>().is_ok() && one.as_str().starts_with("a_b-"));
        assert!(ItemKey::from_text("").as_str().parse::<ItemKey>().is_ok());
        assert_eq!(ItemKey::from_text("e f").as_str(), "e_f-0b1e65d0", "as the reference says");
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
