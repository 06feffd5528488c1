#![allow(clippy::unwrap_used)]
use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::{
    Action, Decision, Diagnostic, Lint, LintGroup, NatQuery, Policy, Query, RuleSet, Transport,
    ZoneId, load, load_and_lint,
};

const HEAD: &str = "\
apiVersion: gabion/v1
zones:
  rest: { interfaces: [ext] }
  inside: { interfaces: [int], networks: [10.0.0.0/30, '2600::/127'] }
";

/// Whatever rules of these words tell apart, some packet below tells apart.
const ADDRESSES: [&str; 8] = [
    "10.0.0.0",
    "10.0.0.0/31",
    "10.0.0.1-10.0.0.2",
    "10.0.0.3",
    "10.0.0.2-255.255.255.255",
    "0.0.0.0-10.0.0.1",
    "2600::",
    "2600::1-2600:ffff::",
];
const SERVICES: [&str; 15] = [
    "tcp",
    "tcp/1",
    "tcp/0-1",
    "tcp/2-65535",
    "tcp/1->any",
    "tcp/2-65535->1",
    "udp",
    "udp/1",
    "icmp",
    "icmp/8",
    "icmp/8/0",
    "icmp/255/255",
    "icmpv6",
    "icmpv6/128",
    "proto/47",
];

fn sources() -> Vec<IpAddr> {
    [
        "10.0.0.0", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "9.0.0.0", "2600::", "2600::1",
        "2601::",
    ]
    .map(|address| address.parse().unwrap())
    .into()
}

fn transports(ipv4: bool) -> Vec<Transport> {
    let mut all = Vec::new();
    for source_port in [0, 1, 2] {
        for destination_port in [0, 1, 2] {
            all.push(Transport::Tcp { source_port, destination_port });
        }
    }
    for destination_port in [0, 1, 2] {
        all.push(Transport::Udp { source_port: 1, destination_port });
    }
    for (kind, code) in [(8, 0), (8, 255), (0, 0), (255, 255), (255, 0), (128, 1)] {
        all.push(if ipv4 {
            Transport::Icmp { kind, code }
        } else {
            Transport::Icmpv6 { kind, code }
        });
    }
    all.extend([47, 50].map(|protocol| Transport::Other { protocol }));
    all
}

/// One packet of each kind that the rules can tell apart.
fn packets() -> Vec<Query> {
    let mut packets = Vec::new();
    for (from, to) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (ZoneId(a), ZoneId(b))) {
        for source in sources() {
            for destination in sources() {
                if source.is_ipv4() != destination.is_ipv4() {
                    continue;
                }
                for transport in transports(source.is_ipv4()) {
                    packets.push(Query { from, to, source, destination, transport });
                }
            }
        }
    }
    packets
}

fn one_or_many(words: Vec<&'static str>) -> String {
    format!("['{}']", words.join("', '"))
}

fn list(words: &'static [&'static str], most: usize) -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("any".to_owned()),
        3 => subsequence(words.to_vec(), 1..=most).prop_map(one_or_many),
    ]
}

fn zones() -> impl Strategy<Value = &'static str> {
    select(vec!["any", "rest", "inside", "[rest, inside]"])
}

/// A rule without its name.
fn rule() -> impl Strategy<Value = String> {
    let action = select(vec!["allow", "allow", "drop", "drop", "reject", "monitor"]);
    let log = select(vec!["none", "none", "sampled"]);
    (zones(), zones(), list(&ADDRESSES, 3), list(&ADDRESSES, 3), list(&SERVICES, 6), action, log)
        .prop_map(|(from, to, source, destination, service, action, log)| {
            format!(
                "from: {from}, to: {to}, source: {source}, destination: {destination}, service: {service}, action: {action}, log: {log}"
            )
        })
}

