//! A bad link: any datapath, with what it receives lost, doubled, delayed or corrupted by a seed.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::{io, slice};

use crate::{Datapath, FrameMut, OwnedFrame, Port, PortCounters, ProbeError, VnetHeader, Waker};

/// How often each fault happens, in frames of a thousand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    pub lost: u16,
    pub doubled: u16,
    /// Handed over behind the next frame.
    pub delayed: u16,
    /// One bit behind the Ethernet header turned.
    pub corrupted: u16,
}

impl Faults {
    pub const NONE: Self = Self { lost: 0, doubled: 0, delayed: 0, corrupted: 0 };
}

/// Wraps a datapath and spoils what it receives; equal seeds spoil equally.
#[derive(Debug)]
pub struct Faulty<D> {
    inner: D,
    faults: Faults,
    random: SplitMix,
    ready: VecDeque<(Port, OwnedFrame)>,
    delayed: Option<(Port, OwnedFrame)>,
}

impl<D: Datapath> Faulty<D> {
    pub const fn new(inner: D, seed: u64, faults: Faults) -> Self {
        let random = SplitMix(seed);
        Self { inner, faults, random, ready: VecDeque::new(), delayed: None }
    }

    /// Changes the faults from the next frame on.
    pub const fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    pub const fn inner(&mut self) -> &mut D {
        &mut self.inner
    }

    pub fn into_inner(self) -> D {
        self.inner
    }

    /// Takes frames from the inner datapath through the faults to `ready`.
    fn fill(&mut self, budget: u32) -> io::Result<()> {
        let Self { inner, faults, random, ready, delayed } = self;
        let taken = inner.receive(budget, &mut |frames| {
            for FrameMut { from, bytes, vnet, .. } in frames {
                if random.strikes(faults.lost) {
                    continue;
                }
                let mut frame = OwnedFrame { bytes: bytes.to_vec(), vnet: *vnet };
                if random.strikes(faults.corrupted) {
                    random.corrupt(&mut frame.bytes);
                }
                if random.strikes(faults.doubled) {
                    ready.push_back((*from, frame.clone()));
                }
                if delayed.is_none() && random.strikes(faults.delayed) {
                    *delayed = Some((*from, frame));
                } else {
                    ready.push_back((*from, frame));
                    ready.extend(delayed.take());
                }
            }
        })?;
        if taken == 0 {
            // Nothing comes that could overtake it.
            ready.extend(delayed.take());
        }
        Ok(())
    }
}

impl<D: Datapath> Datapath for Faulty<D> {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        if self.ready.is_empty() && self.delayed.is_none() {
            return self.inner.wait(timeout);
        }
        Ok(())
    }

    fn watch(&mut self, readable: OwnedFd) {
        self.inner.watch(readable);
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        if self.ready.is_empty() {
            self.fill(budget)?;
        }
        for handled in 0..budget {
            let Some((from, mut frame)) = self.ready.pop_front() else { return Ok(handled) };
            let OwnedFrame { bytes, vnet } = &mut frame;
            let mut borrowed = FrameMut { from, bytes, vnet: *vnet, out: None };
            handle(slice::from_mut(&mut borrowed));
            if let Some(out) = borrowed.out {
                self.inner.transmit(out, &frame.bytes, frame.vnet);
            }
        }
        Ok(budget)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool {
        self.inner.transmit(port, bytes, vnet)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    /// Of the inner datapath: frames as they came, before the faults.
    fn counters(&self, port: Port) -> PortCounters {
        self.inner.counters(port)
    }

    fn port_count(&self) -> u16 {
        self.inner.port_count()
    }

    fn port_up(&self, port: Port) -> bool {
        self.inner.port_up(port)
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        self.inner.probe()
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): eight bytes of state, good enough for faults.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    const fn strikes(&mut self, per_thousand: u16) -> bool {
        self.next() % 1000 < per_thousand as u64
    }

    /// Turns one bit behind the Ethernet header, so that the frame still arrives.
    fn corrupt(&mut self, bytes: &mut [u8]) {
        const ETHERNET_HEADER_BYTES: usize = 14;
        let Some(body) = bytes.get_mut(ETHERNET_HEADER_BYTES..).filter(|body| !body.is_empty())
        else {
            return;
        };
        let bit = self.next();
        let position = (bit / 8) as usize % body.len();
        body[position] ^= 1 << (bit % 8);
    }
}

#[cfg(test)]
mod tests;
