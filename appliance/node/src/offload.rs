//! What hardware left undone, in the datapath's words and in the engine's.
//!
//! A frame that is only forwarded keeps its `virtio_net_hdr` untouched in the datapath's slot; the way
//! back is for frames that the engine sends itself. On that way the bit that only the first
//! segment carries CWR (RFC 3168) is lost: a superframe that waited for a neighbour then repeats it.

use gabion_datapath::VnetHeader;
use gabion_engine::{Checksum, Offload, SegmentKind, Segments};

/// Reads the header that came with a frame.
pub fn from_vnet(vnet: VnetHeader) -> Offload {
    let checksum = if vnet.flags & VnetHeader::NEEDS_CHECKSUM != 0 {
        Checksum::Partial { start: vnet.checksum_start, offset: vnet.checksum_offset }
    } else if vnet.flags & VnetHeader::DATA_VALID != 0 {
        Checksum::Verified
    } else {
        Checksum::Unverified
    };
    let kind = match vnet.gso_type & !VnetHeader::GSO_ECN {
        VnetHeader::GSO_TCPV4 => Some(SegmentKind::TcpIpv4),
        VnetHeader::GSO_TCPV6 => Some(SegmentKind::TcpIpv6),
        VnetHeader::GSO_UDP_L4 => Some(SegmentKind::Udp),
        // None, or one that Linux no longer makes: the frame is then one packet, too big if large.
        _ => None,
    };
    let segments =
        kind.map(|kind| Segments { kind, size: vnet.gso_size, header: vnet.header_length });
    Offload { checksum, segments }
}

/// Writes the header for a frame of the engine's making.
pub fn to_vnet(offload: Offload) -> VnetHeader {
    let mut vnet = VnetHeader::default();
    match offload.checksum {
        Checksum::Unverified => {}
        Checksum::Verified => vnet.flags = VnetHeader::DATA_VALID,
        Checksum::Partial { start, offset } => {
            vnet.flags = VnetHeader::NEEDS_CHECKSUM;
            vnet.checksum_start = start;
            vnet.checksum_offset = offset;
        }
    }
    if let Some(segments) = offload.segments {
        vnet.gso_type = match segments.kind {
            SegmentKind::TcpIpv4 => VnetHeader::GSO_TCPV4,
            SegmentKind::TcpIpv6 => VnetHeader::GSO_TCPV6,
            SegmentKind::Udp => VnetHeader::GSO_UDP_L4,
        };
        vnet.gso_size = segments.size;
        vnet.header_length = segments.header;
    }
    vnet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_way_there_and_back() {
        let segments = [SegmentKind::TcpIpv4, SegmentKind::TcpIpv6, SegmentKind::Udp]
            .map(|kind| Some(Segments { kind, size: 1448, header: 66 }));
        for checksum in
            [Checksum::Unverified, Checksum::Verified, Checksum::Partial { start: 34, offset: 16 }]
        {
            for segments in segments.into_iter().chain([None]) {
                let offload = Offload { checksum, segments };
                assert_eq!(from_vnet(to_vnet(offload)), offload);
            }
        }
    }

    #[test]
    fn a_superframe_as_linux_hands_it_over() {
        let vnet = VnetHeader {
            flags: VnetHeader::NEEDS_CHECKSUM,
            gso_type: VnetHeader::GSO_TCPV4 | VnetHeader::GSO_ECN,
            header_length: 66,
            gso_size: 1448,
            checksum_start: 34,
            checksum_offset: 16,
        };
        let expected = Offload {
            checksum: Checksum::Partial { start: 34, offset: 16 },
            segments: Some(Segments { kind: SegmentKind::TcpIpv4, size: 1448, header: 66 }),
        };
        assert_eq!(from_vnet(vnet), expected);
    }

    #[test]
    fn kinds_that_linux_no_longer_makes_are_no_superframes() {
        let vnet = VnetHeader { gso_type: VnetHeader::GSO_UDP, ..VnetHeader::default() };
        assert_eq!(from_vnet(vnet), Offload::default());
    }
}
