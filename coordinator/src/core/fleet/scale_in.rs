//! Which workers go when there are to be fewer.
//!
//! Wanted properties, tested below: no more than were asked for, and only workers with the labels; a task that some
//! worker could take before can still be taken; nobody works who goes while an idle one that could go stays; asking for
//! more changes nothing about who goes first; equal input, equal answer, whatever the order of the workers.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use segue_proto::ids::RunId;

use super::idle::could_take;
use crate::{
    core::{Core, Run, UnixMillis, Worker, WorkerKey},
    spec::{BoundTask, Work},
};

/// A worker as the choice sees it.
#[derive(Debug, Clone)]
pub struct Member {
    pub key: WorkerKey,
    pub labels: BTreeMap<String, String>,
    /// Connected, and not on its way out already.
    pub here: bool,
    pub cordoned: bool,
    /// When its oldest attempt began; absent: it is idle.
    pub busy_since: Option<UnixMillis>,
    /// Indices of the needs that it can serve when it has nothing else to do.
    pub serves: BTreeSet<usize>,
}

/// Why a worker goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Idle,
    /// Nobody else's work is younger: the least is lost if it does not finish in time.
    YoungestWork {
        since: UnixMillis,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<Need> {
    /// In the order of the choice.
    pub drain: Vec<(WorkerKey, Why)>,
    /// Workers whose turn it would have been, each with a need that nobody else could serve.
    pub spared: Vec<(WorkerKey, Need)>,
}

/// Chooses up to `count` workers that have all of `labels`: idle ones first, cordoned before others, then those whose
/// work is youngest, never the last one that can serve a need. Needs are numbers that members name.
#[must_use]
pub fn choose(members: &[Member], count: usize, labels: &BTreeMap<String, String>) -> Choice<usize> {
    // A cordoned worker serves nobody any more.
    let serves = |member: &Member| if member.cordoned { BTreeSet::new() } else { member.serves.clone() };
    let mut servers: BTreeMap<usize, usize> = BTreeMap::new();
    for need in members.iter().filter(|member| member.here).flat_map(serves) {
        *servers.entry(need).or_default() += 1;
    }
    let mut turn: Vec<&Member> = members
        .iter()
        .filter(|member| member.here)
        .filter(|member| labels.iter().all(|(name, value)| member.labels.get(name) == Some(value)))
        .collect();
    turn.sort_by_key(|member| {
        (member.busy_since.is_some(), Reverse(member.busy_since), !member.cordoned, member.key.clone())
    });
    let mut choice = Choice { drain: Vec::new(), spared: Vec::new() };
    for member in turn {
        if choice.drain.len() == count {
            break;
        }
        let served = serves(member);
        if let Some(&need) = served.iter().find(|need| servers.get(need) == Some(&1)) {
            choice.spared.push((member.key.clone(), need));
            continue;
        }
        for need in served {
            servers.entry(need).and_modify(|left| *left -= 1);
        }
        let why = member.busy_since.map_or(Why::Idle, |since| Why::YoungestWork { since });
        choice.drain.push((member.key.clone(), why));
    }
    choice
}

impl Core {
    /// Chooses workers that can go; changes nothing. Whoever is spared is so for the task that is named.
    #[must_use]
    pub fn plan_scale_in(&self, count: usize, labels: &BTreeMap<String, String>) -> Choice<String> {
        let needs = self.needs();
        let members: Vec<Member> = self.workers().map(|worker| self.member(worker, &needs)).collect();
        let Choice { drain, spared } = choose(&members, count, labels);
        let name = |need: usize| {
            let (run, task) = needs[need];
            format!("`{}` of {}", task.name, run.id)
        };
        Choice { drain, spared: spared.into_iter().map(|(key, need)| (key, name(need))).collect() }
    }

    /// Finds one task of each kind that has not ended. What runs counts too: it needs a worker again if it does not
    /// finish in time. The children of a fan-out want what their task wants.
    fn needs(&self) -> Vec<(&Run, &BoundTask)> {
        let mut found: BTreeMap<String, (&Run, &BoundTask)> = BTreeMap::new();
        for run in self.runs() {
            for (task, bound) in run.tasks.iter().zip(&run.spec.tasks) {
                let work = match &bound.work {
                    _ if task.state.is_terminal() => continue,
                    Work::Sensor { .. } => continue,
                    Work::Command { .. } => String::new(),
                    Work::Operator { name, version, .. } => format!("{name} {version}"),
                };
                found.entry(format!("{work}|{:?}", bound.resources)).or_insert((run, bound));
            }
        }
        found.into_values().collect()
    }

    fn member(&self, worker: &Worker, needs: &[(&Run, &BoundTask)]) -> Member {
        let began = |(run, task): &(RunId, u32)| {
            let attempt = self.run(run)?.task(*task)?.attempts.last()?;
            Some(if attempt.started_at == 0 { attempt.assigned_at } else { attempt.started_at })
        };
        let serves = |(_, (_, task)): &(usize, &(&Run, &BoundTask))| could_take(worker, &task.work, &task.resources);
        Member {
            key: worker.key.clone(),
            labels: worker.labels.clone(),
            here: worker.link.is_some() && !worker.draining && !worker.superseded,
            cordoned: worker.cordoned,
            busy_since: worker.leased.keys().chain(&worker.ahead).filter_map(began).min(),
            serves: needs.iter().enumerate().filter(serves).map(|(need, _)| need).collect(),
        }
    }
}
