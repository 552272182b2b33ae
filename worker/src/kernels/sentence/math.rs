//! Element-wise pieces of the encoder, written as plain loops that vectorise, and compiled by `pulp` once for each
//! instruction set and chosen at run time.
//!
//! No fused multiply-add here: products and sums round the same on every machine.

use pulp::Arch;

/// Rows are taken in blocks of this many numbers: one AVX-512 register, two of AVX, four of NEON.
pub const LANES: usize = 16;

/// Adds `bias` to every row of `rows` and applies the exact (erf) GELU.
pub fn bias_gelu(rows: &mut [f32], bias: &[f32]) {
    Arch::new().dispatch(|| {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                *x = gelu(*x + b);
            }
        }
    });
}

/// `rows = LayerNorm(rows + bias + residual)`, row by row. `bias.len()` is a multiple of [`LANES`].
pub fn bias_residual_norm(rows: &mut [f32], bias: &[f32], residual: &[f32], norm: &Norm) {
    Arch::new().dispatch(|| {
        let width = bias.len();
        for (row, residual) in rows.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
            for ((x, b), r) in row.iter_mut().zip(bias).zip(residual) {
                *x += b + r;
            }
            norm.apply(row);
        }
    });
}

/// A layer norm over one row.
#[derive(Debug, Clone)]
pub struct Norm {
    pub gain: Vec<f32>,
    pub shift: Vec<f32>,
    pub epsilon: f32,
}

impl Norm {
    /// Normalises every row of `rows`.
    pub fn apply_rows(&self, rows: &mut [f32]) {
        Arch::new().dispatch(|| {
            for row in rows.chunks_exact_mut(self.gain.len()) {
                self.apply(row);
            }
        });
    }

    #[inline(always)]
    fn apply(&self, row: &mut [f32]) {
        let count = row.len() as f32;
        let mean = sum(row, |x| x) / count;
        let variance = sum(row, |x| (x - mean) * (x - mean)) / count;
        let scale = 1.0 / (variance + self.epsilon).sqrt();
        for ((x, gain), shift) in row.iter_mut().zip(&self.gain).zip(&self.shift) {
            *x = (*x - mean) * scale * gain + shift;
        }
    }
}

/// Gives the mean of the rows (`rows.len() / width` of them) in `out`, scaled to length 1. A zero mean stays zero.
pub fn mean_unit(rows: &[f32], out: &mut [f32]) {
    Arch::new().dispatch(|| {
        out.fill(0.0);
        for row in rows.chunks_exact(out.len()) {
            for (o, x) in out.iter_mut().zip(row) {
                *o += x;
            }
        }
        // The division by the number of rows cancels in the scaling.
        let length = sum(out, |x| x * x).sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        for o in out.iter_mut() {
            *o *= scale;
        }
    });
}

/// Sums `f(x)` over a row in [`LANES`] partial sums.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let (blocks, rest) = row.as_chunks::<LANES>();
    let mut partial = [0.0f32; LANES];
    for block in blocks {
        for (p, x) in partial.iter_mut().zip(block) {
            *p += f(*x);
        }
    }
    partial.iter().sum::<f32>() + rest.iter().map(|x| f(*x)).sum::<f32>()
}

/// `x * Phi(x)` with the normal distribution function.
#[inline(always)]
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// The error function as a rational minimax approximation on [-4, 4] (the one of Eigen and XLA), within 5e-7.
#[inline(always)]
fn erf(x: f32) -> f32 {
    // Beyond 4 the error function differs from 1 by less than half a unit in the last place.
    let x = x.clamp(-4.0, 4.0);
    let s = x * x;
    let mut p = -2.726_142_3e-10;
    for c in [2.770_681_4e-8, -2.101_024e-6, -5.692_506_5e-5, -7.349_906_3e-4, -2.954_6e-3, -1.609_603_3e-2] {
        p = p * s + c;
    }
    let mut q = -1.456_607_2e-5;
    for c in [-2.133_740_6e-4, -1.682_827e-3, -7.373_329_2e-3, -1.426_474e-2] {
        q = q * s + c;
    }
    x * p / q
}

/// `e^x` for `x <= 0` (as after subtracting the maximum of a softmax), relative error below 2e-7; 0 far below.
#[inline(always)]
pub fn exp_nonpositive(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to an integer, whose low bits are then those of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.max(-87.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the reduction is exact.
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * power
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn erf_stays_within_5e7_of_the_exact_function() {
        let worst = (-60_000..=60_000)
            .map(|i| i as f32 * 1e-4)
            .map(|x| (f64::from(erf(x)) - candle_core::cpu::erf::erf_f64(f64::from(x))).abs())
            .fold(0.0, f64::max);
        assert!(worst < 5e-7, "{worst}");
    }

    #[test]
    fn exp_of_nonpositive_numbers_has_a_relative_error_below_2e7() {
        for i in 0..=860_000 {
            let x = -(i as f32) * 1e-4;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp_nonpositive(x)) - exact).abs() / exact < 2e-7, "{x}");
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert!(exp_nonpositive(f32::MIN) < 1e-37);
    }

    #[test]
    fn gelu_of_rows_adds_the_bias_first() {
        let mut rows = vec![0.0, 1.0, -1.0, 2.0];
        bias_gelu(&mut rows, &[1.0, -1.0]);
        // Phi(1) = 0.841345: gelu(1), gelu(0), gelu(0), gelu(1).
        for (x, expected) in rows.iter().zip([0.841_345, 0.0, 0.0, 0.841_345]) {
            assert!((x - expected).abs() < 1e-6, "{rows:?}");
        }
    }

    #[test]
    fn norm_with_bias_and_residual_gives_mean_zero_and_variance_one() {
        let norm = Norm { gain: vec![1.0; 4], shift: vec![0.0; 4], epsilon: 0.0 };
        let mut rows = vec![1.0, 2.0, 3.0, 4.0];
        // 1+1+0, 2+1+0, 3+1+0, 4+1+4: 2, 3, 4, 9; mean 4.5, variance 7.25.
        bias_residual_norm(&mut rows, &[1.0; 4], &[0.0, 0.0, 0.0, 4.0], &norm);
        for (x, v) in rows.iter().zip([2.0f32, 3.0, 4.0, 9.0]) {
            assert!((x - (v - 4.5) / 7.25f32.sqrt()).abs() < 1e-6, "{rows:?}");
        }
    }

    #[test]
    fn mean_of_rows_has_length_one_and_zero_stays_zero() {
        let mut out = [9.0; 2];
        mean_unit(&[1.0, 0.0, 5.0, 8.0], &mut out);
        assert!((out[0] - 0.6).abs() < 1e-6 && (out[1] - 0.8).abs() < 1e-6, "{out:?}");
        mean_unit(&[0.0, 0.0], &mut out);
        assert_eq!(out, [0.0; 2]);
    }
}
