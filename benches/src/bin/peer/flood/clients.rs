//! Good clients: each comes from an address that nobody has seen before, whatever has become of the others.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::lab::{Place, SERVER_ADDRESS};
use crate::load::CONNECTION_PORTS;
use crate::process::{join, spawn_in};

/// All of these addresses are the client's.
pub(super) const NEWCOMERS: &str = "44.0.0.0/10";
const FIRST: u32 = 44 << 24;
/// Between one client and the next.
const PAUSE: Duration = Duration::from_millis(10);
/// A SYN, and its repetition after a second.
const PATIENCE: Duration = Duration::from_secs(3);

/// Has clients come for some time, and says how long each took; `None` for one that got no answer.
pub(super) fn come(place: &Place, time: Duration) -> Vec<Option<Duration>> {
    let (start, mut attempts) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        attempts.push(begin(place, attempts.len()));
        let next = start + PAUSE * attempts.len() as u32;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    attempts.into_iter().map(|attempt| join(attempt).ok()).collect()
}

/// One client alone.
pub(super) fn attempt(place: &Place, number: usize) -> Option<Duration> {
    join(begin(place, number)).ok()
}

fn begin(place: &Place, number: usize) -> JoinHandle<anyhow::Result<Duration>> {
    static CAME: AtomicU32 = AtomicU32::new(1);
    let source = Ipv4Addr::from(FIRST + CAME.fetch_add(1, Ordering::Relaxed));
    let port = CONNECTION_PORTS[number % CONNECTION_PORTS.len()];
    spawn_in(&place.client, move || exchange(source, port))
}

/// Connects, and has a byte sent back: a proxy's handshake alone is no connection.
fn exchange(source: Ipv4Addr, port: u16) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    // socket(7): it holds for connecting too.
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    connect(&socket, &SocketAddrV4::new(SERVER_ADDRESS.parse()?, port))?;
    let mut stream = TcpStream::from(socket);
    let mut byte = [1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(start.elapsed())
}
