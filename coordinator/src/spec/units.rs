//! Durations and memory sizes as people write them.

const DAY_MS: f64 = 86_400_000.0;

/// Reads `90s` or `1h30m` as milliseconds. The longest duration of something that goes on is a year.
///
/// # Errors
/// Says what is wrong, for use after the quoted text and "which".
pub fn duration_ms(text: &str) -> Result<u64, &'static str> {
    within(text, 365.0 * DAY_MS, "is longer than 365d")
}

/// Reads an age such as `90d` as milliseconds. What is kept may be kept for a century.
///
/// # Errors
/// Says what is wrong, for use after the quoted text and "which".
pub fn age_ms(text: &str) -> Result<u64, &'static str> {
    within(text, 36_500.0 * DAY_MS, "is longer than 36500d")
}

fn within(text: &str, longest_ms: f64, too_long: &'static str) -> Result<u64, &'static str> {
    const FORM: &str = "is not a duration";
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return Err(FORM);
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest).ok_or(FORM)?;
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        total += number
            * match unit {
                "ms" => 1.0,
                "s" => 1_000.0,
                "m" | "min" => 60_000.0,
                "h" => 3_600_000.0,
                "d" => DAY_MS,
                "" => return Err("has no unit"),
                _ => return Err("has an unknown unit"),
            };
        rest = after.trim_start();
    }
    if total > longest_ms {
        return Err(too_long);
    }
    let ms = total.round() as u64;
    if ms == 0 { Err("is no time at all") } else { Ok(ms) }
}

/// Reads `2GiB` as bytes.
///
/// # Errors
/// Says what is wrong, for use after the quoted text and "which".
pub(super) fn memory_bytes(text: &str) -> Result<u64, &'static str> {
    let (number, unit) = leading_number(text.trim()).ok_or("is not a memory size")?;
    let unit = match unit.trim_start() {
        "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" | "Ki" => 1024.0,
        "MiB" | "Mi" => 1024.0 * 1024.0,
        "GiB" | "Gi" => 1024.0 * 1024.0 * 1024.0,
        "TiB" | "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "" => return Err("has no unit"),
        _ => return Err("has an unknown unit"),
    };
    // Beyond what fits, the cast saturates, and the caller refuses it.
    Ok((number * unit).round() as u64)
}

/// Splits `1.5h` into 1.5 and `h`. Signs and exponents are not taken.
fn leading_number(text: &str) -> Option<(f64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse::<f64>().ok().filter(|number| number.is_finite())?;
    Some((number, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_sums_of_numbers_with_units() {
        assert_eq!(duration_ms("30m"), Ok(1_800_000));
        assert_eq!(duration_ms("1h30m"), Ok(5_400_000));
        assert_eq!(duration_ms("1.5s"), Ok(1_500));
        assert_eq!(duration_ms("250ms"), Ok(250));
        assert_eq!(duration_ms("1d 2h"), Ok(93_600_000));
        for bad in ["", "30", "m", "-1s", "1e3s", "30 minutes", "0s", "366d", "1..2s", "9".repeat(400).as_str(), "∞s"]
        {
            assert!(duration_ms(bad).is_err(), "{bad} was taken");
        }
        assert_eq!(age_ms("366d"), Ok(366 * 86_400_000));
        assert!(age_ms("36501d").is_err() && age_ms("0d").is_err());
    }

    #[test]
    fn memory_sizes_have_binary_and_decimal_units() {
        assert_eq!(memory_bytes("2GiB"), Ok(2 << 30));
        assert_eq!(memory_bytes("1.5 GB"), Ok(1_500_000_000));
        assert_eq!(memory_bytes("512Mi"), Ok(512 << 20));
        for bad in ["", "2", "GiB", "2gib", "-1GiB", "1 000MB"] {
            assert!(memory_bytes(bad).is_err(), "{bad} was taken");
        }
        assert_eq!(memory_bytes(&format!("{}TiB", "9".repeat(300))), Ok(u64::MAX));
    }
}
