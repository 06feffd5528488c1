//! Zones: who owns which interface and which network.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::address::parse_network;
use crate::diagnostic::Span;
use crate::document::{Named, ZoneText};
use crate::limits::{INTERFACES_PER_ZONE, NETWORKS_PER_ZONE, ZONES};
use crate::policy::ZonePolicy;
use crate::read::OneOrMany;

use super::Checker;

impl Checker<'_, '_> {
    pub(super) fn check_zones(&mut self, zones: Vec<Named<ZoneText>>) {
        let second = zones.get(ZONES).map(|zone| zone.name.span);
        self.check_count(second, "zones", zones.len(), ZONES);
        if zones.is_empty() && !self.problems.any_errors() {
            let help = "write `zones: { inside: { interfaces: [int] }, ... }`";
            self.problems.error_with(Span::default(), "the policy has no zones", help);
        }
        let mut interfaces = HashMap::new();
        let mut networks: HashMap<IpNet, String> = HashMap::new();
        for Named { name, value } in zones.into_iter().take(ZONES) {
            self.check_name(&name, &["any"]);
            let place = self.place(name.span);
            let value = value.map(|zone| {
                let interfaces = self.check_interfaces(zone.interfaces, &mut interfaces);
                let networks =
                    zone.networks.map(|list| self.check_networks(&name.value, list, &mut networks));
                (interfaces, networks.unwrap_or_default())
            });
            let (interfaces, networks) = value.unwrap_or_default();
            self.zones.push(ZonePolicy { name: name.value, place, interfaces, networks });
        }
    }

    fn check_interfaces(
        &mut self,
        list: OneOrMany,
        seen: &mut HashMap<String, Span>,
    ) -> Vec<String> {
        self.check_count(Some(list.span), "interfaces", list.items.len(), INTERFACES_PER_ZONE);
        if list.items.is_empty() {
            self.problems.error(list.span, "a zone needs at least one interface");
        }
        let check = |interface: crate::read::At<String>| {
            self.check_name(&interface, &[]);
            self.check_unique(seen, &interface, "interface");
            interface.value
        };
        list.items.into_iter().map(check).collect()
    }

    fn check_networks(
        &mut self,
        zone: &str,
        list: OneOrMany,
        seen: &mut HashMap<IpNet, String>,
    ) -> Vec<IpNet> {
        self.check_count(Some(list.span), "networks", list.items.len(), NETWORKS_PER_ZONE);
        if list.items.is_empty() {
            let help = "leave `networks` out for a zone that is all the rest";
            self.problems.error_with(list.span, "the list is empty", help);
        }
        let mut networks = Vec::new();
        for item in list.items {
            match parse_network(&item.value) {
                Ok(net) => match seen.insert(net, zone.to_owned()) {
                    Some(owner) => {
                        let message =
                            format!("the network {net} belongs to zone `{owner}` already");
                        let help = "an address lies in one zone, that of its longest prefix";
                        self.problems.error_with(item.span, message, help);
                    }
                    None => networks.push(net),
                },
                Err(error) => self.report(item.span, error),
            }
        }
        networks
    }
}
