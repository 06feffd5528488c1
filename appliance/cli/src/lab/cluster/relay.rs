//! The network between the nodes: one thread that carries frames with delay and loss, and may cut it.
//!
//! Delays are drawn for each frame, so that a range of them reorders. Neighbour discovery is delayed but never
//! lost: in a cloud the host answers it. What is cut carries nothing.

use std::collections::{BTreeSet, BinaryHeap};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use gabion_datapath::{Datapath as _, FrameMut, Port, UserspaceDatapath, VnetHeader, Waker};

use super::balancer::{BUDGET, LOOK_EVERY, RINGS, held};
use super::dice::Dice;
use crate::lab::build::Lab;
use crate::lab::topology::LinkAddress;

/// Frames that are under way at most; more are lost, as in a full queue.
const UNDER_WAY_MAX: usize = 16_384;

/// What the network does to frames.
#[derive(Debug, Clone)]
pub(crate) struct Conditions {
    pub(crate) delay_us: RangeInclusive<u64>,
    pub(crate) loss_per_cent: f64,
    /// From which node to which nothing comes.
    pub(crate) cuts: BTreeSet<(usize, usize)>,
}

impl Conditions {
    pub(crate) const GOOD: Self =
        Self { delay_us: 0..=0, loss_per_cent: 0.0, cuts: BTreeSet::new() };
}

/// What the network has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Carried {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) lost: u64,
}

/// The network at work. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Relay {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    waker: Waker,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct State {
    conditions: Conditions,
    carried: Carried,
    dice: Dice,
}

impl Relay {
    /// Starts it in the namespace of `host`; `devices` are those of the nodes, in their order.
    ///
    /// # Errors
    /// If its devices cannot be opened.
    pub(crate) fn start(
        lab: &Lab,
        host: &str,
        devices: &[&'static str],
        conditions: Conditions,
        seed: u64,
    ) -> Result<Self> {
        let carried = Carried::default();
        let state = State { conditions, carried, dice: Dice::new(seed) };
        let state = Arc::new(Mutex::new(state));
        let stop = Arc::<AtomicBool>::default();
        let others = devices
            .iter()
            .map(|device| lab.topology().link_addresses(host, device).map(|[_, other]| other));
        let others = others.collect::<Option<_>>().context("a relay's device is on no link")?;
        let carrier = Carrier {
            devices: devices.to_vec(),
            others,
            state: Arc::clone(&state),
            under_way: BinaryHeap::new(),
            number: 0,
        };
        let (ready, opened) = mpsc::sync_channel(1);
        let ended = Arc::clone(&stop);
        let thread = lab.namespace(host).spawn(move || carrier.run(&ready, &ended));
        match opened.recv() {
            Ok(waker) => Ok(Self { state, stop, waker, thread: Some(thread) }),
            Err(_) => {
                let ended = thread.join().map_err(|_| anyhow!("the relay panicked"))?;
                Err(ended.err().unwrap_or_else(|| anyhow!("the relay ended at once")))
            }
        }
    }

    /// Changes what the network does, at once.
    pub(crate) fn set(&self, change: impl FnOnce(&mut Conditions)) {
        change(&mut held(&self.state).conditions);
    }

    pub(crate) fn carried(&self) -> Carried {
        held(&self.state).carried
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.waker.wake();
        if let Some(thread) = self.thread.take()
            && let Ok(Err(error)) = thread.join()
        {
            eprintln!("the network between the nodes failed: {error:#}");
        }
    }
}

/// A frame that waits for its time; the one whose time comes first is the greatest.
#[derive(Debug, PartialEq, Eq)]
struct UnderWay {
    due: Instant,
    number: u64,
    to: Port,
    bytes: Vec<u8>,
    vnet: VnetHeader,
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

struct Carrier {
    devices: Vec<&'static str>,
    others: Vec<LinkAddress>,
    state: Arc<Mutex<State>>,
    under_way: BinaryHeap<UnderWay>,
    number: u64,
}

impl Carrier {
    fn run(mut self, ready: &mpsc::SyncSender<Waker>, stop: &AtomicBool) -> Result<()> {
        let mut datapath = UserspaceDatapath::open(&self.devices, RINGS)?;
        // Nobody waits any more if the lab is being removed.
        let _ = ready.send(datapath.waker());
        while !stop.load(Ordering::Relaxed) {
            let next = self.under_way.peek().map(|frame| frame.due);
            let wait = next.map(|due| due.saturating_duration_since(Instant::now()));
            datapath.wait(Some(wait.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)))?;
            datapath.receive(BUDGET, &mut |frames| {
                let now = Instant::now();
                let state = Arc::clone(&self.state);
                let mut state = held(&state);
                for frame in frames {
                    self.take(now, &mut state, frame);
                }
            })?;
            let now = Instant::now();
            while let Some(frame) = self.under_way.peek().filter(|frame| frame.due <= now) {
                datapath.transmit(frame.to, &frame.bytes, frame.vnet);
                self.under_way.pop();
            }
            datapath.flush()?;
        }
        Ok(())
    }

    fn take(&mut self, now: Instant, state: &mut State, frame: &mut FrameMut<'_>) {
        /// Above that no Ethernet frame names an IPv4 or IPv6 packet; ARP has a type of its own.
        const ARP: [u8; 2] = [0x08, 0x06];
        let from = usize::from(frame.from.0);
        let Some(to) = frame.bytes.get(..6) else { return };
        // The lowest bit of an Ethernet address stands for a group.
        let is_group = to[0] & 1 == 1;
        let is_discovery = is_group || frame.bytes.get(12..14) == Some(&ARP);
        let targets: Vec<_> = (0..self.others.len())
            .filter(|&target| target != from && (is_group || self.others[target] == to))
            .collect();
        for target in targets {
            let State { conditions, carried, dice } = &mut *state;
            let is_lost = !is_discovery && dice.is_below(conditions.loss_per_cent)
                || conditions.cuts.contains(&(from, target))
                || self.under_way.len() >= UNDER_WAY_MAX;
            if is_lost {
                carried.lost += 1;
                continue;
            }
            carried.frames += 1;
            carried.bytes += frame.bytes.len() as u64;
            let delay = dice.within(&conditions.delay_us);
            let to = Port(target as u16);
            if delay == 0 && !is_group {
                frame.out = Some(to);
                continue;
            }
            self.number += 1;
            self.under_way.push(UnderWay {
                due: now + Duration::from_micros(delay),
                number: self.number,
                to,
                bytes: frame.bytes.to_vec(),
                vnet: frame.vnet,
            });
        }
    }
}
