//! The load: what is measured in an arm, for a bounded time, all of it on one CPU.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::Interrupt;
use crate::lab::{Place, SERVER_ADDRESS, Segmentation};
use crate::process::{join, run_measured, spawn_in};

pub(crate) const IPERF_PORT: u16 = 5201;
pub(crate) const ROUND_TRIP_PORT: u16 = 5300;
pub(crate) const CONNECTION_PORTS: [u16; 4] = [5400, 5401, 5402, 5403];
/// Short connections that are under way at a time: a closed loop of so many clients.
pub(crate) const CLIENTS: usize = 16;
/// Of streams: Linux's own default.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";
const HEALTH_PORT: u16 = 4480;
/// What a sample may take longer than its load: set-up, and one retransmission or two.
const GRACE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(5);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Metric {
    /// One TCP stream in superframes.
    StreamGso,
    /// One TCP stream in packets of 1,500 bytes.
    #[value(name = "stream-1500")]
    Stream1500,
    /// A byte there and back over an open TCP connection.
    RoundTrip,
    /// TCP connections with a request and a response of one byte each.
    Connections,
}

impl Metric {
    pub(crate) const ALL: [Self; 4] =
        [Self::StreamGso, Self::Stream1500, Self::RoundTrip, Self::Connections];

    /// metric/action/family/case
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::StreamGso => "rate/stream/tcp4-snat/gso",
            Self::Stream1500 => "rate/stream/tcp4-snat/1500",
            Self::RoundTrip => "p50/round-trip/tcp4-snat/1-byte",
            Self::Connections => "rate/connect/tcp4-snat/1-byte",
        }
    }

    pub(crate) const fn unit(self) -> &'static str {
        match self {
            Self::StreamGso | Self::Stream1500 => "Gbit/s",
            Self::RoundTrip => "us",
            Self::Connections => "1/s",
        }
    }

    pub(crate) const fn decimals(self) -> usize {
        match self {
            Self::StreamGso | Self::Stream1500 | Self::RoundTrip => 2,
            Self::Connections => 0,
        }
    }

    /// What the load generator offers.
    pub(crate) const fn offered(self) -> &'static str {
        match self {
            Self::StreamGso => "one iperf3 stream, as fast as it goes, superframes",
            Self::Stream1500 => "one iperf3 stream, as fast as it goes, 1500-byte packets",
            Self::RoundTrip => "one connection, one byte under way",
            Self::Connections => "16 clients in a closed loop, 1 byte there and 1 back",
        }
    }

    pub(crate) const fn segmentation(self) -> Segmentation {
        match self {
            Self::Stream1500 => Segmentation::ByTheSender,
            Self::StreamGso | Self::RoundTrip | Self::Connections => Segmentation::ByTheReceiver,
        }
    }

    /// One sample, in `unit`s.
    pub(crate) fn measure(
        self,
        place: &Place,
        seconds: u32,
        interrupt: &Interrupt,
    ) -> anyhow::Result<f64> {
        interrupt.check()?;
        match self {
            Self::StreamGso | Self::Stream1500 => stream(place, seconds, interrupt),
            Self::RoundTrip => round_trip(place, seconds),
            Self::Connections => connections(place, seconds),
        }
    }
}

fn stream(place: &Place, seconds: u32, interrupt: &Interrupt) -> anyhow::Result<f64> {
    let (port, time) = (IPERF_PORT.to_string(), seconds.to_string());
    let words =
        ["iperf3", "-c", SERVER_ADDRESS, "-p", &port, "-t", &time, "-C", CONGESTION_CONTROL, "-J"];
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    let report = run_measured(&place.client, &words, limit, interrupt)?;
    let report: Value = serde_json::from_str(&report).context("iperf3 printed no JSON")?;
    let bits = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(bits.context("iperf3 does not say how much was received")? / 1e9)
}

