//! The datapath whose packets the kernel moves, as far as flows cover them, and whose rest comes to the engine.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};

use super::door::Door;
use super::exits::Exit;
use super::program::{FastPathLimits, OpenFastPathError, Program, Programs};
use super::table::FlowTable;
use crate::{
    Datapath, FrameMut, Port, PortCounters, ProbeError, UserspaceDatapath, UserspaceLimits,
    VnetHeader, Waker,
};

/// Programs at every data interface, and packet sockets at the doors behind them. To be used by one thread.
#[derive(Debug)]
pub struct EbpfDatapath {
    // Let go first: the doors are closed when nothing leads there.
    programs: Programs,
    slow: UserspaceDatapath,
    _doors: Vec<Door>,
}

impl EbpfDatapath {
    /// Opens the named interfaces, in the calling thread's network namespace, as `Port(0)` and up, and makes a table
    /// without flows. Wants CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW.
    ///
    /// # Errors
    /// When an interface does not exist or the kernel refuses programs, sockets or memory.
    pub fn open(
        names: &[&str],
        limits: UserspaceLimits,
        tables: FastPathLimits,
        seed: [u64; 2],
    ) -> Result<(Self, FlowTable), OpenFastPathError> {
        let (mut programs, mut table) = Programs::load(tables, seed)?;
        let mut doors = Vec::with_capacity(names.len());
        for &name in names {
            let refused = |source| OpenFastPathError::Door { interface: name.to_owned(), source };
            let door = Door::open().map_err(refused)?;
            // First what keeps the host's stack from seeing frames there, then the frames.
            programs.attach(Program::Door, door.name())?;
            door.set_up().map_err(refused)?;
            doors.push(door);
        }
        let places: Vec<u32> = doors.iter().map(Door::index).collect();
        let slow = UserspaceDatapath::open_behind(names, &places, limits)?;
        for (&name, &door) in names.iter().zip(&places) {
            let index = socket(AddressFamily::INET, SocketType::DGRAM, None)
                .and_then(|socket| name_to_index(socket, name));
            let index = index.map_err(|errno| OpenFastPathError::Door {
                interface: name.to_owned(),
                source: errno.into(),
            })?;
            if !table.add_port(index, door) {
                return Err(OpenFastPathError::TooManyInterfaces(names.len()));
            }
            programs.attach(Program::FastPath, name)?;
        }
        Ok((Self { programs, slow, _doors: doors }, table))
    }
}

impl Datapath for EbpfDatapath {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.slow.wait(timeout)
    }

    fn watch(&mut self, readable: OwnedFd) {
        self.slow.watch(readable);
    }

    fn watched(&self) -> bool {
        self.slow.watched()
    }

    fn receive(
        &mut self,
        budget: u32,
        handle: &mut dyn FnMut(&mut [FrameMut<'_>]),
    ) -> io::Result<u32> {
        self.slow.receive(budget, handle)
    }

    fn transmit(&mut self, port: Port, bytes: &[u8], vnet: VnetHeader) -> bool {
        self.slow.transmit(port, bytes, vnet)
    }

    fn transmit_buffer(
        &mut self,
        port: Port,
        buffer: &mut Vec<u8>,
        place: Range<usize>,
        vnet: VnetHeader,
    ) -> bool {
        self.slow.transmit_buffer(port, buffer, place, vnet)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.slow.flush()
    }

    fn counters(&self, port: Port) -> PortCounters {
        self.slow.counters(port)
    }

    fn port_count(&self) -> u16 {
        self.slow.port_count()
    }

    fn port_up(&self, port: Port) -> bool {
        self.slow.port_up(port)
    }

    fn waker(&self) -> Waker {
        self.slow.waker()
    }

    fn probe(&mut self) -> Result<(), ProbeError> {
        self.slow.probe()
    }

    fn exits(&self) -> Vec<(Exit, u64)> {
        self.programs.exits().unwrap_or_default()
    }
}
