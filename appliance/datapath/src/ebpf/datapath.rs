//! The datapath whose packets the kernel moves, as far as flows cover them, and whose rest comes to the engine.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::programs::tc::SchedClassifierLink;
use aya::programs::xdp::XdpLink;

use super::between::{Between, Peers, SyncLink};
use super::device::Device;
use super::door::Door;
use super::doors::{DoorsDatapath, behind_doors};
use super::early;
use super::exits::Exit;
use super::hook::{Hook, HookChoice};
use super::ioctl::merges_packets;
use super::layout::Control;
use super::mapping::SharedArray;
use super::pins::{self, Pins};
use super::ports::Ports;
use super::program::{FastPathLimits, Program, Programs};
use super::refusal::OpenFastPathError;
use super::table::FlowTable;
use crate::{Datapath, Port, UserspaceDatapath, UserspaceLimits};

/// Programs at every data interface, and packet sockets at the doors behind them. To be used by one thread.
#[derive(Debug)]
pub struct EbpfDatapath {
    // Let go first: the doors are closed when nothing leads there.
    places: Vec<Place>,
    programs: Programs,
    ports: Arc<Ports>,
    slow: UserspaceDatapath,
    /// How often links had changed when the programs' places were looked at last.
    link_changes: u64,
    pins: Option<Pins>,
    control: Arc<SharedArray<Control>>,
    unconfirmed: Option<Duration>,
    hook: HookChoice,
    peers: Arc<Peers>,
    /// `None` where there are no other nodes.
    between: Option<Between>,
    /// When devices were looked at last.
    looked: Instant,
}

/// How old may be what is known of devices, if programs before the stack send by them: the kernel does not say when a
/// driver takes their frames no more.
const LOOK: Duration = Duration::from_secs(1);

/// What becomes of flows that programs move when the process does not turn, or is not there, any more.
#[derive(Debug, Default)]
pub struct Afterlife {
    /// `None`: they end with the process.
    pub pins: Option<Pins>,
    /// How long they go on when nobody turns; `None` for ever.
    pub unconfirmed: Option<Duration>,
}

/// Where a port's packets come in, and where they wait.
#[derive(Debug)]
struct Place {
    name: String,
    /// The kernel's number of the interface that had the name last.
    interface: Option<u32>,
    /// `None` while no program is there, as the interface has gone or the kernel refuses.
    link: Option<SchedClassifierLink>,
    /// Before the stack, where a program may stand there.
    early: Option<XdpLink>,
    /// Of each worker.
    doors: Vec<WatchedDoor>,
}

#[derive(Debug)]
struct WatchedDoor {
    door: Door,
    /// Keeps the door's frames from the host's stack.
    _at_door: SchedClassifierLink,
}

/// What several workers share their packets by.
#[derive(Debug)]
pub struct OpenedWorkers {
    /// The first worker's, and the interfaces'.
    pub first: EbpfDatapath,
    /// Those of the others, in their order.
    pub others: Vec<DoorsDatapath>,
    /// One for each worker.
    pub tables: Vec<FlowTable>,
}

impl EbpfDatapath {
    /// Opens the named interfaces, in the calling thread's network namespace, as `Port(0)` and up, and makes a table
    /// without flows, or with those that an earlier process has left. Wants CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_NET_RAW; later calls want CAP_NET_ADMIN, for
    /// interfaces that come back.
    ///
    /// # Errors
    /// When an interface does not exist or the kernel refuses programs, sockets or memory.
    pub fn open(
        names: &[&str],
        limits: UserspaceLimits,
        tables: FastPathLimits,
        seed: [u64; 2],
        afterlife: Afterlife,
        hook: HookChoice,
        sync: Option<SyncLink>,
    ) -> Result<(Self, FlowTable), OpenFastPathError> {
        let tables = FastPathLimits { workers: 1, ..tables };
        let OpenedWorkers { first, mut tables, .. } =
            Self::open_workers(names, limits, tables, seed, afterlife, hook, sync)?;
        Ok((first, tables.remove(0)))
    }

