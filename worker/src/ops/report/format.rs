//! Numbers for people: thousands, shares, axis labels. Sales carry no unit, since the data names no currency.

/// Writes a whole number with thousands: `12,345`; a dash where there is none.
#[must_use]
pub fn integer(value: f64) -> String {
    fixed(value, 0)
}

/// Writes a number with thousands and a fixed count of decimals: `1,234.50`; a dash where there is none.
#[must_use]
pub fn fixed(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let mut out = String::with_capacity(text.len() + text.len() / 3 + 1);
    // A value that rounds to zero carries no sign.
    if value < 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('−');
    }
    for (position, digit) in whole.chars().enumerate() {
        if position > 0 && (whole.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(fraction) = fraction {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// Writes an amount of sales: whole above 100, two decimals below.
#[must_use]
pub fn amount(value: f64) -> String {
    fixed(value, if value.abs() >= 100.0 { 0 } else { 2 })
}

/// Writes a number with as many decimals as it needs, two at most.
#[must_use]
pub fn decimal(value: f64) -> String {
    let text = fixed(value, if value.abs() >= 1000.0 { 0 } else { 2 });
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Writes a share as a percentage: `12%`, `3.4%`, `0.18%`.
#[must_use]
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    let decimals = match value.abs() {
        v if v >= 99.95 || v == 0.0 => 0,
        v if v >= 1.0 => 1,
        _ => 2,
    };
    let text = fixed(value, decimals);
    if share.is_finite() { format!("{}%", text.strip_suffix(".0").unwrap_or(&text)) } else { text }
}

/// Writes a number short enough for an axis: `250`, `1.5k`, `20k`, `3M`.
#[must_use]
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, suffix) = match size {
        s if s >= 1e9 => (value / 1e9, "G"),
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        s if s >= 100.0 || s == 0.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 0.1 => 2,
        s if s >= 0.001 => 4,
        _ => 7,
    };
    let text = fixed(scaled, decimals);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{suffix}")
}

/// Writes a duration: `0.4 s`, `12.3 s`, `2 min 05 s`.
#[must_use]
pub fn seconds(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value < 60.0 {
        return format!("{} s", fixed(value, if value < 0.1 { 2 } else { 1 }));
    }
    let minutes = (value / 60.0).floor();
    format!("{} min {:02.0} s", integer(minutes), (value - minutes * 60.0).floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_carry_thousands_and_a_missing_one_is_a_dash() {
        assert_eq!(integer(1_234_567.4), "1,234,567");
        assert_eq!(integer(-999.0), "−999");
        assert_eq!(fixed(-0.001, 2), "0.00", "a rounded zero has no sign");
        assert_eq!(integer(f64::NAN), "–");
        assert_eq!(amount(99.5), "99.50");
        assert_eq!(decimal(2.0), "2");
        assert_eq!(decimal(2.25), "2.25");
    }

    #[test]
    fn shares_keep_the_digits_that_matter() {
        assert_eq!(percent(0.1), "10%");
        assert_eq!(percent(0.0018), "0.18%");
        assert_eq!(percent(0.7412), "74.1%");
        assert_eq!(percent(1.0), "100%");
        assert_eq!(percent(0.9982), "99.8%");
    }

    #[test]
    fn axis_labels_are_short() {
        assert_eq!(short(1500.0), "1.5k");
        assert_eq!(short(20_000.0), "20k");
        assert_eq!(short(0.25), "0.25");
        assert_eq!(short(3e6), "3M");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(0.005), "0.005");
    }

    #[test]
    fn durations_read_like_a_clock() {
        assert_eq!(seconds(0.42), "0.4 s");
        assert_eq!(seconds(125.0), "2 min 05 s");
    }
}
