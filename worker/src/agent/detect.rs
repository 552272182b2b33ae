//! What this machine has: cores, memory, GPUs, within the limits that a container sets.

use std::{fs, num::NonZero, path::Path, process::Command};

use segue_proto::resources::{Gpu, Resources};

use super::machine::Machine;

/// What `nvidia-smi` is asked, in the order of the columns that [`listed`] reads.
const QUERY: [&str; 2] = ["--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits"];

/// Gives the cores, the memory and the GPUs that this process may use. Custom resources are never detected.
#[must_use]
pub fn detect() -> Machine {
    // Knows about cgroup quotas and the affinity mask.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let visible = std::env::var(super::devices::CUDA).ok();
    let capacity = Resources {
        cpu_milli: u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000),
        memory_bytes: memory(),
        ..Resources::default()
    };
    Machine::new(capacity, visible_ones(&installed(), visible.as_deref()))
}

fn memory() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_memory(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        // `max` in the second version of cgroups, a huge number in the first: both mean none.
        .filter_map(|text| text.trim().parse::<u64>().ok());
    machine.into_iter().chain(limits).min().unwrap_or(0)
}

/// Reads MemTotal, in bytes, out of /proc/meminfo.
fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A GPU as the driver names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Installed {
    index: u32,
    uuid: String,
    memory_bytes: u64,
    name: String,
}

/// Lists the GPUs of this machine. Asking costs a process, so only where a driver is.
fn installed() -> Vec<Installed> {
    let driver = fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.flatten().count());
    if driver == 0 && !Path::new("/dev/nvidiactl").exists() {
        return Vec::new();
    }
    let answer = Command::new("nvidia-smi").args(QUERY).output().map(|output| output.stdout).unwrap_or_default();
    let found = listed(&String::from_utf8_lossy(&answer));
    if !found.is_empty() {
        return found;
    }
    // The tool is not in every container: the devices are there all the same, only nothing is known of them.
    let unknown = |index| Installed { index, uuid: String::new(), memory_bytes: 0, name: String::new() };
    (0..u32::try_from(driver).unwrap_or(0)).map(unknown).collect()
}

/// Reads what `nvidia-smi` answers: a line for each GPU, memory in MiB.
fn listed(answer: &str) -> Vec<Installed> {
    let one = |line: &str| {
        let mut columns = line.splitn(4, ',').map(str::trim);
        Some(Installed {
            index: columns.next()?.parse().ok()?,
            uuid: columns.next()?.to_owned(),
            // Some devices share the memory of the machine and answer `[N/A]`.
            memory_bytes: columns.next()?.parse::<u64>().unwrap_or(0).saturating_mul(1 << 20),
            name: columns.next()?.to_owned(),
        })
    };
    answer.lines().filter_map(one).collect()
}

/// Gives the GPUs that CUDA_VISIBLE_DEVICES leaves of these, in its order and up to its first invalid entry as CUDA does.
/// One that it names in another way, such as a slice of a GPU, is there and unknown.
fn visible_ones(installed: &[Installed], variable: Option<&str>) -> Vec<Gpu> {
    let gpu = |position: usize, found: Option<&Installed>| Gpu {
        index: u32::try_from(position).unwrap_or(u32::MAX),
        memory_bytes: found.map_or(0, |found| found.memory_bytes),
        name: found.map(|found| found.name.clone()).unwrap_or_default(),
    };
    let Some(variable) = variable.filter(|_| !installed.is_empty()) else {
        return installed.iter().enumerate().map(|(position, found)| gpu(position, Some(found))).collect();
    };
    let mut seen = Vec::new();
    for entry in variable.split(',').map(str::trim) {
        let by_index = entry.parse::<u32>().ok();
        let found = installed.iter().find(|one| match by_index {
            Some(index) => one.index == index,
            None => !entry.is_empty() && one.uuid.starts_with(entry),
        });
        let slice = found.is_none() && entry.starts_with("MIG-");
        if found.is_none() && !slice {
            break;
        }
        seen.push(gpu(seen.len(), found));
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "0, GPU-8932f937-d72c, 143771, NVIDIA H200\n1, GPU-11111111-aaaa, 81559, NVIDIA H100, SXM\n";

    fn indices_and_gib(variable: Option<&str>) -> Vec<(u32, u64)> {
        visible_ones(&listed(ANSWER), variable).iter().map(|gpu| (gpu.index, gpu.memory_bytes >> 30)).collect()
    }

    #[test]
    fn this_machine_has_at_least_a_core_and_some_memory() {
        let found = detect().capacity;
        assert!(found.cpu_milli >= 1000);
        assert!(found.memory_bytes > 0);
    }

    #[test]
    fn visible_devices_are_taken_in_their_order_up_to_the_first_invalid_one() {
        assert_eq!(indices_and_gib(None), [(0, 140), (1, 79)]);
        assert_eq!(indices_and_gib(Some("")), []);
        assert_eq!(indices_and_gib(Some("-1")), []);
        assert_eq!(indices_and_gib(Some("1,0")), [(0, 79), (1, 140)]);
        assert_eq!(indices_and_gib(Some("GPU-1111, 7, 0")), [(0, 79)]);
        assert_eq!(indices_and_gib(Some("MIG-0b5e,0")), [(0, 0), (1, 140)]);
        assert!(visible_ones(&[], Some("0,1")).is_empty(), "what is not there cannot be made visible");
    }

    #[test]
    fn memory_and_gpus_are_read_from_what_the_system_prints() {
        assert_eq!(total_memory("MemTotal:       16303428 kB\nMemFree: 1 kB\n"), Some(16_303_428 * 1024));
        assert_eq!(total_memory("garbage"), None);
        let found = listed(ANSWER);
        assert_eq!((found[0].memory_bytes, found[0].name.as_str()), (143_771 << 20, "NVIDIA H200"));
        assert_eq!(found[1].name, "NVIDIA H100, SXM");
        assert_eq!(listed("0, GPU-1, [N/A], NVIDIA GB10")[0].memory_bytes, 0);
        assert!(listed("No devices were found").is_empty());
    }
}
