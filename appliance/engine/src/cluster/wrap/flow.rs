//! Of which flow a packet is that a kernel has wrapped: one without anything that only the engine reads.

use super::Refused;
use crate::{Address, Endpoint, FlowKey};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 9293 section 3.1.
const TCP_FLAGS: usize = 13;
const FIN: u8 = 1;
const SYN: u8 = 1 << 1;
const RST: u8 = 1 << 2;
const ACK: u8 = 1 << 4;
/// RFC 791 section 3.1: more fragments, and the offset.
const FRAGMENT: u16 = 0x3fff;

/// The key as the packet has it.
///
/// # Errors
/// `Malformed` for what no kernel wraps: no TCP or UDP, options or extension headers, a fragment, and what opens or ends
/// a connection.
pub(super) fn key(packet: &[u8]) -> Result<FlowKey, Refused> {
    read(packet).ok_or(Refused::Malformed)
}

fn read(packet: &[u8]) -> Option<FlowKey> {
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (protocol, [source, destination], transport) = match packet.first()? {
        0x45 if word(6)? & FRAGMENT == 0 => {
            let address = |at: usize| -> Option<Address> {
                let octets: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(Address::from(std::net::IpAddr::from(octets)))
            };
            (*packet.get(9)?, [address(12)?, address(16)?], 20)
        }
        first if first >> 4 == 6 => {
            let address = |at: usize| -> Option<Address> {
                let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
                Some(Address::from(std::net::IpAddr::from(octets)))
            };
            (*packet.get(6)?, [address(8)?, address(24)?], 40)
        }
        _ => return None,
    };
    let endpoint = |address, at: usize| Some(Endpoint { address, port: word(at)? });
    let is_known = match protocol {
        TCP => packet.get(transport + TCP_FLAGS)? & (ACK | SYN | FIN | RST) == ACK,
        protocol => protocol == UDP,
    };
    let (source, destination) =
        (endpoint(source, transport)?, endpoint(destination, transport + 2)?);
    is_known.then_some(FlowKey { source, destination, protocol })
}
