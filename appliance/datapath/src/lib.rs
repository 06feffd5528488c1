//! Frames in and out of the node. The only crate of the appliance with `unsafe`.
//!
//! Owns the data interfaces: receiving, sending, and what the kernel says about links, addresses,
//! routes and neighbours. It guarantees that a frame is handed over as it came (superframes whole,
//! partial checksums partial) or is counted as lost. It looks at no byte behind the slot's header:
//! what a frame means is the engine's business, what becomes of it the node's.

pub mod ebpf;
pub mod netlink;

mod faulty;
mod loopback;
mod memory;
mod pcap;
mod peers;
mod userspace;
mod vnet;
mod waker;

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use faulty::{Faults, Faulty};
pub use loopback::{Loopback, Wire};
pub use memory::use_huge_pages;
pub use pcap::{OpenPcapError, PcapDatapath, PcapReader, PcapWriter, ReadPcapError, Record};
pub use peers::{
    FromPeer, LocalInterface, PEER_BATCH, PeerCounters, PeerPlace, PeerPorts, PeerSockets,
    PeerTraffic, ToPeer, interface_of,
};
pub use userspace::{OpenDatapathError, UserspaceDatapath, UserspaceLimits};
pub use vnet::VnetHeader;
pub use waker::Waker;

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkAddress(pub [u8; 6]);

/// An opened data interface: index in the order in which the datapath was given them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

/// Frames that are handed over together at most: as many as the engine looks up at once.
pub const BATCH: usize = 32;

/// A received frame, from the Ethernet header on; may be changed in place.
#[derive(Debug)]
pub struct FrameMut<'a> {
    pub from: Port,
    pub bytes: &'a mut [u8],
    pub vnet: VnetHeader,
    /// Where the handler wants it sent, as it then is. `None` at first: nothing more is to be done
    /// with what is dropped, kept elsewhere or the host's.
    pub out: Option<Port>,
}

/// A frame with memory of its own: what the test devices queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedFrame {
    pub bytes: Vec<u8>,
    pub vnet: VnetHeader,
}

/// What one port has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    /// Frames handed to the handler.
    pub received: u64,
    pub sent: u64,
    /// By the kernel, because the receive ring was full.
    pub ring_drops: u64,
    /// Frames larger than a slot of the ring, dropped.
    pub truncated: u64,
    /// Frames with a VLAN tag, dropped: the appliance has no VLANs.
    pub vlan_tagged: u64,
    /// Frames that the send queue had no room for, or that the kernel or the device refused.
    pub transmit_drops: u64,
}

/// Why a datapath can not be trusted to move frames at the moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    #[error("interface {0} does not exist")]
    PortGone(String),
    #[error("interface {0} is down or has no carrier")]
    PortDown(String),
}

/// Frames in and out.
///
/// The order of a turn: `wait`, `receive`, any number of `transmit`, `flush`.
pub trait Datapath {
    /// Waits until a frame is there, `waker` was woken or `timeout` has passed.
    ///
    /// # Errors
    /// When the kernel refuses; a port that has gone is not an error but reported by `port_up`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// From now on a `wait` also ends when this can be read. Whoever asked for it reads it after each that leaves
    /// `watched` true.
    fn watch(&mut self, readable: OwnedFd);

    /// Whether any of what is watched may be read since the last `wait`; false only where the system has said so.
    fn watched(&self) -> bool {
        true
    }

    /// Hands at most `budget` received frames to `handle`, up to `BATCH` at a time and in the order
    /// of their arrival per port, and returns how many. Frames to be sent are queued until `flush`.
    ///
    /// # Errors
    /// When the kernel refuses.
    ///
    /// # Panics
    /// When `handle` names a port that this datapath does not have.
    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32>;

    /// Queues a frame of the engine's own making. Returns whether there was room.
    ///
    /// # Panics
    /// When this datapath does not have the port.
    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool;

    /// The same for a frame that stands at `place` of a buffer, behind room for a `VnetHeader`: the buffer may be kept
    /// until `flush`, and another is left in its place.
    ///
    /// # Panics
    /// When this datapath does not have the port, or the buffer ends before the frame.
    fn transmit_buffer(
        &mut self,
        port: Port,
        buffer: &mut Vec<u8>,
        place: Range<usize>,
        vnet: VnetHeader,
    ) -> bool {
        self.transmit(port, &buffer[place], vnet)
    }

    /// Sends what is queued. What can not be sent is counted in `transmit_drops` and gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn flush(&mut self) -> io::Result<()>;

    fn counters(&self, port: Port) -> PortCounters;

    /// How many ports there are, up or not: `Port(0)..Port(port_count)`.
    fn port_count(&self) -> u16;

    /// Whether the interface exists, is up and has a carrier. A port whose interface goes comes
    /// back by itself when an interface of the same name does.
    fn port_up(&self, port: Port) -> bool;

    /// What became of the packets that programs in the kernel have seen, if there are any.
    fn exits(&self) -> Vec<(ebpf::Exit, u64)> {
        Vec::new()
    }

    /// Where programs in the kernel see packets of each port, in the order in which they do.
    fn hooks(&self) -> Vec<Vec<ebpf::Hook>> {
        Vec::new()
    }

    /// A handle with which other threads end `wait`.
    fn waker(&self) -> Waker;

    /// Asks the system, not memory, whether every port can move frames: for the health endpoint.
    ///
    /// # Errors
    /// The first port that can not.
    fn probe(&mut self) -> Result<(), ProbeError>;
}

impl<D: Datapath + ?Sized> Datapath for Box<D> {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        (**self).wait(timeout)
    }

    fn watch(&mut self, readable: OwnedFd) {
        (**self).watch(readable);
    }

    fn watched(&self) -> bool {
        (**self).watched()
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        (**self).receive(budget, handle)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool {
        (**self).transmit(port, bytes, vnet)
    }

    fn transmit_buffer(
        &mut self,
        port: Port,
        buffer: &mut Vec<u8>,
        place: Range<usize>,
        vnet: VnetHeader,
    ) -> bool {
        (**self).transmit_buffer(port, buffer, place, vnet)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn counters(&self, port: Port) -> PortCounters {
        (**self).counters(port)
    }

    fn port_count(&self) -> u16 {
        (**self).port_count()
    }

    fn port_up(&self, port: Port) -> bool {
        (**self).port_up(port)
    }

    fn waker(&self) -> Waker {
        (**self).waker()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        (**self).probe()
    }

    fn exits(&self) -> Vec<(ebpf::Exit, u64)> {
        (**self).exits()
    }
}
