//! Chooses the external endpoint of a flow whose source is to be translated.

#[allow(dead_code)] // Until those who gave ports out are told of flows that others have taken over.
mod foreign;

use std::ops::RangeInclusive;

use gabion_rules::{Filtering, Mapping, NatId, NatRule, RuleSet, SourceAddress, SourceNat};

use crate::limits::Limits;
use crate::nat::{
    self, Blocks, Holders, Mapped, MappingId, Mappings, Pairing, PortAllocator, Reuse, RuleNames,
    SharedPorts, Wanted, candidates, class, free_port, permits,
};
use crate::packet::protocol;
use crate::tally::Tally;
use crate::{Address, ClusterConfig, DropReason, Endpoint, Time, WorkerId, flows};
use crate::{FlowKey, flows::FlowTable, flows::Slot};

pub(crate) use foreign::Inherited;

/// Free ports of one address that are tried for one flow: a port that is free and yet has a flow
/// is rare.
const CONFLICTS_TRIED: u32 = 64;

/// Ports of the node's own for flows that leave the way they came.
const HAIRPIN_PORTS: RangeInclusive<u16> = 1_024..=65_000;

/// Mappings, ports, and the remote addresses that each mapping has sent to.
#[derive(Debug)]
pub(crate) struct Translator {
    pub(crate) mappings: Mappings,
    ports: PortAllocator,
    /// Where a rule lets in the addresses that its mappings have sent to.
    contacts: Option<Tally<(MappingId, Address)>>,
    shared: SharedPorts,
    /// How many flows of other nodes use a port; of a node that has peers.
    foreign: Option<Tally<(Address, u8, u16)>>,
    holders: Holders,
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
    /// A port that other flows may have too, towards other remote endpoints; by which rule's name.
    SharedPort(Option<NatId>),
}

impl Translator {
    pub(crate) fn new(
        limits: &Limits,
        seed: [u8; 32],
        key: [u8; 16],
        cluster: Option<&ClusterConfig>,
    ) -> Self {
        Self {
            mappings: Mappings::new(limits.mappings, key),
            ports: PortAllocator::new(seed, cluster.map(Blocks::new)),
            contacts: None,
            // One more: in a full table a flow is translated before another makes room for it.
            shared: SharedPorts::new(limits.flows + 1, key),
            foreign: cluster.map(|_| Tally::new(limits.flows, key)),
            holders: Holders::new(limits.flows + 1, key),
            names: RuleNames::default(),
            seed: key,
        }
    }

    /// Has each of several workers give out ports of its own, before any is given out.
    pub(crate) fn deal_ports(&mut self, me: WorkerId, workers: u16) {
        self.ports.deal(me, workers);
    }

    /// The worker that has the mapping by which packets of the key may come in.
    pub(crate) fn worker_of(&self, key: &FlowKey) -> Option<WorkerId> {
        let Endpoint { address, port } = key.destination;
        key.has_ports().then(|| self.ports.worker(address, key.protocol, port)).flatten()
    }

    /// Ties mappings to the rules of a new rule set, by name.
    pub(crate) fn set_rules(&mut self, limits: &Limits, flows: &FlowTable, rules: &RuleSet) {
        self.names.set_rules(rules);
        let is_wanted = rules.nat_rules().iter().any(lets_contacts_in);
        if is_wanted && self.contacts.is_none() {
            let mut contacts = Tally::new(limits.flows + 1, self.seed);
            for flow in (0..flows.slots()).filter_map(|slot| flows.read(Slot(slot))) {
                if let Lease::Mapping(id) = flow.lease {
                    contacts.add((id, flow.original.destination.address));
                }
            }
            self.contacts = Some(contacts);
        } else if !is_wanted {
            self.contacts = None;
        }
    }

    /// Never gives out ports that are others' to use: on which the host itself answers, and those that
    /// destination NAT publishes.
    pub(crate) fn reserve(&mut self, own: &[Address], host: &[u16], rules: Option<&RuleSet>) {
        let (shared, beside): (&[_], &[_]) =
            if self.ports.is_dealt_to_workers() { (own, &[]) } else { (&[], own) };
        self.ports.share(nat::used_addresses(shared, rules), nat::used_addresses(beside, None));
        self.ports.reserve(nat::reserved(own, host, rules));
    }

