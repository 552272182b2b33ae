//! Takes secret values out of log bytes before they leave the worker, also where a value is split over two reads.

use std::{collections::BTreeSet, fmt};

use segue_proto::failure::Failure;

/// What a secret is replaced by.
const MASK: &[u8] = b"***";

/// Shortest value that is looked for in other forms too: those of a shorter one are too likely to be part of a word.
const SHORTEST_ENCODED: usize = 6;

/// Shortest piece that is a secret of its own: a line of a secret with several, as of a key in PEM, or the beginning of a
/// secret that the log ends with.
const SHORTEST_PIECE: usize = 8;

/// Replaces secret values in a stream of bytes: as they are, and as programs are wont to write them (base64, hexadecimal,
/// in a URL, in JSON).
pub struct Redactor {
    /// By their first byte. Longest first, so that a secret that contains another one goes whole.
    needles: Vec<Vec<Vec<u8>>>,
    /// Bytes that may be the beginning of a needle.
    held: Vec<u8>,
}

// By hand, so that no value is ever printed.
impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").finish_non_exhaustive()
    }
}

impl Redactor {
    /// Makes a redactor for these secret values.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut needles = BTreeSet::new();
        for secret in secrets {
            let lines = secret.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_PIECE);
            for form in [secret, secret.trim()].into_iter().chain(lines) {
                if !form.is_empty() {
                    needles.insert(form.as_bytes().to_vec());
                    needles.extend(encoded_forms(form));
                }
            }
        }
        let mut by_first = Vec::new();
        if !needles.is_empty() {
            by_first.resize(256, Vec::new());
        }
        for needle in needles {
            by_first[usize::from(needle[0])].push(needle);
        }
        for needles in &mut by_first {
            needles.sort_by_key(|needle: &Vec<u8>| std::cmp::Reverse(needle.len()));
        }
        Self { needles: by_first, held: Vec::new() }
    }

    /// Takes bytes and gives those that may leave. What may be the beginning of a secret is held back until it is known.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.needles.is_empty() {
            return bytes.to_vec();
        }
        let mut input = std::mem::take(&mut self.held);
        input.extend_from_slice(bytes);
        let (out, held) = self.scan(&input, false);
        self.held = held;
        out
    }

    /// Takes the secrets out of a text beside the stream.
    #[must_use]
    pub fn mask(&self, text: String) -> String {
        if self.needles.is_empty() {
            return text;
        }
        String::from_utf8_lossy(&self.scan(text.as_bytes(), true).0).into_owned()
    }

    /// Takes the secrets out of what a failure says.
    #[must_use]
    pub fn mask_failure(&self, mut failure: Failure) -> Failure {
        failure.message = self.mask(failure.message);
        failure.hint = self.mask(failure.hint);
        failure
    }

    /// Says whether there is a secret in bytes beside the stream.
    #[must_use]
    pub fn finds(&self, bytes: &[u8]) -> bool {
        !self.needles.is_empty() && self.scan(bytes, true).0 != bytes
    }

    /// Ends the stream and gives what was held back. The beginning of a secret stays back: whoever was stopped in the middle
    /// of it has told most of it.
    pub fn finish(&mut self) -> Vec<u8> {
        let input = std::mem::take(&mut self.held);
        self.scan(&input, true).0
    }

    /// Gives what may leave of `input`, and its end that may be the beginning of a secret; that is empty at the last call.
    fn scan(&self, input: &[u8], last: bool) -> (Vec<u8>, Vec<u8>) {
        let mut out = Vec::with_capacity(input.len());
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            let needles = self.needles.get(usize::from(rest[0])).map(Vec::as_slice).unwrap_or_default();
            // A longer secret that may still come whole wins over a shorter one that is already there.
            let begins = needles.iter().any(|needle| needle.len() > rest.len() && needle.starts_with(rest));
            if begins && !last {
                return (out, rest.to_vec());
            }
            match needles.iter().find(|needle| rest.starts_with(needle)) {
                Some(needle) => {
                    out.extend_from_slice(MASK);
                    at += needle.len();
                }
                None if begins && rest.len() >= SHORTEST_PIECE => {
                    out.extend_from_slice(MASK);
                    at = input.len();
                }
                None => {
                    out.push(rest[0]);
                    at += 1;
                }
            }
        }
        (out, Vec::new())
    }
}

/// Gives the forms that programs give a value.
fn encoded_forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    if bytes.len() < SHORTEST_ENCODED {
        return Vec::new();
    }
    let mut forms = base64_forms(bytes);
    for hex in ["0123456789abcdef", "0123456789ABCDEF"].map(str::as_bytes) {
        let pair = |byte: u8| [hex[usize::from(byte >> 4)], hex[usize::from(byte & 15)]];
        forms.push(bytes.iter().flat_map(|byte| pair(*byte)).collect());
        // Programs differ in what they escape, and in the letters of it.
        for left in ["-._~", "-._~/", "-._~!*'()", "*-._"].map(str::as_bytes) {
            let escaped = |byte: &u8| match byte {
                byte if byte.is_ascii_alphanumeric() || left.contains(byte) => vec![*byte],
                byte => [b"%".as_slice(), &pair(*byte)].concat(),
            };
            forms.push(bytes.iter().flat_map(escaped).collect());
        }
    }
    if let Ok(json) = serde_json::to_vec(value) {
        // Without its quotes.
        forms.push(json[1..json.len() - 1].to_vec());
    }
    forms
}

/// Gives the base64 of a value, alone and as part of a longer text: at each of the three alignments, the characters that
/// depend on the value alone. Both alphabets.
fn base64_forms(value: &[u8]) -> Vec<Vec<u8>> {
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
    fn a_secret_is_masked_as_programs_are_wont_to_write_it() {
        let secret = "p+s/w ord\"1";
        for form in [
            "702b732f77206f72642231",
            "702B732F77206F72642231",
            "p%2Bs%2Fw%20ord%221",
            "p%2bs%2fw%20ord%221",
            "p+s/w ord\\\"1",
        ] {
            assert_eq!(redact(&[secret], &["<", form, ">"]), "<***>", "{form}");
        }
    }

    #[test]
    fn every_line_of_a_key_is_masked_by_itself() {
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n";
        assert_eq!(redact(&[key], &[key]), "***");
        assert_eq!(redact(&[key], &["  2: hkiG9w0BAQEFAASC\n"]), "  2: ***\n");
    }

    #[test]
    fn the_beginning_of_a_secret_at_the_end_of_a_log_is_masked() {
        assert_eq!(redact(&["correct-horse"], &["token=correct-", "hor"]), "token=***");
        assert_eq!(redact(&["correct-horse"], &["it is correct"]), "it is correct", "a word alone says nothing");
        assert!(!format!("{:?}", Redactor::new(["correct-horse"])).contains("correct"));
    }

    #[test]
    fn a_secret_in_bytes_is_found() {
        let redactor = Redactor::new(["correct-horse"]);
        assert!(redactor.finds(b"[\"correct-horse\"]") && !redactor.finds(b"[\"a horse\"]"));
        assert!(!Redactor::new([]).finds(b"x"));
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
