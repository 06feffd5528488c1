//! Data interfaces as the programs find them: by the kernel's number, of which a name may get another.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU16, AtomicU32};

use super::layout::{Hop, PORTS, PORTS_TRIED, PortPlace};
use super::mapping::SharedArray;
use crate::{LinkAddress, Port};

/// No zone has this number: a port of it moves no packets.
pub(super) const NO_ZONE: u16 = u16::MAX;

/// The programs' table of ports, and the hops that lead out by them. The datapath follows names with it while the
/// owner of the flows asks it for numbers.
#[derive(Debug)]
pub(super) struct Ports {
    places: SharedArray<PortPlace>,
    hops: Arc<SharedArray<Hop>>,
    known: Box<[Known]>,
}

/// One port, whether there is an interface of its name now or not.
#[derive(Debug)]
struct Known {
    /// The kernel's number; zero while there is no interface.
    interface: AtomicU32,
    zone: AtomicU16,
}

impl Ports {
    pub(super) fn new(places: SharedArray<PortPlace>, hops: Arc<SharedArray<Hop>>) -> Self {
        let nobody = || Known { interface: AtomicU32::new(0), zone: AtomicU16::new(NO_ZONE) };
        Self { places, hops, known: (0..PORTS).map(|_| nobody()).collect() }
    }

    /// Has packets of the interface be the port's, and those that wait for each worker go to its door. Returns whether
    /// there was room.
    pub(super) fn set(&self, port: Port, interface: u32, doors: &[u32]) -> bool {
        let Some(known) = self.known.get(usize::from(port.0)) else { return false };
        let Some(place) = self.place(interface).or_else(|| self.free_place(interface)) else {
            return false;
        };
        known.interface.store(interface, Relaxed);
        if known.zone.load(Relaxed) == NO_ZONE
            && let Some(left) = self.left_zone(interface)
        {
            known.zone.store(left, Relaxed);
        }
        place.zone.store(known.zone.load(Relaxed), Relaxed);
        for (worker, place) in place.doors.iter().enumerate() {
            place.store(doors.get(worker).copied().unwrap_or(0), Relaxed);
        }
        place.interface.store(interface, Release);
        true
    }

    /// Says to whom frames of the port are sent, and whether its driver sends frames of programs before the stack.
    pub(super) fn set_link(&self, port: Port, address: LinkAddress, takes_frames: bool) {
        let interface = self.known[usize::from(port.0)].interface.load(Relaxed);
        let Some(place) = self.place(interface) else { return };
        for (word, bytes) in place.address.iter().zip(address.0.chunks_exact(2)) {
            word.store(u16::from_ne_bytes([bytes[0], bytes[1]]), Relaxed);
        }
        place.takes_frames.store(takes_frames.into(), Release);
    }

    /// The port has no interface any more: nothing comes in by it, and packets that would leave by it go to the engine.
    pub(super) fn clear(&self, port: Port) {
        let interface = self.known[usize::from(port.0)].interface.swap(0, Relaxed);
        if interface == 0 {
            return;
        }
        if let Some(place) = self.place(interface) {
            place.takes_frames.store(0, Relaxed);
            place.interface.store(0, Release);
        }
        for hop in self.hops.iter() {
            if hop.interface.load(Relaxed) == interface {
                hop.source_and_tenancy.store(0, Release);
            }
        }
    }

    /// Says of which zone a port is; one of none moves no packets.
    pub(super) fn set_zone(&self, port: Port, zone: Option<u16>) {
        let known = &self.known[usize::from(port.0)];
        let zone = zone.unwrap_or(NO_ZONE);
        known.zone.store(zone, Relaxed);
        if let Some(place) = self.place(known.interface.load(Relaxed)) {
            place.zone.store(zone, Release);
        }
    }

    /// The kernel's number of a port's interface.
    pub(super) fn interface(&self, port: Port) -> Option<u32> {
        let interface = self.known.get(usize::from(port.0))?.interface.load(Relaxed);
        (interface != 0).then_some(interface)
    }

    /// The port whose interface has the number.
    pub(super) fn port(&self, interface: u32) -> Option<Port> {
        let is_it = |known: &Known| known.interface.load(Relaxed) == interface;
        let port = self.known.iter().position(is_it).filter(|_| interface != 0)?;
        Some(Port(port as u16))
    }

    /// Lets go of what an earlier process has left of interfaces that are no ports now.
    pub(super) fn recover(&self) {
        for place in self.places.iter() {
            let interface = place.interface.load(Relaxed);
            if interface != 0 && self.port(interface).is_none() {
                place.interface.store(0, Release);
            }
        }
    }

    /// Of which zone the programs take an interface to be, as an earlier process has left it.
    fn left_zone(&self, interface: u32) -> Option<u16> {
        self.place(interface).map(|place| place.zone.load(Relaxed))
    }

    fn place(&self, interface: u32) -> Option<&PortPlace> {
        self.tried(interface).find(|place| place.interface.load(Relaxed) == interface)
    }

    fn free_place(&self, interface: u32) -> Option<&PortPlace> {
        self.tried(interface).find(|place| place.interface.load(Relaxed) == 0)
    }

    /// Where the programs look for an interface.
    fn tried(&self, interface: u32) -> impl Iterator<Item = &PortPlace> {
        let at = move |tried| (interface.wrapping_add(tried) % PORTS) as usize;
        (0..PORTS_TRIED).map(move |tried| &self.places[at(tried)])
    }
}
