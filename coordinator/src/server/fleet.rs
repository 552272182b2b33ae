//! Workers and pools: their records in the store, and what clients see of them.

use segue_proto::{
    ids::{PoolName, RunId, WorkerName},
    store::v1::{PoolRecord, WorkerRecord},
    v1,
};

use super::views;
use crate::{
    core::{
        Core, Worker,
        fleet::{
            Settings,
            scale_in::{Choice, Why},
        },
    },
    store::{self, Batch, Key, Store, keys::prefix},
};

/// Tasks that are listed of one worker, or of one pool.
const MOST_TASKS: usize = 100;

/// Adds what is set for a worker to a batch, or takes the record away where nothing is.
pub fn put_settings(batch: &mut Batch, name: &WorkerName, settings: &Settings) {
    let key = Key::Worker(name.clone());
    if settings.is_empty() {
        batch.delete(&key);
        return;
    }
    let mut record = WorkerRecord { name: name.to_string(), cordoned: settings.cordoned, ..WorkerRecord::default() };
    for (label, value) in &settings.labels {
        match value {
            Some(value) => {
                record.labels.insert(label.clone(), value.clone());
            }
            None => record.hidden_labels.push(label.clone()),
        }
    }
    batch.put(&key, &record);
}

/// Adds a pool to a batch, or its end.
pub fn put_pool(batch: &mut Batch, name: &PoolName, slots: Option<u32>, description: &str) {
    let key = Key::Pool(name.clone());
    match slots {
        Some(slots) => {
            batch.put(&key, &PoolRecord { name: name.to_string(), slots, description: description.to_owned() });
        }
        None => batch.delete(&key),
    }
}

/// Reads what is set for workers, and the pools, into a core that just began.
///
/// # Errors
/// Those of the store.
pub fn load(store: &dyn Store, core: &mut Core) -> Result<(), store::Error> {
    store::visit(store, &prefix::workers(), |key, value| {
        let (key, record) = store::codec::decode_row::<WorkerRecord>(&key, &value)?;
        if let Key::Worker(name) = key {
            let set = record.labels.into_iter().map(|(label, value)| (label, Some(value)));
            let hidden = record.hidden_labels.into_iter().map(|label| (label, None));
            let settings = Settings { cordoned: record.cordoned, labels: set.chain(hidden).collect() };
            core.restore_settings(name, settings);
        }
        Ok(())
    })?;
    store::visit(store, &prefix::pools(), |key, value| {
        let (key, record) = store::codec::decode_row::<PoolRecord>(&key, &value)?;
        if let Key::Pool(name) = key {
            core.restore_pool(name, record.slots, record.description);
        }
        Ok(())
    })
}

/// Shows the workers of a name, or all of them and the names for which something is set.
#[must_use]
pub fn workers(core: &Core, only: &str) -> Vec<v1::WorkerDetail> {
    let mut details: Vec<v1::WorkerDetail> = core
        .workers()
        .filter(|worker| only.is_empty() || worker.key.name.as_str() == only)
        .map(|worker| detail(core, worker))
        .collect();
    let away = core.settings().iter().filter(|(name, _)| {
        (only.is_empty() || name.as_str() == only) && !core.workers().any(|worker| worker.key.name == **name)
    });
    details.extend(away.map(|(name, settings)| absent(name, settings)));
    details.sort_by(|a, b| key_of(a).cmp(&key_of(b)));
    details
}

fn key_of(detail: &v1::WorkerDetail) -> Option<(&str, &str)> {
    detail.worker.as_ref().map(|worker| (worker.name.as_str(), worker.incarnation.as_str()))
}

