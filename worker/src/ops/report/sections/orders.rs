//! The data: what was read, what was dropped and why, how the rest is distributed.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    super::{
        data::{Data, items, number, text},
        figures::Figures,
        format::{amount, fixed, integer, percent},
        html::{self, Table, absent, escape, figure, grid, meter},
        svg::bars::{self, Bar},
    },
    panels,
};

/// Rules of the cleaning in words. They are listed in the order the cleaning gives, which is the order they apply.
const RULES: [(&str, &str); 5] = [
    ("unparsable", "lines that cannot be read"),
    ("missing_customer_or_description", "without customer or description"),
    ("duplicates", "exact duplicates"),
    ("non_positive_quantity", "quantity not above 0 (returns)"),
    ("non_positive_price", "price not above 0"),
];

/// Writes data quality, statistics and distributions.
pub(super) fn section(data: &Data, figures: &Figures) -> String {
    let mut body = String::from("<h3>Data quality</h3>\n");
    match &data.quality {
        Some(quality) => body.push_str(&cleaning(quality)),
        None => body.push_str(&absent("The cleaning", "quality")),
    }
    match &data.stats {
        Some(stats) => {
            body.push_str("<h3>Statistics</h3>\n");
            let tables = [describe(stats), columns(data.quality.as_ref(), stats)];
            body.push_str(&grid("two", &tables));
            body.push_str("<h3>Order lines</h3>\n");
            let mut parts = panels(figures, "fig_quantity");
            parts.extend(panels(figures, "fig_total_sales"));
            parts.extend(panels(figures, "fig_scatter"));
            parts.extend(by_month(stats));
            body.push_str(&grid("two", &parts));
            let tables: Vec<String> = [
                ranking(stats, "by_country", "Sales by country", "Country"),
                ranking(stats, "top_products", "Products by sales", "Product"),
            ]
            .into_iter()
            .flatten()
            .collect();
            body.push_str(&grid("two", &tables));
        }
        None => body.push_str(&absent("Exploration of the order lines", "stats")),
    }
    body.push_str("<h3>Customers</h3>\n");
    body.push_str(&grid("three", &panels(figures, "fig_rfm")));
    html::section("data", "The data", &body)
}

fn cleaning(quality: &Value) -> String {
    let read = number(quality, "/rows_read").or_else(|| number(quality, "/read")).unwrap_or(f64::NAN);
    let mut left = read;
    let mut table = Table::new("Rows after each rule.", &["Rule", "#Dropped", "#Rows left", "Share left"]);
    let share = |rows: f64| if read > 0.0 { rows / read } else { f64::NAN };
    table.row(vec!["read".to_owned(), String::new(), integer(read), meter(share(read), &percent(share(read)))]);
    let dropped = quality.get("dropped").and_then(Value::as_object);
    for (field, count) in dropped.into_iter().flatten() {
        let words = RULES.iter().find(|(rule, _)| rule == field).map_or(field.as_str(), |(_, words)| words);
        let count = count.as_f64().unwrap_or(f64::NAN);
        left -= count;
        table.row(vec![
            format!("<span class=\"minus\">−</span> {}", escape(words)),
            integer(count),
            integer(left),
            meter(share(left), &percent(share(left))),
        ]);
    }
    let kept = number(quality, "/kept").unwrap_or(left);
    table.row(vec![
        "<strong>kept</strong>".to_owned(),
        integer(read - kept),
        format!("<strong>{}</strong>", integer(kept)),
        meter(share(kept), &percent(share(kept))),
    ]);
    let mut out = table.html();
    out.push_str(&detected(quality));
    let bad = items(quality, "/unparsable_rows");
    if !bad.is_empty() {
        let mut table = Table::new("First lines that cannot be read.", &["Line", "Reason"]);
        for row in bad.iter().take(20) {
            table.row(vec![
                escape(&text(row, "/line").unwrap_or_default()),
                escape(&text(row, "/reason").unwrap_or_default()),
            ]);
        }
        let _ = writeln!(out, "<details><summary>Lines that cannot be read</summary>{}</details>", table.html());
    }
    out
}

