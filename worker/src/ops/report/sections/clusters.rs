//! Segments: who they are, how they were found, where they lie.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    super::{
        contrast,
        data::{Data, FEATURES, items, number, numbers, text},
        figures::{Figures, PITCH, YAW, turnable},
        format::{decimal, fixed, integer, percent},
        html::{self, Table, absent, embed, escape, grid, legend, meter, note, paragraph, sentence, swatch},
    },
    panels, short_name,
};

/// Below this share of customers a cluster is a handful of outliers.
const TINY: f64 = 0.01;

/// Writes profiles, heatmap, box plots and maps.
pub(super) fn segments(data: &Data, figures: &Figures) -> String {
    let mut body = String::new();
    match &data.summary {
        Some(summary) => {
            body.push_str(&profiles(data, summary));
            if let Some(rule) = text(summary, "/naming_rule") {
                let _ = writeln!(
                    body,
                    "<details><summary>How the segments got their names</summary><p>{}</p></details>",
                    escape(&rule)
                );
            }
        }
        None => body.push_str(&absent("The summary of the segments", "segments_summary")),
    }
    let mut pair = panels(figures, "fig_heatmap");
    pair.extend(panels(figures, "fig_monetary"));
    body.push_str(&grid("two", &pair));
    let mut maps = vec![cloud(data, figures)];
    maps.extend(panels(figures, "fig_tsne"));
    body.push_str(&grid("two", &maps));
    body.push_str(&components(data));
    html::section("segments", "Segments", &body)
}

fn profiles(data: &Data, summary: &Value) -> String {
    let clusters = items(summary, "/clusters");
    let features: Vec<&str> = FEATURES
        .iter()
        .map(|f| f.0)
        .filter(|f| clusters.iter().any(|c| number(c, &format!("/means/{f}")).is_some()))
        .collect();
    let mut head =
        vec!["Segment".to_owned(), "#Customers".into(), "Share of customers".into(), "Share of sales".into()];
    head.extend(features.iter().map(|f| format!("#{}", short_name(f))));
    head.push("#Silhouette".to_owned());
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    let mut table =
        Table::new("Averages by segment. Recency and tenure in days; order value and Monetary in sales.", &head);
    for cluster in clusters {
        let label = number(cluster, "/cluster");
        let place = data.groups.iter().position(|g| Some(g.label as f64) == label);
        let name = text(cluster, "/name").unwrap_or_default();
        let share = |field: &str| number(cluster, field).unwrap_or(f64::NAN);
        let mut cells = vec![
            format!("{}{}", place.map(swatch).unwrap_or_default(), escape(&name)),
            integer(share("/size")),
            meter(share("/share"), &percent(share("/share"))),
            meter(share("/share_of_sales"), &percent(share("/share_of_sales"))),
        ];
        cells.extend(features.iter().map(|f| {
            let value = share(&format!("/means/{f}"));
            fixed(value, if value.abs() < 20.0 { 1 } else { 0 })
        }));
        cells.push(place.and_then(|p| data.groups[p].silhouette).map_or_else(|| "–".to_owned(), |s| fixed(s, 2)));
        table.row(cells);
    }
    table.html()
}

/// The cloud that can be turned; without a script, its first view.
fn cloud(data: &Data, figures: &Figures) -> String {
    let fixed_view = panels(figures, "fig_pca").concat();
    let Some(points) = &data.pca else { return fixed_view };
    let cloud = turnable(points);
    // Whole numbers: a thousandth of the view is finer than a pixel.
    let flat: Vec<i64> = cloud
        .points
        .iter()
        .flat_map(|(at, group)| {
            let [x, y, z] = at.map(|v| (v / cloud.reach * 1000.0).round() as i64);
            [x, y, z, i64::try_from(*group).unwrap_or(0)]
        })
        .collect();
    let view = json!({"points": flat, "yaw": YAW, "pitch": PITCH});
    let outside = match cloud.outside {
        0 => String::new(),
        n => format!(" {} extreme customers lie outside the first view; zoom out to see them.", integer(n as f64)),
    };
    format!(
        "<figure id=\"cloud\" hidden><figcaption>Customers on three principal components</figcaption>{}\
         <canvas tabindex=\"0\" role=\"img\" aria-label=\"Cloud of customers by principal component, coloured by segment. \
         Arrow keys turn it, plus and minus zoom, 0 resets.\"></canvas>\
         <div class=\"tools\" role=\"group\" aria-label=\"View\"><button type=\"button\" data-do=\"left\" \
         aria-label=\"Turn left\">←</button><button type=\"button\" data-do=\"right\" aria-label=\"Turn right\">→</button>\
         <button type=\"button\" data-do=\"up\" aria-label=\"Tilt up\">↑</button><button type=\"button\" data-do=\"down\" \
         aria-label=\"Tilt down\">↓</button><button type=\"button\" data-do=\"in\" aria-label=\"Zoom in\">+</button>\
         <button type=\"button\" data-do=\"out\" aria-label=\"Zoom out\">−</button>\
         <button type=\"button\" data-do=\"reset\">Reset</button></div>\
         <p class=\"note\">Drag to turn, or use the arrow keys.{outside}</p></figure>\n\
         <noscript>{fixed_view}</noscript>\n{}",
        legend(&data.legend()),
        embed("cloud-data", &view),
    )
}

