//! Values: a version byte, then a protobuf message.

use prost::Message;
use segue_proto::{store::v1 as stored, v1};

use super::{
    error::Error,
    keys::{Key, Meta},
    meta,
};

/// First byte of every value. Fields may be added to the messages without a new version.
pub const VERSION: u8 = 1;

/// Writes a record.
#[must_use]
pub fn encode<M: Message>(record: &M) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + record.encoded_len());
    bytes.push(VERSION);
    record.encode(&mut bytes).expect("a Vec grows as needed");
    bytes
}

/// Reads a record; `key` is for the message.
///
/// # Errors
/// [`Error::Corrupt`] if the bytes are not a record of this release.
pub fn decode<M: Message + Default>(key: &Key, bytes: &[u8]) -> Result<M, Error> {
    match bytes.split_first() {
        Some((&VERSION, body)) => M::decode(body).map_err(|e| Error::corrupt(key, e)),
        Some((version, _)) => {
            Err(Error::corrupt(key, format!("value version {version}, this program reads {VERSION}")))
        }
        None => Err(Error::corrupt(key, "an empty value")),
    }
}

/// Reads a row whose key is not known beforehand.
///
/// # Errors
/// [`Error::Corrupt`] if key or value cannot be read.
pub fn decode_row<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<(Key, M), Error> {
    let key = Key::decode(key).map_err(|e| Error::corrupt(super::keys::describe(key), e))?;
    let record = decode(&key, value)?;
    Ok((key, record))
}

/// A decoded value of any kind, as its key says.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Meta,
    Run(stored::RunRecord),
    Task(Box<stored::TaskRecord>),
    Attempt(stored::AttemptRecord),
    Expansion(stored::ExpansionRecord),
    ChangedInputs(stored::ChangedInputsRecord),
    Produced(v1::ArtifactView),
    Pipeline(stored::PipelineRecord),
    Artifact(stored::ArtifactRecord),
    Cache(stored::CacheRecord),
    Idempotency(v1::SubmitResponse),
    ModelVersion(v1::ModelVersion),
    Alias(v1::SetAliasRequest),
    Schedule(stored::ScheduleRecord),
    Interval(stored::IntervalRecord),
    Backfill(stored::BackfillRecord),
    BackfillInterval(stored::BackfillIntervalRecord),
    PipelineVersion(stored::PipelineVersionRecord),
    PipelineRun(stored::PipelineRunRecord),
    DroppedRun(stored::DroppedRunRecord),
    ActiveRun(stored::ActiveRunRecord),
    Events(stored::EventsRecord),
    Cursor(stored::CursorRecord),
    Delivery(Box<stored::DeliveryRecord>),
    Sla(stored::SlaRecord),
    Worker(stored::WorkerRecord),
    Pool(stored::PoolRecord),
}

/// Reads the value of a key as the message that belongs to it.
///
/// # Errors
/// [`Error::Corrupt`] if the bytes are not such a message.
pub fn decode_any(key: &Key, bytes: &[u8]) -> Result<Value, Error> {
    Ok(match key {
        Key::Meta(which) => {
            match which {
                Meta::Schema => meta::parse_schema(bytes).map(drop),
                Meta::Epoch | Meta::ActiveRuns => meta::parse_epoch(bytes).map(drop),
                Meta::StoreId => meta::parse_store_id(bytes).map(drop),
            }
            .map_err(|reason| Error::corrupt(key, reason))?;
            Value::Meta
        }
        Key::Run(_) => Value::Run(decode(key, bytes)?),
        Key::Task { .. } => Value::Task(Box::new(decode(key, bytes)?)),
        Key::Attempt { .. } => Value::Attempt(decode(key, bytes)?),
        Key::Produced { .. } => Value::Produced(decode(key, bytes)?),
        Key::Expansion { .. } => Value::Expansion(decode(key, bytes)?),
        Key::ChangedInputs { .. } => Value::ChangedInputs(decode(key, bytes)?),
        Key::Pipeline(_) => Value::Pipeline(decode(key, bytes)?),
        Key::Artifact(_) => Value::Artifact(decode(key, bytes)?),
        Key::Cache(_) => Value::Cache(decode(key, bytes)?),
        Key::Idempotency(_) => Value::Idempotency(decode(key, bytes)?),
        Key::ModelVersion { .. } => Value::ModelVersion(decode(key, bytes)?),
        Key::Alias { .. } => Value::Alias(decode(key, bytes)?),
        Key::Schedule(_) => Value::Schedule(decode(key, bytes)?),
        Key::Interval { .. } => Value::Interval(decode(key, bytes)?),
        Key::Backfill(_) => Value::Backfill(decode(key, bytes)?),
        Key::BackfillInterval { .. } => Value::BackfillInterval(decode(key, bytes)?),
        Key::PipelineVersion { .. } => Value::PipelineVersion(decode(key, bytes)?),
        Key::PipelineRun { .. } => Value::PipelineRun(decode(key, bytes)?),
        Key::DroppedRun(_) => Value::DroppedRun(decode(key, bytes)?),
        Key::ActiveRun(_) => Value::ActiveRun(decode(key, bytes)?),
        Key::Events(_) => Value::Events(decode(key, bytes)?),
        Key::Cursor(_) => Value::Cursor(decode(key, bytes)?),
        Key::Delivery(_) => Value::Delivery(Box::new(decode(key, bytes)?)),
        Key::Sla(_) => Value::Sla(decode(key, bytes)?),
        Key::Worker(_) => Value::Worker(decode(key, bytes)?),
        Key::Pool(_) => Value::Pool(decode(key, bytes)?),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let key = Key::Cache("k".to_owned());
        let record = stored::CacheRecord { task: "rfm".to_owned(), attempt: 2, ..Default::default() };
        let bytes = encode(&record);
        assert_eq!(bytes[0], VERSION);
        assert_eq!(decode::<stored::CacheRecord>(&key, &bytes).unwrap(), record);
    }

    #[test]
    fn an_unknown_version_and_an_empty_value_name_the_key() {
        let key = Key::Cache("k".to_owned());
        for bytes in [&[][..], &[9, 1, 2]] {
            let error = decode::<stored::CacheRecord>(&key, bytes).unwrap_err();
            assert!(error.to_string().contains("cache/k"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
            for key in [Key::Cache("k".to_owned()), Key::Meta(Meta::Epoch), Key::Meta(Meta::Schema), Key::Meta(Meta::StoreId)] {
                let _ = decode_any(&key, &bytes);
            }
        }
    }
}
