//! External endpoints that other nodes have chosen: whose they are, those that this node takes over with
//! their flows, and those of its own that others have taken over (docs/cluster.md section 5).

use gabion_rules::{Mapping, NatId, SourceNat};

use super::{Lease, Translated, Translator};
use crate::flows::FlowTable;
use crate::nat::{Mapped, MappingId, Pairing, permits};
use crate::{Address, DropReason, Endpoint, FlowKey, NodeId, Time};

/// A flow that this node takes over, and what its source is translated to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inherited {
    /// The key of its first packet behind destination NAT.
    pub(crate) key: FlowKey,
    /// Where that was sent to.
    pub(crate) sent_to: Address,
    pub(crate) external: Endpoint,
}

impl Translator {
    /// The member that gives out the port to which packets of the key are sent; `None` where no member
    /// shares the address, or somebody answers there whatever NAT does.
    pub(crate) fn owner_of(&self, key: &FlowKey) -> Option<NodeId> {
        let Endpoint { address, port } = key.destination;
        key.has_ports().then(|| self.ports.owner(address, key.protocol, port)).flatten()
    }

    /// Gives ports of shared addresses out from now on, or no longer: a node that has just started does
    /// not know which of its ports others use.
    pub(crate) const fn set_open(&mut self, is_open: bool) {
        self.ports.set_open(is_open);
    }

    /// Keeps the external port of another node's flow, whose answers have this key, from being given out
    /// here; counted, as flows share ports. Whether there is room to know it.
    ///
    /// To be called for flows whose source is translated.
    pub(crate) fn hold_foreign(&mut self, now: Time, reply: &FlowKey) -> bool {
        let Some(foreign) = self.foreign.as_mut().filter(|_| reply.has_ports()) else {
            return true;
        };
        let Endpoint { address, port } = reply.destination;
        let of = (address, reply.protocol, port);
        foreign.add(of);
        match foreign.count(&of) {
            0 => false,
            1 if self.ports.hold_foreign(now, address, reply.protocol, port) => true,
            1 => {
                foreign.take(&of);
                false
            }
            _ => true,
        }
    }

    /// The flow has gone, or has come here.
    pub(crate) fn release_foreign(&mut self, now: Time, reply: &FlowKey) {
        let Some(foreign) = &mut self.foreign else { return };
        let Endpoint { address, port } = reply.destination;
        let of = (address, reply.protocol, port);
        foreign.take(&of);
        if foreign.count(&of) == 0 {
            self.ports.release_foreign(now, address, reply.protocol, port);
        }
    }

    /// Holds the external endpoint that another node has chosen. A port of another node's block is the
    /// flow's alone: no new flow gets it, of which that node would know nothing, and it is given back to
    /// nobody here. A rule's quota is no reason to end a flow. What the node holds for the flow as foreign is
    /// released before.
    ///
    /// # Errors
    /// `NatNoAddress` where the rule would not choose it any more, `NatConflict` where somebody else has
    /// it here, `NatPortsExhausted` or `MappingTableFull`.
    pub(crate) fn inherit(
        &mut self,
        now: Time,
        flows: &FlowTable,
        nat: &SourceNat,
        flow: &Inherited,
        own: Option<Address>,
    ) -> Result<Translated, DropReason> {
        let Inherited { key, external, .. } = *flow;
        let port = if key.has_ports() { external.port } else { 0 };
        if !permits(&nat.address, &nat.ports, Endpoint { port, ..external }, own) {
            return Err(DropReason::NatNoAddress);
        }
        if flows.find(&key.reply_to(external)).is_some() {
            return Err(DropReason::NatConflict);
        }
        if !key.has_ports() {
            return Ok(Translated { external, lease: Lease::Nothing });
        }
        let rule = self.names.place(nat.id).ok_or(DropReason::MappingTableFull)?;
        let mapping = match nat.mapping {
            Mapping::EndpointIndependent if self.ports.gives_out(external.address, port) => {
                self.inherit_mapping(now, rule, flow)
            }
            Mapping::EndpointIndependent | Mapping::Symmetric => None,
        };
        let lease = match mapping {
            Some(id) => {
                self.mappings.retain(id);
                if let Some(contacts) = &mut self.contacts {
                    contacts.add((id, flow.sent_to));
                }
                Lease::Mapping(id)
            }
            // The source has another mapping here by now: this connection keeps what it has.
            None => self.inherit_shared(now, rule, flow)?,
        };
        Ok(Translated { external, lease })
    }

    fn inherit_mapping(&mut self, now: Time, rule: NatId, flow: &Inherited) -> Option<MappingId> {
        let Inherited { key, external, .. } = *flow;
        let FlowKey { source: internal, protocol, .. } = key;
        if let Some(id) = self.mappings.find_internal(protocol, internal, rule) {
            return Some(id).filter(|id| self.mappings.get(*id).external == external);
        }
        if !self.ports.claim(now, external.address, protocol, external.port) {
            return None;
        }
        let mapped = Mapped { internal, external, protocol, rule, flows: 0, guests: 0 };
        let id = self.mappings.insert(mapped);
        if id.is_some() {
            self.hold(rule, internal.address, external.address);
        } else {
            self.ports.release(now, external.address, protocol, external.port);
        }
        id
    }

    fn inherit_shared(
        &mut self,
        now: Time,
        rule: NatId,
        flow: &Inherited,
    ) -> Result<Lease, DropReason> {
        let Inherited { key, external: Endpoint { address, port }, .. } = *flow;
        let pairing = Pairing::of_reply(&key.reply_to(flow.external));
        let taken = self.shared.word(&pairing)(usize::from(port) / 64) & 1 << (port % 64) != 0;
        if taken || self.ports.is_mapped(address, key.protocol, port) {
            return Err(DropReason::NatConflict);
        }
        let is_first = !self.shared.is_shared(address, key.protocol, port);
        if is_first && !self.ports.lend(now, address, key.protocol, port) {
            return Err(DropReason::NatPortsExhausted);
        }
        self.shared.add(pairing, port);
        self.hold(rule, key.source.address, address);
        Ok(Lease::SharedPort(Some(rule)))
    }
}

#[cfg(test)]
mod tests;
