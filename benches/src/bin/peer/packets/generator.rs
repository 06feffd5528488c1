//! The generator's programs and what it shares with them.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use aya::maps::{Array, MapData};
use aya::programs::xdp::XdpMode;
use aya::programs::{SchedClassifier, TcAttachType, TestRunAttrs, TestRunOptions, Xdp, tc};
use aya::{Ebpf, EbpfLoader, TestRun as _};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use serde_json::Value;

use crate::lab::{CLIENT_ADDRESS, Place};
use crate::process::{join, run, spawn_in};

/// Compiled from `bpf/packets.c`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/packets.o"));

/// Behind the server, in the range for benchmarks (RFC 2544): so many addresses as the flows take.
pub(crate) const DESTINATIONS: &str = "198.18.0.0/16";
const FIRST_DESTINATION: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Where the server listens.
pub(crate) const SERVICE: u16 = 9_000;
const FIRST_CLIENT_PORT: u64 = 10_240;
/// Packets that the kernel makes before it lets them go: half of what a veth's ring takes.
const BATCH: u32 = 64;
/// The node looks at its devices each second.
const LOOKS_EVERY: Duration = Duration::from_millis(1_500);
/// Of Ethernet, IPv4 and UDP.
const HEADERS: usize = 14 + 20 + 8;

/// `struct state` in bpf/packets.c.
type Words = [u64; 20];
const NUMBER: usize = 0;
const FLOWS: usize = 1;
const CLIENT_PORTS: usize = 2;
const ADDRESS: usize = 3;
const FIRST_PORT: usize = 4;
const SERVICE_PORT: usize = 5;
const ECHO: usize = 6;
const TIMED: usize = 7;
const INTERFACE: usize = 8;
const FIRST: usize = 9;
const LAST: usize = 10;
const ARRIVED: usize = 11;
const RETURNED: usize = 12;
const SUM: usize = 13;
const HEADER_WORDS: usize = 14;

/// Which packets are made, and what becomes of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    /// Bytes of the frame, without its check sequence.
    pub(crate) bytes: usize,
    pub(crate) flows: u64,
    /// Ports of the client that flows have in turn.
    pub(crate) ports: u64,
    /// Whether the server sends packets back.
    pub(crate) echo: bool,
    /// Whether time counts to the arrival of the last packet; else to about when it was made.
    pub(crate) to_the_end: bool,
}

/// What became of a run's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) arrived: u64,
    pub(crate) returned: u64,
    /// From the first packet on.
    pub(crate) took: Duration,
}

/// Makes packets in an arm's client and takes them at its server, as long as it is there.
#[derive(Debug)]
pub(crate) struct Generator {
    place: Place,
    ebpf: Arc<Mutex<Ebpf>>,
    header: [u8; HEADERS],
    interface: u64,
    /// Flows so far, where each packet is of another.
    number: u64,
}

impl Generator {
    pub(crate) fn new(place: &Place) -> anyhow::Result<Self> {
        let ebpf = EbpfLoader::new().load(OBJECT).context("cannot load the packet generator")?;
        let ebpf = Arc::new(Mutex::new(ebpf));
        {
            let mut ebpf = lock(&ebpf);
            let xdp: &mut Xdp = ebpf.program_mut("generate").context("no generator")?.try_into()?;
            xdp.load()?;
            classifier(&mut ebpf)?.load()?;
            early(&mut ebpf)?.load()?;
        }
        for host in [&place.client, &place.server] {
            let ebpf = Arc::clone(&ebpf);
            join(spawn_in(host, move || {
                let _ = tc::qdisc_add_clsact("eth0");
                classifier(&mut lock(&ebpf))?.attach("eth0", TcAttachType::Ingress)?;
                Ok(())
            }))?;
        }
        if place.takes_early {
            let ebpf = Arc::clone(&ebpf);
            join(spawn_in(&place.server, move || {
                early(&mut lock(&ebpf))?.attach("eth0", XdpMode::Driver)?;
                Ok(())
            }))?;
            // Until the node has seen that frames may go there.
            std::thread::sleep(LOOKS_EVERY);
        }
        let interface = join(spawn_in(&place.client, || {
            let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            Ok(u64::from(name_to_index(socket.as_fd(), "eth0")?))
        }))?;
        let (from, to) = (mac(&place.client, "eth0")?, mac(&place.node, "int")?);
        Ok(Self { place: place.clone(), ebpf, header: header(from, to), interface, number: 0 })
    }

    /// Sends so many packets and waits until `settle` is over.
    pub(crate) fn run(
        &mut self,
        stream: Stream,
        packets: u32,
        settle: Duration,
    ) -> anyhow::Result<Ran> {
        let frame = self.prepare(stream)?;
        let ebpf = Arc::clone(&self.ebpf);
        join(spawn_in(&self.place.client, move || {
            let mut options = TestRunOptions::new();
            options.data_in = Some(&frame);
            options.repeat = packets;
            options.attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
            let ebpf = lock(&ebpf);
            let xdp: &Xdp = ebpf.program("generate").context("no generator")?.try_into()?;
            xdp.test_run(options).context("the kernel makes no packets")?;
            Ok(())
        }))?;
        std::thread::sleep(settle);
        let words = self.words()?;
        self.number = words[NUMBER];
        let took = Duration::from_nanos(words[LAST].saturating_sub(words[FIRST]));
        Ok(Ran { arrived: words[ARRIVED], returned: words[RETURNED], took })
    }

