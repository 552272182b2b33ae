//! Plain Lloyd steps.

use ndarray::{Array2, ArrayView1, ArrayView2};

use super::Clustering;

/// Runs plain Lloyd steps until no row changes its cluster, then moves single rows, and measures the result.
pub(super) fn polish(data: ArrayView2<'_, f64>, centroids: Array2<f64>, max_iter: usize) -> Clustering {
    let (mut centroids, mut labels) = settle(data, centroids, max_iter);
    for _ in 0..max_iter {
        if !exchange(data, &mut centroids, &mut labels) {
            break;
        }
    }
    // Where single moves pay no more, no row is nearer to another centroid: this measures, and clears rounding.
    let (centroids, labels) = settle(data, centroids, max_iter);
    let mut sizes = vec![0; centroids.nrows()];
    let mut inertia = 0.0;
    for (row, label) in data.rows().into_iter().zip(&labels) {
        sizes[*label] += 1;
        inertia += squared(row, centroids.row(*label));
    }
    Clustering { centroids, labels, sizes, inertia }
}

/// Repeats Lloyd's two steps until the labels stay.
pub(super) fn settle(
    data: ArrayView2<'_, f64>,
    mut centroids: Array2<f64>,
    max_iter: usize,
) -> (Array2<f64>, Vec<usize>) {
    let (mut labels, mut distances) = assign(data, centroids.view());
    for _ in 0..max_iter {
        centroids = means(data, &labels, &distances, centroids);
        let (next, d) = assign(data, centroids.view());
        distances = d;
        if next == labels {
            break;
        }
        labels = next;
    }
    (centroids, labels)
}

/// Moves each row, in order, to the cluster where the sum of squares falls most, the shift of both centroids counted; says
/// whether any moved. Lloyd's steps do not count that shift and stop at poor minima when a cluster is as small as those of
/// the few largest customers.
/// Source: Telgarsky and Vattani, "Hartigan's method: k-means clustering without Voronoi", AISTATS 2010.
fn exchange(data: ArrayView2<'_, f64>, centroids: &mut Array2<f64>, labels: &mut [usize]) -> bool {
    let mut counts = vec![0.0_f64; centroids.nrows()];
    for label in labels.iter() {
        counts[*label] += 1.0;
    }
    let mut moved = false;
    for (row, label) in data.rows().into_iter().zip(labels.iter_mut()) {
        let own = *label;
        if counts[own] < 2.0 {
            continue;
        }
        let saved = counts[own] / (counts[own] - 1.0) * squared(row, centroids.row(own));
        let (cost, other) = (0..counts.len())
            .filter(|c| *c != own)
            .map(|c| (counts[c] / (counts[c] + 1.0) * squared(row, centroids.row(c)), c))
            .fold((f64::INFINITY, own), |best, next| if next.0 < best.0 { next } else { best });
        // Beyond rounding, so that no two rows change places for ever.
        if cost >= saved * (1.0 - 1e-9) {
            continue;
        }
        let (left, joined) = (counts[own] - 1.0, counts[other] + 1.0);
        centroids.row_mut(own).zip_mut_with(&row, |c, x| *c += (*c - x) / left);
        centroids.row_mut(other).zip_mut_with(&row, |c, x| *c += (x - *c) / joined);
        (counts[own], counts[other], *label) = (left, joined, other);
        moved = true;
    }
    moved
}

/// Gives the nearest centroid of every row (the first of equals) and the squared distance to it.
///
/// Shapes: `data` `(n, m)`, `centroids` `(k, m)` with `k >= 1`.
#[must_use]
pub fn assign(data: ArrayView2<'_, f64>, centroids: ArrayView2<'_, f64>) -> (Vec<usize>, Vec<f64>) {
    let centroids = centroids.as_standard_layout();
    let centroids: Vec<&[f64]> = centroids.rows().into_iter().filter_map(|row| row.to_slice()).collect();
    let nearest = |row: &[f64]| {
        centroids.iter().enumerate().fold((0, f64::INFINITY), |best, (c, centroid)| {
            let d = row.iter().zip(*centroid).fold(0.0, |sum, (x, y)| sum + (x - y) * (x - y));
            if d < best.1 { (c, d) } else { best }
        })
    };
    let data = data.as_standard_layout();
    data.rows().into_iter().map(|row| row.to_slice().map_or((0, f64::INFINITY), nearest)).unzip()
}

