//! What client and server say to each other over TCP and UDP, and the content that both can compute.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::lab::cluster::dice::Dice;

/// Where both sides serve.
pub(crate) const PORT: u16 = 7000;

/// Bytes of a chunk of a live connection, and of a datagram.
pub(super) const CHUNK: usize = 256;

/// What a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// So many bytes there, so many back, and the end.
    Exchange { up: u32, down: u32 },
    /// Chunks, each of which is answered.
    Live,
}

/// The first bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) seed: u64,
    pub(super) wish: Wish,
}

impl Hello {
    pub(super) const BYTES: usize = 17;

    pub(super) fn write(self) -> [u8; Self::BYTES] {
        let (kind, up, down) = match self.wish {
            Wish::Exchange { up, down } => (0, up, down),
            Wish::Live => (1, 0, 0),
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0] = kind;
        bytes[1..9].copy_from_slice(&self.seed.to_be_bytes());
        bytes[9..13].copy_from_slice(&up.to_be_bytes());
        bytes[13..].copy_from_slice(&down.to_be_bytes());
        bytes
    }

    pub(super) fn read(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let [kind, s0, s1, s2, s3, s4, s5, s6, s7, u0, u1, u2, u3, d0, d1, d2, d3] = bytes;
        let seed = u64::from_be_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
        let wish = match kind {
            0 => Wish::Exchange {
                up: u32::from_be_bytes([u0, u1, u2, u3]),
                down: u32::from_be_bytes([d0, d1, d2, d3]),
            },
            1 => Wish::Live,
            _ => return None,
        };
        Some(Self { seed, wish })
    }
}

/// How a server sees its client: what the firewall has made of the client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight(pub(super) SocketAddr);

impl Sight {
    pub(super) const BYTES: usize = 18;

    pub(super) fn write(self) -> [u8; Self::BYTES] {
        let address = match self.0.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[..16].copy_from_slice(&address.octets());
        bytes[16..].copy_from_slice(&self.0.port().to_be_bytes());
        bytes
    }

    pub(super) fn read(bytes: [u8; Self::BYTES]) -> Self {
        let (address, port) = bytes.split_at(16);
        let address = <[u8; 16]>::try_from(address).expect("it was split there");
        let port = u16::from_be_bytes([port[0], port[1]]);
        Self(SocketAddr::new(Ipv6Addr::from(address).to_canonical(), port))
    }
}

/// What goes from the client to the server, and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Up,
    Down,
}

/// The bytes of a direction; `part` numbers the chunks of a live connection.
pub(super) fn content(seed: u64, direction: Direction, part: u64, length: usize) -> Vec<u8> {
    let direction = match direction {
        Direction::Up => 0,
        Direction::Down => 1 << 63,
    };
    let mut bytes = vec![0; length];
    Dice::new(seed ^ direction ^ part.rotate_left(32)).fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::{Direction, Hello, Sight, Wish, content};

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(seed: u64, up: u32, down: u32, live: bool) {
            let wish = if live { Wish::Live } else { Wish::Exchange { up, down } };
            let hello = Hello { seed, wish };
            prop_assert_eq!(Hello::read(hello.write()), Some(hello));
        }

        #[test]
        fn addresses_of_both_families_come_back(v4: [u8; 4], v6: [u16; 8], port: u16) {
            prop_assume!(v6[0] != 0);
            for sight in [Sight((v4, port).into()), Sight((v6, port).into())] {
                prop_assert_eq!(Sight::read(sight.write()), sight);
            }
        }

        #[test]
        fn no_two_parts_are_alike(seed: u64, part in 0_u64..1_000_000) {
            let of = |direction, part| content(seed, direction, part, 64);
            prop_assert_ne!(of(Direction::Up, part), of(Direction::Up, part + 1));
            prop_assert_ne!(of(Direction::Up, part), of(Direction::Down, part));
        }
    }
}
