//! K-means with restarts, and the choice of k.
//!
//! Restarts are seeded here by greedy k-means++ and driven by linfa's `KMeans` near a minimum; plain Lloyd steps then finish
//! them. linfa's update counts the old centroid as one more point, and it reports the inertia of the step before and the
//! counts of the last run, so neither its centroids nor its figures are taken as final.

mod choose;
mod lloyd;
mod seed;

use linfa::{DatasetBase, traits::Fit};
use linfa_clustering::{KMeans, KMeansInit};
use ndarray::{Array2, ArrayView2, Axis};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;

use super::{KernelError, scale::check_finite};

pub use choose::{Candidate, Choice, choose};
pub use lloyd::assign;

/// Restarts that are finished, the best ones: the others end in no better minimum in practice, and the last steps are most of
/// the work.
const POLISHED: usize = 4;

/// How to search for one clustering.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Search {
    /// Number of clusters, at least 1.
    pub k: usize,
    /// Number of restarts, at least 1.
    pub restarts: usize,
    /// Most iterations of a restart, at least 1.
    pub max_iter: usize,
    /// A restart is near its minimum when the squared movement of all centroids is below this share of the mean variance of
    /// the columns (scikit-learn's rule). The best restarts go on until no row changes its cluster.
    pub tolerance: f64,
    pub seed: u64,
}

/// One clustering. Clusters are numbered by size, largest first; equal sizes by centroid.
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// `(k, m)`
    pub centroids: Array2<f64>,
    /// Cluster of every row.
    pub labels: Vec<usize>,
    /// Rows in each cluster.
    pub sizes: Vec<usize>,
    /// Sum of squared distances to the centroids.
    pub inertia: f64,
}

