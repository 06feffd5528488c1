//! The compiled rule set against an oracle that walks the validated policy from top to bottom.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use time::Date;

use crate::address::IpRange;
use crate::object::Term;
use crate::policy::{Match, Meta, NatKind, Policy, PoolPolicy, Zones};
use crate::service::{IcmpFamily, Service};
use crate::{Loaded, NatQuery, Query, RuleId, Transport, ZoneId, load};

const TODAY: Date = time::macros::date!(2026 - 11 - 21);

/// The plain meaning of a policy. Slow, and shares no matching code with the rule set.
struct Oracle<'p>(&'p Policy);

impl Oracle<'_> {
    /// The name of the rule that decides, and of the monitor rules above it.
    fn decide(&self, query: &Query) -> (String, Vec<String>) {
        let mut monitors = Vec::new();
        for rule in &self.0.rules {
            let holds = in_force(&rule.meta)
                && zone_in(&rule.from, query.from)
                && zone_in(&rule.to, query.to)
                && self.address_in(&rule.source, query.source)
                && self.address_in(&rule.destination, query.destination)
                && self.service_in(&rule.service, &query.transport);
            match (holds, rule.action) {
                (false, _) => {}
                (true, None) => monitors.push(rule.name.clone()),
                (true, Some(_)) => return (rule.name.clone(), monitors),
            }
        }
        let name = |zone: ZoneId| &self.0.zones[usize::from(zone.0)].name;
        (format!("default:{}->{}", name(query.from), name(query.to)), monitors)
    }

    fn destination_nat(&self, query: &NatQuery) -> Option<&str> {
        let rule = self.0.nat.iter().find(|rule| {
            let NatKind::Destination(kind) = &rule.kind else { return false };
            in_force(&rule.meta)
                && zone_in(&rule.from, query.from)
                && self.address_in(&rule.source, query.source)
                && self.address_in(&Match::Terms(kind.to.clone()), query.destination)
                && self.service_in(&rule.service, &query.transport)
        });
        rule.map(|rule| rule.name.as_str())
    }

    fn source_nat(&self, query: &Query) -> Option<&str> {
        let rule = self.0.nat.iter().find(|rule| {
            let NatKind::Source(kind) = &rule.kind else { return false };
            let is_of_family = match &kind.address {
                PoolPolicy::OwnAddress => true,
                PoolPolicy::Pool { ranges, .. } => {
                    ranges[0].start().is_ipv4() == query.source.is_ipv4()
                }
            };
            is_of_family
                && in_force(&rule.meta)
                && zone_in(&rule.from, query.from)
                && zone_in(&kind.out, query.to)
                && self.address_in(&rule.source, query.source)
                && self.address_in(&kind.destination, query.destination)
                && self.service_in(&rule.service, &query.transport)
        });
        rule.map(|rule| rule.name.as_str())
    }

    fn source_belongs(&self, zone: ZoneId, source: IpAddr) -> bool {
        let nets = self.0.zones.iter().enumerate().flat_map(|(index, zone)| {
            zone.networks.iter().map(move |net| (net.prefix_len(), index, net))
        });
        let holding = nets.filter(|(_, _, net)| net.contains(&source));
        match holding.max_by_key(|(length, _, _)| *length) {
            Some((_, owner, _)) => owner == usize::from(zone.0),
            None => self.0.zones[usize::from(zone.0)].networks.is_empty(),
        }
    }

    fn address_in(&self, wanted: &Match<IpRange>, address: IpAddr) -> bool {
        let Match::Terms(terms) = wanted else { return true };
        self.any_address(terms, address)
    }

    fn any_address(&self, terms: &[Term<IpRange>], address: IpAddr) -> bool {
        terms.iter().any(|term| match term {
            Term::Object(id) => self.any_address(&self.0.addresses[id.0].terms, address),
            Term::Value(range) => match (range.first(), address, range.last()) {
                (IpAddr::V4(first), IpAddr::V4(address), IpAddr::V4(last)) => {
                    first <= address && address <= last
                }
                (IpAddr::V6(first), IpAddr::V6(address), IpAddr::V6(last)) => {
                    first <= address && address <= last
                }
                _ => false,
            },
        })
    }

    fn service_in(&self, wanted: &Match<Service>, transport: &Transport) -> bool {
        let Match::Terms(terms) = wanted else { return true };
        self.any_service(terms, transport)
    }

    fn any_service(&self, terms: &[Term<Service>], transport: &Transport) -> bool {
        let equal = |wanted: Option<u8>, actual: u8| wanted.is_none() || wanted == Some(actual);
        terms.iter().any(|term| match (term, *transport) {
            (Term::Object(id), _) => self.any_service(&self.0.services[id.0].terms, transport),
            (
                Term::Value(Service::Tcp(ports)),
                Transport::Tcp { source_port, destination_port },
            )
            | (
                Term::Value(Service::Udp(ports)),
                Transport::Udp { source_port, destination_port },
            ) => {
                ports.source.contains(&source_port) && ports.destination.contains(&destination_port)
            }
            (
                Term::Value(Service::Icmp(IcmpFamily::V4, wanted, wanted_code)),
                Transport::Icmp { kind, code },
            )
            | (
                Term::Value(Service::Icmp(IcmpFamily::V6, wanted, wanted_code)),
                Transport::Icmpv6 { kind, code },
            ) => equal(*wanted, kind) && equal(*wanted_code, code),
            (Term::Value(Service::Protocol(number)), Transport::Other { protocol }) => {
                *number == protocol
            }
            (Term::Value(_), _) => false,
        })
    }
}

