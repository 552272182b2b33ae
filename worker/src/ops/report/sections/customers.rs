//! Lists of customers, each with the rule that chose them.

use serde_json::Value;

use super::{
    super::{
        data::{Data, FEATURES, items, number, text},
        format::{fixed, integer},
        html::{self, Table, absent, escape, paragraph},
    },
    short_name,
};

/// Writes the high-value and the churn-prone list.
pub(super) fn section(data: &Data) -> String {
    let body = match &data.summary {
        Some(summary) => [
            list(summary, "high_value", "Top customers", "Nobody fits the rule."),
            list(
                summary,
                "churn_prone",
                "Churn-prone customers",
                "Nobody fits the rule: no customer of worth is overdue.",
            ),
        ]
        .concat(),
        None => absent("The lists of customers", "segments_summary"),
    };
    html::section("customers", "Customers to look after", &body)
}

/// Columns after the features: field, header, decimals.
const EXTRAS: [(&str, &str, usize); 3] =
    [("Predicted", "Predicted", 0), ("MeanGapDays", "Usual gap (days)", 1), ("TimesGap", "Overdue (times the gap)", 1)];

fn list(summary: &Value, key: &str, title: &str, empty: &str) -> String {
    let mut out = format!("<h3>{}</h3>\n", escape(title));
    if let Some(rule) = text(summary, &format!("/{key}/rule")) {
        out.push_str(&paragraph(&rule));
    }
    let customers = items(summary, &format!("/{key}/customers"));
    if customers.is_empty() {
        out.push_str(&format!("<p class=\"absent\">{}</p>\n", escape(empty)));
        return out;
    }
    let has = |field: &str| customers.iter().any(|c| c.get(field).is_some_and(Value::is_number));
    let mut columns: Vec<(&str, String, usize)> = FEATURES
        .iter()
        .filter(|f| f.0 != "AvgBasketSize" && has(f.0))
        .map(|f| (f.0, short_name(f.0).to_owned(), usize::from(f.0 == "AvgOrderValue")))
        .collect();
    columns.extend(EXTRAS.iter().filter(|e| has(e.0)).map(|e| (e.0, e.1.to_owned(), e.2)));
    let mut head = vec!["Customer".to_owned(), "Segment".to_owned()];
    head.extend(columns.iter().map(|(_, name, _)| format!("#{name}")));
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let shown = customers.len() as f64;
    let all = number(summary, &format!("/{key}/count")).unwrap_or(shown);
    let caption =
        if all > shown { format!("The first {} of {}.", integer(shown), integer(all)) } else { String::new() };
    let mut table = Table::new(&caption, &head);
    for customer in customers {
        let mut cells = vec![
            escape(&text(customer, "/CustomerID").unwrap_or_default()),
            escape(&text(customer, "/Segment").unwrap_or_default()),
        ];
        cells.extend(
            columns.iter().map(|(field, _, decimals)| {
                fixed(number(customer, &format!("/{field}")).unwrap_or(f64::NAN), *decimals)
            }),
        );
        table.row(cells);
    }
    out.push_str(&table.html());
    out
}
