#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use segue_proto::failure::FailureClass;

use super::*;
use crate::ops::{
    OpError, Operator,
    retail::{
        clean::Clean,
        csv::source,
        testing::{HEADER, Ran, assert_close, clean, clean_text, clean_with, real_data},
    },
    tables,
};

fn cleaned(rows: &str) -> Ran {
    clean_text(format!("{HEADER}{rows}"), &json!({})).unwrap()
}

fn refused(text: impl AsRef<[u8]>) -> OpError {
    clean_text(text, &json!({})).err().expect("this file must be refused")
}

const GOOD: &str = "1,A,MUG,2,2010-12-01 08:26:00,1.5,17850.0,France\n";

#[test]
fn each_rule_drops_its_rows_in_the_fixed_order() {
    let ran = cleaned(
        "1,A,MUG ,2,2010-12-01 08:26:00,1.5,17850.0,France\n\
         1,A,MUG ,2,2010-12-01 08:26:00,1.5,17850.0,France\n\
         1,A,MUG,2,2010-12-01 08:26:00,1.5,17850.0,France\n\
         1,A,,2,2010-12-01 08:26:00,1.5,17850.0,France\n\
         1,A,MUG,2,2010-12-01 08:26:00,1.5,,France\n\
         C2,A,MUG,-1,2010-12-02 09:00:00,1.5,17850.0,France\n\
         C2,A,MUG,-1,2010-12-02 09:00:00,1.5,17850.0,France\n\
         3,B,GIFT,1,2010-12-03 09:00:00,0,17850.0,France\n\
         4,B,MUG,1,2010-12-04 10:00:00,2.0,17851,\n",
    );
    let quality = ran.json("quality");
    assert_eq!(
        quality["dropped"],
        json!({"missing_customer_or_description": 2, "unparsable": 0, "duplicates": 2, "non_positive_quantity": 1, "non_positive_price": 1})
    );
    for (field, value) in
        [("rows_read", 9), ("after_missing", 7), ("after_duplicates", 5), ("kept", 3), ("customers", 2)]
    {
        assert_eq!(quality[field], json!(value), "{field}");
    }
    assert_eq!((&quality["descriptions_raw"], &quality["descriptions_trimmed"]), (&json!(2), &json!(1)));
    assert_eq!(quality["nulls"]["Country"], json!(1));
    assert_eq!(quality["first_order"], json!("2010-12-01T08:26:00"));
    let orders = ran.table("orders");
    assert_eq!(tables::texts(&orders, "Description").unwrap(), ["MUG ", "MUG", "MUG"]);
    assert_eq!(tables::texts(&orders, "CustomerID").unwrap(), ["17850", "17850", "17851"]);
    assert_eq!(tables::numbers(&orders, "TotalSales").unwrap(), [3.0, 3.0, 2.0]);
    let products = ran.table("products");
    assert_eq!(tables::texts(&products, "Description").unwrap(), ["MUG"]);
    assert_eq!(tables::texts(&products, "StockCode").unwrap(), ["A"]);
    assert_eq!(tables::numbers(&products, "Lines").unwrap(), [3.0]);
}

#[test]
fn duplicates_are_found_whatever_way_their_values_are_written() {
    let ran = cleaned(
        "1,A,MUG,2,2010-12-01 08:26:00,1.50,17850.0,France\n\
         1,A,MUG,2.0,2010-12-01T08:26,1.5,17850,France\n\
         \"1\",A,\"MUG\",+2,2010-12-01 08:26:00,1.5e0, 17850 ,France\n",
    );
    assert_eq!(ran.json("quality")["dropped"]["duplicates"], json!(2));
}

#[test]
fn products_take_the_commonest_code_and_the_smallest_of_equals() {
    let ran = cleaned(
        "1,B,MUG,1,2010-12-01 08:26:00,1,1,F\n2,A,MUG ,1,2010-12-01 08:26:00,1,1,F\n\
         3,C,TRAY,1,2010-12-01 08:26:00,1,1,F\n4,D,TRAY,1,2010-12-01 08:26:00,1,1,F\n5,D,TRAY,1,2010-12-01 08:26:00,1,1,F\n\
         6,E,  ,1,2010-12-01 08:26:00,1,1,F\n",
    );
    let products = ran.table("products");
    assert_eq!(tables::texts(&products, "Description").unwrap(), ["MUG", "TRAY"]);
    assert_eq!(tables::texts(&products, "StockCode").unwrap(), ["A", "D"]);
}

