//! Histograms, with a box plot above where the quartiles are at hand.

use super::{
    Canvas, Panel,
    axis::{Frame, Scale},
    boxes::{Orient, Summary, draw_box},
};

/// A histogram to draw.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Histogram<'a> {
    pub title: &'a str,
    pub x_label: &'a str,
    pub y_label: &'a str,
    /// One more than counts, ascending.
    pub edges: &'a [f64],
    pub counts: &'a [f64],
    pub log_x: bool,
    pub log_y: bool,
    /// Drawn above the bars on the same axis.
    pub summary: Option<Summary>,
}

/// Draws a histogram; what it describes is said in words too.
pub(in super::super) fn panel(size: (f64, f64), plot: &Histogram<'_>) -> Panel {
    let mut canvas = Canvas::default();
    let (left, right, bottom) = (62.0, size.0 - 14.0, size.1 - 50.0);
    let top = if plot.summary.is_some() { 46.0 } else { 10.0 };
    let range = (plot.edges.first().copied().unwrap_or(0.0), plot.edges.last().copied().unwrap_or(1.0));
    let highest = plot.counts.iter().copied().fold(1.0, f64::max);
    let y = if plot.log_y {
        Scale::log((0.6, highest * 1.3), (bottom, top))
    } else {
        Scale::linear((0.0, highest * 1.03), (bottom, top)).nice(5)
    };
    let frame = Frame { x: Scale::new(plot.log_x, range, (left, right)), y, left, right, top, bottom };
    let ticks = if size.0 < 500.0 { 5 } else { 7 };
    frame.draw(&mut canvas, (plot.x_label, plot.y_label), (ticks, 5));
    for (pair, &count) in plot.edges.windows(2).zip(plot.counts) {
        if count > 0.0 {
            let (a, b) = (frame.x.at(pair[0]), frame.x.at(pair[1]));
            // A hair between bars, unless they are as thin as one.
            let gap = if b - a > 3.0 { 0.5 } else { 0.0 };
            canvas.rect((a + gap, frame.y.at(count)), (b - gap, bottom), "bar");
        }
    }
    if let Some(summary) = &plot.summary {
        draw_box(&mut canvas, summary, &frame.x, &Orient { middle: 22.0, thickness: 20.0, class: "" }, range.1);
    }
    let total: f64 = plot.counts.iter().sum();
    let peak = plot.counts.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i);
    let desc = match plot.edges.get(peak..peak + 2) {
        Some([a, b]) => format!(
            "Histogram of {} values from {} to {}; the fullest bar, from {} to {}, holds {}.",
            super::super::format::integer(total),
            super::super::format::decimal(range.0),
            super::super::format::decimal(range.1),
            super::super::format::decimal(*a),
            super::super::format::decimal(*b),
            super::super::format::integer(plot.counts[peak]),
        ),
        _ => "Histogram without values.".to_owned(),
    };
    canvas.panel(size, plot.title, &desc)
}

/// Bins of values: how they were cut, and what lies beyond the last edge.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct Bins {
    pub edges: Vec<f64>,
    pub counts: Vec<f64>,
    pub log: bool,
    /// Values above the last edge.
    pub beyond: usize,
    pub max: f64,
    /// Values at or below zero that a logarithmic axis has no place for.
    pub unplaced: usize,
}

/// Bins values: log-spaced bins for long-tailed amounts, bins up to the 99th percentile for long-tailed counts.
pub(in super::super) fn bin(values: &[f64], wanted: usize) -> Bins {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(&min), Some(&max)) = (sorted.first(), sorted.last()) else { return Bins::default() };
    let whole = sorted.iter().all(|v| v.fract() == 0.0);
    let middle = sorted[sorted.len() / 2];
    let high = sorted[(sorted.len() - 1) * 99 / 100];
    let unplaced = sorted.partition_point(|v| *v <= 0.0);
    // Most values must be positive for a log axis to show them.
    let log = !whole && unplaced * 2 < sorted.len() && max > 30.0 * middle.max(f64::MIN_POSITIVE);
    let (from, to) = if log {
        (sorted[unplaced].max(max * 1e-7), max)
    } else if whole {
        (min, if max > 3.0 * high.max(1.0) { high } else { max })
    } else {
        (min, max)
    };
    let edges = edges(from, to, wanted, log, whole);
    let mut counts = vec![0.0; edges.len().saturating_sub(1)];
    let mut beyond = 0;
    for value in sorted.iter().skip(if log { unplaced } else { 0 }) {
        let bin = edges.partition_point(|edge| edge <= value);
        // The last bin includes its upper edge.
        let last = counts.len();
        match bin {
            0 => counts[0] += 1.0,
            b if b <= last => counts[b - 1] += 1.0,
            _ if *value <= edges[last] * (1.0 + 1e-12) => counts[last - 1] += 1.0,
            _ => beyond += 1,
        }
    }
    Bins { edges, counts, log, beyond, max, unplaced: if log { unplaced } else { 0 } }
}

fn edges(from: f64, to: f64, wanted: usize, log: bool, whole: bool) -> Vec<f64> {
    let bins = wanted.max(1) as f64;
    if log {
        let ratio = if to > from { (to / from).ln() / bins } else { 0.1 };
        return counted(wanted).map(|i| from * (ratio * i).exp()).collect();
    }
    if whole {
        // Whole numbers get bins of whole width, or some bars would hold one number more than others.
        let width = ((to - from + 1.0) / bins).ceil().max(1.0);
        let needed = ((to - from + 1.0) / width).ceil().max(1.0);
        // At most `wanted`.
        return counted(needed as usize).map(|i| from - 0.5 + i * width).collect();
    }
    let width = if to > from { (to - from) / bins } else { 1.0 };
    counted(wanted).map(|i| from + i * width).collect()
}

fn counted(bins: usize) -> impl Iterator<Item = f64> {
    (0..=bins.max(1)).map(|i| i as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bin_or_counted_as_left_out() {
        let long: Vec<f64> = (1..=1000).map(|i| f64::from(i).powi(7) + 0.5).collect();
        let mut counts: Vec<f64> = (0..1000).map(|i| f64::from(i % 7)).collect();
        counts.push(5000.0);
        for (values, log) in [(long, true), (counts, false), (vec![4.0], false), (vec![2.5; 9], false)] {
            let bins = bin(&values, 40);
            let placed: f64 = bins.counts.iter().sum();
            assert_eq!(placed as usize + bins.beyond + bins.unplaced, values.len());
            assert_eq!(bins.log, log);
        }
    }

    #[test]
    fn no_values_give_no_bins() {
        assert_eq!(bin(&[f64::NAN], 10), Bins::default());
    }
}
