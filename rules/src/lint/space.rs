//! Rules as sets of packets: products of zones, addresses and services, and the boxes they are made of.

use std::collections::HashMap;
use std::rc::Rc;

use crate::address::{AddressSet, IpRange};
use crate::object::{ObjectId, Term};
use crate::policy::{Match, Policy, Zones};
use crate::service::{ICMP, ICMPV6, IcmpFamily, Ports, Service, TCP, UDP};

/// Numbers from the first to the second, both included.
pub(super) type Span = (u128, u128);

/// Protocol; source port or ICMP type; destination port or ICMP code. Where a protocol has none of
/// them, everything.
pub(super) type ServiceBox = [Span; 3];

/// Index of what a rule matches in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn all_addresses(self) -> Span {
        match self {
            Self::V4 => (0, u32::MAX.into()),
            Self::V6 => (0, u128::MAX),
        }
    }
}

const ANY_PORT: Span = (0, 65_535);
const ANY_SERVICE: ServiceBox = [(0, 255), ANY_PORT, ANY_PORT];

/// What a rule matches in one family: every combination of its zones, addresses and services. No part
/// is empty.
#[derive(Debug, Clone)]
pub(super) struct Region {
    /// One bit for each zone.
    pub from: u64,
    pub to: u64,
    /// Sorted, not touching.
    pub sources: Rc<[Span]>,
    pub destinations: Rc<[Span]>,
    pub services: Rc<[ServiceBox]>,
}

/// What a rule matches; index with [`Family`].
pub(super) type Regions = [Option<Region>; 2];

/// A product of single spans: source, destination, and the three of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub from: u64,
    pub to: u64,
    pub spans: [Span; 5],
}

/// A packet, as far as rules look at it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// One bit each.
    pub from: u64,
    pub to: u64,
    pub at: [u128; 5],
}

fn holds(span: Span, number: u128) -> bool {
    span.0 <= number && number <= span.1
}

fn common(a: Span, b: Span) -> Option<Span> {
    let both = (a.0.max(b.0), a.1.min(b.1));
    (both.0 <= both.1).then_some(both)
}

/// The span of a sorted list that holds the number.
fn span_with(spans: &[Span], number: u128) -> Option<Span> {
    let behind = spans.partition_point(|span| span.0 <= number);
    let span = *spans.get(behind.checked_sub(1)?)?;
    holds(span, number).then_some(span)
}

/// Whether each of the spans lies in one of a sorted list of spans that do not touch.
pub(super) fn includes(outer: &[Span], inner: &[Span]) -> bool {
    std::ptr::eq(outer, inner)
        || inner.iter().all(|span| span_with(outer, span.0).is_some_and(|all| span.1 <= all.1))
}

/// What two sorted lists have in common.
pub(super) fn intersection(a: &[Span], b: &[Span]) -> Vec<Span> {
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    let mut both = Vec::new();
    while let (Some(x), Some(y)) = (a.peek(), b.peek()) {
        both.extend(common(**x, **y));
        if x.1 <= y.1 {
            a.next()
        } else {
            b.next()
        };
    }
    both
}

