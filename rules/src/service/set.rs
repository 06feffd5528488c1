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

    /// The services as ranges of keys and of source ports: together they hold what the set holds, and
    /// more only where they say so.
    pub(crate) fn boxes(&self) -> Vec<ServiceBox> {
        let mut boxes = Vec::new();
        for (class, ports) in [(TCP_KEYS, &self.tcp), (UDP_KEYS, &self.udp)] {
            let key =
                |(first, last): (u16, u16)| (class | u32::from(first), class | u32::from(last));
            let exact = |keys, source_ports| ServiceBox { keys, source_ports, is_exact: true };
            boxes.extend(ports.destinations.iter().map(|range| exact(key(*range), (0, u16::MAX))));
            boxes.extend(ports.pairs.iter().map(|[source, range]| exact(key(*range), *source)));
        }
        for (class, set) in [(ICMP_KEYS, &self.icmp), (ICMPV6_KEYS, &self.icmpv6)] {
            boxes.extend(set.0.iter().map(|&(kind, code)| {
                let (first, last) = kind.map_or((0, u8::MAX), |kind| (kind, kind));
                let codes = code.map_or((0, u8::MAX), |code| (code, code));
                let key = |kind: u8, code: u8| class | u32::from(kind) << 8 | u32::from(code);
                ServiceBox {
                    keys: (key(first, codes.0), key(last, codes.1)),
                    source_ports: (0, u16::MAX),
                    is_exact: kind.is_some() || code.is_none(),
                }
            }));
        }
        let mut open: Option<(u32, u32)> = None;
        let named =
            |number: &u8| self.protocols[usize::from(number >> 6)] & (1 << (number & 63)) != 0;
        for number in (0..=u8::MAX).filter(named).map(u32::from) {
            match &mut open {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => {
                    boxes.extend(open.take().map(ServiceBox::of_protocols));
                    open = Some((number, number));
                }
            }
        }
        boxes.extend(open.map(ServiceBox::of_protocols));
        boxes
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

/// A range of services, each as the number that [`service_key`] gives it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ServiceBox {
    pub keys: (u32, u32),
    /// All of them where the protocol has none.
    pub source_ports: (u16, u16),
    /// Whether each packet of these keys and ports is meant.
    pub is_exact: bool,
}

/// Every packet.
pub(crate) const ANY_SERVICE: ServiceBox =
    ServiceBox { keys: (0, u32::MAX), source_ports: (0, u16::MAX), is_exact: true };

const TCP_KEYS: u32 = 0;
const UDP_KEYS: u32 = 1 << 16;
const ICMP_KEYS: u32 = 2 << 16;
const ICMPV6_KEYS: u32 = 3 << 16;
const PROTOCOL_KEYS: u32 = 4 << 16;

impl ServiceBox {
    fn of_protocols((first, last): (u32, u32)) -> Self {
        Self { keys: (PROTOCOL_KEYS | first, PROTOCOL_KEYS | last), ..ANY_SERVICE }
    }
}

/// Protocol and destination port, or ICMP type and code, as one number.
pub(crate) fn service_key(transport: &Transport) -> u32 {
    match *transport {
        Transport::Tcp { destination_port, .. } => TCP_KEYS | u32::from(destination_port),
        Transport::Udp { destination_port, .. } => UDP_KEYS | u32::from(destination_port),
        Transport::Icmp { kind, code } => ICMP_KEYS | u32::from(kind) << 8 | u32::from(code),
        Transport::Icmpv6 { kind, code } => ICMPV6_KEYS | u32::from(kind) << 8 | u32::from(code),
        Transport::Other { protocol } => PROTOCOL_KEYS | u32::from(protocol),
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