    /// The external endpoint for packets of `key`, whose destination is final already; it was sent to
    /// `sent_to`.
    ///
    /// # Errors
    /// `NatNoAddress`, `NatPortsExhausted`, `NatPortQuota`, `MappingTableFull` or `NatConflict`;
    /// `NotReady` while the node may not use addresses that are not its own.
    pub(crate) fn choose(
        &mut self,
        now: Time,
        flows: &FlowTable,
        nat: &SourceNat,
        key: &FlowKey,
        sent_to: Address,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        if matches!(nat.address, SourceAddress::Pool(_)) && !self.ports.is_open() {
            return Err(DropReason::NotReady);
        }
        if !key.has_ports() {
            return self.choose_address_only(flows, nat, key, own);
        }
        let rule = self.names.place(nat.id).ok_or(DropReason::MappingTableFull)?;
        match nat.mapping {
            Mapping::EndpointIndependent => {
                let known = self.find_mapping(nat, rule, key, own);
                let id = match known {
                    Some(id) => id,
                    None => self.make_mapping(now, flows, nat, rule, key, own)?,
                };
                self.mappings.retain(id);
                if let Some(contacts) = &mut self.contacts {
                    contacts.add((id, sent_to));
                }
                let external = self.mappings.get(id).external;
                Ok(Translated { external, lease: Lease::Mapping(id) })
            }
            Mapping::Symmetric => {
                self.check_quota(nat, rule, key)?;
                let paired = self.holders.paired_address(key.source.address, rule);
                let pick = self.pick_address(key);
                let family = key.source.address.family();
                let addresses = candidates(&nat.address, family, own, paired, pick)?;
                self.choose_port(now, flows, addresses, &nat.ports, key, Some(rule))
            }
        }
    }

    /// An endpoint of the node's own, for a flow that leaves the way it came.
    ///
    /// # Errors
    /// As `choose`.
    pub(crate) fn choose_hairpin(
        &mut self,
        now: Time,
        flows: &FlowTable,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        let own = own.ok_or(DropReason::NatNoAddress)?;
        self.choose_port(now, flows, [own].into_iter(), &HAIRPIN_PORTS, key, None)
    }

