//! First packets of flows that meet the rules of a set.

use gabion_rules::{Query, Transport, ZoneId};

use super::{Addresses, Dice, Family, Rule, Service};

/// Which rules packets are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Popularity {
    /// Each rule as often as any other.
    Uniform,
    /// Few rules get most packets: the n-th of a random order gets a share of 1/n.
    Zipf,
}

impl Popularity {
    pub const ALL: [Self; 2] = [Self::Uniform, Self::Zipf];

    /// As in the names of benchmarks.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// Packets that lie somewhere in a rule each; where rules overlap, one above may decide.
pub fn hits(rules: &[Rule], popularity: Popularity, count: usize, seed: u64) -> Vec<Query> {
    let mut dice = Dice::new(seed);
    let mut order: Vec<usize> = (0..rules.len()).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, dice.below(at as u64 + 1) as usize);
    }
    let last = (rules.len() as f64).ln();
    let hit = |_| {
        let place = match popularity {
            Popularity::Uniform => dice.below(rules.len() as u64) as usize,
            // The inverse of the logarithm, which is the sum of 1/n.
            Popularity::Zipf => (dice.fraction() * last).exp() as usize,
        };
        let rule = &rules[order[place.min(order.len() - 1)]];
        inside(rule, &mut dice)
    };
    (0..count).map(hit).collect()
}

/// For each end of each range of a rule the packet that is just inside, and that just outside.
pub fn boundaries(rule: &Rule, dice: &mut Dice) -> Vec<Query> {
    let base = inside(rule, dice);
    let mut queries = vec![base];
    let around = |list: &[Addresses]| -> Vec<_> {
        let ends = |a: &Addresses| {
            let most = if a.family == Family::V4 { u128::from(u32::MAX) } else { u128::MAX };
            let (before, after) = (a.first.saturating_sub(1), a.last.saturating_add(1).min(most));
            [before, a.first, a.last, after].map(|number| Addresses::address(a.family, number))
        };
        list.iter().flat_map(ends).collect()
    };
    queries.extend(around(&rule.source).into_iter().map(|source| Query { source, ..base }));
    let destinations = around(&rule.destination).into_iter();
    queries.extend(destinations.map(|destination| Query { destination, ..base }));
    let (Service::Tcp { source, destination } | Service::Udp { source, destination }) =
        rule.service
    else {
        return queries;
    };
    let ends =
        |(first, last): (u16, u16)| [first.saturating_sub(1), first, last, last.saturating_add(1)];
    let transport = |source_port, destination_port| match rule.service {
        Service::Udp { .. } => Transport::Udp { source_port, destination_port },
        Service::Tcp { .. } | Service::Any | Service::Icmp(..) => {
            Transport::Tcp { source_port, destination_port }
        }
    };
    queries.extend(
        ends(source).map(|port| Query { transport: transport(port, destination.0), ..base }),
    );
    queries.extend(
        ends(destination).map(|port| Query { transport: transport(source.0, port), ..base }),
    );
    queries
}

fn inside(rule: &Rule, dice: &mut Dice) -> Query {
    let family = match (rule.source.first(), rule.destination.first(), rule.service) {
        (Some(range), _, _) | (None, Some(range), _) => range.family,
        (None, None, Service::Icmp(family, _)) => family,
        (None, None, Service::Any | Service::Tcp { .. } | Service::Udp { .. }) => Family::V4,
    };
    let everything = Addresses::prefix(family, 0, 0);
    let address = |list: &[Addresses], dice: &mut Dice| {
        let range = match list.len() {
            0 => everything,
            len => list[dice.below(len as u64) as usize],
        };
        Addresses::address(range.family, dice.within(range.first, range.last))
    };
    let source = address(&rule.source, dice);
    let destination = address(&rule.destination, dice);
    let mut port = |(first, last): (u16, u16)| dice.within(first.into(), last.into()) as u16;
    let transport = match rule.service {
        Service::Any => {
            Transport::Tcp { source_port: port((1_024, u16::MAX)), destination_port: 443 }
        }
        Service::Tcp { source, destination } => {
            Transport::Tcp { source_port: port(source), destination_port: port(destination) }
        }
        Service::Udp { source, destination } => {
            Transport::Udp { source_port: port(source), destination_port: port(destination) }
        }
        Service::Icmp(Family::V4, kind) => Transport::Icmp { kind: kind.unwrap_or(8), code: 0 },
        Service::Icmp(Family::V6, kind) => Transport::Icmpv6 { kind: kind.unwrap_or(128), code: 0 },
    };
    Query { from: ZoneId(0), to: ZoneId(1), source, destination, transport }
}
