//! The IPv6 header and its chain of extension headers (RFC 8200, RFC 9288).

use smoltcp::wire::{
    ETHERNET_HEADER_LEN, IPV6_HEADER_LEN, Ipv6Address, Ipv6ExtHeader, Ipv6FragmentHeader,
    Ipv6OptionFailureType, Ipv6OptionRepr, Ipv6OptionRouterAlert, Ipv6OptionsIterator, Ipv6Packet,
};

use super::{Fragment, Homes, Network, Packet, Segment, mobile, transport};
use crate::frame::Frame;
use crate::verdict::DropReason;

/// Next-header values (IANA "protocol-numbers").
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 3692.
const EXPERIMENTAL: [u8; 2] = [253, 254];

/// Options that hosts would skip and RFC 9288 section 4.4 wants dropped: CALIPSO, SMF_DPD, the RPL
/// option, Quick-Start, and RFC 3692's experiments.
const REFUSED_OPTIONS: [u8; 6] = [0x07, 0x08, 0x23, 0x26, 0x1e, 0x3e];
/// RFC 6744: it passes by RFC 9288, though hosts that do not know it drop the packet.
const ILNP_NONCE: u8 = 0x8b;

/// Extension headers of one packet. What RFC 8200 section 4.1 allows, routing headers apart, is five.
const MAX_HEADERS: u32 = 6;
/// Options of one extension header. RFC 8504 section 5.3 lets a host stop at eight besides padding.
const MAX_OPTIONS: usize = 16;

pub(super) fn parse(frame: &Frame<'_>) -> Result<Packet, DropReason> {
    let bytes = &frame.bytes[ETHERNET_HEADER_LEN..];
    let header = Ipv6Packet::new_checked(bytes).map_err(|_| DropReason::IpHeader)?;
    if header.version() != 6 {
        return Err(DropReason::IpHeader);
    }
    // An IPv4-mapped address would be taken for the IPv4 address from here on.
    if is_ipv4_mapped(&header.src_addr()) {
        return Err(DropReason::MartianSource);
    }
    if is_ipv4_mapped(&header.dst_addr()) {
        return Err(DropReason::MartianDestination);
    }
    // A jumbogram (RFC 2675) says zero here, and so has its headers past the end.
    let payload = header.payload();
    let chain = Chain::walk(header.next_header().into(), payload).map_err(|error| match error {
        ChainError::Refused => DropReason::ExtensionHeader,
        ChainError::PastEndOfFragment => DropReason::FragmentTiny,
    })?;

    if let Some(fragment) = chain.fragment {
        let before = chain.fragment_header.unwrap_or_default();
        fragment.check(chain.protocol, before)?;
    }
    let network = Network {
        source: header.src_addr().octets().into(),
        destination: header.dst_addr().octets().into(),
        hop_limit: header.hop_limit(),
        dont_fragment: true,
        protocol: chain.protocol,
        transport: ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + chain.length,
        end: ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + payload.len(),
        // An atomic fragment is a whole packet (RFC 6946).
        fragment: chain.fragment.filter(|fragment| fragment.more || !fragment.is_first()),
        homes: chain.homes,
    };
    let segment = match network.fragment {
        Some(fragment) if !fragment.is_first() => Segment::Later,
        _ => transport::parse(frame, &network)?,
    };
    check_link_local(&chain, &segment)?;
    Ok(network.with(segment))
}

fn is_ipv4_mapped(address: &Ipv6Address) -> bool {
    address.to_ipv4_mapped().is_some()
}

/// Hop-by-hop options are for messages to this link's routers alone (RFC 9288 section 3.4.1 lets a
/// router drop all others); those messages come unfragmented.
fn check_link_local(chain: &Chain, segment: &Segment) -> Result<(), DropReason> {
    let link_local = matches!(segment, Segment::LinkLocal { .. });
    if chain.hop_by_hop && !link_local {
        return Err(DropReason::ExtensionHeader);
    }
    // RFC 6980 section 5, also of atomic fragments.
    if chain.fragment.is_some() && link_local {
        return Err(DropReason::IcmpType);
    }
    Ok(())
}

/// What stands between the IPv6 header and the upper layer.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// The first next-header value that is no extension header.
    pub(crate) protocol: u8,
    /// Bytes of all extension headers.
    pub(crate) length: usize,
    pub(crate) fragment: Option<Fragment>,
    /// Where the fragment header starts.
    fragment_header: Option<usize>,
    homes: Homes,
    hop_by_hop: bool,
    routing: bool,
    destination_options: u8,
    authentication: bool,
}

pub(crate) enum ChainError {
    /// A header that is unknown, repeated, out of order, malformed or past the end.
    Refused,
    /// The chain of a first fragment goes on in the next one (RFC 7112).
    PastEndOfFragment,
}

impl Chain {
    /// Follows the chain from `first` through `bytes`, what lies behind the IPv6 header. Ends at a
    /// fragment header that is not the first of its datagram: what follows is not a header.
    pub(crate) fn walk(first: u8, bytes: &[u8]) -> Result<Self, ChainError> {
        let mut chain = Self { protocol: first, ..Self::default() };
        for position in 0..=MAX_HEADERS {
            let rest = bytes.get(chain.length..).unwrap_or_default();
            let header = match chain.protocol {
                HOP_BY_HOP if position == 0 => chain.hop_by_hop(rest),
                DESTINATION_OPTIONS => chain.destination_options(rest),
                AUTHENTICATION => chain.authentication(rest),
                ROUTING => chain.routing(rest),
                FRAGMENT => chain.fragment(rest),
                HOP_BY_HOP | NO_NEXT_HEADER => Err(ChainError::Refused),
                other if EXPERIMENTAL.contains(&other) => Err(ChainError::Refused),
                _ => return Ok(chain),
            };
            let (next, length) = header?;
            chain.protocol = next;
            chain.length += length;
            if chain.fragment.is_some_and(|fragment| !fragment.is_first()) {
                return Ok(chain);
            }
        }
        Err(ChainError::Refused)
    }

