//! What a job costs in cpu time and memory, measured inside the runner.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt as _,
};

use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};

use super::frame::JobUsage;

/// Longest text that is read from the system's account of this process.
const STATUS_BYTES: usize = 4096;

/// Measures the operators that run in this process, one after the other. The system's files stay open: opening them
/// costs more than a short operator.
#[derive(Debug)]
pub struct Meter {
    marks: Option<File>,
    status: Option<File>,
    cpu_us: u64,
}

impl Meter {
    /// Makes a meter for this process.
    pub fn open() -> Self {
        Self {
            marks: OpenOptions::new().write(true).open("/proc/self/clear_refs").ok(),
            status: File::open("/proc/self/status").ok(),
            cpu_us: 0,
        }
    }

    /// Starts to measure: notes the cpu time and resets the memory mark of the process, where the system allows it.
    pub fn start(&mut self) {
        // 5 resets VmHWM to what is resident now. Without the right the peak is that of the whole life of the runner.
        let _ = self.marks.as_ref().map(|marks| marks.write_at(b"5", 0));
        self.cpu_us = cpu_us(UsageWho::RUSAGE_SELF);
    }

    /// Gives the cost since the start.
    pub fn stop(&self) -> JobUsage {
        JobUsage {
            cpu_ms: cpu_us(UsageWho::RUSAGE_SELF).saturating_sub(self.cpu_us) / 1000,
            peak_memory_bytes: self.high_water_mark().unwrap_or(0),
        }
    }

    fn high_water_mark(&self) -> Option<u64> {
        let mut buffer = [0; STATUS_BYTES];
        let length = self.status.as_ref()?.read_at(&mut buffer, 0).ok()?;
        let status = str::from_utf8(&buffer[..length]).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
}

/// Gives the cpu time of every child that was waited for so far, in microseconds.
pub fn cpu_us_of_children() -> u64 {
    cpu_us(UsageWho::RUSAGE_CHILDREN)
}

fn cpu_us(who: UsageWho) -> u64 {
    let microseconds = |time: TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
    getrusage(who).map_or(0, |usage| {
        u64::try_from(microseconds(usage.user_time()) + microseconds(usage.system_time())).unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_fills_memory_is_seen_to_do_so() {
        let mut meter = Meter::open();
        meter.start();
        let filled = std::hint::black_box(vec![1_u8; 64 << 20]);
        let usage = meter.stop();
        assert!(usage.peak_memory_bytes >= filled.len() as u64, "{usage:?}");
    }
}