fn touch(a: &[Span], b: &[Span]) -> bool {
    let (few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    few.iter().any(|span| {
        let behind = many.partition_point(|other| other.0 <= span.1);
        behind.checked_sub(1).and_then(|at| many.get(at)).is_some_and(|other| other.1 >= span.0)
    })
}

/// Hands what is left of `piece` without `hole`, which it meets, to `rest`.
fn cut<const N: usize>(piece: [Span; N], hole: &[Span; N], mut rest: impl FnMut([Span; N])) {
    let mut inner = piece;
    for dimension in 0..N {
        let (span, gone) = (inner[dimension], hole[dimension]);
        if span.0 < gone.0 {
            let mut lower = inner;
            lower[dimension] = (span.0, gone.0 - 1);
            rest(lower);
        }
        if span.1 > gone.1 {
            let mut upper = inner;
            upper[dimension] = (gone.1 + 1, span.1);
            rest(upper);
        }
        inner[dimension] = (span.0.max(gone.0), span.1.min(gone.1));
    }
}

fn overlap<const N: usize>(a: &[Span; N], b: &[Span; N]) -> bool {
    a.iter().zip(b).all(|(a, b)| common(*a, *b).is_some())
}

fn within<const N: usize>(inner: &[Span; N], outer: &[Span; N]) -> bool {
    inner.iter().zip(outer).all(|(inner, outer)| outer.0 <= inner.0 && inner.1 <= outer.1)
}

/// Pieces into which one service is cut while it is looked for in a list; beyond, it is taken not to
/// be there, and the caller's search over packets decides.
const SERVICE_PIECES: usize = 256;

fn services_include(outer: &[ServiceBox], inner: &[ServiceBox]) -> bool {
    let covered = |wanted: &ServiceBox| {
        let mut left = vec![*wanted];
        for _ in 0..SERVICE_PIECES {
            let Some(piece) = left.pop() else { return true };
            if outer.iter().any(|all| within(&piece, all)) {
                continue;
            }
            let Some(hole) = outer.iter().find(|part| overlap(&piece, part)) else { return false };
            cut(piece, hole, |rest| left.push(rest));
        }
        false
    };
    std::ptr::eq(outer, inner) || inner.iter().all(covered)
}

impl Region {
    pub(super) fn holds(&self, point: &Point) -> bool {
        let [source, destination, ..] = point.at;
        self.from & point.from != 0
            && self.to & point.to != 0
            && self.service_with(point).is_some()
            && span_with(&self.destinations, destination).is_some()
            && span_with(&self.sources, source).is_some()
    }

    /// The largest of its cells that holds a point.
    pub(super) fn around(&self, point: &Point) -> Option<Cell> {
        let [source, destination, ..] = point.at;
        let [protocol, first, second] = *self.service_with(point)?;
        let source = span_with(&self.sources, source)?;
        let destination = span_with(&self.destinations, destination)?;
        let spans = [source, destination, protocol, first, second];
        Some(Cell { from: self.from, to: self.to, spans })
    }

    fn service_with(&self, point: &Point) -> Option<&ServiceBox> {
        let [_, _, protocol, first, second] = point.at;
        let here = |service: &&ServiceBox| {
            holds(service[0], protocol) && holds(service[1], first) && holds(service[2], second)
        };
        self.services.iter().filter(here).max_by_key(|service| size(&**service))
    }

    /// Whether all of another region is known to lie in this one.
    pub(super) fn includes(&self, other: &Self) -> bool {
        other.from & !self.from == 0
            && other.to & !self.to == 0
            && includes(&self.destinations, &other.destinations)
            && includes(&self.sources, &other.sources)
            && services_include(&self.services, &other.services)
    }

    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.from & other.from != 0
            && self.to & other.to != 0
            && touch(&self.destinations, &other.destinations)
            && touch(&self.sources, &other.sources)
            && self.services.iter().any(|a| other.services.iter().any(|b| overlap(a, b)))
    }

    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        let pairs = self.services.iter().flat_map(|a| other.services.iter().map(move |b| (a, b)));
        let services: Vec<ServiceBox> = pairs
            .filter_map(|(a, b)| {
                Some([common(a[0], b[0])?, common(a[1], b[1])?, common(a[2], b[2])?])
            })
            .collect();
        let both = Self {
            from: self.from & other.from,
            to: self.to & other.to,
            sources: intersection(&self.sources, &other.sources).into(),
            destinations: intersection(&self.destinations, &other.destinations).into(),
            services: services.into(),
        };
        both.is_something().then_some(both)
    }

    fn is_something(&self) -> bool {
        self.from != 0
            && self.to != 0
            && !self.sources.is_empty()
            && !self.destinations.is_empty()
            && !self.services.is_empty()
    }

    /// Its boxes, which together are the region.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> + '_ {
        self.services.iter().flat_map(move |[protocol, first, second]| {
            self.destinations.iter().flat_map(move |destination| {
                self.sources.iter().map(move |source| Cell {
                    from: self.from,
                    to: self.to,
                    spans: [*source, *destination, *protocol, *first, *second],
                })
            })
        })
    }
}

/// The number of bits of a box, more or less: enough to tell large from small.
fn size(spans: &[Span]) -> u32 {
    spans.iter().map(|span| (span.1 - span.0).checked_ilog2().map_or(0, |bits| bits + 1)).sum()
}

impl Cell {
    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        let (from, to) = (self.from & other.from, self.to & other.to);
        let mut spans = self.spans;
        for (span, other) in spans.iter_mut().zip(other.spans) {
            *span = common(*span, other)?;
        }
        (from != 0 && to != 0).then_some(Self { from, to, spans })
    }

    pub(super) fn size(&self) -> u32 {
        size(&self.spans) + self.from.count_ones() + self.to.count_ones()
    }

    /// Hands what is left without `hole`, which lies in this cell, to `rest`.
    pub(super) fn cut(&self, hole: &Self, rest: &mut Vec<Self>) {
        let mut inner = *self;
        if inner.from & !hole.from != 0 {
            rest.push(Self { from: inner.from & !hole.from, ..inner });
            inner.from &= hole.from;
        }
        if inner.to & !hole.to != 0 {
            rest.push(Self { to: inner.to & !hole.to, ..inner });
            inner.to &= hole.to;
        }
        cut(inner.spans, &hole.spans, |spans| rest.push(Self { spans, ..inner }));
    }

    /// One of its packets, chosen by `random` numbers.
    pub(super) fn point(&self, mut random: impl FnMut() -> u64) -> Point {
        let at = self.spans.map(|(first, last)| {
            let number = u128::from(random()) << 64 | u128::from(random());
            match (last - first).checked_add(1) {
                Some(count) => first + number % count,
                None => number,
            }
        });
        let lowest = |mask: u64| mask & mask.wrapping_neg();
        Point { from: lowest(self.from), to: lowest(self.to), at }
    }
}

