//! How similar the points are in the data: a sparse, symmetric probability of every pair.

use ndarray::ArrayView2;
use rayon::prelude::*;

/// Steps of the search for a bandwidth; each halves the interval or doubles the guess.
const STEPS: usize = 100;
/// Accepted difference of entropies, in nats.
const TOLERANCE: f64 = 1e-5;
/// Neighbours whose forces are computed side by side.
const LANES: usize = 4;

/// Probabilities of pairs, by row. They sum to 1.
#[derive(Debug)]
pub(super) struct Affinities {
    /// Where the pairs of a row start; one more entry than rows.
    starts: Vec<usize>,
    others: Vec<u32>,
    values: Vec<f64>,
}

impl Affinities {
    /// Calibrates a Gaussian around every point on its `3 * perplexity + 1` nearest neighbours, as scikit-learn does, and
    /// makes the result symmetric. Needs at least two rows and `perplexity >= 1`.
    pub(super) fn new(data: ArrayView2<'_, f64>, perplexity: f64) -> Self {
        let rows = data.nrows();
        let wanted = ((3.0 * perplexity + 1.0) as usize).min(rows - 1);
        let columns: Vec<Vec<f64>> = data.columns().into_iter().map(|column| column.to_vec()).collect();
        let directed: Vec<Vec<(u32, f64)>> = (0..rows)
            .into_par_iter()
            .map_init(
                || (vec![0.0; rows], Vec::with_capacity(rows)),
                |(distances, order), i| {
                    let mut near = nearest(&columns, i, wanted, distances, order);
                    calibrate(&mut near, perplexity);
                    near
                },
            )
            .collect();
        Self::symmetric(&directed)
    }

    /// Adds every row to its transpose and divides by the sum. The pairs of a row come in the order of the other point.
    fn symmetric(directed: &[Vec<(u32, f64)>]) -> Self {
        let mut rows: Vec<Vec<(u32, f64)>> = directed.to_vec();
        for (i, near) in directed.iter().enumerate() {
            for (j, p) in near {
                rows[*j as usize].push((i as u32, *p));
            }
        }
        let (mut starts, mut others, mut values) = (vec![0], Vec::new(), Vec::<f64>::new());
        for mut row in rows {
            // Stable: of a pair that is in both directions, the row's own share is added first.
            row.sort_by_key(|(j, _)| *j);
            let first = others.len();
            for (j, p) in row {
                if others.len() > first && others.last() == Some(&j) {
                    if let Some(value) = values.last_mut() {
                        *value += p;
                    }
                } else {
                    others.push(j);
                    values.push(p);
                }
            }
            starts.push(others.len());
        }
        let sum: f64 = values.iter().sum();
        for value in &mut values {
            *value /= sum;
        }
        Self { starts, others, values }
    }

    /// Gives the pull on point `i`: the sum over its pairs of `p * (y_i - y_j) / (1 + |y_i - y_j|^2)`.
    pub(super) fn attraction(&self, points: &[[f64; 2]], i: usize) -> [f64; 2] {
        let span = self.starts[i]..self.starts[i + 1];
        let (others, values) = (&self.others[span.clone()], &self.values[span]);
        let here = points[i];
        let mut force = [[0.0; LANES]; 2];
        let (blocks, values_blocks) = (others.chunks_exact(LANES), values.chunks_exact(LANES));
        let (rest, values_rest) = (blocks.remainder(), values_blocks.remainder());
        for (block, values) in blocks.zip(values_blocks) {
            let mut dx = [0.0; LANES];
            let mut dy = [0.0; LANES];
            for lane in 0..LANES {
                let there = points[block[lane] as usize];
                dx[lane] = here[0] - there[0];
                dy[lane] = here[1] - there[1];
            }
            for lane in 0..LANES {
                let weight = values[lane] / (1.0 + dx[lane] * dx[lane] + dy[lane] * dy[lane]);
                force[0][lane] += weight * dx[lane];
                force[1][lane] += weight * dy[lane];
            }
        }
        let mut sum = force.map(|lanes| lanes.iter().sum::<f64>());
        for (j, p) in rest.iter().zip(values_rest) {
            let there = points[*j as usize];
            let (dx, dy) = (here[0] - there[0], here[1] - there[1]);
            let weight = p / (1.0 + dx * dx + dy * dy);
            sum[0] += weight * dx;
            sum[1] += weight * dy;
        }
        sum
    }

    /// Computes the Kullback-Leibler divergence of a map exactly, the normaliser over all pairs included. `O(n^2)`.
    pub(super) fn divergence(&self, points: &[[f64; 2]]) -> f64 {
        let partial: Vec<f64> = (0..points.len())
            .into_par_iter()
            .map(|i| points[i + 1..].iter().map(|there| similarity(points[i], *there)).sum())
            .collect();
        let normaliser = 2.0 * partial.iter().sum::<f64>();
        let rows: Vec<f64> = (0..points.len())
            .into_par_iter()
            .map(|i| {
                let span = self.starts[i]..self.starts[i + 1];
                let pairs = self.others[span.clone()].iter().zip(&self.values[span]);
                pairs
                    .filter(|(_, p)| **p > 0.0)
                    .map(|(j, p)| p * (p * normaliser / similarity(points[i], points[*j as usize])).ln())
                    .sum()
            })
            .collect();
        rows.iter().sum()
    }
}

/// Student's kernel with one degree of freedom.
fn similarity(a: [f64; 2], b: [f64; 2]) -> f64 {
    1.0 / (1.0 + (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2))
}