    /// The mapping that stands for the source already, as far as the rule would have it still.
    fn find_mapping(
        &self,
        nat: &SourceNat,
        rule: NatId,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Option<MappingId> {
        let id = self.mappings.find_internal(key.protocol, key.source, rule)?;
        permits(&nat.address, &nat.ports, self.mappings.get(id).external, own).then_some(id)
    }

    /// RFC 6888 REQ-4.
    fn check_quota(&self, nat: &SourceNat, rule: NatId, key: &FlowKey) -> Result<(), DropReason> {
        if self.holders.ports(key.source.address, rule) < nat.ports_per_source {
            Ok(())
        } else {
            Err(DropReason::NatPortQuota)
        }
    }

    fn make_mapping(
        &mut self,
        now: Time,
        flows: &FlowTable,
        nat: &SourceNat,
        rule: NatId,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<MappingId, DropReason> {
        self.check_quota(nat, rule, key)?;
        let host = key.source.address;
        let paired = self.holders.paired_address(host, rule);
        let external =
            candidates(&nat.address, host.family(), own, paired, self.pick_address(key))?
                .find_map(|address| self.allocate(now, flows, nat, key, address))
                .ok_or(DropReason::NatPortsExhausted)?;
        let mapped = Mapped {
            internal: key.source,
            external,
            protocol: key.protocol,
            rule,
            flows: 0,
            guests: 0,
        };
        let Some(id) = self.mappings.insert(mapped) else {
            self.ports.release(now, external.address, key.protocol, external.port);
            return Err(DropReason::MappingTableFull);
        };
        self.hold(rule, host, external.address);
        Ok(id)
    }

    /// A port of the address for a mapping; none by which this flow's answers would be another's.
    fn allocate(
        &mut self,
        now: Time,
        flows: &FlowTable,
        nat: &SourceNat,
        key: &FlowKey,
        address: Address,
    ) -> Option<Endpoint> {
        // TCP, and what lets in only whom it has sent to, needs no rest.
        let reuse =
            if key.protocol != protocol::TCP && nat.filtering == Filtering::EndpointIndependent {
                Reuse::AfterRest
            } else {
                Reuse::AtOnce
            };
        let (range, port) = (&nat.ports, key.source.port);
        let wanted = Wanted { address, protocol: key.protocol, range, port, reuse };
        let mut unfit = [0; CONFLICTS_TRIED as usize];
        let mut unfit_count = 0;
        let found = (0..CONFLICTS_TRIED).find_map(|_| {
            let external = Endpoint { address, port: self.ports.allocate(now, &wanted)? };
            let is_fit = flows.find(&key.reply_to(external)).is_none();
            if !is_fit {
                unfit[unfit_count] = external.port;
                unfit_count += 1;
            }
            is_fit.then_some(external)
        });
        for port in &unfit[..unfit_count] {
            self.ports.release(now, address, key.protocol, *port);
        }
        found
    }

    fn hold(&mut self, rule: NatId, host: Address, external: Address) {
        self.names.retain(rule);
        self.holders.add(host, rule, external);
    }

    fn let_go(&mut self, rule: NatId, host: Address) {
        self.names.release(rule);
        self.holders.take(host, rule);
    }

    /// The address that is tried first for a host that holds none.
    fn pick_address(&self, key: &FlowKey) -> u64 {
        flows::hash_address(self.seed, key.source.address)
    }

    /// A port of the flow's own: unique only together with the remote endpoint, so that 64,000
    /// flows to each of them fit on one address. The first that is free from a place on that the
    /// seed picks (RFC 6056 section 3.3.3).
    fn choose_port(
        &mut self,
        now: Time,
        flows: &FlowTable,
        addresses: impl Iterator<Item = Address>,
        ports: &RangeInclusive<u16>,
        key: &FlowKey,
        rule: Option<NatId>,
    ) -> Result<Translated, DropReason> {
        let (first, last) = class(ports, key.source.port).ok_or(DropReason::NatPortsExhausted)?;
        let pick = flows::hash(self.seed, key) % (u64::from(last - first) + 1);
        for address in addresses {
            let reply = |port: u16| key.reply_to(Endpoint { address, port });
            let (range, start) = ((first, last), first + pick as u16);
            let start = self.ports.start(now, address, key.protocol, range, start);
            let found = start.and_then(|start| self.find_port(flows, range, start, address, key));
            let Some(port) = found else { continue };
            let is_first = !self.shared.is_shared(address, key.protocol, port);
            if is_first && !self.ports.lend(now, address, key.protocol, port) {
                continue;
            }
            self.shared.add(Pairing::of_reply(&reply(port)), port);
            if let Some(rule) = rule {
                self.hold(rule, key.source.address, address);
            }
            let external = Endpoint { address, port };
            return Ok(Translated { external, lease: Lease::SharedPort(rule) });
        }
        Err(DropReason::NatPortsExhausted)
    }

    fn find_port(
        &self,
        flows: &FlowTable,
        (first, last): (u16, u16),
        mut start: u16,
        address: Address,
        key: &FlowKey,
    ) -> Option<u16> {
        let reply = |port: u16| key.reply_to(Endpoint { address, port });
        let mapped = self.ports.word(address, key.protocol);
        let shared = self.shared.word(&Pairing::of_reply(&reply(first)));
        for _ in 0..CONFLICTS_TRIED {
            let port = free_port((first, last), start, |word| mapped(word) | shared(word))?;
            if flows.find(&reply(port)).is_none() {
                return Some(port);
            }
            // A flow without NAT, or one from outside, has this key.
            start = if port == last { first } else { port + 1 };
        }
        None
    }

    /// Protocols whose ports, if they have some, are left alone: one flow per remote endpoint and
    /// external one. Of an address that other nodes use too, only who would give out the port.
    fn choose_address_only(
        &self,
        flows: &FlowTable,
        nat: &SourceNat,
        key: &FlowKey,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        candidates(&nat.address, key.source.address.family(), own, None, self.pick_address(key))?
            .map(|address| Endpoint { address, port: key.source.port })
            // Workers need no blocks for these: one key is one worker's, whoever comes first.
            .filter(|external| self.ports.is_of_machine(external.address, external.port))
            .find(|external| flows.find(&key.reply_to(*external)).is_none())
            .map(|external| Translated { external, lease: Lease::Nothing })
            .ok_or(DropReason::NatConflict)
    }

    /// Takes back what a flow held, whose first packet had the key `original` and whose answers have
    /// the key `reply`.
    pub(crate) fn release(&mut self, now: Time, lease: Lease, original: &FlowKey, reply: &FlowKey) {
        match lease {
            Lease::Nothing => {}
            Lease::SharedPort(rule) => {
                let Endpoint { address, port } = reply.destination;
                self.shared.remove(&Pairing::of_reply(reply), port);
                if !self.shared.is_shared(address, reply.protocol, port) {
                    self.ports.take_back(now, address, reply.protocol, port);
                }
                if let Some(rule) = rule {
                    self.let_go(rule, original.source.address);
                }
            }
            Lease::Mapping(id) => {
                if let Some(contacts) = &mut self.contacts {
                    contacts.take(&(id, original.destination.address));
                }
                let gone = self.mappings.release(id);
                self.forget(now, gone);
            }
        }
    }

    /// Keeps the mapping that a flow of this key came in by, if it came in by one.
    pub(crate) fn enter(&mut self, key: &FlowKey) -> Option<MappingId> {
        let id = self.mappings.find_external(key.protocol, key.destination)?;
        self.mappings.retain_for_guest(id);
        Some(id)
    }

    /// The inside has answered somebody; the mapping, if he came in by one.
    pub(crate) fn adopt(&mut self, guest_of: Option<MappingId>) {
        if let Some(id) = guest_of {
            self.mappings.adopt(id);
        }
    }

    /// A flow that came in by the mapping has ended.
    pub(crate) fn exit(&mut self, now: Time, id: MappingId, is_adopted: bool) {
        let gone =
            if is_adopted { self.mappings.release(id) } else { self.mappings.release_guest(id) };
        self.forget(now, gone);
    }

    fn forget(&mut self, now: Time, gone: Option<Mapped>) {
        if let Some(mapped) = gone {
            let Endpoint { address, port } = mapped.external;
            self.ports.release(now, address, mapped.protocol, port);
            self.let_go(mapped.rule, mapped.internal.address);
        }
    }

    /// Whether a stranger may send to the mapping's external endpoint (RFC 4787 section 5), as the
    /// mapping's rule says now, and as long as the inside uses it (RFC 7857 section 7). Whom the
    /// mapping has sent to, port and all, is no stranger: those packets have a flow.
    pub(crate) fn admits(&self, rules: &RuleSet, id: MappingId, remote: Address) -> bool {
        let in_use = self.mappings.get(id).flows > 0;
        match self.filtering(rules, id) {
            Some(Filtering::EndpointIndependent) => in_use,
            Some(Filtering::AddressDependent) => {
                let contacts = self.contacts.as_ref();
                contacts.is_some_and(|contacts| contacts.count(&(id, remote)) > 0)
            }
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
        let place = self.names.place(nat.id);
        let known = place
            .filter(|_| nat.mapping == Mapping::EndpointIndependent)
            .and_then(|rule| self.find_mapping(nat, rule, key, own));
        if let Some(known) = known {
            return self.mappings.get(known).external;
        }
        let host = key.source.address;
        let paired = place.and_then(|rule| self.holders.paired_address(host, rule));
        let pick = self.pick_address(key);
        let addresses = candidates(&nat.address, host.family(), own, paired, pick);
        let address = addresses.into_iter().flatten().next();
        Endpoint { address: address.unwrap_or(host), port: 0 }
    }
}

/// Whether whom a mapping has sent to may send from other ports (RFC 4787 section 5).
fn lets_contacts_in(rule: &NatRule) -> bool {
    match rule {
        NatRule::Source(nat) => {
            nat.mapping == Mapping::EndpointIndependent
                && nat.filtering == Filtering::AddressDependent
        }
        NatRule::Destination(_) => false,
    }
}