/// Builds regions, each address list and each service list of an object once.
#[derive(Debug)]
pub(super) struct Surveyor<'p> {
    policy: &'p Policy,
    addresses: HashMap<ObjectId, [Rc<[Span]>; 2]>,
    services: HashMap<ObjectId, [Rc<[ServiceBox]>; 2]>,
    any_addresses: [Rc<[Span]>; 2],
    any_service: Rc<[ServiceBox]>,
}

impl<'p> Surveyor<'p> {
    pub(super) fn new(policy: &'p Policy) -> Self {
        Self {
            policy,
            addresses: HashMap::new(),
            services: HashMap::new(),
            any_addresses: Family::ALL.map(|family| [family.all_addresses()].into()),
            any_service: [ANY_SERVICE].into(),
        }
    }

    pub(super) fn regions(
        &mut self,
        (from, to): (u64, u64),
        source: &Match<IpRange>,
        destination: &Match<IpRange>,
        service: &Match<Service>,
    ) -> Regions {
        let (sources, destinations) = (self.addresses(source), self.addresses(destination));
        let services = self.services(service);
        Family::ALL.map(|family| {
            let region = Region {
                from,
                to,
                sources: sources[family as usize].clone(),
                destinations: destinations[family as usize].clone(),
                services: services[family as usize].clone(),
            };
            region.is_something().then_some(region)
        })
    }

    pub(super) fn zones(&self, wanted: &Zones) -> u64 {
        match wanted {
            Zones::Any => u64::MAX >> (64 - self.policy.zones.len().clamp(1, 64)),
            Zones::Listed(zones) => zones.iter().fold(0, |mask, zone| mask | 1 << zone.0),
        }
    }

    pub(super) fn addresses(&mut self, wanted: &Match<IpRange>) -> [Rc<[Span]>; 2] {
        let terms = match wanted {
            Match::Any => return self.any_addresses.clone(),
            Match::Terms(terms) => terms,
        };
        let spans = |set: &AddressSet| Family::ALL.map(|family| set.spans(family == Family::V4));
        let resolved = &self.policy.resolved;
        match &**terms {
            [Term::Object(id)] => {
                let known = self.addresses.entry(*id);
                known.or_insert_with(|| spans(&resolved.address_set(terms))).clone()
            }
            terms => spans(&resolved.address_set(terms)),
        }
    }

    fn services(&mut self, wanted: &Match<Service>) -> [Rc<[ServiceBox]>; 2] {
        let terms = match wanted {
            Match::Any => return [self.any_service.clone(), self.any_service.clone()],
            Match::Terms(terms) => terms,
        };
        let resolved = &self.policy.resolved;
        let boxes = || {
            Family::ALL.map(|family| {
                let services = resolved.services(terms);
                services.filter_map(|service| service_box(service, family)).collect()
            })
        };
        match &**terms {
            [Term::Object(id)] => self.services.entry(*id).or_insert_with(boxes).clone(),
            _ => boxes(),
        }
    }
}

/// `None` for ICMP of the other family.
fn service_box(service: &Service, family: Family) -> Option<ServiceBox> {
    let span = |n: u128| (n, n);
    let ports = |protocol: u8, ports: &Ports| {
        let range = |ports: &std::ops::RangeInclusive<u16>| {
            (u128::from(*ports.start()), u128::from(*ports.end()))
        };
        [span(protocol.into()), range(&ports.source), range(&ports.destination)]
    };
    // The last type stands for all numbers behind it, so that all types together are everything.
    let icmp = |number: Option<u8>| match number {
        None => ANY_PORT,
        Some(u8::MAX) => (u8::MAX.into(), ANY_PORT.1),
        Some(number) => span(number.into()),
    };
    match service {
        Service::Tcp(wanted) => Some(ports(TCP, wanted)),
        Service::Udp(wanted) => Some(ports(UDP, wanted)),
        Service::Icmp(IcmpFamily::V4, kind, code) => {
            (family == Family::V4).then(|| [span(ICMP.into()), icmp(*kind), icmp(*code)])
        }
        Service::Icmp(IcmpFamily::V6, kind, code) => {
            (family == Family::V6).then(|| [span(ICMPV6.into()), icmp(*kind), icmp(*code)])
        }
        Service::Protocol(number) => Some([span((*number).into()), ANY_PORT, ANY_PORT]),
    }
}
