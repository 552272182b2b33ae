//! A table of features, read the same way by every operator of this family.

use ndarray::{Array2, ArrayView1};
use polars::prelude::{Column, DataFrame, NamedFrom, Series};
use segue_proto::operator::{ParamSpec, ParamType};
use serde_json::{Map, Value};

use crate::{
    kernels::KernelError,
    ops::{Context, OpError, tables},
};

/// Rows by id, columns by name.
#[derive(Debug, Clone)]
pub(super) struct Features {
    /// Name of the id column.
    pub id: String,
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// `(ids, names)`
    pub values: Array2<f64>,
}

/// The parameter that names the id column.
pub(super) fn id_param() -> ParamSpec {
    ParamSpec::default("id", ParamType::String, "CustomerID", "column that names the row")
}

impl Features {
    /// Reads the input `features`: the id column and the chosen columns, or all numeric ones but the id.
    pub(super) fn read(context: &Context, columns: Option<Vec<String>>) -> Result<Self, OpError> {
        let id: String = context.params.get("id")?;
        let table = tables::read(context.input("features")?)?;
        let ids = tables::texts(&table, &id)?;
        let names = match columns {
            Some(names) if names.is_empty() => {
                return Err(OpError::user("parameter `columns` is an empty list")
                    .hint("leave it out to take all numeric columns"));
            }
            Some(names) => names,
            None => tables::numeric_columns(&table).into_iter().filter(|name| *name != id).collect(),
        };
        if names.is_empty() {
            return Err(OpError::data("the table of features has no numeric column besides its id"));
        }
        let values = tables::matrix(&table, &names)?;
        Ok(Self { id, ids, names, values })
    }

    /// Refuses tables of fewer rows than the operator can work with.
    pub(super) fn at_least(&self, rows: usize, purpose: &str) -> Result<(), OpError> {
        if self.ids.len() >= rows {
            return Ok(());
        }
        let count = |n: usize| if n == 1 { "1 row".to_owned() } else { format!("{n} rows") };
        let (least, found) = (count(rows), count(self.ids.len()));
        Err(OpError::data(format!("{purpose} needs at least {least}; the table has {found}"))
            .hint("see the quality report of the cleaning step for the rows it dropped"))
    }

    /// Says a kernel's error in the words of this table.
    pub(super) fn explain(&self, error: KernelError) -> OpError {
        match error {
            KernelError::NotFinite { row, column } => OpError::data(format!(
                "row {} ({} {}), column `{}` is missing or not finite",
                row + 1,
                self.id,
                self.ids.get(row).map_or("?", String::as_str),
                self.names.get(column).map_or("?", String::as_str)
            )),
            KernelError::Cancelled => OpError::infra("stopped on request"),
            KernelError::Invalid(message) => OpError::user(message),
            other => OpError::data(other.to_string()),
        }
    }

    /// Makes a table of the ids and some columns.
    pub(super) fn table(&self, columns: Vec<Column>) -> Result<DataFrame, OpError> {
        let mut all = vec![Series::new(self.id.as_str().into(), &self.ids).into()];
        all.extend(columns);
        DataFrame::new(self.ids.len(), all).map_err(|e| {
            OpError::user(format!("the table of results cannot be made: {e}"))
                .hint("is the id column called like an output column?")
        })
    }
}

/// Makes a column of numbers.
pub(super) fn column(name: &str, values: ArrayView1<'_, f64>) -> Column {
    Series::new(name.into(), values.to_vec()).into()
}

/// Gives the parameters of an attempt that belong in a model document: those that have a value.
pub(super) fn trained_with(context: &Context) -> Map<String, Value> {
    context.params.0.iter().filter(|(_, value)| !value.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// Writes a JSON output for people and machines.
pub(super) fn write_json(context: &Context, output: &str, value: &Value) -> Result<(), OpError> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| OpError::infra(format!("output `{output}` cannot be written as JSON: {e}")))?;
    context.write(output, &text)
}
