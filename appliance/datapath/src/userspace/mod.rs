//! Frames by packet sockets: every frame goes through the engine.
//!
//! Two sockets per interface with a receive ring each, for packets and for superframes, and virtio
//! headers, so that superframes and partial checksums come and go whole. Frames that wait are handed
//! over together. A frame is rewritten in its slot of the ring and sent from there; there is no send ring, because its pages are copied anyway
//! where frames go to another namespace and it can not say which frame the kernel refused. Errors of
//! a single frame are counts. An interface that goes comes back by its name.
//!
//! The kernel handles every frame too: keeping it from that is the guard's business.

#[expect(unsafe_code, reason = "the ring is memory shared with the kernel")]
mod mapping;
mod port;
mod ring;
mod rings;
#[expect(unsafe_code, reason = "rustix does not have the options of packet sockets")]
mod socket;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};

use self::port::{PortState, send_queue};
use self::ring::Received;
use crate::waker::poll_for;
use crate::{BATCH, Datapath, FrameMut, Port, PortCounters, ProbeError, VnetHeader, Waker};

/// Calls of `wait` that find frames before one asks the kernel for wakes and link changes.
const BUSY_WAITS: u32 = 64;

/// Memory of each port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserspaceLimits {
    /// Size of the receive rings in MiB: one half holds 512 packets a MiB, the other 15 superframes.
    pub ring_mebibytes: u16,
    /// Bytes of frames of the engine's own making that wait for `flush`.
    pub queue_bytes: usize,
}

impl UserspaceLimits {
    /// 2,048 packets and 60 superframes in the rings, which fit into a processor's cache, and room
    /// for seven superframes or some thousand small frames in the queue.
    pub const RECOMMENDED: Self = Self { ring_mebibytes: 8, queue_bytes: 512 << 10 };
}

/// Why the datapath did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenDatapathError {
    #[error("there is no interface {0}")]
    NoInterface(String),
    #[error("interface {name}: no packet socket with a ring of {ring_mebibytes} MiB")]
    Socket {
        name: String,
        ring_mebibytes: u16,
        #[source]
        source: io::Error,
    },
    #[error("{0} interfaces are more than the {max} that there are ports for", max = u16::MAX)]
    TooManyInterfaces(usize),
    #[error("cannot open the descriptors that end a wait")]
    Signals(#[source] io::Error),
}

/// The datapath of packet sockets. To be used by one thread.
#[derive(Debug)]
pub struct UserspaceDatapath {
    ports: Vec<PortState>,
    waker: Waker,
    /// Readable when a link has changed.
    links: OwnedFd,
    /// Of others, which end a wait too.
    watched: Vec<OwnedFd>,
    /// Whether one of them may be read, as far as the last wait knows.
    watched_ready: bool,
    busy_waits: u32,
    /// The port that `receive` looks at first, so that none starves.
    first: usize,
    link_changes: u64,
}

impl UserspaceDatapath {
    /// Opens the named interfaces, in the calling thread's network namespace, as `Port(0)` and up.
    /// They must exist, but may be down. Wants CAP_NET_RAW, later calls want nothing.
    ///
    /// # Errors
    /// When an interface does not exist or the kernel refuses sockets or memory.
    pub fn open(names: &[&str], limits: UserspaceLimits) -> Result<Self, OpenDatapathError> {
        Self::open_behind(names, &[], limits)
    }

    /// The same with frames that come in by these devices, as far as there are any, and leave by the interfaces.
    pub(crate) fn open_behind(
        names: &[&str],
        doors: &[u32],
        limits: UserspaceLimits,
    ) -> Result<Self, OpenDatapathError> {
        if u16::try_from(names.len()).is_err() {
            return Err(OpenDatapathError::TooManyInterfaces(names.len()));
        }
        // Before the ports look at their links, so that no change falls between.
        let links = socket::open_link_signal().map_err(OpenDatapathError::Signals)?;
        let waker = Waker::new().map_err(OpenDatapathError::Signals)?;
        let mut ports = Vec::with_capacity(names.len());
        for (at, &name) in names.iter().enumerate() {
            let mut port =
                PortState::open(name, limits, doors.get(at).copied()).map_err(|source| {
                    OpenDatapathError::Socket {
                        name: name.to_owned(),
                        ring_mebibytes: limits.ring_mebibytes,
                        source,
                    }
                })?;
            port.refresh();
            if !port.exists() {
                return Err(OpenDatapathError::NoInterface(name.to_owned()));
            }
            ports.push(port);
        }
        Ok(Self {
            ports,
            waker,
            links,
            watched: Vec::new(),
            watched_ready: true,
            busy_waits: 0,
            first: 0,
            link_changes: 0,
        })
    }

    /// The kernel's number of the interface that has the port's name now.
    pub(crate) fn interface(&self, port: Port) -> Option<u32> {
        self.ports[usize::from(port.0)].index()
    }

    /// How often the kernel has told of changed links.
    pub(crate) const fn link_changes(&self) -> u64 {
        self.link_changes
    }

    fn poll(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let sockets = self.ports.iter().flat_map(|port| port.rings.sockets());
        let mut fds: Vec<PollFd<'_>> = [self.waker.as_fd(), self.links.as_fd()]
            .into_iter()
            .chain(sockets.chain(&self.watched).map(OwnedFd::as_fd))
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        poll_for(&mut fds, timeout)?;
        let own = fds.len() - self.watched.len();
        let troubled = fds[..own].iter().any(|fd| fd.revents().contains(PollFlags::ERR));
        self.watched_ready = fds[own..].iter().any(|fd| !fd.revents().is_empty());
        let [woken, changed] = [0, 1].map(|fd: usize| fds[fd].revents().contains(PollFlags::IN));
        // Most waits end with a frame: nobody has woken us then, and there is nothing to take.
        if woken {
            self.waker.drain();
        }
        if changed || troubled {
            socket::drain_link_signal(&self.links);
            self.link_changes += 1;
            self.refresh_ports();
        }
        Ok(())
    }

