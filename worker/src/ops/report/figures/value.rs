//! Figures of customer lifetime value.

use super::super::{
    data::{Data, items, number, text},
    format::integer,
    svg::{
        Figure, HALF,
        bars::{self, Bar},
        histogram::{self, Histogram},
    },
};

/// Draws the distribution of the predicted spend.
pub(super) fn predicted(data: &Data) -> Figure {
    const NAME: &str = "fig_clv";
    const TITLE: &str = "Predicted spend per customer";
    let Some(values) = &data.predicted else {
        return Figure::missing(
            NAME,
            TITLE,
            "Not part of this pipeline: the report's input predictions is not connected.",
        );
    };
    let bins = histogram::bin(values, 50);
    if bins.counts.is_empty() {
        return Figure::missing(NAME, TITLE, "There is no prediction to draw.");
    }
    let horizon = data.clv.as_ref().and_then(|clv| number(clv, "/horizon_days"));
    let in_sample = data.clv.as_ref().and_then(|clv| text(clv, "/mode")).is_some_and(|mode| mode == "in_sample");
    let unit = match horizon {
        Some(days) if !in_sample => format!("predicted sales in the next {} days", integer(days)),
        _ => "predicted sales".to_owned(),
    };
    let x_label = if bins.log { format!("{unit} (log axis)") } else { unit };
    let panel = histogram::panel(
        HALF,
        &Histogram {
            title: TITLE,
            x_label: &x_label,
            y_label: "customers",
            edges: &bins.edges,
            counts: &bins.counts,
            log_x: bins.log,
            ..Histogram::default()
        },
    );
    let note = match bins.unplaced {
        0 => String::new(),
        n => format!("{} customers with a prediction of 0 or less are not drawn.", integer(n as f64)),
    };
    Figure::new(NAME, vec![panel.with_note(note)])
}

/// Measures drawn: field, title, decimals, and whether less is better.
const MEASURES: [(&str, &str, usize, bool); 4] = [
    ("mae", "Mean absolute error (less is better)", 0, true),
    ("spearman", "Rank correlation, Spearman (more is better)", 3, false),
    ("gini", "Normalised Gini (more is better)", 3, false),
    ("top_decile_share", "Share of spend in the predicted top tenth (more is better)", 3, false),
];

/// Draws the models beside each other, measure by measure.
pub(super) fn quality(data: &Data) -> Figure {
    const NAME: &str = "fig_quality";
    const TITLE: &str = "Quality of the spend models";
    let Some(clv) = &data.clv else {
        return Figure::missing(NAME, TITLE, "Not part of this pipeline: the report's input clv is not connected.");
    };
    let models = items(clv, "/models");
    let mut panels = Vec::new();
    for (field, title, decimals, less) in MEASURES {
        let values: Vec<f64> = models.iter().map(|m| number(m, &format!("/{field}")).unwrap_or(f64::NAN)).collect();
        if values.iter().all(|v| v.is_nan()) {
            continue;
        }
        let best = best(&values, less);
        let bars: Vec<Bar> = models
            .iter()
            .zip(&values)
            .enumerate()
            .map(|(i, (model, value))| Bar {
                name: text(model, "/name").unwrap_or_else(|| "model".to_owned()),
                value: *value,
                strong: Some(i) == best,
            })
            .collect();
        panels.push(bars::across(HALF.0, title, &bars, decimals));
    }
    if panels.is_empty() {
        return Figure::missing(NAME, TITLE, "The summary of the models holds no measures.");
    }
    Figure::new(NAME, panels)
}

/// Gives the position of the best value, the first of equals.
pub(in super::super) fn best(values: &[f64], less: bool) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (i, &value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
        if best.is_none_or(|(_, top)| if less { value < top } else { value > top }) {
            best = Some((i, value));
        }
    }
    best.map(|(i, _)| i)
}
