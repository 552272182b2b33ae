//! Finds backfills, pipelines and the ends of runs in the store.

use segue_proto::{
    ids::{BackfillId, RunId},
    store::v1::{BackfillRecord, RunRecord},
};

use super::book;
use crate::{
    core::RunState,
    schedule::backfill::{Item, Was},
    server::{error::Error, records},
    store::{self, Key, Store, keys::prefix},
};

/// Ended backfills that are looked through for an equal one.
const LOOKED_AT: usize = 200;

/// Says how a run ended that does not go on.
pub(super) fn ended(store: &dyn Store, run: &str) -> Result<Was, Error> {
    let Ok(id) = run.parse::<RunId>() else { return Ok(Was::Forgotten) };
    let record = store::read::<RunRecord>(store, &Key::Run(id))?;
    Ok(match record.and_then(|record| records::run_state_from(record.state)) {
        Some(RunState::Succeeded) => Was::Succeeded,
        Some(RunState::Failed | RunState::Cancelled | RunState::Skipped) => Was::Failed,
        Some(RunState::Queued | RunState::Running | RunState::Cancelling) => Was::Going,
        None => Was::Forgotten,
    })
}

/// Finds an ended backfill of which the same was asked.
pub(super) fn equal(store: &dyn Store, identity: &str) -> Result<Option<(BackfillRecord, Vec<Item>)>, Error> {
    for (key, value) in store.scan_back(&prefix::backfills(), None, LOOKED_AT)? {
        let (key, record) = store::codec::decode_row::<BackfillRecord>(&key, &value)?;
        if let Key::Backfill(id) = key
            && record.identity == identity
            && book::is_ended(&record)
        {
            return Ok(Some((record, stored(store, &id)?)));
        }
    }
    Ok(None)
}

/// Reads the intervals of a backfill.
pub(super) fn stored(store: &dyn Store, id: &BackfillId) -> Result<Vec<Item>, Error> {
    book::items(store, id)?.map_err(|e| Error::Internal(format!("the backfill `{id}` cannot be read: {e}")))
}

/// Finds a backfill by its id, the start of one, or `latest`.
pub(super) fn resolve(store: &dyn Store, reference: &str) -> Result<BackfillId, Error> {
    if let Ok(id) = reference.parse() {
        return Ok(id);
    }
    let one = |rows: Vec<store::Row>| match rows.as_slice() {
        [(key, _)] => match Key::decode(key) {
            Ok(Key::Backfill(id)) => Ok(id),
            _ => Err(no_backfill(reference)),
        },
        [] => Err(no_backfill(reference)),
        _ => Err(Error::BadRequest(format!("more than one backfill starts with `{reference}`: give more characters"))),
    };
    if reference == "latest" {
        return one(store.scan_back(&prefix::backfills(), None, 1)?);
    }
    let start = if reference.starts_with("bf_") { reference.to_owned() } else { format!("bf_{reference}") };
    if start.len() < "bf_".len() + 1 || !start.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(no_backfill(reference));
    }
    one(store.scan(&prefix::backfills_like(&start), None, 2)?)
}

/// Says that there is none.
pub(super) fn no_backfill(reference: &str) -> Error {
    Error::NotFound(format!("there is no backfill `{}`", reference.chars().take(64).collect::<String>()))
}
