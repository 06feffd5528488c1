//! Names of ICMP types.

use crate::term::number;

/// ICMP for IPv4 or for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum IcmpFamily {
    V4,
    V6,
}

/// IANA "ICMP Type Numbers": those that are not deprecated.
const ICMP: [(&str, u8); 10] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
];

/// IANA "ICMPv6 type Numbers": those of RFC 4443 and RFC 4861.
const ICMPV6: [(&str, u8); 11] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("router-solicitation", 133),
    ("router-advertisement", 134),
    ("neighbour-solicitation", 135),
    ("neighbour-advertisement", 136),
    ("redirect", 137),
];

pub(crate) fn names(family: IcmpFamily) -> &'static [(&'static str, u8)] {
    match family {
        IcmpFamily::V4 => &ICMP,
        IcmpFamily::V6 => &ICMPV6,
    }
}

/// The number of a type that is written as its name or its number.
pub(crate) fn kind_number(family: IcmpFamily, word: &str) -> Option<u8> {
    let named = names(family).iter().find(|(name, _)| *name == word).map(|(_, kind)| *kind);
    named.or_else(|| number(word))
}

/// The name of a type, or its number.
pub(crate) fn kind_name(family: IcmpFamily, kind: u8) -> String {
    let named = names(family).iter().find(|(_, number)| *number == kind);
    named.map_or_else(|| kind.to_string(), |(name, _)| (*name).to_owned())
}