#[test]
fn unparsable_rows_are_counted_and_shown_with_their_lines() {
    let ran = clean_text(
        format!(
            "{HEADER}{GOOD}2,A,MUG,many,2010-12-01,1,17850,F\n3,A,\"MUG\nTALL\",1,2010-12-01,1,17850,F\n\
             4,A,MUG,1,someday,1,17850,F\n\n5,A,MUG,1,2010-12-01,\"2,55\",17850,F\n6,A,MUG\n,A,MUG,1,2010-12-01,1,17850,F\n\
             7,A,MUG,1000000000000000,2010-12-01,1e300,17850,F\n8,A,MUG,1,2010-12-01,1,17850,F\n\
             9,A,MUG,x,2010-12-01,1,,F\n{}",
            GOOD.replace("17850.0", "9").repeat(9).replace("MUG", "MUG\r"),
        )
        .replace("MUG\r", "MUG"),
        &json!({}),
    )
    .unwrap();
    let quality = ran.json("quality");
    let shown: Vec<_> =
        quality["unparsable_rows"].as_array().unwrap().iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(shown, [3, 6, 8, 9, 10, 11], "{quality:#}");
    assert_eq!(quality["dropped"]["unparsable"], json!(6));
    assert_eq!(quality["unparsable_rows"][0]["reason"], json!("Quantity `many` is not a whole number"));
    assert_eq!(quality["unparsable_rows"][1]["reason"], json!("InvoiceDate `someday` is not a date (iso)"));
    assert_eq!(quality["unparsable_rows"][3]["reason"], json!("3 fields instead of 8"));
    let rows = ["rows_read", "kept"].map(|field| quality[field].as_u64().unwrap());
    let dropped: u64 = quality["dropped"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(rows[0], rows[1] + dropped, "every row is kept or dropped by one rule");
}

#[test]
fn a_file_that_mostly_cannot_be_read_is_refused_with_examples() {
    let error = refused(format!("{HEADER}{GOOD}{}", "2,A,MUG,1,01.Dec.2010,1,17850,F\n".repeat(2)));
    assert_eq!(error.0.class, FailureClass::Data);
    assert!(error.0.message.contains("2 of 3 rows cannot be read: line 3: InvoiceDate `01.Dec.2010`"), "{error}");
    assert!(error.0.hint.contains("date_format"), "{error}");
}

#[test]
fn bad_files_get_an_error_that_names_the_file_and_the_fix() {
    let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let no_customer = GOOD.replace("17850.0", "");
    let half_packed = zstd::encode_all(format!("{HEADER}{}", GOOD.repeat(1000)).as_bytes(), 1).unwrap();
    let cases: [(Vec<u8>, &str); 8] = [
        (vec![], "is empty"),
        (b"\n \n".to_vec(), "is blank"),
        (HEADER.into(), "a header and no rows"),
        (noise, "binary data"),
        (half_packed[..half_packed.len() / 2].to_vec(), "cut off"),
        (b"Invoice,Price\n1,2\n".to_vec(), "it has `Invoice`, `Price`"),
        (format!("{HEADER}{no_customer}").into(), "no order line is left"),
        (format!("{HEADER}just text\nmore\n").into(), "no readable row; line 2: 1 fields instead of 8"),
    ];
    for (bytes, part) in cases {
        let error = refused(&bytes);
        assert_eq!(error.0.class, FailureClass::Data, "{error}");
        assert!(error.0.message.contains(part) && error.0.message.contains("lines.csv"), "{part}: {error}");
        assert!(!error.0.hint.is_empty(), "{error}");
    }
}

#[test]
fn wrong_parameters_are_the_users_fault() {
    let missing = clean(std::path::Path::new("no/such.csv")).err().unwrap();
    let remote = clean(std::path::Path::new("s3://bucket/data.csv")).err().unwrap();
    let format = clean_text(format!("{HEADER}{GOOD}"), &json!({"date_format": "ymd"})).err().unwrap();
    for error in [missing, remote, format] {
        assert_eq!(error.0.class, FailureClass::User, "{error}");
        assert!(!error.0.hint.is_empty(), "{error}");
    }
}

#[test]
fn columns_can_be_renamed_and_extra_ones_are_ignored() {
    let text = "x,Customer ID,Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Country\n\
                0,7,1,A,MUG,2,13/12/2010 8:26,1.5,F\n1,7,1,A,MUG,2,13/12/2010 8:26,1.5,F\n";
    let names = json!({"invoice_column": "Invoice", "price_column": "Price", "customer_column": "Customer ID"});
    let quality = clean_text(text, &names).unwrap().json("quality");
    assert_eq!((&quality["kept"], &quality["dropped"]["duplicates"]), (&json!(1), &json!(1)));
    assert_eq!(quality["detected"]["date_format"], json!("dmy"));
}

#[test]
fn an_undecidable_date_order_is_stated() {
    let quality = cleaned("1,A,MUG,2,1/2/2010 8:26,1.5,7,F\n").json("quality");
    assert_eq!(quality["first_order"], json!("2010-01-02T08:26:00"));
    assert_eq!(quality["detected"]["date_format_certain"], json!(false));
    assert!(quality["notes"][0].as_str().unwrap().contains("month first"));
}

#[test]
fn the_contract_names_every_parameter_that_is_read() {
    let spec = Clean.spec();
    let names: Vec<_> = spec.params.iter().map(|param| param.name.as_str()).collect();
    assert_eq!(names.len(), 11);
    assert!(names.contains(&"customer_column") && spec.params.iter().filter(|p| p.required).count() == 1);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = clean_text([HEADER.as_bytes(), &bytes].concat(), &json!({}));
        let _ = clean_text(&bytes, &json!({}));
    }

    #[test]
    fn no_text_makes_it_panic(rows in "([0-9A\"\n,./: -]{0,12},){0,40}") {
        let _ = clean_text(format!("{HEADER}{GOOD}{rows}"), &json!({}));
    }
}

