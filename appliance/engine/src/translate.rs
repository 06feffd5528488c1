//! Chooses the external endpoint of a flow whose source is to be translated.

use std::ops::RangeInclusive;

use gabion_rules::{Filtering, Mapping, NatId, RuleSet, SourceAddress, SourceNat};

use crate::limits::Limits;
use crate::nat::{
    Mapped, MappingId, Mappings, Pairing, PortAllocator, RuleNames, SharedPorts, free_port,
};
use crate::packet::protocol;
use crate::tally::Tally;
use crate::{Address, DropReason, Endpoint, flows};
use crate::{FlowKey, flows::FlowTable};

/// Pool addresses that are tried for one flow before it is refused.
const ADDRESSES_TRIED: u128 = 16;

/// Free ports of one address that are tried for one flow: a port that is free and yet has a flow
/// is rare.
const CONFLICTS_TRIED: u32 = 64;

/// Mappings, ports, and the remote addresses that each mapping has sent to.
#[derive(Debug)]
pub(crate) struct Translator {
    pub(crate) mappings: Mappings,
    ports: PortAllocator,
    contacts: Tally<(MappingId, Address)>,
    shared: SharedPorts,
    names: RuleNames,
    seed: [u8; 16],
}

/// What a flow's source becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Translated {
    pub(crate) external: Endpoint,
    pub(crate) lease: Lease,
}

/// What of NAT's tables a flow holds until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    Nothing,
    Mapping(MappingId),
    /// A port that other flows may have too, towards other remote endpoints.
    SharedPort,
}

impl Translator {
    pub(crate) fn new(limits: &Limits, seed: [u8; 32], key: [u8; 16]) -> Self {
        Self {
            mappings: Mappings::new(limits.mappings, key),
            ports: PortAllocator::new(seed),
            contacts: Tally::new(limits.flows, key),
            shared: SharedPorts::new(key),
            names: RuleNames::default(),
            seed: key,
        }
    }

    /// Ties mappings to the rules of a new rule set, by name.
    pub(crate) fn set_rules(&mut self, rules: &RuleSet) {
        self.names.set_rules(rules);
    }

    /// Never gives out ports on which the host itself answers.
    pub(crate) fn reserve(&mut self, addresses: &[Address], ports: &[u16]) {
        self.ports.clear_reservations();
        for address in addresses {
            for port in ports {
                self.ports.reserve(*address, protocol::TCP, *port);
            }
        }
    }

    /// The external endpoint for packets of `key`, whose destination is final already.
    ///
    /// # Errors
    /// `NatNoAddress`, `NatPortsExhausted`, `MappingTableFull` or `NatConflict`.
    pub(crate) fn choose(
        &mut self,
        flows: &FlowTable,
        nat: &SourceNat,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        if !key.has_ports() {
            return self.choose_address_only(flows, nat, key, own);
        }
        match nat.mapping {
            Mapping::EndpointIndependent => self.choose_mapping(nat, key, own),
            Mapping::Symmetric => self.choose_port(flows, &nat.address, &nat.ports, key, own),
        }
    }

    /// An endpoint of the node's own, for a flow that leaves the way it came.
    ///
    /// # Errors
    /// As `choose`.
    pub(crate) fn choose_hairpin(
        &mut self,
        flows: &FlowTable,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        self.choose_port(flows, &SourceAddress::OwnAddress, &(1024..=65_000), key, own)
    }

    fn choose_mapping(
        &mut self,
        nat: &SourceNat,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        let rule = self.names.place(nat.id).ok_or(DropReason::MappingTableFull)?;
        if let Some(id) = self.mappings.find_internal(key.protocol, key.source, rule) {
            let external = self.mappings.get(id).external;
            if permits(&nat.address, &nat.ports, external, own) {
                return Ok(self.contact(id, key));
            }
        }
        let paired = self
            .mappings
            .paired_address(key.source.address, rule)
            .filter(|address| is_member(&nat.address, *address, own));
        let (address, port) = self
            .candidates(&nat.address, key, own, paired)?
            .find_map(|address| {
                let port =
                    self.ports.allocate(address, key.protocol, &nat.ports, key.source.port)?;
                Some((address, port))
            })
            .ok_or(DropReason::NatPortsExhausted)?;
        let mapped = Mapped {
            internal: key.source,
            external: Endpoint { address, port },
            protocol: key.protocol,
            rule,
            flows: 0,
            guests: 0,
        };
        let Some(id) = self.mappings.insert(mapped) else {
            self.ports.release(address, key.protocol, port);
            return Err(DropReason::MappingTableFull);
        };
        self.names.retain(rule);
        Ok(self.contact(id, key))
    }

