//! Tasks that wait for each other, and those that come after them.

use std::collections::VecDeque;

use super::{
    code::Code,
    diagnostic::quote,
    faults::{Faults, Span, list},
    resolve::Edges,
    tasks::Draft,
};

/// Most tasks of a cycle that are named.
const SHOWN: usize = 12;

/// Reports every cycle once, and once the tasks that it keeps from running. Linear in tasks and edges.
pub(super) fn report(drafts: &[Draft<'_>], edges: &[Edges], faults: &mut Faults) {
    let rings = rings(edges);
    if rings.is_empty() {
        return;
    }
    let mut ring_of: Vec<Option<usize>> = vec![None; drafts.len()];
    for (at, ring) in rings.iter().enumerate() {
        for &task in ring {
            ring_of[task] = Some(at);
        }
    }
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); drafts.len()];
    for (task, edges) in edges.iter().enumerate() {
        for &(needed, _) in &edges.needs {
            dependents[needed].push(task);
        }
    }
    let mut reached: Vec<bool> = ring_of.iter().map(Option::is_some).collect();
    for (at, ring) in rings.iter().enumerate() {
        let (path, span) = shortest(ring, at, &ring_of, edges);
        let path = arrows(&path, drafts);
        let hint = "take away one of the edges between them".to_owned();
        faults.error(Code::Cycle, span, format!("tasks wait for each other: {path}"), hint);
        let after = downstream(ring, &dependents, &mut reached);
        if let Some(&first) = after.first() {
            let (subject, verb) = if after.len() == 1 { ("the task", "it comes") } else { ("the tasks", "they come") };
            let names = list(after.iter().map(|&task| drafts[task].name));
            let message = format!("{subject} {names} can never run: {verb} after the cycle {path}");
            faults.error(Code::NeverRuns, drafts[first].span, message, None);
        }
    }
}

/// Gives the sets of more than one task that all need each other (Tarjan's algorithm, without recursion), each sorted,
/// in the order of their first task.
fn rings(edges: &[Edges]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let mut order = vec![NEW; edges.len()];
    let mut low = vec![0; edges.len()];
    let mut open = vec![false; edges.len()];
    let mut stack = Vec::new();
    let mut next = 0;
    let mut rings = Vec::new();
    for root in 0..edges.len() {
        if order[root] != NEW {
            continue;
        }
        let mut path = vec![(root, 0)];
        while let Some((task, edge)) = path.pop() {
            if edge == 0 {
                order[task] = next;
                low[task] = next;
                next += 1;
                stack.push(task);
                open[task] = true;
            }
            if let Some(&(needed, _)) = edges[task].needs.get(edge) {
                path.push((task, edge + 1));
                if order[needed] == NEW {
                    path.push((needed, 0));
                } else if open[needed] {
                    low[task] = low[task].min(order[needed]);
                }
                continue;
            }
            if let Some(&(parent, _)) = path.last() {
                low[parent] = low[parent].min(low[task]);
            }
            if low[task] == order[task] {
                let mut ring = Vec::new();
                while let Some(member) = stack.pop() {
                    open[member] = false;
                    ring.push(member);
                    if member == task {
                        break;
                    }
                }
                if ring.len() > 1 {
                    ring.sort_unstable();
                    rings.push(ring);
                }
            }
        }
    }
    rings.sort_unstable();
    rings
}

/// Gives a shortest cycle through the first task of a ring, in the order of execution, and the place of one of its edges.
fn shortest(ring: &[usize], at: usize, ring_of: &[Option<usize>], edges: &[Edges]) -> (Vec<usize>, Span) {
    let start = ring[0];
    let slot = |task: usize| ring.binary_search(&task).unwrap_or(0);
    // For each task of the ring, the one that needs it on the way, and where that is said.
    let mut needed_by: Vec<Option<usize>> = vec![None; ring.len()];
    let mut queue = VecDeque::from([start]);
    while let Some(task) = queue.pop_front() {
        for &(needed, span) in edges[task].needs.iter().filter(|(needed, _)| ring_of[*needed] == Some(at)) {
            if needed == start {
                // Walk back from here to the start: each step was needed by the next.
                let mut path = vec![start, task];
                let mut place = span;
                let mut current = task;
                while let Some(next) = needed_by[slot(current)] {
                    path.push(next);
                    if next == start {
                        place = edges[start]
                            .needs
                            .iter()
                            .find(|(needed, _)| *needed == current)
                            .map_or(span, |edge| edge.1);
                    }
                    current = next;
                }
                return (path, place);
            }
            if needed_by[slot(needed)].is_none() {
                needed_by[slot(needed)] = Some(task);
                queue.push_back(needed);
            }
        }
    }
    (ring.to_vec(), Span::default())
}

fn arrows(path: &[usize], drafts: &[Draft<'_>]) -> String {
    let name = |task: &usize| quote(drafts[*task].name);
    if path.len() <= SHOWN + 1 {
        return path.iter().map(name).collect::<Vec<_>>().join(" -> ");
    }
    let head = path[..SHOWN / 2].iter().map(name);
    let tail = path[path.len() - SHOWN / 2..].iter().map(name);
    let left_out = format!("({} more)", path.len() - SHOWN / 2 * 2);
    head.chain([left_out]).chain(tail).collect::<Vec<_>>().join(" -> ")
}

/// Gives the tasks after a ring that were not reached before, in file order.
fn downstream(ring: &[usize], dependents: &[Vec<usize>], reached: &mut [bool]) -> Vec<usize> {
    let mut after = Vec::new();
    let mut queue: VecDeque<usize> = ring.iter().copied().collect();
    while let Some(task) = queue.pop_front() {
        for &next in &dependents[task] {
            if !reached[next] {
                reached[next] = true;
                after.push(next);
                queue.push_back(next);
            }
        }
    }
    after.sort_unstable();
    after
}
