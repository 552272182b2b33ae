//! Writes that happen together or not at all.

use prost::Message;

use super::{codec, keys::Key};

/// What must hold for a batch to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Precondition {
    /// The key has no value.
    Absent(Vec<u8>),
    /// The key has exactly this value.
    Equals(Vec<u8>, Vec<u8>),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}

/// Changes that are applied together, if every precondition holds. Of two writes to one key, the later counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    preconditions: Vec<Precondition>,
    writes: Vec<Write>,
}

impl Batch {
    /// Makes an empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a record.
    pub fn put<M: Message>(&mut self, key: &Key, record: &M) {
        self.put_raw(key.encode(), codec::encode(record));
    }

    /// Puts a record that must be new.
    pub fn insert<M: Message>(&mut self, key: &Key, record: &M) {
        self.require(Precondition::Absent(key.encode()));
        self.put(key, record);
    }

    /// Puts bytes as they are.
    pub fn put_raw(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put(key, value));
    }

    /// Deletes a record; a missing one is no error.
    pub fn delete(&mut self, key: &Key) {
        self.writes.push(Write::Delete(key.encode()));
    }

    /// Deletes what is under a key as it is; a missing one is no error.
    pub fn delete_raw(&mut self, key: Vec<u8>) {
        self.writes.push(Write::Delete(key));
    }

    /// Adds a precondition.
    pub fn require(&mut self, precondition: Precondition) {
        self.preconditions.push(precondition);
    }

    /// Requires that a key still has the raw value that was read: absent for `None`.
    pub fn require_unchanged(&mut self, key: &Key, read: Option<Vec<u8>>) {
        let key = key.encode();
        self.require(match read {
            Some(value) => Precondition::Equals(key, value),
            None => Precondition::Absent(key),
        });
    }

    /// Moves everything of another batch to the end of this one.
    pub fn append(&mut self, other: Self) {
        self.preconditions.extend(other.preconditions);
        self.writes.extend(other.writes);
    }

    /// Gives the preconditions, in the order in which they were added.
    #[must_use]
    pub fn preconditions(&self) -> &[Precondition] {
        &self.preconditions
    }

    /// Gives the writes, in order.
    #[must_use]
    pub fn writes(&self) -> &[Write] {
        &self.writes
    }

    /// Says whether there is nothing to write and nothing to check.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.preconditions.is_empty()
    }
}

impl Precondition {
    /// Gives the key that it is about.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Absent(key) | Self::Equals(key, _) => key,
        }
    }

    /// Says whether it holds for the value that the key has now.
    #[must_use]
    pub fn holds(&self, value: Option<&[u8]>) -> bool {
        match self {
            Self::Absent(_) => value.is_none(),
            Self::Equals(_, expected) => value == Some(expected.as_slice()),
        }
    }
}

impl Write {
    /// Gives the key that it changes.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}
