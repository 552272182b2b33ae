//! How much memory a job takes, and whether that is too much.
//!
//! Control groups would do this in the kernel, but most workers run where they may not make any. So the processes are looked
//! at often enough that a program that grows is caught, and the kernel stays the last resort for one that takes
//! everything between two looks.

use std::{fs, time::Duration};

use nix::unistd::Pid;

/// Between two looks at the memory of a job.
pub const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Processes of one job that are counted: far more than any has.
const MOST: usize = 100_000;

/// Whose memory is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The process and everything under it.
    Tree,
    /// Only what is under it.
    Children,
}

/// Adds up the memory that processes have for themselves, in bytes: what is shared with others or can be read again from
/// files does not count. Processes that end meanwhile count nothing.
#[must_use]
pub fn own_bytes(root: Pid, of: Of) -> u64 {
    let mut sum = 0;
    let mut waiting = vec![root];
    let mut seen = 0;
    while let Some(pid) = waiting.pop() {
        seen += 1;
        if seen > MOST {
            break;
        }
        if pid != root || of == Of::Tree {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            sum += anonymous(&text).unwrap_or(0);
        }
        waiting.extend(children(pid));
    }
    sum
}

/// Reads the resident memory that no file stands behind, in bytes, out of /proc/PID/status.
fn anonymous(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// Lists the children of a process.
pub fn children(parent: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_does_not_count() {
        assert_eq!(anonymous("VmRSS:\t    1712 kB\nRssAnon:\t      92 kB\nRssFile:\t    1620 kB\n"), Some(92 * 1_024));
        assert_eq!(anonymous(""), None);
        assert_eq!(anonymous("RssAnon: much"), None);
    }

    #[test]
    fn this_process_has_memory_of_its_own_and_one_that_is_not_there_has_none() {
        let held = vec![1_u8; 8 << 20];
        assert!(own_bytes(Pid::this(), Of::Tree) >= held.iter().map(|byte| u64::from(*byte)).sum());
        assert_eq!(own_bytes(Pid::from_raw(i32::MAX), Of::Tree), 0);
    }
}
