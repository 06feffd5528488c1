//! Loads the programs, makes their maps and attaches them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Map, PerCpuArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType, Xdp};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use super::between::{Peers, SyncLink};
use super::exits::Exit;
use super::hook::Hook;
use super::index::{Index, Seeds};
use super::layout::{
    ASKED, Bucket, ChallengeState, Control, FLOODS, Flood, Flow, Head, Hop, IDENTIFICATIONS, KNOWN,
    Mark, PEERS, PORTS, Past, Peer, PortPlace, Wide,
};
use super::mapping::{Shared, SharedArray};
use super::pins::{Pins, TableSize};
use super::ports::Ports;
use super::questions::Questions;
use super::refusal::OpenFastPathError;
use super::shards::ShardTable;
use super::table::{FlowTable, Part, Places};

/// Compiled from `bpf/programs.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// How large the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPathLimits {
    /// Connections, of which each may be one of IPv6.
    pub flows: u32,
    /// Those of other nodes; zero where there are no others.
    pub relays: u32,
    /// Of each worker.
    pub hops: u32,
    /// Who share the flows, each with a part.
    pub workers: u16,
}

/// The first with links that keep a program at an interface's ingress.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The loaded programs.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

/// A program by its name in `bpf`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Of data interfaces.
    FastPath,
    /// Of the interface by which nodes hand packets to each other.
    Unwrap,
    /// Of doors: nothing passes.
    Door,
}

impl Program {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::FastPath => Hook::Tc.program(),
            Self::Unwrap => "unwrap",
            Self::Door => "door",
        }
    }
}

impl Programs {
    /// Loads the programs with empty tables, one for each worker; `seed` keeps others from choosing what falls into one bucket.
    ///
    /// # Errors
    /// When the kernel refuses programs or memory.
    pub fn load(
        limits: FastPathLimits,
        seed: [u64; 2],
    ) -> Result<(Self, Vec<FlowTable>), OpenFastPathError> {
        Self::load_with(limits, seed, None, None)
    }

    /// The same with tables that stay when the process goes, or that one has left.
    ///
    /// # Errors
    /// As for `load`.
    pub(super) fn load_with(
        limits: FastPathLimits,
        seed: [u64; 2],
        pins: Option<&Pins>,
        between: Option<&SyncLink>,
    ) -> Result<(Self, Vec<FlowTable>), OpenFastPathError> {
        check_kernel()?;
        let sizes = Sizes::of(limits);
        let left = pins.and_then(|pins| sizes.left(pins));
        let seeds = left.unwrap_or(Seeds { a: seed[0], b: seed[1] });
        let (mask, shard_mask) = (sizes.buckets - 1, sizes.shard_buckets() - 1);
        let workers = u32::from(limits.workers);
        let keys = seeds.hash_keys();
        let wrapped_port = between.map_or(WRAPPED_PORT, |sync| sync.port).to_be();
        let is_wide = between.is_some_and(|sync| sync.address.is_ipv6());
        let outer_version: u8 = if is_wide { 6 } else { 4 };
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global("bucket_mask", &mask, true)
            .override_global("shard_mask", &shard_mask, true)
            .override_global("workers", &workers, true)
            .override_global("hash_keys", &keys, true)
            .override_global("seed", &seeds.b, true)
            .override_global("wrapped_port", &wrapped_port, true)
            .override_global("outer_version", &outer_version, true);
        for TableSize { name, entries, .. } in sizes.all() {
            loader.map_max_entries(name, entries);
            if let Some(pins) = pins {
                loader.map_pin_path(name, pins.table(name));
            }
        }
        let loaded = load_into(&mut loader, &sizes, seeds);
        if let (Err(_), None, Some(pins)) = (&loaded, left, pins) {
            // Tables that nobody fills.
            let _ = pins.clear();
        }
        let (ebpf, mut tables) = loaded?;
        if left.is_some() {
            tables.iter_mut().for_each(FlowTable::recover);
            tables[0].recover_shared();
        } else {
            tables[0].control[0].introduce(seeds);
        }
        Ok((Self { ebpf }, tables))
    }

