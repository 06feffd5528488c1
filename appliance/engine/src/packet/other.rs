//! Protocols that are followed by their addresses alone, and by their ports where they begin with
//! some. Nothing else of them is read: no chunk, parameter or option of theirs costs any work here.

use super::{Network, Segment, protocol};
use crate::verdict::DropReason;

/// How long the header of a protocol is at least; zero for one that is not known.
const fn least_length(protocol: u8) -> usize {
    match protocol {
        // RFC 2784 section 2.
        protocol::GRE => 4,
        // RFC 4303 section 2, RFC 3828 section 3.1; the rest begin like an IPv6 extension header
        // (RFC 6275 section 6.1, RFC 7401 section 5.1, RFC 5533 section 5).
        protocol::ESP
        | protocol::UDP_LITE
        | protocol::MOBILITY
        | protocol::HIP
        | protocol::SHIM6 => 8,
        // RFC 4302 section 2, RFC 9260 section 3.1, RFC 4340 section 5.1.
        protocol::AUTHENTICATION | protocol::SCTP | protocol::DCCP => 12,
        _ => 0,
    }
}

pub(super) fn parse(bytes: &[u8], network: &Network) -> Result<Segment, DropReason> {
    let is_whole = bytes.len() >= least_length(network.protocol);
    if !is_whole || network.protocol == protocol::UDP_LITE && !covers_itself(bytes, network) {
        return Err(network.truncated());
    }
    if !protocol::has_ports(network.protocol) {
        return Ok(Segment::Other { source_port: 0, destination_port: 0 });
    }
    let &[a, b, c, d, ..] = bytes else { return Err(network.truncated()) };
    let (source_port, destination_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    check_ports(source_port, destination_port)?;
    Ok(Segment::Other { source_port, destination_port })
}

/// Whether the checksum of a UDP-Lite packet covers its header at least, and no more than is there
/// (RFC 3828 section 3.1).
fn covers_itself(bytes: &[u8], network: &Network) -> bool {
    let &[_, _, _, _, high, low, ..] = bytes else { return false };
    match usize::from(u16::from_be_bytes([high, low])) {
        0 => true,
        covered => covered >= 8 && (network.fragment.is_some() || covered <= bytes.len()),
    }
}

/// Port zero is reserved (RFC 6335 section 6) and stands for "any" in many an interface.
pub(super) fn check_ports(source: u16, destination: u16) -> Result<(), DropReason> {
    if source == 0 || destination == 0 { Err(DropReason::PortZero) } else { Ok(()) }
}
