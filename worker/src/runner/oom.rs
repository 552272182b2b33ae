//! Evidence that the kernel killed something for memory.

use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How old a count may be where it is only compared with a later one. Reading it costs as much as a short task.
const FRESH: Duration = Duration::from_secs(1);

/// The last count and its time.
static LAST: Mutex<Option<(Instant, u64)>> = Mutex::new(None);

/// Counts the kills for memory so far: those of our control group where it tells, those of the machine otherwise.
pub fn kills() -> u64 {
    let count = count();
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), count));
    count
}

/// Gives the count before a job, at most a second old.
pub fn kills_before() -> u64 {
    let last = *LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match last {
        Some((at, count)) if at.elapsed() < FRESH => count,
        _ => kills(),
    }
}

fn count() -> u64 {
    let own_group = || {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
        counter(&fs::read_to_string(format!("/sys/fs/cgroup{}/memory.events", path.trim_end_matches('/'))).ok()?)
    };
    let container = || counter(&fs::read_to_string("/sys/fs/cgroup/memory.events").ok()?);
    let first_version = || counter(&fs::read_to_string("/sys/fs/cgroup/memory/memory.oom_control").ok()?);
    let machine = || counter(&fs::read_to_string("/proc/vmstat").ok()?);
    own_group().or_else(container).or_else(first_version).or_else(machine).unwrap_or(0)
}

fn counter(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read_from_every_format() {
        assert_eq!(counter("low 0\noom 3\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(counter("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), Some(1));
        assert_eq!(counter("nothing"), None);
    }
}