/// What the components are made of, and how far the map can be trusted.
fn components(data: &Data) -> String {
    let mut out = String::new();
    if let Some(pca) = &data.pca_summary {
        let features: Vec<String> =
            items(pca, "/features").iter().filter_map(|f| f.as_str()).map(str::to_owned).collect();
        let ratios = numbers(pca, "/ratio");
        let mut head = vec!["Component".to_owned(), "#Variance explained".to_owned()];
        head.extend(features.iter().map(|f| format!("#{}", short_name(f))));
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let mut table = Table::new("Principal components: share of the variance, and weight of each feature.", &head);
        for (i, loadings) in items(pca, "/components").iter().enumerate() {
            let mut cells = vec![format!("PC{}", i + 1), percent(ratios.get(i).copied().unwrap_or(f64::NAN))];
            cells.extend(features.iter().enumerate().map(|(j, feature)| {
                // By name, or by position in the order of the features.
                let weight = loadings.get(feature).or_else(|| loadings.get(j)).and_then(Value::as_f64);
                fixed(weight.unwrap_or(f64::NAN), 2)
            }));
            table.row(cells);
        }
        if !table.is_empty() {
            out.push_str(&table.html());
        }
    }
    if let Some(tsne) = &data.tsne_summary {
        let at = |field: &str| number(tsne, field).unwrap_or(f64::NAN);
        out.push_str(&note(&format!(
            "t-SNE: perplexity {}, {} iterations, final KL divergence {}.",
            decimal(at("/perplexity")),
            integer(at("/iterations")),
            fixed(at("/kl"), 3)
        )));
    }
    out
}

/// Writes how the number of clusters was chosen, and what that choice is worth.
pub(super) fn choice(data: &Data, figures: &Figures) -> String {
    let Some(kmeans) = &data.kmeans else {
        return html::section(
            "choice",
            "How the number of segments was chosen",
            &absent("The clustering summary", "kmeans"),
        );
    };
    let mut body = String::new();
    if let Some(reason) = text(kmeans, "/reason") {
        body.push_str(&paragraph(&sentence(&reason)));
    }
    for remark in remarks(data, kmeans) {
        body.push_str(&paragraph(&remark));
    }
    body.push_str(&grid("two", &panels(figures, "fig_silhouette")));
    body.push_str(&candidates(kmeans));
    html::section("choice", "How the number of segments was chosen", &body)
}

/// Says where silhouette alone would lead, from the candidates of this run.
fn remarks(data: &Data, kmeans: &Value) -> Vec<String> {
    let candidates = items(kmeans, "/candidates");
    let score = |c: &Value| number(c, "/silhouette").unwrap_or(f64::NEG_INFINITY);
    let Some(top) = candidates.iter().reduce(|best, c| if score(c) > score(best) { c } else { best }) else {
        return Vec::new();
    };
    let k = integer(number(top, "/k").unwrap_or(f64::NAN));
    let sizes = numbers(top, "/sizes");
    let smallest = sizes.iter().copied().fold(f64::INFINITY, f64::min);
    let share = number(top, "/smallest_share").unwrap_or(f64::NAN);
    let told = sizes.iter().map(|s| integer(*s)).collect::<Vec<_>>().join(" and ");
    let told = if sizes.len() == 2 {
        format!("clusters of {told} customers")
    } else {
        format!("a cluster of {} customers", integer(smallest))
    };
    let chosen = number(kmeans, "/chosen_k") == number(top, "/k");
    if share < TINY {
        let first = format!(
            "Silhouette alone prefers k = {k} ({}), which gives {told}: the smallest holds {} of all.",
            fixed(score(top), 4),
            percent(share)
        );
        return vec![if chosen {
            format!(
                "{first} This is the known weakness of clustering raw standardised features: a few extreme customers lie so far \
                 out that splitting them off scores best, and the result tells nothing about everybody else. Take the \
                 logarithm of the features first (ml.scale with transform = log1p) and require a least share per cluster \
                 (ml.kmeans with min_cluster_share), as the recommended pipeline does."
            )
        } else {
            format!("{first} That splits off outliers instead of describing customers, so it was ruled out.")
        }];
    }
    let columns: Vec<&[f64]> = FEATURES.iter().filter_map(|f| data.features.get(f.0)).map(Vec::as_slice).collect();
    match contrast::two_means(&columns) {
        Some((small, large)) if (small as f64) < TINY * (small + large) as f64 => vec![format!(
            "Why not the raw features? Standardised as they are, without a logarithm, their best split in two is clusters of {} and \
             {} customers: extreme buyers and everybody else. Silhouette rewards such a split, and that is the weakness of the \
             classic notebook. It does not arise here.",
            integer(small as f64),
            integer(large as f64)
        )],
        _ => Vec::new(),
    }
}

fn candidates(kmeans: &Value) -> String {
    let chosen = number(kmeans, "/chosen_k");
    let mut table =
        Table::new("Every candidate.", &["k", "#Silhouette", "#Inertia", "#Smallest cluster", "Sizes", "Verdict"]);
    for candidate in items(kmeans, "/candidates") {
        let k = number(candidate, "/k");
        let sizes: Vec<String> = numbers(candidate, "/sizes").iter().map(|s| integer(*s)).collect();
        let eligible = candidate.get("eligible").and_then(Value::as_bool).unwrap_or(true);
        let verdict = match (k == chosen, eligible) {
            (true, _) => "<strong>chosen</strong>",
            (false, true) => "eligible",
            (false, false) => "ruled out: smallest cluster too small",
        };
        table.row(vec![
            integer(k.unwrap_or(f64::NAN)),
            fixed(number(candidate, "/silhouette").unwrap_or(f64::NAN), 4),
            fixed(number(candidate, "/inertia").unwrap_or(f64::NAN), 1),
            percent(number(candidate, "/smallest_share").unwrap_or(f64::NAN)),
            escape(&sizes.join(" · ")),
            verdict.to_owned(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.html() }
}
