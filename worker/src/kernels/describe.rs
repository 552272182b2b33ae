//! Describes a sample of numbers: moments, quartiles, histogram, box.

use super::KernelError;

/// The figures that pandas calls `describe`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Description {
    pub count: usize,
    pub mean: f64,
    /// With `count - 1` below the line; NaN for one value.
    pub std: f64,
    pub min: f64,
    pub q25: f64,
    pub q50: f64,
    pub q75: f64,
    pub max: f64,
}

/// A box plot after Tukey: whiskers end at the last values within 1.5 interquartile ranges of the box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoxPlot {
    pub min: f64,
    pub whisker_low: f64,
    pub q25: f64,
    pub q50: f64,
    pub q75: f64,
    pub whisker_high: f64,
    pub max: f64,
    /// Values beyond the whiskers.
    pub outliers: usize,
}

/// Counts in bins of equal width; a bin holds its lower edge, the last one also its upper edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// One more than `counts`.
    pub edges: Vec<f64>,
    pub counts: Vec<u64>,
    /// Values above the last edge.
    pub above: u64,
}

/// Finite numbers, ascending: what every figure here is computed from.
#[derive(Debug, Clone)]
pub struct Sorted(Vec<f64>);

impl Sorted {
    /// Sorts a sample.
    ///
    /// # Errors
    /// `Shape` if it is empty, `NotFinite` with the first bad row.
    pub fn new(mut values: Vec<f64>) -> Result<Self, KernelError> {
        if values.is_empty() {
            return Err(KernelError::Shape("no values to describe".to_owned()));
        }
        if let Some(row) = values.iter().position(|value| !value.is_finite()) {
            return Err(KernelError::NotFinite { row, column: 0 });
        }
        values.sort_unstable_by(f64::total_cmp);
        Ok(Self(values))
    }

