//! Loads the programs, makes their maps and attaches them.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Map, PerCpuArray};
use aya::programs::links::LinkOrder;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};

use super::exits::Exit;
use super::index::{Index, Seeds};
use super::layout::PORTS;
use super::mapping::{Shared, SharedArray};
use super::ports::Ports;
use super::refusal::OpenFastPathError;
use super::table::{FlowTable, Places};

/// Compiled from `bpf/tc.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tc.o"));

/// How large the tables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FastPathLimits {
    /// Connections, of which each may be one of IPv6.
    pub flows: u32,
    pub hops: u32,
}

/// The first with links that keep a program at an interface's ingress.
const TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The loaded programs.
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
        check_kernel()?;
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
        let mut ebpf = loader.load(OBJECT).map_err(|source| OpenFastPathError::Load {
            flows: limits.flows,
            source: Box::new(source),
        })?;
        for program in [Program::FastPath, Program::Door] {
            let name = program.name();
            classifier(&mut ebpf, program)?
                .load()
                .map_err(|source| OpenFastPathError::Program { name, source: Box::new(source) })?;
        }
        let hops = Arc::new(shared(&ebpf, "hops", limits.hops)?);
        let ports = Arc::new(Ports::new(shared(&ebpf, "ports", PORTS)?, Arc::clone(&hops)));
        let table = FlowTable {
            index: Index::new(shared(&ebpf, "flow_index", buckets)?, seeds),
            flows: shared(&ebpf, "flows", limits.flows)?,
            wide: shared(&ebpf, "wide", limits.flows)?,
            hops,
            ports,
            control: shared(&ebpf, "control", 1)?,
            free: Places::new(limits.flows),
            free_wide: Places::new(limits.flows),
        };
        Ok((Self { ebpf }, table))
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

fn check_kernel() -> Result<(), OpenFastPathError> {
    match KernelVersion::current() {
        Ok(version) if version < TCX => {
            let release = rustix::system::uname();
            Err(OpenFastPathError::Kernel(release.release().to_string_lossy().into_owned()))
        }
        // What cannot be told is left to the kernel's own words.
        Ok(_) | Err(_) => Ok(()),
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
