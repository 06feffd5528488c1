//! How many external ports each inside host holds under a NAT rule (RFC 6888 REQ-4), and on which
//! external address its next one is looked for first (RFC 4787 REQ-2).

use gabion_rules::NatId;

use crate::Address;
use crate::chains::{HasKey, Keyed};

/// One entry per inside address and rule that hold a port.
#[derive(Debug)]
pub(crate) struct Holders(Keyed<Holder>);

#[derive(Debug, Clone, Copy)]
struct Holder {
    internal: Address,
    rule: NatId,
    external: Address,
    ports: u32,
}

impl HasKey for Holder {
    type Key = (Address, NatId);

    fn key(&self) -> Self::Key {
        (self.internal, self.rule)
    }
}

impl Holders {
    /// For a table of so many flows; `key` seeds the hash.
    pub(crate) fn new(flows: u32, key: [u8; 16]) -> Self {
        Self(Keyed::new(flows, key))
    }

    pub(crate) fn ports(&self, internal: Address, rule: NatId) -> u32 {
        self.0.get(&(internal, rule)).map_or(0, |holder| holder.ports)
    }

    /// The external address of the first of the ports that the host holds.
    pub(crate) fn paired_address(&self, internal: Address, rule: NatId) -> Option<Address> {
        self.0.get(&(internal, rule)).map(|holder| holder.external)
    }

    /// The host holds one port more, on this address.
    pub(crate) fn add(&mut self, internal: Address, rule: NatId, external: Address) {
        if let Some(holder) = self.0.get_or_insert(Holder { internal, rule, external, ports: 0 }) {
            holder.ports += 1;
        }
    }

    pub(crate) fn take(&mut self, internal: Address, rule: NatId) {
        let Some(holder) = self.0.get_mut(&(internal, rule)) else { return };
        holder.ports -= 1;
        if holder.ports == 0 {
            self.0.remove(&(internal, rule));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn holders_are_counted_and_keep_their_first_address(
            steps in prop::collection::vec((any::<bool>(), 0..3_u8, 0..2_u16, 0..3_u8), 0..200),
        ) {
            let mut holders = Holders::new(16, [1; 16]);
            let mut model = BTreeMap::<(u8, u16), (u8, u32)>::new();
            let inside = |host: u8| Address::from([10, 0, 0, host]);
            let outside = |host: u8| Address::from([203, 0, 113, host]);
            for (adds, host, rule, external) in steps {
                if adds {
                    holders.add(inside(host), NatId(rule), outside(external));
                    model.entry((host, rule)).or_insert((external, 0)).1 += 1;
                } else {
                    holders.take(inside(host), NatId(rule));
                    if let Some((_, ports)) = model.get_mut(&(host, rule)) {
                        *ports -= 1;
                    }
                    model.retain(|_, (_, ports)| *ports > 0);
                }
                let (first, ports) = model.get(&(host, rule)).copied().unzip();
                prop_assert_eq!(holders.ports(inside(host), NatId(rule)), ports.unwrap_or(0));
                let paired = holders.paired_address(inside(host), NatId(rule));
                prop_assert_eq!(paired, first.map(outside));
            }
            prop_assert_eq!(holders.0.len(), model.len());
        }
    }
}
