//! A set of services in the form in which it is asked.

use crate::Transport;

use super::{ALL_PORTS, IcmpFamily, Ports, Service};

/// Services of all protocols.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct ServiceSet {
    tcp: PortSet,
    udp: PortSet,
    icmp: IcmpSet,
    icmpv6: IcmpSet,
    /// One bit per protocol number.
    protocols: [u64; 4],
}

impl ServiceSet {
    pub(crate) fn new<'s>(services: impl IntoIterator<Item = &'s Service>) -> Self {
        let mut set = Self::default();
        let (mut tcp, mut udp) = (Vec::new(), Vec::new());
        for service in services {
            match service {
                Service::Tcp(ports) => tcp.push(ports),
                Service::Udp(ports) => udp.push(ports),
                Service::Icmp(IcmpFamily::V4, kind, code) => set.icmp.0.push((*kind, *code)),
                Service::Icmp(IcmpFamily::V6, kind, code) => set.icmpv6.0.push((*kind, *code)),
                Service::Protocol(number) => {
                    set.protocols[usize::from(number >> 6)] |= 1 << (number & 63);
                }
            }
        }
        Self { tcp: PortSet::new(&tcp), udp: PortSet::new(&udp), ..set }
    }

    pub(crate) fn contains(&self, transport: &Transport) -> bool {
        match *transport {
            Transport::Tcp { source_port, destination_port } => {
                self.tcp.contains(source_port, destination_port)
            }
            Transport::Udp { source_port, destination_port } => {
                self.udp.contains(source_port, destination_port)
            }
            Transport::Icmp { kind, code } => self.icmp.contains(kind, code),
            Transport::Icmpv6 { kind, code } => self.icmpv6.contains(kind, code),
            Transport::Other { protocol } => {
                self.protocols[usize::from(protocol >> 6)] & (1 << (protocol & 63)) != 0
            }
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct PortSet {
    /// Destination ports from any source port: sorted, not touching.
    destinations: Box<[(u16, u16)]>,
    /// Those that name source ports too: (source, destination).
    pairs: Box<[[(u16, u16); 2]]>,
}

impl PortSet {
    fn new(ports: &[&Ports]) -> Self {
        let (mut destinations, mut pairs) = (Vec::new(), Vec::new());
        for ports in ports {
            let destination = (*ports.destination.start(), *ports.destination.end());
            if ports.source == ALL_PORTS {
                destinations.push(destination);
            } else {
                pairs.push([(*ports.source.start(), *ports.source.end()), destination]);
            }
        }
        destinations.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::new();
        for (first, last) in destinations {
            match merged.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self { destinations: merged.into(), pairs: pairs.into() }
    }

    fn contains(&self, source: u16, destination: u16) -> bool {
        let behind = self.destinations.partition_point(|&(first, _)| first <= destination);
        let range = behind.checked_sub(1).and_then(|at| self.destinations.get(at));
        let within = |range: &(u16, u16), port| range.0 <= port && port <= range.1;
        range.is_some_and(|range| within(range, destination))
            || self.pairs.iter().any(|[s, d]| within(s, source) && within(d, destination))
    }
}

/// Type and code, `None` for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct IcmpSet(Vec<(Option<u8>, Option<u8>)>);

impl IcmpSet {
    fn contains(&self, kind: u8, code: u8) -> bool {
        self.0.iter().any(|(k, c)| k.is_none_or(|k| k == kind) && c.is_none_or(|c| c == code))
    }
}
