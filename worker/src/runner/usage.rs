//! What a job costs in cpu time and memory, measured inside the runner.

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

use super::frame::JobUsage;

/// Measures an operator that runs in this process.
#[derive(Debug)]
pub struct Meter {
    cpu_ms: u64,
}

impl Meter {
    /// Starts to measure: notes the cpu time and resets the memory mark of the process, where the system allows it.
    pub fn start() -> Self {
        // 5 resets VmHWM to what is resident now. Without the right the peak is that of the whole life of the runner.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        Self { cpu_ms: cpu_ms(UsageWho::RUSAGE_SELF) }
    }

    /// Gives the cost since the start.
    pub fn stop(&self) -> JobUsage {
        JobUsage {
            cpu_ms: cpu_ms(UsageWho::RUSAGE_SELF).saturating_sub(self.cpu_ms),
            peak_memory_bytes: high_water_mark().unwrap_or(0),
        }
    }
}

/// Gives the cost of every child that was waited for: of the one command, in a runner that supervises a command.
pub fn of_children() -> JobUsage {
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0, |usage| usage.max_rss());
    JobUsage {
        cpu_ms: cpu_ms(UsageWho::RUSAGE_CHILDREN),
        peak_memory_bytes: u64::try_from(peak).unwrap_or(0).saturating_mul(1024),
    }
}

fn cpu_ms(who: UsageWho) -> u64 {
    let milliseconds = |time: TimeVal| time.tv_sec() * 1000 + time.tv_usec() / 1000;
    getrusage(who).map_or(0, |usage| {
        u64::try_from(milliseconds(usage.user_time()) + milliseconds(usage.system_time())).unwrap_or(0)
    })
}

fn high_water_mark() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_fills_memory_is_seen_to_do_so() {
        let meter = Meter::start();
        let filled = std::hint::black_box(vec![1_u8; 64 << 20]);
        let usage = meter.stop();
        assert!(usage.peak_memory_bytes >= filled.len() as u64, "{usage:?}");
    }
}
