//! What one source may hold and begin: flows, handshakes, and new flows in a second.

use std::hash::{Hash, Hasher};
use std::time::Duration;

use gabion_rules::FloodLimits;
use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::address::SourceNetwork;
use crate::{DropReason, Time};

const SECOND: Duration = Duration::from_secs(1);

/// What each source holds; none that holds nothing.
#[derive(Debug)]
pub(crate) struct Quotas {
    sources: HashTable<Source>,
    key: [u8; 16],
}

#[derive(Debug)]
struct Source {
    network: SourceNetwork,
    flows: u32,
    half_open: u32,
    /// Flows that it began in the second from `since` on.
    begun: u32,
    since: Time,
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
        // Twice the room: what was removed never makes it grow.
        Self { sources: HashTable::with_capacity(2 * flows as usize), key }
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
        let hash = hash(self.key, &source);
        let Some(found) = self.sources.find(hash, |there| there.network == source) else {
            return Ok(());
        };
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
        let Self { sources, key } = self;
        let fresh = Source { network: source, flows: 0, half_open: 0, begun: 0, since: now };
        let mut entry = sources
            .entry(
                hash(*key, &source),
                |there| there.network == source,
                |there| hash(*key, &there.network),
            )
            .or_insert(fresh);
        let there = entry.get_mut();
        there.flows += 1;
        there.begun = there.begun_lately(now) + 1;
        if there.begun == 1 {
            there.since = now;
        }
    }

    /// Takes back a flow that `add_flow` has counted.
    pub(crate) fn take_flow(&mut self, source: SourceNetwork) {
        let hash = hash(self.key, &source);
        let Ok(mut entry) = self.sources.find_entry(hash, |there| there.network == source) else {
            return;
        };
        entry.get_mut().flows -= 1;
        if entry.get().flows == 0 {
            entry.remove();
        }
    }

    /// A flow of the source, counted already, has begun a handshake.
    pub(crate) fn add_half_open(&mut self, source: SourceNetwork) {
        if let Some(there) = self.find_mut(source) {
            there.half_open += 1;
        }
    }

    /// Takes back a handshake that `add_half_open` has counted.
    pub(crate) fn take_half_open(&mut self, source: SourceNetwork) {
        if let Some(there) = self.find_mut(source) {
            there.half_open -= 1;
        }
    }

    fn find_mut(&mut self, source: SourceNetwork) -> Option<&mut Source> {
        let hash = hash(self.key, &source);
        self.sources.find_mut(hash, |there| there.network == source)
    }
}

fn hash(key: [u8; 16], of: &SourceNetwork) -> u64 {
    let mut hasher = SipHasher13::new_with_key(&key);
    of.hash(&mut hasher);
    hasher.finish()
}
