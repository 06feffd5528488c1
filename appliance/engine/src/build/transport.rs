//! Transport headers and what is set in them.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr, UDP_HEADER_LEN, UdpPacket,
    UdpRepr,
};

use super::FrameBuilder;
use crate::packet::{TcpFlags, protocol};

#[derive(Debug, Clone)]
pub(super) enum Transport {
    Tcp(Box<TcpHeader>),
    Udp,
    Echo { request: bool, identifier: u16, sequence: u16 },
    Icmp { kind: u8, code: u8, rest: [u8; 4] },
    Other(u8),
}

#[derive(Debug, Clone)]
pub(super) struct TcpHeader {
    flags: TcpFlags,
    sequence: u32,
    acknowledgement: u32,
    window: u16,
    mss: Option<u16>,
    window_scale: Option<u8>,
    sack_permitted: bool,
    timestamp: Option<TcpTimestampRepr>,
    raw_options: Vec<u8>,
}

/// What only TCP has; the methods panic on a builder of another protocol.
impl FrameBuilder {
    pub fn syn(self) -> Self {
        self.tcp(|header| header.flags.syn = true)
    }

    /// Sets ACK and the acknowledgement number.
    pub fn ack(self, acknowledgement: u32) -> Self {
        self.tcp(|header| {
            header.flags.ack = true;
            header.acknowledgement = acknowledgement;
        })
    }

    pub fn fin(self) -> Self {
        self.tcp(|header| header.flags.fin = true)
    }

    pub fn rst(self) -> Self {
        self.tcp(|header| header.flags.rst = true)
    }

    pub fn psh(self) -> Self {
        self.tcp(|header| header.flags.psh = true)
    }

    pub fn urg(self) -> Self {
        self.tcp(|header| header.flags.urg = true)
    }

    /// The sequence number.
    pub fn seq(self, sequence: u32) -> Self {
        self.tcp(|header| header.sequence = sequence)
    }

    /// The window, as it stands in the header. 65,535 unless said otherwise.
    pub fn window(self, window: u16) -> Self {
        self.tcp(|header| header.window = window)
    }

    pub fn mss(self, mss: u16) -> Self {
        self.tcp(|header| header.mss = Some(mss))
    }

    /// The window scale option.
    pub fn wscale(self, shift: u8) -> Self {
        self.tcp(|header| header.window_scale = Some(shift))
    }

    pub fn sack_permitted(self) -> Self {
        self.tcp(|header| header.sack_permitted = true)
    }

    pub fn timestamp(self, value: u32, echo: u32) -> Self {
        self.tcp(|header| header.timestamp = Some(TcpTimestampRepr::new(value, echo)))
    }

    /// TCP options as bytes, behind those that other methods set, padded to whole words.
    pub fn tcp_options(self, options: &[u8]) -> Self {
        self.tcp(|header| {
            header.raw_options = options.to_vec();
            header.raw_options.resize(options.len().next_multiple_of(4), 0);
        })
    }

    fn tcp(mut self, set: impl FnOnce(&mut TcpHeader)) -> Self {
        let Transport::Tcp(header) = &mut self.transport else {
            panic!("only TCP has this");
        };
        set(header);
        self
    }

    /// The identifier of an echo request or reply.
    ///
    /// # Panics
    /// On a builder of another protocol.
    pub fn id(mut self, id: u16) -> Self {
        let Transport::Echo { identifier, .. } = &mut self.transport else {
            panic!("only echo requests and replies have an identifier");
        };
        *identifier = id;
        self
    }

    /// The sequence number of an echo request or reply.
    ///
    /// # Panics
    /// On a builder of another protocol.
    pub fn echo_seq(mut self, number: u16) -> Self {
        let Transport::Echo { sequence, .. } = &mut self.transport else {
            panic!("only echo requests and replies have this sequence number");
        };
        *sequence = number;
        self
    }
}

impl Transport {
    pub(super) fn tcp() -> Self {
        Self::Tcp(Box::new(TcpHeader {
            flags: TcpFlags::default(),
            sequence: 1,
            acknowledgement: 0,
            window: u16::MAX,
            mss: None,
            window_scale: None,
            sack_permitted: false,
            timestamp: None,
            raw_options: Vec::new(),
        }))
    }

    pub(super) const fn number(&self, is_ipv4: bool) -> u8 {
        match self {
            Self::Tcp(_) => protocol::TCP,
            Self::Udp => protocol::UDP,
            Self::Echo { .. } | Self::Icmp { .. } if is_ipv4 => protocol::ICMP,
            Self::Echo { .. } | Self::Icmp { .. } => protocol::ICMPV6,
            Self::Other(number) => *number,
        }
    }

    pub(super) const fn checksum_offset(&self) -> Option<usize> {
        match self {
            Self::Tcp(_) => Some(16),
            Self::Udp => Some(6),
            Self::Echo { .. } | Self::Icmp { .. } => Some(2),
            Self::Other(_) => None,
        }
    }

    /// Header and payload, the checksum not yet filled in.
    pub(super) fn emit(
        &self,
        source: SocketAddr,
        destination: SocketAddr,
        payload: &[u8],
    ) -> Vec<u8> {
        match self {
            Self::Tcp(header) => header.emit(source, destination, payload),
            Self::Udp => {
                let repr = UdpRepr { src_port: source.port(), dst_port: destination.port() };
                let mut bytes = vec![0; UDP_HEADER_LEN + payload.len()];
                repr.emit(
                    &mut UdpPacket::new_unchecked(&mut bytes[..]),
                    &source.ip().into(),
                    &destination.ip().into(),
                    payload.len(),
                    |target| target.copy_from_slice(payload),
                    &ChecksumCapabilities::ignored(),
                );
                bytes
            }
            Self::Echo { request, identifier, sequence } => {
                let kind = match (source.is_ipv4(), request) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                let [a, b] = identifier.to_be_bytes();
                let [c, d] = sequence.to_be_bytes();
                [&[kind, 0, 0, 0, a, b, c, d], payload].concat()
            }
            Self::Icmp { kind, code, rest } => [&[*kind, *code, 0, 0], &rest[..], payload].concat(),
            Self::Other(_) => payload.to_vec(),
        }
    }
}

impl TcpHeader {
    fn emit(&self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
        let repr = TcpRepr {
            src_port: source.port(),
            dst_port: destination.port(),
            control: TcpControl::None,
            seq_number: TcpSeqNumber(self.sequence.cast_signed()),
            ack_number: self.flags.ack.then_some(TcpSeqNumber(self.acknowledgement.cast_signed())),
            window_len: self.window,
            window_scale: self.window_scale,
            max_seg_size: self.mss,
            sack_permitted: self.sack_permitted,
            sack_ranges: [None; 3],
            timestamp: self.timestamp,
            payload: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        let mut segment = TcpPacket::new_unchecked(&mut bytes[..]);
        repr.emit(
            &mut segment,
            &source.ip().into(),
            &destination.ip().into(),
            &ChecksumCapabilities::ignored(),
        );
        segment.set_syn(self.flags.syn);
        segment.set_fin(self.flags.fin);
        segment.set_rst(self.flags.rst);
        segment.set_psh(self.flags.psh);
        segment.set_urg(self.flags.urg);
        segment.set_header_len((repr.buffer_len() + self.raw_options.len()) as u8);
        bytes.extend_from_slice(&self.raw_options);
        bytes.extend_from_slice(payload);
        bytes
    }
}
