//! `[schedule]`: when the pipeline runs by itself.

use std::collections::BTreeMap;

use segue_proto::operator::ParamType;
use serde_json::Value as Json;

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Span, list},
    fields::Check,
    keys,
    params::{self, Params},
    toml::{Entry, Node, Table, Value},
    units,
    value::{self, Rule},
};
use crate::schedule::{
    CatchUp, Interval, Overlap, ScheduleDecl, Timetable, Trigger,
    cron::Cron,
    template::{self, Fact},
    zone,
};

/// Shortest time between two fires.
const SHORTEST_MS: u64 = 1_000;
/// Longest jitter.
const LONGEST_JITTER_MS: u64 = 86_400_000;
/// How far back missed intervals are caught up unless told.
const WINDOW_MS: u64 = 7 * 86_400_000;
/// What texts with references are tried with: any interval does.
const SAMPLE: Interval = Interval { start: 1_767_225_600_000, end: 1_767_312_000_000 };

/// Reads `[schedule]`. Gives nothing where it has a fault.
pub(super) fn read(entry: &Entry, params: &Params, check: &mut Check<'_>) -> Option<ScheduleDecl> {
    let before = check.faults.count();
    let table = check.table(&entry.node, "`schedule`", &keys::SCHEDULE)?;
    let timezone = timezone(table, check);
    let zone = timezone.and_then(zone::find).unwrap_or(chrono_tz::Tz::UTC);
    let trigger = trigger(table, entry.key_span, check);
    let mut instant = |key: &str| {
        let entry = table.get(key)?;
        let text = check.string(&entry.node, &format!("`{key}`"))?;
        let read = zone::parse(zone, text);
        read.map_err(|why| bad(&entry.node, format!("`{key}` is {}, which {why}", quote(text)), None, check)).ok()
    };
    let (start, end) = (instant("start"), instant("end"));
    if let (Some(start), Some(end), Some(entry)) = (start, end, table.get("end"))
        && start >= end
    {
        bad(&entry.node, "`end` is not after `start`".to_owned(), None, check);
    }
    let catch_up = word(table, "catch_up", CatchUp::ALL.map(CatchUp::name), check);
    let overlap = word(table, "overlap", Overlap::ALL.map(Overlap::name), check);
    let window = span_of_time(table, "catch_up_window", check);
    let jitter = span_of_time(table, "jitter", check);
    if let (Some(jitter), Some(entry)) = (jitter, table.get("jitter")) {
        if let Some(Trigger::Every(every)) = trigger
            && jitter > every
        {
            let hint = Some("a fire would come after the next one: at most as long as `every`".to_owned());
            bad(&entry.node, "`jitter` is longer than `every`".to_owned(), hint, check);
        } else if jitter > LONGEST_JITTER_MS {
            bad(&entry.node, "`jitter` is longer than a day".to_owned(), None, check);
        }
    }
    let given = given(table, entry.key_span, params, check);
    let decl = ScheduleDecl {
        trigger: trigger?,
        timezone: timezone?.to_owned(),
        start,
        end,
        catch_up: catch_up.map_or(CatchUp::default(), |at| CatchUp::ALL[at]),
        catch_up_window_ms: window.unwrap_or(WINDOW_MS),
        overlap: overlap.map_or(Overlap::default(), |at| Overlap::ALL[at]),
        jitter_ms: jitter.unwrap_or_default(),
        params: given,
    };
    // No fault is possible here that is not reported above.
    Timetable::new(&decl.trigger, zone, start).ok()?;
    (check.faults.count() == before).then_some(decl)
}

fn bad(node: &Node, message: String, hint: Option<String>, check: &mut Check<'_>) {
    check.faults.error(Code::BadSchedule, node.span, message, hint);
}

