//! Frames in and out of the node. The only crate of the appliance with `unsafe`.

use std::io;
use std::time::Duration;

/// An opened data interface: index in the order in which the datapath was given them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(pub u16);

/// A received frame, from the Ethernet header on; may be changed in place.
#[derive(Debug)]
pub struct FrameMut<'a> {
    pub bytes: &'a mut [u8],
    pub vnet: VnetHeader,
}

/// `virtio_net_hdr`: what hardware or kernel left undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub header_length: u16,
    pub gso_size: u16,
    pub checksum_start: u16,
    pub checksum_offset: u16,
}

/// What the handler wants done with a received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Send it, as it now is, out of this port.
    Transmit(Port),
    /// Nothing more: dropped, kept elsewhere, or the host's.
    Finished,
}

/// What one port has done since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortCounters {
    pub received: u64,
    pub sent: u64,
    /// By the kernel, because the receive ring was full.
    pub ring_drops: u64,
    /// Frames larger than a slot of the ring, dropped.
    pub truncated: u64,
    /// Frames that the send ring had no room for.
    pub transmit_drops: u64,
}

/// Frames in and out, and flows that the datapath may move without asking.
pub trait Datapath {
    /// Waits until a frame is there, `waker` was woken or `timeout` has passed.
    ///
    /// # Errors
    /// When the kernel refuses; a port that has gone is not an error but reported by `port_up`.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// Hands at most `budget` received frames to `handle`, in the order of their arrival per port,
    /// and returns how many. Frames to be sent are queued until `flush`.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(Port, FrameMut<'_>) -> Disposition,
    ) -> io::Result<u32>;

    /// Queues a frame of the engine's own making. Returns whether there was room.
    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool;

    /// Sends what is queued.
    ///
    /// # Errors
    /// When the kernel refuses.
    fn flush(&mut self) -> io::Result<()>;

    fn counters(&self, port: Port) -> PortCounters;
}
