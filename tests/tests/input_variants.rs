//! The same data as users hold it: ISO-8859-1, month-first dates, integer customers. The tables must be the same bytes.
#![allow(clippy::unwrap_used)]

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{BufWriter, Read as _, Write as _},
    path::Path,
};

use segue_tests::{Cli, data, tables, values::text};

const PIPELINE: &str = r#"
[pipeline]
name = "variants"
[params]
input = { type = "path" }
[tasks.clean]
op = "retail.clean"
with = { path = "${params.input}" }
[tasks.rfm]
op = "retail.rfm"
inputs = { orders = "clean.orders" }
"#;

#[test]
fn the_file_as_users_hold_it_gives_the_same_orders_and_features() {
    let Some(original) = data::online_retail() else { return };
    let dir = tempfile::tempdir().unwrap();
    let plain = decompress(&original);
    let variant = dir.path().join("data.csv");
    let changed = write_variant(&plain, &variant);
    assert!(changed.dates > 500_000, "{changed:?}");
    assert!(changed.pounds > 0, "the file must hold what UTF-8 and ISO-8859-1 write differently: {changed:?}");
    fs::write(dir.path().join("variants.toml"), PIPELINE).unwrap();

    let cli = Cli::state_dir(&dir.path().join("state"), dir.path());
    let digests = |input: &Path| {
        let input = format!("input={}", input.display());
        let outcome = cli.run_pipeline(&dir.path().join("variants.toml"), &["--no-cache", "-p", &input]);
        assert_eq!(outcome["state"], "succeeded", "{outcome:#}");
        let id = text(&outcome, "run").to_owned();
        let quality = dir.path().join(format!("{id}.json"));
        tables::fetch(&cli, &id, "clean.quality", &quality);
        (tables::digests(&cli, &id), tables::read_json(&quality))
    };
    let (ours, _) = digests(&original);
    let (theirs, quality) = digests(&variant);
    assert_eq!(text(&quality, "detected.encoding").to_lowercase(), "iso-8859-1", "{}", quality["detected"]);
    assert_eq!(text(&quality, "detected.date_format"), "mdy", "{}", quality["detected"]);
    for artifact in ["clean.orders", "clean.products", "rfm.customers", "rfm.summary"] {
        assert_eq!(ours[artifact], theirs[artifact], "{artifact}");
    }
}

fn decompress(file: &Path) -> String {
    let mut text = String::new();
    if file.extension().is_some_and(|extension| extension == "xz") {
        liblzma::read::XzDecoder::new(File::open(file).unwrap()).read_to_string(&mut text).unwrap();
    } else {
        File::open(file).unwrap().read_to_string(&mut text).unwrap();
    }
    text
}

/// What the variant differs in.
#[derive(Debug, Default)]
struct Changed {
    dates: u32,
    customers: u32,
    pounds: u32,
}

/// Writes every line with `2010-12-01 08:26:00` as `12/1/2010 8:26`, `17850.0` as `17850`, and `£` as one byte.
fn write_variant(text: &str, to: &Path) -> Changed {
    let mut changed = Changed::default();
    let mut out = BufWriter::new(File::create(to).unwrap());
    for (number, line) in text.lines().enumerate() {
        let mut cells = split(line);
        if number > 0 && cells.len() >= 8 {
            if let Some(date) = month_first(&cells[4]) {
                cells[4] = date;
                changed.dates += 1;
            }
            if let Some(customer) = cells[6].strip_suffix(".0") {
                cells[6] = customer.to_owned();
                changed.customers += 1;
            }
        }
        let line = cells.join(",");
        changed.pounds += u32::try_from(line.matches('£').count()).unwrap();
        let bytes: Vec<u8> = line.chars().map(|c| u8::try_from(c).expect("the data fits ISO-8859-1")).collect();
        out.write_all(&bytes).unwrap();
        out.write_all(b"\r\n").unwrap();
    }
    out.flush().unwrap();
    changed
}

/// Splits at commas outside quotes; quotes stay where they are.
fn split(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        quoted ^= c == '"';
        match cells.last_mut() {
            Some(_) if c == ',' && !quoted => cells.push(String::new()),
            Some(cell) => cell.push(c),
            None => {}
        }
    }
    cells
}

fn month_first(cell: &str) -> Option<String> {
    let (day, time) = cell.trim_matches('"').split_once([' ', 'T'])?;
    let mut day = day.split('-').map(|part| part.parse::<u32>().ok());
    let (year, month, day) = (day.next()??, day.next()??, day.next()??);
    let mut time = time.split(':');
    let (hour, minute) = (time.next()?.parse::<u32>().ok()?, time.next()?);
    let mut text = String::new();
    write!(text, "{month}/{day}/{year} {hour}:{minute}").ok()?;
    Some(text)
}
