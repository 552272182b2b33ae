//! How good predictions of spend are: size of the error, order of the customers, and what the best tenth is worth.
//!
//! Every function takes `(n,)` actual values and `(n,)` predictions in the same order and unit.

use super::KernelError;

/// Computes the mean absolute error, in the unit of the values.
///
/// Cost: `O(n)`. Robust against a few large errors, but minimised by the median: it rewards guessing low on skewed data.
///
/// # Errors
/// `Shape` if the lengths differ or are zero; `NotFinite` with the first bad row (column 0 actual, 1 predicted).
///
/// # Example
/// Errors of 1, 0 and 5:
/// ```
/// # use segue_worker::kernels::metrics::mae;
/// assert_eq!(mae(&[3.0, 2.0, 10.0], &[4.0, 2.0, 5.0]).unwrap(), 2.0);
/// ```
pub fn mae(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    Ok(actual.iter().zip(predicted).map(|(a, p)| (a - p).abs()).sum::<f64>() / actual.len() as f64)
}

/// Computes the root of the mean squared error, in the unit of the values.
///
/// Cost: `O(n)`. On spend it says mostly how the few largest customers were predicted.
///
/// # Errors
/// As [`mae`].
///
/// # Example
/// Squared errors 1, 4 and 4: the root of 3, not of the mean error.
/// ```
/// # use segue_worker::kernels::metrics::rmse;
/// assert!((rmse(&[3.0, 2.0, 10.0], &[4.0, 4.0, 8.0]).unwrap() - 3.0_f64.sqrt()).abs() < 1e-15);
/// ```
pub fn rmse(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    Ok((squared_error(actual, predicted) / actual.len() as f64).sqrt())
}

/// Computes the coefficient of determination: 1 is perfect, 0 as good as the mean of `actual`, negative worse.
///
/// Cost: `O(n)`.
///
/// # Errors
/// As [`mae`]; `Invalid` if all actual values are equal (undefined, not 0).
///
/// # Example
/// Errors 1, 0, 1 against deviations 2, 0, 2 from the mean: 1 - 2 / 8. Exchanging the arguments gives 0.
/// ```
/// # use segue_worker::kernels::metrics::r2;
/// assert_eq!(r2(&[1.0, 3.0, 5.0], &[2.0, 3.0, 4.0]).unwrap(), 0.75);
/// assert_eq!(r2(&[2.0, 3.0, 4.0], &[1.0, 3.0, 5.0]).unwrap(), 0.0);
/// ```
pub fn r2(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    let mean = actual.iter().sum::<f64>() / actual.len() as f64;
    let spread: f64 = actual.iter().map(|a| (a - mean).powi(2)).sum();
    if spread == 0.0 {
        return Err(KernelError::Invalid("R2 is undefined: all actual values are equal".into()));
    }
    Ok(1.0 - squared_error(actual, predicted) / spread)
}

/// Computes Spearman's rank correlation, from -1 to 1. Ties get the mean of their ranks.
///
/// Cost: `O(n log n)`.
///
/// # Errors
/// As [`mae`]; `Invalid` if one side is constant (undefined, not 0).
///
/// # Example
/// Ranks 1.5, 1.5, 3, 4 against 1, 2, 4, 3: covariance 3.5 over the root of 4.5 x 5. First-come ranks would give 0.8.
/// ```
/// # use segue_worker::kernels::metrics::spearman;
/// let rho = spearman(&[0.0, 0.0, 7.0, 9.0], &[1.0, 2.0, 8.0, 3.0]).unwrap();
/// assert!((rho - 3.5 / 22.5_f64.sqrt()).abs() < 1e-12);
/// ```
pub fn spearman(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    let (a, p) = (average_ranks(actual), average_ranks(predicted));
    let mean = (actual.len() as f64 + 1.0) / 2.0;
    let (mut cross, mut left, mut right) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(&p) {
        cross += (x - mean) * (y - mean);
        left += (x - mean).powi(2);
        right += (y - mean).powi(2);
    }
    if left == 0.0 || right == 0.0 {
        return Err(KernelError::Invalid("rank correlation is undefined: one side is constant".into()));
    }
    Ok(cross / (left * right).sqrt())
}

