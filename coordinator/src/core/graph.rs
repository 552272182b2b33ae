//! What follows from the edges of a spec alone: who waits for whom, how long the way to an end is.

use std::sync::Arc;

use super::run::count;
use crate::spec::{BoundTask, RunSpec};

/// Edges both ways, by index of the task.
#[derive(Debug, Clone, Default)]
pub(super) struct Graph {
    /// What each task waits for, each once, sorted.
    pub needs: Vec<Vec<u32>>,
    /// Who waits for each task.
    pub dependants: Vec<Vec<u32>>,
    /// Number of tasks on the longest path from each task to an end, itself included.
    pub remaining: Vec<u32>,
    /// Indices in the order of the names.
    by_name: Vec<u32>,
    /// `finally` tasks.
    pub finally: Vec<u32>,
    /// Address of the spec that this was made from: specs are shared and never change.
    spec: usize,
}

impl Graph {
    /// Derives the graph of a spec.
    pub fn of(spec: &Arc<RunSpec>) -> Self {
        let n = spec.tasks.len();
        let needs: Vec<Vec<u32>> =
            spec.tasks.iter().map(BoundTask::needs).map(|needs| needs.into_iter().map(count).collect()).collect();
        let mut dependants = vec![Vec::new(); n];
        for (task, needed) in needs.iter().enumerate() {
            for &need in needed {
                dependants[need as usize].push(count(task));
            }
        }
        // Kahn's order backwards gives the longest path to an end; the checker has excluded cycles.
        let mut left: Vec<usize> = dependants.iter().map(Vec::len).collect();
        let mut stack: Vec<usize> = (0..n).filter(|&task| left[task] == 0).collect();
        let mut remaining = vec![1_u32; n];
        while let Some(task) = stack.pop() {
            for need in needs[task].iter().map(|&need| need as usize) {
                remaining[need] = remaining[need].max(remaining[task] + 1);
                left[need] -= 1;
                if left[need] == 0 {
                    stack.push(need);
                }
            }
        }
        let mut by_name: Vec<u32> = (0..count(n)).collect();
        by_name.sort_unstable_by_key(|&task| &spec.tasks[task as usize].name);
        let finally = (0..count(n)).filter(|&task| spec.tasks[task as usize].flow.finally).collect();
        Self { needs, dependants, remaining, by_name, finally, spec: Arc::as_ptr(spec) as usize }
    }

    /// Says whether it was made from this very spec.
    pub fn is_of(&self, spec: &Arc<RunSpec>) -> bool {
        self.spec == Arc::as_ptr(spec) as usize && self.needs.len() == spec.tasks.len()
    }

    /// Finds a task by name.
    pub fn find(&self, spec: &RunSpec, name: &str) -> Option<u32> {
        self.by_name
            .binary_search_by(|&task| spec.tasks[task as usize].name.as_str().cmp(name))
            .ok()
            .map(|at| self.by_name[at])
    }

    /// Marks what comes after the given tasks, themselves included.
    pub fn downstream(&self, of: impl IntoIterator<Item = usize>) -> Vec<bool> {
        let mut reached = vec![false; self.needs.len()];
        let mut stack: Vec<usize> = of.into_iter().collect();
        while let Some(task) = stack.pop() {
            if !std::mem::replace(&mut reached[task], true) {
                stack.extend(self.dependants[task].iter().map(|&next| next as usize));
            }
        }
        reached
    }
}