fn in_force(meta: &Meta) -> bool {
    meta.expires.is_none_or(|day| day >= TODAY)
}

fn zone_in(zones: &Zones, zone: ZoneId) -> bool {
    match zones {
        Zones::Any => true,
        Zones::Listed(zones) => zones.contains(&zone),
    }
}

const ZONES: [&str; 4] = ["z0", "z1", "z2", "z3"];
const NETWORKS: [&str; 8] = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3",
    "192.0.2.0/24",
    "'2600:1::/32'",
    "'2600:1:2::/48'",
    "0.0.0.0/0",
];
const V4: [&str; 9] = [
    "10.1.2.3",
    "10.1.2.4",
    "10.1.2.0/24",
    "10.1.0.0/16",
    "10.1.2.3-10.1.3.1",
    "0.0.0.0/0",
    "255.255.255.255",
    "0.0.0.0-10.1.2.2",
    "192.0.2.0/31",
];
const V6: [&str; 5] =
    ["'2600:1:2::1'", "'2600:1::/32'", "'2600:1:2::-2600:1:2::ff'", "'::/0'", "'::'"];
const SERVICES: [&str; 17] = [
    "tcp",
    "udp",
    "tcp/80",
    "tcp/79-81",
    "tcp/443",
    "tcp/0",
    "tcp/65535",
    "udp/53->any",
    "tcp/1024-65535->80",
    "udp/53",
    "icmp",
    "icmp/8",
    "icmp/3/4",
    "icmpv6",
    "icmpv6/128/0",
    "proto/47",
    "proto/255",
];

/// Lists of up to three of `words`.
fn some(words: Vec<String>) -> impl Strategy<Value = String> {
    let count = words.len().min(3);
    subsequence(words, 1..=count).prop_map(|list| format!("[{}]", list.join(", ")))
}

fn words(lists: &[&[&str]]) -> Vec<String> {
    lists.iter().flat_map(|list| list.iter().map(|word| (*word).to_owned())).collect()
}

/// A list, or nothing, for the key.
fn key(name: &'static str, list: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    prop::option::of(list)
        .prop_map(move |list| list.map_or(String::new(), |l| format!(", {name}: {l}")))
}

fn zone_lists(zones: usize) -> impl Strategy<Value = String> {
    prop_oneof![Just("any".to_owned()), some(words(&[&ZONES[..zones]]))]
}

fn meta() -> impl Strategy<Value = &'static str> {
    select(&["", "", "", ", meta: { expires: 2026-11-20 }", ", meta: { expires: 2026-11-21 }"][..])
}

