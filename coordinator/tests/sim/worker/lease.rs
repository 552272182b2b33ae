//! The worker's own view of its lease: it counts from the moment a heartbeat was sent, so that the worker always stops
//! before the coordinator gives its attempts to somebody else. A heartbeat waits for the answer to the one before it.

#[derive(Debug, Default)]
pub struct Lease {
    length_us: u64,
    interval_us: u64,
    valid_until: Option<u64>,
    next_beat: Option<u64>,
    sequence: u64,
    unanswered: Option<(u64, u64)>,
}

impl Lease {
    pub fn granted(&mut self, lease_ms: u32, interval_ms: u32, asked: u64) {
        self.length_us = u64::from(lease_ms.max(50)) * 1_000;
        self.interval_us = u64::from(interval_ms.max(1)) * 1_000;
        self.valid_until = Some(asked + self.length_us);
        self.next_beat = Some(asked + self.interval_us);
        self.unanswered = None;
    }

    pub fn link_lost(&mut self) {
        self.next_beat = None;
        self.unanswered = None;
    }

    pub fn beat_due(&self, now: u64) -> bool {
        self.next_beat().is_some_and(|at| at <= now)
    }

    fn next_beat(&self) -> Option<u64> {
        self.next_beat.filter(|_| self.unanswered.is_none())
    }

    pub fn beat(&mut self, now: u64) -> u64 {
        self.sequence += 1;
        self.next_beat = Some(now + self.interval_us);
        self.unanswered = Some((self.sequence, now));
        self.sequence
    }

    pub fn answered(&mut self, sequence: u64) {
        if let Some((_, sent)) = self.unanswered.take_if(|(waiting, _)| *waiting == sequence) {
            let until = sent + self.length_us;
            self.valid_until = Some(self.valid_until.map_or(until, |old| old.max(until)));
        }
    }

    pub fn expired(&self, now: u64) -> bool {
        self.valid_until.is_some_and(|until| until <= now)
    }

    pub fn forget(&mut self) {
        self.valid_until = None;
        self.link_lost();
    }

    pub fn next_wake(&self) -> Option<u64> {
        [self.next_beat(), self.valid_until].into_iter().flatten().min()
    }
}
