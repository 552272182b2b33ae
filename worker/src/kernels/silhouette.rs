//! Exact silhouettes of several labellings at once.

use ndarray::ArrayView2;
use rayon::prelude::*;

use super::{KernelError, scale::check_finite};

/// Rows handled by one task; also how often a stop is noticed.
const ROWS: usize = 64;
/// Distances computed at a time: 4 KiB, well inside the first cache.
const BLOCK: usize = 512;

/// Computes the silhouette of every point under every labelling: `(b - a) / max(a, b)`, where `a` is the mean Euclidean
/// distance to the other points of its cluster and `b` the smallest mean distance to the points of another cluster.
///
/// Shapes: `data` `(n, m)`, finite; each labelling has `n` labels, small integers from 0. Gives one vector of `n` values in
/// `[-1, 1]` per labelling. A point alone in its cluster scores 0 (scikit-learn's definition; linfa says 1), and so does
/// every point where there is one cluster only or all its distances are 0.
/// Cost: `O(n^2 (m + labellings))` time, `O(n (m + labellings))` memory: the distances are shared by all labellings.
/// Deterministic: sums run in row order, whatever the number of threads.
/// Source: Rousseeuw, J. Comput. Appl. Math. 20 (1987), 53-65.
///
/// # Errors
/// `Shape` if a labelling has another length; `NotFinite` with the first bad cell; `Cancelled` when `stop` says so.
///
/// # Example
/// Points 0 and 2 against 6: the first has a = 2, b = 6 and so 2/3, the second a = 2, b = 4 and so 1/2, the third is alone.
/// ```
/// # use segue_worker::kernels::silhouette::silhouettes;
/// let data = ndarray::array![[0.0], [2.0], [6.0]];
/// let scores = silhouettes(data.view(), &[&[0, 0, 1]], &|| false).unwrap();
/// assert_eq!(scores, [[4.0 / 6.0, 0.5, 0.0]]);
/// ```
pub fn silhouettes(
    data: ArrayView2<'_, f64>,
    labellings: &[&[usize]],
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Vec<f64>>, KernelError> {
    let rows = data.nrows();
    if let Some(odd) = labellings.iter().find(|labels| labels.len() != rows) {
        return Err(KernelError::Shape(format!("{} labels for {rows} rows", odd.len())));
    }
    check_finite(data)?;
    let shared = Shared::new(data, labellings);
    let starts: Vec<usize> = (0..rows).step_by(ROWS).collect();
    let parts: Vec<Vec<f64>> = starts
        .par_iter()
        .map(|&start| {
            if stop() {
                return Err(KernelError::Cancelled);
            }
            Ok(shared.score(start..(start + ROWS).min(rows)))
        })
        .collect::<Result<_, _>>()?;
    let mut scores = vec![Vec::with_capacity(rows); labellings.len()];
    for point in parts.iter().flat_map(|part| part.chunks_exact(labellings.len().max(1))) {
        for (all, score) in scores.iter_mut().zip(point) {
            all.push(*score);
        }
    }
    Ok(scores)
}

/// Gives the mean of the silhouettes; 0 where there is none.
#[must_use]
pub fn mean(scores: &[f64]) -> f64 {
    if scores.is_empty() { 0.0 } else { scores.iter().sum::<f64>() / scores.len() as f64 }
}

/// What every task reads.
struct Shared {
    /// The data by column, so that distances to many points are computed side by side.
    columns: Vec<Vec<f64>>,
    /// By point, then labelling: where its cluster stands in `sizes` and in the sums of a point.
    slots: Vec<u32>,
    /// Sizes of all clusters of all labellings.
    sizes: Vec<f64>,
    /// Where the clusters of each labelling stand in `sizes`.
    spans: Vec<std::ops::Range<usize>>,
}

impl Shared {
    fn new(data: ArrayView2<'_, f64>, labellings: &[&[usize]]) -> Self {
        let columns = data.columns().into_iter().map(|column| column.to_vec()).collect();
        let mut slots = vec![0; data.nrows() * labellings.len()];
        let (mut sizes, mut spans) = (Vec::new(), Vec::new());
        for (l, labels) in labellings.iter().enumerate() {
            let first = sizes.len();
            sizes.resize(first + labels.iter().max().map_or(0, |most| most + 1), 0.0);
            for (i, label) in labels.iter().enumerate() {
                sizes[first + label] += 1.0;
                slots[i * labellings.len() + l] = (first + label) as u32;
            }
            spans.push(first..sizes.len());
        }
        Self { columns, slots, sizes, spans }
    }

    /// Gives the silhouettes of some points, by point and then labelling.
    fn score(&self, points: std::ops::Range<usize>) -> Vec<f64> {
        let mut scores = Vec::with_capacity(points.len() * self.spans.len());
        let mut sums = vec![0.0; self.sizes.len()];
        for i in points {
            sums.fill(0.0);
            self.sum_distances(i, &mut sums);
            for (l, span) in self.spans.iter().enumerate() {
                let own = self.slots[i * self.spans.len() + l] as usize;
                scores.push(self.silhouette(own, span.clone(), &sums));
            }
        }
        scores
    }

    /// Adds the distances from point `i` to all points into the sum of each point's cluster, for every labelling.
    fn sum_distances(&self, i: usize, sums: &mut [f64]) {
        let labellings = self.spans.len();
        if labellings == 0 {
            return;
        }
        let rows = self.slots.len() / labellings;
        let mut distances = [0.0; BLOCK];
        for start in (0..rows).step_by(BLOCK) {
            let block = &mut distances[..BLOCK.min(rows - start)];
            block.fill(0.0);
            for column in &self.columns {
                let here = column[i];
                for (sum, there) in block.iter_mut().zip(&column[start..]) {
                    let d = there - here;
                    *sum += d * d;
                }
            }
            for distance in block.iter_mut() {
                *distance = distance.sqrt();
            }
            let slots = self.slots[start * labellings..].chunks_exact(labellings);
            for (distance, slots) in block.iter().zip(slots) {
                for slot in slots {
                    sums[*slot as usize] += distance;
                }
            }
        }
    }

    fn silhouette(&self, own: usize, span: std::ops::Range<usize>, sums: &[f64]) -> f64 {
        if self.sizes[own] < 2.0 {
            return 0.0;
        }
        let inside = sums[own] / (self.sizes[own] - 1.0);
        let outside = span
            .filter(|&other| other != own && self.sizes[other] > 0.0)
            .map(|other| sums[other] / self.sizes[other])
            .fold(f64::INFINITY, f64::min);
        let larger = inside.max(outside);
        if larger.is_finite() && larger > 0.0 { (outside - inside) / larger } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    /// The definition, word for word.
    fn naive(data: &Array2<f64>, labels: &[usize]) -> Vec<f64> {
        let distance = |i: usize, j: usize| (&data.row(i) - &data.row(j)).mapv(|d| d * d).sum().sqrt();
        (0..labels.len())
            .map(|i| {
                let mean_to = |cluster: usize| {
                    let others: Vec<f64> =
                        (0..labels.len()).filter(|&j| j != i && labels[j] == cluster).map(|j| distance(i, j)).collect();
                    if others.is_empty() { None } else { Some(others.iter().sum::<f64>() / others.len() as f64) }
                };
                let Some(a) = mean_to(labels[i]) else { return 0.0 };
                let b = (0..10).filter(|&c| c != labels[i]).filter_map(mean_to).fold(f64::INFINITY, f64::min);
                if b.is_finite() && a.max(b) > 0.0 { (b - a) / a.max(b) } else { 0.0 }
            })
            .collect()
    }

    #[test]
    fn worked_numbers_come_out() {
        // Clusters {0, 2} and {6, 10}. Point 0: a = 2, b = (6 + 10) / 2 = 8. Point 2: a = 2, b = 6.
        // Point 6: a = 4, b = (6 + 4) / 2 = 5. Point 10: a = 4, b = (10 + 8) / 2 = 9.
        let data = array![[0.0], [2.0], [6.0], [10.0]];
        let scores = silhouettes(data.view(), &[&[0, 0, 1, 1]], &|| false).unwrap();
        assert_eq!(scores[0], [6.0 / 8.0, 4.0 / 6.0, 1.0 / 5.0, 5.0 / 9.0]);
    }

    #[test]
    fn a_point_alone_scores_0_and_identical_points_are_no_division_by_zero() {
        let data = array![[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]];
        let scores = silhouettes(data.view(), &[&[0, 0, 1], &[0, 0, 0], &[0, 1, 2]], &|| false).unwrap();
        assert_eq!(scores, vec![vec![0.0; 3]; 3]);
    }

    #[test]
    fn wrong_lengths_bad_cells_and_a_stop_are_errors() {
        let data = array![[1.0], [f64::NAN]];
        assert!(matches!(silhouettes(data.view(), &[&[0]], &|| false), Err(KernelError::Shape(_))));
        assert!(matches!(silhouettes(data.view(), &[&[0, 1]], &|| false), Err(KernelError::NotFinite { .. })));
        let good = array![[1.0], [2.0]];
        assert_eq!(silhouettes(good.view(), &[&[0, 1]], &|| true), Err(KernelError::Cancelled));
        assert_eq!(silhouettes(good.view(), &[], &|| false).unwrap(), Vec::<Vec<f64>>::new());
        assert_eq!(silhouettes(Array2::zeros((0, 2)).view(), &[&[]], &|| false).unwrap(), [Vec::<f64>::new()]);
        assert_eq!(mean(&[]), 0.0);
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let data = Array2::from_shape_fn((700, 3), |(i, j)| ((i * 37 + j * 101) % 97) as f64 / 7.0);
        let labels: Vec<usize> = (0..700).map(|i| i % 5).collect();
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| silhouettes(data.view(), &[&labels], &|| false)).unwrap()
        };
        assert_eq!(with(1), with(3));
    }

    proptest! {
        #[test]
        fn every_labelling_agrees_with_the_definition(
            points in prop::collection::vec((prop::array::uniform2(-10.0..10.0_f64), 0..4_usize, 0..3_usize), 1..40)
        ) {
            let data = Array2::from_shape_fn((points.len(), 2), |(i, j)| points[i].0[j]);
            let first: Vec<usize> = points.iter().map(|p| p.1).collect();
            let second: Vec<usize> = points.iter().map(|p| p.2).collect();
            let found = silhouettes(data.view(), &[&first, &second], &|| false).unwrap();
            for (scores, labels) in found.iter().zip([&first, &second]) {
                for (score, expected) in scores.iter().zip(naive(&data, labels)) {
                    prop_assert!((score - expected).abs() < 1e-9, "{} is not {}", score, expected);
                }
            }
        }
    }
}
