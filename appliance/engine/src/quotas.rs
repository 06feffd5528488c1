//! What one source may hold and begin: flows, handshakes, and new flows in a second.

use std::time::Duration;

use gabion_rules::FloodLimits;

use crate::address::SourceNetwork;
use crate::chains::{HasKey, Keyed};
use crate::{DropReason, Time};

const SECOND: Duration = Duration::from_secs(1);

/// What each source holds; none that holds nothing.
#[derive(Debug)]
pub(crate) struct Quotas {
    sources: Keyed<Source>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    network: SourceNetwork,
    flows: u32,
    half_open: u32,
    /// Flows that it began in the second from `since` on.
    begun: u32,
    since: Time,
}

impl HasKey for Source {
    type Key = SourceNetwork;

    fn key(&self) -> SourceNetwork {
        self.network
    }
}

impl Source {
    fn begun_lately(&self, now: Time) -> u32 {
        if now.since(self.since) < SECOND { self.begun } else { 0 }
    }
}

/// What a source wants one more of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Want {
    Flow,
    Handshake,
}

impl Quotas {
    pub(crate) fn new(flows: u32, key: [u8; 16]) -> Self {
        Self { sources: Keyed::new(flows, key) }
    }

    /// Whether one more flow keeps within what the source may have.
    ///
    /// # Errors
    /// `SourceQuota` or `SourceRate`.
    pub(crate) fn check(
        &self,
        now: Time,
        limits: &FloodLimits,
        source: SourceNetwork,
        want: Want,
    ) -> Result<(), DropReason> {
        let Some(found) = self.sources.get(&source) else { return Ok(()) };
        let too_many_open =
            want == Want::Handshake && found.half_open >= limits.half_open_per_source;
        if too_many_open || found.flows >= limits.flows_per_source {
            Err(DropReason::SourceQuota)
        } else if found.begun_lately(now) >= limits.new_flows_per_source_per_second {
            Err(DropReason::SourceRate)
        } else {
            Ok(())
        }
    }

    pub(crate) fn add_flow(&mut self, now: Time, source: SourceNetwork) {
        let fresh = Source { network: source, flows: 0, half_open: 0, begun: 0, since: now };
        let Some(there) = self.sources.get_or_insert(fresh) else { return };
        there.flows += 1;
        there.begun = there.begun_lately(now) + 1;
        if there.begun == 1 {
            there.since = now;
        }
    }

    /// Takes back a flow that `add_flow` has counted.
    pub(crate) fn take_flow(&mut self, source: SourceNetwork) {
        let Some(there) = self.sources.get_mut(&source) else { return };
        there.flows -= 1;
        if there.flows == 0 {
            self.sources.remove(&source);
        }
    }

    /// A flow of the source, counted already, has begun a handshake.
    pub(crate) fn add_half_open(&mut self, source: SourceNetwork) {
        if let Some(there) = self.sources.get_mut(&source) {
            there.half_open += 1;
        }
    }

    /// Takes back a handshake that `add_half_open` has counted.
    pub(crate) fn take_half_open(&mut self, source: SourceNetwork) {
        if let Some(there) = self.sources.get_mut(&source) {
            there.half_open -= 1;
        }
    }
}
