//! What both sides know.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use data_encoding::BASE64URL_NOPAD;

/// 128 bits in base64.
pub const TOKEN_CHARACTERS_MIN: usize = 22;
/// RFC 9266 section 3.
pub(crate) const EXPORTER_BYTES: usize = 32;
pub(crate) const PROOF_BYTES: usize = 32;

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token has {TOKEN_CHARACTERS_MIN} printable characters at least, in one line: `gabion pki token` makes one"
)]
pub struct ParseTokenError;

/// A secret that is good for one node's enrolment.
pub struct Token(hmac::Key);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads a token; blanks around it are not part of it.
    ///
    /// # Errors
    /// When it is too short to be a secret.
    pub fn parse(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        let is_fit =
            text.len() >= TOKEN_CHARACTERS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_fit
            .then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes())))
            .ok_or(ParseTokenError)
    }

    /// Makes the text of a new one, of 256 bits.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn generate() -> Result<String, aws_lc_rs::error::Unspecified> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::SecureRandom::fill(&SystemRandom::new(), &mut bytes)?;
        Ok(BASE64URL_NOPAD.encode(&bytes))
    }

    pub(crate) fn prove(&self, side: Side, exporter: &[u8; EXPORTER_BYTES]) -> Vec<u8> {
        hmac::sign(&self.0, &said(side, exporter)).as_ref().to_vec()
    }

    /// In constant time.
    pub(crate) fn verifies(
        &self,
        side: Side,
        exporter: &[u8; EXPORTER_BYTES],
        proof: &[u8],
    ) -> bool {
        hmac::verify(&self.0, &said(side, exporter), proof).is_ok()
    }
}

/// Who shows that he knows the token: one side's proof is not the other's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Operator,
    Node,
}

fn said(side: Side, exporter: &[u8; EXPORTER_BYTES]) -> Vec<u8> {
    let side: &[u8] = match side {
        Side::Operator => b"gabion-enrol/1 operator\0",
        Side::Node => b"gabion-enrol/1 node\0",
    };
    [side, exporter].concat()
}
