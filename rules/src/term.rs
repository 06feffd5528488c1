//! What is wrong with a single word of the policy, before its place is known.

/// A word that does not mean anything where it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct TermError {
    pub message: String,
    /// May be empty.
    pub help: String,
}

impl TermError {
    pub(crate) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// Reads a number that is written in digits alone: no sign, and no zero in front, which YAML 1.1
/// took for octal.
pub(crate) fn number<T: std::str::FromStr>(word: &str) -> Option<T> {
    let plain = word == "0" || !word.starts_with('0');
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    if plain && digits { word.parse().ok() } else { None }
}

/// Whether a word could be the name of a zone, an object or a rule.
pub(crate) fn is_name(word: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ends =
        |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = word.as_bytes();
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().copied().all(inner)
}

/// The name in the style of names that comes closest to `word`; empty where none is left.
pub(crate) fn name_like(word: &str) -> String {
    let lower = word.to_ascii_lowercase();
    let parts = lower.split(|c: char| !c.is_ascii_alphanumeric());
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}
