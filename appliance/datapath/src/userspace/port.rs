//! One interface: its socket, its ring, and the frames that wait to be sent by it.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use zerocopy::IntoBytes;

use super::rings::{Held, ReceiveRings};
use super::{UserspaceLimits, socket};
use crate::{Port, PortCounters, VnetHeader};

/// Messages of one system call: beyond some dozen, more save nothing.
const MESSAGES_PER_CALL: usize = 64;

#[derive(Debug)]
pub(super) struct PortState {
    pub(super) name: String,
    /// The device that frames come in by, where it is not the interface itself, and the socket to send by.
    door: Option<(u32, OwnedFd)>,
    /// Of the interface that the socket is bound to; `None` while there is none of our name.
    index: Option<u32>,
    up: bool,
    pub(super) rings: ReceiveRings,
    pub(super) queue: SendQueue,
    pub(super) counters: PortCounters,
    /// The kernel counts from zero after each look.
    ring_drops: Cell<u64>,
}

impl PortState {
    /// Opens the sockets with their rings, which are not bound yet; frames come in by the device `door`, if there is
    /// one.
    pub(super) fn open(name: &str, limits: UserspaceLimits, door: Option<u32>) -> io::Result<Self> {
        let door = door.map(|index| Ok::<_, io::Error>((index, socket::open()?))).transpose()?;
        Ok(Self {
            name: name.to_owned(),
            door,
            index: None,
            up: false,
            rings: ReceiveRings::open(limits.ring_mebibytes)?,
            queue: SendQueue::new(limits.queue_bytes),
            counters: PortCounters::default(),
            ring_drops: Cell::new(0),
        })
    }

    pub(super) const fn exists(&self) -> bool {
        self.index.is_some()
    }

    pub(super) const fn index(&self) -> Option<u32> {
        self.index
    }

    pub(super) const fn is_up(&self) -> bool {
        self.up
    }

    /// Follows the name: binds to the interface that has it now, and sees whether it is up.
    pub(super) fn refresh(&mut self) {
        // Bound anew each time: an interface that went and came back under its number leaves the
        // socket unbound, and otherwise binding again changes nothing. It fails only if the
        // interface has gone again, of which the kernel tells next.
        let index = name_to_index(self.rings.sender(), &self.name)
            .ok()
            .filter(|&index| self.bind(index).is_ok());
        if index != self.index {
            tracing::info!(interface = self.name, index, "interface found or gone");
            self.index = index;
        }
        let up = self.index.is_some()
            && socket::interface_running(self.rings.sender(), &self.name) == Some(true);
        if up != self.up {
            tracing::info!(interface = self.name, up, "interface up or down");
        }
        self.up = up;
        self.rings.take_errors();
    }

    fn bind(&self, index: u32) -> io::Result<()> {
        let Some((door, sender)) = &self.door else { return self.rings.bind(index) };
        socket::bind_for_sending(sender, index)?;
        self.rings.bind(*door)
    }

    fn sender(&self) -> &OwnedFd {
        self.door.as_ref().map_or(self.rings.sender(), |(_, sender)| sender)
    }

    pub(super) fn counters(&self) -> PortCounters {
        self.ring_drops.set(self.ring_drops.get() + self.rings.take_drops());
        PortCounters { ring_drops: self.ring_drops.get(), ..self.counters }
    }
}

/// A frame that waits to be sent.
#[derive(Debug, Clone, Copy)]
enum Queued {
    /// In a slot of the ring that it came in by.
    InRing(Port, Held),
    /// In the queue's own memory.
    Own { start: usize, end: usize },
    /// In a buffer that was left here.
    Left { buffer: usize, start: usize, end: usize },
}

/// Frames that wait for `flush`, in order. What came in waits in its ring; frames of the engine's
/// own making are copied here.
#[derive(Debug)]
pub(super) struct SendQueue {
    frames: Vec<Queued>,
    own: Vec<u8>,
    own_limit: usize,
    /// Of which the first few hold frames; the others are free.
    buffers: Vec<Vec<u8>>,
    buffers_left: usize,
}

/// Buffers that may be left at a port: as many as sockets between nodes receive into at once.
const BUFFERS_MAX: usize = 8;

