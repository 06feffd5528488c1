//! Addresses as the policy writes them: an address, a prefix, a range, or an object's name.

mod set;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::term::{self, TermError, is_name};

pub(crate) use set::AddressSet;

/// Addresses of one family from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct IpRange {
    first: IpAddr,
    last: IpAddr,
}

/// What no packet that is forwarded comes from or goes to (RFC 6890, and a cloud's own).
const NOBODYS: [(IpAddr, IpAddr); 9] = [
    (v4([0, 0, 0, 0]), v4([0, 255, 255, 255])),
    (v4([127, 0, 0, 0]), v4([127, 255, 255, 255])),
    // Of Azure's hosts, each of which answers its own machines by it.
    (v4([168, 63, 129, 16]), v4([168, 63, 129, 16])),
    (v4([169, 254, 0, 0]), v4([169, 254, 255, 255])),
    // Multicast, and what is reserved behind it.
    (v4([224, 0, 0, 0]), v4([255, 255, 255, 255])),
    // Unspecified, loopback and IPv4-compatible, then IPv4-mapped.
    (v6(0), v6(0xffff_ffff)),
    (v6(0xffff_0000_0000), v6(0xffff_ffff_ffff)),
    // Link-local and site-local, then multicast.
    (v6(0xfe80 << 112), v6((0xff00 << 112) - 1)),
    (v6(0xff00 << 112), v6(u128::MAX)),
];

const fn v4(octets: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_octets(octets))
}

const fn v6(bits: u128) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(bits))
}

/// A word of an address list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AddressWord<'t> {
    Range(IpRange),
    Object(&'t str),
}

impl IpRange {
    /// `None` unless both are of one family and in order.
    pub(crate) fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        let one_family = first.is_ipv4() == last.is_ipv4();
        (one_family && first <= last).then_some(Self { first, last })
    }

    pub(crate) fn first(&self) -> IpAddr {
        self.first
    }

    pub(crate) fn last(&self) -> IpAddr {
        self.last
    }

    /// Whether it holds an address of [`NOBODYS`].
    pub(crate) fn has_nobodys(&self) -> bool {
        NOBODYS.iter().any(|(first, last)| {
            first.is_ipv4() == self.first.is_ipv4() && *first <= self.last && self.first <= *last
        })
    }
}

impl From<IpNet> for IpRange {
    fn from(net: IpNet) -> Self {
        Self { first: net.network(), last: net.broadcast() }
    }
}

/// The address, the prefix if it is one, or `first-last`.
impl fmt::Display for IpRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.first, self.last);
        if first == last {
            return write!(f, "{first}");
        }
        let bits: u32 = if first.is_ipv4() { 32 } else { 128 };
        let host_bits = (number(first) ^ number(last)).checked_ilog2().map_or(0, |top| top + 1);
        let length = u8::try_from(bits - host_bits).unwrap_or(0);
        let prefix = IpNet::new(first, length).ok().map(|net| net.trunc());
        match prefix {
            Some(net) if net.network() == first && net.broadcast() == last => write!(f, "{net}"),
            Some(_) | None => write!(f, "{first}-{last}"),
        }
    }
}

/// Reads an address, a prefix, a range or an object's name.
pub(crate) fn parse_address_word(word: &str) -> Result<AddressWord<'_>, TermError> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(AddressWord::Range(IpRange { first: address, last: address }));
    }
    if word.contains('/') {
        return parse_network(word).map(|net| AddressWord::Range(net.into()));
    }
    if let Some((first, last)) = word.split_once('-')
        && let (Ok(first), Ok(last)) = (first.parse(), last.parse())
    {
        let help = "write the smaller address first, both of one family";
        let range = IpRange::new(first, last);
        let error = || TermError::new(format!("`{word}` is not a range of addresses"), help);
        return range.map(AddressWord::Range).ok_or_else(error);
    }
    if is_name(word) {
        return Ok(AddressWord::Object(word));
    }
    Err(not_an_address(word))
}

/// Reads a prefix whose host bits are zero; a plain address is the prefix that holds it alone.
pub(crate) fn parse_network(word: &str) -> Result<IpNet, TermError> {
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let length: Option<u8> = word.split_once('/').and_then(|(_, length)| term::number(length));
    let net: IpNet = length.and(word.parse().ok()).ok_or_else(|| not_an_address(word))?;
    if net.trunc() != net {
        let message = format!("`{word}` has bits set behind its prefix");
        return Err(TermError::new(message, format!("did you mean `{}`?", net.trunc())));
    }
    Ok(net)
}

fn not_an_address(word: &str) -> TermError {
    let help = "write 192.0.2.1, 192.0.2.0/24, 192.0.2.1-192.0.2.9, the same in IPv6, or the name \
                of an object";
    TermError::new(format!("`{word}` is not an address"), help)
}

/// The address as a number within its family.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn printed(word: &str) -> String {
        match parse_address_word(word).unwrap() {
            AddressWord::Range(range) => range.to_string(),
            AddressWord::Object(name) => format!("object {name}"),
        }
    }

    #[test]
    fn every_form_has_one_canonical_text() {
        for (word, canonical) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("10.0.0.0-10.0.0.255", "10.0.0.0/24"),
            ("10.0.0.1-10.0.0.2", "10.0.0.1-10.0.0.2"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2600:0:0::1", "2600::1"),
            ("2600::-2600::ffff", "2600::/112"),
            ("::/0", "::/0"),
            ("web-farm", "object web-farm"),
        ] {
            assert_eq!(printed(word), canonical, "{word}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for word in [
            "",
            "10.0.0",
            "10.0.0.1/33",
            "10.0.0.1/24",
            "10.0.0.2-10.0.0.1",
            "10.0.0.1-::1",
            "Web",
            "web_farm",
            "-web",
            "fe80::1%eth0",
            "010.0.0.1",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "tcp/443",
        ] {
            assert!(parse_address_word(word).is_err(), "{word}");
        }
    }

    proptest! {
        #[test]
        fn printing_can_be_read_again(a in any::<IpAddr>(), b in any::<IpAddr>()) {
            if let Some(range) = IpRange::new(a, b).or(IpRange::new(b, a)) {
                let text = range.to_string();
                prop_assert_eq!(parse_address_word(&text).unwrap(), AddressWord::Range(range));
            }
        }
    }
}