    /// Runs a program on all that comes in by the interface, before any other that is there: those see what is not
    /// moved. It stays there as long as the link does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach(
        &mut self,
        program: Program,
        interface: &str,
    ) -> Result<SchedClassifierLink, OpenFastPathError> {
        let refused = |source| OpenFastPathError::Attach {
            interface: interface.to_owned(),
            source: Box::new(source),
        };
        let order = TcAttachOptions::TcxOrder(LinkOrder::first());
        let program = classifier(&mut self.ebpf, program)?;
        program
            .attach_with_options(interface, TcAttachType::Ingress, order)
            .and_then(|link| program.take_link(link))
            .map_err(refused)
    }

    /// Has the program of data interfaces run at this link; `None` if the link's interface has gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn update(
        &mut self,
        link: SchedClassifierLink,
    ) -> Result<Option<SchedClassifierLink>, OpenFastPathError> {
        let program = classifier(&mut self.ebpf, Program::FastPath)?;
        let updated = program.attach_to_link(link).and_then(|link| program.take_link(link));
        Ok(updated.ok())
    }

    /// Runs the program of the sync interface on all that comes in there, loaded when it is first asked for.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(super) fn attach_unwrap(
        &mut self,
        interface: &str,
    ) -> Result<SchedClassifierLink, OpenFastPathError> {
        self.classifier(Program::Unwrap)?;
        self.attach(Program::Unwrap, interface)
    }

    /// How often each exit was taken, on all processors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn exits(&self) -> Result<Vec<(Exit, u64)>, OpenFastPathError> {
        const NAME: &str = "exits";
        let refused = |source| OpenFastPathError::Map { name: NAME, source };
        let map = self.ebpf.map(NAME).ok_or(OpenFastPathError::Missing(NAME))?;
        let counters: PerCpuArray<_, u64> =
            map.try_into().map_err(|source| refused(io::Error::other(source)))?;
        let read = |exit: Exit| {
            let values = counters.get(&(exit as u32), 0).map_err(io::Error::other)?;
            Ok((exit, values.iter().sum()))
        };
        Exit::ALL.into_iter().map(read).collect::<io::Result<_>>().map_err(refused)
    }

    /// The same before the stack, loaded when it is first asked for.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn early(&mut self) -> Result<&mut Xdp, OpenFastPathError> {
        let name = Hook::Xdp.program();
        let found = self.ebpf.program_mut(name).ok_or(OpenFastPathError::Missing(name))?;
        let program: &mut Xdp = found.try_into().map_err(|_| OpenFastPathError::Missing(name))?;
        if program.fd().is_err() {
            program
                .load()
                .map_err(|source| OpenFastPathError::Program { name, source: Box::new(source) })?;
        }
        Ok(program)
    }

    pub(super) fn classifier(
        &mut self,
        program: Program,
    ) -> Result<&mut SchedClassifier, OpenFastPathError> {
        if classifier(&mut self.ebpf, program)?.fd().is_err() {
            load_classifier(&mut self.ebpf, program)?;
        }
        classifier(&mut self.ebpf, program)
    }
}

/// RFC 8926 section 3.3, where nothing else is said.
const WRAPPED_PORT: u16 = 6_081;

const fn size<T>(name: &'static str, entries: u32) -> TableSize {
    TableSize { name, entries, bytes: size_of::<T>() as u32 }
}

/// How large each table is.
struct Sizes {
    limits: FastPathLimits,
    buckets: u32,
}

impl Sizes {
    fn of(limits: FastPathLimits) -> Self {
        // Two keys of each flow, and as much room again: a bucket then hardly ever fills.
        // Parts are of one size.
        let flows = limits.flows.next_multiple_of(u32::from(limits.workers));
        let buckets = ((flows + limits.relays) / 2).max(1).next_power_of_two();
        Self { limits: FastPathLimits { flows, ..limits }, buckets }
    }

    const fn flows(&self) -> u32 {
        self.limits.flows + self.limits.relays
    }

    /// None are needed where there are no other nodes; no table has no entries.
    const fn heads(&self) -> u32 {
        if self.limits.relays == 0 { 1 } else { self.flows() }
    }

    /// Two halves of hops: those of this process and those of the one before.
    const fn hops(&self) -> u32 {
        2 * self.limits.workers as u32 * self.limits.hops
    }

    /// One worker has every key.
    const fn shard_buckets(&self) -> u32 {
        if self.limits.workers > 1 { self.buckets } else { 1 }
    }

    const fn control(&self) -> TableSize {
        size::<Control>("control", self.limits.workers as u32)
    }

    fn all(&self) -> [TableSize; 16] {
        let flows = self.flows();
        [
            size::<Bucket>("flow_index", self.buckets),
            size::<Bucket>("shards", self.shard_buckets()),
            size::<Flow>("flows", flows),
            size::<Wide>("wide", flows),
            size::<Past>("pasts", flows),
            size::<Head>("heads", self.heads()),
            size::<Peer>("peers", PEERS),
            size::<Hop>("hops", self.hops()),
            size::<PortPlace>("ports", PORTS),
            self.control(),
            size::<u32>("identifications", IDENTIFICATIONS),
            size::<Flood>("floods", FLOODS),
            size::<ChallengeState>("challenge_state", 1),
            size::<Mark>("known", KNOWN),
            size::<Mark>("asked", ASKED),
            size::<u64>("exits", Exit::ALL.len() as u32),
        ]
    }

