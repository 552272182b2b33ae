//! BG/NBD: purchases come at random at a customer's own rate until, after some purchase, the customer leaves for good.

use super::{super::KernelError, ln_gamma, optimise::minimise};

/// What the model needs to know of a customer. Times share one unit (days, weeks).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct History {
    /// Purchases after the first one.
    pub repeats: u32,
    /// Time from the first to the last purchase; 0 without repeats.
    pub last: f64,
    /// Time from the first purchase to now.
    pub age: f64,
}

/// The fitted model. Purchase rates are gamma distributed (shape `r`, rate `alpha`); the chance to leave after a purchase is
/// beta distributed (`a`, `b`).
///
/// Source: Fader, Hardie and Lee, "Counting your customers the easy way", Marketing Science 24 (2005), 275-284.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BgNbd {
    pub r: f64,
    /// In the unit of the times.
    pub alpha: f64,
    pub a: f64,
    pub b: f64,
}

/// Parameters are searched between e^-12 and e^12: where the likelihood has no maximum, the end is still finite.
const LOG_BOUND: f64 = 12.0;

impl BgNbd {
    /// Finds the parameters of the highest likelihood.
    ///
    /// Searches in the logarithms of the parameters with times scaled to 10 at most, where start values near 1 are good.
    /// Cost: `O(n)` for each of some hundred evaluations. Deterministic.
    ///
    /// # Errors
    /// `Invalid` for an impossible history (with its row), or if nobody has bought twice: leaving cannot be told from waiting.
    pub fn fit(histories: &[History]) -> Result<Self, KernelError> {
        for (row, h) in histories.iter().enumerate() {
            let ordered = h.last >= 0.0 && h.age >= h.last && h.age.is_finite();
            if !ordered || (h.repeats == 0 && h.last > 0.0) {
                return Err(KernelError::Invalid(format!("history {row} is impossible: {h:?}")));
            }
        }
        if !histories.iter().any(|h| h.repeats > 0) {
            return Err(KernelError::Invalid("no customer has bought twice".into()));
        }
        let longest = histories.iter().map(|h| h.age).fold(0.0, f64::max);
        if longest <= 0.0 {
            return Err(KernelError::Invalid("every customer's age is 0".into()));
        }
        let unit = longest / 10.0;
        // Gamma functions depend on the number of repeats alone: computed once for each distinct number.
        let mut counts: Vec<u32> = histories.iter().map(|h| h.repeats).collect();
        counts.sort_unstable();
        counts.dedup();
        let scaled: Vec<(usize, f64, f64)> = histories
            .iter()
            .map(|h| (counts.partition_point(|&c| c < h.repeats), h.last / unit, h.age / unit))
            .collect();
        let cost = |p: &[f64]| {
            if p.iter().any(|v| v.abs() > LOG_BOUND) {
                return f64::INFINITY;
            }
            let model = Self { r: p[0].exp(), alpha: p[1].exp(), a: p[2].exp(), b: p[3].exp() };
            -model.log_likelihood(&counts, &scaled) / scaled.len() as f64
        };
        // The second start lies on the side of slow buyers who rarely leave; which is better depends on the data.
        let found = [[0.0; 4], [-1.0, 1.0, -1.0, 1.0]]
            .iter()
            .map(|start| minimise(cost, start, 0.5, 1e-9))
            .min_by(|x, y| x.value.total_cmp(&y.value))
            .filter(|m| m.value.is_finite())
            .ok_or_else(|| KernelError::Invalid("the likelihood is not finite anywhere".into()))?;
        let p = found.point;
        Ok(Self { r: p[0].exp(), alpha: p[1].exp() * unit, a: p[2].exp(), b: p[3].exp() })
    }