fn timezone<'t>(table: &'t Table, check: &mut Check<'_>) -> Option<&'t str> {
    let Some(entry) = table.get("timezone") else { return Some("UTC") };
    let name = check.string(&entry.node, "`timezone`")?;
    if let Some(zone) = zone::find(name) {
        return Some(zone.name());
    }
    // People type the city alone, or another spelling of it.
    let wanted = name.replace(' ', "_");
    let city = |zone: &&str| zone.rsplit('/').next().is_some_and(|city| city.eq_ignore_ascii_case(&wanted));
    let hint = match zone::names().find(city) {
        Some(zone) => Some(format!("did you mean {}?", quote(zone))),
        None => check.faults.did_you_mean(name, zone::names()),
    };
    let hint = hint.unwrap_or_else(|| "a name of the IANA data base, such as \"Europe/Berlin\" or \"UTC\"".to_owned());
    check.faults.error(Code::UnknownTimeZone, entry.node.span, format!("there is no time zone {}", quote(name)), hint);
    None
}

fn trigger(table: &Table, span: Span, check: &mut Check<'_>) -> Option<Trigger> {
    match (table.get("cron"), table.get("every")) {
        (Some(entry), None) => {
            let text = check.string(&entry.node, "`cron`")?;
            match Cron::parse(text) {
                Ok(cron) => Some(Trigger::Cron(cron.canonical().to_owned())),
                Err(fault) => {
                    // The fault is shown at its field, where the string stands in the file as it is.
                    let span = entry.node.span;
                    let literal = span.end - span.start == text.len() + 2 && fault.length > 0;
                    let place = if literal { span.part(1 + fault.at, fault.length) } else { span };
                    check.faults.error(Code::BadCron, place, fault.message, fault.hint);
                    None
                }
            }
        }
        (None, Some(entry)) => {
            let ms = span_of_time(table, "every", check)?;
            if ms >= SHORTEST_MS && ms.is_multiple_of(SHORTEST_MS) {
                return Some(Trigger::Every(ms));
            }
            bad(
                &entry.node,
                "`every` is not a number of whole seconds".to_owned(),
                Some("at least \"1s\"".to_owned()),
                check,
            );
            None
        }
        (Some(_), Some(entry)) => {
            let hint = Some("keep one of them".to_owned());
            check.faults.error(Code::BadSchedule, entry.key_span, "a schedule has either `cron` or `every`", hint);
            None
        }
        (None, None) => {
            let hint = Some("add cron = \"0 3 * * *\" or every = \"15m\"".to_owned());
            check.faults.error(
                Code::BadSchedule,
                span,
                "the schedule never fires: it has neither `cron` nor `every`",
                hint,
            );
            None
        }
    }
}

fn span_of_time(table: &Table, key: &str, check: &mut Check<'_>) -> Option<u64> {
    let node = &table.get(key)?.node;
    let what = format!("`{key}`");
    if let Value::Int(number) = node.value {
        let hint = Some(format!("say of what: \"{number}s\" or \"{number}m\""));
        check.wrong_type(node, &what, "a duration in quotes", hint);
        return None;
    }
    let text = check.string(node, &what)?;
    let read = units::duration_ms(text);
    read.map_err(|why| {
        let hint = "write a number with a unit of d, h, m, s or ms, such as \"90s\" or \"1h30m\"".to_owned();
        check.faults.error(Code::BadDuration, node.span, format!("{what} is {}, which {why}", quote(text)), hint);
    })
    .ok()
}

