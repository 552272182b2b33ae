//! "Buy till you die": what a customer's order history alone says about orders and spend to come.
//!
//! [`BgNbd`] models when customers buy and when they stop, [`GammaGamma`] how much they spend per purchase.
//! Their product is the baseline that a learned model has to beat.

mod bgnbd;
mod gamma_gamma;
mod optimise;

pub use bgnbd::{BgNbd, History};
pub use gamma_gamma::{GammaGamma, Spend};

/// Computes the natural logarithm of the gamma function for `x > 0`, to about 1e-14 relative.
///
/// Shifts the argument above 10 and uses Stirling's series (Abramowitz and Stegun 6.1.41).
///
/// Gamma(5) is 4! = 24, and Gamma(1/2) is the root of pi (asserted in the tests).
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 1.0);
    while x < 10.0 {
        shift *= x;
        x += 1.0;
    }
    let r = 1.0 / (x * x);
    let series = (1.0 / 12.0 - r * (1.0 / 360.0 - r * (1.0 / 1260.0 - r * (1.0 / 1680.0 - r / 1188.0)))) / x;
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - f64::ln(shift)
}

#[cfg(test)]
mod tests {
    use super::ln_gamma;

    #[test]
    fn the_gamma_function_continues_the_factorial() {
        assert!((ln_gamma(5.0) - 24.0_f64.ln()).abs() < 1e-13);
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-13);
        assert!(ln_gamma(1.0).abs() < 1e-13);
        assert!((ln_gamma(171.0) - 706.573_062_245_787_4).abs() < 1e-9);
        // Gamma(x) is about 1 / x near 0.
        assert!((ln_gamma(1e-9) - 1e9_f64.ln()).abs() < 1e-8);
    }
}
