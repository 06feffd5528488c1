//! How a packet is written in tests and on the command line.

use std::net::IpAddr;

use crate::Transport;

/// A packet as written: `tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet [out spokes]`.
///
/// `Display` writes it so that parsing gives the same value again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketText {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub transport: Transport,
    /// The zone, or a logical interface, by which the packet comes in.
    pub from: String,
    /// The zone to which it is routed; needed only where the zones' networks do not tell.
    pub out: Option<String>,
}

impl std::str::FromStr for PacketText {
    type Err = ParsePacketError;

    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        unimplemented!()
    }
}

impl std::fmt::Display for PacketText {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        unimplemented!()
    }
}

/// Why a text is not a packet, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {message}", column = .offset + 1)]
pub struct ParsePacketError {
    /// In bytes from 0.
    pub offset: usize,
    pub message: String,
}
