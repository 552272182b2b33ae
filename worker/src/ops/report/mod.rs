//! `report.html`: one page that tells the whole run and opens without a network, and every figure of it as a file.

mod contrast;
mod data;
mod figures;
pub mod format;
mod html;
mod sections;
mod svg;
#[cfg(test)]
mod tests;

use segue_proto::operator::OperatorSpec;
use serde_json::json;

use self::data::Data;
use super::{Context, OpError, Operator};

/// Gives the operators of this family.
#[must_use]
pub fn operators() -> Vec<Box<dyn Operator>> {
    vec![Box::new(Report)]
}

struct Report;

/// Inputs that may be left out: name, kind, what it is.
const OPTIONAL: [(&str, &str, &str); 15] = [
    ("quality", "json", "retail.clean quality"),
    ("stats", "json", "retail.eda stats"),
    ("customers", "table", "retail.rfm customers"),
    ("kmeans", "json", "ml.kmeans summary"),
    ("clusters", "table", "ml.kmeans customers"),
    ("pca", "table", "ml.pca coordinates"),
    ("pca_summary", "json", "ml.pca summary"),
    ("tsne", "table", "ml.tsne coordinates"),
    ("tsne_summary", "json", "ml.tsne summary"),
    ("neighbours", "table", "text.similar neighbours"),
    ("index", "table", "text.embed index"),
    ("predictions", "table", "retail.clv predictions"),
    ("clv", "json", "retail.clv summary"),
    ("segments_summary", "json", "retail.segments summary"),
    ("registered", "json", "model.register registered"),
];

impl Operator for Report {
    fn spec(&self) -> OperatorSpec {
        let mut spec = OperatorSpec::new("report.html", "1", "writes the report page and its figures").input(
            "segments",
            "table",
            "retail.segments segments",
        );
        for (name, kind, help) in OPTIONAL {
            spec = spec.optional_input(name, kind, help);
        }
        spec = spec.output("page", "page", "the report: one file, no network");
        for (name, help) in figures::NAMES {
            spec = spec.output(name, "figure", help);
        }
        // The page tells when and where the run took place, which is not a function of the inputs.
        spec.impure().with_run_facts()
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let data = Data::load(context)?;
        context.progress(1, 3, "inputs read");
        let figures = figures::draw(&data);
        for figure in &figures.all {
            context.write(figure.name, figure.standalone().as_bytes())?;
        }
        context.progress(2, 3, "figures drawn");
        let page = sections::page(&data, &figures);
        context.write("page", page.as_bytes())?;
        context.metrics.insert("page_bytes".to_owned(), json!(page.len()));
        context.progress(3, 3, "page written");
        Ok(())
    }
}
