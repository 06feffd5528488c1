//! How many flows somebody may hold: half-open connections, and flows per source.

use gabion_rules::FloodLimits;

use crate::tally::Tally;
use crate::{Address, DropReason, Endpoint};

/// The counts that flood limits are held against.
#[derive(Debug)]
pub(crate) struct Quotas {
    half_open: u32,
    half_open_by_destination: Tally<Endpoint>,
    by_source: Tally<Address>,
}

impl Quotas {
    pub(crate) fn new(flows: u32, key: [u8; 16]) -> Self {
        Self {
            half_open: 0,
            half_open_by_destination: Tally::new(flows, key),
            by_source: Tally::new(flows, key),
        }
    }

    /// Whether one more flow keeps within the limits.
    ///
    /// # Errors
    /// `HalfOpenLimit` or `SourceQuota`.
    pub(crate) fn check(
        &self,
        limits: &FloodLimits,
        source: Address,
        half_open_to: Option<Endpoint>,
    ) -> Result<(), DropReason> {
        if let Some(destination) = half_open_to
            && (self.half_open >= limits.half_open
                || self.half_open_by_destination.count(&destination)
                    >= limits.half_open_per_destination)
        {
            return Err(DropReason::HalfOpenLimit);
        }
        if self.by_source.count(&source) >= limits.flows_per_source {
            return Err(DropReason::SourceQuota);
        }
        Ok(())
    }

    pub(crate) fn add_flow(&mut self, source: Address) {
        self.by_source.add(source);
    }

    pub(crate) fn take_flow(&mut self, source: Address) {
        self.by_source.take(&source);
    }

    pub(crate) fn add_half_open(&mut self, destination: Endpoint) {
        self.half_open += 1;
        self.half_open_by_destination.add(destination);
    }

    pub(crate) fn take_half_open(&mut self, destination: Endpoint) {
        self.half_open -= 1;
        self.half_open_by_destination.take(&destination);
    }

    pub(crate) const fn half_open(&self) -> u32 {
        self.half_open
    }
}