/// Finds the clustering of least inertia among the restarts.
///
/// Shapes: `data` `(n, m)`, finite, `n >= k`. Cost: `O(restarts * iterations * n k m)`, restarts in parallel.
/// Deterministic: a restart's generator is derived from seed, k and its number; the earlier restart wins a tie.
///
/// # Errors
/// `Shape` if there are fewer rows than clusters; `Invalid` if a count is 0 or the tolerance not positive; `NotFinite` with
/// the first bad cell; `Cancelled` when `stop` says so between restarts.
pub fn fit(
    data: ArrayView2<'_, f64>,
    search: &Search,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Clustering, KernelError> {
    check(data, search)?;
    let variance = data.var_axis(Axis(0), 0.0).mean().unwrap_or(0.0);
    // linfa compares the movement itself, not its square; and it refuses 0, which constant data would give.
    let movement = (search.tolerance * variance).sqrt().max(f64::MIN_POSITIVE);
    let mut starts: Vec<(f64, Array2<f64>)> = (0..search.restarts)
        .into_par_iter()
        .map(|restart| if stop() { Err(KernelError::Cancelled) } else { run(data, search, movement, restart) })
        .collect::<Result<_, _>>()?;
    starts.sort_by(|a, b| a.0.total_cmp(&b.0));
    starts.truncate(POLISHED);
    let polished: Vec<Clustering> =
        starts.into_par_iter().map(|(_, centroids)| lloyd::polish(data, centroids, search.max_iter)).collect();
    let best = polished
        .into_iter()
        .reduce(|best, next| if next.inertia < best.inertia { next } else { best })
        .expect("at least one restart was checked for");
    Ok(by_size(best))
}

/// Improves the clusterings of a range of k, smallest k first, by each other: from the largest k down, the clustering of one
/// more cluster is tried with its two closest clusters joined, and taken if its inertia is less.
pub fn improve(data: ArrayView2<'_, f64>, found: &mut [Clustering], max_iter: usize) {
    for i in (1..found.len()).rev() {
        let k = found[i - 1].sizes.len();
        if found[i].sizes.len() <= k {
            continue;
        }
        let joined = seed::join(found[i].centroids.view(), &found[i].sizes, k);
        let next = lloyd::polish(data, joined, max_iter);
        // Beyond rounding: the same clustering reached from elsewhere is no improvement.
        if next.inertia < found[i - 1].inertia * (1.0 - 1e-9) {
            found[i - 1] = by_size(next);
        }
    }
}

fn check(data: ArrayView2<'_, f64>, search: &Search) -> Result<(), KernelError> {
    if search.k == 0 || search.restarts == 0 || search.max_iter == 0 {
        return Err(KernelError::Invalid("clusters, restarts and iterations must be at least 1".to_owned()));
    }
    if search.tolerance <= 0.0 || !search.tolerance.is_finite() {
        return Err(KernelError::Invalid(format!("the tolerance must be positive, not {}", search.tolerance)));
    }
    if data.nrows() < search.k || data.ncols() == 0 {
        return Err(KernelError::Shape(format!(
            "{} clusters need as many rows and a column, not {} rows and {} columns",
            search.k,
            data.nrows(),
            data.ncols()
        )));
    }
    check_finite(data)
}

/// Gives the number of different rows: more clusters than that cannot all have a member.
#[must_use]
pub fn distinct_rows(data: ArrayView2<'_, f64>) -> usize {
    // Adding 0 makes one zero of the two.
    let mut rows: Vec<Vec<u64>> =
        data.rows().into_iter().map(|r| r.iter().map(|x| (x + 0.0).to_bits()).collect()).collect();
    rows.sort_unstable();
    rows.dedup();
    rows.len()
}

/// One restart: gives centroids near a minimum and their inertia.
fn run(
    data: ArrayView2<'_, f64>,
    search: &Search,
    movement: f64,
    restart: usize,
) -> Result<(f64, Array2<f64>), KernelError> {
    let mut rng = generator(search, restart);
    // Every other restart starts from joined clusters: see `merge_down` for what k-means++ alone misses.
    let seeds = if restart.is_multiple_of(2) {
        seed::choose(data, search.k, &mut rng)
    } else {
        seed::merge_down(data, search.k, &mut rng)
    };
    let near = KMeans::params(search.k)
        .n_runs(1)
        .init_method(KMeansInit::Precomputed(seeds))
        .max_n_iterations(search.max_iter as u64)
        .tolerance(movement)
        .fit(&DatasetBase::from(data))
        .map_err(|e| KernelError::Backend(format!("linfa k-means: {e}")))?;
    let (_, distances) = assign(data, near.centroids().view());
    Ok((distances.iter().sum(), near.centroids().clone()))
}

/// Mixes seed, k and restart, so that neighbouring seeds share no restart.
fn generator(search: &Search, restart: usize) -> Xoshiro256PlusPlus {
    let mut mixed = search.seed;
    for part in [search.k as u64, restart as u64] {
        mixed = Xoshiro256PlusPlus::seed_from_u64(mixed ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15)).next_u64();
    }
    Xoshiro256PlusPlus::seed_from_u64(mixed)
}