fn detail(core: &Core, worker: &Worker) -> v1::WorkerDetail {
    let idle = core.idle(worker);
    v1::WorkerDetail {
        worker: Some(views::worker_view(worker, core)),
        free: Some(worker.free().amounts.into()),
        cordoned: worker.cordoned,
        draining: worker.draining,
        own_labels: worker.own_labels.clone(),
        tasks: worker
            .leased
            .keys()
            .chain(&worker.ahead)
            .take(MOST_TASKS)
            .filter_map(|(run, task)| worker_task(core, run, *task))
            .collect(),
        idle_code: idle.map_or("", |idle| idle.code()).to_owned(),
        idle: idle.map_or("", |idle| idle.text()).to_owned(),
    }
}

fn worker_task(core: &Core, run: &RunId, index: u32) -> Option<v1::WorkerTask> {
    let run = core.run(run)?;
    let token = run.live_token(index)?;
    let task = run.task(index)?;
    let (live, attempt) = task.state.live().zip(task.attempts.last())?;
    Some(v1::WorkerTask {
        token: Some(token.into()),
        reserved: Some(live.reserved.clone().into()),
        assigned_ms: attempt.assigned_at,
        started_ms: attempt.started_at,
        cancelling: live.cancelling,
        ahead: live.ahead,
    })
}

/// Shows a name for which something is set while no such worker is known.
fn absent(name: &WorkerName, settings: &Settings) -> v1::WorkerDetail {
    let labels = settings.labels.iter().filter_map(|(label, value)| Some((label.clone(), value.clone()?))).collect();
    let worker = v1::WorkerView {
        name: name.to_string(),
        state: "disconnected".to_owned(),
        labels,
        ..v1::WorkerView::default()
    };
    v1::WorkerDetail { worker: Some(worker), cordoned: settings.cordoned, ..v1::WorkerDetail::default() }
}

/// Shows a choice of workers that go.
#[must_use]
pub fn scale_in(core: &Core, choice: &Choice<String>, now: u64) -> v1::ScaleInResponse {
    let item = |key: &crate::core::WorkerKey, code: &str, text: String| v1::ScaleInItem {
        name: key.name.to_string(),
        incarnation: key.incarnation.to_string(),
        code: code.to_owned(),
        text,
        running: core
            .workers()
            .find(|worker| worker.key == *key)
            .map_or(0, |worker| u32::try_from(worker.leased.len() + worker.ahead.len()).unwrap_or(u32::MAX)),
    };
    let drained = choice.drain.iter().map(|(key, why)| match why {
        Why::Idle => item(key, "idle", "it runs nothing".to_owned()),
        Why::YoungestWork { since } => {
            let age = now.saturating_sub(*since) / 1_000;
            item(key, "youngest_work", format!("of those that work, its work is youngest: {age} s old"))
        }
    });
    let spared = choice
        .spared
        .iter()
        .map(|(key, task)| item(key, "last_that_can", format!("the last worker that takes work and can take {task}")));
    v1::ScaleInResponse { drained: drained.collect(), spared: spared.collect() }
}

/// Shows every pool.
#[must_use]
pub fn pools(core: &Core) -> Vec<v1::PoolView> {
    let shown = |tasks: &[(RunId, u32, u32)]| -> Vec<v1::PoolTask> {
        let name = |run: &RunId, index: u32| Some(core.run(run)?.name_of(index)?.to_string());
        tasks
            .iter()
            .take(MOST_TASKS)
            .map(|(run, index, slots)| v1::PoolTask {
                run_id: run.to_string(),
                task: name(run, *index).unwrap_or_default(),
                slots: *slots,
            })
            .collect()
    };
    let view = |(name, slots): (&String, &u32)| {
        let (held, (waiting, all)) = (core.pool_use(name), core.pool_waits(name, MOST_TASKS));
        v1::PoolView {
            name: name.clone(),
            slots: *slots,
            used: held.iter().map(|(.., slots)| u64::from(*slots)).sum(),
            waiting: all as u64,
            description: core.pool_description(name).to_owned(),
            holders: shown(&held),
            waiters: shown(&waiting),
        }
    };
    core.pools().iter().map(view).collect()
}
