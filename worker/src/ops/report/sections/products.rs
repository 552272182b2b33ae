//! Similar products: a search over all of them, and a table of a few for pages without a script.

use serde_json::{Value, json};

use super::super::{
    data::{Data, Similar},
    format::{amount, fixed, integer},
    html::{self, Table, absent, embed, escape, paragraph},
};

/// Products listed without a search.
const LISTED: usize = 8;

/// Writes the search and the table.
pub(super) fn section(data: &Data) -> String {
    let body = match &data.similar {
        Some(similar) if !similar.texts.is_empty() => search(similar),
        Some(_) => "<p class=\"absent\">There are no products to compare.</p>\n".to_owned(),
        None => absent("Product similarity", "neighbours"),
    };
    html::section("products", "Similar products", &body)
}

fn search(similar: &Similar) -> String {
    let order = best_sellers(similar);
    let known = order.first().is_some_and(|&top| similar.sales[top].is_finite());
    let mut table = Table::new(
        if known {
            "Best sellers and the products whose descriptions are nearest in meaning."
        } else {
            "Some products and the nearest in meaning."
        },
        &["Product", "#Sales", "Most similar (cosine)"],
    );
    for &product in order.iter().take(LISTED) {
        let near: Vec<String> = similar.neighbours[product]
            .iter()
            .take(3)
            .map(|(other, cosine)| format!("{} ({})", similar.texts[*other], fixed(*cosine, 2)))
            .collect();
        table.row(vec![escape(&similar.texts[product]), amount(similar.sales[product]), escape(&near.join("; "))]);
    }
    let intro = paragraph(&format!(
        "{} product descriptions, compared by meaning. A cosine of 1 is the same meaning.",
        integer(similar.neighbours.iter().filter(|n| !n.is_empty()).count() as f64)
    ));
    format!(
        "{intro}<div id=\"finder\" hidden><label for=\"finder-box\">Find a product</label>\
         <input id=\"finder-box\" type=\"search\" autocomplete=\"off\" spellcheck=\"false\" \
         placeholder=\"part of a description or stock code\"><p class=\"note\" id=\"finder-count\" role=\"status\"></p>\
         <ul id=\"finder-hits\"></ul></div>\n<div id=\"finder-static\">{}</div>\n{}",
        table.html(),
        embed("finder-data", &data(similar, &order)),
    )
}

/// Packs texts, codes and neighbours; a neighbour is a position and a cosine in thousandths.
fn data(similar: &Similar, order: &[usize]) -> Value {
    let near: Vec<Vec<i64>> = similar
        .neighbours
        .iter()
        .map(|list| {
            list.iter()
                .flat_map(|(other, cosine)| [i64::try_from(*other).unwrap_or(0), (cosine * 1000.0).round() as i64])
                .collect()
        })
        .collect();
    json!({"texts": similar.texts, "codes": similar.codes, "near": near, "first": &order[..order.len().min(LISTED)]})
}

/// Orders products by sales, those without any last.
fn best_sellers(similar: &Similar) -> Vec<usize> {
    let mut order: Vec<usize> = (0..similar.texts.len()).filter(|&i| !similar.neighbours[i].is_empty()).collect();
    let sales = |i: usize| if similar.sales[i].is_finite() { similar.sales[i] } else { f64::NEG_INFINITY };
    order.sort_by(|&a, &b| sales(b).total_cmp(&sales(a)).then(a.cmp(&b)));
    order
}
