//! Multi-head attention over packed sequences: no padding, no mask, no parallelism of its own.

use pulp::Arch;

use super::math::{LANES, exp_nonpositive};

/// Working memory, reused from sequence to sequence.
#[derive(Debug, Default)]
pub struct Scratch {
    /// One head of one query, scaled, bias added.
    query: Vec<f32>,
    /// Keys of one head, in blocks of [`LANES`] keys: `[block][feature][lane]`, so that one query meets a block of keys at
    /// once. Lanes past the last key hold zero.
    keys: Vec<[f32; LANES]>,
    /// Scores of one query, padded to whole blocks.
    scores: Vec<[f32; LANES]>,
}

/// Shape of the heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    pub count: usize,
    /// Features of a head; a multiple of [`LANES`].
    pub width: usize,
}

/// Computes `softmax(q k^T / sqrt(width)) v` for every head of every sequence.
///
/// `qkv` is `(tokens, 3 * hidden)` with query, key and value of a token side by side, still without their `bias`
/// (`3 * hidden`); `lengths` are the tokens of each sequence, in order. Writes `(tokens, hidden)` to `out`.
pub fn attend(qkv: &[f32], bias: &[f32], lengths: &[usize], heads: Heads, scratch: &mut Scratch, out: &mut [f32]) {
    let hidden = heads.count * heads.width;
    Arch::new().dispatch(|| {
        let (mut qkv, mut out) = (qkv, out);
        for &length in lengths {
            let (sequence, later) = qkv.split_at(length * 3 * hidden);
            let (target, later_out) = out.split_at_mut(length * hidden);
            for head in 0..heads.count {
                attend_head(sequence, bias, heads, head, scratch, target);
            }
            (qkv, out) = (later, later_out);
        }
    });
}

#[inline(always)]
fn attend_head(qkv: &[f32], bias: &[f32], heads: Heads, head: usize, scratch: &mut Scratch, out: &mut [f32]) {
    let (width, hidden) = (heads.width, heads.count * heads.width);
    let offset = head * width;
    let length = qkv.len() / (3 * hidden);
    let scale = 1.0 / (width as f32).sqrt();
    let (query_bias, value_bias) = (&bias[offset..offset + width], &bias[2 * hidden + offset..][..width]);
    // The bias of the keys adds the same number to every score of a query, which softmax does not see.
    fill_keys(qkv, hidden + offset, 3 * hidden, width, &mut scratch.keys);
    scratch.scores.resize(length.div_ceil(LANES), [0.0; LANES]);
    for (token, row) in qkv.chunks_exact(3 * hidden).enumerate() {
        scratch.query.clear();
        scratch.query.extend(row[offset..offset + width].iter().zip(query_bias).map(|(x, b)| (x + b) * scale));
        let mut largest = [f32::NEG_INFINITY; LANES];
        for (block, (scores, keys)) in scratch.scores.iter_mut().zip(scratch.keys.chunks_exact(width)).enumerate() {
            let mut sums = [0.0f32; LANES];
            for (q, features) in scratch.query.iter().zip(keys) {
                for (s, k) in sums.iter_mut().zip(features) {
                    *s += q * k;
                }
            }
            let valid = length - block * LANES;
            if valid < LANES {
                sums[valid..].fill(f32::NEG_INFINITY);
            }
            for (l, s) in largest.iter_mut().zip(&sums) {
                *l = l.max(*s);
            }
            *scores = sums;
        }
        let largest = largest.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let mut total = [0.0f32; LANES];
        for scores in &mut scratch.scores {
            for (s, t) in scores.iter_mut().zip(&mut total) {
                *s = exp_nonpositive(*s - largest);
                *t += *s;
            }
        }
        let inverse = 1.0 / total.iter().sum::<f32>();
        let target = &mut out[token * hidden + offset..][..width];
        weigh_values(qkv, 2 * hidden + offset, 3 * hidden, scratch.scores.as_flattened(), target);
        for (o, b) in target.iter_mut().zip(value_bias) {
            *o = *o * inverse + b;
        }
    }
}

/// Lays the keys of one head out in blocks.
#[inline(always)]
fn fill_keys(qkv: &[f32], offset: usize, stride: usize, width: usize, keys: &mut Vec<[f32; LANES]>) {
    let blocks = (qkv.len() / stride).div_ceil(LANES);
    keys.clear();
    keys.resize(blocks * width, [0.0; LANES]);
    for (token, row) in qkv.chunks_exact(stride).enumerate() {
        let block = &mut keys[token / LANES * width..][..width];
        for (features, k) in block.iter_mut().zip(&row[offset..offset + width]) {
            features[token % LANES] = *k;
        }
    }
}

/// Writes the sum of the value rows, weighted, to `target`.
#[inline(always)]
fn weigh_values(qkv: &[f32], offset: usize, stride: usize, weights: &[f32], target: &mut [f32]) {
    let (target_blocks, _) = target.as_chunks_mut::<LANES>();
    for (block, target) in target_blocks.iter_mut().enumerate() {
        let mut sums = [0.0f32; LANES];
        for (row, weight) in qkv.chunks_exact(stride).zip(weights) {
            for (s, v) in sums.iter_mut().zip(&row[offset + block * LANES..][..LANES]) {
                *s += weight * v;
            }
        }
        *target = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in f64.
    fn naive(qkv: &[f32], bias: &[f32], lengths: &[usize], heads: Heads) -> Vec<f64> {
        let (width, hidden) = (heads.width, heads.count * heads.width);
        let at = |token: usize, column: usize| f64::from(qkv[token * 3 * hidden + column]) + f64::from(bias[column]);
        let mut out = Vec::new();
        let mut first = 0;
        for &length in lengths {
            for i in first..first + length {
                for head in 0..heads.count {
                    let base = head * width;
                    let scores: Vec<f64> = (first..first + length)
                        .map(|j| {
                            let dot: f64 = (0..width).map(|d| at(i, base + d) * at(j, hidden + base + d)).sum();
                            (dot / (width as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for d in 0..width {
                        let value = |j: usize| at(first + j, 2 * hidden + base + d);
                        out.push(scores.iter().enumerate().map(|(j, s)| s / total * value(j)).sum());
                    }
                }
            }
            first += length;
        }
        out
    }

    #[test]
    fn packed_sequences_attend_to_themselves_alone() {
        let heads = Heads { count: 2, width: 32 };
        // Shorter than a block, exactly one, one more than a block, several.
        let lengths = [1, 3, 16, 17, 50];
        let tokens: usize = lengths.iter().sum();
        let number = |i: usize| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 1.5;
        let qkv: Vec<f32> = (0..tokens * 192).map(number).collect();
        let bias: Vec<f32> = (0..192).map(|i| number(i + 13)).collect();
        let mut out = vec![0.0; tokens * 64];
        attend(&qkv, &bias, &lengths, heads, &mut Scratch::default(), &mut out);
        for (a, b) in out.iter().zip(naive(&qkv, &bias, &lengths, heads)) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
