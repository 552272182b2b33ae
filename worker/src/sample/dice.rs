//! Random draws whose results never change: everything is made here from the bits of one small generator.

use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{RngCore, SeedableRng},
};

/// A seeded source of draws.
#[derive(Debug, Clone)]
pub struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// Starts a stream of draws. Streams of one seed with different `purpose` are independent.
    pub fn new(seed: u64, purpose: u64) -> Self {
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// Draws from `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Says yes with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Draws from `0..n`; 0 if `n` is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Picks one of some values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    /// Draws a waiting time with mean 1.
    pub fn exponential(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// Draws from the normal distribution (Box and Muller).
    pub fn normal(&mut self) -> f64 {
        (2.0 * self.exponential()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Draws from the log-normal distribution with median 1.
    pub fn spread(&mut self, sigma: f64) -> f64 {
        (sigma * self.normal()).exp()
    }

    /// Draws from the gamma distribution with mean `shape`, for shapes of 1 and above (Marsaglia and Tsang, 2000).
    pub fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape.max(1.0) - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.unit().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(mut draw: impl FnMut(&mut Dice) -> f64) -> f64 {
        let mut dice = Dice::new(7, 1);
        (0..100_000).map(|_| draw(&mut dice)).sum::<f64>() / 100_000.0
    }

    #[test]
    fn draws_have_the_means_they_should() {
        assert!((mean(Dice::unit) - 0.5).abs() < 0.01);
        assert!((mean(Dice::exponential) - 1.0).abs() < 0.02);
        assert!(mean(Dice::normal).abs() < 0.02);
        assert!((mean(|dice| dice.normal().powi(2)) - 1.0).abs() < 0.03);
        assert!((mean(|dice| dice.gamma(4.0)) - 4.0).abs() < 0.05);
        assert!((mean(|dice| dice.below(5) as f64) - 2.0).abs() < 0.02);
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |purpose| Dice::new(1, purpose).unit().to_bits();
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
