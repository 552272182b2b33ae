//! Gamma-Gamma: how much a customer spends per purchase, pulled towards the average customer where little was seen.

use super::{super::KernelError, ln_gamma, optimise::minimise};

/// What was seen of a customer's spending.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spend {
    /// Number of purchases that the mean is over.
    pub purchases: u32,
    /// Mean spend of these purchases, above 0; not looked at when there are none.
    pub mean: f64,
}

/// The fitted model: a purchase is gamma distributed with shape `p` around the customer's own mean, and these means spread
/// with `q` and `v`.
///
/// `q` is kept above 2, where the customers' means have a finite variance. Likelihood alone may go below on data spread over several orders
/// of magnitude, and then the population's mean comes from a tail that nobody has seen: it can be a thousand times the mean of the data.
///
/// Source: Fader and Hardie, "The Gamma-Gamma model of monetary value" (2013).
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct GammaGamma {
    pub p: f64,
    pub q: f64,
    /// In the unit of spend.
    pub v: f64,
}

const LOG_BOUND: f64 = 12.0;

impl GammaGamma {
    /// Finds the parameters of the highest likelihood. Customers without purchases are left out.
    ///
    /// Cost: `O(n)` for each of some hundred evaluations. Deterministic.
    ///
    /// # Errors
    /// `Invalid` if a mean is not positive (with its row) or nobody has purchases.
    pub fn fit(spends: &[Spend]) -> Result<Self, KernelError> {
        let bad = |s: &Spend| s.purchases > 0 && !(s.mean > 0.0 && s.mean.is_finite());
        if let Some(row) = spends.iter().position(bad) {
            return Err(KernelError::Invalid(format!("mean spend of row {row} is {}, not above 0", spends[row].mean)));
        }
        let mut means: Vec<f64> = spends.iter().filter(|s| s.purchases > 0).map(|s| s.mean).collect();
        means.sort_by(f64::total_cmp);
        let Some(&unit) = means.get(means.len() / 2) else {
            return Err(KernelError::Invalid("no customer has a purchase to learn spend from".into()));
        };
        let mut counts: Vec<u32> = spends.iter().map(|s| s.purchases).filter(|&n| n > 0).collect();
        counts.sort_unstable();
        counts.dedup();
        // (index of the count, count, mean in units of the median, its logarithm)
        let scaled: Vec<(usize, f64, f64, f64)> = spends
            .iter()
            .filter(|s| s.purchases > 0)
            .map(|s| {
                let mean = s.mean / unit;
                (counts.partition_point(|&c| c < s.purchases), f64::from(s.purchases), mean, mean.ln())
            })
            .collect();
        let cost = |w: &[f64]| {
            if w.iter().any(|v| v.abs() > LOG_BOUND) {
                return f64::INFINITY;
            }
            let (p, q, v) = (w[0].exp(), 2.0 + w[1].exp(), w[2].exp());
            let fixed = q * v.ln() - ln_gamma(q);
            let heads: Vec<f64> = counts
                .iter()
                .map(|&n| {
                    let shape = p * f64::from(n);
                    fixed + ln_gamma(shape + q) - ln_gamma(shape) + shape * f64::from(n).ln()
                })
                .collect();
            let total: f64 = scaled
                .iter()
                .map(|&(i, n, mean, ln_mean)| heads[i] + (p * n - 1.0) * ln_mean - (p * n + q) * (v + n * mean).ln())
                .sum();
            -total / scaled.len() as f64
        };
        let found = minimise(cost, &[0.5, 0.5, 0.0], 0.5, 1e-9);
        if !found.value.is_finite() {
            return Err(KernelError::Invalid("the likelihood of spend is not finite anywhere".into()));
        }
        let w = found.point;
        Ok(Self { p: w[0].exp(), q: 2.0 + w[1].exp(), v: w[2].exp() * unit })
    }

    /// Gives the spend expected per purchase: the population's mean for a customer without purchases, the customer's own mean
    /// in the limit of many.
    ///
    /// With p = 2, q = 3, v = 40 the population's mean is 40, and 4 purchases of 100 give 2 (40 + 400) / (8 + 2) = 88.
    #[must_use]
    pub fn expected_spend(&self, spend: &Spend) -> f64 {
        if spend.purchases == 0 {
            return self.p * self.v / (self.q - 1.0);
        }
        let n = f64::from(spend.purchases);
        self.p * (self.v + n * spend.mean) / (self.p * n + self.q - 1.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{RngCore, SeedableRng},
    };

    use super::*;

    #[test]
    fn little_evidence_is_pulled_to_the_population_and_much_is_believed() {
        let model = GammaGamma { p: 2.0, q: 3.0, v: 40.0 };
        assert_eq!(model.expected_spend(&Spend { purchases: 0, mean: 0.0 }), 40.0);
        assert_eq!(model.expected_spend(&Spend { purchases: 4, mean: 100.0 }), 88.0);
        assert!((model.expected_spend(&Spend { purchases: 1_000_000, mean: 100.0 }) - 100.0).abs() < 0.001);
    }

    /// Draws a gamma variate of a whole-numbered shape and rate 1 as a sum of exponentials.
    fn gamma(shape: u32, random: &mut Xoshiro256PlusPlus) -> f64 {
        (0..shape).map(|_| -((random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64).max(1e-300).ln()).sum()
    }

    #[test]
    fn parameters_that_made_the_data_are_found_again() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(7);
        let (p, q, v) = (3, 4, 30.0);
        let spends: Vec<Spend> = (0..6000)
            .map(|i| {
                let rate = gamma(q, &mut random) / v;
                let purchases = 1 + i % 5;
                let total: f64 = (0..purchases).map(|_| gamma(p, &mut random) / rate).sum();
                Spend { purchases, mean: total / f64::from(purchases) }
            })
            .collect();
        let model = GammaGamma::fit(&spends).unwrap();
        assert!((model.p / 3.0 - 1.0).abs() < 0.1 && (model.q / 4.0 - 1.0).abs() < 0.1, "{model:?}");
        let mean = model.expected_spend(&Spend { purchases: 0, mean: 0.0 });
        assert!((mean / 30.0 - 1.0).abs() < 0.05, "population mean {mean} against p v / (q - 1) = 30");
    }

    #[test]
    fn spend_that_cannot_be_is_refused_and_no_spend_is_said() {
        let zero = Spend { purchases: 1, mean: 0.0 };
        assert!(GammaGamma::fit(&[zero]).unwrap_err().to_string().contains("row 0"));
        assert!(GammaGamma::fit(&[Spend { purchases: 0, mean: 0.0 }]).is_err());
        assert!(GammaGamma::fit(&[]).is_err());
    }

    #[test]
    fn the_population_mean_stays_near_the_data_where_spend_spans_orders_of_magnitude() {
        let spends: Vec<Spend> =
            (0..200).map(|i| Spend { purchases: 1 + i % 9, mean: 10.0 * (f64::from(i) / 50.0).exp() }).collect();
        let mean = spends.iter().map(|s| s.mean).sum::<f64>() / 200.0;
        let expected = GammaGamma::fit(&spends).unwrap().expected_spend(&Spend { purchases: 0, mean: 0.0 });
        assert!(expected > mean / 3.0 && expected < mean * 3.0, "{expected} against a mean of {mean}");
    }

    #[test]
    fn equal_spends_do_not_break_the_fit() {
        let model = GammaGamma::fit(&[Spend { purchases: 3, mean: 20.0 }; 10]).unwrap();
        let expected = model.expected_spend(&Spend { purchases: 3, mean: 20.0 });
        assert!((expected - 20.0).abs() < 0.5, "{expected}");
    }
}
