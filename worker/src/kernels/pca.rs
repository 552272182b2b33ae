//! Principal components by exact eigen-decomposition.

use linfa_linalg::eigh::Eigh;
use ndarray::{Array1, Array2, ArrayView2, Axis, s};

use super::{KernelError, scale::check_finite};

/// Principal components of a data set, largest variance first.
#[derive(Debug, Clone, PartialEq)]
pub struct Pca {
    /// `(components, m)`: unit vectors; the largest absolute loading of each is positive.
    pub components: Array2<f64>,
    /// Variance (ddof 1) along each component.
    pub explained_variance: Vec<f64>,
    /// Share of each component in the variance of *all* features; 0 where nothing varies.
    pub ratio: Vec<f64>,
    /// `(n, components)`: the centred data in the new axes.
    pub coordinates: Array2<f64>,
}

/// Finds the `components` directions of largest variance.
///
/// Shapes: `data` `(n, m)`, finite, `n >= 2`; gives at most `m` components. Cost: `O(n m^2 + m^3)`. Deterministic: the
/// sign of a component is chosen so that its largest absolute loading is positive (the first of equals).
/// The eigenvalues come from the whole covariance matrix, so that the ratio is over all features: linfa's own PCA divides
/// by the sum of the components it was asked for.
///
/// # Errors
/// `Shape` if there are fewer than two rows, no column or no component asked for; `NotFinite` with the first bad cell;
/// `Backend` if the decomposition fails.
pub fn fit(data: ArrayView2<'_, f64>, components: usize) -> Result<Pca, KernelError> {
    let (rows, columns) = data.dim();
    if rows < 2 || columns == 0 || components == 0 {
        return Err(KernelError::Shape(format!(
            "principal components need at least 2 rows, 1 column and 1 component, not {rows} rows, {columns} columns and {components} components"
        )));
    }
    check_finite(data)?;
    let mean = data.sum_axis(Axis(0)) / rows as f64;
    let centred = &data - &mean;
    let covariance = centred.t().dot(&centred) / (rows - 1) as f64;
    let total = covariance.diag().sum();
    let (values, vectors) = decompose(covariance)?;
    let kept = components.min(columns);
    let mut axes = vectors.slice(s![.., ..kept]).t().to_owned();
    for mut axis in axes.rows_mut() {
        let largest = axis.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
        if largest < 0.0 {
            axis.mapv_inplace(|x| -x);
        }
    }
    // Rounding can leave a tiny negative eigenvalue where a feature is a sum of others.
    let explained_variance: Vec<f64> = values.iter().take(kept).map(|v| v.max(0.0)).collect();
    let ratio = explained_variance.iter().map(|v| if total > 0.0 { v / total } else { 0.0 }).collect();
    let coordinates = centred.dot(&axes.t());
    Ok(Pca { components: axes, explained_variance, ratio, coordinates })
}

/// Gives eigenvalues, largest first, and their unit vectors as columns.
fn decompose(covariance: Array2<f64>) -> Result<(Array1<f64>, Array2<f64>), KernelError> {
    // The QL iteration behind `eigh` has no limit, and a number that is not finite would keep it turning.
    if !covariance.iter().all(|x| x.is_finite()) {
        return Err(KernelError::Backend("the covariance overflows: scale the features first".to_owned()));
    }
    let (values, vectors) =
        covariance.eigh().map_err(|e| KernelError::Backend(format!("the covariance cannot be decomposed: {e}")))?;
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    Ok((values.select(Axis(0), &order), vectors.select(Axis(1), &order)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_worked_example_gives_the_known_axes() {
        // Two points at distance sqrt(6) each way along (1, 1), two at sqrt(3) along (1, -1): variances 12 / 3 and 6 / 3
        // (with ddof 0 they would be 3 and 1.5).
        let (p, q) = (3.0_f64.sqrt(), 1.5_f64.sqrt());
        let data = array![[p, p], [-p, -p], [q, -q], [-q, q]] + 10.0;
        let pca = fit(data.view(), 3).unwrap();
        assert_eq!(pca.components.dim(), (2, 2), "no more components than features");
        let half = 0.5_f64.sqrt();
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} is not {b}");
        close(pca.explained_variance[0], 4.0);
        close(pca.explained_variance[1], 2.0);
        close(pca.components[[0, 0]], half);
        close(pca.components[[0, 1]], half);
        close(pca.components[[1, 0]].abs(), half);
        close(pca.coordinates[[0, 0]], 6.0_f64.sqrt());
        close(pca.coordinates[[1, 0]], -(6.0_f64.sqrt()));
    }

    #[test]
    fn the_ratio_is_over_all_features_not_over_the_kept_ones() {
        let (p, q) = (3.0_f64.sqrt(), 1.5_f64.sqrt());
        let pca = fit(array![[p, p], [-p, -p], [q, -q], [-q, q]].view(), 1).unwrap();
        assert!((pca.ratio[0] - 2.0 / 3.0).abs() < 1e-12, "linfa's Pca would say 1");
    }

    #[test]
    fn the_largest_loading_is_positive() {
        let data = array![[0.0, 0.0, 1.0], [1.0, -3.0, 2.0], [2.0, -6.5, 2.0], [3.0, -9.0, 4.0]];
        let pca = fit(data.view(), 3).unwrap();
        for axis in pca.components.rows() {
            let largest = axis.iter().fold(0.0_f64, |best, x| if x.abs() > best.abs() { *x } else { best });
            assert!(largest > 0.0, "{axis}");
        }
    }

    #[test]
    fn data_without_variance_has_no_ratio_but_an_answer() {
        let pca = fit(Array2::from_elem((5, 3), 7.0).view(), 3).unwrap();
        assert_eq!(pca.ratio, [0.0; 3]);
        assert!(pca.coordinates.iter().all(|x| *x == 0.0));
    }

    #[test]
    fn unusable_data_is_refused() {
        assert!(matches!(fit(Array2::zeros((1, 3)).view(), 3), Err(KernelError::Shape(_))));
        assert!(matches!(fit(Array2::zeros((3, 0)).view(), 3), Err(KernelError::Shape(_))));
        assert!(matches!(fit(array![[1.0], [f64::NAN]].view(), 1), Err(KernelError::NotFinite { row: 1, column: 0 })));
        let huge = array![[1e300, 0.0], [-1e300, 1.0], [0.0, 2.0]];
        assert!(matches!(fit(huge.view(), 2), Err(KernelError::Backend(_))), "an overflow must not turn forever");
    }

    proptest! {
        #[test]
        fn components_are_orthonormal_and_carry_the_whole_variance(
            data in prop::collection::vec(prop::collection::vec(-100.0..100.0_f64, 4), 2..30)
        ) {
            let data = Array2::from_shape_fn((data.len(), 4), |(i, j)| data[i][j]);
            let pca = fit(data.view(), 4).unwrap();
            let gram = pca.components.dot(&pca.components.t());
            for ((i, j), x) in gram.indexed_iter() {
                prop_assert!((x - f64::from(u8::from(i == j))).abs() < 1e-9);
            }
            prop_assert!(pca.explained_variance.windows(2).all(|w| w[0] >= w[1]));
            let total: f64 = pca.ratio.iter().sum();
            prop_assert!(total == 0.0 || (total - 1.0).abs() < 1e-9);
            for (j, variance) in pca.explained_variance.iter().enumerate() {
                let axis = pca.coordinates.column(j);
                let found = axis.iter().map(|x| x * x).sum::<f64>() / (data.nrows() - 1) as f64;
                prop_assert!((found - variance).abs() < 1e-6 * (1.0 + variance));
            }
        }
    }
}
