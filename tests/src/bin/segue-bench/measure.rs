//! What is read from the machine: the memory of processes, the disk, and the numbers that stand for many.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use nix::unistd::Pid;
use serde_json::{Value, json};

/// Writes of the probe of the disk, and the bytes of each.
const PROBES: usize = 200;
const PROBE_BYTES: usize = 4_096;

/// Gives the smallest of the values that `share` of all do not exceed; `None` of none.
pub fn percentile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Gives what each step took on average, in windows of `width` successive steps. `times` are sorted.
pub fn steps(times: &[f64], width: usize) -> Vec<f64> {
    let width = width.clamp(1, times.len().saturating_sub(1).max(1));
    times.windows(width + 1).map(|window| (window[width] - window[0]) / width as f64).collect()
}

/// Gives the milliseconds since 1970.
pub fn unix_ms() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1_000.0)
}

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// The most since its start, or since [`reset_peak`].
    pub peak: u64,
}

/// Reads the memory of a process; zeros of one that is gone.
pub fn memory(pid: Pid) -> Memory {
    fs::read_to_string(format!("/proc/{pid}/status")).map(|status| memory_of(&status)).unwrap_or_default()
}

fn memory_of(status: &str) -> Memory {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Memory { resident: field("VmRSS:").unwrap_or(0), peak: field("VmHWM:").unwrap_or(0) }
}

/// Lets the peak of a process start again from what it has now. Where the kernel does not offer that, the peak is of its
/// whole life.
pub fn reset_peak(pid: Pid) {
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// What the figures depend on.
#[derive(Debug, Clone)]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    /// Processes that wanted to run in the last minute, before the bench.
    pub load: f64,
    pub file_system: String,
    /// Milliseconds of one write of 4 KiB with fdatasync, half and 99 of 100.
    pub flush: (f64, f64),
}

impl Machine {
    /// Looks at this machine and at the disk of `dir`.
    ///
    /// # Errors
    /// If `dir` cannot be written.
    pub fn look(dir: &Path) -> io::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
        let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
        let dir = fs::canonicalize(dir)?;
        let times = flush_times(&dir)?;
        let share = |share| percentile(&times, share).unwrap_or(0.0);
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: processor.unwrap_or_else(|| "unknown processor".to_owned()),
            load: load.unwrap_or(0.0),
            file_system: file_system(&dir, &read("/proc/self/mounts")).unwrap_or_else(|| "unknown".to_owned()),
            flush: (share(0.5), share(0.99)),
        })
    }

    /// Gives it to scripts.
    pub fn json(&self) -> Value {
        json!({
            "cores": self.cores,
            "processor": self.processor,
            "load": self.load,
            "file_system": self.file_system,
            "flush_ms": { "p50": self.flush.0, "p99": self.flush.1 },
        })
    }
}

/// Finds the type of the file system that holds `dir`, in the words of /proc/self/mounts.
fn file_system(dir: &Path, mounts: &str) -> Option<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?.replace("\\040", " ");
            Some((place, fields.next()?))
        })
        .filter(|(place, _)| dir.starts_with(place))
        // The last of equal ones hides the others.
        .max_by_key(|(place, _)| place.len())
        .map(|(_, kind)| kind.to_owned())
}

/// Times what every commit has to pay for at least.
fn flush_times(dir: &Path) -> io::Result<Vec<f64>> {
    let path = dir.join("flush-probe");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(PROBES);
    for _ in 0..PROBES {
        let start = Instant::now();
        file.write_all(&[7; PROBE_BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(path)?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(50.0));
        assert_eq!(percentile(&values, 0.99), Some(99.0));
        assert_eq!(percentile(&[3.0, 9.0, 4.0], 0.5), Some(4.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn steps_in_windows_are_finer_than_the_clock() {
        // Steps of 1.5 ms, read from a clock of whole milliseconds.
        let times: Vec<f64> = (0..21).map(|step| (f64::from(step) * 1.5).floor()).collect();
        assert!(steps(&times, 1).iter().all(|step| [1.0, 2.0].contains(step)));
        assert!(steps(&times, 10).iter().all(|step| (step - 1.5).abs() < 1e-9));
        assert_eq!(steps(&[5.0, 8.0], 10), [3.0], "a short chain has one window");
        assert!(steps(&[5.0], 10).is_empty());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tsegue\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(memory_of(status), Memory { resident: 1 << 20, peak: 2 << 20 });
        assert_eq!(memory_of("Name:\tgone\n"), Memory::default());
    }

    #[test]
    fn the_closest_mount_tells_the_file_system() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/my\\040disk xfs rw 0 0\n";
        let kind = |dir: &str| file_system(Path::new(dir), mounts);
        assert_eq!(kind("/home/x").as_deref(), Some("ext4"));
        assert_eq!(kind("/tmp/x").as_deref(), Some("tmpfs"));
        assert_eq!(kind("/tmpx").as_deref(), Some("ext4"));
        assert_eq!(kind("/tmp/my disk/x").as_deref(), Some("xfs"));
    }
}