fn text(rules: &[String]) -> String {
    let rules =
        (0..).zip(rules).map(|(n, rule): (usize, _)| format!("  - {{ name: r{n}, {rule} }}\n"));
    let rules: String = rules.collect();
    let rules = if rules.is_empty() { " []".to_owned() } else { format!("\n{rules}") };
    format!("{HEAD}rules:{rules}")
}

/// The rules that a lint speaks of, with what it says.
fn found(text: &str, lints: &[Lint]) -> Vec<(usize, Diagnostic)> {
    let policy = load("it", text, None).unwrap().policy;
    let line = |place: crate::diagnostic::Place| place.line;
    let find = |diagnostic: Diagnostic| {
        let lint = diagnostic.lint.unwrap();
        let rules = policy.rules.iter().map(|rule| line(rule.place));
        let nat = policy.nat.iter().map(|rule| line(rule.place));
        let index = rules.clone().position(|at| at == diagnostic.line);
        let index = index.or(nat.clone().position(|at| at == diagnostic.line));
        lints.contains(&lint).then(|| (index.unwrap(), diagnostic))
    };
    policy.lint("it", text, None, LintGroup::Usual).into_iter().filter_map(find).collect()
}

/// Every rule that decides a packet, or counts one as a monitor rule.
fn live(rule_set: &RuleSet, packets: &[Query]) -> BTreeSet<usize> {
    let mut live = BTreeSet::new();
    for packet in packets {
        let mut monitors = Vec::new();
        let decision = rule_set.decide(packet, &mut |rule| monitors.push(rule));
        live.extend(monitors.iter().chain([&decision.rule]).map(|rule| rule.0 as usize));
    }
    live
}

fn is_above(diagnostic: &Diagnostic) -> bool {
    diagnostic.lint == Some(Lint::ShadowedRule) || diagnostic.message.contains("above it")
}