    /// Computes a quantile, `share` in `[0, 1]`, with linear interpolation between the neighbours (type 7, as numpy).
    ///
    /// # Example
    /// The third quartile of 1, 2, 4, 10 lies a quarter of the way from 4 to 10.
    /// ```
    /// # use segue_worker::kernels::describe::Sorted;
    /// assert_eq!(Sorted::new(vec![10.0, 1.0, 2.0, 4.0]).unwrap().quantile(0.75), 5.5);
    /// ```
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let place = share.clamp(0.0, 1.0) * (self.0.len() - 1) as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let above = (below + 1).min(self.0.len() - 1);
        self.0[below] + (self.0[above] - self.0[below]) * part
    }

    /// Gives the smallest value.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.0[0]
    }

    /// Gives the largest value.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// Computes count, mean, standard deviation and quartiles.
    #[must_use]
    pub fn describe(&self) -> Description {
        let count = self.0.len();
        let mean = self.0.iter().sum::<f64>() / count as f64;
        let squares: f64 = self.0.iter().map(|value| (value - mean).powi(2)).sum();
        Description {
            count,
            mean,
            std: (squares / (count as f64 - 1.0)).sqrt(),
            min: self.min(),
            q25: self.quantile(0.25),
            q50: self.quantile(0.5),
            q75: self.quantile(0.75),
            max: self.max(),
        }
    }

    /// Computes the box.
    #[must_use]
    pub fn box_plot(&self) -> BoxPlot {
        let (q25, q50, q75) = (self.quantile(0.25), self.quantile(0.5), self.quantile(0.75));
        let reach = 1.5 * (q75 - q25);
        let from = self.0.partition_point(|value| *value < q25 - reach);
        let to = self.0.partition_point(|value| *value <= q75 + reach);
        BoxPlot {
            min: self.min(),
            // The box itself lies within reach, so the range is never empty.
            whisker_low: self.0[from.min(self.0.len() - 1)],
            q25,
            q50,
            q75,
            whisker_high: self.0[to.saturating_sub(1)],
            max: self.max(),
            outliers: from + self.0.len() - to,
        }
    }

    /// Counts values in `bins` bins from the smallest value to `top`. A range of no width is widened by a half each way.
    ///
    /// # Errors
    /// `Invalid` if there are no bins, or `top` is below the smallest value or not finite.
    pub fn histogram(&self, bins: usize, top: f64) -> Result<Histogram, KernelError> {
        let min = self.min();
        if bins == 0 || !top.is_finite() || top < min {
            return Err(KernelError::Invalid(format!("no {bins} bins fit from {min} to {top}")));
        }
        let (low, high) = if top > min { (min, top) } else { (min - 0.5, top + 0.5) };
        let mut edges: Vec<f64> = (0..bins).map(|i| low + (high - low) * i as f64 / bins as f64).collect();
        edges.push(high);
        // Counting by the edges themselves keeps counts and edges in step whatever rounding does.
        let inside = self.0.partition_point(|value| *value <= high);
        let mut counts = Vec::with_capacity(bins);
        let mut from = 0;
        for (bin, edge) in edges[1..].iter().enumerate() {
            let to = if bin + 1 == bins { inside } else { self.0[..inside].partition_point(|value| value < edge) };
            counts.push((to - from) as u64);
            from = to;
        }
        Ok(Histogram { edges, counts, above: (self.0.len() - inside) as u64 })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn sample(values: &[f64]) -> Sorted {
        Sorted::new(values.to_vec()).unwrap()
    }

    #[test]
    fn description_agrees_with_pandas() {
        let d = sample(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).describe();
        assert_eq!((d.count, d.mean, d.min, d.max), (8, 5.0, 2.0, 9.0));
        assert_eq!((d.q25, d.q50, d.q75), (4.0, 4.5, 5.5));
        assert!((d.std - 2.138_089_935_299_395).abs() < 1e-15);
    }

    #[test]
    fn one_value_has_no_deviation() {
        let d = sample(&[3.0]).describe();
        assert!(d.std.is_nan());
        assert_eq!((d.q25, d.q75), (3.0, 3.0));
        assert_eq!(sample(&[3.0]).histogram(2, 3.0).unwrap().counts, [0, 1]);
    }

    #[test]
    fn whiskers_end_at_values_and_what_lies_beyond_is_counted() {
        let b = sample(&[-100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 100.0, 200.0]).box_plot();
        assert_eq!((b.whisker_low, b.whisker_high, b.outliers), (1.0, 5.0, 3));
        assert_eq!((b.min, b.max), (-100.0, 200.0));
    }

    #[test]
    fn bins_hold_their_lower_edge_and_the_last_its_upper_edge_too() {
        let h = sample(&[0.0, 1.0, 1.0, 2.0, 3.0, 4.0, 9.0]).histogram(4, 4.0).unwrap();
        assert_eq!((h.counts.as_slice(), h.above), ([1, 2, 1, 2].as_slice(), 1));
        assert_eq!(h.edges, [0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn bad_samples_are_refused() {
        assert!(matches!(Sorted::new(vec![]), Err(KernelError::Shape(_))));
        assert_eq!(Sorted::new(vec![1.0, f64::NAN]).unwrap_err(), KernelError::NotFinite { row: 1, column: 0 });
        assert!(sample(&[1.0]).histogram(0, 2.0).is_err() && sample(&[1.0]).histogram(3, 0.0).is_err());
    }

    proptest::proptest! {
        #[test]
        fn every_value_is_counted_once(values in proptest::collection::vec(-1e9f64..1e9, 1..200), share in 0.0f64..1.0) {
            let sorted = Sorted::new(values.clone()).unwrap();
            let h = sorted.histogram(50, sorted.quantile(share)).unwrap();
            proptest::prop_assert_eq!(h.counts.iter().sum::<u64>() + h.above, values.len() as u64);
            proptest::prop_assert!(h.edges.windows(2).all(|pair| pair[0] <= pair[1]));
            let b = sorted.box_plot();
            proptest::prop_assert!(b.min <= b.whisker_low && b.whisker_low <= b.whisker_high && b.whisker_high <= b.max);
        }
    }
}