/// Gives the place of a word among those that a key takes.
fn word<const N: usize>(table: &Table, key: &str, words: [&'static str; N], check: &mut Check<'_>) -> Option<usize> {
    let node = &table.get(key)?.node;
    let word = check.string(node, &format!("`{key}`"))?;
    let found = words.iter().position(|known| *known == word);
    if found.is_none() {
        let hint = check.faults.did_you_mean(word, words).unwrap_or_else(|| format!("it is one of {}", list(words)));
        bad(node, format!("`{key}` cannot be {}", quote(word)), Some(hint), check);
    }
    found
}

/// Reads the parameters of each run, and looks whether those are enough.
fn given(table: &Table, span: Span, params: &Params, check: &mut Check<'_>) -> BTreeMap<String, Json> {
    let mut given = BTreeMap::new();
    let mut span = span;
    if let Some(entry) = table.get("params") {
        span = entry.key_span;
        let Some(table) = check.open_table(&entry.node, "`params`") else { return given };
        for entry in &table.entries {
            if let Some(json) = param(entry, params, check) {
                given.insert(entry.key.clone(), json);
            }
        }
        // Those that have a fault are reported already.
        let named = |name: &str| table.get(name).is_some();
        report_missing(params, named, span, check);
    } else {
        report_missing(params, |_| false, span, check);
    }
    given
}

fn report_missing(params: &Params, named: impl Fn(&str) -> bool, span: Span, check: &mut Check<'_>) {
    for decl in params.decls().filter(|decl| decl.default.is_none() && !named(&decl.name)) {
        let message = format!("no run could start by itself: the parameter {} has no value", quote(&decl.name));
        let hint = format!("give it in the schedule, params = {{ {} = … }}, or a default in [params]", decl.name);
        check.faults.error(Code::MissingParam, span, message, hint);
    }
}

fn param(entry: &Entry, params: &Params, check: &mut Check<'_>) -> Option<Json> {
    let name = &entry.key;
    let Some(decl) = params.get(name) else {
        let hint = check.faults.did_you_mean(name, params.names());
        let hint = hint.or_else(|| Some(format!("declare it: {name} = {{ type = \"string\" }} in [params]")));
        let message = format!("the schedule gives {}, which `[params]` does not declare", quote(name));
        check.faults.error(Code::UnknownParam, entry.key_span, message, hint);
        return None;
    };
    let json = params::literal(&entry.node, &format!("the value of {}", quote(name)), check)?;
    // A declaration with a fault of its own says nothing of its values.
    let decl = decl?;
    let mut tried = json.clone();
    if let Json::String(text) = &json {
        let sample = template::fill(text, SAMPLE, chrono_tz::Tz::UTC).map_err(|wrong| {
            let names = Fact::ALL.map(Fact::name);
            let hint = format!(
                "it may be {}; a literal ${{ is written $${{",
                names.map(|name| format!("${{{name}}}")).join(", ")
            );
            let place = check.narrow(entry.node.span, wrong);
            let message = format!("{} names nothing that an interval has", quote(wrong));
            check.faults.error(Code::BadIntervalReference, place, message, hint);
        });
        tried = Json::from(sample.ok()?);
    }
    let refusal = match Rule::from(decl).admit(tried) {
        Ok(_) => return Some(json),
        Err(refusal) => refusal,
    };
    let message = format!("the parameter {} {}", quote(name), refusal.reason);
    // What would help a value does not help a reference, whose text is another one each time.
    let refers = json.as_str().is_some_and(|text| template::refers(text) == Ok(true));
    let hint = if refers && decl.kind != ParamType::String {
        Some(format!("what is filled in is text: declare {name} as a string"))
    } else {
        refusal.hint
    };
    check.faults.error(Code::BadValue, entry.node.span, message, hint);
    None
}

/// Gives the parameters of the run of an interval, as they are typed at a submission.
///
/// # Errors
/// A text that was checked by another release and refers to what this one does not know.
pub fn interval_params(decl: &ScheduleDecl, interval: Interval) -> Result<BTreeMap<String, String>, String> {
    let zone = zone::find(&decl.timezone).ok_or_else(|| format!("there is no time zone {}", quote(&decl.timezone)))?;
    let filled = decl.params.iter().map(|(name, value)| {
        let text = match value {
            Json::String(text) => template::fill(text, interval, zone).map_err(|wrong| {
                format!("the parameter {}: {} names nothing that an interval has", quote(name), quote(wrong))
            })?,
            other => value::text_of(other),
        };
        Ok((name.clone(), text))
    });
    filled.collect()
}