    /// The same for several workers, each with doors and a part of the table of its own.
    ///
    /// # Errors
    /// As for `open`.
    pub fn open_workers(
        names: &[&str],
        limits: UserspaceLimits,
        tables: FastPathLimits,
        seed: [u64; 2],
        afterlife: Afterlife,
        hook: HookChoice,
        sync: Option<SyncLink>,
    ) -> Result<OpenedWorkers, OpenFastPathError> {
        let Afterlife { pins, unconfirmed } = afterlife;
        let workers = tables.workers;
        let (mut programs, tables) =
            Programs::load_with(tables, seed, pins.as_ref(), sync.as_ref())?;
        let places = names.iter().map(|&name| Place::open(&mut programs, name, workers));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let behind = |worker: u16| {
            let door = |place: &Place| place.doors[usize::from(worker)].door.index();
            let doors: Vec<u32> = places.iter().map(door).collect();
            UserspaceDatapath::open_behind(names, &doors, limits)
        };
        let slow = behind(0)?;
        let ports = Arc::clone(&tables[0].ports);
        let link_changes = slow.link_changes();
        let (control, peers) = (Arc::clone(&tables[0].control), Arc::clone(&tables[0].peers));
        let other = |worker| {
            let (slow, control) = (behind(worker)?, Arc::clone(&control));
            Ok(DoorsDatapath { slow, control, worker, unconfirmed })
        };
        let others = (1..workers).map(other).collect::<Result<Vec<_>, OpenFastPathError>>()?;
        let looked = Instant::now();
        let mut datapath = Self {
            places,
            programs,
            ports,
            slow,
            link_changes,
            pins,
            control,
            unconfirmed,
            hook,
            peers,
            between: sync.map(Between::new),
            looked,
        };
        datapath.confirm();
        datapath.control.iter().skip(1).for_each(|control| control.confirm(unconfirmed));
        for port in 0..names.len() {
            datapath.attach(port)?;
            datapath.attach_early(port);
        }
        datapath.look_at_devices();
        datapath.follow_peers();
        datapath.ports.recover();
        datapath.keep_no_other_links();
        for &name in names {
            let others = pins::others(name);
            if others.len() > 1 {
                tracing::warn!(
                    "interface {name} has other programs too ({}): those before `fast_path` see and change packets before the firewall does, and those behind it see what it does not move",
                    others.join(", ")
                );
            }
            if merges_packets(name).unwrap_or(false) {
                tracing::warn!(
                    "interface {name} merges packets that it receives (LRO), which a router must not pass on: ethtool -K {name} lro off"
                );
            }
        }
        Ok(OpenedWorkers { first: datapath, others, tables })
    }

    /// Whether packets that other nodes hand over are unwrapped by a program.
    pub fn unwraps(&self) -> bool {
        self.between.as_ref().is_some_and(Between::is_attached)
    }

    /// What is in the tables is good for a while longer.
    fn confirm(&self) {
        self.control[0].confirm(self.unconfirmed);
        self.control[0].confirm_between(self.between.as_ref().map(Between::patience));
    }

    fn follow_peers(&mut self) {
        if let Some(between) = &mut self.between {
            between.follow(&mut self.programs, &self.peers);
        }
    }

    /// Follows names: a program is at the interface that has the name now.
    fn follow_links(&mut self) {
        let changes = self.slow.link_changes();
        let has_signal = std::mem::replace(&mut self.link_changes, changes) != changes;
        // All that have gone before any that has come: names may have been exchanged.
        for (port, place) in self.places.iter_mut().enumerate() {
            let port = Port(port as u16);
            let stays = place.interface == self.slow.interface(port);
            if stays && has_signal {
                // One that went and came back under its number is without a program.
                let link = place.link.take().map(|link| self.programs.update(link));
                place.link = link.and_then(Result::ok).flatten();
                let early = place.early.take();
                place.early = early.and_then(|link| self.programs.update_early(link));
            } else if !stays {
                (place.link, place.early) = (None, None);
            }
            if place.link.is_none() {
                self.ports.clear(port);
            }
        }
        for port in 0..self.places.len() {
            if self.places[port].link.is_some() {
                continue;
            }
            match self.attach(port) {
                Ok(()) => self.attach_early(port),
                // It has gone again, of which the kernel tells next; or nothing comes in by it.
                Err(error) => tracing::warn!("{error}"),
            }
        }
        self.look_at_devices();
    }

    /// Has a program stand before the stack as well, where it may.
    fn attach_early(&mut self, port: usize) {
        let Self { programs, pins, places, hook, .. } = self;
        let Place { name, interface: Some(interface), early, .. } = &mut places[port] else {
            return;
        };
        match early::attach(programs, pins.as_ref(), *hook, (name, *interface)) {
            Ok(link) => {
                *early = Some(link);
                tracing::info!("packets of interface {name} are moved by XDP");
            }
            Err(reason) if reason.is_expected(*hook) => {
                tracing::debug!("no XDP at interface {name}: {reason}");
            }
            Err(reason) => {
                tracing::warn!("packets of interface {name} are moved at tc, not by XDP: {reason}");
            }
        }
    }

