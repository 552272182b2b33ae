//! Standardisation: zero mean and unit variance by column.

use ndarray::{Array2, ArrayView2};

use super::KernelError;

/// Mean and divisor of every column.
#[derive(Debug, Clone, PartialEq)]
pub struct Standardiser {
    pub mean: Vec<f64>,
    /// Standard deviation with ddof 0; 1 where the column is constant.
    pub scale: Vec<f64>,
}

impl Standardiser {
    /// Learns mean and standard deviation (ddof 0) of every column.
    ///
    /// Shapes: `data` `(n, m)`, finite. Cost: `O(n m)`. Deterministic.
    /// A column counts as constant when its variance is within rounding of zero (scikit-learn's bound), so that a column
    /// of ten times 0.1 is not blown up by the last bit of its mean.
    ///
    /// # Errors
    /// `Shape` if there is no row; `NotFinite` with the first bad cell.
    pub fn fit(data: ArrayView2<'_, f64>) -> Result<Self, KernelError> {
        if data.nrows() == 0 {
            return Err(KernelError::Shape("there is no row to standardise".to_owned()));
        }
        check_finite(data)?;
        let rows = data.nrows() as f64;
        let (mut mean, mut scale) = (Vec::new(), Vec::new());
        for column in data.columns() {
            let average = column.sum() / rows;
            let variance = column.iter().map(|x| (x - average).powi(2)).sum::<f64>() / rows;
            let noise = rows * f64::EPSILON * variance + (rows * average * f64::EPSILON).powi(2);
            mean.push(average);
            scale.push(if variance <= noise { 1.0 } else { variance.sqrt() });
        }
        Ok(Self { mean, scale })
    }

    /// Gives `(x - mean) / scale`.
    ///
    /// # Errors
    /// `Shape` if the number of columns differs; `NotFinite` with the first bad cell.
    pub fn apply(&self, data: ArrayView2<'_, f64>) -> Result<Array2<f64>, KernelError> {
        if data.ncols() != self.mean.len() {
            return Err(KernelError::Shape(format!(
                "the scaler knows {} columns, the data has {}",
                self.mean.len(),
                data.ncols()
            )));
        }
        check_finite(data)?;
        let mut scaled = data.to_owned();
        for mut row in scaled.rows_mut() {
            for (x, (mean, scale)) in row.iter_mut().zip(self.mean.iter().zip(&self.scale)) {
                *x = (*x - mean) / scale;
            }
        }
        Ok(scaled)
    }
}

/// Gives `ln(1 + x)` of every cell, accurate near 0.
///
/// # Errors
/// `NotFinite` with the first bad cell; `Invalid` with the first cell at or below -1, where the logarithm is undefined.
pub fn log1p(data: ArrayView2<'_, f64>) -> Result<Array2<f64>, KernelError> {
    check_finite(data)?;
    match data.indexed_iter().find(|(_, x)| **x <= -1.0) {
        Some(((row, column), x)) => {
            Err(KernelError::Invalid(format!("row {row}, column {column} is {x}: ln(1 + x) needs x > -1")))
        }
        None => Ok(data.mapv(f64::ln_1p)),
    }
}

/// Checks that every cell is a finite number.
///
/// # Errors
/// `NotFinite` with the first bad cell, rows first.
pub fn check_finite(data: ArrayView2<'_, f64>) -> Result<(), KernelError> {
    match data.indexed_iter().find(|(_, x)| !x.is_finite()) {
        Some(((row, column), _)) => Err(KernelError::NotFinite { row, column }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_column_is_divided_by_the_deviation_with_ddof_0() {
        // 2, 4, 4, 4, 5, 5, 7, 9: mean 5, variance 32 / 8 = 4 (with ddof 1 it would be 32 / 7).
        let data = array![[2.0], [4.0], [4.0], [4.0], [5.0], [5.0], [7.0], [9.0]];
        let scaler = Standardiser::fit(data.view()).unwrap();
        assert_eq!(scaler, Standardiser { mean: vec![5.0], scale: vec![2.0] });
        assert_eq!(scaler.apply(data.view()).unwrap()[[7, 0]], 2.0);
    }

    #[test]
    fn a_constant_column_becomes_zero() {
        let data = Array2::from_elem((10, 1), 0.1);
        let scaler = Standardiser::fit(data.view()).unwrap();
        assert_eq!(scaler.scale, [1.0], "the rounding of the mean is no deviation");
        assert!(scaler.apply(data.view()).unwrap().iter().all(|x| x.abs() < 1e-12));
    }

    #[test]
    fn the_first_bad_cell_is_named() {
        let data = array![[1.0, 2.0], [3.0, f64::NAN], [f64::INFINITY, 1.0]];
        assert_eq!(Standardiser::fit(data.view()), Err(KernelError::NotFinite { row: 1, column: 1 }));
        let scaler = Standardiser { mean: vec![0.0], scale: vec![1.0] };
        assert!(matches!(scaler.apply(data.view()), Err(KernelError::Shape(_))));
        assert!(matches!(Standardiser::fit(Array2::zeros((0, 2)).view()), Err(KernelError::Shape(_))));
    }

    #[test]
    fn the_logarithm_refuses_what_it_cannot_take() {
        assert_eq!(log1p(array![[0.0, 1.0]].view()).unwrap(), array![[0.0, 2.0_f64.ln()]]);
        let error = log1p(array![[0.0], [-3.0]].view()).unwrap_err().to_string();
        assert!(error.contains("row 1, column 0 is -3"), "{error}");
        assert!(log1p(array![[-1.0]].view()).is_err(), "minus infinity is no feature");
    }

    proptest! {
        #[test]
        fn scaled_columns_have_mean_0_and_deviation_1_or_0(
            data in prop::collection::vec(prop::collection::vec(-1e6..1e6_f64, 3), 1..40)
        ) {
            let data = Array2::from_shape_fn((data.len(), 3), |(i, j)| data[i][j]);
            let scaled = Standardiser::fit(data.view()).unwrap().apply(data.view()).unwrap();
            for column in scaled.columns() {
                let n = column.len() as f64;
                let mean = column.sum() / n;
                let deviation = (column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
                prop_assert!(mean.abs() < 1e-6);
                prop_assert!(deviation < 1e-6 || (deviation - 1.0).abs() < 1e-6);
            }
        }
    }
}
