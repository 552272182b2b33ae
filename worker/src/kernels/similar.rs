//! Exact nearest neighbours by cosine, in blocks: no `n x n` matrix is ever held.

use std::{
    cmp::Ordering,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use ndarray::{Array2, ArrayView1, ArrayView2, Axis, s};
use rayon::prelude::*;

use super::KernelError;

/// Rows handled by one thread at a time.
const ROW_BLOCK: usize = 128;

/// Columns of a tile of cosines (2 MiB with [`ROW_BLOCK`] rows), which bounds memory and stays in the cache.
const COLUMN_BLOCK: usize = 4096;

/// A neighbour of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    pub row: usize,
    /// In [-1, 1].
    pub cosine: f32,
}

/// Finds the `k` nearest rows of each row by cosine, the row itself excluded: nearest first, ties by `labels`, then by row.
///
/// Shapes: `vectors` `(n, d)`, `labels` `(n,)`. Gives `n` lists of `min(k, n - 1)`. A zero vector has cosine 0 to all.
/// Cost: `O(n^2 d)` time on all cores of the current rayon pool, `O(n (d + k))` memory. Deterministic.
///
/// # Errors
/// `Shape` if lengths differ, `NotFinite` with the first bad number, `Cancelled` soon after `cancelled` is set.
pub fn nearest<L: AsRef<str> + Sync>(
    vectors: ArrayView2<'_, f32>,
    labels: &[L],
    k: usize,
    cancelled: &AtomicBool,
    on_progress: &(dyn Fn(usize) + Sync),
) -> Result<Vec<Vec<Neighbour>>, KernelError> {
    let rows = unit_rows(vectors)?;
    check_labels(&rows, labels)?;
    let starts: Vec<usize> = (0..rows.nrows()).step_by(ROW_BLOCK).collect();
    let blocks = starts
        .into_par_iter()
        .map(|start| {
            if cancelled.load(Relaxed) {
                return Err(KernelError::Cancelled);
            }
            let end = rows.nrows().min(start + ROW_BLOCK);
            let found = nearest_of_block(rows.view(), labels, start..end, k);
            on_progress(end - start);
            Ok(found)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(blocks.into_iter().flatten().collect())
}

/// Finds the `k` rows nearest to `query` by cosine: nearest first, ties by `labels`, then by row.
///
/// # Errors
/// `Shape` if widths or lengths differ, `NotFinite` with the first bad number (of the query: row 0).
pub fn nearest_to<L: AsRef<str>>(
    query: ArrayView1<'_, f32>,
    vectors: ArrayView2<'_, f32>,
    labels: &[L],
    k: usize,
) -> Result<Vec<Neighbour>, KernelError> {
    if query.len() != vectors.ncols() {
        return Err(KernelError::Shape(format!(
            "the query has {} numbers, the vectors have {}",
            query.len(),
            vectors.ncols()
        )));
    }
    let query = unit_rows(query.insert_axis(Axis(0)))?;
    let rows = unit_rows(vectors)?;
    check_labels(&rows, labels)?;
    let mut best = Best::new(k);
    for (row, cosine) in rows.dot(&query.row(0)).iter().enumerate() {
        best.offer(row, *cosine, labels);
    }
    Ok(best.found)
}

fn nearest_of_block<L: AsRef<str>>(
    rows: ArrayView2<'_, f32>,
    labels: &[L],
    block: std::ops::Range<usize>,
    k: usize,
) -> Vec<Vec<Neighbour>> {
    let mine = rows.slice(s![block.clone(), ..]);
    let mut best: Vec<Best> = block.clone().map(|_| Best::new(k)).collect();
    for start in (0..rows.nrows()).step_by(COLUMN_BLOCK) {
        let end = rows.nrows().min(start + COLUMN_BLOCK);
        let tile = mine.dot(&rows.slice(s![start..end, ..]).t());
        for ((best, cosines), own) in best.iter_mut().zip(tile.rows()).zip(block.clone()) {
            for (row, cosine) in (start..end).zip(cosines) {
                if row != own {
                    best.offer(row, *cosine, labels);
                }
            }
        }
    }
    best.into_iter().map(|best| best.found).collect()
}

/// The best so far, sorted. k is small, so insertion into a list beats a heap.
struct Best {
    k: usize,
    found: Vec<Neighbour>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self { k, found: Vec::with_capacity(k.min(64)) }
    }

    fn offer<L: AsRef<str>>(&mut self, row: usize, cosine: f32, labels: &[L]) {
        let offered = Neighbour { row, cosine: cosine.clamp(-1.0, 1.0) };
        if self.found.len() >= self.k && self.found.last().is_none_or(|last| order(&offered, last, labels).is_gt()) {
            return;
        }
        let place = self.found.partition_point(|held| order(held, &offered, labels).is_lt());
        self.found.insert(place, offered);
        self.found.truncate(self.k);
    }
}

fn order<L: AsRef<str>>(a: &Neighbour, b: &Neighbour, labels: &[L]) -> Ordering {
    b.cosine
        .total_cmp(&a.cosine)
        .then_with(|| labels[a.row].as_ref().cmp(labels[b.row].as_ref()))
        .then_with(|| a.row.cmp(&b.row))
}

fn unit_rows(vectors: ArrayView2<'_, f32>) -> Result<Array2<f32>, KernelError> {
    let mut rows = vectors.as_standard_layout().into_owned();
    for (i, mut row) in rows.rows_mut().into_iter().enumerate() {
        if let Some(column) = row.iter().position(|x| !x.is_finite()) {
            return Err(KernelError::NotFinite { row: i, column });
        }
        let length = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if length > 0.0 {
            row.mapv_inplace(|x| (f64::from(x) / length) as f32);
        }
    }
    Ok(rows)
}

fn check_labels<L>(rows: &Array2<f32>, labels: &[L]) -> Result<(), KernelError> {
    if rows.nrows() == labels.len() {
        return Ok(());
    }
    Err(KernelError::Shape(format!("{} vectors, but {} texts", rows.nrows(), labels.len())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    fn all(vectors: &Array2<f32>, labels: &[String], k: usize) -> Vec<Vec<Neighbour>> {
        nearest(vectors.view(), labels, k, &AtomicBool::new(false), &|_| {}).unwrap()
    }

    #[test]
    fn nearest_rows_come_in_order_of_cosine_without_the_row_itself() {
        let vectors = array![[1.0, 0.0], [0.0, 2.0], [3.0, 4.0], [-1.0, 0.0]];
        let labels = ["a", "b", "c", "d"].map(String::from);
        let found = all(&vectors, &labels, 2);
        assert_eq!(found[0].iter().map(|n| n.row).collect::<Vec<_>>(), [2, 1]);
        assert!((found[0][0].cosine - 0.6).abs() < 1e-6 && found[0][1].cosine == 0.0);
        assert_eq!(found[3].iter().map(|n| n.row).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn equal_cosines_are_ordered_by_text_and_a_twin_is_a_neighbour() {
        let vectors = array![[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]];
        let labels = ["x", "c", "a", "a"].map(String::from);
        let found = all(&vectors, &labels, 9);
        assert_eq!(found[0].iter().map(|n| n.row).collect::<Vec<_>>(), [2, 3, 1]);
        assert_eq!(found[2].iter().map(|n| n.row).collect::<Vec<_>>(), [3, 1, 0]);
        assert!(found[0].iter().all(|n| n.cosine == 1.0));
    }

    #[test]
    fn one_row_has_no_neighbours_and_no_rows_give_nothing() {
        assert_eq!(all(&array![[1.0, 2.0]], &["a".to_owned()], 5), [vec![]]);
        assert!(all(&Array2::zeros((0, 4)), &[], 5).is_empty());
        assert_eq!(all(&array![[1.0], [2.0]], &["a".to_owned(), "b".to_owned()], 0), [vec![], vec![]]);
    }

    #[test]
    fn bad_numbers_and_lengths_are_refused_and_a_set_flag_cancels() {
        let run = |vectors: Array2<f32>, labels: &[&str], stop: bool| {
            nearest(vectors.view(), labels, 1, &AtomicBool::new(stop), &|_| {})
        };
        let bad = run(array![[1.0, 0.0], [0.0, f32::NAN]], &["a", "b"], false);
        assert_eq!(bad, Err(KernelError::NotFinite { row: 1, column: 1 }));
        assert!(matches!(run(array![[1.0]], &[], false), Err(KernelError::Shape(_))));
        assert_eq!(run(array![[1.0]], &["a"], true), Err(KernelError::Cancelled));
        assert!(matches!(
            nearest_to(array![1.0].view(), array![[1.0, 0.0]].view(), &["a"], 1),
            Err(KernelError::Shape(_))
        ));
    }

    #[test]
    fn blocks_find_the_same_as_one_query_after_another() {
        // More rows than a block of rows, fewer than a block of columns.
        let vectors =
            Array2::from_shape_fn((300, 5), |(i, j)| ((i * 31 + j * 17) % 97) as f32 - 48.0 + (i % 13) as f32);
        let labels: Vec<String> = (0..300).map(|i| format!("{:03}", (i * 7) % 300)).collect();
        for (i, found) in all(&vectors, &labels, 4).into_iter().enumerate() {
            let mut alone = nearest_to(vectors.row(i), vectors.view(), &labels, 5).unwrap();
            alone.retain(|n| n.row != i);
            for (a, b) in found.iter().zip(&alone) {
                assert!((a.cosine - b.cosine).abs() < 1e-6, "{i}: {found:?} {alone:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn lists_are_sorted_and_nothing_better_is_left_out(
            values in prop::collection::vec(-3i8..=3, 2..120), k in 0usize..6,
        ) {
            let n = values.len() / 2;
            let vectors = Array2::from_shape_fn((n, 2), |(i, j)| f32::from(values[i * 2 + j]));
            let labels: Vec<String> = (0..n).map(|i| (i % 5).to_string()).collect();
            for (i, found) in all(&vectors, &labels, k).into_iter().enumerate() {
                prop_assert_eq!(found.len(), k.min(n - 1));
                prop_assert!(found.is_sorted_by(|a, b| order(a, b, &labels).is_lt()));
                let everything = all(&vectors, &labels, n);
                prop_assert_eq!(&everything[i][..found.len()], &found[..]);
            }
        }
    }
}
