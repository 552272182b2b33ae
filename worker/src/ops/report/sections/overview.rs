//! Headline numbers and what they say.

use std::fmt::Write as _;

use super::super::{
    data::{Data, items, number, text},
    format::{amount, fixed, integer},
    html::{self, absent, escape},
};

/// Writes headline numbers and insights.
pub(super) fn section(data: &Data) -> String {
    let mut body = tiles(data);
    match &data.summary {
        Some(summary) => body.push_str(&insights(summary)),
        None => body.push_str(&absent("The summary of the segments", "segments_summary")),
    }
    html::section("overview", "Overview", &body)
}

fn tiles(data: &Data) -> String {
    let mut tiles: Vec<(String, &str, String)> = Vec::new();
    let quality = data.quality.as_ref();
    let fact = |pointer: &str| quality.and_then(|q| number(q, pointer));
    tiles.push((integer(data.member.len() as f64), "customers", String::new()));
    let sales = fact("/sum_total_sales")
        .or_else(|| data.features.get("Monetary").map(|m| m.iter().filter(|v| v.is_finite()).sum()));
    if let Some(sales) = sales {
        tiles.push((amount(sales), "sales", String::new()));
    }
    if let Some(invoices) = fact("/invoices") {
        let lines = fact("/kept").map(|kept| format!("{} lines", integer(kept))).unwrap_or_default();
        tiles.push((integer(invoices), "orders", lines));
    }
    let silhouette = chosen_silhouette(data);
    let score = silhouette.map(|s| format!("silhouette {}", fixed(s, 3))).unwrap_or_default();
    tiles.push((integer(data.groups.len() as f64), if data.groups.len() == 1 { "segment" } else { "segments" }, score));
    for (pointer, name) in
        [("/high_value/count", "high-value customers"), ("/churn_prone/count", "churn-prone customers")]
    {
        if let Some(count) = data.summary.as_ref().and_then(|s| number(s, pointer)) {
            tiles.push((integer(count), name, String::new()));
        }
    }
    let mut out = String::from("<dl class=\"tiles\">\n");
    for (value, name, extra) in tiles {
        let _ = writeln!(
            out,
            "<div><dt>{}</dt><dd>{}</dd>{}</div>",
            escape(name),
            escape(&value),
            if extra.is_empty() { String::new() } else { format!("<dd class=\"note\">{}</dd>", escape(&extra)) }
        );
    }
    out.push_str("</dl>\n");
    if let (Some(first), Some(last)) =
        (quality.and_then(|q| text(q, "/first_order")), quality.and_then(|q| text(q, "/last_order")))
    {
        let _ = write!(out, "<p class=\"note\">Orders from {} to {}. ", escape(&first), escape(&last));
        out.push_str("Sales carry no currency: the data names none.</p>\n");
    }
    out
}

/// Gives the mean silhouette of the chosen clustering.
fn chosen_silhouette(data: &Data) -> Option<f64> {
    let of_choice = data.kmeans.as_ref().and_then(|kmeans| {
        let chosen = number(kmeans, "/chosen_k")?;
        let candidate = items(kmeans, "/candidates").iter().find(|c| number(c, "/k") == Some(chosen))?;
        number(candidate, "/silhouette")
    });
    of_choice.or_else(|| data.summary.as_ref().and_then(|s| number(s, "/silhouette")))
}

fn insights(summary: &serde_json::Value) -> String {
    let warnings: Vec<&str> = items(summary, "/warnings").iter().filter_map(|w| w.as_str()).collect();
    let mut out = String::from("<h3>What the data says</h3>\n<ul class=\"insights\">\n");
    for sentence in items(summary, "/insights").iter().filter_map(|s| s.as_str()) {
        let class = if warnings.contains(&sentence) { " class=\"warn\"" } else { "" };
        let mark = if class.is_empty() { "" } else { "<strong>Careful:</strong> " };
        let _ = writeln!(out, "<li{class}>{mark}{}</li>", escape(sentence));
    }
    out.push_str("</ul>\n");
    out
}
