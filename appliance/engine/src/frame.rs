//! A frame as a datapath hands it over: bytes and what hardware or kernel left undone.

/// Bytes of one frame, from the Ethernet header on, to be rewritten in place.
#[derive(Debug)]
pub struct Frame<'a> {
    pub bytes: &'a mut [u8],
    pub offload: Offload,
}

/// Work that the sender left to the network card: as virtio's `virtio_net_hdr` describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    pub checksum: Checksum,
    pub segments: Option<Segments>,
}

/// The state of the transport checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksum {
    /// The field holds the whole sum and nobody has looked at it.
    #[default]
    Unverified,
    /// The field holds the whole sum and it has been found right.
    Verified,
    /// The field holds the sum of the pseudo-header only (not complemented); the sum over
    /// `start..` is to be put at `start + offset` when the frame reaches a wire.
    Partial { start: u16, offset: u16 },
}

/// A superframe: many segments under one header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    pub kind: SegmentKind,
    /// Payload bytes of each segment but the last.
    pub size: u16,
    /// Bytes of all headers, which each segment repeats.
    pub header: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentKind {
    TcpIpv4,
    TcpIpv6,
    /// UDP segmentation offload (GSO_UDP_L4).
    Udp,
}
