//! Takes secret values out of log bytes before they leave the worker, also where a value is split over two reads.

use std::collections::BTreeSet;

/// What a secret is replaced by.
const MASK: &[u8] = b"***";

/// Shortest value whose base64 is looked for: the base64 of a shorter one is too likely to be part of a word.
const SHORTEST_ENCODED: usize = 6;

/// Replaces secret values in a stream of bytes.
#[derive(Debug)]
pub struct Redactor {
    /// Longest first, so that a secret that contains another one goes whole.
    needles: Vec<Vec<u8>>,
    /// Bytes that may be the beginning of a needle.
    held: Vec<u8>,
}

impl Redactor {
    /// Makes a redactor for these secret values.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut needles = BTreeSet::new();
        for secret in secrets {
            for form in [secret, secret.trim()] {
                if !form.is_empty() {
                    needles.insert(form.as_bytes().to_vec());
                    needles.extend(encoded_forms(form.as_bytes()));
                }
            }
        }
        let mut needles: Vec<_> = needles.into_iter().collect();
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.len()));
        Self { needles, held: Vec::new() }
    }

    /// Takes bytes and gives those that may leave. What may be the beginning of a secret is held back until it is known.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.needles.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.scan(false)
    }

    /// Takes the secrets out of a text beside the stream.
    #[must_use]
    pub fn mask(&self, text: String) -> String {
        if self.needles.is_empty() {
            return text;
        }
        let mut aside = Self { needles: self.needles.clone(), held: text.into_bytes() };
        String::from_utf8_lossy(&aside.scan(true)).into_owned()
    }

    /// Ends the stream and gives what was held back.
    pub fn finish(&mut self) -> Vec<u8> {
        self.scan(true)
    }

    fn scan(&mut self, last: bool) -> Vec<u8> {
        let input = std::mem::take(&mut self.held);
        let mut out = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            // A longer secret that may still come whole wins over a shorter one that is already there.
            let partial = |needle: &Vec<u8>| needle.len() > rest.len() && needle.starts_with(rest);
            if !last && self.needles.iter().any(partial) {
                self.held = rest.to_vec();
                return out;
            }
            match self.needles.iter().find(|needle| rest.starts_with(needle)) {
                Some(needle) => {
                    out.extend_from_slice(MASK);
                    at += needle.len();
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        out
    }
}

/// Gives the base64 of a value, alone and as part of a longer text: at each of the three alignments, the characters that
/// depend on the value alone. Both alphabets.
fn encoded_forms(value: &[u8]) -> Vec<Vec<u8>> {
    if value.len() < SHORTEST_ENCODED {
        return Vec::new();
    }
    let mut forms = Vec::new();
    for shift in 0..3_usize {
        let shifted: Vec<u8> = std::iter::repeat_n(0, shift).chain(value.iter().copied()).collect();
        let text = base64(&shifted);
        if shift == 0 {
            // Alone, its last character holds bits of the value too.
            forms.push(text.clone());
        }
        // Character i covers bits 6i to 6i + 5: keep those that lie wholly inside the value.
        let from = (shift * 8).div_ceil(6);
        let to = shifted.len() * 8 / 6;
        let inner = text[from..to].to_vec();
        forms.push(
            inner
                .iter()
                .map(|c| match c {
                    b'+' => b'-',
                    b'/' => b'_',
                    c => *c,
                })
                .collect(),
        );
        forms.push(inner);
    }
    forms
}

/// Encodes without padding.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = Vec::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().enumerate().fold(0_u32, |word, (i, byte)| word | (u32::from(*byte) << (16 - 8 * i)));
        for i in 0..=group.len() {
            text.push(ALPHABET[(word >> (18 - 6 * i) & 63) as usize]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn redact(secrets: &[&str], pieces: &[&str]) -> String {
        let mut redactor = Redactor::new(secrets.iter().copied());
        let mut out: Vec<u8> = pieces.iter().flat_map(|piece| redactor.push(piece.as_bytes())).collect();
        out.extend(redactor.finish());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_secret_is_masked_wherever_it_stands() {
        assert_eq!(redact(&["s3cr3t"], &["token=s3cr3t; again s3cr3t\n"]), "token=***; again ***\n");
    }

    #[test]
    fn a_secret_split_over_reads_is_masked() {
        assert_eq!(redact(&["s3cr3t"], &["token=s3", "cr", "3t;"]), "token=***;");
        assert_eq!(redact(&["s3cr3t"], &["token=s3", "cr", "isp"]), "token=s3crisp");
    }

    #[test]
    fn the_longer_of_two_secrets_is_masked_whole() {
        assert_eq!(redact(&["abc", "abcdef"], &["x abc", "def y abcd"]), "x *** y ***d");
    }

    #[test]
    fn base64_of_a_secret_is_masked_alone_and_inside_a_longer_text() {
        let secret = "hunter2-hunter2";
        assert_eq!(base64(b"hunter2"), b"aHVudGVyMg");
        assert_eq!(redact(&["hunter2"], &["aHVudGVyMg=="]), "***==");
        assert_eq!(redact(&[secret], &["aHVudGVyMi1odW50ZXIy"]), "***");
        // base64("user:hunter2-hunter2"), as in an Authorization header.
        let header = String::from_utf8(base64(b"user:hunter2-hunter2")).unwrap();
        let masked = redact(&[secret], &[&header]);
        assert!(masked.contains("***") && masked.len() < 14, "{masked}");
    }

    #[test]
    fn a_trailing_newline_in_the_secret_does_not_save_it() {
        assert_eq!(redact(&["s3cr3t\n"], &["s3cr3t."]), "***.");
    }

    #[test]
    fn a_text_beside_the_stream_is_masked_too() {
        let redactor = Redactor::new(["s3cr3t"]);
        assert_eq!(redactor.mask("GET /?key=s3cr3t failed".into()), "GET /?key=*** failed");
    }

    proptest! {
        #[test]
        fn no_split_lets_a_secret_through(before in "[a-c]{0,9}", after in "[a-c]{0,9}", secret in "[a-c]{1,8}", cuts in prop::collection::vec(0_usize..30, 0..4)) {
            let text = format!("{before}{secret}{after}");
            let mut redactor = Redactor::new([secret.as_str()]);
            let mut out = Vec::new();
            let mut from = 0;
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            for cut in cuts.into_iter().chain([text.len()]) {
                out.extend(redactor.push(&text.as_bytes()[from..cut]));
                from = cut;
            }
            out.extend(redactor.finish());
            let mut whole = Redactor::new([secret.as_str()]);
            let mut expected = whole.push(text.as_bytes());
            expected.extend(whole.finish());
            prop_assert_eq!(&out, &expected, "the split changed the result");
            let out = String::from_utf8(out).unwrap();
            prop_assert!(!out.contains(&secret), "{}", out);
        }
    }
}
