//! A load balancer with Azure's semantics (floating IP, which rewrites no address): packets from outside go to
//! the node that the hash of their tuple names, packets of nodes go straight outside. Those to a node's own address go to it,
//! from wherever: nodes are in one subnet.
//!
//! One thread moves frames between the namespace's devices and one probes the nodes; they share the
//! [`Table`]. The kernel of the namespace answers ARP and neighbour solicitations for the gateway addresses and
//! forwards nothing.

mod probe;
mod table;
mod tuple;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use gabion_datapath::{Datapath as _, FrameMut, Port, UserspaceDatapath, UserspaceLimits, Waker};
use tokio::sync::Notify;

pub(crate) use probe::{By, Probing};
pub(crate) use table::{Admin, Mode, Table};
pub(crate) use tuple::{Transport, Tuple};

use crate::lab::build::Lab;
use crate::lab::topology::LinkAddress;

/// Rings that hold a thousand packets and thirty superframes for each device.
pub(super) const RINGS: UserspaceLimits =
    UserspaceLimits { ring_mebibytes: 4, queue_bytes: 512 << 10 };
/// Frames that are moved before probes get their turn at the table.
pub(super) const BUDGET: u32 = 256;
/// How often a thread that waits for frames looks whether it is to end.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where a load balancer stands and how it works.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) host: &'static str,
    /// The device of clients, or of servers.
    pub(crate) outer: &'static str,
    /// The devices of the nodes, and where each answers probes.
    pub(crate) nodes: Vec<(&'static str, SocketAddr)>,
    pub(crate) key: [u64; 2],
    pub(crate) mode: Mode,
    pub(crate) probing: Probing,
}

/// A change of a node's state as a load balancer's probes see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) at: Instant,
    pub(crate) node: usize,
    pub(crate) is_up: bool,
}

/// A load balancer that runs. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Balancer {
    table: Arc<Mutex<Table>>,
    changes: Arc<Mutex<Vec<Change>>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    no_more_probes: Arc<Notify>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Balancer {
    /// Starts it in its host's namespace.
    ///
    /// # Errors
    /// If its devices cannot be opened.
    pub(crate) fn start(lab: &Lab, plan: Plan) -> Result<Self> {
        let table = Arc::new(Mutex::new(Table::new(plan.key, plan.mode, plan.nodes.len())));
        let changes = Arc::<Mutex<Vec<Change>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let no_more_probes = Arc::<Notify>::default();
        let mover = Mover::new(lab, &plan, Arc::clone(&table))?;
        let (ready, opened) = mpsc::sync_channel(1);
        let mut threads = Vec::new();
        let namespace = lab.namespace(plan.host);
        let ended = Arc::clone(&stop);
        threads.push(namespace.spawn(move || mover.run(&ready, &ended)));
        let Ok(waker) = opened.recv() else {
            let thread = threads.remove(0);
            let error = thread.join().map_err(|_| anyhow!("a load balancer panicked"))?;
            return Err(error.err().unwrap_or_else(|| anyhow!("a load balancer ended at once")));
        };
        let prober = (Arc::clone(&table), Arc::clone(&changes), Arc::clone(&no_more_probes));
        threads.push(namespace.spawn(move || probe_all(&plan, prober)));
        Ok(Self { table, changes, stop, waker, no_more_probes, threads })
    }

    /// The balancer's table, which stands still while it is looked at.
    pub(crate) fn table(&self) -> MutexGuard<'_, Table> {
        held(&self.table)
    }

    /// What probes have found since the start.
    pub(crate) fn changes(&self) -> Vec<Change> {
        held(&self.changes).clone()
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.no_more_probes.notify_one();
        self.waker.wake();
        for thread in self.threads.drain(..) {
            if let Ok(Err(error)) = thread.join() {
                eprintln!("a load balancer failed: {error:#}");
            }
        }
    }
}