    fn refresh_ports(&mut self) {
        for port in &mut self.ports {
            port.refresh();
        }
    }

    /// Handles at most `budget` frames of one port and returns how many.
    fn receive_from(
        &mut self,
        from: usize,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> u32 {
        let mut handled = 0;
        while handled < budget {
            let limit = BATCH.min((budget - handled) as usize);
            match self.receive_batch(from, limit, handle) {
                0 => break,
                slots => handled += slots as u32,
            }
        }
        handled
    }

    /// Handles the next frames of one port together, in their slots, and returns how many.
    fn receive_batch(
        &mut self,
        from: usize,
        limit: usize,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> usize {
        let from_port = Port(from as u16);
        let PortState { rings, counters, .. } = &mut self.ports[from];
        let mut frames: [FrameMut<'_>; BATCH] = std::array::from_fn(|_| FrameMut {
            from: from_port,
            bytes: &mut [],
            vnet: VnetHeader::default(),
            out: None,
        });
        // Of each frame, the slot among those that are looked at now.
        let mut places = [0; BATCH];
        let (mut slots, mut count) = (0, 0);
        for received in rings.peek(limit) {
            match received {
                Received::Frame { bytes, vnet } => {
                    (frames[count].bytes, frames[count].vnet) = (bytes, vnet);
                    places[count] = slots;
                    count += 1;
                }
                Received::Truncated => counters.truncated += 1,
                Received::VlanTagged => counters.vlan_tagged += 1,
            }
            slots += 1;
        }
        counters.received += count as u64;
        let frames = &mut frames[..count];
        if !frames.is_empty() {
            handle(frames);
        }
        let mut outs = [None; BATCH];
        for (frame, place) in frames.iter().zip(places) {
            outs[place] = frame.out;
        }
        for out in &outs[..slots] {
            let rings = &mut self.ports[from].rings;
            if let Some(out) = out {
                let held = rings.hold().expect("the frame was peeked at");
                self.ports[usize::from(out.0)].queue.push_held(from_port, held);
            } else {
                rings.finish();
            }
        }
        slots
    }

    /// Sends what waits at one port. Slots of rings stay held until `flush`.
    fn send_port(&mut self, out: usize) {
        if self.ports[out].queue.is_empty() {
            return;
        }
        let sent = send_queue(&self.ports, out);
        let port = &mut self.ports[out];
        port.queue.clear();
        port.counters.sent += sent.sent;
        port.counters.transmit_drops += sent.dropped;
        // Of a port that is known to be down, the kernel tells when it comes back.
        if sent.link_trouble && port.is_up() {
            port.refresh();
        }
    }
}

impl Datapath for UserspaceDatapath {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.ports.iter().any(|port| port.rings.has_frame()) {
            self.busy_waits += 1;
            if self.busy_waits < BUSY_WAITS {
                self.watched_ready = true;
                return Ok(());
            }
            self.busy_waits = 0;
            return self.poll(Some(Duration::ZERO));
        }
        self.poll(timeout)
    }

    fn watch(&mut self, readable: OwnedFd) {
        self.watched.push(readable);
    }

    fn watched(&self) -> bool {
        self.watched_ready
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        let count = self.ports.len();
        if count == 0 {
            return Ok(0);
        }
        self.first = (self.first + 1) % count;
        let share = budget.div_ceil(count as u32);
        let mut handled = 0;
        // Twice: the second round gives to busy ports what idle ones have left over.
        for (round, share) in [share, budget].into_iter().enumerate() {
            for offset in 0..count {
                let from = (self.first + offset) % count;
                handled += self.receive_from(from, share.min(budget - handled), handle);
            }
            if round == 0 && handled == 0 {
                break;
            }
        }
        Ok(handled)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool {
        let out = usize::from(port.0);
        if self.ports[out].queue.push_own(bytes, vnet) {
            return true;
        }
        self.send_port(out);
        let queued = self.ports[out].queue.push_own(bytes, vnet);
        if !queued {
            self.ports[out].counters.transmit_drops += 1;
        }
        queued
    }

    fn transmit_buffer(
        &mut self,
        port: Port,
        buffer: &mut Vec<u8>,
        place: Range<usize>,
        vnet: VnetHeader,
    ) -> bool {
        let queue = &mut self.ports[usize::from(port.0)].queue;
        queue.push_buffer(buffer, place.clone(), vnet) || self.transmit(port, &buffer[place], vnet)
    }

    fn flush(&mut self) -> io::Result<()> {
        for out in 0..self.ports.len() {
            self.send_port(out);
        }
        for port in &mut self.ports {
            port.rings.release_held();
        }
        Ok(())
    }

    fn counters(&self, port: Port) -> PortCounters {
        self.ports[usize::from(port.0)].counters()
    }

    fn port_count(&self) -> u16 {
        self.ports.len() as u16
    }

    fn port_up(&self, port: Port) -> bool {
        self.ports[usize::from(port.0)].is_up()
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        self.refresh_ports();
        for port in &self.ports {
            if !port.exists() {
                return Err(ProbeError::PortGone(port.name.clone()));
            }
            if !port.is_up() {
                return Err(ProbeError::PortDown(port.name.clone()));
            }
        }
        Ok(())
    }
}
