//! Finds runs by what people type.

use segue_proto::{ids::RunId, store::v1::RunRecord};

use super::error::Error;
use crate::store::{Key, Store, keys::prefix};

/// Runs that are looked at together for the latest one: their records are large, and mostly the first one is it.
const LATEST_ROWS: usize = 4;

/// Finds the newest run id that starts with `start`, for prefixes typed by people.
///
/// # Errors
/// Unknown or ambiguous.
pub fn resolve(store: &dyn Store, reference: &str) -> Result<RunId, Error> {
    if let Ok(id) = reference.parse::<RunId>() {
        return Ok(id);
    }
    let no_run = || Error::NoSuchRun(reference.chars().take(64).collect());
    if reference == "latest" {
        return latest(store)?.ok_or_else(no_run);
    }
    let start = if reference.starts_with("run_") { reference.to_owned() } else { format!("run_{reference}") };
    if start.len() < "run_".len() + 1 || !start.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(no_run());
    }
    let rows = store.scan(&prefix::runs_like(&start), None, 2)?;
    match rows.as_slice() {
        [] => Err(no_run()),
        [(key, _)] => match Key::decode(key) {
            Ok(Key::Run(id)) => Ok(id),
            _ => Err(no_run()),
        },
        _ => Err(Error::AmbiguousRun(reference.to_owned())),
    }
}

/// Finds the newest run that somebody asked for: those that execute hooks are nobody's latest run.
fn latest(store: &dyn Store) -> Result<Option<RunId>, Error> {
    let mut before: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan_back(&prefix::runs(), before.as_deref(), LATEST_ROWS)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        before = Some(last.clone());
        for (key, value) in &rows {
            let (key, record) = crate::store::codec::decode_row::<RunRecord>(key, value)?;
            if let Key::Run(id) = key
                && !record.idempotency_key.starts_with(super::deliver::command::KEY_PREFIX)
            {
                return Ok(Some(id));
            }
        }
    }
}
