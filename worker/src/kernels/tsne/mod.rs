//! t-SNE in two dimensions.
//!
//! Our own loop. bhtsne 0.7 sums over threads in an order that varies, so that equal seeds give different maps; it caps the
//! adaptive gains at 2 and ends at a divergence a third above scikit-learn's in the same number of iterations; and it
//! cannot be stopped. The schedule here is scikit-learn's; every sum has a fixed order.

mod affinity;
mod repulsion;

use ndarray::{Array2, ArrayView2, Axis};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{RngCore, SeedableRng},
};
use rayon::prelude::*;

use super::{KernelError, pca, scale::check_finite};
use affinity::Affinities;
use repulsion::Repulsion;

/// Factor on the affinities in the first part of the descent, which lets clusters form.
const EXAGGERATION: f64 = 12.0;
/// Length of that part, at most.
const EXAGGERATED: usize = 250;
/// Spread (standard deviation) of the first axis at the start.
const START: f64 = 1e-4;
/// Points per task when forces are summed.
const CHUNK: usize = 256;

/// How to draw the map.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Effective number of neighbours of a point, at least 1; see [`usable_perplexity`].
    pub perplexity: f64,
    pub iterations: usize,
    pub seed: u64,
}

/// A map and its quality.
#[derive(Debug, Clone, PartialEq)]
pub struct Map {
    /// `(n, 2)`, centred.
    pub coordinates: Array2<f64>,
    /// Kullback-Leibler divergence of the map's similarities from the data's, in nats; computed exactly.
    pub divergence: f64,
}

/// Gives the perplexity to use for `rows` points, and why it is not the one asked for.
///
/// A point needs three times as many neighbours as its perplexity to be described, so at most `(rows - 1) / 3` is used.
#[must_use]
pub fn usable_perplexity(asked: f64, rows: usize) -> (f64, Option<String>) {
    let most = (rows.saturating_sub(1) as f64 / 3.0).max(1.0);
    if asked <= most {
        return (asked, None);
    }
    (most, Some(format!("perplexity {asked} is too large for {rows} rows: {most:.2} was used")))
}

/// Draws points so that neighbours in the data are neighbours in the map.
///
/// Shapes: `data` `(n, m)`, finite. Starts from the first two principal components (with a trace of noise from the seed,
/// which parts equal rows), then descends with early exaggeration, momentum and adaptive gains.
/// `watch` is called after every iteration with its number from 1 and stops the descent by returning false.
/// Cost: `O(n^2 m)` once for the neighbours and `O(n log n)` per iteration (Barnes-Hut). Deterministic for a seed, whatever
/// the number of threads. Source: van der Maaten, JMLR 15 (2014); learning rate of Belkina et al., Nat. Commun. 10 (2019).
///
/// # Errors
/// `Shape` if there is no row or no column; `Invalid` if the perplexity is unusable for `n`; `NotFinite` with the first bad
/// cell; `Cancelled` when `watch` says so.
pub fn draw(
    data: ArrayView2<'_, f64>,
    settings: &Settings,
    watch: &mut dyn FnMut(usize) -> bool,
) -> Result<Map, KernelError> {
    let rows = data.nrows();
    if rows == 0 || data.ncols() == 0 {
        return Err(KernelError::Shape(format!("a map needs rows and columns, not {rows} and {}", data.ncols())));
    }
    let (usable, reason) = usable_perplexity(settings.perplexity, rows);
    if let Some(reason) = reason {
        return Err(KernelError::Invalid(reason));
    }
    if usable.is_nan() || usable < 1.0 {
        return Err(KernelError::Invalid(format!("the perplexity must be at least 1, not {usable}")));
    }
    check_finite(data)?;
    if rows == 1 {
        return Ok(Map { coordinates: Array2::zeros((1, 2)), divergence: 0.0 });
    }
    let affinities = Affinities::new(data, settings.perplexity);
    let mut descent = Descent::new(start(data, settings.seed)?, &affinities);
    let exaggerated = EXAGGERATED.min(settings.iterations / 4);
    for iteration in 0..settings.iterations {
        if iteration < exaggerated {
            descent.step(EXAGGERATION, 0.5);
        } else {
            descent.step(1.0, 0.8);
        }
        if !watch(iteration + 1) {
            return Err(KernelError::Cancelled);
        }
    }
    let divergence = affinities.divergence(&descent.points);
    if !divergence.is_finite() {
        return Err(KernelError::Backend("the map ran away to infinity".to_owned()));
    }
    let coordinates = Array2::from_shape_fn((rows, 2), |(i, axis)| descent.points[i][axis]);
    Ok(Map { coordinates, divergence })
}

