//! The programs on packets that a caller hands them (`BPF_PROG_TEST_RUN`): no interface, no traffic.

use std::ops::Range;

use aya::TestRun as _;
use aya::programs::TestRunOptions;

use super::{FastPathLimits, FlowTable, OpenFastPathError, Programs};
use crate::Port;

/// The loopback device, on which the kernel runs programs for trials; its link address is zero.
pub const TRIAL_INTERFACE: u32 = 1;

/// Where `ifindex` and `gso_size` are in `struct __sk_buff`, and how long that is (linux/bpf.h).
const INTERFACE: Range<usize> = 40..44;
const GSO_SIZE: Range<usize> = 176..180;
const CONTEXT: usize = 192;

/// Programs and tables without a datapath.
#[derive(Debug)]
pub struct Trial {
    programs: Programs,
    table: FlowTable,
}

/// What became of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialResult {
    /// Of linux/pkt_cls.h: 7 is another interface, `u32::MAX` the host's stack.
    pub verdict: u32,
    pub frame: Vec<u8>,
    /// Of one run, on average.
    pub nanoseconds: u32,
}

impl Trial {
    /// Loads the programs with empty tables; `Port(0)` is the loopback device, of no zone and without a door.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(limits: FastPathLimits, seed: [u64; 2]) -> Result<Self, OpenFastPathError> {
        Self::among(limits, seed, &[TRIAL_INTERFACE])
    }

    /// The same with these interfaces for ports, by the kernel's numbers.
    ///
    /// # Errors
    /// When the kernel refuses, or there are too many.
    pub fn among(
        limits: FastPathLimits,
        seed: [u64; 2],
        interfaces: &[u32],
    ) -> Result<Self, OpenFastPathError> {
        let (programs, table) = Programs::load(limits, seed)?;
        for (port, interface) in interfaces.iter().enumerate() {
            if !table.ports.set(Port(port as u16), *interface, 0) {
                return Err(OpenFastPathError::TooManyInterfaces(interfaces.len()));
            }
        }
        Ok(Self { programs, table })
    }

    /// Programs and tables, for who gives the tables to an engine.
    pub fn into_parts(self) -> (Programs, FlowTable) {
        (self.programs, self.table)
    }

    pub fn table(&mut self) -> &mut FlowTable {
        &mut self.table
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
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        self.programs.run(TRIAL_INTERFACE, frame, segment, repeat)
    }
}

impl Programs {
    /// Runs the program of the data interfaces on a frame that comes in by an interface, of whose payload each segment
    /// carries `segment` bytes if it is a superframe. What it has become is run again, `repeat` times in all.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn run(
        &mut self,
        interface: u32,
        frame: &[u8],
        segment: u32,
        repeat: u32,
    ) -> Result<TrialResult, OpenFastPathError> {
        let mut out = vec![0; frame.len() + 64];
        let mut context = [0; CONTEXT];
        context[INTERFACE].copy_from_slice(&interface.to_ne_bytes());
        context[GSO_SIZE].copy_from_slice(&segment.to_ne_bytes());
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = Some(&mut out);
        options.ctx_in = Some(&context);
        options.repeat = repeat;
        let result = self.fast_path()?.test_run(options).map_err(|source| {
            OpenFastPathError::Program { name: "fast_path", source: Box::new(source) }
        })?;
        let length = result.data_size_out as usize;
        out.truncate(length);
        let nanoseconds = result.duration.as_nanos() as u32;
        Ok(TrialResult { verdict: result.return_value, frame: out, nanoseconds })
    }
}
