//! Steady flows: UDP datagrams that rules permit and deny, of both families, sent once a millisecond
//! from the client to web-1 while something else happens, and what of them arrived there.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use time::OffsetDateTime;

use super::Family;
use super::network::{CLIENT, CLIENT_V4, CLIENT_V6, WEB_1, WEB_1_V4, WEB_1_V6};
use crate::lab::stage::Stage;

/// Of the rule `traceroute-in`.
const PERMITTED: u16 = 33_500;
/// No rule names it: the default drops.
const DENIED: u16 = 33_600;

/// Between two datagrams of a flow.
const EVERY: Duration = Duration::from_millis(1);
/// How often a thread that waits for datagrams looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Flows that run. Dropping them ends them.
pub(super) struct Steady {
    flows: Vec<Flow>,
    stop: Arc<AtomicBool>,
}

/// One sender and one receiver.
struct Flow {
    family: Family,
    is_permitted: bool,
    sent: Arc<AtomicU64>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<Result<Vec<OffsetDateTime>>>,
    receiver: JoinHandle<Result<Vec<Arrival>>>,
}

struct Arrival {
    /// The datagram's number within its flow.
    number: usize,
    at: OffsetDateTime,
}

/// What became of the flows, once they have ended.
pub(super) struct Seen {
    permitted: Vec<(Family, Vec<OffsetDateTime>, Vec<Arrival>)>,
}

impl Steady {
    /// Starts them all; each has sent something when this returns.
    pub(super) fn start(stage: &Stage) -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        let flow = |family, is_permitted| Flow::start(stage, family, is_permitted, &stop);
        let flows =
            [(Family::V4, true), (Family::V4, false), (Family::V6, true), (Family::V6, false)];
        let flows = flows.into_iter().map(|(family, is_permitted)| flow(family, is_permitted));
        let steady = Self { flows: flows.collect::<Result<_>>()?, stop };
        steady.send_some()?;
        Ok(steady)
    }

    /// Waits until each flow has sent a hundred datagrams more.
    pub(super) fn send_some(&self) -> Result<()> {
        let goals: Vec<_> = self.flows.iter().map(|flow| load(&flow.sent) + 100).collect();
        wait("the flows to go on", || {
            self.flows.iter().zip(&goals).all(|(flow, goal)| load(&flow.sent) >= *goal)
        })
    }

    /// Waits until a permitted datagram of each family has arrived that is yet to be sent.
    pub(super) fn wait_until_permitted(&self) -> Result<()> {
        let permitted = || self.flows.iter().filter(|flow| flow.is_permitted);
        // Those that are on their way and those that wait for a neighbour are fewer.
        let goals: Vec<_> = permitted().map(|flow| load(&flow.arrived) + 200).collect();
        wait("permitted datagrams to arrive", || {
            permitted().zip(&goals).all(|(flow, goal)| load(&flow.arrived) >= *goal)
        })
    }

    /// Ends the flows. No denied datagram may have arrived at any time.
    pub(super) fn end(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let mut permitted = Vec::new();
        for flow in self.flows.drain(..) {
            let lost = || anyhow!("a thread of a steady flow panicked");
            let sent = flow.sender.join().map_err(|_| lost())??;
            let arrived = flow.receiver.join().map_err(|_| lost())??;
            if flow.is_permitted {
                permitted.push((flow.family, sent, arrived));
            } else if let Some(first) = arrived.first() {
                bail!("{:?}: {} denied arrived, at {}", flow.family, arrived.len(), first.at);
            }
        }
        Ok(Seen { permitted })
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Seen {
    /// Nothing that was sent after `from` may have arrived before `until`. Says how much was sent.
    pub(super) fn must_be_closed(
        &self,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<usize> {
        let mut tried = 0;
        for (family, sent, arrived) in &self.permitted {
            tried += sent.iter().filter(|at| (from..until).contains(*at)).count();
            let early = arrived.iter().find(|arrival| {
                arrival.at < until && sent.get(arrival.number).is_some_and(|at| *at > from)
            });
            if let Some(early) = early {
                bail!("{family:?}: one arrived {} before {until}", until - early.at);
            }
        }
        Ok(tried)
    }
}

impl Flow {
    fn start(
        stage: &Stage,
        family: Family,
        is_permitted: bool,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self> {
        let port = if is_permitted { PERMITTED } else { DENIED };
        let receiver = open(stage, WEB_1, address(WEB_1, family, port)?)?;
        let sender = open(stage, CLIENT, address(CLIENT, family, port)?)?;
        let (sent, arrived) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let to = address(WEB_1, family, port)?;
        let (has_sent, stops) = (Arc::clone(&sent), Arc::clone(stop));
        let sender = std::thread::spawn(move || send(&sender, to, &has_sent, &stops));
        let (has_arrived, stops) = (Arc::clone(&arrived), Arc::clone(stop));
        let receiver = std::thread::spawn(move || receive(&receiver, &has_arrived, &stops));
        Ok(Self { family, is_permitted, sent, arrived, sender, receiver })
    }
}

fn address(host: &str, family: Family, port: u16) -> Result<SocketAddr> {
    let text = match (host == CLIENT, family) {
        (true, Family::V4) => CLIENT_V4,
        (true, Family::V6) => CLIENT_V6,
        (false, Family::V4) => WEB_1_V4,
        (false, Family::V6) => WEB_1_V6,
    };
    Ok(SocketAddr::new(text.parse()?, port))
}

fn open(stage: &Stage, host: &str, at: SocketAddr) -> Result<UdpSocket> {
    stage.lab.namespace(host).enter(move || {
        let socket = UdpSocket::bind(at).with_context(|| format!("cannot bind {at}"))?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(socket)
    })
}

/// Sends datagrams with their numbers; returns when each was sent.
fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    count: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Vec<OffsetDateTime>> {
    let mut sent = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        sent.push(OffsetDateTime::now_utc());
        let number = sent.len() as u64 - 1;
        // A router that has lost its neighbour says so here: the flow goes on.
        let _ = socket.send_to(&number.to_be_bytes(), to);
        count.store(number + 1, Ordering::Relaxed);
        std::thread::sleep(EVERY);
    }
    Ok(sent)
}

fn receive(socket: &UdpSocket, count: &AtomicU64, stop: &AtomicBool) -> Result<Vec<Arrival>> {
    let mut arrived = Vec::new();
    let mut bytes = [0; 8];
    loop {
        match socket.recv(&mut bytes) {
            Ok(_) => {
                let number = usize::try_from(u64::from_be_bytes(bytes))?;
                arrived.push(Arrival { number, at: OffsetDateTime::now_utc() });
                count.store(arrived.len() as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                // Silence after the senders' end: what was on its way has come.
                if stop.load(Ordering::Relaxed) {
                    return Ok(arrived);
                }
            }
            Err(error) => return Err(error).context("web-1 cannot receive"),
        }
    }
}

/// Sends `number` denied datagrams of each family as fast as can be, from a port of their own.
pub(super) fn burst(stage: &Stage, number: u32) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let socket = open(stage, CLIENT, address(CLIENT, family, 0)?)?;
        let to = address(WEB_1, family, DENIED)?;
        for _ in 0..number {
            let _ = socket.send_to(&[0; 8], to);
        }
    }
    Ok(())
}

/// Waits for something that has to happen.
pub(super) fn wait(what: &str, mut has_happened: impl FnMut() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !has_happened() {
        ensure!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(EVERY);
    }
    Ok(())
}

fn load(count: &AtomicU64) -> u64 {
    count.load(Ordering::Relaxed)
}
