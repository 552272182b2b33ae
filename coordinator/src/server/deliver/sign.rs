//! Signatures of webhooks, as <https://www.standardwebhooks.com> has them, so that receivers find a library for theirs.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// What the text of a key may begin with.
const PREFIX: &str = "whsec_";

/// Shortest key, in bytes: below that it could be guessed.
const SHORTEST: usize = 16;

/// Keys come with and without padding.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The key of a signature.
pub struct SigningKey(Vec<u8>);

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Reads a key: base64, with or without `whsec_` before it.
    ///
    /// # Errors
    /// Says what is wrong, without the text.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let text = text.trim();
        let bytes = ANY_PADDING.decode(text.strip_prefix(PREFIX).unwrap_or(text)).map_err(|_| "is not base64")?;
        if bytes.len() < SHORTEST { Err("is shorter than 16 bytes") } else { Ok(Self(bytes)) }
    }

    /// Signs a message; gives the value of the header `webhook-signature`.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The vector that the libraries of Standard Webhooks are tested with.
    const KEY: &str = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    #[test]
    fn the_published_vector_is_signed_as_published() {
        for text in [KEY.to_owned(), format!("{PREFIX}{KEY}"), format!(" {PREFIX}{KEY}\n")] {
            let key = SigningKey::parse(&text).unwrap();
            assert_eq!(key.sign(ID, 1_614_265_330, br#"{"test": 2432232314}"#), SIGNATURE);
        }
    }

    #[test]
    fn every_part_of_the_message_is_signed() {
        let key = SigningKey::parse(KEY).unwrap();
        let body: &[u8] = br#"{"test": 2432232314}"#;
        assert_ne!(key.sign("msg_other", 1_614_265_330, body), SIGNATURE);
        assert_ne!(key.sign(ID, 1_614_265_331, body), SIGNATURE);
        assert_ne!(key.sign(ID, 1_614_265_330, b"{}"), SIGNATURE);
        let other = SigningKey::parse("bXktb3duLXNlY3JldC1rZXktMTIzNA").unwrap();
        assert_ne!(other.sign(ID, 1_614_265_330, body), SIGNATURE);
    }

    #[test]
    fn a_key_that_is_no_key_is_refused_without_being_repeated() {
        for text in ["", "whsec_", "not base64!", "c2hvcnQ=", "whsec_c2hvcnQ"] {
            let why = SigningKey::parse(text).unwrap_err();
            assert!(text.is_empty() || !why.contains(text));
        }
    }
}
