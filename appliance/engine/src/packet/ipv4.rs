//! The IPv4 header (RFC 791, RFC 1812 section 5.2.2).

use smoltcp::wire::{ETHERNET_HEADER_LEN, Ipv4Packet};

use super::{Fragment, Homes, Network, Packet, Segment, protocol, transport};
use crate::frame::Frame;
use crate::verdict::DropReason;

/// RFC 791 section 3.1.
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const FIXED_HEADER: usize = smoltcp::wire::IPV4_HEADER_LEN;

pub(super) fn parse(frame: &Frame<'_>) -> Result<Packet, DropReason> {
    let bytes = &frame.bytes[ETHERNET_HEADER_LEN..];
    let header = Ipv4Packet::new_checked(bytes).map_err(|_| DropReason::IpHeader)?;
    if header.version() != 4 {
        return Err(DropReason::IpHeader);
    }
    if !header.verify_checksum() {
        return Err(DropReason::IpChecksum);
    }
    let header_length = usize::from(header.header_len());
    check_options(&bytes[FIXED_HEADER..header_length])?;

    let protocol = u8::from(header.next_header());
    match protocol {
        // IPv6's hop-by-hop header; in IPv4 it is no protocol (compare CVE-2023-1668).
        0 => return Err(DropReason::IpHeader),
        protocol::ICMPV6 => return Err(DropReason::IcmpType),
        _ => {}
    }
    let total_length = usize::from(header.total_len());
    let fragment = (header.more_frags() || header.frag_offset() != 0).then(|| Fragment {
        identification: u32::from(header.ident()),
        identification_at: ETHERNET_HEADER_LEN + 4,
        offset: u32::from(header.frag_offset()),
        length: (total_length - header_length) as u32,
        more: header.more_frags(),
    });
    if let Some(fragment) = fragment {
        fragment.check(protocol, header_length)?;
    }
    let network = Network {
        source: header.src_addr().octets().into(),
        destination: header.dst_addr().octets().into(),
        hop_limit: header.hop_limit(),
        dont_fragment: header.dont_frag(),
        protocol,
        transport: ETHERNET_HEADER_LEN + header_length,
        end: ETHERNET_HEADER_LEN + total_length,
        fragment,
        homes: Homes::default(),
    };
    let segment = match fragment {
        Some(fragment) if !fragment.is_first() => Segment::Later,
        _ => transport::parse(frame, &network)?,
    };
    Ok(network.with(segment))
}

/// Lets end-of-list and no-operation pass (RFC 7126 section 4.1); an option of any other type or
/// length is refused.
fn check_options(options: &[u8]) -> Result<(), DropReason> {
    for &kind in options {
        match kind {
            END_OF_OPTIONS => return Ok(()),
            NO_OPERATION => {}
            _ => return Err(DropReason::IpOption),
        }
    }
    Ok(())
}