fn rules(zones: usize) -> impl Strategy<Value = String> {
    let addresses = || some(words(&[&V4, &V6, &["a0", "a1"]]));
    let services = some(words(&[&SERVICES, &["s0", "s1"]]));
    let action = select(&["allow", "drop", "reject", "monitor"][..]);
    (
        (zone_lists(zones), zone_lists(zones)),
        (key("source", addresses()), key("destination", addresses()), key("service", services)),
        action,
        meta(),
    )
        .prop_map(|((from, to), (source, destination, service), action, meta)| {
            format!(
                "from: {from}, to: {to}{source}{destination}{service}, action: {action}{meta} }}"
            )
        })
}

fn nat_rules(zones: usize) -> impl Strategy<Value = String> {
    let sources = || key("source", some(words(&[&V4, &V6, &["a0", "a1"]])));
    let services = || key("service", some(words(&[&SERVICES, &["s0", "s1"]])));
    let whole = select(
        &[
            ("10.1.2.3", "10.1.2.9"),
            ("[10.1.2.0/24, 192.0.2.1]", "10.0.0.0/30"),
            ("'2600:1:2::1'", "'2600:1::9'"),
        ][..],
    );
    let destination = (zone_lists(zones), whole, sources(), services(), meta()).prop_map(
        |(from, (to, target), source, service, meta)| {
            format!(
                "kind: dnat, from: {from}, to: {to}{source}{service}, target: {target}{meta} }}"
            )
        },
    );
    let pool = select(&["self", "192.0.2.7", "192.0.2.16/28", "'2600:1:9::/120'"][..]);
    let destinations = key("destination", some(words(&[&V4, &V6, &["a0", "a1"]])));
    let source =
        ((zone_lists(zones), zone_lists(zones)), sources(), destinations, services(), pool, meta())
            .prop_map(|((from, out), source, destination, service, pool, meta)| {
                let matches = format!("from: {from}, out: {out}{source}{destination}{service}");
                format!("kind: snat, {matches}, address: {pool}{meta} }}")
            });
    prop_oneof![destination, source]
}

fn zone_texts(zones: usize) -> impl Strategy<Value = String> {
    // Each network to a zone, or to none.
    prop::collection::vec(0..=zones, NETWORKS.len()).prop_map(move |owners| {
        let zone = |zone: usize| {
            let nets = NETWORKS.iter().zip(&owners).filter(|(_, owner)| **owner == zone);
            let nets: Vec<&str> = nets.map(|(net, _)| *net).collect();
            let networks = if nets.is_empty() {
                String::new()
            } else {
                format!(", networks: [{}]", nets.join(", "))
            };
            format!("  z{zone}: {{ interfaces: [i{zone}]{networks} }}\n")
        };
        (0..zones).map(zone).collect()
    })
}

fn policies() -> impl Strategy<Value = String> {
    let lists = |texts: Vec<String>, section: &str| {
        let named =
            texts.iter().enumerate().map(|(i, text)| format!("  - {{ name: n{i}, {text}\n"));
        let items: String = named.collect();
        if items.is_empty() { items } else { format!("{section}:\n{items}") }
    };
    (1..=ZONES.len()).prop_flat_map(move |zones| {
        (
            zone_texts(zones),
            (some(words(&[&V4, &V6])), some(words(&[&V4, &V6, &["a0"]]))),
            (some(words(&[&SERVICES])), some(words(&[&SERVICES, &["s0"]]))),
            prop::collection::vec(nat_rules(zones), 0..6),
            prop_oneof![
                3 => prop::collection::vec(rules(zones), 0..14),
                1 => prop::collection::vec(rules(zones), 14..90),
            ],
        )
            .prop_map(move |(zones, (a0, a1), (s0, s1), nat, rules)| {
                let objects = format!(
                    "objects:\n  addresses: {{ a0: {a0}, a1: {a1} }}\n  services: {{ s0: {s0}, s1: {s1} }}\n"
                );
                let (nat, rules) = (lists(nat, "nat"), lists(rules, "rules"));
                format!("apiVersion: gabion/v1\nzones:\n{zones}{objects}{nat}{rules}")
            })
    })
}

