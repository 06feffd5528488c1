//! `virtio_net_hdr`: what a sender has left to the network card.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `virtio_net_hdr`: what hardware or kernel left undone.
///
/// The fields are in the byte order of the machine, as the kernel has them on a packet socket.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    /// A hint, on receipt: how much of a superframe the kernel held in one piece, which may be more
    /// than its headers. Parse the headers; to send, anything up to the frame's length will do.
    pub header_length: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    pub checksum_start: u16,
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Bytes of the header on a socket: no room for `num_buffers` (virtio 1.2, section 5.1.6).
    pub const LENGTH: usize = size_of::<Self>();

    /// Flag: the checksum field holds the sum of the pseudo-header only.
    pub const NEEDS_CHECKSUM: u8 = 1;
    /// Flag: hardware has found the checksum right.
    pub const DATA_VALID: u8 = 2;

    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation offload; Linux has stopped making such frames.
    pub const GSO_UDP: u8 = 3;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;
    /// Bit in `gso_type`: the first segment only carries CWR (RFC 3168).
    pub const GSO_ECN: u8 = 0x80;

    /// The header as it must be to be sent: the verdict of the receiving card says nothing there.
    #[must_use]
    pub(crate) const fn for_sending(self) -> Self {
        Self { flags: self.flags & Self::NEEDS_CHECKSUM, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::VnetHeader;

    #[test]
    fn has_the_size_the_kernel_reads() {
        assert_eq!(VnetHeader::LENGTH, 10);
    }

    #[test]
    fn sending_keeps_only_the_partial_checksum() {
        let received =
            VnetHeader { flags: 0xff, gso_type: 1, gso_size: 1448, ..Default::default() };
        assert_eq!(
            received.for_sending(),
            VnetHeader { flags: VnetHeader::NEEDS_CHECKSUM, ..received }
        );
    }
}
