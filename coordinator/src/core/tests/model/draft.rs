//! Random pipelines: rules, conditions, ends, fan-outs, sensors, gates.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    core::tests::support,
    spec::{BoundTask, FanOut, Limit, OutputRef, Over, RunIf, RunSpec, Work},
};

/// Slots of the one pool that there is.
pub const SLOTS: u32 = 2;

/// A condition with a meaning that can be told without an evaluator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cond {
    None,
    True,
    False,
    Broken,
    /// The n-th need has ended like this.
    NeedIs(usize, &'static str),
    /// The list that the n-th need puts out has more than one item.
    NeedSays(usize),
    /// For each child: its item is odd.
    Odd,
    /// At the end: how everything else has ended.
    RunIs(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    Sensor,
    /// Over the numbers below this one.
    Each(i64),
    /// Over the list that the n-th need puts out.
    EachOf(usize),
}

#[derive(Debug, Clone)]
pub struct Node {
    /// Indices of earlier nodes, sorted.
    pub needs: Vec<usize>,
    /// It takes the outputs of its needs.
    pub data: bool,
    pub rule: RunIf,
    pub finally: bool,
    pub kind: Kind,
    pub cond: Cond,
    pub max_parallel: Option<u32>,
    pub tolerate: u32,
    pub fail_fast: bool,
    pub slots: u32,
    pub limited: bool,
    pub cpus: u32,
    pub impatient: bool,
}

fn rules() -> impl Strategy<Value = RunIf> {
    prop_oneof![
        6 => Just(RunIf::AllSucceeded),
        1 => Just(RunIf::AnySucceeded),
        1 => Just(RunIf::AnyFailed),
        1 => Just(RunIf::AllDone),
        1 => Just(RunIf::Always),
    ]
}

fn conds() -> impl Strategy<Value = Cond> {
    let words = prop_oneof![Just("succeeded"), Just("failed"), Just("skipped"), Just("cancelled")];
    let ends = prop_oneof![Just("succeeded"), Just("failed"), Just("cancelled")];
    prop_oneof![
        10 => Just(Cond::None),
        1 => Just(Cond::True),
        1 => Just(Cond::False),
        1 => Just(Cond::Broken),
        2 => (0_usize..4, words).prop_map(|(need, word)| Cond::NeedIs(need, word)),
        2 => (0_usize..4).prop_map(Cond::NeedSays),
        2 => Just(Cond::Odd),
        1 => ends.prop_map(Cond::RunIs),
    ]
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Plain),
        1 => Just(Kind::Sensor),
        2 => (0_i64..5).prop_map(Kind::Each),
        2 => (0_usize..4).prop_map(Kind::EachOf),
    ]
}

/// Pipelines of up to seven tasks.
pub fn pipelines() -> impl Strategy<Value = Vec<Node>> {
    let edges = (any::<u8>(), any::<u8>(), any::<bool>());
    let flow = (rules(), prop::bool::weighted(0.2), kinds(), conds());
    let fan = (prop::option::of(1_u32..4), 0_u32..3, any::<bool>());
    let gates = (prop_oneof![4 => Just(0_u32), 1 => 1_u32..3], prop::bool::weighted(0.2), 1_u32..3);
    let node = (edges, flow, fan, gates, prop::bool::weighted(0.1));
    prop::collection::vec(node, 1..8).prop_map(|drafts| {
        let mut nodes: Vec<Node> = Vec::new();
        for ((one, other, data), (rule, finally, kind, cond), (most, tolerate, fail_fast), gates, impatient) in drafts {
            let at = nodes.len();
            // Two draws that must agree keep the graph thin.
            let wanted = |need: &usize| one & other & (1 << need) != 0 || usize::from(one) % (at + 1) == *need;
            let needs: Vec<usize> = (0..at).filter(wanted).filter(|&need| finally || !nodes[need].finally).collect();
            let kind = match kind {
                Kind::EachOf(need) if needs.is_empty() => Kind::Each(need as i64),
                Kind::EachOf(need) => Kind::EachOf(need % needs.len()),
                kind => kind,
            };
            let fans = matches!(kind, Kind::Each(_) | Kind::EachOf(_));
            let cond = match cond {
                Cond::NeedIs(..) | Cond::NeedSays(_) if needs.is_empty() => Cond::True,
                Cond::NeedIs(need, word) => Cond::NeedIs(need % needs.len(), word),
                Cond::NeedSays(need) => Cond::NeedSays(need % needs.len()),
                Cond::Odd if !fans => Cond::None,
                Cond::RunIs(_) if !finally => Cond::False,
                cond => cond,
            };
            let (slots, limited, cpus) = gates;
            nodes.push(Node {
                needs,
                data,
                rule,
                finally,
                kind,
                cond,
                max_parallel: most.filter(|_| fans),
                tolerate,
                fail_fast,
                slots,
                limited,
                cpus,
                impatient,
            });
        }
        nodes
    })
}