/// Ends of the ranges above and their neighbours, and anything.
fn v4() -> impl Strategy<Value = IpAddr> {
    const ENDS: [&str; 13] = [
        "0.0.0.0",
        "10.0.0.0",
        "10.1.0.0",
        "10.1.2.0",
        "10.1.2.2",
        "10.1.2.3",
        "10.1.2.4",
        "10.1.2.255",
        "10.1.3.1",
        "10.1.255.255",
        "192.0.2.0",
        "192.0.2.1",
        "255.255.255.255",
    ];
    let near = (select(&ENDS[..]), -1_i32..=1).prop_map(|(end, step)| {
        let end: Ipv4Addr = end.parse().unwrap();
        Ipv4Addr::from_bits(end.to_bits().saturating_add_signed(step))
    });
    prop_oneof![9 => near, 1 => any::<Ipv4Addr>()].prop_map(IpAddr::from)
}

fn v6() -> impl Strategy<Value = IpAddr> {
    const ENDS: [&str; 6] = [
        "::",
        "2600:1::",
        "2600:1:2::",
        "2600:1:2::1",
        "2600:1:2::ff",
        "2600:1:ffff:ffff:ffff:ffff:ffff:ffff",
    ];
    let near = (select(&ENDS[..]), -1_i128..=1).prop_map(|(end, step)| {
        let end: Ipv6Addr = end.parse().unwrap();
        Ipv6Addr::from_bits(end.to_bits().saturating_add_signed(step))
    });
    prop_oneof![9 => near, 1 => any::<Ipv6Addr>()].prop_map(IpAddr::from)
}

fn ports() -> impl Strategy<Value = u16> {
    select(&[0, 1, 52, 53, 54, 78, 79, 80, 81, 82, 443, 1023, 1024, 65534, 65535][..])
}

fn transports() -> impl Strategy<Value = Transport> {
    let code = || select(&[0_u8, 1, 4][..]);
    prop_oneof![
        4 => (ports(), ports()).prop_map(|(source_port, destination_port)| Transport::Tcp { source_port, destination_port }),
        2 => (ports(), ports()).prop_map(|(source_port, destination_port)| Transport::Udp { source_port, destination_port }),
        1 => (select(&[0_u8, 3, 8][..]), code()).prop_map(|(kind, code)| Transport::Icmp { kind, code }),
        1 => (select(&[1_u8, 128, 129][..]), code()).prop_map(|(kind, code)| Transport::Icmpv6 { kind, code }),
        1 => select(&[0_u8, 47, 63, 64, 255][..]).prop_map(|protocol| Transport::Other { protocol }),
    ]
}

type Sample = (u16, u16, (IpAddr, IpAddr), Transport);

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let addresses = prop_oneof![3 => (v4(), v4()), 1 => (v6(), v6())];
    prop::collection::vec((0..4_u16, 0..4_u16, addresses, transports()), 1..40)
}

fn load_all(text: &str) -> Loaded {
    load("random.yaml", text, Some(TODAY)).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_rule_set_decides_as_the_oracle(text in policies(), samples in samples()) {
        let Loaded { policy, rule_set, .. } = load_all(&text);
        let oracle = Oracle(&policy);
        let zones = u16::try_from(policy.zones.len()).unwrap();
        let nat_name = |id: crate::NatId| rule_set.nat_rules()[usize::from(id.0)].name();
        for (from, to, (source, destination), transport) in samples {
            let (from, to) = (ZoneId(from % zones), ZoneId(to % zones));
            let query = Query { from, to, source, destination, transport };
            let name = |id: RuleId| rule_set.rules()[id.0 as usize].name.clone();
            let mut monitors = Vec::new();
            let decision = rule_set.decide(&query, &mut |id| monitors.push(name(id)));
            prop_assert_eq!((name(decision.rule), monitors), oracle.decide(&query), "{:?}", query);
            let rule = &rule_set.rules()[decision.rule.0 as usize];
            prop_assert_eq!((Some(decision.action), decision.log), (rule.action, rule.log));

            let nat = NatQuery { from, source, destination, transport };
            let found = rule_set.destination_nat(&nat).map(|rule| nat_name(rule.id));
            prop_assert_eq!(found, oracle.destination_nat(&nat), "{:?}", nat);
            let found = rule_set.source_nat(&query).map(|rule| nat_name(rule.id));
            prop_assert_eq!(found, oracle.source_nat(&query), "{:?}", query);
            let belongs = oracle.source_belongs(from, source);
            prop_assert_eq!(rule_set.source_belongs(from, source), belongs, "{} {:?}", source, from);
        }
    }

    #[test]
    fn printing_is_a_fixed_point(text in policies()) {
        let first = load_all(&text);
        let canonical = first.policy.print();
        let second = load_all(&canonical);
        prop_assert_eq!(&first.policy, &second.policy);
        prop_assert_eq!(second.policy.print(), canonical);
        prop_assert_eq!(first.rule_set.digest(), second.rule_set.digest());
    }
}