/// Gives the mean of every cluster. A cluster that lost all rows takes the row farthest from its centroid.
fn means(data: ArrayView2<'_, f64>, labels: &[usize], distances: &[f64], old: Array2<f64>) -> Array2<f64> {
    let mut sums = Array2::<f64>::zeros(old.raw_dim());
    let mut counts = vec![0_usize; old.nrows()];
    for (row, label) in data.rows().into_iter().zip(labels) {
        counts[*label] += 1;
        for (sum, x) in sums.row_mut(*label).iter_mut().zip(row) {
            *sum += x;
        }
    }
    let empty: Vec<usize> = (0..counts.len()).filter(|c| counts[*c] == 0).collect();
    if !empty.is_empty() {
        let mut farthest: Vec<usize> = (0..labels.len()).filter(|&i| distances[i] > 0.0).collect();
        farthest.sort_by(|&a, &b| distances[b].total_cmp(&distances[a]).then(a.cmp(&b)));
        let mut farthest = farthest.into_iter();
        for c in empty {
            // The donor keeps at least one row, or its own cluster would be the next to vanish.
            if let Some(i) = farthest.by_ref().find(|&i| counts[labels[i]] > 1) {
                counts[labels[i]] -= 1;
                let row = data.row(i);
                sums.row_mut(labels[i]).zip_mut_with(&row, |sum, x| *sum -= x);
                sums.row_mut(c).assign(&row);
                counts[c] = 1;
            } else {
                sums.row_mut(c).assign(&old.row(c));
            }
        }
    }
    for (mut sum, count) in sums.rows_mut().into_iter().zip(counts) {
        sum /= count.max(1) as f64;
    }
    sums
}

/// Gives the squared Euclidean distance.
pub(super) fn squared(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum()
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn a_step_takes_the_mean_of_the_rows_alone() {
        // linfa's update would count the old centroid too and give (0 + 2 + 4 + 4) / 4 for the first.
        let data = array![[0.0], [2.0], [4.0], [20.0]];
        let found = polish(data.view(), array![[4.0], [20.0]], 300);
        assert_eq!(found.centroids, array![[2.0], [20.0]]);
        assert_eq!((found.labels, found.sizes, found.inertia), (vec![0, 0, 0, 1], vec![3, 1], 8.0));
    }

    #[test]
    fn a_row_moves_where_the_shift_of_the_centroids_pays() {
        // From {9, 10} and {0, 0, 0, 4, 4.5} no row is nearer to the other centroid after Lloyd's steps, but 4.5 goes over:
        // its way out saves 5/4 of (4.5 - 1.7)^2 = 9.8 and its way in costs 2/3 of (9.5 - 4.5)^2 = 16.7: it does not.
        // With 6 in place of 4.5: saves 5/4 * (6 - 2)^2 = 20, costs 2/3 * (9.5 - 6)^2 = 8.2: it does.
        let mut centroids = array![[2.0], [9.5]];
        let mut labels = vec![0, 0, 0, 0, 0, 1, 1];
        let data = array![[0.0], [0.0], [0.0], [4.0], [6.0], [9.0], [10.0]];
        assert!(exchange(data.view(), &mut centroids, &mut labels));
        assert_eq!(labels, [0, 0, 0, 0, 1, 1, 1]);
        assert!((&centroids - &array![[1.0], [25.0 / 3.0]]).iter().all(|d| d.abs() < 1e-12));
        assert!(!exchange(data.view(), &mut centroids, &mut labels));
    }

    #[test]
    fn an_empty_cluster_takes_the_farthest_row() {
        let data = array![[0.0], [1.0], [10.0], [11.0]];
        let found = polish(data.view(), array![[5.0], [100.0], [200.0]], 300);
        assert!(found.sizes.iter().all(|size| *size > 0), "{found:?}");
        assert_eq!(found.inertia, 0.5);
    }

    #[test]
    fn equal_rows_leave_a_cluster_empty_rather_than_turn_forever() {
        let found = polish(array![[1.0], [1.0]].view(), array![[1.0], [1.0]], 300);
        assert_eq!((found.sizes, found.inertia), (vec![2, 0], 0.0));
    }
}