#[test]
fn the_real_data_gives_the_reference_figures_and_so_does_its_older_export() {
    let Some(path) = real_data() else { return };
    let ran = clean(&path).unwrap();
    let quality = ran.json("quality");
    for (field, value) in [
        ("rows_read", 541_909),
        ("after_missing", 406_829),
        ("after_duplicates", 401_604),
        ("kept", 392_692),
        ("customers", 4338),
        ("invoices", 18_532),
        ("descriptions_raw", 3877),
        ("descriptions_trimmed", 3866),
        ("stock_codes", 3665),
    ] {
        assert_eq!(quality[field], json!(value), "{field}");
    }
    assert_eq!(quality["dropped"]["unparsable"], json!(0));
    assert_close(quality["sum_total_sales"].as_f64().unwrap(), 8_887_208.894, "sum of TotalSales");
    assert_eq!(quality["detected"]["compression"], json!("xz"));
    assert_eq!(quality["detected"]["date_format"], json!("iso"));
    assert_eq!(ran.table("orders").height(), 392_692);
    assert_eq!(ran.table("products").height(), 3866);

    let dir = tempfile::tempdir().unwrap();
    let older = dir.path().join("data.csv");
    std::fs::write(&older, older_export(&path)).unwrap();
    let variant = clean(&older).unwrap();
    let detected = &variant.json("quality")["detected"];
    assert_eq!((&detected["encoding"], &detected["date_format"]), (&json!("iso-8859-1"), &json!("mdy")), "{detected}");
    for output in ["orders", "products"] {
        assert!(ran.bytes(output) == variant.bytes(output), "{output} differs between the two exports");
    }
    let again = clean_with(&path, &json!({"date_format": "iso", "encoding": "utf-8"})).unwrap();
    assert!(ran.bytes("orders") == again.bytes("orders"), "the same file gives the same bytes");
}

/// Writes the real data the way its older export does: ISO-8859-1, dates like `12/1/2010 8:26`, customers like `17850`.
fn older_export(path: &std::path::Path) -> Vec<u8> {
    let text = String::from_utf8(source::load(path).unwrap().0).unwrap();
    let mut older = String::with_capacity(text.len());
    let mut dates_changed = 0;
    for (i, line) in text.lines().enumerate() {
        if i == 0 {
            older.push_str(line);
        } else {
            // Description alone may hold commas, and it stands before the last five fields.
            let mut fields: Vec<&str> = line.rsplitn(6, ',').collect();
            fields.reverse();
            let (day, time) = fields[2].split_once(' ').unwrap();
            let numbers: Vec<u32> = day.split('-').chain(time.split(':')).map(|n| n.parse().unwrap()).collect();
            let date = format!("{}/{}/{} {}:{:02}", numbers[1], numbers[2], numbers[0], numbers[3], numbers[4]);
            let customer = fields[4].strip_suffix(".0").unwrap_or(fields[4]);
            older.push_str(&[fields[0], fields[1], &date, fields[3], customer, fields[5]].join(","));
            dates_changed += 1;
        }
        older.push_str("\r\n");
    }
    assert_eq!(dates_changed, 541_909);
    let bytes: Vec<u8> = older.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    assert!(std::str::from_utf8(&bytes).is_err(), "the pound signs must make it invalid UTF-8");
    bytes
}
