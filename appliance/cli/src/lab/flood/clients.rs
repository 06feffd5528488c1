//! Good clients: some that the node has seen before, some that it has not, and one that keeps a
//! connection open all the while.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::network::{CLIENT, NEWCOMERS, WEB, WEB_V4};
use crate::lab::namespace::{Lifetime, Namespace};
use crate::lab::stage::Stage;

/// How long a good client tries: a SYN and its repetitions after 1 and 3 s.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// The port of the rule `live-in`.
const LIVE: u16 = 7001;

/// What became of good clients' connections.
#[derive(Debug, Default, Clone)]
pub(super) struct Attempts {
    pub(super) tried: usize,
    /// How long each handshake took that was followed by an answer, sorted.
    pub(super) took: Vec<Duration>,
}

impl Attempts {
    pub(super) fn per_cent(&self) -> f64 {
        if self.tried == 0 { 0.0 } else { 100.0 * self.took.len() as f64 / self.tried as f64 }
    }

    /// In milliseconds; none where nobody got through.
    pub(super) fn percentile(&self, per_cent: usize) -> Option<f64> {
        let last = self.took.len().checked_sub(1)?;
        Some(self.took[(last * per_cent).div_ceil(100)].as_secs_f64() * 1_000.0)
    }

    fn of(results: Vec<Option<Duration>>) -> Self {
        let tried = results.len();
        let mut took: Vec<_> = results.into_iter().flatten().collect();
        took.sort();
        Self { tried, took }
    }
}

/// Fetches pages every `pause` until told to stop, each from an address of its own that was never used
/// before, whatever has become of the others: an open loop.
pub(super) fn newcomers(
    stage: &Stage,
    first: u16,
    pause: Duration,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Result<Attempts>> {
    let client = stage.lab.namespace(CLIENT);
    open_loop(pause, stop, move |number| {
        let source = newcomer(first.wrapping_add(number));
        client.spawn(move || Ok(fetch(source, PATIENCE).ok()))
    })
}

/// The same with curl, from the client's own address.
pub(super) fn known(
    stage: &Stage,
    pause: Duration,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Result<Attempts>> {
    let client = stage.lab.namespace(CLIENT);
    open_loop(pause, stop, move |_| {
        let client = client.clone();
        std::thread::spawn(move || Ok(curl(&client).ok()))
    })
}

type Attempt = JoinHandle<Result<Option<Duration>>>;

/// Begins an attempt, with its number, every `pause` until told to stop.
fn open_loop(
    pause: Duration,
    stop: &Arc<AtomicBool>,
    attempt: impl Fn(u16) -> Attempt + Send + 'static,
) -> JoinHandle<Result<Attempts>> {
    let stop = Arc::clone(stop);
    std::thread::spawn(move || {
        let mut attempts = Vec::new();
        let begin = Instant::now();
        for number in 0u16.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            attempts.push(attempt(number));
            sleep_until(begin + pause * (u32::from(number) + 1));
        }
        Ok(Attempts::of(joined(attempts)))
    })
}

fn sleep_until(time: Instant) {
    std::thread::sleep(time.saturating_duration_since(Instant::now()));
}

fn joined(attempts: Vec<Attempt>) -> Vec<Option<Duration>> {
    attempts.into_iter().map(|attempt| attempt.join().ok()?.ok()?).collect()
}

/// The address of a newcomer.
pub(super) fn newcomer(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(NEWCOMERS[0], NEWCOMERS[1], high, low)
}

/// Fetches a page from `source`; returns how long the handshake took. Runs in the client's namespace.
///
/// # Errors
/// If no page came within `patience`.
pub(super) fn fetch(source: Ipv4Addr, patience: Duration) -> Result<Duration> {
    let begin = Instant::now();
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddrV4::new(source, 0))?;
    // socket(7): it holds for connecting too.
    set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::from(WEB_V4), 80))?;
    let took = begin.elapsed();
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.1 200 "), "the page reads {page}");
    Ok(took)
}

fn curl(client: &Namespace) -> Result<Duration> {
    let url = format!("http://{}/", Ipv4Addr::from(WEB_V4));
    let patience = PATIENCE.as_secs().to_string();
    let output = client
        .command(Lifetime::Bound, "curl")
        .args(["--silent", "--output", "/dev/null", "--max-time", &patience])
        .args(["--write-out", "%{time_connect} %{http_code}", &url])
        .output()
        .context("cannot run curl")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (took, code) = text.split_once(' ').context("curl prints no time")?;
    ensure!(code == "200", "the status is {code}");
    Ok(Duration::from_secs_f64(took.parse()?))
}

/// A connection that was open before the flood.
#[derive(Debug)]
pub(super) struct Live {
    stream: TcpStream,
}

/// How a live connection fared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Health {
    pub(super) echoes: u64,
    /// The longest that one took.
    pub(super) longest: Duration,
}

impl Live {
    pub(super) fn open(stage: &Stage) -> Result<Self> {
        // It listens until it has been connected to, so that the next flood finds the port free.
        let listener = stage
            .lab
            .namespace(WEB)
            .enter(|| Ok(TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], LIVE)))?))?;
        let server = SocketAddr::from((WEB_V4, LIVE));
        let stream = stage.lab.namespace(CLIENT).enter(move || {
            let stream = TcpStream::connect_timeout(&server, PATIENCE)
                .with_context(|| format!("cannot connect to {server}"))?;
            stream.set_read_timeout(Some(2 * PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })?;
        let (peer, _) = listener.accept()?;
        std::thread::spawn(move || echo(peer));
        Ok(Self { stream })
    }

    /// Has blocks echoed until told to stop.
    pub(super) fn keep(mut self, stop: &Arc<AtomicBool>) -> JoinHandle<Result<(Self, Health)>> {
        const PAUSE: Duration = Duration::from_millis(10);
        let stop = Arc::clone(stop);
        std::thread::spawn(move || {
            let mut health = Health::default();
            let mut block = [7; BLOCK];
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                self.stream.write_all(&block).context("the live connection has died")?;
                self.stream.read_exact(&mut block).context("the live connection has died")?;
                health.longest = health.longest.max(begin.elapsed());
                health.echoes += 1;
                std::thread::sleep(PAUSE);
            }
            Ok((self, health))
        })
    }
}

fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut block = [0; BLOCK];
    loop {
        stream.read_exact(&mut block)?;
        stream.write_all(&block)?;
    }
}

/// Bytes of one echo: some segments.
const BLOCK: usize = 4_096;
