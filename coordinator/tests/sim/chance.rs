//! Seeded draws. Each part of the simulation has a stream of its own, so that a change of one leaves the others as they are.

/// A stream of draws.
#[derive(Debug, Clone)]
pub struct Chance(u64);

/// Mixes the bits of a number: the finaliser of splitmix64.
pub const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Chance {
    /// Gives the stream of a part.
    pub fn of(seed: u64, part: &str) -> Self {
        let name =
            part.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Self(mix(seed ^ mix(name)))
    }

    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Draws from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// Says yes in so many of a hundred cases.
    pub fn percent(&mut self, cases: u64) -> bool {
        self.next() % 100 < cases
    }

    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or(0)
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// Draws a time between two, small ones more often: what networks and disks are like.
    pub fn delay_us(&mut self, least: u64, most: u64) -> u64 {
        let (a, b, c) = (self.between(least, most), self.between(least, most), self.between(least, most));
        a.min(b).min(c)
    }
}