    fn contact(&mut self, id: MappingId, key: &FlowKey) -> Translated {
        self.mappings.retain(id);
        self.contacts.add((id, key.destination.address));
        Translated { external: self.mappings.get(id).external, lease: Lease::Mapping(id) }
    }

    /// A port of the flow's own: unique only together with the remote endpoint, so that 64,000
    /// flows to each of them fit on one address. The first that is free from a place on that the
    /// seed picks (RFC 6056 section 3.3.3).
    fn choose_port(
        &mut self,
        flows: &FlowTable,
        address: &SourceAddress,
        ports: &RangeInclusive<u16>,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        let (first, last) = (*ports.start(), *ports.end());
        let count = u64::from(last.saturating_sub(first)) + 1;
        let pick = flows::hash(self.seed, key) % count;
        for address in self.candidates(address, key, own, None)? {
            let reply = |port: u16| key.reply_to(Endpoint { address, port });
            let pairing = Pairing::of_reply(&reply(first));
            let mapped = self.ports.word(address, key.protocol);
            let shared = self.shared.word(&pairing);
            let mut start = first + pick as u16;
            for _ in 0..CONFLICTS_TRIED {
                let taken = |word: usize| mapped(word) | shared(word);
                let Some(port) = free_port((first, last), start, taken) else { break };
                if flows.find(&reply(port)).is_none() {
                    drop((mapped, shared));
                    self.shared.add(pairing, port);
                    let external = Endpoint { address, port };
                    return Ok(Translated { external, lease: Lease::SharedPort });
                }
                // A flow without NAT, or one from outside, has this key.
                start = if port == last { first } else { port + 1 };
            }
        }
        Err(DropReason::NatPortsExhausted)
    }

    /// Protocols whose ports, if they have some, are left alone: one flow per remote endpoint and
    /// external one.
    fn choose_address_only(
        &self,
        flows: &FlowTable,
        nat: &SourceNat,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        self.candidates(&nat.address, key, own, None)?
            .map(|address| Endpoint { address, port: key.source.port })
            .find(|external| flows.find(&key.reply_to(*external)).is_none())
            .map(|external| Translated { external, lease: Lease::Nothing })
            .ok_or(DropReason::NatConflict)
    }

    /// The addresses to try, first the paired one (RFC 4787 REQ-2), then from one that the source
    /// address picks.
    fn candidates(
        &self,
        address: &SourceAddress,
        key: &FlowKey,
        own: Option<Address>,
        paired: Option<Address>,
    ) -> Result<impl Iterator<Item = Address> + use<>, DropReason> {
        let family = key.source.address.family();
        let pool: Vec<RangeInclusive<u128>> = match address {
            SourceAddress::OwnAddress => {
                own.map(|own| own.bits()..=own.bits()).into_iter().collect()
            }
            SourceAddress::Pool(ranges) => ranges
                .iter()
                .map(|range| Address::from(*range.start())..=Address::from(*range.end()))
                .filter(|range| range.start().family() == family)
                .map(|range| range.start().bits()..=range.end().bits())
                .collect(),
        };
        let size: u128 = pool
            .iter()
            .map(|range| range.end().saturating_sub(*range.start()).saturating_add(1))
            .sum();
        if size == 0 {
            return Err(DropReason::NatNoAddress);
        }
        let start = u128::from(flows::hash_address(self.seed, key.source.address)) % size;
        let rest = (0..size.min(ADDRESSES_TRIED))
            .filter_map(move |step| nth_address(&pool, (start + step) % size));
        Ok(paired.into_iter().chain(rest))
    }

    /// Takes back what the flow held whose answers have the key `reply`.
    pub(crate) fn release(&mut self, lease: Lease, reply: &FlowKey) {
        match lease {
            Lease::Nothing => {}
            Lease::SharedPort => {
                self.shared.remove(&Pairing::of_reply(reply), reply.destination.port);
            }
            Lease::Mapping(id) => {
                self.contacts.take(&(id, reply.source.address));
                let gone = self.mappings.release(id);
                self.forget(gone);
            }
        }
    }