    /// The next packet has at least this number.
    pub(crate) fn skip_to(&mut self, number: u64) {
        self.number = self.number.max(number);
    }

    /// Writes the state; returns the frame that all packets are made from.
    fn prepare(&self, stream: Stream) -> anyhow::Result<Vec<u8>> {
        ensure!(stream.bytes > HEADERS, "{} bytes are no frame", stream.bytes);
        let mut header = self.header;
        set_lengths(&mut header, stream.bytes);
        let mut words: Words = [0; 20];
        words[NUMBER] = self.number;
        words[FLOWS] = stream.flows;
        words[CLIENT_PORTS] = stream.ports;
        words[ADDRESS] = u64::from(FIRST_DESTINATION.to_bits());
        words[FIRST_PORT] = FIRST_CLIENT_PORT;
        words[SERVICE_PORT] = u64::from(SERVICE);
        words[ECHO] = u64::from(stream.echo);
        words[TIMED] = u64::from(stream.to_the_end);
        words[INTERFACE] = self.interface;
        words[SUM] = sum(&header[14..34]);
        for (at, chunk) in header.chunks(8).enumerate() {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            words[HEADER_WORDS + at] = u64::from_ne_bytes(bytes);
        }
        let mut ebpf = lock(&self.ebpf);
        let map = ebpf.map_mut("state").context("the generator has no state")?;
        let mut state: Array<&mut MapData, Words> = Array::try_from(map)?;
        state.set(0, words, 0)?;
        let mut frame = header.to_vec();
        frame.resize(stream.bytes, 0);
        Ok(frame)
    }

    fn words(&self) -> anyhow::Result<Words> {
        let ebpf = lock(&self.ebpf);
        let map = ebpf.map("state").context("the generator has no state")?;
        let state: Array<&MapData, Words> = Array::try_from(map)?;
        Ok(state.get(&0, 0)?)
    }
}

fn lock(ebpf: &Mutex<Ebpf>) -> std::sync::MutexGuard<'_, Ebpf> {
    // A thread that panicked has left nothing half done here.
    ebpf.lock().unwrap_or_else(PoisonError::into_inner)
}

fn classifier(ebpf: &mut Ebpf) -> anyhow::Result<&mut SchedClassifier> {
    Ok(ebpf.program_mut("arrive").context("no program for what arrives")?.try_into()?)
}

fn early(ebpf: &mut Ebpf) -> anyhow::Result<&mut Xdp> {
    Ok(ebpf.program_mut("arrive_early").context("no program for what arrives early")?.try_into()?)
}

fn mac(namespace: &str, device: &str) -> anyhow::Result<[u8; 6]> {
    let text = run("ip", &["-n", namespace, "-j", "link", "show", "dev", device])?;
    let links: Value = serde_json::from_str(&text)?;
    let address = links.pointer("/0/address").and_then(Value::as_str).context("no link address")?;
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(address.split(':')) {
        *byte = u8::from_str_radix(text, 16).context("no link address")?;
    }
    Ok(bytes)
}

/// Ethernet, IPv4 and UDP, without lengths, checksums and the server's address. UDP goes without a checksum.
fn header(from: [u8; 6], to: [u8; 6]) -> [u8; HEADERS] {
    let mut bytes = [0; HEADERS];
    bytes[..6].copy_from_slice(&to);
    bytes[6..12].copy_from_slice(&from);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);
    bytes[14] = 0x45;
    // Don't fragment, hop limit, UDP.
    bytes[20] = 0x40;
    bytes[22] = 64;
    bytes[23] = 17;
    let client: Ipv4Addr = CLIENT_ADDRESS.parse().expect("the constant is an address");
    bytes[26..30].copy_from_slice(&client.octets());
    bytes[36..38].copy_from_slice(&SERVICE.to_be_bytes());
    bytes
}

fn set_lengths(header: &mut [u8; HEADERS], frame: usize) {
    let length = |less: usize| u16::try_from(frame - less).unwrap_or(u16::MAX).to_be_bytes();
    header[16..18].copy_from_slice(&length(14));
    header[38..40].copy_from_slice(&length(34));
}

/// Of 16-bit words, not folded.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_layers() {
        let mut bytes = header([2; 6], [4; 6]);
        set_lengths(&mut bytes, 60);
        assert_eq!(bytes[16..18], 46_u16.to_be_bytes());
        assert_eq!(bytes[38..40], 26_u16.to_be_bytes());
        assert_eq!(bytes[..14], [4, 4, 4, 4, 4, 4, 2, 2, 2, 2, 2, 2, 8, 0]);
    }

    #[test]
    fn the_sum_is_over_words_of_the_network() {
        assert_eq!(sum(&[0x45, 0x00, 0x00, 0x2e]), 0x4500 + 0x2e);
    }
}
