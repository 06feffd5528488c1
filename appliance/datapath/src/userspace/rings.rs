//! The two receive rings of an interface: one for packets, one for superframes.
//!
//! A ring's slots are used in turn, so all of its memory passes through the cache. Slots that hold
//! any frame make a ring that is either too short for a burst of small packets or too large for the
//! cache: measured with one stream of superframes, a third of the rate. Two sockets with filters on
//! the length give each kind slots of its size.

use std::io;
use std::os::fd::OwnedFd;

use super::mapping::{PACKET_BYTES, Slots};
use super::ring::{self, ReceiveRing, Received};
use super::socket::{self, Lengths};

#[derive(Debug)]
pub(super) struct ReceiveRings {
    packets: Lane,
    superframes: Lane,
    /// The lane of the frames that `peek` showed last.
    shown: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Packet,
    Superframe,
}

#[derive(Debug)]
struct Lane {
    socket: OwnedFd,
    ring: ReceiveRing,
}

impl Lane {
    fn open(blocks: u16, slots: Slots, lengths: Lengths) -> io::Result<Self> {
        let socket = socket::open()?;
        socket::receive_only(&socket, lengths)?;
        let ring = ReceiveRing::new(&socket, blocks, slots)?;
        Ok(Self { socket, ring })
    }
}

/// A frame that stays in its slot until `release_held`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    kind: Kind,
    slot: ring::Held,
}

impl ReceiveRings {
    /// Opens both rings, each half of this many MiB; they are bound to no interface yet.
    pub(super) fn open(mebibytes: u16) -> io::Result<Self> {
        let blocks = (mebibytes / 2).max(1);
        Ok(Self {
            packets: Lane::open(blocks, Slots::ForPackets, Lengths::UpTo(PACKET_BYTES))?,
            superframes: Lane::open(
                blocks,
                Slots::ForSuperframes,
                Lengths::MoreThan(PACKET_BYTES),
            )?,
            shown: Kind::Packet,
        })
    }

    /// The sockets to be waited for.
    pub(super) fn sockets(&self) -> [&OwnedFd; 2] {
        [&self.packets.socket, &self.superframes.socket]
    }

    /// The socket to send by; any would do.
    pub(super) fn sender(&self) -> &OwnedFd {
        &self.packets.socket
    }

    /// Whether a frame waits.
    pub(super) fn has_frame(&self) -> bool {
        self.packets.ring.has_frame() || self.superframes.ring.has_frame()
    }

    /// The frames that came first of those that wait, up to `limit` and of one lane; they stay the
    /// next until `finish` or `hold`, which take one each.
    pub(super) fn peek(&mut self, limit: usize) -> impl Iterator<Item = Received<'_>> {
        let (kind, count) = self.run(limit).unwrap_or((self.shown, 0));
        self.shown = kind;
        self.shown_ring().peek(count)
    }

    /// The lane of the frame that came first, and how many of it go before the other lane's first.
    fn run(&self, limit: usize) -> Option<(Kind, usize)> {
        let kind = self.next()?;
        let (shown, other) = match kind {
            Kind::Packet => (&self.packets.ring, &self.superframes.ring),
            Kind::Superframe => (&self.superframes.ring, &self.packets.ring),
        };
        let waiting = shown.waiting(limit);
        // Looked at last: what came before one of those that wait has become visible by now.
        let before = other.stamp().map_or(waiting, |stamp| shown.came_by(stamp, waiting));
        Some((kind, before.max(1)))
    }

    /// The lane of the frame that came first.
    fn next(&self) -> Option<Kind> {
        let mut packet = self.packets.ring.stamp();
        let superframe = self.superframes.ring.stamp();
        // A packet that came before the superframe may have become visible since we looked.
        if packet.is_none() && superframe.is_some() {
            packet = self.packets.ring.stamp();
        }
        match (packet, superframe) {
            (None, None) => None,
            (Some(_), None) => Some(Kind::Packet),
            (None, Some(_)) => Some(Kind::Superframe),
            (Some(packet), Some(superframe)) if packet <= superframe => Some(Kind::Packet),
            (Some(_), Some(_)) => Some(Kind::Superframe),
        }
    }

    fn shown_ring(&mut self) -> &mut ReceiveRing {
        match self.shown {
            Kind::Packet => &mut self.packets.ring,
            Kind::Superframe => &mut self.superframes.ring,
        }
    }

    /// Gives the slot of the first frame that `peek` showed back to the kernel.
    pub(super) fn finish(&mut self) {
        self.shown_ring().finish();
    }

    /// Keeps the first frame that `peek` showed in its slot, ready to be sent; `None` if it was none.
    pub(super) fn hold(&mut self) -> Option<Held> {
        let slot = self.shown_ring().hold()?;
        Some(Held { kind: self.shown, slot })
    }

    /// Virtio header and frame of a held slot.
    pub(super) fn held(&self, held: Held) -> &[u8] {
        match held.kind {
            Kind::Packet => self.packets.ring.held(held.slot),
            Kind::Superframe => self.superframes.ring.held(held.slot),
        }
    }

    /// Gives all held slots back to the kernel.
    pub(super) fn release_held(&mut self) {
        self.packets.ring.release_held();
        self.superframes.ring.release_held();
    }

    /// Receives from this interface, and no other, from now on.
    pub(super) fn bind(&self, index: u32) -> io::Result<()> {
        self.sockets().into_iter().try_for_each(|socket| socket::bind_interface(socket, index))
    }

    /// Frames that the kernel has dropped since the last call because a ring was full.
    pub(super) fn take_drops(&self) -> u64 {
        let drops = |socket| socket::take_ring_drops(socket).unwrap_or_default();
        self.sockets().into_iter().map(|socket| u64::from(drops(socket))).sum()
    }

    /// Takes the errors that the kernel keeps for the sockets.
    pub(super) fn take_errors(&self) {
        for socket in self.sockets() {
            socket::take_error(socket);
        }
    }
}