    /// Keeps the mapping that a flow of this key came in by, if it came in by one.
    pub(crate) fn enter(&mut self, key: &FlowKey) -> Option<MappingId> {
        let id = self.mappings.find_external(key.protocol, key.destination)?;
        self.mappings.retain_for_guest(id);
        Some(id)
    }

    /// A flow that came in by the mapping has ended.
    pub(crate) fn exit(&mut self, id: MappingId) {
        let gone = self.mappings.release_guest(id);
        self.forget(gone);
    }

    fn forget(&mut self, gone: Option<Mapped>) {
        if let Some(mapped) = gone {
            let Endpoint { address, port } = mapped.external;
            self.ports.release(address, mapped.protocol, port);
            self.names.release(mapped.rule);
        }
    }

    /// Whether a stranger may send to the mapping's external endpoint (RFC 4787 section 5), as the
    /// mapping's rule says now, and as long as the inside uses it (RFC 7857 section 7). Whom the
    /// mapping has sent to, port and all, is no stranger: those packets have a flow.
    pub(crate) fn admits(&self, rules: &RuleSet, id: MappingId, remote: Address) -> bool {
        let in_use = self.mappings.get(id).flows > 0;
        match self.filtering(rules, id) {
            Some(Filtering::EndpointIndependent) => in_use,
            Some(Filtering::AddressDependent) => self.contacts.count(&(id, remote)) > 0,
            Some(Filtering::AddressAndPortDependent) | None => false,
        }
    }

    /// Whether somebody whom the mapping has admitted may stay.
    pub(crate) fn keeps(&self, rules: &RuleSet, id: MappingId) -> bool {
        self.filtering(rules, id)
            .is_some_and(|filtering| filtering != Filtering::AddressAndPortDependent)
    }

    /// `None` where the mapping's rule has gone or makes no mappings any more.
    fn filtering(&self, rules: &RuleSet, id: MappingId) -> Option<Filtering> {
        let nat = self.rule_of(id).and_then(|rule| rules.source_nat_by_id(rule))?;
        (nat.mapping == Mapping::EndpointIndependent).then_some(nat.filtering)
    }

    /// The rule of the rule set in force that the mapping belongs to, if it is still there.
    pub(crate) fn rule_of(&self, id: MappingId) -> Option<NatId> {
        self.names.in_force(self.mappings.get(id).rule)
    }

    /// The external endpoint that a flow of `key` has or would get; port 0 where it is not known yet.
    pub(crate) fn preview(&self, nat: &SourceNat, key: &FlowKey, own: Option<Address>) -> Endpoint {
        let known = self
            .names
            .place(nat.id)
            .filter(|_| nat.mapping == Mapping::EndpointIndependent)
            .and_then(|rule| self.mappings.find_internal(key.protocol, key.source, rule));
        if let Some(known) = known {
            return self.mappings.get(known).external;
        }
        let mut candidates = self.candidates(&nat.address, key, own, None).into_iter().flatten();
        Endpoint { address: candidates.next().unwrap_or(key.source.address), port: 0 }
    }
}

/// Whether a NAT rule could have chosen this external endpoint.
pub(crate) fn permits(
    address: &SourceAddress,
    ports: &RangeInclusive<u16>,
    external: Endpoint,
    own: Option<Address>,
) -> bool {
    is_member(address, external.address, own)
        && (external.port == 0 || ports.contains(&external.port))
}

fn is_member(pool: &SourceAddress, address: Address, own: Option<Address>) -> bool {
    match pool {
        SourceAddress::OwnAddress => own == Some(address),
        SourceAddress::Pool(ranges) => ranges.iter().any(|range| range.contains(&address.to_ip())),
    }
}

fn nth_address(pool: &[RangeInclusive<u128>], mut n: u128) -> Option<Address> {
    for range in pool {
        let length = range.end().saturating_sub(*range.start()).saturating_add(1);
        if n < length {
            return Some(Address::from_bits(range.start() + n));
        }
        n -= length;
    }
    None
}
