//! Packets as they come in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gabion_datapath::ebpf::{WireEndpoint, WireKey};

/// Of addresses, or of what is no IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Arp,
    Ipv4,
    Ipv6,
}

/// What IP carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Udp,
    Tcp,
}

/// A packet, or a superframe whose segments carry `segment` bytes.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    pub family: Family,
    pub protocol: Protocol,
    pub payload: u16,
    pub segment: u32,
}

impl Packet {
    /// What the packet shows.
    pub fn key(&self) -> WireKey {
        self.key_between(1, 2)
    }

    /// What it shows when it has been translated.
    pub fn translated(&self) -> WireKey {
        self.key_between(3, 4)
    }

    fn key_between(&self, source: u8, destination: u8) -> WireKey {
        let endpoint = |last: u8| WireEndpoint {
            address: match self.family {
                Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
                Family::Arp | Family::Ipv4 => Ipv4Addr::new(192, 0, 2, last).into(),
            },
            port: 1_000 + u16::from(last),
        };
        let protocol = match self.protocol {
            Protocol::Udp => 17,
            Protocol::Tcp => 6,
        };
        WireKey { protocol, source: endpoint(source), destination: endpoint(destination) }
    }

    /// To the loopback device's link address.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![0, 0, 0, 0, 0, 0, 2, 9, 9, 9, 9, 9];
        let transport = self.transport();
        match self.family {
            Family::Arp => {
                frame.extend([8, 6]);
                frame.extend([0; 46]);
                return frame;
            }
            Family::Ipv4 => {
                frame.extend([8, 0]);
                frame.extend(self.ipv4(transport.len() as u16));
            }
            Family::Ipv6 => {
                frame.extend([0x86, 0xdd]);
                frame.extend(self.ipv6(transport.len() as u16));
            }
        }
        frame.extend(transport);
        frame
    }

    fn ipv4(&self, payload: u16) -> Vec<u8> {
        let mut header = vec![0x45, 0];
        header.extend((20 + payload).to_be_bytes());
        // Don't fragment; the largest TTL.
        header.extend([0, 1, 0x40, 0, 255, self.key().protocol, 0, 0]);
        self.push_addresses(&mut header);
        sum_header(&mut header);
        header
    }

    fn ipv6(&self, payload: u16) -> Vec<u8> {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(payload.to_be_bytes());
        header.extend([self.key().protocol, 255]);
        self.push_addresses(&mut header);
        header
    }

    fn push_addresses(&self, header: &mut Vec<u8>) {
        for endpoint in [self.key().source, self.key().destination] {
            match endpoint.address {
                IpAddr::V4(address) => header.extend(address.octets()),
                IpAddr::V6(address) => header.extend(address.octets()),
            }
        }
    }

    /// With a checksum that is not zero: the programs do not verify it.
    fn transport(&self) -> Vec<u8> {
        let key = self.key();
        let mut transport = key.source.port.to_be_bytes().to_vec();
        transport.extend(key.destination.port.to_be_bytes());
        match self.protocol {
            Protocol::Udp => {
                transport.extend((8 + self.payload).to_be_bytes());
                transport.extend([1, 1]);
            }
            Protocol::Tcp => {
                // Sequence number and acknowledgement 1,000; eight words with timestamps; ACK.
                transport
                    .extend([0, 0, 3, 0xe8, 0, 0, 3, 0xe8, 0x80, 0x10, 0xff, 0xff, 1, 1, 0, 0]);
                transport.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 1]);
            }
        }
        transport.resize(transport.len() + usize::from(self.payload), 5);
        transport
    }
}

/// Puts the checksum into an IPv4 header without options.
pub fn sum_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes());
}
