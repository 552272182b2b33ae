//! Scatter plots of one or several series.

use super::{
    Canvas, PALETTE, Panel,
    axis::{Frame, Scale},
};
use crate::ops::report::format::{decimal, integer};

/// Points drawn at most: more add bytes, not knowledge.
pub(in super::super) const MOST_POINTS: usize = 4500;

/// A category of points.
#[derive(Debug, Clone)]
pub(in super::super) struct Series {
    pub name: String,
    /// Palette number.
    pub series: usize,
    pub points: Vec<(f64, f64)>,
}

/// Draws points in the accent colour on labelled axes.
pub(in super::super) fn panel(
    title: &str,
    labels: (&str, &str),
    points: &[(f64, f64)],
    (log_x, log_y): (bool, bool),
) -> Panel {
    let size = super::HALF;
    let mut canvas = Canvas::default();
    let (left, right, top, bottom) = (62.0, size.0 - 14.0, 10.0, size.1 - 50.0);
    let (xs, ys) = (extent(points.iter().map(|p| p.0), log_x), extent(points.iter().map(|p| p.1), log_y));
    let frame = Frame {
        x: Scale::new(log_x, xs, (left, right)).nice(6),
        y: Scale::new(log_y, ys, (bottom, top)).nice(5),
        left,
        right,
        top,
        bottom,
    };
    frame.draw(&mut canvas, labels, (6, 5));
    let placed: Vec<(f64, f64)> = points.iter().map(|(x, y)| (frame.x.at(*x), frame.y.at(*y))).collect();
    // Dots of one path do not darken where they overlap; several paths do, and show where points are dense.
    const LAYERS: usize = 8;
    for layer in 0..LAYERS {
        let part: Vec<(f64, f64)> = placed.iter().skip(layer).step_by(LAYERS).copied().collect();
        canvas.dots(&part, "dot");
    }
    let desc = format!(
        "{} points; {} from {} to {}, {} from {} to {}.",
        integer(points.len() as f64),
        labels.0,
        decimal(xs.0),
        decimal(xs.1),
        labels.1,
        decimal(ys.0),
        decimal(ys.1)
    );
    canvas.panel(size, title, &desc)
}

/// Draws a map: points whose axes have no unit, coloured by series, each series named at its middle.
pub(in super::super) fn map(title: &str, series: &[Series], desc: &str) -> Panel {
    let size = (super::HALF.0, 440.0);
    let mut canvas = Canvas::default();
    let all = || series.iter().flat_map(|s| s.points.iter().copied());
    let (xs, ys) = (extent(all().map(|p| p.0), false), extent(all().map(|p| p.1), false));
    // One scale for both axes: distances are what a map shows.
    let unit = ((size.0 - 40.0) / (xs.1 - xs.0).max(1e-9)).min((size.1 - 40.0) / (ys.1 - ys.0).max(1e-9));
    let (cx, cy) = (f64::midpoint(xs.0, xs.1), f64::midpoint(ys.0, ys.1));
    let place = |(x, y): (f64, f64)| (size.0 / 2.0 + (x - cx) * unit, size.1 / 2.0 - (y - cy) * unit);
    for one in series {
        let placed: Vec<(f64, f64)> = one.points.iter().map(|p| place(*p)).collect();
        canvas.dots(&placed, &class(one.series));
    }
    for one in series {
        if !one.points.is_empty() && series.len() > 1 {
            let (x, y) = place(middle(&one.points));
            canvas.text((x, y), "middle", "halo", &one.name);
        }
    }
    canvas.panel(size, title, desc)
}

/// Gives the classes of a series: colours first, squares when they come round again.
pub(in super::super) fn class(series: usize) -> String {
    let square = if (series / PALETTE) % 2 == 1 { " sq" } else { "" };
    format!("pts{square} s{}", series % PALETTE)
}

/// Gives the medians of both coordinates.
fn middle(points: &[(f64, f64)]) -> (f64, f64) {
    let median = |pick: fn(&(f64, f64)) -> f64| {
        let mut values: Vec<f64> = points.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    };
    (median(|p| p.0), median(|p| p.1))
}

fn extent(values: impl Iterator<Item = f64>, log: bool) -> (f64, f64) {
    let (lo, hi) = values
        .filter(|v| v.is_finite() && (!log || *v > 0.0))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)));
    if lo <= hi { (lo, hi) } else { (0.0, 1.0) }
}

/// Takes every n-th item, so that at most [`MOST_POINTS`] are left. The same items each time.
pub(in super::super) fn thin<T: Copy>(items: &[T]) -> Vec<T> {
    items.iter().step_by(items.len().div_ceil(MOST_POINTS).max(1)).copied().collect()
}
