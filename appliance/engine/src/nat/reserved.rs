//! Ports that source NAT leaves alone.

use std::ops::RangeInclusive;

use gabion_rules::{NatRule, RuleSet, SourceAddress};

use crate::Address;
use crate::packet::protocol;

/// Ports that are others' to use: the host answers there, or a server is published (CVE-2021-3773).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reserved {
    pub addresses: RangeInclusive<Address>,
    pub protocol: u8,
    pub ports: RangeInclusive<u16>,
}

/// What Azure's hosts drop, from whichever address it comes. One port of 64,512 is left out everywhere: rules need not say
/// where the node is. (Azure, virtual network FAQ: "UDP source port 65330 which is reserved for the host".)
const AZURE_HOSTS_PORT: u16 = 65_330;

/// The ports on which the host itself answers at its `own` addresses, those that destination NAT
/// publishes on addresses which source NAT uses, and what nobody may send from on Azure.
pub(crate) fn reserved(own: &[Address], host: &[u16], rules: Option<&RuleSet>) -> Vec<Reserved> {
    let used = used_addresses(own, rules);
    let host = own.iter().flat_map(|address| {
        host.iter().map(|port| Reserved {
            addresses: *address..=*address,
            protocol: protocol::TCP,
            ports: *port..=*port,
        })
    });
    let published = rules.into_iter().flat_map(RuleSet::published).filter_map(|published| {
        let (first, last) = published.addresses.clone().into_inner();
        let addresses = Address::from(first)..=Address::from(last);
        // The first range that does not end before these addresses begin.
        let behind = used.partition_point(|range| range.end() < addresses.start());
        let meets = used.get(behind).is_some_and(|range| range.start() <= addresses.end());
        meets.then_some(Reserved {
            addresses,
            protocol: published.protocol,
            ports: published.ports,
        })
    });
    let azure = used.iter().map(|addresses| Reserved {
        addresses: addresses.clone(),
        protocol: protocol::UDP,
        ports: AZURE_HOSTS_PORT..=AZURE_HOSTS_PORT,
    });
    host.chain(published).chain(azure).collect()
}

/// The node's `own` addresses and all pools, sorted and apart.
pub(crate) fn used_addresses(
    own: &[Address],
    rules: Option<&RuleSet>,
) -> Vec<RangeInclusive<Address>> {
    let mut used: Vec<_> = own.iter().map(|address| *address..=*address).collect();
    for rule in rules.into_iter().flat_map(RuleSet::nat_rules) {
        let NatRule::Source(source) = rule else { continue };
        let SourceAddress::Pool(ranges) = &source.address else { continue };
        let ends =
            |range: &RangeInclusive<_>| Address::from(*range.start())..=Address::from(*range.end());
        used.extend(ranges.iter().map(ends));
    }
    used.sort_unstable_by_key(|range| *range.start());
    let mut apart: Vec<RangeInclusive<Address>> = Vec::with_capacity(used.len());
    for range in used {
        match apart.last_mut() {
            Some(open) if range.start() <= open.end() => {
                *open = *open.start()..=(*open.end()).max(*range.end());
            }
            _ => apart.push(range),
        }
    }
    apart
}