/// Computes the normalised Gini coefficient: 1 if the predictions order the customers like their spend does, about 0 at random.
///
/// `gini(actual, predicted) / gini(actual, actual)`, where `gini` sorts by prediction, highest first, and averages the
/// cumulative share of `actual` less that of a random order. Equal predictions keep the order of the rows.
/// Cost: `O(n log n)`.
///
/// # Errors
/// As [`mae`]; `Invalid` if the actual values do not add up to more than 0, or are all equal.
///
/// # Example
/// Spend 6, 3, 1 in the order 3, 6, 1 gives cumulative shares 0.3, 0.9, 1 against 0.6, 0.9, 1 at best, both less 2: 0.2 / 0.5.
/// ```
/// # use segue_worker::kernels::metrics::normalised_gini;
/// assert!((normalised_gini(&[6.0, 3.0, 1.0], &[2.0, 5.0, 1.0]).unwrap() - 0.4).abs() < 1e-12);
/// ```
pub fn normalised_gini(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    let total: f64 = actual.iter().sum();
    if total <= 0.0 {
        return Err(KernelError::Invalid("the Gini coefficient is undefined: nothing was spent".into()));
    }
    let best = gini(actual, actual, total);
    if best <= 0.0 {
        return Err(KernelError::Invalid("the Gini coefficient is undefined: all actual values are equal".into()));
    }
    Ok(gini(actual, predicted, total) / best)
}

/// Computes the share of all spend that the tenth of customers with the highest predictions brought, from 0 to 1.
///
/// A tenth is rounded up, so that there is at least one customer; equal predictions keep the order of the rows.
/// Cost: `O(n log n)`.
///
/// # Errors
/// As [`mae`]; `Invalid` if the actual values do not add up to more than 0.
///
/// # Example
/// 11 customers make a top of 2, which spent 50 of 100. Rounding down would give 0.4.
/// ```
/// # use segue_worker::kernels::metrics::top_decile_share;
/// let actual = [40.0, 10.0, 6.0, 6.0, 6.0, 6.0, 6.0, 5.0, 5.0, 5.0, 5.0];
/// let predicted = [9.0, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// assert_eq!(top_decile_share(&actual, &predicted).unwrap(), 0.5);
/// ```
pub fn top_decile_share(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    check(actual, predicted)?;
    let total: f64 = actual.iter().sum();
    if total <= 0.0 {
        return Err(KernelError::Invalid("the share of the top decile is undefined: nothing was spent".into()));
    }
    let order = descending(predicted);
    Ok(order[..tenth(actual.len())].iter().map(|&i| actual[i]).sum::<f64>() / total)
}

/// Computes how many times the average a customer of the predicted top tenth spent: 1 is no better than chance.
///
/// Cost: `O(n log n)`.
///
/// # Errors
/// As [`top_decile_share`].
///
/// # Example
/// 2 of 11 customers brought half of the spend: 0.5 / (2 / 11).
/// ```
/// # use segue_worker::kernels::metrics::top_decile_lift;
/// let actual = [40.0, 10.0, 6.0, 6.0, 6.0, 6.0, 6.0, 5.0, 5.0, 5.0, 5.0];
/// let predicted = [9.0, 8.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
/// assert_eq!(top_decile_lift(&actual, &predicted).unwrap(), 2.75);
/// ```
pub fn top_decile_lift(actual: &[f64], predicted: &[f64]) -> Result<f64, KernelError> {
    let share = top_decile_share(actual, predicted)?;
    Ok(share * actual.len() as f64 / tenth(actual.len()) as f64)
}

/// Gives the rank of every value, from 1; equal values share the mean of their ranks.
fn average_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[i].total_cmp(&values[j]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]];
        let end = start + order[start..].iter().take_while(|&&i| values[i] == value).count();
        for &i in &order[start..end] {
            ranks[i] = (start + 1 + end) as f64 / 2.0;
        }
        start = end;
    }
    ranks
}

