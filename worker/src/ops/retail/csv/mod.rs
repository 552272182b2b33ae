//! CSV files of people: packed or not, in whatever encoding, with a bad line here and there.

pub mod columns;
pub mod dates;
pub mod decode;
pub mod layout;
pub mod source;
pub mod values;

use std::{io::Cursor, path::Path, sync::Arc};

use polars::prelude::*;

use self::{
    decode::{Decoded, Wanted},
    layout::{BadRow, Layout},
    source::Compression,
};
use crate::ops::OpError;

/// A file as text, its header split off.
#[derive(Debug)]
pub struct CsvText {
    /// How the path is shown in messages.
    pub shown: String,
    pub header: Vec<String>,
    pub encoding: &'static str,
    pub compression: Compression,
    text: String,
    body_at: usize,
    body_line: u64,
}

/// The cells of a file as text. Row `i` of the table is row `i` of the layout.
#[derive(Debug)]
pub struct Cells<'a> {
    /// One column of text for each column asked for, in that order, named `0`, `1`, ...
    pub table: DataFrame,
    pub layout: Layout<'a>,
}

impl CsvText {
    /// Loads, unpacks and decodes a file and reads its header.
    ///
    /// # Errors
    /// Class `user` if there is no such file; `data` if it is empty, damaged, not text, or in another encoding.
    pub fn load(path: &Path, encoding: Wanted) -> Result<Self, OpError> {
        let (bytes, compression) = source::load(path)?;
        let Decoded { text, encoding } = decode::decode(bytes, encoding, path)?;
        let shown = path.display().to_string();
        // Some exports begin with blank lines.
        let start = text.len() - text.trim_start_matches(['\r', '\n', ' ']).len();
        let skipped = text[..start].bytes().filter(|b| *b == b'\n').count() as u64;
        if start == text.len() {
            return Err(OpError::data(format!("{shown} is blank")).hint("export or download the file again"));
        }
        let (header, length, lines) = layout::first_record(&text[start..]);
        Ok(Self { shown, header, encoding, compression, body_at: start + length, body_line: 1 + skipped + lines, text })
    }

    /// Reads the columns at these places of the header as text.
    ///
    /// # Errors
    /// Class `data` if there are no rows.
    pub fn cells(&self, places: &[usize]) -> Result<Cells<'_>, OpError> {
        let layout = layout::lay_out(&self.text[self.body_at..], self.header.len(), self.body_line);
        if layout.rows == 0 {
            return Err(self.no_rows(layout.ragged.first()));
        }
        let names: Vec<PlSmallStr> = (0..self.header.len()).map(|i| PlSmallStr::from_string(i.to_string())).collect();
        let schema: Schema = names.iter().map(|name| Field::new(name.clone(), DataType::String)).collect();
        let mut distinct = places.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let table = CsvReadOptions::default()
            .with_has_header(false)
            .with_infer_schema_length(Some(0))
            .with_schema(Some(Arc::new(schema)))
            .with_projection(Some(Arc::new(distinct)))
            .into_reader_with_file_handle(Cursor::new(layout.body.as_bytes()))
            .finish()
            .map_err(|e| OpError::data(format!("{} cannot be read as CSV: {e}", self.shown)))?;
        if table.height() != layout.rows {
            let message = format!("{} holds {} records but {} were read", self.shown, layout.rows, table.height());
            return Err(OpError::data(message).hint("look for unusual quotes in the file"));
        }
        let columns = places
            .iter()
            .enumerate()
            .map(|(i, place)| {
                let column = table.column(&names[*place]).map_err(|e| OpError::data(format!("{}: {e}", self.shown)))?;
                Ok(column.clone().with_name(PlSmallStr::from_string(i.to_string())))
            })
            .collect::<Result<Vec<_>, OpError>>()?;
        let table = DataFrame::new(layout.rows, columns).map_err(|e| OpError::data(format!("{}: {e}", self.shown)))?;
        Ok(Cells { table, layout })
    }

    fn no_rows(&self, first: Option<&BadRow>) -> OpError {
        match first {
            None => OpError::data(format!("{} has a header and no rows", self.shown))
                .hint("check the export: the file ends after its first line"),
            Some(bad) => {
                OpError::data(format!("{} has no readable row; line {}: {}", self.shown, bad.line, bad.reason))
                    .hint("check that the file is separated by commas and has one header line")
            }
        }
    }
}

impl Cells<'_> {
    /// Gives the cells of a column; a missing one is empty.
    ///
    /// # Errors
    /// Class `data` if there is no such column.
    pub fn column(&self, index: usize) -> Result<Vec<&str>, OpError> {
        let bad = |e: PolarsError| OpError::data(e.to_string());
        let cells =
            self.table.columns().get(index).ok_or_else(|| OpError::data(format!("column {index} was not read")))?;
        Ok(cells.str().map_err(bad)?.iter().map(Option::unwrap_or_default).collect())
    }
}
