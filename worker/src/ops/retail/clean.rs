//! `retail.clean`: order lines as exported, to order lines that can be counted on.

use std::path::PathBuf;

use segue_proto::operator::{OperatorSpec, ParamSpec, ParamType};
use serde_json::json;

use super::{
    csv::{
        CsvText,
        columns::{self, Wanted},
        dates::{DateFormat, Detected, Evidence},
        decode,
    },
    products,
    rules::{self, RawLines},
};
use crate::ops::{Context, OpError, Operator, tables};

/// The operator.
#[derive(Debug, Clone, Copy)]
pub struct Clean;

/// Name of an orders column, the parameter that says how the file calls it, what it holds.
const COLUMNS: [(&str, &str, &str); 8] = [
    ("InvoiceNo", "invoice_column", "column of the invoice number"),
    ("StockCode", "stock_column", "column of the product code"),
    ("Description", "description_column", "column of the product description"),
    ("Quantity", "quantity_column", "column of the quantity"),
    ("InvoiceDate", "date_column", "column of the date and time of the invoice"),
    ("UnitPrice", "price_column", "column of the price of one unit"),
    ("CustomerID", "customer_column", "column of the customer"),
    ("Country", "country_column", "column of the customer's country"),
];

impl Operator for Clean {
    fn spec(&self) -> OperatorSpec {
        let spec = OperatorSpec::new("retail.clean", "1", "reads order lines from a CSV and keeps the sound ones")
            .output("orders", "table", "sound order lines in file order, with TotalSales")
            .output("products", "table", "distinct trimmed descriptions with code, lines and sales")
            .output("quality", "json", "what was read, what was dropped by which rule, and why")
            .param(ParamSpec::required("path", ParamType::Path, "CSV of order lines: plain, gz, xz or zst"))
            .param(
                ParamSpec::default("date_format", ParamType::String, "auto", "how dates are written")
                    .one_of(&["auto", "iso", "dmy", "mdy"]),
            )
            .param(ParamSpec::default("encoding", ParamType::String, "auto", "encoding of the text").one_of(&[
                "auto",
                "utf-8",
                "iso-8859-1",
            ]));
        COLUMNS.iter().fold(spec, |spec, (name, param, help)| {
            spec.param(ParamSpec::default(param, ParamType::String, *name, help))
        })
    }

    fn run(&self, context: &mut Context) -> Result<(), OpError> {
        let path = local_path(&context.params.get::<String>("path")?)?;
        let date_format = DateFormat::named(&or_default(context, "date_format", "auto")?)?;
        let encoding = decode::Wanted::named(&or_default(context, "encoding", "auto")?)?;
        let wanted = COLUMNS
            .iter()
            .map(|(name, param, _)| Ok(Wanted { name: or_default(context, param, name)?, param }))
            .collect::<Result<Vec<_>, OpError>>()?;

        step(context, 0, "reading")?;
        let file = CsvText::load(&path, encoding)?;
        let places = columns::find(&file.header, &wanted, &file.shown)?;
        step(context, 1, "splitting into cells")?;
        let cells = file.cells(&places)?;
        let raw = RawLines::of(&cells)?;
        step(context, 2, "applying the rules")?;
        let dates = date_format.map_or_else(
            || Evidence::gather(raw.date.iter().copied()).decide(),
            |format| Detected { format, certain: true, note: None },
        );
        let mut cleaned = rules::apply(&raw, &cells.layout, dates.format, &file.shown)?;
        let mut listed = products::of(&cleaned)?;
        step(context, 3, "writing")?;
        tables::write(context, "orders", &mut cleaned.orders)?;
        tables::write(context, "products", &mut listed)?;

        let notes: Vec<_> = dates.note.into_iter().collect();
        for note in &notes {
            tracing::warn!(file = %file.shown, "{note}");
        }
        let mut quality = cleaned.quality;
        quality["descriptions_trimmed"] = json!(listed.height());
        quality["detected"] = json!({
            "encoding": file.encoding,
            "compression": file.compression.name(),
            "date_format": dates.format.name(),
            "date_format_certain": dates.certain,
        });
        quality["notes"] = json!(notes);
        for metric in ["rows_read", "kept", "customers", "invoices", "sum_total_sales"] {
            context.metrics.insert(metric.to_owned(), quality[metric].clone());
        }
        let text = serde_json::to_vec_pretty(&quality).expect("a JSON value can always be written");
        context.write("quality", &text)?;
        context.progress(4, 4, "done");
        Ok(())
    }
}

fn step(context: &mut Context, done: u64, what: &str) -> Result<(), OpError> {
    if context.is_cancelled() {
        return Err(OpError::infra("stopped on request"));
    }
    context.progress(done, 4, what);
    Ok(())
}

fn or_default(context: &Context, param: &str, default: &str) -> Result<String, OpError> {
    Ok(context.params.optional(param)?.unwrap_or_else(|| default.to_owned()))
}

fn local_path(given: &str) -> Result<PathBuf, OpError> {
    let path = given.strip_prefix("file://").unwrap_or(given);
    if path.is_empty() {
        return Err(OpError::user("parameter `path` is empty").hint("give the path of a CSV of order lines"));
    }
    if path.contains("://") {
        return Err(OpError::user(format!("parameter `path` is {given}, which is not a local file"))
            .hint("send a local copy along: `-p input=@FILE`"));
    }
    Ok(PathBuf::from(path))
}
