//! Initial centroids by greedy k-means++.

use ndarray::{Array2, ArrayView2, Axis};
use rand_xoshiro::rand_core::RngCore;

use super::lloyd::{self, squared};

/// Lloyd steps before centroids are joined: enough to find their place roughly.
const SETTLING: usize = 5;

/// Gives a number of `[0, 1)`.
fn unit(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Chooses initial centroids by greedy k-means++: of `2 + ln k` candidates drawn in proportion to their squared distance
/// from the nearest centroid, the one that lowers the sum of those distances most.
/// Source: Arthur and Vassilvitskii, SODA 2007; the greedy variant is the one of scikit-learn.
pub(super) fn choose(data: ArrayView2<'_, f64>, k: usize, rng: &mut impl RngCore) -> Array2<f64> {
    let trials = 2 + (k as f64).ln() as usize;
    let first = (unit(rng) * data.nrows() as f64) as usize;
    let mut chosen = vec![first];
    let mut nearest: Vec<f64> = data.rows().into_iter().map(|row| squared(row, data.row(first))).collect();
    while chosen.len() < k {
        let cumulated: Vec<f64> = nearest
            .iter()
            .scan(0.0, |sum, d| {
                *sum += d;
                Some(*sum)
            })
            .collect();
        let total = cumulated.last().copied().unwrap_or(0.0);
        let (_, point, distances) = (0..trials)
            .map(|_| {
                let draw = unit(rng) * total;
                // Strictly above the draw: a point that is a centroid already has no share and is not drawn.
                let point = cumulated.partition_point(|sum| *sum <= draw).min(data.nrows() - 1);
                let there = data.row(point);
                let distances: Vec<f64> =
                    data.rows().into_iter().zip(&nearest).map(|(row, d)| squared(row, there).min(*d)).collect();
                (distances.iter().sum::<f64>(), point, distances)
            })
            .reduce(|best, next| if next.0 < best.0 { next } else { best })
            .expect("there are two candidates at least");
        chosen.push(point);
        nearest = distances;
    }
    data.select(Axis(0), &chosen)
}

/// Chooses twice as many centroids, lets them settle for a few steps, and joins those whose union costs least (Ward) until `k`
/// are left. k-means++ is drawn to the farthest rows: where a handful of rows lies far out it hardly ever starts without a
/// centroid on them, even when the best clustering has none there. Starts made this way do.
pub(super) fn merge_down(data: ArrayView2<'_, f64>, k: usize, rng: &mut impl RngCore) -> Array2<f64> {
    let many = (2 * k).min(data.nrows());
    let (centroids, labels) = lloyd::settle(data, choose(data, many, rng), SETTLING);
    let mut sizes = vec![0; many];
    for label in labels {
        sizes[label] += 1;
    }
    join(centroids.view(), &sizes, k)
}

/// Joins clusters, the pair whose union costs least first, until at most `k` are left, and gives their centroids.
pub(super) fn join(centroids: ArrayView2<'_, f64>, sizes: &[usize], k: usize) -> Array2<f64> {
    let mut parts: Vec<(f64, Vec<f64>)> =
        centroids.rows().into_iter().zip(sizes).map(|(row, size)| (*size as f64, row.to_vec())).collect();
    while parts.len() > k.max(1) {
        let (mut least, mut pair) = (f64::INFINITY, (0, 1));
        for b in 1..parts.len() {
            for a in 0..b {
                let cost = union_cost(&parts[a], &parts[b]);
                if cost < least {
                    (least, pair) = (cost, (a, b));
                }
            }
        }
        let (gone, centroid) = parts.swap_remove(pair.1);
        let (size, kept) = &mut parts[pair.0];
        *size += gone;
        for (x, y) in kept.iter_mut().zip(centroid) {
            *x += (y - *x) * gone / size.max(1.0);
        }
    }
    Array2::from_shape_fn((parts.len(), centroids.ncols()), |(c, j)| parts[c].1[j])
}

/// By how much the sum of squares grows when two clusters, of size and centroid, become one.
fn union_cost((n, a): &(f64, Vec<f64>), (m, b): &(f64, Vec<f64>)) -> f64 {
    let apart: f64 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
    apart * n * m / (n + m).max(1.0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ndarray::array;
    use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};

    use super::*;

    #[test]
    fn centroids_are_different_rows_while_there_are_any() {
        let data = array![[0.0], [0.0], [0.0], [5.0], [9.0]];
        for seed in 0..50 {
            let found = choose(data.view(), 3, &mut Xoshiro256PlusPlus::seed_from_u64(seed));
            let distinct: BTreeSet<u64> = found.iter().map(|x| x.to_bits()).collect();
            assert_eq!(distinct.len(), 3, "{found}");
            assert_eq!(choose(data.view(), 5, &mut Xoshiro256PlusPlus::seed_from_u64(seed)).nrows(), 5);
        }
    }

    #[test]
    fn joining_starts_with_the_clusters_whose_union_costs_least() {
        let data = array![[0.0], [1.0], [10.0], [11.0], [50.0], [51.0]];
        for seed in 0..20 {
            let mut found =
                merge_down(data.view(), 3, &mut Xoshiro256PlusPlus::seed_from_u64(seed)).into_raw_vec_and_offset().0;
            found.sort_by(f64::total_cmp);
            assert_eq!(found, [0.5, 10.5, 50.5]);
        }
        assert_eq!(union_cost(&(1.0, vec![0.0]), &(3.0, vec![4.0])), 12.0, "0 and 4, 4, 4: from 0 to 9 + 3");
    }
}
