//! Typed amounts: what a worker has, what a task takes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Amounts of cpu, memory, GPUs and custom resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu_milli: u32,
    pub memory_bytes: u64,
    /// Thousandths of a GPU.
    pub gpu_milli: u32,
    /// On each GPU; in a capacity, of the smallest one.
    pub gpu_memory_bytes: u64,
    /// In a lease: which GPUs of the worker, by index.
    pub devices: Vec<u32>,
    pub custom: BTreeMap<String, u64>,
}

impl Resources {
    /// Says whether `needs` fits into these amounts, GPUs counted in all: which device has room is another question.
    #[must_use]
    pub fn fits(&self, needs: &Self) -> bool {
        needs.cpu_milli <= self.cpu_milli
            && needs.memory_bytes <= self.memory_bytes
            && needs.gpu_milli <= self.gpu_milli
            && needs.custom.iter().all(|(name, amount)| self.custom.get(name).copied().unwrap_or(0) >= *amount)
    }

    /// Takes `other` away; `None` where it does not fit.
    #[must_use]
    pub fn checked_sub(&self, other: &Self) -> Option<Self> {
        if !self.fits(other) {
            return None;
        }
        let mut left = self.clone();
        left.cpu_milli -= other.cpu_milli;
        left.memory_bytes -= other.memory_bytes;
        left.gpu_milli -= other.gpu_milli;
        for (name, amount) in &other.custom {
            if let Some(have) = left.custom.get_mut(name) {
                *have -= amount;
            }
        }
        Some(left)
    }

    /// Adds `other`.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.clone();
        sum.cpu_milli = sum.cpu_milli.saturating_add(other.cpu_milli);
        sum.memory_bytes = sum.memory_bytes.saturating_add(other.memory_bytes);
        sum.gpu_milli = sum.gpu_milli.saturating_add(other.gpu_milli);
        for (name, amount) in &other.custom {
            let have = sum.custom.entry(name.clone()).or_default();
            *have = have.saturating_add(*amount);
        }
        sum
    }
}

/// How a task stands to GPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuPreference {
    #[default]
    None,
    /// A GPU worker when one is registered, any other when none is.
    Prefer,
    Require,
}

/// Thousandths of one GPU.
pub const WHOLE_GPU: u32 = 1_000;

/// A GPU of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// As in `CUDA_VISIBLE_DEVICES`.
    pub index: u32,
    /// 0: unknown, which no task that asks for memory fits.
    pub memory_bytes: u64,
    pub name: String,
}