/// Numbers the clusters by size, largest first, ties by centroid.
fn by_size(found: Clustering) -> Clustering {
    let k = found.sizes.len();
    let mut order: Vec<usize> = (0..k).collect();
    order.sort_by(|&a, &b| {
        found.sizes[b].cmp(&found.sizes[a]).then_with(|| {
            let pairs = found.centroids.row(a).into_iter().zip(found.centroids.row(b));
            pairs.map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
        })
    });
    let mut renamed = vec![0; k];
    for (new, old) in order.iter().enumerate() {
        renamed[*old] = new;
    }
    Clustering {
        centroids: found.centroids.select(Axis(0), &order),
        labels: found.labels.iter().map(|label| renamed[*label]).collect(),
        sizes: order.iter().map(|old| found.sizes[*old]).collect(),
        inertia: found.inertia,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    fn search(k: usize) -> Search {
        Search { k, restarts: 5, max_iter: 300, tolerance: 1e-4, seed: 42 }
    }

    fn go(data: &Array2<f64>, k: usize) -> Clustering {
        fit(data.view(), &search(k), &|| false).unwrap()
    }

    #[test]
    fn clusters_are_found_and_numbered_by_size() {
        let data = array![[100.0], [0.0], [1.0], [2.0], [51.0], [49.0]];
        let found = go(&data, 3);
        assert_eq!(found.labels, [2, 0, 0, 0, 1, 1]);
        assert_eq!(found.sizes, [3, 2, 1]);
        assert_eq!(found.centroids, array![[1.0], [50.0], [100.0]]);
        assert_eq!(found.inertia, 4.0);
    }

    #[test]
    fn a_poor_clustering_is_improved_by_that_of_one_more_cluster() {
        let data = array![[0.0], [1.0], [10.0], [11.0], [50.0], [51.0]];
        let poor = Clustering {
            centroids: array![[30.5], [0.5]],
            labels: vec![1, 1, 0, 0, 0, 0],
            sizes: vec![4, 2],
            inertia: 1e6,
        };
        let mut found = vec![poor, go(&data, 3), go(&data, 4)];
        let good = found[1].clone();
        improve(data.view(), &mut found, 300);
        assert_eq!(found[0], go(&data, 2));
        assert_eq!(found[1], good, "what is good stays");
    }

    #[test]
    fn clusters_of_one_size_are_numbered_by_centroid() {
        let found = go(&array![[10.0, 1.0], [-10.0, 5.0], [0.0, 9.0]], 3);
        assert_eq!(found.centroids, array![[-10.0, 5.0], [0.0, 9.0], [10.0, 1.0]]);
    }

    #[test]
    fn the_seed_decides_and_the_number_of_threads_does_not() {
        let data = Array2::from_shape_fn((400, 3), |(i, j)| ((i * 71 + j * 13) as f64).sin() * 5.0);
        let with = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| fit(data.view(), &Search { seed, ..search(6) }, &|| false)).unwrap()
        };
        assert_eq!(with(1, 3), with(3, 3));
        let first = |seed, k, restart| super::RngCore::next_u64(&mut generator(&Search { seed, ..search(k) }, restart));
        let draws = [first(3, 6, 0), first(4, 6, 0), first(3, 7, 0), first(3, 6, 1), first(4, 6, 1)];
        assert_eq!(std::collections::BTreeSet::from(draws).len(), draws.len(), "no two restarts are alike");
    }

    #[test]
    fn unusable_arguments_are_refused() {
        let data = array![[0.0], [1.0]];
        let refused = |search: Search| fit(data.view(), &search, &|| false).unwrap_err();
        assert!(matches!(refused(search(3)), KernelError::Shape(_)));
        assert!(matches!(refused(search(0)), KernelError::Invalid(_)));
        assert!(matches!(refused(Search { tolerance: f64::NAN, ..search(1) }), KernelError::Invalid(_)));
        assert!(matches!(refused(Search { restarts: 0, ..search(1) }), KernelError::Invalid(_)));
        assert_eq!(fit(data.view(), &search(1), &|| true), Err(KernelError::Cancelled));
        let bad = array![[0.0], [f64::INFINITY]];
        assert_eq!(fit(bad.view(), &search(1), &|| false), Err(KernelError::NotFinite { row: 1, column: 0 }));
    }

    #[test]
    fn distinct_rows_are_counted_once() {
        assert_eq!(distinct_rows(array![[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0]].view()), 2);
        assert_eq!(distinct_rows(Array2::zeros((0, 2)).view()), 0);
    }

    proptest! {
        #[test]
        fn every_row_is_with_its_nearest_centroid_and_centroids_are_means(
            points in prop::collection::vec(prop::array::uniform2(-100.0..100.0_f64), 4..60), k in 1..5_usize
        ) {
            let data = Array2::from_shape_fn((points.len(), 2), |(i, j)| points[i][j]);
            let found = go(&data, k);
            let (labels, distances) = assign(data.view(), found.centroids.view());
            prop_assert_eq!(&labels, &found.labels);
            prop_assert!((distances.iter().sum::<f64>() - found.inertia).abs() <= 1e-9 * (1.0 + found.inertia));
            prop_assert_eq!(found.sizes.iter().sum::<usize>(), points.len());
            prop_assert!(found.sizes.windows(2).all(|w| w[0] >= w[1]));
            for (c, size) in found.sizes.iter().enumerate().filter(|(_, size)| **size > 0) {
                let members: Vec<usize> = (0..labels.len()).filter(|i| labels[*i] == c).collect();
                prop_assert_eq!(members.len(), *size);
                let mean = data.select(Axis(0), &members).mean_axis(Axis(0)).unwrap();
                prop_assert!((&mean - &found.centroids.row(c)).iter().all(|d| d.abs() < 1e-9));
            }
        }
    }
}
