//! Enrolment: a node without certificates gets one from whoever knows its token, and from nobody else.
//!
//! The node listens with a certificate that it has made itself and that proves nothing. Over TLS 1.3 both sides then
//! show that they know the token, each by an HMAC-SHA256 of what the session alone has: its exporter (RFC 9266, channel
//! binding `tls-exporter`). Whoever stands in between has two sessions with two exporters, so what one side shows is worth
//! nothing to the other; and what was shown once is worth nothing in the next session.
//!
//! ```text
//! operator                                             node
//!    ── HMAC(token, "operator" ‖ exporter) ──>               wrong: the node hangs up and says nothing
//!    <── HMAC(token, "node" ‖ exporter), request ──          wrong: the operator hangs up
//!    ── certificate, CA ──>                                  the node looks whether it is its own, and usable
//!    <── done, or why not ──
//! ```
//!
//! The operator speaks first, so a node tells nothing to who does not know its token; the node's key never leaves it, the
//! CA's key never leaves the operator. A message is its length in four bytes, most significant first, and its text. What
//! this crate does not do: sockets, deadlines, and how many may try at a time.
#![forbid(unsafe_code)]

mod client;
mod session;
mod token;

pub use client::enrol;
pub use session::{EnrolError, Granted, MESSAGE_BYTES_MAX, Node};
pub use token::{ParseTokenError, TOKEN_CHARACTERS_MIN, Token};

/// RFC 7301: what is spoken, with its version.
pub const PROTOCOL: &[u8] = b"gabion-enrol/1";

#[cfg(test)]
mod tests;
