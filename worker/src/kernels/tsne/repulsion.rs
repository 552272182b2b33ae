//! How the points of a map push each other away, by a Barnes-Hut tree.
//!
//! Points are sorted along a Morton curve; eight neighbours on the curve share one walk of the tree, which lists the cells
//! that are far enough from all of them and the points of the cells that are not. The list is then evaluated for the eight
//! side by side, in single precision relative to the group, where the compiler finds vectors.

use rayon::prelude::*;

/// A cell stands for its points where its width is below this share of the distance.
const OPENING: f64 = 0.5;
/// Points that share a walk: two vectors of four.
const GROUP: usize = 8;
/// Most points of a leaf, unless they share all bits of the curve.
const LEAF: usize = 8;
/// Levels of the tree: bits per axis of the Morton curve.
const LEVELS: u32 = 20;
/// Groups per task.
const TASK: usize = 8;

/// A square of the map: its points are a range of the sorted points.
#[derive(Debug, Clone, Copy)]
struct Cell {
    centre: [f64; 2],
    width: f64,
    first: u32,
    last: u32,
    /// Where its children stand among the cells; none: a leaf.
    children: u32,
    count: u32,
}

/// Something that pushes: a point, or a cell in place of its points.
#[derive(Debug, Clone, Copy)]
struct Source {
    at: [f32; 2],
    weight: f32,
}

/// Buffers, kept between iterations.
#[derive(Debug, Default)]
pub(super) struct Repulsion {
    keys: Vec<(u64, u32)>,
    sorted: Vec<[f64; 2]>,
    cells: Vec<Cell>,
    pushes: Vec<[[f64; 3]; GROUP]>,
    forces: Vec<[f64; 2]>,
}

impl Repulsion {
    /// Gives the push on every point, the sum over the others of `(y_i - y_j) / (1 + |y_i - y_j|^2)^2`, and the sum over all
    /// ordered pairs of `1 / (1 + |y_i - y_j|^2)`, by which the push is to be divided.
    pub(super) fn forces(&mut self, points: &[[f64; 2]]) -> (&[[f64; 2]], f64) {
        self.plant(points);
        self.pushes.resize(points.len().div_ceil(GROUP), [[0.0; 3]; GROUP]);
        let (cells, sorted) = (&self.cells, &self.sorted);
        self.pushes.par_chunks_mut(TASK).enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(sources, stack), (task, pushes)| {
                for (offset, push) in pushes.iter_mut().enumerate() {
                    let first = (task * TASK + offset) * GROUP;
                    let group = Group::new(&sorted[first..(first + GROUP).min(sorted.len())]);
                    group.list(cells, sorted, sources, stack);
                    *push = group.push(sources);
                }
            },
        );
        self.forces.resize(points.len(), [0.0; 2]);
        let mut normaliser = 0.0;
        for ((_, point), push) in self.keys.iter().zip(self.pushes.iter().flatten()) {
            self.forces[*point as usize] = [push[0], push[1]];
            // Each point met itself at distance 0.
            normaliser += push[2] - 1.0;
        }
        (&self.forces, normaliser)
    }

    /// Sorts the points along the curve and builds the tree over them.
    fn plant(&mut self, points: &[[f64; 2]]) {
        let mut low = [f64::INFINITY; 2];
        let mut high = [f64::NEG_INFINITY; 2];
        for point in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(point[axis]);
                high[axis] = high[axis].max(point[axis]);
            }
        }
        let width = (high[0] - low[0]).max(high[1] - low[1]).max(f64::MIN_POSITIVE);
        let steps = f64::from(1_u32 << LEVELS);
        let step = |x: f64, axis: usize| (((x - low[axis]) / width * steps) as u32).min((1 << LEVELS) - 1);
        self.keys.clear();
        self.keys.extend(
            points.iter().enumerate().map(|(i, point)| (morton(step(point[0], 0), step(point[1], 1)), i as u32)),
        );
        self.keys.sort_unstable();
        self.sorted.clear();
        self.sorted.extend(self.keys.iter().map(|(_, i)| points[*i as usize]));
        self.cells.clear();
        self.cells.push(Cell { centre: [0.0; 2], width, first: 0, last: points.len() as u32, children: 0, count: 0 });
        self.grow(0, 0);
    }

    /// Divides a cell until its leaves are small, and sets centres of mass on the way back.
    fn grow(&mut self, cell: usize, level: u32) {
        let Cell { first, last, width, .. } = self.cells[cell];
        let (first, last) = (first as usize, last as usize);
        let mut sum = [0.0; 2];
        if last - first <= LEAF || level == LEVELS {
            for point in &self.sorted[first..last] {
                sum[0] += point[0];
                sum[1] += point[1];
            }
        } else {
            let children = self.cells.len();
            let shift = 2 * (LEVELS - level - 1);
            let mut from = first;
            for quarter in 0..4 {
                let until = from + self.keys[from..last].partition_point(|(key, _)| (key >> shift) & 3 <= quarter);
                if until > from {
                    let (first, last) = (from as u32, until as u32);
                    self.cells.push(Cell { centre: [0.0; 2], width: width / 2.0, first, last, children: 0, count: 0 });
                }
                from = until;
            }
            let count = self.cells.len() - children;
            self.cells[cell].children = children as u32;
            self.cells[cell].count = count as u32;
            for child in children..children + count {
                self.grow(child, level + 1);
                let Cell { centre, first, last, .. } = self.cells[child];
                sum[0] += centre[0] * f64::from(last - first);
                sum[1] += centre[1] * f64::from(last - first);
            }
        }
        let points = (last - first).max(1) as f64;
        self.cells[cell].centre = [sum[0] / points, sum[1] / points];
    }
}

