//! Rules as boxes and packets as points, in four fields of numbers.

use super::classes::{ClassRange, Classes};
use super::{AddressMatch, Conditions, ServiceMatch};
use crate::service::{ANY_SERVICE, ServiceBox, service_key};
use crate::{Query, Transport};

/// Fields of a box: class of the source, class of the destination, protocol with destination port
/// (or ICMP type and code), source port.
pub(super) const FIELDS: usize = 4;

/// A packet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point(pub [u32; FIELDS]);

impl Point {
    #[inline]
    pub(super) fn new(classes: &Classes, query: &Query) -> Self {
        let source_port = match query.transport {
            Transport::Tcp { source_port, .. } | Transport::Udp { source_port, .. } => source_port,
            Transport::Icmp { .. } | Transport::Icmpv6 { .. } | Transport::Other { .. } => 0,
        };
        let [source, destination] = classes.of_pair(query.source, query.destination);
        Self([source, destination, service_key(&query.transport), u32::from(source_port)])
    }
}

/// A part of a rule, or the whole of it: half a cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(32))]
pub(super) struct Entry {
    first: [u32; 3],
    last: [u32; 3],
    source_ports: (u16, u16),
    /// The rule, and in the highest bit whether the box holds more than the rule.
    rule: u32,
}

const LOOSE: u32 = 1 << 31;

impl Entry {
    #[inline]
    pub(super) fn contains(&self, point: &Point) -> bool {
        let within = |field: usize| {
            point.0[field].wrapping_sub(self.first[field]) <= self.last[field] - self.first[field]
        };
        let (first, last) = self.source_ports;
        let ports = u32::from(first) <= point.0[3] && point.0[3] <= u32::from(last);
        within(0) & within(1) & within(2) & ports
    }

    #[inline]
    pub(super) fn range(&self, field: usize) -> (u32, u32) {
        match field {
            0..3 => (self.first[field], self.last[field]),
            _ => (self.source_ports.0.into(), self.source_ports.1.into()),
        }
    }

    #[inline]
    pub(super) fn rule(&self) -> u32 {
        self.rule & !LOOSE
    }

    /// Whether a packet in the box need not meet the rule.
    #[inline]
    pub(super) fn is_loose(&self) -> bool {
        self.rule & LOOSE != 0
    }
}

/// Makes boxes of rules.
pub(super) struct Boxes<'c> {
    classes: &'c Classes,
    /// How many boxes may still be made of rules that need several.
    budget: usize,
}

/// A rule of lists becomes up to so many boxes, one for each combination.
const COMBINATIONS: usize = 64;
/// Boxes beyond one for each rule: a bound on memory and work, far above what real rule sets need.
const EXTRA_BOXES: usize = 1 << 20;

impl<'c> Boxes<'c> {
    pub(super) fn new(classes: &'c Classes, rules: usize) -> Self {
        Self { classes, budget: EXTRA_BOXES + 4 * rules }
    }

    /// Adds the boxes of a rule, which hold every packet that meets it. Where lists would multiply
    /// to too many, one list is put in one box from its first to its last, and the rule itself is
    /// asked in the end.
    pub(super) fn add(&mut self, rule: u32, conditions: &Conditions, entries: &mut Vec<Entry>) {
        let mut sources = self.classes.of_match(&conditions.source);
        let mut destinations = self.classes.of_match(&conditions.destination);
        let mut services = match &conditions.service {
            ServiceMatch::Any => vec![ANY_SERVICE],
            ServiceMatch::Set(set) => set.boxes(),
        };
        let mut is_loose = false;
        let (s, d) = (sources.len(), destinations.len());
        // The more selective address stays a list; a single network selects better than a long list.
        if s > 1 && d > 1 && s * d > COMBINATIONS {
            is_loose |= if s > d { close(&mut sources) } else { close(&mut destinations) };
        } else if s > COMBINATIONS && selects(&conditions.destination) {
            is_loose |= close(&mut sources);
        } else if d > COMBINATIONS && selects(&conditions.source) {
            is_loose |= close(&mut destinations);
        }
        if services.len() > 1 && sources.len() * destinations.len() * services.len() > COMBINATIONS
        {
            let is_selected = sources.len() > 1
                || destinations.len() > 1
                || selects(&conditions.source)
                || selects(&conditions.destination);
            if is_selected {
                is_loose |= close_services(&mut services);
            }
        }
        if sources.len() * destinations.len() * services.len() > self.budget {
            is_loose |=
                close(&mut sources) | close(&mut destinations) | close_services(&mut services);
        }
        self.budget =
            self.budget.saturating_sub(sources.len() * destinations.len() * services.len());
        for service in &services {
            let rule = if is_loose || !service.is_exact { rule | LOOSE } else { rule };
            for source in &sources {
                entries.extend(destinations.iter().map(|destination| Entry {
                    first: [source.0, destination.0, service.keys.0],
                    last: [source.1, destination.1, service.keys.1],
                    source_ports: service.source_ports,
                    rule,
                }));
            }
        }
    }
}

fn selects(wanted: &AddressMatch) -> bool {
    match wanted {
        AddressMatch::Any => false,
        AddressMatch::Ipv4Range(first, last) => last - first < 1 << 24,
        AddressMatch::Set(set) => set.range_count() <= COMBINATIONS,
    }
}

/// Puts one range around all; whether that holds more than they.
fn close(ranges: &mut Vec<ClassRange>) -> bool {
    let hull = ranges.iter().copied().reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let is_loose = ranges.len() > 1;
    ranges.truncate(0);
    ranges.extend(hull);
    is_loose
}

fn close_services(services: &mut Vec<ServiceBox>) -> bool {
    let is_loose = services.len() > 1;
    let hull = services.iter().copied().reduce(|a, b| ServiceBox {
        keys: (a.keys.0.min(b.keys.0), a.keys.1.max(b.keys.1)),
        source_ports: (
            a.source_ports.0.min(b.source_ports.0),
            a.source_ports.1.max(b.source_ports.1),
        ),
        is_exact: false,
    });
    services.truncate(0);
    services.extend(hull);
    is_loose
}
