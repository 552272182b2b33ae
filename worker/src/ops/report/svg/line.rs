//! A line over whole numbers, with one choice marked and some points ruled out.

use super::{
    Canvas, Panel,
    axis::{Frame, Scale},
};
use crate::ops::report::format::fixed;

/// A point of the line.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Point {
    pub x: f64,
    pub y: f64,
    pub chosen: bool,
    /// Ruled out: drawn hollow.
    pub ineligible: bool,
}

/// Draws the line. The axis spans at least `least`, so that a difference of nothing does not look like a cliff.
pub(in super::super) fn panel(
    title: &str,
    labels: (&str, &str),
    points: &[Point],
    from_zero: bool,
    least: f64,
) -> Panel {
    let size = super::HALF;
    let mut canvas = Canvas::default();
    let (left, right, top, bottom) = (62.0, size.0 - 24.0, 26.0, size.1 - 50.0);
    let low = points.iter().map(|p| p.y).filter(|v| v.is_finite()).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.y).filter(|v| v.is_finite()).fold(f64::NEG_INFINITY, f64::max);
    let low = if from_zero { low.min(0.0) } else { low.min(high - least) };
    let (first, last) = (points.first().map_or(0.0, |p| p.x), points.last().map_or(1.0, |p| p.x));
    let frame = Frame {
        x: Scale::linear((first - 0.3, last + 0.3), (left, right)),
        y: Scale::linear((low, high), (bottom, top)).nice(5),
        left,
        right,
        top,
        bottom,
    };
    frame.draw_y(&mut canvas, labels.1, 5);
    canvas.line((left, bottom), (right, bottom), "axis");
    let every = points.len().div_ceil(12).max(1);
    for point in points.iter().step_by(every) {
        canvas.text((frame.x.at(point.x), bottom + 20.0), "middle", "", &fixed(point.x, 0));
    }
    canvas.text((f64::midpoint(left, right), bottom + 41.0), "middle", "label", labels.0);

    let finite: Vec<&Point> = points.iter().filter(|p| p.y.is_finite()).collect();
    let line: Vec<(f64, f64)> = finite.iter().map(|p| (frame.x.at(p.x), frame.y.at(p.y))).collect();
    canvas.path(&line, "curve");
    let mut words = Vec::new();
    for point in finite {
        let at = (frame.x.at(point.x), frame.y.at(point.y));
        canvas.circle(at, 5.0, if point.ineligible { "hollow" } else { "mark" });
        if point.chosen {
            canvas.circle(at, 9.0, "chosen");
            // Up and to the right: away from a line that falls.
            canvas.text((at.0 + 11.0, at.1 - 10.0), "start", "halo", "chosen");
        }
        let state = if point.chosen {
            " (chosen)"
        } else if point.ineligible {
            " (ruled out)"
        } else {
            ""
        };
        words.push(format!("{} at {}{state}", fixed(point.y, if high > 100.0 { 0 } else { 3 }), fixed(point.x, 0)));
    }
    canvas.panel(size, title, &format!("{} by {}: {}.", labels.1, labels.0, words.join(", ")))
}
