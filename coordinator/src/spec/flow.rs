//! When a task runs and what it holds besides resources: `run_if`, `when`, `finally`, `limit`; and `concurrency` of the
//! pipeline.

use super::{
    code::Code,
    diagnostic::quote,
    fanout::{self, DraftFan},
    faults::Span,
    fields::Check,
    keys,
    model::{Concurrency, OnFull, RunIf},
    tasks::Spanned,
    toml::{Node, Table, Value},
};
use crate::expr::Expr;

/// Longest key of a limit, before anything is filled in.
const LONGEST_KEY: usize = 512;

/// What a task says of when it runs.
#[derive(Default)]
pub(super) struct DraftFlow<'t> {
    pub run_if: RunIf,
    /// Of `run_if`, where it is said.
    pub run_if_span: Option<Span>,
    pub when: Option<When<'t>>,
    pub finally: bool,
    pub fan_out: Option<DraftFan<'t>>,
    pub limit: Option<(Spanned<'t>, u32)>,
}

/// A condition that is one.
pub(super) struct When<'t> {
    pub text: &'t str,
    pub span: Span,
    pub expr: Expr,
}

/// Reads what a task says.
pub(super) fn read<'t>(table: &'t Table, task: &str, check: &mut Check<'t>) -> DraftFlow<'t> {
    let mut flow = DraftFlow { fan_out: fanout::read(table, task, check), ..DraftFlow::default() };
    if let Some(entry) = table.get("run_if") {
        flow.run_if_span = Some(entry.node.span);
        flow.run_if = match check.word(&entry.node, "`run_if`", Code::BadCondition, &keys::RUN_IF) {
            Some(1) => RunIf::AnySucceeded,
            Some(2) => RunIf::AnyFailed,
            Some(3) => RunIf::AllDone,
            Some(4) => RunIf::Always,
            _ => RunIf::AllSucceeded,
        };
    }
    if let Some(entry) = table.get("when") {
        flow.when = when(&entry.node, check);
    }
    if let Some(entry) = table.get("finally") {
        flow.finally = check.boolean(&entry.node, "`finally`").unwrap_or_default();
    }
    if let Some(entry) = table.get("limit") {
        flow.limit = limit(&entry.node, check);
    }
    flow
}

fn when<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<When<'t>> {
    if let Value::Bool(value) = node.value {
        let hint = Some(format!("write \"{value}\", or a condition such as \"params.mode == 'full'\""));
        check.wrong_type(node, "`when`", "a condition in quotes", hint);
        return None;
    }
    let text = check.string(node, "`when`")?;
    let span = node.span;
    match Expr::parse(text) {
        Ok(expr) => {
            if let Some(kind) = expr.kind().filter(|kind| *kind != "a boolean") {
                let hint = "compare it with something: params.mode == 'full'".to_owned();
                let message = format!("`when` gives {kind}, which is neither true nor false");
                check.faults.error(Code::BadCondition, span, message, hint);
                return None;
            }
            Some(When { text, span, expr })
        }
        Err(fault) => {
            let place = check.inside(span, text, fault.offset, fault.length.max(1));
            check.faults.error(Code::BadCondition, place, format!("in `when`: {}", fault.message), fault.hint);
            None
        }
    }
}

fn limit<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<(Spanned<'t>, u32)> {
    let table = check.table(node, "`limit`", &keys::LIMIT)?;
    let (Some(key), Some(max)) = (table.get("key"), table.get("max")) else {
        let message = "`limit` says neither what is limited nor to how many".to_owned();
        let message = match (table.get("key"), table.get("max")) {
            (Some(_), None) => "`limit` does not say to how many".to_owned(),
            (None, Some(_)) => "`limit` does not say what is limited".to_owned(),
            _ => message,
        };
        let hint = "limit = { key = \"api\", max = 2 }".to_owned();
        check.faults.error(Code::MissingKey, node.span, message, hint);
        return None;
    };
    let text = key_text(&key.node, "`key` of `limit`", check);
    let max = check.within(&max.node, "`max` of `limit`", Code::BadLimit, 1, keys::MOST_SLOTS);
    Some(((text?, key.node.span), max? as u32))
}

/// Reads `concurrency`; its key may hold parameters.
pub(super) fn concurrency<'t>(node: &'t Node, check: &mut Check<'t>) -> Option<(Concurrency, Span)> {
    let (max, key, on_full) = match node.value {
        Value::Int(_) => (node, None, None),
        _ => {
            let table = check.table(node, "`concurrency`", &keys::CONCURRENCY)?;
            let Some(max) = table.get("max") else {
                let hint = "concurrency = 1, or { max = 1, key = \"${params.customer}\" }".to_owned();
                check.faults.error(Code::MissingKey, node.span, "`concurrency` does not say how many", hint);
                return None;
            };
            (&max.node, table.get("key"), table.get("on_full"))
        }
    };
    let span = key.map_or(node.span, |entry| entry.node.span);
    let key = match key {
        Some(entry) => key_text(&entry.node, "`key` of `concurrency`", check)?.to_owned(),
        None => String::new(),
    };
    let on_full = match on_full {
        Some(entry) => match check.word(&entry.node, "`on_full`", Code::BadLimit, &keys::ON_FULL) {
            Some(1) => OnFull::Skip,
            Some(2) => OnFull::CancelRunning,
            _ => OnFull::Queue,
        },
        None => OnFull::Queue,
    };
    let max = check.within(max, "the number of runs", Code::BadLimit, 1, keys::MOST_RUNS)? as u32;
    Some((Concurrency { max, key, on_full }, span))
}

fn key_text<'t>(node: &'t Node, what: &str, check: &mut Check<'t>) -> Option<&'t str> {
    let text = check.string(node, what)?;
    if (1..=LONGEST_KEY).contains(&text.len()) {
        return Some(text);
    }
    let hint = format!("1 to {LONGEST_KEY} bytes");
    let message = match text.len() {
        0 => format!("{what} is empty"),
        length => format!("{what} has {length} bytes: {}", quote(text)),
    };
    check.faults.error(Code::BadLimit, node.span, message, hint);
    None
}