/// Gives the first two principal components, shrunk, with a trace of noise.
fn start(data: ArrayView2<'_, f64>, seed: u64) -> Result<Vec<[f64; 2]>, KernelError> {
    let found = pca::fit(data, 2)?.coordinates;
    let first = found.column(0);
    let deviation = (first.iter().map(|x| x * x).sum::<f64>() / first.len() as f64).sqrt();
    let shrink = if deviation > 0.0 { START / deviation } else { 0.0 };
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    // Of (-1, 1), times a hundredth of the spread: parts equal rows, which would stay one point for ever.
    let mut noise = || ((rng.next_u64() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0) * START * 0.01;
    Ok(found
        .axis_iter(Axis(0))
        .map(|row| [0, 1].map(|axis| row.get(axis).copied().unwrap_or(0.0) * shrink + noise()))
        .collect())
}

/// Gradient descent with momentum and one adaptive gain per coordinate.
struct Descent<'a> {
    affinities: &'a Affinities,
    repulsion: Repulsion,
    points: Vec<[f64; 2]>,
    velocity: Vec<[f64; 2]>,
    gains: Vec<[f64; 2]>,
    rate: f64,
}

impl<'a> Descent<'a> {
    fn new(points: Vec<[f64; 2]>, affinities: &'a Affinities) -> Self {
        let rows = points.len();
        Self {
            affinities,
            repulsion: Repulsion::default(),
            velocity: vec![[0.0; 2]; rows],
            gains: vec![[1.0; 2]; rows],
            // Of the gradient with its factor 4: n / exaggeration, not below 200, as scikit-learn's `auto`.
            rate: (rows as f64 / EXAGGERATION).max(200.0),
            points,
        }
    }

    fn step(&mut self, exaggeration: f64, momentum: f64) {
        let (repulsive, normaliser) = self.repulsion.forces(&self.points);
        let (points, affinities, rate) = (&self.points, self.affinities, self.rate);
        let descend = |i: usize, velocity: &mut [f64; 2], gains: &mut [f64; 2]| {
            let attractive = affinities.attraction(points, i);
            for axis in 0..2 {
                let gradient = exaggeration * attractive[axis] - repulsive[i][axis] / normaliser;
                let downhill = gradient * velocity[axis] < 0.0;
                gains[axis] = if downhill { gains[axis] + 0.2 } else { (gains[axis] * 0.8).max(0.01) };
                velocity[axis] = momentum * velocity[axis] - rate * gains[axis] * gradient;
            }
        };
        self.velocity.par_chunks_mut(CHUNK).zip(self.gains.par_chunks_mut(CHUNK)).enumerate().for_each(
            |(chunk, (velocities, gains))| {
                for (offset, (velocity, gains)) in velocities.iter_mut().zip(gains).enumerate() {
                    descend(chunk * CHUNK + offset, velocity, gains);
                }
            },
        );
        self.advance();
    }

