//! Events as one record of the store: what the events of a run have in common is written once.

use std::collections::HashMap;

use segue_proto::{
    store::v1::{EventRow, EventsRecord, RunOfEvents},
    v1::FeedEvent,
};

/// Packs the events of one commit, in order.
pub fn pack(events: Vec<FeedEvent>, time_ms: u64) -> EventsRecord {
    let mut record = EventsRecord { time_ms, ..EventsRecord::default() };
    let mut places: HashMap<(String, u32), u32> = HashMap::new();
    for mut event in events {
        (event.offset, event.time_ms) = (0, 0);
        // Events of one run come together: most of them need no look further than the last one.
        if record.runs.last().is_some_and(|run| is_of(&event, run)) {
            (event.run_id, event.pipeline, event.version) = (String::new(), String::new(), String::new());
            event.generation = 0;
            let run = u32::try_from(record.runs.len()).unwrap_or(u32::MAX);
            record.events.push(EventRow { run, event: Some(event) });
            continue;
        }
        let run_id = std::mem::take(&mut event.run_id);
        let common = RunOfEvents {
            run_id: run_id.clone(),
            pipeline: std::mem::take(&mut event.pipeline),
            version: std::mem::take(&mut event.version),
            generation: std::mem::take(&mut event.generation),
        };
        let run = if run_id.is_empty() {
            0
        } else {
            let place = places.entry((run_id, common.generation)).or_insert_with(|| {
                record.runs.push(common.clone());
                u32::try_from(record.runs.len()).unwrap_or(u32::MAX)
            });
            let known = record.runs.get(*place as usize - 1);
            // The model of a run names its pipeline too; should they ever differ, each event keeps its own.
            if known != Some(&common) {
                record.runs.push(common);
                *place = u32::try_from(record.runs.len()).unwrap_or(u32::MAX);
            }
            *place
        };
        record.events.push(EventRow { run, event: Some(event) });
    }
    record
}

fn is_of(event: &FeedEvent, run: &RunOfEvents) -> bool {
    event.run_id == run.run_id
        && event.generation == run.generation
        && event.version == run.version
        && event.pipeline == run.pipeline
}

/// Unpacks a record whose first event has the offset `first`.
pub fn unpack(first: u64, record: EventsRecord) -> impl Iterator<Item = FeedEvent> {
    let EventsRecord { time_ms, runs, events } = record;
    (first..).zip(events).map(move |(offset, row)| {
        let event = FeedEvent { offset, time_ms, ..row.event.unwrap_or_default() };
        match (row.run as usize).checked_sub(1).and_then(|place| runs.get(place)) {
            Some(run) => FeedEvent {
                run_id: run.run_id.clone(),
                pipeline: run.pipeline.clone(),
                version: run.version.clone(),
                generation: run.generation,
                ..event
            },
            None => event,
        }
    })
}
