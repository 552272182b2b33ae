//! What this machine has: cores, memory, GPUs, within the limits that a container sets.

use std::{fs, num::NonZero, path::Path, process::Command};

use segue_proto::resources::{Resources, WHOLE_GPU};

/// Gives the cores, the memory and the GPUs that this process may use. Custom resources are never detected.
#[must_use]
pub fn detect() -> Resources {
    // Knows about cgroup quotas and the affinity mask.
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
    Resources {
        cpu_milli: u32::try_from(cores).unwrap_or(u32::MAX).saturating_mul(1000),
        memory_bytes: memory(),
        gpu_milli: WHOLE_GPU.saturating_mul(match visible.as_deref().map(visible_gpus) {
            Some(0) => 0,
            Some(visible) => visible.min(installed_gpus()),
            None => installed_gpus(),
        }),
        ..Resources::default()
    }
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

/// Counts the entries of CUDA_VISIBLE_DEVICES, up to the first invalid one as CUDA does.
fn visible_gpus(variable: &str) -> u32 {
    let valid = |entry: &&str| !entry.is_empty() && !entry.starts_with('-');
    let count = variable.split(',').map(str::trim).take_while(valid).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn installed_gpus() -> u32 {
    if let Ok(entries) = fs::read_dir("/proc/driver/nvidia/gpus") {
        return u32::try_from(entries.flatten().count()).unwrap_or(u32::MAX);
    }
    // Inside some containers only the tool is there. Asking costs a process, so only where a device is.
    if !Path::new("/dev/nvidiactl").exists() {
        return 0;
    }
    let listing = Command::new("nvidia-smi").arg("-L").output().map(|output| output.stdout).unwrap_or_default();
    listed_gpus(&String::from_utf8_lossy(&listing))
}

/// Counts the GPUs that `nvidia-smi -L` lists; MIG slices are indented and belong to one of them.
fn listed_gpus(listing: &str) -> u32 {
    u32::try_from(listing.lines().filter(|line| line.starts_with("GPU ")).count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_at_least_a_core_and_some_memory() {
        let found = detect();
        assert!(found.cpu_milli >= 1000);
        assert!(found.memory_bytes > 0);
    }

    #[test]
    fn visible_devices_are_counted_up_to_the_first_invalid_one() {
        assert_eq!(visible_gpus(""), 0);
        assert_eq!(visible_gpus("-1"), 0);
        assert_eq!(visible_gpus("0,1"), 2);
        assert_eq!(visible_gpus("GPU-8932f937, 3,-1,2"), 2);
    }

    #[test]
    fn memory_and_gpus_are_read_from_what_the_system_prints() {
        assert_eq!(total_memory("MemTotal:       16303428 kB\nMemFree: 1 kB\n"), Some(16_303_428 * 1024));
        assert_eq!(total_memory("garbage"), None);
        assert_eq!(
            listed_gpus(
                "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\nGPU 1: NVIDIA H200\n"
            ),
            2
        );
    }
}
