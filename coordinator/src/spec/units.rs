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

/// Reads `2026-01-01T09:30:00+01:00` as milliseconds since 1970 (RFC 3339).
///
/// # Errors
/// Says what is wrong, for use after the quoted text.
pub fn rfc3339_ms(text: &str) -> Result<u64, &'static str> {
    const FORM: &str = "is not a time";
    let number = |from: usize, to: usize, range: std::ops::RangeInclusive<i64>| {
        let digits = text.get(from..to).filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).ok_or(FORM)?;
        digits.parse::<i64>().ok().filter(|number| range.contains(number)).ok_or("is not a time that there is")
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|byte| wanted.contains(byte));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":")) {
        return Err(FORM);
    }
    let (year, month) = (number(0, 4, 1970..=9999)?, number(5, 7, 1..=12)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let day = number(8, 10, 1..=longest)?;
    // A leap second is the first of the next minute.
    let (hour, minute, second) = (number(11, 13, 0..=23)?, number(14, 16, 0..=59)?, number(17, 19, 0..=60)?);
    let mut at = 19;
    let mut millis = 0;
    if is(at, b".") {
        let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return Err(FORM);
        }
        let first: String = text[at + 1..].chars().take(digits.min(3)).collect();
        millis = format!("{first:0<3}").parse::<i64>().map_err(|_| FORM)?;
        at += 1 + digits;
    }
    let offset = match &text[at..] {
        "Z" | "z" => 0,
        "" => return Err("does not say of which zone: write Z at its end, or an offset such as +01:00"),
        zone if zone.len() == 6 && is(at, b"+-") && is(at + 3, b":") => {
            let minutes = number(at + 1, at + 3, 0..=23)? * 60 + number(at + 4, at + 6, 0..=59)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
        _ => return Err(FORM),
    };
    // Days since 1970, counted in years that begin in March, so that a leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3_600 + (minute - offset) * 60 + second;
    u64::try_from(seconds * 1_000 + millis).map_err(|_| "is before 1970")
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
    fn times_are_those_of_rfc_3339() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600_000),
            ("2026-01-01T00:00:00Z", 1_767_225_600_000),
            ("2026-01-01T01:00:00+01:00", 1_767_225_600_000),
            ("2025-12-31 19:00:00.25-05:00", 1_767_225_600_250),
            ("2024-12-31T23:59:60.123456789z", 1_735_689_600_123),
        ] {
            assert_eq!(rfc3339_ms(text), Ok(ms), "{text}");
        }
        for bad in [
            "",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00+1:00",
            "1969-12-31T00:00:00Z",
            "1970-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00Zé",
            "２０２６-01-01T00:00:00Z",
        ] {
            assert!(rfc3339_ms(bad).is_err(), "{bad} was taken");
        }
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