proptest! {
    /// In a universe that is enumerated, a rule is called shadowed, redundant by what stands above it
    /// or never matching if and only if it decides no packet.
    #[test]
    fn a_rule_is_dead_exactly_if_no_packet_meets_it(rules in prop::collection::vec(rule(), 1..9)) {
        let text = text(&rules);
        let live = live(&load("it", &text, None).unwrap().rule_set, &packets());
        let lints = [Lint::ShadowedRule, Lint::RedundantRule, Lint::NeverMatches];
        let dead: BTreeSet<usize> = found(&text, &lints)
            .into_iter()
            .filter(|(_, said)| is_above(said) || said.lint == Some(Lint::NeverMatches))
            .map(|(index, _)| index)
            .collect();
        for index in 0..rules.len() {
            prop_assert_eq!(dead.contains(&index), !live.contains(&index), "r{} of\n{}", index, text);
        }
    }

    /// What is called redundant can be taken out, and what is decided alike stays decided alike.
    #[test]
    fn a_redundant_rule_can_be_taken_out(rules in prop::collection::vec(rule(), 1..9)) {
        let whole = text(&rules);
        let same = |decision: Decision| (decision.action, decision.log);
        for (index, said) in found(&whole, &[Lint::RedundantRule]) {
            let mut rest = rules.clone();
            rest.remove(index);
            let (with, without) = (load("it", &whole, None).unwrap(), load("it", &text(&rest), None).unwrap());
            for packet in packets() {
                prop_assert_eq!(
                    same(with.rule_set.decide(&packet, &mut |_| {})),
                    same(without.rule_set.decide(&packet, &mut |_| {})),
                    "{} of\n{}", said, whole
                );
            }
        }
    }

    /// A NAT rule is called shadowed exactly if it translates no packet.
    #[test]
    fn a_nat_rule_is_dead_exactly_if_it_translates_nothing(
        rules in prop::collection::vec((zones(), list(&ADDRESSES, 2), list(&SERVICES, 4), subsequence(ADDRESSES[..4].to_vec(), 1..3)), 1..7),
    ) {
        let rule = |(n, (from, source, service, to)): (usize, &(&str, String, String, Vec<&str>))| {
            format!("  - {{ name: n{n}, kind: dnat, from: {from}, source: {source}, service: {service}, to: ['{}'], target: 10.0.0.1 }}\n", to.join("', '"))
        };
        let rules: String = rules.iter().enumerate().map(rule).collect();
        let text = format!("{HEAD}nat:\n{rules}");
        let loaded = load("it", &text, None).unwrap();
        let mut live = BTreeSet::new();
        for Query { from, source, destination, transport, .. } in packets() {
            let query = NatQuery { from, source, destination, transport };
            live.extend(loaded.rule_set.destination_nat(&query).map(|nat| usize::from(nat.id.0)));
        }
        let dead: BTreeSet<usize> = found(&text, &[Lint::ShadowedNat, Lint::NeverMatches]).into_iter().map(|(index, _)| index).collect();
        for index in 0..loaded.rule_set.nat_rules().len() {
            prop_assert_eq!(dead.contains(&index), !live.contains(&index), "n{} of\n{}", index, text);
        }
    }

    /// A published server is called unreachable exactly if no packet that is sent to it is allowed.
    #[test]
    fn a_server_is_unpermitted_exactly_if_nothing_to_it_is_allowed(
        rules in prop::collection::vec(rule(), 1..7), from in zones(), service in list(&SERVICES[..6], 3),
    ) {
        let text = format!(
            "{}nat:\n  - {{ name: n, kind: dnat, from: {from}, service: {service}, to: 192.0.2.1, target: 10.0.0.2 }}\n",
            text(&rules)
        );
        let rule_set = load("it", &text, None).unwrap().rule_set;
        let target: IpAddr = "10.0.0.2".parse().unwrap();
        let reaches = packets().into_iter().filter(|packet| packet.destination == target).any(|packet| {
            let Query { from, source, transport, .. } = packet;
            let sent = NatQuery { from, source, transport, destination: "192.0.2.1".parse().unwrap() };
            let translated = rule_set.destination_nat(&sent).is_some();
            let goes_inside = packet.to == ZoneId(1);
            translated && goes_inside && rule_set.decide(&packet, &mut |_| {}).action == Action::Allow
        });
        prop_assert_eq!(found(&text, &[Lint::UnpermittedNat]).is_empty(), reaches, "{}", text);
    }
}

fn lints(text: &str) -> Vec<&'static str> {
    let loaded = load_and_lint("it", text, None, LintGroup::Usual).unwrap();
    loaded.warnings.iter().map(|warning| warning.lint.unwrap().label()).collect()
}

#[test]
fn a_lint_is_silenced_for_one_rule_or_for_all() {
    let rules = |settings: &str, meta: &str| {
        format!(
            "{HEAD}settings: {{ default: {{ action: drop }}{settings} }}
rules:
  - {{ name: first, from: rest, to: inside, service: tcp, action: allow }}
  - {{ name: second, from: rest, to: inside, service: tcp/22, action: drop{meta} }}
  - {{ name: third, from: rest, to: inside, service: tcp/23, action: drop }}
"
        )
    };
    assert_eq!(lints(&rules("", "")), ["shadowed-rule", "shadowed-rule"]);
    assert_eq!(lints(&rules("", ", meta: { allow-lints: shadowed-rule }")), ["shadowed-rule"]);
    assert_eq!(lints(&rules("", ", meta: { allow-lints: unused-zone }")).len(), 2);
    assert!(lints(&rules(", allow-lints: [shadowed-rule]", "")).is_empty());
}

fn policy(rules: usize) -> (String, std::sync::Arc<Policy>) {
    let rule = |n: usize| {
        let (a, b) = (n / 250 % 250, n % 250);
        format!(
            "  - {{ name: r{n}, from: any, to: any, destination: 10.{a}.{b}.0/24, service: tcp/{}, action: allow }}\n",
            n % 60_000
        )
    };
    let rules: String = (0..rules).map(rule).collect();
    let text = format!("{HEAD}settings: {{ default: {{ log: none }} }}\nrules:\n{rules}");
    let policy = load("it", &text, None).unwrap().policy;
    (text, policy)
}

