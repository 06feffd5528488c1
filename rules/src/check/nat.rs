//! NAT rules.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::address::{AddressSet, IpRange};
use crate::diagnostic::Span;
use crate::document::{
    DestinationNatText, DirectionText, FilteringText, MappingText, NatText, SourceNatText,
};
use crate::limits::{NAT_RULES, NAT_TARGETS, TRANSLATED_ADDRESSES};
use crate::object::Term;
use crate::policy::{
    DEFAULT_FILTERING, DEFAULT_NAT_PORTS, DestinationPolicy, Match, NatDirection, NatKind,
    NatPolicy, PoolPolicy, SourcePolicy,
};
use crate::read::{At, OneOrMany};
use crate::service::{Service, parse_port_range};
use crate::{Filtering, Mapping};

use super::Checker;
use super::settings::check_limit;

impl Checker<'_, '_> {
    pub(super) fn check_nat(&mut self, rules: Vec<NatText>) -> Vec<NatPolicy> {
        let beyond = rules.get(NAT_RULES).map(|rule| rule.name().span);
        self.check_count(beyond, "NAT rules", rules.len(), NAT_RULES);
        let mut names = HashMap::new();
        let mut checked = Vec::with_capacity(rules.len());
        let mut translated: u128 = 0;
        for rule in rules {
            let name = rule.name().clone();
            self.check_name(&name, &[]);
            self.check_unique(&mut names, &name, "NAT rule");
            let Some(rule) = self.check_nat_rule(rule) else { continue };
            translated = translated.saturating_add(self.addresses_of(&rule));
            if translated > TRANSLATED_ADDRESSES {
                let message = format!(
                    "the NAT rules up to here publish and use {translated} addresses, the limit is \
                     {TRANSLATED_ADDRESSES}"
                );
                self.problems.error(name.span, message);
                break;
            }
            checked.push(rule);
        }
        checked
    }

    fn check_nat_rule(&mut self, rule: NatText) -> Option<NatPolicy> {
        match rule {
            NatText::Destination(text) => self.check_destination(text),
            NatText::Source(text) => self.check_source(text),
        }
    }

    /// How many addresses the node may have to answer for because of a rule.
    fn addresses_of(&self, rule: &NatPolicy) -> u128 {
        match &rule.kind {
            NatKind::Destination(kind) => self.resolved.address_set(&kind.to).address_count(),
            NatKind::Source(SourcePolicy { address: PoolPolicy::Pool { terms, .. }, .. }) => {
                self.resolved.address_set(terms).address_count()
            }
            NatKind::Source(SourcePolicy { address: PoolPolicy::OwnAddress, .. }) => 0,
        }
    }

    fn check_destination(&mut self, text: DestinationNatText) -> Option<NatPolicy> {
        let from = self.check_zone_list(&text.from);
        let to = self.check_whole_addresses(&text.to);
        let source = self.check_address_match(text.source.as_ref());
        let service = self.check_service_match(text.service.as_ref());
        let target = self.check_whole_addresses(&text.target);
        let meta = self.check_meta(text.meta);
        if let (Some(port), Some(service)) = (&text.target_port, &service) {
            self.check_target_port(port, service);
        }
        let ((to, to_set), (target, target_set)) = (to?, target?);
        if (to_set.has_ipv4(), to_set.has_ipv6()) != (target_set.has_ipv4(), target_set.has_ipv6())
        {
            let message = "`to` and `target` are not of one address family";
            self.problems.error_with(text.target.span, message, ONE_FAMILY);
        }
        let kind = DestinationPolicy {
            to,
            target,
            targets: self.check_targets(text.target.span, &target_set)?,
            target_port: text.target_port.map(|port| port.value),
        };
        Some(NatPolicy {
            place: self.place(text.name.span),
            name: text.name.value,
            from: from?,
            source: source?,
            service: service?,
            kind: NatKind::Destination(kind),
            meta,
        })
    }

    fn check_targets(&mut self, span: Span, set: &AddressSet) -> Option<Vec<IpAddr>> {
        let count = set.address_count();
        if count > NAT_TARGETS as u128 {
            let message = format!("{count} targets, the limit is {NAT_TARGETS}");
            self.problems.error(span, message);
            return None;
        }
        Some(set.addresses().collect())
    }

    fn check_target_port(&mut self, port: &At<u16>, service: &Match<Service>) {
        if self.problems.any_errors() {
            // Objects mean something only when all of them are right.
            return;
        }
        let has_ports = match service {
            Match::Any => false,
            Match::Terms(terms) => self
                .resolved
                .services(terms)
                .all(|service| matches!(service, Service::Tcp(_) | Service::Udp(_))),
        };
        if !has_ports {
            let help = "name the `service` by tcp or udp ports";
            self.problems.error_with(port.span, "`target-port` needs a service with ports", help);
        } else if port.value == 0 {
            self.problems.error(port.span, "0 is out of range [1, 65535]");
        }
    }

