//! Loads the programs, makes their maps and attaches them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use aya::maps::{Map, PerCpuArray};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType, tc};
use aya::{Ebpf, EbpfError, EbpfLoader};

use super::exits::Exit;
use super::index::{Index, Seeds};
use super::layout::PORTS;
use super::mapping::{Shared, SharedArray};
use super::table::{FlowTable, Places};
use crate::OpenDatapathError;

/// Compiled from `bpf/tc.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tc.o"));

/// How large the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPathLimits {
    /// Connections, of which each may be one of IPv6.
    pub flows: u32,
    pub hops: u32,
}

/// Why the fast path does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenFastPathError {
    #[error("the kernel does not take the programs")]
    Load(#[source] Box<EbpfError>),
    #[error("the kernel does not take the program {name}")]
    Program {
        name: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("{0} interfaces do not find a place in the programs' table")]
    TooManyInterfaces(usize),
    #[error(transparent)]
    Sockets(#[from] OpenDatapathError),
    #[error("cannot attach to interface {interface}")]
    Attach {
        interface: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("the programs have no {0}")]
    Missing(&'static str),
    #[error("cannot map the table {name}")]
    Map {
        name: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the door of interface {interface} does not open")]
    Door {
        interface: String,
        #[source]
        source: io::Error,
    },
}

/// The loaded programs. What they are attached to is let go when this is dropped.
#[derive(Debug)]
pub struct Programs {
    ebpf: Ebpf,
}

/// A program by its name in `bpf/tc.c`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Of data interfaces.
    FastPath,
    /// Of doors: nothing passes.
    Door,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::FastPath => "fast_path",
            Self::Door => "door",
        }
    }
}

impl Programs {
    /// Loads the programs with empty tables; `seed` keeps others from choosing what falls into one bucket.
    ///
    /// # Errors
    /// When the kernel refuses programs or memory.
    pub fn load(
        limits: FastPathLimits,
        seed: [u64; 2],
    ) -> Result<(Self, FlowTable), OpenFastPathError> {
        let seeds = Seeds { a: seed[0], b: seed[1] };
        // Two keys of each flow, and as much room again: a bucket then hardly ever fills.
        let buckets = (limits.flows / 2).max(1).next_power_of_two();
        let mask = buckets - 1;
        let keys = seeds.hash_keys();
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .map_max_entries("flow_index", buckets)
            .map_max_entries("flows", limits.flows)
            .map_max_entries("wide", limits.flows)
            .map_max_entries("hops", limits.hops)
            .override_global("bucket_mask", &mask, true)
            .override_global("hash_keys", &keys, true)
            .override_global("seed", &seeds.b, true);
        let mut ebpf =
            loader.load(OBJECT).map_err(|source| OpenFastPathError::Load(Box::new(source)))?;
        for program in [Program::FastPath, Program::Door] {
            let name = program.name();
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| OpenFastPathError::Program { name, source: Box::new(source) })?;
        }
        let table = FlowTable {
            index: Index::new(shared(&ebpf, "flow_index", buckets)?, seeds),
            flows: shared(&ebpf, "flows", limits.flows)?,
            wide: shared(&ebpf, "wide", limits.flows)?,
            hops: shared(&ebpf, "hops", limits.hops)?,
            ports: shared(&ebpf, "ports", PORTS)?,
            control: shared(&ebpf, "control", 1)?,
            interfaces: Vec::new(),
            free: Places::new(limits.flows),
            free_wide: Places::new(limits.flows),
        };
        Ok((Self { ebpf }, table))
    }

    /// Runs a program on all that comes in by the interface.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, program: Program, interface: &str) -> Result<(), OpenFastPathError> {
        // Where the kernel has tcx this is not needed and does no harm; where it is there already, neither.
        let _ = tc::qdisc_add_clsact(interface);
        classifier(&mut self.ebpf, program)?
            .attach(interface, TcAttachType::Ingress)
            .map(|_| ())
            .map_err(|source| OpenFastPathError::Attach {
                interface: interface.to_owned(),
                source: Box::new(source),
            })
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

    /// The program of the data interfaces, to be run on packets of a test's own.
    ///
    /// # Errors
    /// When it is missing.
    pub fn fast_path(&mut self) -> Result<&mut SchedClassifier, OpenFastPathError> {
        classifier(&mut self.ebpf, Program::FastPath)
    }
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