/// Twice as many rules may not be four times the work: the budget would be spent.
#[test]
fn many_rules_are_within_the_budget() {
    let (text, policy) = policy(30_000);
    let said = policy.lint("it", &text, None, LintGroup::Usual);
    let said: Vec<_> = said.iter().map(|one| one.lint.unwrap()).collect();
    assert!(!said.contains(&Lint::LintsIncomplete), "{said:?}");
}

/// Prefixes of a few sites, ports that meet now and then.
fn wide_rule() -> impl Strategy<Value = String> {
    let prefix = || {
        (0_u32..3, any::<u16>(), select(vec![8, 12, 16, 20, 24, 28, 32])).prop_map(
            |(site, bits, length)| {
                let address = (10 + site) << 24 | u32::from(bits) << 8;
                let address = address & u32::MAX.checked_shl(32 - length).unwrap_or(0);
                format!("{}/{length}", std::net::Ipv4Addr::from_bits(address))
            },
        )
    };
    let addresses = || prop_oneof![Just("any".to_owned()), prefix(), prefix()];
    let service = prop_oneof![
        Just("any".to_owned()),
        Just("tcp".to_owned()),
        (0_u16..50, 0_u16..50).prop_map(|(a, b)| format!("tcp/{}-{}", a.min(b), a.max(b))),
    ];
    (zones(), zones(), addresses(), addresses(), service, select(vec!["allow", "drop"])).prop_map(
        |(from, to, source, destination, service, action)| {
            format!("from: {from}, to: {to}, source: {source}, destination: {destination}, service: {service}, action: {action}")
        },
    )
}

proptest! {
    /// No packet of a rule that is called dead, drawn from all that it matches, is decided by it.
    #[test]
    fn packets_of_a_dead_rule_are_decided_above_it(rules in prop::collection::vec(wide_rule(), 20..120)) {
        let text = text(&rules);
        let loaded = load("it", &text, None).unwrap();
        let mut surveyor = super::Surveyor::new(&loaded.policy);
        let regions = super::rule_regions(&loaded.policy, None, &mut surveyor);
        let mut work = super::Work::new();
        for (index, said) in found(&text, &[Lint::ShadowedRule, Lint::RedundantRule]) {
            if !is_above(&said) {
                continue;
            }
            let region = regions[index][0].as_ref().unwrap();
            for cell in region.cells() {
                for _ in 0..20 {
                    let point = cell.point(|| work.random());
                    let decision = loaded.rule_set.decide(&query(&point), &mut |_| {});
                    prop_assert!((decision.rule.0 as usize) < index, "{} decides {:?} of\n{}", said, point, text);
                }
            }
        }
    }
}

/// A packet of IPv4.
fn query(point: &super::space::Point) -> Query {
    let [source, destination, protocol, first, second] = point.at;
    let address =
        |number: u128| IpAddr::V4(std::net::Ipv4Addr::from_bits(number.try_into().unwrap()));
    let zone = |bit: u64| ZoneId(bit.trailing_zeros().try_into().unwrap());
    let (first, second): (u16, u16) = (first.try_into().unwrap(), second.try_into().unwrap());
    let transport = match u8::try_from(protocol).unwrap() {
        6 => Transport::Tcp { source_port: first, destination_port: second },
        17 => Transport::Udp { source_port: first, destination_port: second },
        1 => Transport::Icmp { kind: first.min(255) as u8, code: second.min(255) as u8 },
        protocol => Transport::Other { protocol },
    };
    Query {
        from: zone(point.from),
        to: zone(point.to),
        source: address(source),
        destination: address(destination),
        transport,
    }
}
