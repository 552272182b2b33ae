//! What happened, step by step: a digest that two runs of a seed must share, and lines for people on a replay.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::{chance::mix, clockwork};

/// Lines that are kept for the report of a failure.
const KEPT: usize = 60;

#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    digest: AtomicU64,
    steps: AtomicU64,
    aloud: AtomicBool,
    last: Mutex<std::collections::VecDeque<String>>,
}

impl Trace {
    pub fn new(aloud: bool) -> Self {
        let trace = Self::default();
        trace.0.aloud.store(aloud, Relaxed);
        trace
    }

    /// Adds numbers to the digest, without a line: for what is too much to read.
    pub fn count(&self, numbers: &[u64]) {
        let mut digest = self.0.digest.load(Relaxed);
        for number in numbers {
            digest = mix(digest.rotate_left(7) ^ number);
        }
        digest = mix(digest ^ clockwork::now_us());
        self.0.digest.store(digest, Relaxed);
        self.0.steps.fetch_add(1, Relaxed);
    }

    /// Adds a line.
    pub fn say(&self, who: &str, what: std::fmt::Arguments<'_>) {
        let now = clockwork::now_us();
        let line = format!("{:>6}.{:03} {who:<12} {what}", now / 1_000_000, now / 1_000 % 1_000);
        self.count(&[line.bytes().fold(0, |h, b| mix(h ^ u64::from(b)))]);
        if self.0.aloud.load(Relaxed) {
            eprintln!("{line}");
        } else {
            let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(line);
        }
    }

    pub fn digest(&self) -> u64 {
        self.0.digest.load(Relaxed)
    }

    pub fn steps(&self) -> u64 {
        self.0.steps.load(Relaxed)
    }
}

/// Adds a line to a trace.
#[macro_export]
macro_rules! say {
    ($trace:expr, $who:expr, $($what:tt)*) => { $trace.say($who.as_ref(), format_args!($($what)*)) };
}