    /// Tells programs before the stack whom frames are sent to, and by which devices they may send.
    fn look_at_devices(&mut self) {
        self.looked = Instant::now();
        if self.places.iter().all(|place| place.early.is_none()) {
            return;
        }
        for (port, place) in self.places.iter().enumerate() {
            let device = place.interface.map(Device::look_at).and_then(io::Result::ok);
            if let Some(device) = device {
                self.ports.set_link(Port(port as u16), device.address, device.takes_frames);
            }
        }
    }

    fn attach(&mut self, port: usize) -> Result<(), OpenFastPathError> {
        let number = Port(port as u16);
        let place = &mut self.places[port];
        let before = std::mem::replace(&mut place.interface, self.slow.interface(number));
        if let (Some(pins), Some(before)) = (&self.pins, before) {
            for hook in Hook::ALL {
                pins.forget_link(hook, before);
            }
        }
        let Some(interface) = place.interface else { return Ok(()) };
        let doors: Vec<u32> = place.doors.iter().map(|watched| watched.door.index()).collect();
        if !self.ports.set(number, interface, &doors) {
            return Err(OpenFastPathError::TooManyInterfaces(self.places.len()));
        }
        let Some(pins) = &self.pins else {
            place.link = Some(self.programs.attach(Program::FastPath, &place.name)?);
            return Ok(());
        };
        // In the place of the program that an earlier process has left, or anew: the link's interface may have gone and
        // another come under its number.
        let left = pins.existing_link(Hook::Tc, interface).map(|link| self.programs.update(link));
        if let Some(link) = left.and_then(Result::ok).flatten() {
            place.link = Some(link);
            return Ok(());
        }
        pins.forget_link(Hook::Tc, interface);
        let link = self.programs.attach(Program::FastPath, &place.name)?;
        let refused = |source| OpenFastPathError::Keep { interface: place.name.clone(), source };
        place.link = Some(pins.keep_link(Hook::Tc, link, interface).map_err(refused)?);
        Ok(())
    }

    /// Interfaces that are no ports any more are let go.
    fn keep_no_other_links(&self) {
        if let Some(pins) = &self.pins {
            let kept = self.places.iter().filter_map(|place| place.interface);
            pins.keep_links_of(&kept.collect::<Vec<_>>());
        }
    }
}

impl Place {
    /// Opens the doors, where nothing leads yet.
    fn open(programs: &mut Programs, name: &str, workers: u16) -> Result<Self, OpenFastPathError> {
        let refused = |source| OpenFastPathError::Door { interface: name.to_owned(), source };
        let open = |_| {
            let door = Door::open().map_err(refused)?;
            // First what keeps the host's stack from seeing frames there, then the frames.
            let at_door = programs.attach(Program::Door, door.name())?;
            door.set_up().map_err(refused)?;
            Ok(WatchedDoor { door, _at_door: at_door })
        };
        let doors = (0..workers).map(open).collect::<Result<_, OpenFastPathError>>()?;
        Ok(Self { name: name.to_owned(), interface: None, link: None, early: None, doors })
    }
}

impl Datapath for EbpfDatapath {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.slow.wait(timeout)?;
        self.confirm();
        let is_where_it_was = |(port, place): (usize, &Place)| {
            place.interface == self.slow.interface(Port(port as u16))
        };
        if self.link_changes != self.slow.link_changes()
            || !self.places.iter().enumerate().all(is_where_it_was)
        {
            self.follow_links();
        } else if self.looked.elapsed() >= LOOK {
            self.look_at_devices();
            self.follow_peers();
        }
        Ok(())
    }

    behind_doors!();

    fn hooks(&self) -> Vec<Vec<Hook>> {
        let hooks = |Place { link, early, .. }: &Place| {
            let early = early.as_ref().map(|_| Hook::Xdp);
            early.into_iter().chain(link.as_ref().map(|_| Hook::Tc)).collect()
        };
        self.places.iter().map(hooks).collect()
    }

    fn exits(&self) -> Vec<(Exit, u64)> {
        self.programs.exits().unwrap_or_default()
    }
}