/// Interleaves the bits of two coordinates.
fn morton(x: u32, y: u32) -> u64 {
    let spread = |v: u32| {
        let mut v = u64::from(v);
        v = (v | (v << 16)) & 0x0000_FFFF_0000_FFFF;
        v = (v | (v << 8)) & 0x00FF_00FF_00FF_00FF;
        v = (v | (v << 4)) & 0x0F0F_0F0F_0F0F_0F0F;
        v = (v | (v << 2)) & 0x3333_3333_3333_3333;
        (v | (v << 1)) & 0x5555_5555_5555_5555
    };
    spread(x) | (spread(y) << 1)
}

/// Up to eight points that share a walk of the tree.
struct Group {
    low: [f64; 2],
    high: [f64; 2],
    /// Relative to `low`; missing points repeat the last.
    x: [f32; GROUP],
    y: [f32; GROUP],
}

impl Group {
    fn new(points: &[[f64; 2]]) -> Self {
        let mut low = points[0];
        let mut high = points[0];
        for point in points {
            for axis in 0..2 {
                low[axis] = low[axis].min(point[axis]);
                high[axis] = high[axis].max(point[axis]);
            }
        }
        let at = |lane: usize, axis: usize| (points[lane.min(points.len() - 1)][axis] - low[axis]) as f32;
        Self { x: std::array::from_fn(|lane| at(lane, 0)), y: std::array::from_fn(|lane| at(lane, 1)), low, high }
    }

    /// Lists what pushes on the group. A cell that holds one of the group's points is never far enough to stand for them.
    fn list(&self, cells: &[Cell], sorted: &[[f64; 2]], sources: &mut Vec<Source>, stack: &mut Vec<u32>) {
        sources.clear();
        stack.clear();
        stack.push(0);
        let relative = |p: [f64; 2]| [(p[0] - self.low[0]) as f32, (p[1] - self.low[1]) as f32];
        while let Some(cell) = stack.pop() {
            let cell = &cells[cell as usize];
            let outside =
                |axis: usize| (self.low[axis] - cell.centre[axis]).max(cell.centre[axis] - self.high[axis]).max(0.0);
            let (dx, dy) = (outside(0), outside(1));
            if cell.width * cell.width < OPENING * OPENING * (dx * dx + dy * dy) {
                sources.push(Source { at: relative(cell.centre), weight: (cell.last - cell.first) as f32 });
            } else if cell.count == 0 {
                let points = &sorted[cell.first as usize..cell.last as usize];
                sources.extend(points.iter().map(|point| Source { at: relative(*point), weight: 1.0 }));
            } else {
                stack.extend(cell.children..cell.children + cell.count);
            }
        }
    }

