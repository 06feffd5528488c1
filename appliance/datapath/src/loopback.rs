//! Ports in memory: a test puts frames on the wire of a port and takes what was sent by it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{
    BATCH, Datapath, FrameMut, OwnedFrame, Port, PortCounters, ProbeError, VnetHeader, Waker,
};

/// Frames that a port's wire keeps in each direction: as a ring, what comes later is lost.
const WIRE_FRAMES: usize = 4096;

/// A datapath without a kernel.
#[derive(Debug)]
pub struct Loopback {
    wire: Wire,
    /// Frames that wait for `flush`, in order.
    queued: Vec<(Port, OwnedFrame)>,
    /// Of others, which end a wait too.
    watched: Vec<OwnedFd>,
}

/// The other end of a `Loopback`'s ports, for any thread.
#[derive(Debug, Clone)]
pub struct Wire {
    ports: Arc<Mutex<Vec<WirePort>>>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct WirePort {
    down: bool,
    towards: VecDeque<OwnedFrame>,
    sent: VecDeque<OwnedFrame>,
    counters: PortCounters,
}

impl Loopback {
    /// Makes a datapath with this many ports, all up.
    ///
    /// # Errors
    /// When the process has no file descriptor left for the waker.
    pub fn new(ports: u16) -> io::Result<(Self, Wire)> {
        let ports = (0..ports).map(|_| WirePort::default()).collect();
        let wire = Wire { ports: Arc::new(Mutex::new(ports)), waker: Waker::new()? };
        Ok((Self { wire: wire.clone(), queued: Vec::new(), watched: Vec::new() }, wire))
    }
}

impl Wire {
    /// Puts a frame on the wire towards a port and wakes the datapath. Returns whether there was
    /// room; a port that is down receives nothing.
    pub fn inject(&self, port: Port, bytes: impl Into<Vec<u8>>, vnet: VnetHeader) -> bool {
        let mut ports = self.lock();
        let state = &mut ports[usize::from(port.0)];
        if state.down {
            return false;
        }
        if state.towards.len() >= WIRE_FRAMES {
            state.counters.ring_drops += 1;
            return false;
        }
        state.towards.push_back(OwnedFrame { bytes: bytes.into(), vnet });
        drop(ports);
        self.waker.wake();
        true
    }

    /// Takes the oldest frame that the port has sent.
    pub fn take(&self, port: Port) -> Option<OwnedFrame> {
        self.lock()[usize::from(port.0)].sent.pop_front()
    }

    /// Takes a port's cable out, with the frames on it, or puts it in.
    pub fn set_up(&self, port: Port, up: bool) {
        let mut ports = self.lock();
        let state = &mut ports[usize::from(port.0)];
        state.down = !up;
        if state.down {
            state.towards.clear();
        }
        drop(ports);
        self.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<WirePort>> {
        // A test that panicked in another thread leaves whole frames behind.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a frame off the wire: the port that has received least goes first.
    fn next(&self) -> Option<(Port, OwnedFrame)> {
        let mut ports = self.lock();
        let (index, state) = ports
            .iter_mut()
            .enumerate()
            .filter(|(_, state)| !state.towards.is_empty())
            .min_by_key(|(_, state)| state.counters.received)?;
        state.counters.received += 1;
        state.towards.pop_front().map(|frame| (Port(index as u16), frame))
    }

    fn send(&self, port: Port, frame: OwnedFrame) {
        let state = &mut self.lock()[usize::from(port.0)];
        if state.down || state.sent.len() >= WIRE_FRAMES {
            state.counters.transmit_drops += 1;
        } else {
            state.counters.sent += 1;
            state.sent.push_back(frame);
        }
    }
}

impl Datapath for Loopback {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.wire.lock().iter().any(|port| !port.towards.is_empty()) {
            return Ok(());
        }
        self.wire.waker.wait(&self.watched, timeout)
    }

    fn watch(&mut self, readable: OwnedFd) {
        self.watched.push(readable);
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        let mut handled = 0;
        while handled < budget {
            let limit = BATCH.min((budget - handled) as usize);
            let mut taken: Vec<_> = std::iter::from_fn(|| self.wire.next()).take(limit).collect();
            if taken.is_empty() {
                break;
            }
            let mut frames: Vec<FrameMut<'_>> = taken
                .iter_mut()
                .map(|(from, OwnedFrame { bytes, vnet })| FrameMut {
                    from: *from,
                    bytes,
                    vnet: *vnet,
                    out: None,
                })
                .collect();
            handle(&mut frames);
            let outs: Vec<Option<Port>> = frames.into_iter().map(|frame| frame.out).collect();
            handled += taken.len() as u32;
            for ((_, OwnedFrame { bytes, vnet }), out) in taken.into_iter().zip(outs) {
                let frame = OwnedFrame { bytes, vnet: vnet.for_sending() };
                self.queued.extend(out.map(|out| (out, frame)));
            }
        }
        Ok(handled)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool {
        assert!(port.0 < self.port_count(), "{port:?} of {}", self.port_count());
        if self.queued.len() >= WIRE_FRAMES {
            self.wire.lock()[usize::from(port.0)].counters.transmit_drops += 1;
            return false;
        }
        let frame = OwnedFrame { bytes: bytes.to_vec(), vnet: vnet.for_sending() };
        self.queued.push((port, frame));
        true
    }

    fn flush(&mut self) -> io::Result<()> {
        for (port, frame) in self.queued.drain(..) {
            self.wire.send(port, frame);
        }
        Ok(())
    }

    fn counters(&self, port: Port) -> PortCounters {
        self.wire.lock()[usize::from(port.0)].counters
    }

    fn port_count(&self) -> u16 {
        self.wire.lock().len() as u16
    }

    fn port_up(&self, port: Port) -> bool {
        !self.wire.lock()[usize::from(port.0)].down
    }

    fn waker(&self) -> Waker {
        self.wire.waker.clone()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        match self.wire.lock().iter().position(|port| port.down) {
            Some(index) => Err(ProbeError::PortDown(format!("loopback{index}"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
