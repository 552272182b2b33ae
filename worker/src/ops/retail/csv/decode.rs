//! Bytes to text: UTF-8 where the bytes are valid, else ISO-8859-1 as exports of spreadsheets write it.

use std::path::Path;

use encoding_rs::{Encoding, UTF_16BE, UTF_16LE, WINDOWS_1252};

use crate::ops::OpError;

const UTF8_MARK: &[u8] = b"\xEF\xBB\xBF";
/// How much of the start of a file is looked at to tell text from other things.
const PROBE_BYTES: usize = 64 * 1024;

/// Text and the name of the encoding it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    pub text: String,
    pub encoding: &'static str,
}

/// Which encoding the user asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Auto,
    Utf8,
    Latin1,
}

impl Wanted {
    /// Reads the parameter.
    ///
    /// # Errors
    /// Class `user` if the name is not known.
    pub fn named(name: &str) -> Result<Self, OpError> {
        match name {
            "auto" => Ok(Self::Auto),
            "utf-8" => Ok(Self::Utf8),
            "iso-8859-1" => Ok(Self::Latin1),
            _ => Err(OpError::user(format!("`encoding` cannot be `{name}`")).hint("use auto, utf-8 or iso-8859-1")),
        }
    }
}

/// Decodes a file. A byte order mark is removed; ISO-8859-1 is read as its superset windows-1252, as browsers do.
///
/// # Errors
/// Class `data` if the bytes are not text, or not in the encoding asked for.
pub fn decode(bytes: Vec<u8>, wanted: Wanted, path: &Path) -> Result<Decoded, OpError> {
    if let Some((encoding, mark)) = Encoding::for_bom(&bytes).filter(|(e, _)| [UTF_16LE, UTF_16BE].contains(e)) {
        let (text, faulty) = encoding.decode_without_bom_handling(&bytes[mark..]);
        if faulty {
            return Err(not_text(&bytes, path));
        }
        return Ok(Decoded { text: text.into_owned(), encoding: "utf-16" });
    }
    if !looks_like_text(&bytes) {
        return Err(not_text(&bytes, path));
    }
    let bytes = if bytes.starts_with(UTF8_MARK) { bytes[UTF8_MARK.len()..].to_vec() } else { bytes };
    if wanted == Wanted::Latin1 {
        return Ok(latin1(&bytes));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Decoded { text, encoding: "utf-8" }),
        Err(e) if wanted == Wanted::Auto => Ok(latin1(e.as_bytes())),
        Err(e) => {
            let at = e.utf8_error().valid_up_to();
            let line = 1 + e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count();
            Err(OpError::data(format!(
                "{} is not UTF-8: line {line} holds the byte {:#04x}",
                path.display(),
                e.as_bytes()[at]
            ))
            .hint("set `encoding = \"auto\"` or `encoding = \"iso-8859-1\"`"))
        }
    }
}

fn latin1(bytes: &[u8]) -> Decoded {
    let (text, _) = WINDOWS_1252.decode_without_bom_handling(bytes);
    Decoded { text: text.into_owned(), encoding: "iso-8859-1" }
}

/// Text has no NUL and next to no control characters.
fn looks_like_text(bytes: &[u8]) -> bool {
    let probe = &bytes[..bytes.len().min(PROBE_BYTES)];
    let controls = probe.iter().filter(|b| matches!(b, 0x01..=0x08 | 0x0b | 0x0e..=0x1a | 0x1c..=0x1f | 0x7f)).count();
    !probe.contains(&0) && controls * 50 <= probe.len()
}

fn not_text(bytes: &[u8], path: &Path) -> OpError {
    let (what, hint) = match bytes {
        [b'P', b'K', 3, 4, ..] => ("a zip archive or an Excel workbook", "unpack it, or export the sheet as CSV"),
        [b'P', b'A', b'R', b'1', ..] => ("a Parquet file", "give the CSV that it was made from"),
        [b'B', b'Z', b'h', ..] => ("packed with bzip2", "unpack it, or pack it with gz, xz or zst"),
        [b'%', b'P', b'D', b'F', ..] => ("a PDF", "give a CSV file"),
        _ => ("binary data", "give a CSV file, plain or packed with gz, xz or zst"),
    };
    OpError::data(format!("{} is not text: it looks like {what}", path.display())).hint(hint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(bytes: &[u8], wanted: Wanted) -> Result<Decoded, OpError> {
        decode(bytes.to_vec(), wanted, Path::new("data.csv"))
    }

    #[test]
    fn valid_utf8_is_kept_and_its_mark_removed() {
        let read = read("\u{feff}Voucher £40".as_bytes(), Wanted::Auto).unwrap();
        assert_eq!(read, Decoded { text: "Voucher £40".into(), encoding: "utf-8" });
    }

    #[test]
    fn a_latin_pound_sign_makes_the_file_iso_8859_1() {
        let read = read(b"Voucher \xa340 caf\xe9 \x80", Wanted::Auto).unwrap();
        assert_eq!(read, Decoded { text: "Voucher £40 café €".into(), encoding: "iso-8859-1" });
    }

    #[test]
    fn utf_16_of_spreadsheets_is_read() {
        let bytes: Vec<u8> = "\u{feff}a,£\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(&bytes, Wanted::Auto).unwrap().text, "a,£\n");
    }

    #[test]
    fn an_encoding_that_was_asked_for_is_not_guessed_away() {
        let error = read(b"a,b\nc,\xa3\n", Wanted::Utf8).unwrap_err();
        assert!(error.0.message.contains("line 2 holds the byte 0xa3"), "{error}");
        assert_eq!(read("£".as_bytes(), Wanted::Latin1).unwrap().text, "Â£");
        assert!(Wanted::named("ebcdic").is_err());
    }

    #[test]
    fn what_is_not_text_is_named() {
        let noise: Vec<u8> = (0..4096u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        assert!(read(&noise, Wanted::Auto).unwrap_err().0.message.contains("binary data"));
        let sheet = read(b"PK\x03\x04\x00\x00", Wanted::Auto).unwrap_err();
        assert!(sheet.0.message.contains("Excel") && sheet.0.hint.contains("CSV"));
        assert!(read(b"PAR1\x15\x00", Wanted::Auto).unwrap_err().0.message.contains("Parquet"));
    }
}