    /// Gives, for each point of the group, the push along both axes and the sum of similarities.
    fn push(&self, sources: &[Source]) -> [[f64; 3]; GROUP] {
        let (mut x, mut y, mut similarities) = ([0.0_f32; GROUP], [0.0_f32; GROUP], [0.0_f32; GROUP]);
        for source in sources {
            for lane in 0..GROUP {
                let dx = self.x[lane] - source.at[0];
                let dy = self.y[lane] - source.at[1];
                let similarity = 1.0 / (1.0 + dx * dx + dy * dy);
                let weighted = source.weight * similarity;
                similarities[lane] += weighted;
                let push = weighted * similarity;
                x[lane] += push * dx;
                y[lane] += push * dy;
            }
        }
        std::array::from_fn(|lane| [x[lane], y[lane], similarities[lane]].map(f64::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scattered(rows: usize, spread: f64) -> Vec<[f64; 2]> {
        let number = |i: usize| ((i as f64 * 12.9898).sin() * 43758.5453).fract() * spread;
        (0..rows).map(|i| [number(2 * i), number(2 * i + 1)]).collect()
    }

    fn exact(points: &[[f64; 2]]) -> (Vec<[f64; 2]>, f64) {
        let mut normaliser = 0.0;
        let forces = (0..points.len())
            .map(|i| {
                let mut force = [0.0; 2];
                for j in (0..points.len()).filter(|j| *j != i) {
                    let d = [points[i][0] - points[j][0], points[i][1] - points[j][1]];
                    let similarity = 1.0 / (1.0 + d[0] * d[0] + d[1] * d[1]);
                    normaliser += similarity;
                    force[0] += similarity * similarity * d[0];
                    force[1] += similarity * similarity * d[1];
                }
                force
            })
            .collect();
        (forces, normaliser)
    }

    #[test]
    fn the_tree_is_close_to_the_exact_sums() {
        for (rows, spread) in [(1000, 60.0), (300, 1.0), (13, 5.0)] {
            let points = scattered(rows, spread);
            let (expected, normaliser) = exact(&points);
            let mut repulsion = Repulsion::default();
            let (found, z) = repulsion.forces(&points);
            assert!((z / normaliser - 1.0).abs() < 0.01, "{z} is not {normaliser}");
            let size = |v: &[f64; 2]| v[0].hypot(v[1]);
            let scale = expected.iter().map(size).sum::<f64>() / rows as f64;
            let error =
                found.iter().zip(&expected).map(|(a, b)| size(&[a[0] - b[0], a[1] - b[1]])).sum::<f64>() / rows as f64;
            assert!(error < 0.01 * scale, "mean error {error} of {scale}");
        }
    }

    #[test]
    fn points_on_one_spot_push_nothing_and_end_the_tree() {
        let points = vec![[3.0, 3.0]; 100];
        let mut repulsion = Repulsion::default();
        let (forces, normaliser) = repulsion.forces(&points);
        assert!(forces.iter().all(|force| *force == [0.0; 2]));
        assert!((normaliser - 9900.0).abs() < 1e-6);
    }

    #[test]
    fn two_points_push_each_other_away() {
        // Distance 2: 2 / (1 + 4)^2.
        let mut repulsion = Repulsion::default();
        let (forces, normaliser) = repulsion.forces(&[[0.0, 0.0], [2.0, 0.0]]);
        assert!((forces[0][0] + 0.08).abs() < 1e-6 && (forces[1][0] - 0.08).abs() < 1e-6);
        assert!((normaliser - 0.4).abs() < 1e-6);
    }
}