fn detected(quality: &Value) -> String {
    let mut parts = Vec::new();
    for (field, words) in [("encoding", "encoding"), ("date_format", "dates"), ("compression", "compression")] {
        if let Some(value) = text(quality, &format!("/detected/{field}")) {
            parts.push(format!("{words} {value}"));
        }
    }
    for (field, words) in [
        ("customers", "customers"),
        ("invoices", "invoices"),
        ("stock_codes", "stock codes"),
        ("descriptions_trimmed", "distinct descriptions"),
    ] {
        if let Some(value) = number(quality, &format!("/{field}")) {
            parts.push(format!("{} {words}", integer(value)));
        }
    }
    if parts.is_empty() { String::new() } else { html::note(&format!("The file: {}.", parts.join(", "))) }
}

fn describe(stats: &Value) -> String {
    const MEASURES: [&str; 8] = ["count", "mean", "std", "min", "q25", "q50", "q75", "max"];
    let Some(Value::Object(columns)) = stats.get("describe") else { return String::new() };
    let mut head = vec!["Measure".to_owned()];
    head.extend(columns.keys().map(|name| format!("#{name}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table = Table::new("Numeric columns of the kept rows.", &head);
    for measure in MEASURES {
        let mut cells = vec![measure.replace("q25", "25%").replace("q50", "50%").replace("q75", "75%")];
        cells.extend(columns.values().map(|c| {
            let value = number(c, &format!("/{measure}")).unwrap_or(f64::NAN);
            if measure == "count" || value.abs() >= 10_000.0 { integer(value) } else { fixed(value, 2) }
        }));
        table.row(cells);
    }
    table.html()
}

/// Types and nulls: of the raw file where the cleaning reports them, else of the kept rows.
fn columns(quality: Option<&Value>, stats: &Value) -> String {
    let raw = quality.and_then(|q| q.get("nulls")).and_then(Value::as_object);
    let read = quality.and_then(|q| number(q, "/rows_read")).unwrap_or(f64::NAN);
    if let Some(nulls) = raw {
        let mut table = Table::new("Columns of the raw file.", &["Column", "Type", "#Nulls", "#Share"]);
        for (name, count) in nulls {
            let kind = quality.and_then(|q| text(&q["types"], &format!("/{name}"))).unwrap_or_else(|| "–".to_owned());
            let count = count.as_f64().unwrap_or(f64::NAN);
            table.row(vec![escape(name), escape(&kind), integer(count), percent(count / read)]);
        }
        return table.html();
    }
    let mut table = Table::new("Columns of the kept rows.", &["Column", "Type", "#Nulls"]);
    for column in items(stats, "/columns") {
        table.row(vec![
            escape(&text(column, "/name").unwrap_or_default()),
            escape(&text(column, "/type").unwrap_or_default()),
            integer(number(column, "/nulls").unwrap_or(f64::NAN)),
        ]);
    }
    if table.is_empty() { String::new() } else { table.html() }
}

/// Gives name and sales of an item: the first text and the field `sales`, whatever its case.
fn named_sales(item: &Value) -> Option<(String, f64)> {
    let fields = item.as_object()?;
    let name = fields.values().find_map(|v| v.as_str())?;
    let sales = fields.iter().find(|(key, _)| key.to_lowercase().contains("sales"))?.1.as_f64()?;
    Some((name.to_owned(), sales))
}

fn by_month(stats: &Value) -> Option<String> {
    let months: Vec<Bar> = items(stats, "/by_month")
        .iter()
        .filter_map(named_sales)
        .map(|(name, value)| Bar { name, value, strong: true })
        .collect();
    (!months.is_empty()).then(|| figure("fig-months", &bars::upwards("Sales by month", ("month", "sales"), &months)))
}

fn ranking(stats: &Value, key: &str, title: &str, what: &str) -> Option<String> {
    let rows: Vec<(String, f64)> = items(stats, &format!("/{key}")).iter().filter_map(named_sales).take(10).collect();
    let top = rows.iter().map(|r| r.1).fold(0.0, f64::max);
    if rows.is_empty() {
        return None;
    }
    let mut table = Table::new(title, &[what, "Sales"]);
    for (name, sales) in rows {
        table.row(vec![escape(&name), meter(if top > 0.0 { sales / top } else { 0.0 }, &amount(sales))]);
    }
    Some(table.html())
}
