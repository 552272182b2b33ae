//! Numbers and ids of one cell.

/// Gives the id of a customer: `17850.0`, as spreadsheets and pandas write it, is `17850`; other text stays.
#[must_use]
pub fn customer(cell: &str) -> &str {
    let cell = cell.trim();
    match cell.split_once('.') {
        Some((whole, zeros)) if is_digits(whole) && zeros.bytes().all(|b| b == b'0') => whole,
        _ => cell,
    }
}

/// Reads a whole number, also written as `6.0`.
#[must_use]
pub fn quantity(cell: &str) -> Option<i64> {
    let cell = cell.trim();
    cell.parse().ok().or_else(|| {
        let number: f64 = cell.parse().ok()?;
        // Up to 2^53 every whole number has its own double.
        (number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0).then_some(number as i64)
    })
}

/// Reads a finite number with a decimal point.
#[must_use]
pub fn price(cell: &str) -> Option<f64> {
    cell.trim().parse::<f64>().ok().filter(|number| number.is_finite())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_lose_a_decimal_tail_and_nothing_else() {
        for (cell, id) in
            [("17850", "17850"), ("17850.0", "17850"), (" 17850.00 ", "17850"), ("17850.", "17850"), ("007", "007")]
        {
            assert_eq!(customer(cell), id);
        }
        for cell in ["C-17.0", "17850.5", "acme", ".0", "1.0.0"] {
            assert_eq!(customer(cell), cell);
        }
    }

    #[test]
    fn quantities_are_whole() {
        assert_eq!(quantity("6"), Some(6));
        assert_eq!(quantity(" -12.0"), Some(-12));
        assert_eq!(quantity("+3"), Some(3));
        for cell in ["", "2.5", "1,000", "six", "nan", "inf", "1e300"] {
            assert_eq!(quantity(cell), None, "{cell}");
        }
    }

    #[test]
    fn prices_are_finite_with_a_point() {
        assert_eq!(price("2.55"), Some(2.55));
        assert_eq!(price(" 0 "), Some(0.0));
        for cell in ["", "2,55", "£2.55", "nan", "inf", "1e999"] {
            assert_eq!(price(cell), None, "{cell}");
        }
    }
}