    /// The seeds of tables that an earlier process has left and that are just what they would be here. Others are taken
    /// away.
    fn left(&self, pins: &Pins) -> Option<Seeds> {
        if pins.is_empty() {
            return None;
        }
        let is_there = self.all().into_iter().all(|size| pins.existing(size).is_some());
        let control = is_there.then(|| pins.existing(self.control())).flatten();
        let workers = u32::from(self.limits.workers);
        let control =
            control.and_then(|map| SharedArray::<Control>::new(map.fd().as_fd(), workers).ok());
        let seeds = control.and_then(|control| control[0].seeds());
        if seeds.is_none() {
            tracing::warn!(
                "flows that the kernel moves are of another build, of other limits or of another number of workers: none is taken over, all begin anew"
            );
            if let Err(error) = pins.clear() {
                tracing::warn!("what is left of them stays: {error}");
            }
        }
        seeds
    }
}

fn load_into(
    loader: &mut EbpfLoader<'_>,
    sizes: &Sizes,
    seeds: Seeds,
) -> Result<(Ebpf, Vec<FlowTable>), OpenFastPathError> {
    let mut ebpf = loader.load(OBJECT).map_err(|source| OpenFastPathError::Load {
        flows: sizes.limits.flows,
        source: Box::new(source),
    })?;
    for program in [Program::FastPath, Program::Door] {
        load_classifier(&mut ebpf, program)?;
    }
    let tables = tables(&ebpf, sizes, seeds)?;
    Ok((ebpf, tables))
}

fn tables(ebpf: &Ebpf, sizes: &Sizes, seeds: Seeds) -> Result<Vec<FlowTable>, OpenFastPathError> {
    let (flows, workers) = (sizes.flows(), sizes.limits.workers);
    let index = Arc::new(Index::new(shared(ebpf, "flow_index", sizes.buckets)?, seeds));
    let shards = shared(ebpf, "shards", sizes.shard_buckets())?;
    let shards = ShardTable::new(shards, seeds, workers);
    let hops = Arc::new(shared(ebpf, "hops", sizes.hops())?);
    let ports = Arc::new(Ports::new(shared(ebpf, "ports", PORTS)?, Arc::clone(&hops)));
    let control = Arc::new(shared(ebpf, "control", workers.into())?);
    let (all, wide) = (shared(ebpf, "flows", flows)?, shared(ebpf, "wide", flows)?);
    let (all, wide, pasts) =
        (Arc::new(all), Arc::new(wide), Arc::new(shared(ebpf, "pasts", flows)?));
    let questions = Arc::new(Questions {
        floods: shared(ebpf, "floods", FLOODS)?,
        known: shared(ebpf, "known", KNOWN)?,
        state: shared(ebpf, "challenge_state", 1)?,
        keys: seeds.hash_keys(),
    });
    let heads = Arc::new(shared(ebpf, "heads", sizes.heads())?);
    let peers = Arc::new(Peers::new(shared(ebpf, "peers", PEERS)?));
    let count = flows / u32::from(workers);
    let table = |worker: u16| FlowTable {
        index: Arc::clone(&index),
        flows: Arc::clone(&all),
        wide: Arc::clone(&wide),
        pasts: Arc::clone(&pasts),
        heads: Arc::clone(&heads),
        peers: Arc::clone(&peers),
        hops: Arc::clone(&hops),
        ports: Arc::clone(&ports),
        control: Arc::clone(&control),
        shards: shards.clone(),
        questions: Arc::clone(&questions),
        part: Part { worker, first: u32::from(worker) * count, count },
        half: 0,
        free: Places::new(count),
        free_wide: Places::new(count),
    };
    Ok((0..workers).map(table).collect())
}

fn check_kernel() -> Result<(), OpenFastPathError> {
    match KernelVersion::current() {
        Ok(version) if version < TCX => {
            let release = rustix::system::uname();
            Err(OpenFastPathError::Kernel(release.release().to_string_lossy().into_owned()))
        }
        // All of these kernels have it, and say so to whoever may load programs.
        Ok(_) | Err(_) if !aya::features().bpf_global_data() => Err(OpenFastPathError::NotAllowed),
        // What cannot be told is left to the kernel's own words.
        Ok(_) | Err(_) => Ok(()),
    }
}

fn load_classifier(ebpf: &mut Ebpf, program: Program) -> Result<(), OpenFastPathError> {
    let name = program.name();
    classifier(ebpf, program)?
        .load()
        .map_err(|source| OpenFastPathError::Program { name, source: Box::new(source) })
}

fn classifier(
    ebpf: &mut Ebpf,
    program: Program,
) -> Result<&mut SchedClassifier, OpenFastPathError> {
    let name = program.name();
    let found = ebpf.program_mut(name).ok_or(OpenFastPathError::Missing(name))?;
    found.try_into().map_err(|_| OpenFastPathError::Missing(name))
}

fn shared<T: Shared>(
    ebpf: &Ebpf,
    name: &'static str,
    entries: u32,
) -> Result<SharedArray<T>, OpenFastPathError> {
    let Some(Map::Array(data)) = ebpf.map(name) else {
        return Err(OpenFastPathError::Missing(name));
    };
    let map: BorrowedFd<'_> = data.fd().as_fd();
    SharedArray::new(map, entries).map_err(|source| OpenFastPathError::Map { name, source })
}