/// A panic of another thread leaves nothing half done in what these locks hold.
pub(super) fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that moves frames.
struct Mover {
    devices: Vec<&'static str>,
    /// Of each device: its own link address, and that of the other end.
    links: Vec<[LinkAddress; 2]>,
    /// The namespace's own addresses: its kernel's business.
    own: Vec<IpAddr>,
    /// The nodes' own addresses, which need no balancing: a cloud's network routes them.
    of_nodes: Vec<(IpAddr, Port)>,
    table: Arc<Mutex<Table>>,
}

const OUTER: Port = Port(0);

impl Mover {
    fn new(lab: &Lab, plan: &Plan, table: Arc<Mutex<Table>>) -> Result<Self> {
        let devices: Vec<_> =
            [plan.outer].into_iter().chain(plan.nodes.iter().map(|(device, _)| *device)).collect();
        let topology = lab.topology();
        let link = |device: &&str| topology.link_addresses(plan.host, device);
        let links = devices.iter().map(link).collect::<Option<_>>();
        let links = links.context("a load balancer's device is on no link")?;
        let ends = topology.links.iter().flat_map(|link| &link.ends);
        let own = ends.filter(|end| end.host == plan.host).flat_map(|end| &end.addresses);
        let own = own.map(ipnet::IpNet::addr).collect();
        let node_of = |device| devices.iter().position(|other| *other == device);
        let of_nodes = topology.links.iter().filter_map(|link| match &link.ends {
            [node, balancer] if balancer.host == plan.host => {
                let port = node_of(balancer.device).filter(|port| *port > 0)?;
                Some(node.addresses.iter().map(move |net| (net.addr(), Port(port as u16))))
            }
            _ => None,
        });
        let of_nodes = of_nodes.flatten().collect();
        Ok(Self { devices, links, own, of_nodes, table })
    }

    fn run(self, ready: &mpsc::SyncSender<Waker>, stop: &AtomicBool) -> Result<()> {
        let mut datapath = UserspaceDatapath::open(&self.devices, RINGS)?;
        // Nobody waits any more if the lab is being removed.
        let _ = ready.send(datapath.waker());
        while !stop.load(Ordering::Relaxed) {
            datapath.wait(Some(LOOK_EVERY))?;
            datapath.receive(BUDGET, &mut |frames| {
                let now = Instant::now();
                let mut table = held(&self.table);
                for frame in frames {
                    self.route(now, &mut table, frame);
                }
            })?;
            datapath.flush()?;
        }
        Ok(())
    }

    fn route(&self, now: Instant, table: &mut Table, frame: &mut FrameMut<'_>) {
        let Some(destination) = tuple::destination(frame.bytes) else { return };
        if !self.is_to_be_moved(destination) {
            return;
        }
        let direct = self.of_nodes.iter().find(|(address, _)| *address == destination);
        let out = match direct {
            Some((_, node)) => *node,
            None if frame.from != OUTER => OUTER,
            None => {
                let chosen = tuple::read(frame.bytes).and_then(|seen| table.choose(now, &seen));
                let Some(node) = chosen else { return };
                Port(node as u16 + 1)
            }
        };
        let [own, other] = self.links[usize::from(out.0)];
        frame.bytes[..6].copy_from_slice(&other);
        frame.bytes[6..12].copy_from_slice(&own);
        frame.out = Some(out);
    }

    /// Neighbour discovery and whatever else is for the link alone is the kernel's.
    fn is_to_be_moved(&self, destination: IpAddr) -> bool {
        let is_of_the_link = match destination {
            IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        !is_of_the_link && !destination.is_multicast() && !self.own.contains(&destination)
    }
}

type Prober = (Arc<Mutex<Table>>, Arc<Mutex<Vec<Change>>>, Arc<Notify>);

fn probe_all(plan: &Plan, (table, changes, no_more): Prober) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move {
        let mut probes = tokio::task::JoinSet::new();
        for (node, (_, target)) in plan.nodes.iter().copied().enumerate() {
            let (table, changes) = (Arc::clone(&table), Arc::clone(&changes));
            probes.spawn(probe::watch(target, plan.probing, move |at, is_up| {
                held(&table).set_up(node, is_up);
                held(&changes).push(Change { at, node, is_up });
            }));
        }
        no_more.notified().await;
    });
    Ok(())
}
