//! What a worker offers: amounts, and the GPUs behind them.

use segue_proto::resources::{Gpu, Resources, WHOLE_GPU};

/// Amounts and devices of one machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its GPUs in all, and the memory of the smallest one.
    pub capacity: Resources,
    /// In the order in which this process sees them.
    pub gpus: Vec<Gpu>,
}

impl Machine {
    /// Makes a machine with these GPUs; the amounts of `capacity` that count GPUs are derived from them.
    #[must_use]
    pub fn new(capacity: Resources, gpus: Vec<Gpu>) -> Self {
        Self { capacity, gpus: Vec::new() }.with_gpus(gpus)
    }

    /// Offers so many GPUs: the first of those that are known, and unknown ones after them.
    #[must_use]
    pub fn gpu_count(mut self, count: u32) -> Self {
        let mut gpus = std::mem::take(&mut self.gpus);
        gpus.truncate(count as usize);
        let unknown = |index| Gpu { index, memory_bytes: 0, name: String::new() };
        gpus.extend((u32::try_from(gpus.len()).unwrap_or(count)..count).map(unknown));
        self.with_gpus(gpus)
    }

    /// Says how much memory each GPU has, where it is not what was found.
    #[must_use]
    pub fn gpu_memory(mut self, bytes: u64) -> Self {
        let mut gpus = std::mem::take(&mut self.gpus);
        for gpu in &mut gpus {
            gpu.memory_bytes = bytes;
        }
        self.with_gpus(gpus)
    }

    fn with_gpus(mut self, gpus: Vec<Gpu>) -> Self {
        let count = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        self.capacity.gpu_milli = WHOLE_GPU.saturating_mul(count);
        self.capacity.gpu_memory_bytes = gpus.iter().map(|gpu| gpu.memory_bytes).min().unwrap_or(0);
        self.gpus = gpus;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(index: u32, gib: u64) -> Gpu {
        Gpu { index, memory_bytes: gib << 30, name: "H200".into() }
    }

    #[test]
    fn the_amounts_follow_from_the_devices() {
        let machine =
            Machine::new(Resources { cpu_milli: 4_000, ..Resources::default() }, vec![gpu(0, 141), gpu(1, 80)]);
        assert_eq!((machine.capacity.gpu_milli, machine.capacity.gpu_memory_bytes), (2_000, 80 << 30));
        assert_eq!(machine.capacity.cpu_milli, 4_000);
    }

    #[test]
    fn fewer_are_the_first_ones_and_more_are_unknown() {
        let machine = Machine::new(Resources::default(), vec![gpu(0, 141), gpu(1, 80)]);
        let fewer = machine.clone().gpu_count(1);
        assert_eq!((fewer.capacity.gpu_milli, fewer.capacity.gpu_memory_bytes), (1_000, 141 << 30));
        let more = machine.gpu_count(3);
        assert_eq!(more.gpus[2], Gpu { index: 2, memory_bytes: 0, name: String::new() });
        assert_eq!(more.capacity.gpu_memory_bytes, 0, "what is unknown promises nothing");
        assert_eq!(more.gpu_memory(24 << 30).capacity.gpu_memory_bytes, 24 << 30);
    }

    #[test]
    fn without_gpus_there_is_no_memory_on_them() {
        let machine = Machine::new(Resources::default(), vec![gpu(0, 141)]).gpu_count(0).gpu_memory(1 << 30);
        assert_eq!((machine.capacity.gpu_milli, machine.capacity.gpu_memory_bytes), (0, 0));
    }
}