const BASE: &str = "\
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  inside: { interfaces: [int], networks: [10.0.0.0/8] }
  dmz: { interfaces: [dmz], networks: [10.9.0.0/16, '2600:9::/32'] }
";

#[test]
fn an_address_lies_in_the_zone_of_its_longest_prefix() {
    let rule_set = load_all(BASE).rule_set;
    let zone = |address: &str| rule_set.zone_of_address(address.parse().unwrap());
    assert_eq!(zone("10.9.0.1"), crate::ZoneLookup::Zone(ZoneId(2)));
    assert_eq!(zone("10.8.0.1"), crate::ZoneLookup::Zone(ZoneId(1)));
    assert_eq!(zone("192.0.2.1"), crate::ZoneLookup::Zone(ZoneId(0)));
    assert_eq!(zone("2600::1"), crate::ZoneLookup::Zone(ZoneId(0)));
    // A host behind `inside` cannot pretend to be in `dmz`, though 10.0.0.0/8 holds the address.
    assert!(!rule_set.source_belongs(ZoneId(1), "10.9.0.1".parse().unwrap()));
}

#[test]
fn zones_without_networks_share_the_rest() {
    let text = format!("{BASE}  partner: {{ interfaces: [p] }}\n");
    let lookup = load_all(&text).rule_set.zone_of_address("192.0.2.1".parse().unwrap());
    assert_eq!(lookup, crate::ZoneLookup::Ambiguous(vec![ZoneId(0), ZoneId(3)]));
    let text = "apiVersion: gabion/v1\nzones:\n  a: { interfaces: [x], networks: 10.0.0.0/8 }\n";
    let lookup = load_all(text).rule_set.zone_of_address("192.0.2.1".parse().unwrap());
    assert_eq!(lookup, crate::ZoneLookup::Nowhere);
}

#[test]
fn translated_addresses_are_named_once_and_only_of_rules_in_force() {
    let text = format!(
        "{BASE}nat:
  - {{ name: a, kind: dnat, from: any, to: [192.0.2.1, 192.0.2.2], target: 10.0.0.1 }}
  - {{ name: b, kind: snat, from: any, out: any, address: 192.0.2.2-192.0.2.4 }}
  - {{ name: c, kind: snat, from: any, out: any, address: self }}
  - {{ name: d, kind: snat, from: any, out: any, address: 192.0.2.9, meta: {{ expires: 2026-11-20 }} }}
"
    );
    let rule_set = load_all(&text).rule_set;
    let addresses: Vec<String> = rule_set.translated_addresses().map(|a| a.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]);
    assert_eq!(rule_set.nat_rules().len(), 4);
    assert_eq!(rule_set.source_nat_by_id(crate::NatId(3)).unwrap().name, "d");
    assert!(rule_set.destination_nat_by_id(crate::NatId(3)).is_none());
}

#[test]
fn defaults_have_a_name_and_a_line_for_every_zone_pair() {
    let written = format!("{BASE}settings:\n  default: {{ action: reject }}\n");
    for (text, lines) in [(BASE, [3, 4, 5]), (&*written, [7, 7, 7])] {
        let rule_set = load_all(text).rule_set;
        let rules: Vec<_> = rule_set.rules().iter().map(|r| (r.name.as_str(), r.line)).collect();
        assert_eq!(rules.len(), 9);
        assert_eq!(rules[0], ("default:internet->internet", lines[0]));
        assert_eq!(rules[5], ("default:inside->dmz", lines[1]));
        assert_eq!(rules[6], ("default:dmz->internet", lines[2]));
    }
}