fn round_trip(place: &Place, seconds: u32) -> anyhow::Result<f64> {
    let server = Server::start(place, &[ROUND_TRIP_PORT], 1)?;
    let client = spawn_in(&place.client, move || {
        let mut stream = TcpStream::connect_timeout(&server_at(ROUND_TRIP_PORT), PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut times: Vec<u32> = Vec::with_capacity(1 << 20);
        let mut byte = [0; 1];
        let start = Instant::now();
        let mut sent = start;
        while sent.duration_since(start) < Duration::from_secs(seconds.into()) {
            stream.write_all(&byte)?;
            stream.read_exact(&mut byte)?;
            let received = Instant::now();
            times.push(u32::try_from(received.duration_since(sent).as_nanos()).unwrap_or(u32::MAX));
            sent = received;
        }
        let middle = times.len() / 2;
        Ok(f64::from(*times.select_nth_unstable(middle).1) / 1e3)
    });
    let median = join(client);
    server.stop()?;
    median
}

fn connections(place: &Place, seconds: u32) -> anyhow::Result<f64> {
    let server = Server::start(place, &CONNECTION_PORTS, CLIENTS)?;
    let failed = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let failed = Arc::clone(&failed);
            spawn_in(&place.client, move || {
                let at = server_at(CONNECTION_PORTS[client % CONNECTION_PORTS.len()]);
                let start = Instant::now();
                let mut done = 0_u32;
                while start.elapsed() < Duration::from_secs(seconds.into()) {
                    match exchange(&at) {
                        Ok(()) => done += 1,
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                Ok(f64::from(done) / start.elapsed().as_secs_f64())
            })
        })
        .collect();
    let rates: Vec<anyhow::Result<f64>> = clients.into_iter().map(join).collect();
    server.stop()?;
    let rate: f64 = rates.into_iter().sum::<anyhow::Result<f64>>()?;
    let failed = failed.load(Ordering::Relaxed);
    ensure!(failed == 0, "{failed} connections failed");
    Ok(rate)
}

fn exchange(at: &SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(at)?;
    let mut byte = [1; 1];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Threads in an arm's server that send back what they get, byte by byte.
struct Server {
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    fn start(place: &Place, ports: &[u16], threads: usize) -> anyhow::Result<Self> {
        let wanted = ports.to_vec();
        let listeners = join(spawn_in(&place.server, move || {
            wanted
                .into_iter()
                .map(|port| Ok(Arc::new(TcpListener::bind(server_at(port))?)))
                .collect::<anyhow::Result<Vec<_>>>()
        }))?;
        let threads = (0..threads)
            .map(|thread| {
                let listener = Arc::clone(&listeners[thread % listeners.len()]);
                spawn_in(&place.server, move || {
                    // Ends when the listener is shut down.
                    while let Ok((stream, _)) = listener.accept() {
                        let _ = echo(stream);
                    }
                    Ok(())
                })
            })
            .collect();
        Ok(Self { listeners, threads })
    }

    fn stop(self) -> anyhow::Result<()> {
        for listener in &self.listeners {
            rustix::net::shutdown(listener, rustix::net::Shutdown::Both)?;
        }
        self.threads.into_iter().try_for_each(join)
    }
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [0; 1];
    while stream.read(&mut byte)? > 0 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn server_at(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER_ADDRESS.parse().expect("the constant is an address"), port)
}

/// Waits until a connection through the node works.
pub(crate) fn wait_until_reachable(place: &Place, interrupt: &Interrupt) -> anyhow::Result<()> {
    let deadline = Instant::now() + GRACE;
    loop {
        interrupt.check()?;
        let attempt = join(spawn_in(&place.client, || {
            Ok(TcpStream::connect_timeout(&server_at(IPERF_PORT), Duration::from_secs(1))?)
        }));
        match attempt {
            // iperf3 takes a connection for the start of a test until it is closed.
            Ok(stream) => {
                stream.shutdown(Shutdown::Both)?;
                drop(stream);
                std::thread::sleep(Duration::from_millis(200));
                return Ok(());
            }
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Asks gabiond's health endpoint; `None` when it is ready, else what it says.
pub(crate) fn health(namespace: &str) -> anyhow::Result<Option<String>> {
    join(spawn_in(namespace, || {
        let at = SocketAddr::from(([127, 0, 0, 1], HEALTH_PORT));
        let Ok(mut stream) = TcpStream::connect_timeout(&at, PATIENCE) else {
            return Ok(Some("its health endpoint does not answer".to_owned()));
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let Some((_, body)) = answer.split_once("\r\n\r\n") else { bail!("no HTTP: {answer}") };
        let ready = answer.starts_with("HTTP/1.1 200");
        Ok((!ready).then(|| body.trim().to_owned()))
    }))
}