impl SendQueue {
    fn new(own_limit: usize) -> Self {
        Self {
            frames: Vec::with_capacity(MESSAGES_PER_CALL),
            own: Vec::with_capacity(own_limit),
            own_limit,
            buffers: Vec::with_capacity(BUFFERS_MAX),
            buffers_left: 0,
        }
    }

    pub(super) fn push_held(&mut self, from: Port, held: Held) {
        self.frames.push(Queued::InRing(from, held));
    }

    /// Copies a frame. Returns whether there was room.
    pub(super) fn push_own(&mut self, bytes: &[u8], vnet: VnetHeader) -> bool {
        let start = self.own.len();
        let end = start + VnetHeader::LENGTH + bytes.len();
        if end > self.own_limit {
            return false;
        }
        self.own.extend_from_slice(vnet.for_sending().as_bytes());
        self.own.extend_from_slice(bytes);
        self.frames.push(Queued::Own { start, end });
        true
    }

    /// Keeps a buffer with a frame in it, and leaves a free one in its place. Returns whether there was room.
    pub(super) fn push_buffer(
        &mut self,
        buffer: &mut Vec<u8>,
        place: Range<usize>,
        vnet: VnetHeader,
    ) -> bool {
        let Some(start) = place.start.checked_sub(VnetHeader::LENGTH) else { return false };
        if self.buffers_left == BUFFERS_MAX {
            return false;
        }
        if self.buffers_left == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        buffer[start..place.start].copy_from_slice(vnet.for_sending().as_bytes());
        let left = self.buffers_left;
        std::mem::swap(buffer, &mut self.buffers[left]);
        self.buffers_left += 1;
        self.frames.push(Queued::Left { buffer: left, start, end: place.end });
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.own.clear();
        self.buffers_left = 0;
    }
}

/// What became of a queue.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) sent: u64,
    pub(super) dropped: u64,
    /// The interface has gone or is down: look at it.
    pub(super) link_trouble: bool,
}

/// Sends the queue of one port; frames lie in the rings of any.
pub(super) fn send_queue(ports: &[PortState], out: usize) -> Sent {
    let port = &ports[out];
    let mut total = Sent::default();
    for frames in port.queue.frames.chunks(MESSAGES_PER_CALL) {
        let mut slices = [IoSlice::new(&[]); MESSAGES_PER_CALL];
        for (slice, frame) in slices.iter_mut().zip(frames) {
            *slice = IoSlice::new(match *frame {
                Queued::InRing(from, held) => ports[usize::from(from.0)].rings.held(held),
                Queued::Own { start, end } => &port.queue.own[start..end],
                Queued::Left { buffer, start, end } => &port.queue.buffers[buffer][start..end],
            });
        }
        send_chunk(port.sender(), &slices[..frames.len()], &mut total);
    }
    total
}

/// Sends a few frames; the kernel stops at the first that it refuses, and we go on behind it.
fn send_chunk(socket: &OwnedFd, slices: &[IoSlice<'_>], total: &mut Sent) {
    let mut control: [SendAncillaryBuffer<'_, '_, '_>; MESSAGES_PER_CALL] =
        std::array::from_fn(|_| SendAncillaryBuffer::default());
    let mut messages: Vec<MMsgHdr<'_>> = slices
        .iter()
        .zip(&mut control)
        .map(|(slice, control)| MMsgHdr::new(std::slice::from_ref(slice), control))
        .collect();
    let mut rest = messages.as_mut_slice();
    while !rest.is_empty() {
        let done = match sendmmsg(socket, rest, SendFlags::DONTWAIT) {
            Ok(count) => {
                total.sent += count as u64;
                count
            }
            Err(Errno::INTR) => 0,
            // The send buffer is full, and nothing empties it while we try.
            Err(Errno::AGAIN) => {
                total.dropped += rest.len() as u64;
                return;
            }
            Err(Errno::NETDOWN | Errno::NXIO | Errno::NODEV) => {
                total.dropped += rest.len() as u64;
                total.link_trouble = true;
                return;
            }
            // This one is refused: the device's queue is full, or the frame larger than its MTU.
            Err(error) => {
                tracing::debug!(%error, "frame not sent");
                total.dropped += 1;
                1
            }
        };
        rest = &mut rest[done..];
    }
}
