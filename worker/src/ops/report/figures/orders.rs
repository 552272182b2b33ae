//! Figures of order lines and of the features made from them.

use serde_json::Value;

use super::super::{
    data::{Data, FEATURES, number, numbers},
    format::{decimal, integer},
    svg::{
        Figure, HALF, Panel, THIRD,
        boxes::Summary,
        histogram::{self, Histogram},
        scatter,
    },
};

const NO_STATS: &str = "Not part of this pipeline: the report's input stats is not connected.";

/// Draws a histogram of the statistics, with its box above.
pub(super) fn histogram(data: &Data, name: &'static str, column: &str, title: &str, x_label: &str) -> Figure {
    let Some(stats) = &data.stats else { return Figure::missing(name, title, NO_STATS) };
    let edges = numbers(stats, &format!("/histograms/{column}/edges"));
    let counts = numbers(stats, &format!("/histograms/{column}/counts"));
    if counts.is_empty() || edges.len() != counts.len() + 1 {
        return Figure::missing(name, title, &format!("The statistics hold no histogram of {column}."));
    }
    let log_y = tall(&counts);
    let plot = Histogram {
        title,
        x_label,
        y_label: if log_y { "order lines (log axis)" } else { "order lines" },
        edges: &edges,
        counts: &counts,
        log_x: false,
        log_y,
        summary: summary(stats, column),
    };
    let panel = histogram::panel(HALF, &plot).with_note(tail(stats, column, &edges, &counts, log_y));
    Figure::new(name, vec![panel])
}

/// Says whether one bar would dwarf the others.
fn tall(counts: &[f64]) -> bool {
    let mut filled: Vec<f64> = counts.iter().copied().filter(|c| *c > 0.0).collect();
    filled.sort_by(f64::total_cmp);
    let (Some(top), Some(middle)) = (filled.last(), filled.get(filled.len() / 2)) else { return false };
    *top > 30.0 * middle
}

fn summary(stats: &Value, column: &str) -> Option<Summary> {
    let at = |field: &str| number(stats, &format!("/boxes/{column}/{field}"));
    Some(Summary {
        whisker_low: at("whisker_low")?,
        q25: at("q25")?,
        q50: at("q50")?,
        q75: at("q75")?,
        whisker_high: at("whisker_high")?,
        max: at("max")?,
        fences: Vec::new(),
    })
}

/// Says in words what the drawing leaves out or bends.
fn tail(stats: &Value, column: &str, edges: &[f64], counts: &[f64], log_y: bool) -> String {
    let mut parts = Vec::new();
    let end = edges.last().copied().unwrap_or(0.0);
    let clipped = number(stats, &format!("/histograms/{column}/clipped_above"));
    let max = number(stats, &format!("/describe/{column}/max")).unwrap_or(end);
    let all = number(stats, &format!("/describe/{column}/count")).unwrap_or(0.0);
    let hidden = all - counts.iter().sum::<f64>();
    if hidden > 0.5 {
        parts.push(format!("{} lines above {} are not drawn (max {}).", integer(hidden), decimal(end), integer(max)));
    } else if clipped.is_some() && max > end {
        parts.push(format!("The last bar holds everything above {} (max {}).", decimal(end), integer(max)));
    }
    if log_y {
        parts.push("Counts on a log axis.".to_owned());
    }
    if let Some(outliers) = number(stats, &format!("/boxes/{column}/outliers")).filter(|o| *o > 0.0) {
        parts.push(format!("{} lines lie beyond the whiskers.", integer(outliers)));
    }
    parts.join(" ")
}

/// Draws Quantity against TotalSales.
pub(super) fn scatter(data: &Data) -> Figure {
    const NAME: &str = "fig_scatter";
    const TITLE: &str = "Quantity against sales, per order line";
    let Some(stats) = &data.stats else { return Figure::missing(NAME, TITLE, NO_STATS) };
    let points: Vec<(f64, f64)> = super::super::data::items(stats, "/scatter/points")
        .iter()
        .filter_map(|pair| Some((pair.get(0)?.as_f64()?, pair.get(1)?.as_f64()?)))
        .collect();
    if points.is_empty() {
        return Figure::missing(NAME, TITLE, "The statistics hold no points to draw.");
    }
    let shown = scatter::thin(&points);
    let logs = (long(shown.iter().map(|p| p.0)), long(shown.iter().map(|p| p.1)));
    let label = |text: &str, log: bool| if log { format!("{text} (log axis)") } else { text.to_owned() };
    let labels = (label("pieces", logs.0), label("sales", logs.1));
    let panel = scatter::panel(TITLE, (&labels.0, &labels.1), &shown, logs);
    let (drawn, of) = (shown.len() as f64, number(stats, "/scatter/of").unwrap_or(points.len() as f64));
    let note = if of > drawn {
        format!("A sample of {} of {} order lines, the same at every run.", integer(drawn), integer(of))
    } else {
        String::new()
    };
    Figure::new(NAME, vec![panel.with_note(note)])
}

/// Says whether positive values spread over so many sizes that a plain axis would show only the largest.
fn long(values: impl Iterator<Item = f64>) -> bool {
    let mut sorted: Vec<f64> = values.filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    match (sorted.first(), sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(min), Some(middle), Some(max)) => *min > 0.0 && *max > 30.0 * middle,
        _ => false,
    }
}

/// Draws the distribution of each feature.
pub(super) fn features(data: &Data) -> Figure {
    const NAME: &str = "fig_rfm";
    let mut panels = Vec::new();
    for (column, title, unit) in FEATURES {
        if let Some(values) = data.features.get(column) {
            panels.push(feature(title, unit, values));
        }
    }
    if panels.is_empty() {
        return Figure::missing(NAME, "Customer features", "The segments table holds none of the known features.");
    }
    Figure::new(NAME, panels)
}

fn feature(title: &str, unit: &str, values: &[f64]) -> Panel {
    let bins = histogram::bin(values, 40);
    let x_label = if bins.log { format!("{unit} (log axis)") } else { unit.to_owned() };
    let panel = histogram::panel(
        THIRD,
        &Histogram {
            title,
            x_label: &x_label,
            y_label: "customers",
            edges: &bins.edges,
            counts: &bins.counts,
            log_x: bins.log,
            ..Histogram::default()
        },
    );
    let end = bins.edges.last().copied().unwrap_or(0.0);
    let note = match (bins.beyond, bins.unplaced) {
        (0, 0) => String::new(),
        (0, zero) => format!("{} at or below 0 are not drawn.", integer(zero as f64)),
        (beyond, _) => {
            format!(
                "{} above {} are not drawn (max {}).",
                integer(beyond as f64),
                decimal(end.floor()),
                integer(bins.max)
            )
        }
    };
    panel.with_note(note)
}
