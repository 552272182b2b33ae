//! Which column of a file holds what.

use crate::ops::OpError;

/// A column that a reader needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its name in the file.
    pub name: String,
    /// The parameter that sets the name.
    pub param: &'static str,
}

/// Finds the columns in a header. Spaces around names are ignored.
///
/// # Errors
/// Class `data` if any is missing: lists the columns found, and for each missing one the nearest name and the parameter.
pub fn find(header: &[String], wanted: &[Wanted], shown: &str) -> Result<Vec<usize>, OpError> {
    let places: Vec<_> = wanted.iter().map(|column| place(header, &column.name)).collect();
    if places.iter().all(Option::is_some) {
        return Ok(places.into_iter().flatten().collect());
    }
    let missing: Vec<_> =
        wanted.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(column, _)| column).collect();
    let free: Vec<&str> =
        header.iter().enumerate().filter(|(i, _)| !places.contains(&Some(*i))).map(|(_, name)| name.trim()).collect();
    let names: Vec<_> = missing.iter().map(|column| format!("`{}`", column.name)).collect();
    let found: Vec<_> = header.iter().map(|name| format!("`{}`", name.trim().escape_debug())).collect();
    let plural = if names.len() == 1 { "column" } else { "columns" };
    let message = format!("{shown} has no {plural} {}; it has {}", names.join(", "), shorten(&found));
    Err(OpError::data(message).hint(advice(header, &missing, &free)))
}

fn place(header: &[String], name: &str) -> Option<usize> {
    header.iter().position(|found| found.trim() == name.trim())
}

fn shorten(names: &[String]) -> String {
    const MOST: usize = 30;
    match names.len() {
        0..=MOST => names.join(", "),
        more => format!("{} and {} more", names[..MOST].join(", "), more - MOST),
    }
}

fn advice(header: &[String], missing: &[&Wanted], free: &[&str]) -> String {
    if let [only] = header
        && let Some(separator) = [';', '\t', '|'].into_iter().find(|c| only.contains(*c))
    {
        return format!("the columns seem to be separated by {separator:?}: export the file with commas");
    }
    let settings: Vec<_> = missing
        .iter()
        .filter_map(|column| nearest(&column.name, free).map(|near| format!("{} = {near:?}", column.param)))
        .collect();
    if settings.is_empty() {
        let params: Vec<_> = missing.iter().map(|column| format!("{} = \"...\"", column.param)).collect();
        format!("name the columns in the task's `with`: {}", params.join(", "))
    } else {
        format!("set in the task's `with`: {}", settings.join(", "))
    }
}

/// Gives the most similar of `names`, if any is similar at all: case, spaces and punctuation do not count.
#[must_use]
pub fn nearest<'a>(name: &str, names: &[&'a str]) -> Option<&'a str> {
    let plain = simplify(name);
    let score = |other: &&'a str| {
        let other = simplify(other);
        let (short, long) = if other.len() < plain.len() { (&other, &plain) } else { (&plain, &other) };
        if short.chars().count() >= 4 && long.contains(short.as_str()) { 1 } else { distance(&plain, &other) }
    };
    let best = names.iter().min_by_key(|other| score(other))?;
    (score(best) * 3 <= plain.chars().count().max(3)).then_some(*best)
}

fn simplify(name: &str) -> String {
    // Header names may be any text; only their beginnings are compared.
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).take(64).collect()
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn wanted() -> Vec<Wanted> {
        [("InvoiceNo", "invoice_column"), ("UnitPrice", "price_column"), ("CustomerID", "customer_column")]
            .map(|(name, param)| Wanted { name: name.into(), param })
            .to_vec()
    }

    fn header(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn columns_are_found_in_any_order_and_with_spaces_around() {
        assert_eq!(find(&header(&["CustomerID", " InvoiceNo", "x", "UnitPrice "]), &wanted(), "f").unwrap(), [1, 3, 0]);
    }

    #[test]
    fn the_names_of_the_second_edition_of_the_data_set_are_proposed() {
        let error = find(&header(&["Invoice", "Price", "Customer ID", "Country"]), &wanted(), "data.csv").unwrap_err();
        assert_eq!(
            error.0.message,
            "data.csv has no columns `InvoiceNo`, `UnitPrice`, `CustomerID`; it has `Invoice`, `Price`, `Customer ID`, `Country`"
        );
        assert_eq!(
            error.0.hint,
            "set in the task's `with`: invoice_column = \"Invoice\", price_column = \"Price\", customer_column = \"Customer ID\""
        );
    }

    #[test]
    fn nothing_similar_names_the_parameter_and_semicolons_are_recognised() {
        let error = find(&header(&["InvoiceNo", "UnitPrice", "zzz"]), &wanted(), "f").unwrap_err();
        assert_eq!(error.0.hint, "name the columns in the task's `with`: customer_column = \"...\"");
        let error = find(&header(&["InvoiceNo;UnitPrice"]), &wanted(), "f").unwrap_err();
        assert!(error.0.hint.contains("separated by ';'"), "{error}");
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("Quantity", &["Quantty", "Country"]), Some("Quantty"));
        assert_eq!(nearest("Quantity", &["Country"]), None);
    }
}
