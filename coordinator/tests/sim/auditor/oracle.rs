//! What is on the disk, read past the coordinator: what has been acknowledged must be there at that very moment.

use segue_coordinator::store::{self, Key, Store as _, codec, keys::prefix};
use segue_proto::{
    ids::{RunId, Token},
    store::v1::{EventsRecord, RunRecord, TaskRecord},
    v1::{AttemptState, RunState, TaskState},
};

use crate::disk::Disk;

pub fn run(disk: &Disk, id: RunId) -> Option<RunRecord> {
    store::read::<RunRecord>(&*disk.durable(), &Key::Run(id)).ok().flatten()
}

/// Gives the offset after the last event on the disk.
pub fn feed_end(disk: &Disk) -> u64 {
    let last = disk.durable().scan_back(&prefix::events(), None, 1).unwrap_or_default();
    let end = last.first().and_then(|(key, value)| {
        let (key, record) = codec::decode_row::<EventsRecord>(key, value).ok()?;
        let Key::Events(first) = key else { return None };
        Some(first + record.events.len() as u64)
    });
    end.unwrap_or(1)
}

pub fn is_cancelled_or_over(record: RunRecord) -> bool {
    !matches!(record.state(), RunState::Running | RunState::Queued | RunState::Unspecified)
}

/// Says why the end of an attempt is not on the disk.
pub fn attempt_is_over(disk: &Disk, token: &Token) -> Result<(), String> {
    let durable = disk.durable();
    let Some(task) = store::read::<TaskRecord>(&*durable, &Key::Task { run: token.run, task: token.index })
        .map_err(|e| e.to_string())?
    else {
        return Err("its task has no record".to_owned());
    };
    let live = matches!(task.state(), TaskState::Assigned | TaskState::Running | TaskState::Cancelling);
    let last = task.last.as_ref().and_then(|last| last.view.clone()).unwrap_or_default();
    if live && last.attempt == token.attempt && last.epoch == token.epoch {
        return Err(format!("it is {} on the disk", task.state().as_str_name()));
    }
    let going = matches!(last.state(), AttemptState::Assigned | AttemptState::Running);
    if last.attempt == token.attempt && last.epoch == token.epoch && going {
        return Err("the attempt goes on there".to_owned());
    }
    Ok(())
}