    /// Moves the points and puts their mean back to the origin.
    fn advance(&mut self) {
        let mut mean = [0.0; 2];
        for (point, velocity) in self.points.iter_mut().zip(&self.velocity) {
            for axis in 0..2 {
                point[axis] += velocity[axis];
                mean[axis] += point[axis];
            }
        }
        let rows = self.points.len() as f64;
        for point in &mut self.points {
            for axis in 0..2 {
                point[axis] -= mean[axis] / rows;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn blobs() -> Array2<f64> {
        let noise = |i: usize, j: usize| ((i * 7 + j) as f64 * 12.9898).sin();
        Array2::from_shape_fn((90, 4), |(i, j)| (i / 30 * 20) as f64 + noise(i, j))
    }

    fn settings(perplexity: f64, iterations: usize, seed: u64) -> Settings {
        Settings { perplexity, iterations, seed }
    }

    #[test]
    fn the_map_is_no_worse_than_that_of_linfa_on_the_same_points() {
        use linfa::traits::Transformer as _;

        let points = blobs();
        let ours = draw(points.view(), &settings(10.0, 500, 1), &mut |_| true).unwrap();
        let params = linfa_tsne::TSneParams::embedding_size(2).perplexity(10.0).approx_threshold(0.5).max_iter(500);
        let theirs: Array2<f64> = params.transform(points.clone()).unwrap();
        let theirs: Vec<[f64; 2]> = theirs.rows().into_iter().map(|row| [row[0], row[1]]).collect();
        let divergence = Affinities::new(points.view(), 10.0).divergence(&theirs);
        assert!(ours.divergence <= divergence * 1.05, "ours {}, linfa {divergence}", ours.divergence);
    }

    #[test]
    fn neighbours_stay_neighbours() {
        let map = draw(blobs().view(), &settings(10.0, 500, 1), &mut |_| true).unwrap();
        let distance =
            |i: usize, j: usize| (&map.coordinates.row(i) - &map.coordinates.row(j)).mapv(|d| d * d).sum().sqrt();
        for i in 0..90 {
            let nearest = (0..90).filter(|&j| j != i).min_by(|&a, &b| distance(i, a).total_cmp(&distance(i, b)));
            assert_eq!(nearest.unwrap() / 30, i / 30, "point {i} landed among strangers");
        }
        assert!(map.divergence > 0.0 && map.divergence < 1.0, "{}", map.divergence);
        assert!(map.coordinates.sum_axis(Axis(0)).iter().all(|x| x.abs() < 1e-6), "centred");
    }

    #[test]
    fn a_seed_decides_the_map_and_the_number_of_threads_does_not() {
        let data = blobs();
        let with = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| draw(data.view(), &settings(10.0, 60, seed), &mut |_| true)).unwrap()
        };
        assert_eq!(with(1, 7), with(3, 7));
        assert_ne!(with(1, 7).coordinates, with(1, 8).coordinates);
    }

    #[test]
    fn more_iterations_lower_the_divergence() {
        let data = blobs();
        let after = |iterations| draw(data.view(), &settings(10.0, iterations, 1), &mut |_| true).unwrap().divergence;
        assert!(after(600) < after(40));
    }

    #[test]
    fn the_perplexity_is_bounded_by_the_rows_and_says_so() {
        assert_eq!(usable_perplexity(30.0, 91), (30.0, None));
        let (used, reason) = usable_perplexity(30.0, 31);
        assert_eq!(used, 10.0);
        assert_eq!(reason.unwrap(), "perplexity 30 is too large for 31 rows: 10.00 was used");
        assert_eq!(usable_perplexity(30.0, 0).0, 1.0);
        assert!(matches!(draw(blobs().view(), &settings(31.0, 1, 1), &mut |_| true), Err(KernelError::Invalid(_))));
        assert!(matches!(draw(blobs().view(), &settings(0.5, 1, 1), &mut |_| true), Err(KernelError::Invalid(_))));
    }

    #[test]
    fn few_or_equal_rows_get_a_map() {
        for rows in 1..6 {
            for value in [0.0, 1.0] {
                let data = Array2::from_shape_fn((rows, 3), |(i, j)| value * (i * 3 + j) as f64);
                let map = draw(data.view(), &settings(1.0, 100, 3), &mut |_| true).unwrap();
                assert_eq!(map.coordinates.dim(), (rows, 2));
                assert!(map.coordinates.iter().all(|x| x.is_finite()));
            }
        }
        assert!(matches!(
            draw(Array2::zeros((0, 3)).view(), &settings(1.0, 1, 1), &mut |_| true),
            Err(KernelError::Shape(_))
        ));
    }

    #[test]
    fn a_stop_is_obeyed_at_once() {
        let mut calls = 0;
        let stopped = draw(blobs().view(), &settings(10.0, 1000, 1), &mut |iteration| {
            calls += 1;
            iteration < 3
        });
        assert_eq!(stopped, Err(KernelError::Cancelled));
        assert_eq!(calls, 3);
    }
}