    fn log_likelihood(&self, counts: &[u32], histories: &[(usize, f64, f64)]) -> f64 {
        let Self { r, alpha, a, b } = *self;
        let fixed = r * alpha.ln() - ln_gamma(r) + ln_gamma(a + b) - ln_gamma(b);
        let by_count: Vec<(f64, f64, f64)> = counts
            .iter()
            .map(|&count| {
                let x = f64::from(count);
                let head = fixed + ln_gamma(r + x) + ln_gamma(b + x) - ln_gamma(a + b + x);
                let gone = if count > 0 { a.ln() - (b + x - 1.0).ln() } else { f64::NEG_INFINITY };
                (r + x, head, gone)
            })
            .collect();
        histories
            .iter()
            .map(|&(index, last, age)| {
                let (shape, head, gone) = by_count[index];
                let alive = -shape * (alpha + age).ln();
                if gone == f64::NEG_INFINITY {
                    return head + alive;
                }
                let gone = gone - shape * (alpha + last).ln();
                let high = alive.max(gone);
                head + high + ((alive - high).exp() + (gone - high).exp()).ln()
            })
            .sum()
    }

    /// Gives the chance that the customer has not left, from 0 to 1. Always 1 without repeats: one leaves after a repeat only.
    ///
    /// With the parameters published for CDNOW and x = 2, t_x = 30.43, T = 38.86 it is 0.727 (asserted in the tests).
    #[must_use]
    pub fn alive(&self, h: &History) -> f64 {
        1.0 / self.odds_gone(h)
    }

    /// Gives the number of purchases expected in the next `horizon`.
    ///
    /// The paper's Gauss hypergeometric function is taken through Euler's transformation, whose terms stay small for any
    /// number of repeats. With CDNOW's parameters and x = 2, t_x = 30.43, T = 38.86, horizon 39: 1.226.
    #[must_use]
    pub fn expected_purchases(&self, h: &History, horizon: f64) -> f64 {
        if horizon <= 0.0 {
            return 0.0;
        }
        // The formula has a removable pole at a = 1.
        let a = if (self.a - 1.0).abs() < 1e-7 { 1.0 + 1e-7 } else { self.a };
        let c = a + self.b + f64::from(h.repeats) - 1.0;
        let stay = (self.alpha + h.age) / (self.alpha + h.age + horizon);
        let series = c_times_2f1(a + self.b - 1.0 - self.r, a - 1.0, c, 1.0 - stay);
        let purchases = (c - stay.powf(a - 1.0) * series) / (a - 1.0);
        purchases.max(0.0) / self.odds_gone(h)
    }

    /// 1 + (chance of having left) / (chance of being there).
    fn odds_gone(&self, h: &History) -> f64 {
        if h.repeats == 0 {
            return 1.0;
        }
        let x = f64::from(h.repeats);
        let silence = ((self.alpha + h.age) / (self.alpha + h.last)).ln() * (self.r + x);
        1.0 + self.a / (self.b + x - 1.0) * silence.exp()
    }
}