    /// Padding is taken, and the router alert of multicast listener discovery (RFC 3810 section 5).
    fn hop_by_hop(&mut self, bytes: &[u8]) -> Result<(u8, usize), ChainError> {
        self.hop_by_hop = true;
        let header = self.options_header(bytes)?;
        let alert = Ipv6OptionRepr::RouterAlert(Ipv6OptionRouterAlert::MulticastListenerDiscovery);
        if options(&header)?.any(|option| option != alert && !is_padding(&option)) {
            return Err(ChainError::Refused);
        }
        Ok(extent(&header))
    }

    /// Options pass that a host which does not know them skips (RFC 8200 section 4.2), but for those
    /// that RFC 9288 wants dropped; and the home address, which a flow may have.
    fn destination_options(&mut self, bytes: &[u8]) -> Result<(u8, usize), ChainError> {
        self.destination_options += 1;
        if self.destination_options > 2 {
            return Err(ChainError::Refused);
        }
        let header = self.options_header(bytes)?;
        for option in options(&header)? {
            if !is_padding(&option) && !self.takes_option(&option) {
                return Err(ChainError::Refused);
            }
        }
        Ok(extent(&header))
    }

    fn takes_option(&mut self, option: &Ipv6OptionRepr<'_>) -> bool {
        let Ipv6OptionRepr::Unknown { type_, data, .. } = *option else { return false };
        match u8::from(type_) {
            mobile::HOME_ADDRESS if self.homes.source.is_none() => {
                self.homes.source = mobile::home_of_option(data);
                self.homes.source.is_some()
            }
            ILNP_NONCE => true,
            refused if REFUSED_OPTIONS.contains(&refused) => false,
            _ => Ipv6OptionFailureType::from(type_) == Ipv6OptionFailureType::Skip,
        }
    }

    /// Type 2 names the home address of a mobile host, once; no other leads anywhere (RFC 5095).
    fn routing(&mut self, bytes: &[u8]) -> Result<(u8, usize), ChainError> {
        let header = self.options_header(bytes)?;
        let home = mobile::home_of_routing(&header).ok_or(ChainError::Refused)?;
        if std::mem::replace(&mut self.routing, true) {
            return Err(ChainError::Refused);
        }
        self.homes.destination = Some(home);
        Ok(extent(&header))
    }

    /// RFC 4302 section 2: the length counts four-octet units beyond two, and keeps IPv6 aligned.
    fn authentication(&mut self, bytes: &[u8]) -> Result<(u8, usize), ChainError> {
        const FIXED: usize = 12;
        let &[next, units, ..] = bytes else { return Err(self.past_end()) };
        let length = (usize::from(units) + 2) * 4;
        if self.authentication || length < FIXED || !length.is_multiple_of(8) {
            return Err(ChainError::Refused);
        }
        if bytes.len() < length {
            return Err(self.past_end());
        }
        self.authentication = true;
        Ok((next, length))
    }

    fn fragment(&mut self, bytes: &[u8]) -> Result<(u8, usize), ChainError> {
        let Some((&[next, _reserved, ref fields @ ..], rest)) = bytes.split_first_chunk::<8>()
        else {
            return Err(self.past_end());
        };
        if self.fragment.is_some() {
            return Err(ChainError::Refused);
        }
        let header = Ipv6FragmentHeader::new_unchecked(fields);
        self.fragment = Some(Fragment {
            identification: header.ident(),
            // Behind next header, reserved bits and offset (RFC 8200 section 4.5).
            identification_at: ETHERNET_HEADER_LEN + IPV6_HEADER_LEN + self.length + 4,
            offset: u32::from(header.frag_offset()) * 8,
            length: rest.len() as u32,
            more: header.more_frags(),
        });
        self.fragment_header = Some(self.length);
        Ok((next, 8))
    }

    fn options_header<'a>(&self, bytes: &'a [u8]) -> Result<Ipv6ExtHeader<&'a [u8]>, ChainError> {
        Ipv6ExtHeader::new_checked(bytes).map_err(|_| self.past_end())
    }

    fn past_end(&self) -> ChainError {
        match self.fragment {
            Some(fragment) if fragment.more => ChainError::PastEndOfFragment,
            _ => ChainError::Refused,
        }
    }
}

fn is_padding(option: &Ipv6OptionRepr<'_>) -> bool {
    matches!(option, Ipv6OptionRepr::Pad1 | Ipv6OptionRepr::PadN(_))
}

/// Next header and length of a header of options.
fn extent(header: &Ipv6ExtHeader<&[u8]>) -> (u8, usize) {
    (header.next_header().into(), (usize::from(header.header_len()) + 1) * 8)
}

/// The options of a header, all of them well-formed and not too many.
fn options<'a>(
    header: &Ipv6ExtHeader<&'a [u8]>,
) -> Result<impl Iterator<Item = Ipv6OptionRepr<'a>>, ChainError> {
    let all = || Ipv6OptionsIterator::new(header.payload());
    if all().take(MAX_OPTIONS + 1).count() > MAX_OPTIONS || all().any(|option| option.is_err()) {
        return Err(ChainError::Refused);
    }
    Ok(Ipv6OptionsIterator::new(header.payload()).flatten())
}