pub fn name(at: usize) -> String {
    format!("t{at}")
}

/// Says whether a task is executed by workers and puts out a list.
pub fn puts_out(node: &Node) -> bool {
    node.kind == Kind::Plain
}

fn text(node: &Node) -> Option<String> {
    let need = |at: usize| name(node.needs[at]);
    Some(match node.cond {
        Cond::None => return None,
        Cond::True => "1 < 2".to_owned(),
        Cond::False => "1 > 2".to_owned(),
        Cond::Broken => "params.nothing == 1".to_owned(),
        Cond::NeedIs(at, word) => format!("tasks.{}.state == '{word}'", need(at)),
        Cond::NeedSays(at) => format!("size(tasks.{}.outputs.out) > 1", need(at)),
        Cond::Odd => "item % 2 == 1".to_owned(),
        Cond::RunIs(word) => format!("run.state == '{word}'"),
    })
}

fn bound(at: usize, node: &Node) -> BoundTask {
    let mut task = support::task(&name(at), if node.data { &node.needs } else { &[] });
    if !node.data {
        task.after.clone_from(&node.needs);
    }
    task.resources.amounts.cpu_milli = node.cpus * 1_000;
    task.flow.run_if = node.rule;
    task.flow.finally = node.finally;
    task.flow.when = text(node);
    let over = match node.kind {
        Kind::Each(to) => Some(Over::Range { from: 0, to, step: 1 }),
        Kind::EachOf(need) => Some(Over::Output(OutputRef { task: node.needs[need], output: "out".into() })),
        Kind::Plain | Kind::Sensor => None,
    };
    let (max_parallel, tolerate, fail_fast) = (node.max_parallel, node.tolerate, node.fail_fast);
    task.flow.fan_out = over.map(|over| FanOut { over, key: None, max_parallel, tolerate, fail_fast });
    if node.kind == Kind::Sensor {
        task.work = Work::Sensor { sensor: json!({}), every_ms: 150 };
        task.timeout_ms = node.impatient.then_some(700);
        task.outputs.clear();
    } else {
        task.flow.queue_timeout_ms = node.impatient.then_some(400);
        if node.slots > 0 {
            task.flow.pools.insert("p".into(), node.slots);
        }
        // Children share the key: what a child makes of it is tested elsewhere.
        task.flow.limit = node.limited.then(|| Limit { key: "k".into(), max: 1 });
    }
    if puts_out(node) {
        task.inline = vec!["out".into()];
    }
    task
}

pub fn spec(nodes: &[Node]) -> RunSpec {
    let tasks = nodes.iter().enumerate().map(|(at, node)| bound(at, node)).collect();
    (*support::spec(tasks)).clone()
}

/// A list to put out; a third of them make no fan-out, because a key comes twice.
pub fn list(draw: usize) -> Value {
    match draw % 6 {
        0 => json!([]),
        1 => json!([1]),
        2 => json!([2, 1]),
        3 => json!([0, 1, 2, 3]),
        4 => json!([3, 1, 5]),
        _ => json!([1, 1]),
    }
}
