//! Packets in words that are the same whichever port NAT has chosen: ports and query identifiers at
//! the external address are all called `nat`.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::script::EXTERNAL;

/// What a frame says from the IP header on.
pub(super) fn summary(frame: &[u8]) -> String {
    packet(&frame[14..], true)
}

/// What a router answers, whichever of its addresses it answers from.
pub(super) fn answer(frame: &[u8]) -> String {
    let text = summary(frame);
    let about = text.find("about").map_or(text.as_str(), |at| &text[at..]);
    let kind = text.get(..10).filter(|start| start.starts_with("error")).unwrap_or_default();
    format!("{kind} {about}")
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    hop_limit: u8,
    offset: usize,
    more: bool,
    payload: &'a [u8],
}

fn ip(bytes: &[u8]) -> Option<Ip<'_>> {
    let v4 = |at: usize| Some(IpAddr::from(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?)));
    let v6 = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?)));
    let word = |at: usize| Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    if bytes.first()? >> 4 == 4 {
        let header = usize::from(bytes[0] & 15) * 4;
        let end = word(2)?.min(bytes.len());
        return Some(Ip {
            source: v4(12)?,
            destination: v4(16)?,
            protocol: bytes[9],
            hop_limit: bytes[8],
            offset: (word(6)? & 0x1fff) * 8,
            more: word(6)? & 0x2000 != 0,
            payload: bytes.get(header..end)?,
        });
    }
    let end = (40 + word(4)?).min(bytes.len());
    let mut ip = Ip {
        source: v6(8)?,
        destination: v6(24)?,
        protocol: bytes[6],
        hop_limit: bytes[7],
        offset: 0,
        more: false,
        payload: bytes.get(40..end)?,
    };
    if ip.protocol == 44 {
        ip.protocol = *bytes.get(40)?;
        ip.offset = word(42)? & 0xfff8;
        ip.more = word(42)? & 1 == 1;
        ip.payload = bytes.get(48..end)?;
    }
    Some(ip)
}

fn packet(bytes: &[u8], whole: bool) -> String {
    let Some(ip) = ip(bytes) else { return format!("? {bytes:02x?}") };
    let external: IpAddr = EXTERNAL.parse().unwrap();
    let word = |at: usize| {
        ip.payload.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]))
    };
    let long = |at: usize| (u32::from(word(at)) << 16) | u32::from(word(at + 2));
    let end = |address: IpAddr, port: u16| {
        if address == external { format!("{address} nat") } else { format!("{address} {port}") }
    };
    let name = |text: String| {
        let mut text = text;
        if whole {
            let _ = write!(text, " ttl {}", ip.hop_limit);
        }
        text
    };
    let (source, destination) = (ip.source, ip.destination);
    match ip.protocol {
        6 => {
            let ends = format!("{} > {}", end(source, word(0)), end(destination, word(2)));
            if !whole {
                return format!("tcp {ends} seq {}", long(4));
            }
            let header = usize::from(word(12) >> 12) * 4;
            let options = ip.payload.get(20..header).unwrap_or_default();
            let data = ip.payload.get(header..).unwrap_or_default();
            let flags = word(12) & 0xfff;
            name(format!(
                "tcp {ends} flags {flags:03x} seq {} ack {} win {} options {options:02x?} data {}",
                long(4),
                long(8),
                word(14),
                data.len()
            ))
        }
        17 => {
            let ends = format!("{} > {}", end(source, word(0)), end(destination, word(2)));
            if whole { name(format!("udp {ends} {}", ip.payload.len())) } else { ends }
        }
        1 | 58 if matches!((ip.protocol, word(0) >> 8), (1, 0 | 8) | (58, 128 | 129)) => {
            let hidden = source == external || destination == external;
            let identifier = if hidden { "nat".to_owned() } else { word(4).to_string() };
            name(format!("echo {:04x} {source} > {destination} {identifier} {}", word(0), word(6)))
        }
        1 | 58 => {
            let quote = packet(ip.payload.get(8..).unwrap_or_default(), false);
            name(format!(
                "error {:04x} {source} > {destination} {} about [{quote}]",
                word(0),
                long(4)
            ))
        }
        other => name(format!("proto {other} {source} > {destination}")),
    }
}

pub(super) fn is_fragment(frame: &[u8]) -> bool {
    ip(&frame[14..]).is_some_and(|ip| ip.more || ip.offset > 0)
}

/// Fragments that have left together: the packet that they are pieces of, whoever has cut them.
pub(super) fn joined(frames: &[&[u8]]) -> String {
    let mut pieces: Vec<(Ip<'_>, &[u8])> =
        frames.iter().filter_map(|frame| Some((ip(&frame[14..])?, &frame[14..]))).collect();
    pieces.sort_by_key(|(piece, _)| piece.offset);
    let mut payload = Vec::new();
    for (piece, _) in &pieces {
        if piece.offset != payload.len() {
            return format!("a datagram with a hole at {}", payload.len());
        }
        payload.extend_from_slice(piece.payload);
    }
    let first = pieces[0].1;
    let mut whole = if first[0] >> 4 == 4 { first[..20].to_vec() } else { first[..40].to_vec() };
    if first[0] >> 4 == 4 {
        whole[6..8].fill(0);
        whole[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    } else {
        whole[6] = first[40];
        whole[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    whole.extend_from_slice(&payload);
    format!("{} in pieces", packet(&whole, true))
}

/// The source port of a packet, or the identifier of a query.
pub(super) fn source_port(frame: &[u8]) -> Option<u16> {
    let ip = ip(&frame[14..])?;
    let at = if matches!(ip.protocol, 1 | 58) { 4 } else { 0 };
    let word = ip.payload.get(at..at + 2)?;
    Some(u16::from_be_bytes([word[0], word[1]]))
}

/// A SYN alone: after it NAT may have chosen anew.
pub(super) fn is_syn(frame: &[u8]) -> bool {
    ip(&frame[14..]).is_some_and(|ip| ip.protocol == 6 && ip.payload.get(13) == Some(&2))
}

/// The TCP flags that a summary tells of.
pub(super) fn flags(text: &str) -> Option<u16> {
    let (_, rest) = text.strip_prefix("tcp ")?.split_once("flags ")?;
    u16::from_str_radix(rest.get(..3)?, 16).ok()
}
