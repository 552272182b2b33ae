//! The page, section by section. A section whose inputs are missing says so.

mod clusters;
mod customers;
mod orders;
mod origin;
mod overview;
mod products;
mod value;

use super::{
    data::{Data, FEATURES, text},
    figures::Figures,
    html::{escape, figure},
    svg,
};

const STYLE: &str = include_str!("../assets/style.css");
const SCRIPT: &str = include_str!("../assets/script.js");

/// Nothing may be loaded from anywhere; the page's own style and script are the only ones.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; \
base-uri 'none'; form-action 'none'";

/// Sections of the page: id, name in the list of contents.
const CONTENTS: [(&str, &str); 8] = [
    ("overview", "Overview"),
    ("segments", "Segments"),
    ("choice", "Choice of k"),
    ("value", "Value"),
    ("customers", "Customers"),
    ("products", "Products"),
    ("data", "Data"),
    ("origin", "Run"),
];

/// Colours on dark, in the order of [`svg::LIGHT`].
const DARK: [(&str, &str); 16] = [
    ("ink", "#e8ebf0"),
    ("muted", "#a3adba"),
    ("line", "#5c6673"),
    ("grid", "#2a313b"),
    ("paper", "#171b21"),
    ("accent", "#74b0f0"),
    ("soft", "#24405f"),
    ("warn", "#f0a36a"),
    ("c0", "#4aa3e0"),
    ("c1", "#eba33c"),
    ("c2", "#2fbf95"),
    ("c3", "#de8ab8"),
    ("c4", "#8fd0f5"),
    ("c5", "#f07f3c"),
    ("c6", "#d2c04a"),
    ("c7", "#b0b0bc"),
];

/// Writes the whole page.
pub(super) fn page(data: &Data, figures: &Figures) -> String {
    let title = text(&data.facts, "/pipeline").unwrap_or_else(|| "customer segmentation".to_owned());
    let nav: String = CONTENTS.iter().map(|(id, name)| format!("<a href=\"#{id}\">{name}</a>")).collect();
    let body = [
        overview::section(data),
        clusters::segments(data, figures),
        clusters::choice(data, figures),
        value::section(data, figures),
        customers::section(data),
        products::section(data),
        orders::section(data, figures),
        origin::section(data),
    ]
    .concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} – Segue report</title>\n\
         <style>{}</style>\n</head>\n<body>\n<a class=\"skip\" href=\"#overview\">Skip to the report</a>\n\
         <header><div class=\"wrap\"><p class=\"brand\">Segue report</p><h1>{title}</h1>{}</div></header>\n\
         <nav aria-label=\"Sections\"><div class=\"wrap\">{nav}</div></nav>\n<main class=\"wrap\">\n{body}</main>\n\
         <script>{SCRIPT}</script>\n</body>\n</html>\n",
        style(),
        origin::byline(data),
        title = escape(&title),
    )
}

fn style() -> String {
    let variables =
        |colours: &[(&str, &str)]| -> String { colours.iter().map(|(name, hex)| format!("--{name}:{hex};")).collect() };
    let classes: String = (0..svg::PALETTE).map(|i| format!(".k{i}{{background:var(--c{i})}}")).collect();
    // Paper is white, whatever the screen likes.
    format!(
        ":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}@media print{{:root{{{light}}}}}\n{STYLE}\n{classes}{}",
        svg::css(|name| format!("var(--{name})")),
        light = variables(&svg::LIGHT),
        dark = variables(&DARK),
    )
}

/// Gives the name of a feature on screens.
pub(super) fn short_name(column: &str) -> &str {
    FEATURES.iter().find(|(have, ..)| *have == column).map_or(column, |(_, name, _)| name)
}

/// Shows the panels of a figure.
fn panels(figures: &Figures, name: &str) -> Vec<String> {
    let Some(found) = figures.get(name) else { return Vec::new() };
    if !found.missing.is_empty() {
        let title = found.panels.first().map_or("", |p| p.title.as_str());
        return vec![format!(
            "<figure class=\"empty\"><figcaption>{}</figcaption><p class=\"absent\">{}</p></figure>\n",
            escape(title),
            escape(&found.missing)
        )];
    }
    let id = name.replace('_', "-");
    found.panels.iter().enumerate().map(|(i, panel)| figure(&format!("{id}-{i}"), panel)).collect()
}
