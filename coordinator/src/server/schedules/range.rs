//! What a request for a backfill means: the range, its intervals, and the record of what was asked for.

use std::collections::BTreeMap;

use segue_proto::{convert, ids::Digest, store::v1::BackfillRecord, v1};
use serde_json::json;

use super::{backfills::Source, index, submit::Checked};
use crate::{
    schedule::{
        CatchUp, Interval, Overlap, ScheduleDecl, Timetable, Trigger,
        backfill::{MOST_INTERVALS, MOST_RUNNING, RUNNING, Reprocess},
        cron::Cron,
        zone,
    },
    server::error::Error,
    spec,
};

/// How much less the priority of a backfill is than that of its pipeline: others come first.
const BEHIND: i32 = 10;

/// What a backfill is to do.
pub(super) struct Range {
    pub decl: ScheduleDecl,
    pub from: u64,
    pub to: u64,
    pub intervals: Vec<Interval>,
    /// Intervals that have not ended yet.
    pub left_out: u32,
}

/// Reads what the intervals of a backfill are.
pub(super) fn range(checked: &Checked, request: &v1::BackfillRequest, now: u64) -> Result<Range, Error> {
    let bad = Error::BadRequest;
    let name = &checked.pipeline.name;
    let scheduled = checked.pipeline.schedule.clone();
    let given = match (request.cron.as_str(), request.every_ms) {
        ("", 0) => None,
        (text, 0) => {
            let cron = Cron::parse(text).map_err(|fault| {
                let hint = fault.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
                bad(format!("the cron expression `{text}`: {}{hint}", fault.message))
            })?;
            Some(Trigger::Cron(cron.canonical().to_owned()))
        }
        ("", ms) if ms.is_multiple_of(1_000) => Some(Trigger::Every(ms)),
        ("", _) => return Err(bad("the intervals are not a number of whole seconds".to_owned())),
        _ => return Err(bad("give either a cron expression or a length of the intervals".to_owned())),
    };
    let timezone = match (request.timezone.as_str(), &scheduled) {
        ("", Some(decl)) => decl.timezone.clone(),
        ("", None) => "UTC".to_owned(),
        (name, _) => name.to_owned(),
    };
    let zone = zone::find(&timezone).ok_or_else(|| {
        let near = spec::nearest(&timezone, zone::names()).map(|near| format!(": did you mean `{near}`?"));
        bad(format!("there is no time zone `{timezone}`{}", near.unwrap_or_default()))
    })?;
    let instant = |what: &str, text: &str| {
        zone::parse(zone, text).map_err(|why| bad(format!("`{what}` is `{}`, which {why}", text.escape_debug())))
    };
    let (from, to) = (instant("from", &request.from)?, instant("to", &request.to)?);
    if from >= to {
        return Err(bad("`from` is not before `to`".to_owned()));
    }
    let decl = match (scheduled, given) {
        (None, None) => {
            let message = format!(
                "the pipeline `{name}` has no schedule: say which intervals, with --every 1d or --cron '@daily'"
            );
            return Err(bad(message));
        }
        (Some(decl), None) => ScheduleDecl { timezone, ..decl },
        // Spans of time are counted from the beginning of the range.
        (Some(decl), Some(trigger)) => ScheduleDecl { trigger, timezone, start: Some(from), end: None, ..decl },
        (None, Some(trigger)) => ScheduleDecl {
            trigger,
            timezone,
            start: Some(from),
            end: None,
            catch_up: CatchUp::None,
            catch_up_window_ms: 0,
            overlap: Overlap::Allow,
            jitter_ms: 0,
            params: BTreeMap::new(),
        },
    };
    let given = request.params.iter().map(|(name, value)| (name.clone(), json!(value)));
    let params = decl.params.iter().map(|(name, value)| (name.clone(), value.clone())).chain(given).collect();
    let decl = ScheduleDecl { params, ..decl };
    let table = Timetable::new(&decl.trigger, zone, decl.start).map_err(bad)?;
    let mut intervals = Vec::new();
    let mut left_out = 0;
    for interval in table.intervals(from, to) {
        if interval.end > now {
            left_out += 1;
            if left_out >= MOST_INTERVALS {
                break;
            }
        } else if intervals.len() == MOST_INTERVALS {
            let message = format!("the range has more than {MOST_INTERVALS} intervals: split it");
            return Err(bad(message));
        } else {
            intervals.push(interval);
        }
    }
    Ok(Range { decl, from, to, intervals, left_out: index(left_out) })
}

/// Says why a range has nothing to execute.
pub(super) fn nothing(range: &Range) -> Error {
    Error::BadRequest(match range.left_out {
        0 => "no interval starts in this range".to_owned(),
        _ => "no interval of this range has ended yet: there is nothing to fill".to_owned(),
    })
}

/// Reads the policy of a request.
pub(super) fn reprocess(number: i32) -> Result<Reprocess, Error> {
    match v1::Reprocess::try_from(number) {
        Ok(v1::Reprocess::Unspecified | v1::Reprocess::None) => Ok(Reprocess::None),
        Ok(v1::Reprocess::Failed) => Ok(Reprocess::Failed),
        Ok(v1::Reprocess::All) => Ok(Reprocess::All),
        Err(_) => Err(convert::BadMessage::UnknownNumber { field: "reprocess", number }.into()),
    }
}

/// Makes the record of what was asked for, still without id and intervals.
pub(super) fn record(
    checked: &Checked,
    source: Source,
    range: &Range,
    request: &v1::BackfillRequest,
    reprocess: Reprocess,
    now: u64,
) -> Result<BackfillRecord, Error> {
    let max_running = if request.max_running == 0 { RUNNING } else { request.max_running };
    if max_running > MOST_RUNNING {
        return Err(Error::BadRequest(format!("at most {MOST_RUNNING} runs of a backfill go on at a time")));
    }
    let version = checked.pipeline.version().to_string();
    let decl = &range.decl;
    let reprocess = match reprocess {
        Reprocess::None => v1::Reprocess::None,
        Reprocess::Failed => v1::Reprocess::Failed,
        Reprocess::All => v1::Reprocess::All,
    };
    let identity = json!([
        checked.pipeline.name,
        version,
        range.from,
        range.to,
        decl.trigger,
        decl.timezone,
        decl.start,
        decl.params,
        reprocess as i32,
        request.no_cache,
    ]);
    Ok(BackfillRecord {
        pipeline: checked.pipeline.name.to_string(),
        version,
        text: source.text,
        path: source.path,
        operators: checked.operators.clone(),
        // Plain data with string keys.
        schedule_json: serde_json::to_string(decl).unwrap_or_default(),
        from_ms: range.from,
        to_ms: range.to,
        params: request.params.clone(),
        max_running,
        reprocess: reprocess.into(),
        reverse: request.reverse,
        no_cache: request.no_cache,
        priority: request.priority.unwrap_or(checked.pipeline.priority.saturating_sub(BEHIND)),
        created_ms: now,
        left_out: range.left_out,
        identity: Digest::of(identity.to_string().as_bytes()).into(),
        ..BackfillRecord::default()
    })
}
