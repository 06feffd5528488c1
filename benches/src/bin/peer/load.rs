//! The load: what is measured in an arm, for a bounded time, all of it on one CPU.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::Interrupt;
use crate::lab::{Place, SERVER_ADDRESS, Segmentation, set_segmentation};
use crate::packets::Packets;
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    /// So many TCP streams in superframes.
    StreamGso { streams: u32 },
    /// So many TCP streams in packets of 1,500 bytes.
    Stream1500 { streams: u32 },
    /// A byte there and back over an open TCP connection.
    RoundTrip,
    /// TCP connections with a request and a response of one byte each.
    Connections,
    /// Frames of so many bytes of established UDP flows.
    Packets { bytes: usize, flows: u64 },
    /// First packets of UDP flows.
    NewFlows,
}

/// One of the numbers that a sample of a metric yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quantity {
    /// metric/action
    pub(crate) what: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) decimals: usize,
    /// Better is less.
    pub(crate) is_time: bool,
}

impl Quantity {
    const fn rate(what: &'static str, unit: &'static str, decimals: usize) -> Self {
        Self { what, unit, decimals, is_time: false }
    }

    const fn time(what: &'static str) -> Self {
        Self { what, unit: "us", decimals: 2, is_time: true }
    }
}

/// Of round trips, in thousandths, with their quantities below.
const QUANTILES: [usize; 3] = [500, 990, 999];

impl Metric {
    /// In the order of what a sample yields; the first is what gates are about.
    pub(crate) fn quantities(self) -> Vec<Quantity> {
        match self {
            Self::StreamGso { .. } | Self::Stream1500 { .. } => {
                vec![Quantity::rate("rate/stream", "Gbit/s", 2)]
            }
            Self::RoundTrip => {
                ["p50/round-trip", "p99/round-trip", "p99.9/round-trip"].map(Quantity::time).into()
            }
            Self::Connections => vec![Quantity::rate("rate/connect", "1/s", 0)],
            Self::Packets { .. } => vec![Quantity::rate("rate/forward", "1/s", 0)],
            Self::NewFlows => vec![Quantity::rate("rate/begin", "1/s", 0)],
        }
    }

    /// What the load generator offers.
    pub(crate) fn offered(self) -> String {
        match self {
            Self::StreamGso { streams } => {
                format!("{streams} iperf3 stream(s), as fast as they go, superframes")
            }
            Self::Stream1500 { streams } => {
                format!("{streams} iperf3 stream(s), as fast as they go, 1500-byte packets")
            }
            Self::RoundTrip => "one connection, one byte under way".to_owned(),
            Self::Connections => {
                format!("{CLIENTS} clients in a closed loop, 1 byte there and 1 back")
            }
            Self::Packets { bytes, flows } => {
                format!(
                    "{bytes}-byte frames of {flows} flows in turn, as fast as the kernel makes them"
                )
            }
            Self::NewFlows => "bursts of 1,024 packets, each of a new flow".to_owned(),
        }
    }

    pub(crate) const fn segmentation(self) -> Segmentation {
        match self {
            Self::Stream1500 { .. } => Segmentation::ByTheSender,
            Self::StreamGso { .. }
            | Self::RoundTrip
            | Self::Connections
            | Self::Packets { .. }
            | Self::NewFlows => Segmentation::ByTheReceiver,
        }
    }

    /// Readies an arm for samples of this.
    ///
    /// # Errors
    /// When packets do not pass.
    pub(crate) fn ready(self, place: &Place, interrupt: &Interrupt) -> anyhow::Result<Ready> {
        set_segmentation(place, self.segmentation())?;
        let packets = match self {
            Self::Packets { flows, .. } => {
                let mut packets = Packets::begin(place)?;
                packets.prime(flows, interrupt)?;
                Some(packets)
            }
            Self::NewFlows => Some(Packets::begin(place)?),
            Self::StreamGso { .. }
            | Self::Stream1500 { .. }
            | Self::RoundTrip
            | Self::Connections => None,
        };
        Ok(Ready { metric: self, place: place.clone(), packets })
    }
}

/// An arm that is ready for samples.
#[derive(Debug)]
pub(crate) struct Ready {
    metric: Metric,
    place: Place,
    packets: Option<Packets>,
}

impl Ready {
    /// One sample: a value for each of the metric's quantities.
    ///
    /// # Errors
    /// When it fails or is interrupted.
    pub(crate) fn sample(
        &mut self,
        seconds: u32,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Vec<f64>> {
        interrupt.check()?;
        let place = &self.place;
        match (self.metric, &mut self.packets) {
            (Metric::StreamGso { streams } | Metric::Stream1500 { streams }, _) => {
                stream(place, streams, seconds, interrupt).map(|rate| vec![rate])
            }
            (Metric::RoundTrip, _) => round_trip(place, seconds),
            (Metric::Connections, _) => connections(place, seconds).map(|rate| vec![rate]),
            (Metric::Packets { bytes, flows }, Some(packets)) => {
                packets.forward(bytes, flows, seconds, interrupt).map(|rate| vec![rate])
            }
            (Metric::NewFlows, Some(packets)) => {
                packets.begin_flows(seconds, interrupt).map(|rate| vec![rate])
            }
            (Metric::Packets { .. } | Metric::NewFlows, None) => bail!("no generator"),
        }
    }
}

fn stream(place: &Place, streams: u32, seconds: u32, interrupt: &Interrupt) -> anyhow::Result<f64> {
    let (port, time, count) = (IPERF_PORT.to_string(), seconds.to_string(), streams.to_string());
    let words = ["iperf3", "-c", SERVER_ADDRESS, "-p", &port, "-t", &time, "-P", &count];
    let words = [&words[..], &["-C", CONGESTION_CONTROL, "-J"]].concat();
    let limit = Duration::from_secs(seconds.into()) + GRACE;
    let report = run_measured(&place.client, &words, limit, interrupt)?;
    let report: Value = serde_json::from_str(&report).context("iperf3 printed no JSON")?;
    let bits = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(bits.context("iperf3 does not say how much was received")? / 1e9)
}

fn round_trip(place: &Place, seconds: u32) -> anyhow::Result<Vec<f64>> {
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
        times.sort_unstable();
        let at = |thousandths: usize| f64::from(times[times.len() * thousandths / 1_000]) / 1e3;
        Ok(QUANTILES.map(at).to_vec())
    });
    let quantiles = join(client);
    server.stop()?;
    quantiles
}

fn connections(place: &Place, seconds: u32) -> anyhow::Result<f64> {
    let server = Server::start(place, &CONNECTION_PORTS, CLIENTS)?;
    let rate = connect_to(place, seconds);
    server.stop()?;
    rate
}

/// Connections a second to a server that is there.
///
/// # Errors
/// When one fails.
pub(crate) fn connect_to(place: &Place, seconds: u32) -> anyhow::Result<f64> {
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
#[derive(Debug)]
pub(crate) struct Server {
    listeners: Vec<Arc<TcpListener>>,
    threads: Vec<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Server {
    pub(crate) fn start(place: &Place, ports: &[u16], threads: usize) -> anyhow::Result<Self> {
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
