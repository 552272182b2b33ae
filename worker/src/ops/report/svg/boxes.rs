//! Box plots: quartiles, whiskers at 1.5 times the interquartile range, values beyond them.

use super::{
    Canvas, PALETTE, Panel,
    axis::{Frame, Scale},
};
use crate::ops::report::format::{amount, integer};

/// The numbers of a box.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in super::super) struct Summary {
    pub whisker_low: f64,
    pub q25: f64,
    pub q50: f64,
    pub q75: f64,
    pub whisker_high: f64,
    pub max: f64,
    /// Values beyond the whiskers to draw; a sample where they are many.
    pub fences: Vec<f64>,
}

impl Summary {
    /// Computes the box of values; `None` of no values. Quartiles interpolate as in pandas and numpy.
    pub fn of(values: &[f64]) -> Option<Self> {
        /// Dots beyond the whiskers; more would be a blot.
        const DRAWN: usize = 80;
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let (q25, q50, q75) = (quantile(&sorted, 0.25), quantile(&sorted, 0.5), quantile(&sorted, 0.75));
        let reach = 1.5 * (q75 - q25);
        let whisker_low = sorted.iter().copied().find(|v| *v >= q25 - reach).unwrap_or(min);
        let whisker_high = sorted.iter().rev().copied().find(|v| *v <= q75 + reach).unwrap_or(max);
        let beyond: Vec<f64> = sorted.iter().copied().filter(|v| *v < whisker_low || *v > whisker_high).collect();
        let stride = beyond.len().div_ceil(DRAWN).max(1);
        // From the end, so that the greatest is always drawn.
        let fences = beyond.iter().rev().step_by(stride).copied().collect();
        Some(Self { whisker_low, q25, q50, q75, whisker_high, max, fences })
    }
}

/// Gives a quantile of sorted values by linear interpolation.
pub(in super::super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * sorted.len().saturating_sub(1) as f64;
    // Within the slice by construction.
    let below = position.floor() as usize;
    let rest = position.fract();
    match (sorted.get(below), sorted.get(below + 1)) {
        (Some(a), Some(b)) => a + (b - a) * rest,
        (Some(a), None) => *a,
        _ => f64::NAN,
    }
}

/// Where a horizontal box lies.
pub(in super::super) struct Orient<'a> {
    pub middle: f64,
    pub thickness: f64,
    /// Palette classes; empty: the accent.
    pub class: &'a str,
}

/// Draws a horizontal box. A maximum beyond `limit`, the end of the axis, is told with an arrow.
pub(in super::super) fn draw_box(canvas: &mut Canvas, summary: &Summary, x: &Scale, place: &Orient<'_>, limit: f64) {
    let (middle, half) = (place.middle, place.thickness / 2.0);
    let own = |base: &str| if place.class.is_empty() { base.to_owned() } else { format!("whisker {}", place.class) };
    let (low, high) = (x.at(summary.whisker_low), x.at(summary.whisker_high));
    canvas.line((low, middle), (x.at(summary.q25), middle), &own("whisker"));
    canvas.line((x.at(summary.q75), middle), (high, middle), &own("whisker"));
    for end in [low, high] {
        canvas.line((end, middle - half * 0.5), (end, middle + half * 0.5), &own("whisker"));
    }
    let (class, bar) = if place.class.is_empty() {
        ("box".to_owned(), "median".to_owned())
    } else {
        (format!("t {} {}", place.class, place.class.replace('s', "f")), format!("median {}", place.class))
    };
    canvas.rect((x.at(summary.q25), middle - half), (x.at(summary.q75), middle + half), &class);
    canvas.line((x.at(summary.q50), middle - half), (x.at(summary.q50), middle + half), &bar);
    let dots: Vec<(f64, f64)> = summary.fences.iter().filter(|v| **v <= limit).map(|v| (x.at(*v), middle)).collect();
    canvas.dots(&dots, &format!("fence {}", place.class));
    if summary.max > limit {
        canvas.text((x.at(limit), middle - half - 1.0), "end", "", &format!("max {} →", integer(summary.max)));
    }
}

/// One category of a box plot.
pub(in super::super) struct Group<'a> {
    pub name: &'a str,
    pub series: usize,
    pub summary: Summary,
}

/// Draws horizontal boxes, one for each group.
pub(in super::super) fn panel(title: &str, x_label: &str, groups: &[Group<'_>], log: bool) -> Panel {
    const ROW: f64 = 42.0;
    let size = (super::HALF.0, 70.0 + ROW * groups.len() as f64);
    let mut canvas = Canvas::default();
    let (left, right, top, bottom) = (126.0, size.0 - 16.0, 8.0, size.1 - 50.0);
    let lowest = groups.iter().flat_map(|g| g.summary.fences.iter().copied().chain([g.summary.whisker_low]));
    let lowest = lowest.filter(|v| !log || *v > 0.0).fold(f64::INFINITY, f64::min);
    let highest = groups.iter().map(|g| g.summary.max).fold(f64::NEG_INFINITY, f64::max);
    let range = if log { (lowest, highest * 1.1) } else { (lowest.min(0.0), highest) };
    let x = Scale::new(log, range, (left, right)).nice(6);
    let frame = Frame { x, y: Scale::linear((0.0, 1.0), (bottom, top)), left, right, top, bottom };
    for tick in x.ticks(6) {
        canvas.line((x.at(tick), top), (x.at(tick), bottom), "grid");
    }
    frame.draw_x(&mut canvas, x_label, 6);
    let mut words = Vec::new();
    for (row, group) in groups.iter().enumerate() {
        let middle = top + ROW * (row as f64 + 0.5);
        let class = format!("s{}", group.series % PALETTE);
        canvas.text((left - 10.0, middle + 4.0), "end", "name", group.name);
        draw_box(&mut canvas, &group.summary, &x, &Orient { middle, thickness: 22.0, class: &class }, f64::INFINITY);
        words.push(format!(
            "{}: median {}, quartiles {} and {}, maximum {}",
            group.name,
            amount(group.summary.q50),
            amount(group.summary.q25),
            amount(group.summary.q75),
            amount(group.summary.max)
        ));
    }
    canvas.panel(size, title, &format!("{}.", words.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_has_the_quartiles_of_pandas_and_whiskers_at_real_values() {
        let summary = Summary::of(&[1.0, 2.0, 3.0, 4.0, 100.0]).unwrap_or_default();
        assert_eq!((summary.q25, summary.q50, summary.q75), (2.0, 3.0, 4.0));
        assert_eq!((summary.whisker_low, summary.whisker_high), (1.0, 4.0));
        assert_eq!(summary.fences, [100.0]);
        assert_eq!(Summary::of(&[]), None);
    }
}