/// Computes `c * 2F1(p, q; c; z)` for `c > -1` and `0 <= z < 1`. The product stays finite where `c` is 0.
fn c_times_2f1(p: f64, q: f64, c: f64, z: f64) -> f64 {
    let mut term = p * q * z;
    let mut sum = c + term;
    for n in 1..100_000_u32 {
        let n = f64::from(n);
        term *= (p + n) * (q + n) / ((c + n) * (n + 1.0)) * z;
        sum += term;
        if term.abs() <= 1e-16 * sum.abs() {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use super::*;

    const CDNOW: BgNbd = BgNbd { r: 0.243, alpha: 4.414, a: 0.793, b: 2.426 };
    const CUSTOMER: History = History { repeats: 2, last: 30.43, age: 38.86 };

    fn cdnow() -> Option<Vec<History>> {
        let beside = std::env::var_os("SEGUE_TEST_DATA").map(PathBuf::from);
        let above = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .skip(1)
            .map(|p| p.join("shared/data"))
            .collect::<Vec<_>>();
        let text = beside
            .into_iter()
            .chain(above)
            .find_map(|dir| std::fs::read_to_string(dir.join("cdnow_customers_summary.csv")).ok())?;
        let row = |line: &str| {
            let v: Vec<f64> = line.split(',').map(|v| v.trim().parse().unwrap()).collect();
            History { repeats: v[1] as u32, last: v[2], age: v[3] }
        };
        Some(text.lines().skip(1).map(row).collect())
    }

    #[test]
    fn the_parameters_published_for_cdnow_come_out() {
        let Some(histories) = cdnow() else {
            eprintln!("skipped: cdnow_customers_summary.csv is not there; set SEGUE_TEST_DATA to its directory");
            return;
        };
        assert_eq!(histories.len(), 2357);
        let model = BgNbd::fit(&histories).unwrap();
        for (got, wanted) in [(model.r, 0.243), (model.alpha, 4.414), (model.a, 0.793), (model.b, 2.426)] {
            assert!((got - wanted).abs() < 0.0015, "{model:?}");
        }
        assert!((model.expected_purchases(&CUSTOMER, 39.0) - 1.226).abs() < 0.001);
    }

    #[test]
    fn the_customer_of_the_paper_gets_the_published_figures() {
        assert!((CDNOW.alive(&CUSTOMER) - 0.727).abs() < 0.0005, "{}", CDNOW.alive(&CUSTOMER));
        let expected = CDNOW.expected_purchases(&CUSTOMER, 39.0);
        assert!((expected - 1.226).abs() < 0.001, "{expected}");
    }

    #[test]
    fn the_transformed_series_agrees_with_the_formula_of_the_paper() {
        // The plain series, which converges slowly but surely for these values.
        let plain = |p: f64, q: f64, c: f64, z: f64| {
            let (mut term, mut sum) = (1.0, 1.0);
            for n in 0..20_000 {
                let n = f64::from(n);
                term *= (p + n) * (q + n) / ((c + n) * (n + 1.0)) * z;
                sum += term;
            }
            sum
        };
        for history in
            [CUSTOMER, History { repeats: 0, last: 0.0, age: 12.0 }, History { repeats: 11, last: 20.0, age: 21.0 }]
        {
            let BgNbd { r, alpha, a, b } = CDNOW;
            let x = f64::from(history.repeats);
            let (c, t) = (a + b + x - 1.0, 26.0);
            let stay = (alpha + history.age) / (alpha + history.age + t);
            let f = plain(r + x, b + x, c, 1.0 - stay);
            let wanted = c / (a - 1.0) * (1.0 - stay.powf(r + x) * f) * CDNOW.alive(&history);
            let got = CDNOW.expected_purchases(&history, t);
            assert!((got / wanted - 1.0).abs() < 1e-9, "{history:?}: {got} {wanted}");
        }
    }

    #[test]
    fn expected_purchases_grow_with_the_horizon_and_start_at_zero() {
        assert_eq!(CDNOW.expected_purchases(&CUSTOMER, 0.0), 0.0);
        let at = |h| CDNOW.expected_purchases(&CUSTOMER, h);
        assert!(at(1.0) > 0.0 && at(10.0) > at(1.0) && at(1e6) > at(100.0) && at(1e6).is_finite());
    }

    #[test]
    fn extreme_histories_and_parameters_stay_finite() {
        let busy = History { repeats: 5000, last: 365.0, age: 365.0 };
        let gone = History { repeats: 5000, last: 1.0, age: 365.0 };
        for model in
            [CDNOW, BgNbd { a: 1.0, ..CDNOW }, BgNbd { a: 0.3, b: 0.2, ..CDNOW }, BgNbd { a: 0.6, b: 0.4, ..CDNOW }]
        {
            assert!(model.expected_purchases(&busy, 90.0).is_finite() && model.expected_purchases(&busy, 90.0) > 100.0);
            assert!(model.alive(&gone) < 1e-12 && model.expected_purchases(&gone, 90.0) < 1e-9);
            let fresh = History { repeats: 0, last: 0.0, age: 0.0 };
            assert_eq!(model.alive(&fresh), 1.0);
            assert!(model.expected_purchases(&fresh, 90.0).is_finite());
        }
    }

    #[test]
    fn histories_that_cannot_be_are_named_by_row() {
        let late = History { repeats: 1, last: 9.0, age: 5.0 };
        let error = BgNbd::fit(&[CUSTOMER, late]).unwrap_err().to_string();
        assert!(error.contains("history 1"), "{error}");
        let once = History { repeats: 0, last: 0.0, age: 5.0 };
        assert!(BgNbd::fit(&[once, once]).unwrap_err().to_string().contains("bought twice"));
        assert!(BgNbd::fit(&[]).is_err());
    }

    #[test]
    fn a_single_customer_still_gives_finite_parameters() {
        let model = BgNbd::fit(&[CUSTOMER]).unwrap();
        assert!(model.expected_purchases(&CUSTOMER, 39.0).is_finite());
    }
}
