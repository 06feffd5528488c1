//! The programs on packets that a caller hands them (`BPF_PROG_TEST_RUN`): no interface, no traffic.

use aya::TestRun as _;
use aya::programs::{ProgramError, TestRunOptions};

use super::{FastPathLimits, FlowTable, Hook, OpenFastPathError, Program, Programs};
use crate::{LinkAddress, Port};

/// The loopback device, on which the kernel runs programs for trials; its link address is zero.
pub const TRIAL_INTERFACE: u32 = 1;

/// Programs and tables without a datapath.
#[derive(Debug)]
pub struct Trial {
    programs: Programs,
    /// Of each worker.
    tables: Vec<FlowTable>,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialResult {
    /// [`Hook::sent`], or [`Hook::left`] to whoever comes next.
    pub verdict: u32,
    pub frame: Vec<u8>,
    /// Of one run, on average.
    pub nanoseconds: u32,
}

impl Trial {
    /// Loads the programs with empty tables; `Port(0)` is the loopback device, of no zone and without doors.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(limits: FastPathLimits, seed: [u64; 2]) -> Result<Self, OpenFastPathError> {
        Self::among(limits, seed, &[(TRIAL_INTERFACE, LinkAddress([0; 6]))])
    }

    /// The same with these interfaces for ports, by the kernel's numbers and their link addresses.
    ///
    /// # Errors
    /// When the kernel refuses, or there are too many.
    pub fn among(
        limits: FastPathLimits,
        seed: [u64; 2],
        interfaces: &[(u32, LinkAddress)],
    ) -> Result<Self, OpenFastPathError> {
        let (programs, tables) = Programs::load(limits, seed)?;
        Self::at(programs, tables, interfaces)
    }

    /// The same of a node among others.
    #[cfg(test)]
    pub(super) fn between(
        limits: FastPathLimits,
        seed: [u64; 2],
        sync: &super::SyncLink,
    ) -> Result<Self, OpenFastPathError> {
        let (programs, tables) = Programs::load_with(limits, seed, None, Some(sync))?;
        Self::at(programs, tables, &[(TRIAL_INTERFACE, LinkAddress([0; 6]))])
    }

    fn at(
        programs: Programs,
        tables: Vec<FlowTable>,
        interfaces: &[(u32, LinkAddress)],
    ) -> Result<Self, OpenFastPathError> {
        let ports = &tables[0].ports;
        for (port, &(interface, address)) in interfaces.iter().enumerate() {
            let port = Port(port as u16);
            if !ports.set(port, interface, &[]) {
                return Err(OpenFastPathError::TooManyInterfaces(interfaces.len()));
            }
            ports.set_link(port, address, true);
        }
        Ok(Self { programs, tables })
    }

    /// Programs and the first worker's tables, for who gives the tables to an engine.
    pub fn into_parts(mut self) -> (Programs, FlowTable) {
        (self.programs, self.tables.remove(0))
    }

    pub fn table(&mut self) -> &mut FlowTable {
        &mut self.tables[0]
    }

    /// Of all workers.
    pub fn tables(&mut self) -> &mut [FlowTable] {
        &mut self.tables
    }

    pub fn programs(&mut self) -> &mut Programs {
        &mut self.programs
    }

    /// Runs the program on a frame that comes in by the loopback device: [`Programs::run`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(
        &mut self,
        hook: Hook,
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        self.programs.run(hook, TRIAL_INTERFACE, frame, segment, repeat)
    }
}

impl Programs {
    /// Runs the program of the data interfaces on a frame that comes in by an interface, of whose payload each segment
    /// carries `segment` bytes if it is a superframe, of which XDP has none. What it has become is run again, `repeat`
    /// times in all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(
        &mut self,
        hook: Hook,
        interface: u32,
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        match hook {
            Hook::Tc => self.run_classifier(Program::FastPath, interface, frame, segment, repeat),
            Hook::Xdp => {
                let context = xdp_md(interface, frame.len());
                try_out(hook.program(), frame, &context, repeat, |options| {
                    Ok(self.early()?.test_run(options))
                })
            }
        }
    }

    /// Runs the program of the sync interface on a frame that comes in there, as `run` does.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unwrap(
        &mut self,
        interface: u32,
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        self.run_classifier(Program::Unwrap, interface, frame, segment, repeat)
    }

    fn run_classifier(
        &mut self,
        program: Program,
        interface: u32,
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        let context = sk_buff(interface, segment);
        try_out(program.name(), frame, &context, repeat, |options| {
            Ok(self.classifier(program)?.test_run(options))
        })
    }
}

/// Room for what programs put before a packet.
const ROOM: usize = 128;

fn try_out(
    name: &'static str,
    frame: &[u8],
    context: &[u8],
    repeat: u32,
    run: impl FnOnce(
        TestRunOptions<'_>,
    ) -> Result<Result<aya::TestRunResult, ProgramError>, OpenFastPathError>,
) -> Result<TrialResult, OpenFastPathError> {
    let mut out = vec![0; frame.len() + ROOM];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.data_out = Some(&mut out);
    options.ctx_in = Some(context);
    options.repeat = repeat;
    let refused = |source| OpenFastPathError::Program { name, source: Box::new(source) };
    let result = run(options)?.map_err(refused)?;
    out.truncate(result.data_size_out as usize);
    let nanoseconds = result.duration.as_nanos() as u32;
    Ok(TrialResult { verdict: result.return_value, frame: out, nanoseconds })
}

/// `struct __sk_buff` of linux/bpf.h: `ifindex` and `gso_size`.
fn sk_buff(interface: u32, segment: u32) -> Vec<u8> {
    let mut context = vec![0; 192];
    context[40..44].copy_from_slice(&interface.to_ne_bytes());
    context[176..180].copy_from_slice(&segment.to_ne_bytes());
    context
}

/// `struct xdp_md` of linux/bpf.h: `data_end` and `ingress_ifindex`.
fn xdp_md(interface: u32, length: usize) -> Vec<u8> {
    let mut context = vec![0; 24];
    context[4..8].copy_from_slice(&(length as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&interface.to_ne_bytes());
    context
}
