//! Why raw features are not clustered: what two clusters of plain standardised features would be.

/// Rounds of reassignment; two clusters settle in far fewer.
const ROUNDS: usize = 100;
/// Outlying customers tried as the start of the second cluster.
const STARTS: usize = 12;

/// Splits customers in two by k-means on standardised columns, and gives the sizes, the smaller first.
///
/// Starts from the mean and each of the most outlying customers, and keeps the split of least inertia: no draw is random.
/// `None` where there are fewer than three customers or a value is missing. Cost: `O(starts * rounds * n * d)`.
pub(super) fn two_means(columns: &[&[f64]]) -> Option<(usize, usize)> {
    let n = columns.first()?.len();
    if n < 3 || columns.iter().any(|c| c.len() != n || c.iter().any(|v| !v.is_finite())) {
        return None;
    }
    let rows = standardised(columns, n);
    let mut far: Vec<usize> = (0..n).collect();
    let length = |row: usize| rows[row].iter().map(|v| v * v).sum::<f64>();
    far.sort_by(|&a, &b| length(b).total_cmp(&length(a)).then(a.cmp(&b)));
    let mut best: Option<(f64, usize)> = None;
    for &start in far.iter().take(STARTS) {
        let (inertia, second) = settle(&rows, rows[start].clone());
        if best.is_none_or(|(least, _)| inertia < least) {
            best = Some((inertia, second));
        }
    }
    best.map(|(_, second)| (second.min(n - second), second.max(n - second)))
}

fn standardised(columns: &[&[f64]], n: usize) -> Vec<Vec<f64>> {
    let count = n as f64;
    let mut rows = vec![Vec::with_capacity(columns.len()); n];
    for column in columns {
        let mean = column.iter().sum::<f64>() / count;
        let deviation = (column.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / count).sqrt();
        let scale = if deviation > 0.0 { deviation } else { 1.0 };
        for (row, value) in rows.iter_mut().zip(*column) {
            row.push((value - mean) / scale);
        }
    }
    rows
}

/// Lloyd's algorithm from the origin and one other centre: inertia, and the size of the other's cluster.
fn settle(rows: &[Vec<f64>], start: Vec<f64>) -> (f64, usize) {
    let mut centres = [vec![0.0; start.len()], start];
    let (mut inertia, mut size) = (f64::INFINITY, 0);
    for _ in 0..ROUNDS {
        let mut sums = [vec![0.0; centres[0].len()], vec![0.0; centres[0].len()]];
        let mut counts = [0.0_f64; 2];
        let (mut total, mut second) = (0.0, 0);
        for row in rows {
            let (d0, d1) = (squared(row, &centres[0]), squared(row, &centres[1]));
            let pick = usize::from(d1 < d0);
            total += d0.min(d1);
            second += pick;
            counts[pick] += 1.0;
            for (sum, value) in sums[pick].iter_mut().zip(row) {
                *sum += value;
            }
        }
        let done = total >= inertia;
        (inertia, size) = (total, second);
        if done || counts[0] == 0.0 || counts[1] == 0.0 {
            break;
        }
        for (centre, (sum, count)) in centres.iter_mut().zip(sums.into_iter().zip(counts)) {
            *centre = sum.into_iter().map(|s| s / count).collect();
        }
    }
    (inertia, size)
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_extreme_customers_make_a_cluster_of_their_own() {
        let mut money: Vec<f64> = (0..500).map(|i| f64::from(i % 50)).collect();
        let mut orders: Vec<f64> = (0..500).map(|i| f64::from(i % 9)).collect();
        money[..4].fill(90_000.0);
        orders[..4].fill(200.0);
        assert_eq!(two_means(&[&money, &orders]), Some((4, 496)));
    }

    #[test]
    fn too_few_customers_or_missing_values_give_nothing() {
        assert_eq!(two_means(&[]), None);
        assert_eq!(two_means(&[&[1.0, 2.0]]), None);
        assert_eq!(two_means(&[&[1.0, 2.0, f64::NAN]]), None);
    }
}