fn gini(actual: &[f64], key: &[f64], total: f64) -> f64 {
    let n = actual.len() as f64;
    let (mut running, mut area) = (0.0, 0.0);
    for i in descending(key) {
        running += actual[i];
        area += running;
    }
    (area / total - f64::midpoint(n, 1.0)) / n
}

fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&i, &j| values[j].total_cmp(&values[i]));
    order
}

const fn tenth(n: usize) -> usize {
    n.div_ceil(10)
}

fn squared_error(actual: &[f64], predicted: &[f64]) -> f64 {
    actual.iter().zip(predicted).map(|(a, p)| (a - p).powi(2)).sum()
}

fn check(actual: &[f64], predicted: &[f64]) -> Result<(), KernelError> {
    if actual.len() != predicted.len() || actual.is_empty() {
        return Err(KernelError::Shape(format!(
            "{} actual values against {} predictions; both must be the same number, and not 0",
            actual.len(),
            predicted.len()
        )));
    }
    for (column, values) in [actual, predicted].into_iter().enumerate() {
        if let Some(row) = values.iter().position(|v| !v.is_finite()) {
            return Err(KernelError::NotFinite { row, column });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn perfect_predictions_have_no_error_and_full_order() {
        let spend = [5.0, 0.0, 2.0, 9.0, 2.0];
        assert_eq!(mae(&spend, &spend).unwrap(), 0.0);
        assert_eq!(rmse(&spend, &spend).unwrap(), 0.0);
        assert_eq!(r2(&spend, &spend).unwrap(), 1.0);
        assert!((spearman(&spend, &spend).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(normalised_gini(&spend, &spend).unwrap(), 1.0);
    }

    #[test]
    fn reversed_predictions_have_the_opposite_order() {
        let spend = [1.0, 2.0, 3.0, 4.0];
        let reversed = [4.0, 3.0, 2.0, 1.0];
        assert!((spearman(&spend, &reversed).unwrap() + 1.0).abs() < 1e-12);
        assert!((normalised_gini(&spend, &reversed).unwrap() + 1.0).abs() < 1e-12);
    }

    #[test]
    fn order_measures_do_not_change_under_a_rising_function_of_the_predictions() {
        let spend = [10.0, 0.0, 3.0, 80.0, 7.0, 0.0];
        let p = [1.0, 0.5, 2.0, 3.0, 0.1, 0.2];
        let q = p.map(f64::exp);
        assert_eq!(spearman(&spend, &p).unwrap(), spearman(&spend, &q).unwrap());
        assert_eq!(normalised_gini(&spend, &p).unwrap(), normalised_gini(&spend, &q).unwrap());
    }

    #[test]
    fn lengths_that_differ_and_empty_input_are_refused() {
        assert!(matches!(mae(&[1.0], &[1.0, 2.0]), Err(KernelError::Shape(_))));
        assert!(matches!(spearman(&[], &[]), Err(KernelError::Shape(_))));
    }

    #[test]
    fn a_value_that_is_not_finite_is_named_by_row_and_side() {
        let error = r2(&[1.0, 2.0], &[1.0, f64::NAN]).unwrap_err();
        assert_eq!(error, KernelError::NotFinite { row: 1, column: 1 });
    }

    #[test]
    fn measures_that_are_undefined_are_refused_rather_than_made_up() {
        assert!(matches!(r2(&[2.0, 2.0], &[1.0, 3.0]), Err(KernelError::Invalid(_))));
        assert!(matches!(spearman(&[1.0, 2.0], &[3.0, 3.0]), Err(KernelError::Invalid(_))));
        assert!(matches!(normalised_gini(&[0.0, 0.0], &[1.0, 3.0]), Err(KernelError::Invalid(_))));
        assert!(matches!(top_decile_share(&[0.0, 0.0], &[1.0, 3.0]), Err(KernelError::Invalid(_))));
    }
}