    fn check_source(&mut self, text: SourceNatText) -> Option<NatPolicy> {
        let from = self.check_zone_list(&text.from);
        let out = self.check_zone_list(&text.out);
        let source = self.check_address_match(text.source.as_ref());
        let destination = self.check_address_match(text.destination.as_ref());
        let service = self.check_service_match(text.service.as_ref());
        let address = self.check_pool(&text.address);
        let ports = self.check_nat_ports(text.ports.as_ref());
        let ports_per_source =
            text.ports_per_source.and_then(|number| check_limit(&number, self.problems));
        let meta = self.check_meta(text.meta);
        let direction = match text.direction {
            Some(DirectionText::Inbound) => NatDirection::Inbound,
            Some(DirectionText::Outbound) | None => NatDirection::Outbound,
        };
        let kind = SourcePolicy {
            direction,
            out: out?,
            destination: destination?,
            address: address?,
            ports: ports?,
            ports_per_source,
            mapping: text.mapping.map_or(direction.mapping(), Mapping::from),
            filtering: text.filtering.map_or(DEFAULT_FILTERING, Filtering::from),
        };
        Some(NatPolicy {
            place: self.place(text.name.span),
            name: text.name.value,
            from: from?,
            source: source?,
            service: service?,
            kind: NatKind::Source(kind),
            meta,
        })
    }

    fn check_pool(&mut self, list: &OneOrMany) -> Option<PoolPolicy> {
        if let Some(own) = list.items.iter().find(|item| item.value == "self") {
            if list.items.len() > 1 {
                self.problems.error(own.span, "`self` stands alone");
                return None;
            }
            return Some(PoolPolicy::OwnAddress);
        }
        let (terms, set) = self.check_whole_addresses(list)?;
        let ranges = set.ranges().map(|range| range.first()..=range.last()).collect();
        Some(PoolPolicy::Pool { terms, ranges })
    }

    /// A list of addresses that is not `any` and of one family.
    fn check_whole_addresses(
        &mut self,
        list: &OneOrMany,
    ) -> Option<(Vec<Term<IpRange>>, Arc<AddressSet>)> {
        if let Some(any) = list.items.iter().find(|item| item.value == "any") {
            self.problems.error(any.span, "addresses must be named here, `any` is too many");
            return None;
        }
        let terms = self.check_addresses(list)?;
        if self.problems.any_errors() && terms.iter().any(|term| matches!(term, Term::Object(_))) {
            // Objects mean something only when all of them are right.
            return None;
        }
        // Counted before the set is built, so that the limit bounds the work too.
        let count = self.resolved.range_count(&terms);
        if count as u128 > TRANSLATED_ADDRESSES {
            let message =
                format!("{count} ranges of addresses, the limit is {TRANSLATED_ADDRESSES}");
            self.problems.error(list.span, message);
            return None;
        }
        let set = self.resolved.address_set(&terms);
        if let Some(range) = set.ranges().find(IpRange::has_nobodys) {
            let message = format!("no host can have {range}");
            let help = "name addresses of hosts: not multicast, loopback, link-local or reserved";
            self.problems.error_with(list.span, message, help);
            return None;
        }
        if set.has_ipv4() && set.has_ipv6() {
            let message = "IPv4 and IPv6 addresses stand in one list";
            self.problems.error_with(list.span, message, ONE_FAMILY);
            return None;
        }
        Some((terms, set))
    }

    fn check_nat_ports(&mut self, text: Option<&At<String>>) -> Option<RangeInclusive<u16>> {
        let Some(At { value, span }) = text else { return Some(DEFAULT_NAT_PORTS) };
        match parse_port_range(value, value) {
            Ok(range) if *range.start() > 0 => Some(range),
            Ok(_) => {
                self.problems.error(*span, "port 0 cannot be used, the range is [1, 65535]");
                None
            }
            Err(error) => {
                self.report(*span, error);
                None
            }
        }
    }
}

const ONE_FAMILY: &str = "write one NAT rule for IPv4 and one for IPv6";

impl NatText {
    fn name(&self) -> &At<String> {
        match self {
            Self::Destination(rule) => &rule.name,
            Self::Source(rule) => &rule.name,
        }
    }
}

impl From<MappingText> for Mapping {
    fn from(text: MappingText) -> Self {
        match text {
            MappingText::EndpointIndependent => Self::EndpointIndependent,
            MappingText::Symmetric => Self::Symmetric,
        }
    }
}

impl From<FilteringText> for Filtering {
    fn from(text: FilteringText) -> Self {
        match text {
            FilteringText::EndpointIndependent => Self::EndpointIndependent,
            FilteringText::AddressDependent => Self::AddressDependent,
            FilteringText::AddressAndPortDependent => Self::AddressAndPortDependent,
        }
    }
}
