//! Customer lifetime value: predictions and how good they are.

use serde_json::Value;

use super::{
    super::{
        data::{Data, items, number, text},
        figures::{Figures, value::best},
        format::{amount, fixed, integer, percent},
        html::{self, Table, absent, escape, grid, meter, note, paragraph, sentence},
    },
    panels,
};

/// Columns of the table of models: field, header, decimals, less is better.
const MEASURES: [(&str, &str, usize, bool); 7] = [
    ("mae", "#MAE", 0, true),
    ("rmse", "#RMSE", 0, true),
    ("r2", "#R²", 3, false),
    ("spearman", "#Spearman", 3, false),
    ("gini", "#Gini", 3, false),
    ("top_decile_share", "#Top-tenth share", 3, false),
    ("top_decile_lift", "#Top-tenth lift", 2, false),
];

/// Writes predictions, measures and what the model looks at.
pub(super) fn section(data: &Data, figures: &Figures) -> String {
    let mut body = String::new();
    match &data.clv {
        Some(clv) => {
            body.push_str(&paragraph(&method(clv)));
            body.push_str(&models(clv));
            for remark in items(clv, "/notes").iter().filter_map(|n| n.as_str()) {
                body.push_str(&note(&sentence(remark)));
            }
        }
        None => body.push_str(&absent("The value model", "clv")),
    }
    if data.clv.is_some() || data.predicted.is_some() {
        let mut first = panels(figures, "fig_clv");
        if let Some(clv) = &data.clv {
            first.extend(importance(clv));
        }
        // Both stages stand beside the histogram: cards of about one height.
        body.push_str(&grid(if first.len() > 2 { "three" } else { "two" }, &first));
    }
    if data.clv.is_some() {
        body.push_str(&grid("two", &panels(figures, "fig_quality")));
    }
    html::section("value", "Customer lifetime value", &body)
}

/// Says what was predicted and how it was judged.
fn method(clv: &Value) -> String {
    if text(clv, "/mode").as_deref() == Some("in_sample") {
        return "Predicted in sample: the model sees the very spend it predicts, through order value and frequency, whose product \
                is the spend. A fit close to 1 is therefore arithmetic, not foresight. Use mode = holdout to learn how well \
                future spend can be told."
            .to_owned();
    }
    let days = number(clv, "/horizon_days").map_or_else(|| "some".to_owned(), integer);
    let cut = text(clv, "/cut").map(|cut| format!(" on {cut}")).unwrap_or_default();
    let at = |field: &str| number(clv, field);
    let known = match (at("/customers_known"), at("/buyers_after"), at("/spend_after")) {
        (Some(customers), Some(buyers), Some(spend)) => format!(
            " Of {} customers known at the cut, {} bought after it, for {}.",
            integer(customers),
            integer(buyers),
            amount(spend)
        ),
        _ => String::new(),
    };
    format!(
        "Judged on a hold-out in time: features from before the cut{cut}, spend in the {days} days after it as the target, and \
         every customer predicted by a model that did not see that customer.{known} The best value of each measure is in bold."
    )
}

fn models(clv: &Value) -> String {
    let models = items(clv, "/models");
    let used: Vec<_> = MEASURES
        .iter()
        .filter(|(field, ..)| models.iter().any(|m| number(m, &format!("/{field}")).is_some()))
        .collect();
    let mut head = vec!["Model"];
    head.extend(used.iter().map(|m| m.1));
    let mut table = Table::new("Errors in sales per customer; Gini normalised by the best possible order.", &head);
    let columns: Vec<(Vec<f64>, Option<usize>)> = used
        .iter()
        .map(|(field, _, _, less)| {
            let values: Vec<f64> = models.iter().map(|m| number(m, &format!("/{field}")).unwrap_or(f64::NAN)).collect();
            let best = if models.len() > 1 { best(&values, *less) } else { None };
            (values, best)
        })
        .collect();
    for (row, model) in models.iter().enumerate() {
        let mut cells = vec![escape(&text(model, "/name").unwrap_or_default())];
        for ((values, best), (_, _, decimals, _)) in columns.iter().zip(&used) {
            let cell = fixed(values[row], *decimals);
            cells.push(if *best == Some(row) { format!("<strong>{cell}</strong>") } else { cell });
        }
        table.row(cells);
    }
    if table.is_empty() { String::new() } else { table.html() }
}

/// Lists what the trees split on: one list, or one for each stage under its name.
fn importance(clv: &Value) -> Vec<String> {
    const STAGES: [(&str, &str); 2] =
        [("buys", "Whether a customer buys again"), ("spend", "How much a customer spends")];
    let found = match clv.get("importance") {
        Some(Value::Object(stages)) => {
            STAGES.iter().filter_map(|(stage, title)| Some(shares(title, stages.get(*stage)?.as_array()?))).collect()
        }
        Some(Value::Array(list)) => vec![shares("How much a customer spends", list)],
        _ => Vec::new(),
    };
    found.into_iter().filter(|html: &String| !html.is_empty()).collect()
}

fn shares(title: &str, list: &[Value]) -> String {
    /// Features listed; the rest weigh next to nothing.
    const LISTED: usize = 10;
    let mut weights: Vec<(String, f64)> =
        list.iter().filter_map(|item| Some((text(item, "/feature")?, number(item, "/share")?))).collect();
    let total: f64 = weights.iter().map(|w| w.1).filter(|w| w.is_finite()).sum();
    if total <= 0.0 {
        return String::new();
    }
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let mut table = Table::new("", &["What the model looks at", "Share of importance"]);
    for (name, weight) in weights.iter().take(LISTED) {
        table.row(vec![escape(name), meter(weight / total, &percent(weight / total))]);
    }
    format!("<figure><figcaption>{}</figcaption>{}</figure>\n", escape(title), table.html())
}