/// Gives the `wanted` nearest points of `i` with their squared distances, nearest first; equal distances by number.
fn nearest(
    columns: &[Vec<f64>],
    i: usize,
    wanted: usize,
    distances: &mut [f64],
    order: &mut Vec<u32>,
) -> Vec<(u32, f64)> {
    distances.fill(0.0);
    for column in columns {
        let here = column[i];
        for (sum, there) in distances.iter_mut().zip(column) {
            let d = there - here;
            *sum += d * d;
        }
    }
    order.clear();
    order.extend((0..distances.len() as u32).filter(|j| *j as usize != i));
    let closer = |a: &u32, b: &u32| distances[*a as usize].total_cmp(&distances[*b as usize]).then_with(|| a.cmp(b));
    if wanted < order.len() {
        order.select_nth_unstable_by(wanted, closer);
        order.truncate(wanted);
    }
    order.sort_unstable_by(closer);
    order.iter().map(|j| (*j, distances[*j as usize])).collect()
}

/// Turns squared distances into probabilities whose perplexity is the wanted one, by bisection on the bandwidth.
fn calibrate(near: &mut [(u32, f64)], perplexity: f64) {
    let wanted = perplexity.ln();
    // Distances count from the nearest: the probabilities are the same and the largest exponential is 1.
    let nearest = near.first().map_or(0.0, |(_, d)| *d);
    let (mut beta, mut low, mut high) = (1.0_f64, 0.0_f64, f64::INFINITY);
    for _ in 0..STEPS {
        let (mut sum, mut weighted) = (0.0, 0.0);
        for (_, d) in near.iter() {
            let p = (-beta * (d - nearest)).exp();
            sum += p;
            weighted += (d - nearest) * p;
        }
        let surplus = sum.ln() + beta * weighted / sum - wanted;
        if surplus.abs() <= TOLERANCE {
            break;
        }
        if surplus > 0.0 {
            low = beta;
            beta = if high.is_finite() { f64::midpoint(beta, high) } else { beta * 2.0 };
        } else {
            high = beta;
            beta = f64::midpoint(beta, low);
        }
    }
    let mut sum = 0.0;
    for (_, d) in near.iter_mut() {
        *d = (-beta * (*d - nearest)).exp();
        sum += *d;
    }
    for (_, p) in near {
        *p /= sum;
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};

    use super::*;

    #[test]
    fn the_bandwidth_gives_the_wanted_perplexity() {
        let mut near: Vec<(u32, f64)> = (0..91).map(|j| (j, f64::from(j * j) / 100.0)).collect();
        calibrate(&mut near, 30.0);
        let entropy: f64 = near.iter().map(|(_, p)| -p * p.ln()).sum();
        assert!((entropy.exp() - 30.0).abs() < 1e-2, "{}", entropy.exp());
    }

    #[test]
    fn equal_or_far_neighbours_are_no_trouble() {
        let mut equal = vec![(0, 5.0); 4];
        calibrate(&mut equal, 2.0);
        assert_eq!(equal, [(0, 0.25); 4]);
        let mut far = vec![(0, 0.0), (1, 1e300), (2, 1e300)];
        calibrate(&mut far, 1.5);
        assert!(far.iter().all(|(_, p)| p.is_finite()), "{far:?}");
    }

    #[test]
    fn affinities_are_symmetric_and_sum_to_1() {
        let data = Array2::from_shape_fn((50, 2), |(i, j)| ((i * 31 + j * 17) % 23) as f64);
        let p = Affinities::new(data.view(), 5.0);
        assert!((p.values.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let mut dense = Array2::<f64>::zeros((50, 50));
        for i in 0..50 {
            for pair in p.starts[i]..p.starts[i + 1] {
                dense[[i, p.others[pair] as usize]] += p.values[pair];
            }
        }
        assert!((&dense - &dense.t()).iter().all(|x| x.abs() < 1e-15));
        assert!(dense.diag().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn the_divergence_of_a_worked_map_comes_out() {
        // Three points, all pairs alike in the data: p = 1/6 for each of the six ordered pairs. In the map the first two are
        // at distance 1 and the third at distance 2 from the first and 1 from the second: similarities 1/2, 1/5, 1/2,
        // normaliser 2.4.
        let data = array![[0.0, 0.0], [1.0, 0.0], [0.5, 0.75_f64.sqrt()]];
        let p = Affinities::new(data.view(), 2.0);
        let divergence = p.divergence(&[[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]]);
        let q = [0.5 / 2.4, 0.2 / 2.4, 0.5 / 2.4];
        let expected: f64 = q.iter().map(|q: &f64| 2.0 / 6.0 * (1.0 / 6.0 / q).ln()).sum();
        assert!((divergence - expected).abs() < 1e-6, "{divergence} is not {expected}");
    }

    #[test]
    fn the_pull_is_the_sum_over_the_pairs() {
        let data = Array2::from_shape_fn((20, 2), |(i, j)| (i * (j + 1)) as f64);
        let p = Affinities::new(data.view(), 4.0);
        let points: Vec<[f64; 2]> = (0..20).map(|i| [f64::from(i * i % 7), f64::from(i)]).collect();
        let mut expected = [0.0; 2];
        for pair in p.starts[3]..p.starts[4] {
            let j = p.others[pair] as usize;
            for axis in 0..2 {
                expected[axis] +=
                    p.values[pair] * similarity(points[3], points[j]) * (points[3][axis] - points[j][axis]);
            }
        }
        let found = p.attraction(&points, 3);
        assert!((found[0] - expected[0]).abs() < 1e-15 && (found[1] - expected[1]).abs() < 1e-15);
    }
}
