//! The real programs and their tables, in a namespace with interfaces of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gabion_datapath::LinkAddress;
use gabion_datapath::ebpf::{Exit, FastPathLimits, Hook, Programs, Trial, TrialResult};
use gabion_engine::{
    Address, Endpoint, FastFlow, FastHop, FastPath, FastPlace, FastUsage, FastWay, FastWindow,
    FlowKey, Interface, InterfaceId, Offload, Time,
};
use gabion_rules::ZoneId;
use gabion_tests::walk::read_packet;
use gabiond::clock::Clock;
use gabiond::fast_path::SharedTable;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Flows of many sequences: a slot rests before it is used again.
const LIMITS: FastPathLimits = FastPathLimits { flows: 32_768, relays: 0, hops: 256, workers: 1 };

/// Longer frames the kernel hands XDP programs in pieces, which drivers do not hand to ours.
const EARLY_MAX: usize = 3_000;

/// `last_seen` counts in units of this, and says the end of one.
const UNIT: Duration = Duration::from_nanos(1 << 30);

/// The kernel's coarse clock stands still between ticks, which a busy machine delays.
const TICK: Duration = Duration::from_secs(2);

/// The programs, for one thread, which is in their namespace from then on.
pub(crate) struct Kernel {
    namespace: Namespace,
    programs: Programs,
    hook: Hook,
    numbers: Vec<u32>,
    table: Table,
}

/// What the program made of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// It is on its way, by the interface with the link address that it comes from.
    Moved(Vec<u8>),
    /// It is the engine's, as it was.
    Missed,
}

impl Kernel {
    /// Makes interfaces with these names and link addresses, and loads the programs; `None` where nobody asks for
    /// namespaces.
    pub(crate) fn new(interfaces: &[Interface]) -> Option<Self> {
        if std::env::var_os("GABION_NETNS").is_none() {
            println!("skipped: set GABION_NETNS=1 and be root");
            return None;
        }
        let namespace = Namespace::new();
        let links: Vec<(u32, LinkAddress)> = interfaces
            .iter()
            .map(|interface| (namespace.interface(interface), LinkAddress(interface.mac)))
            .collect();
        let numbers = links.iter().map(|(number, _)| *number).collect();
        let trial = Trial::among(LIMITS, [0x5eed, 0x7ab1e], &links).unwrap();
        let (programs, table) = trial.into_parts();
        let clock = Clock;
        let shared = SharedTable::new(table);
        let flows = BTreeMap::new();
        let limit = usize::MAX;
        let places = Places { shared, clock, limit, flows, ends: Ends::default(), asks: false };
        let table = Table(Arc::new(Mutex::new(places)));
        Some(Self { namespace, programs, hook: Hook::Tc, numbers, table })
    }

    /// Has frames come to the program of this hook first, and to the one behind it if it leaves them.
    pub(crate) const fn begin_at(&mut self, hook: Hook) {
        self.hook = hook;
    }

    /// Empty tables for another engine, with room for so many flows.
    pub(crate) fn table(&mut self, limit: usize) -> Box<dyn FastPath> {
        let mut table = self.table.clone();
        table.set_stamp(0);
        let left: Vec<u32> = table.places().flows.keys().copied().collect();
        for place in left {
            table.remove(FastPlace(place));
        }
        table.places().limit = limit;
        Box::new(table)
    }

    /// Runs the program on a frame that comes in by an interface at the engine's `now`.
    ///
    /// # Panics
    /// When it changes a frame that it does not move, or says what a program may not.
    pub(crate) fn run(
        &mut self,
        now: Time,
        from: InterfaceId,
        frame: &[u8],
        offload: &Offload,
    ) -> Ran {
        if frame.len() < shortest(frame) {
            return Ran::Missed;
        }
        let number = self.numbers[usize::from(from.0)];
        let size = offload.segments.map_or(0, |segments| u32::from(segments.size));
        let before = self.table.places().clock.now();
        // Superframes are none of XDP's.
        let may_be_early = size == 0 && frame.len() <= EARLY_MAX;
        let moved = match self.hook {
            Hook::Xdp if may_be_early => {
                let early = self.run_at(Hook::Xdp, number, frame, 0);
                if early.is_none() {
                    assert_eq!(self.run_at(Hook::Tc, number, frame, 0), None, "of one mind");
                }
                early
            }
            Hook::Xdp | Hook::Tc => self.run_at(Hook::Tc, number, frame, size),
        };
        moved.map_or(Ran::Missed, |moved| {
            self.table.places().note(now, before, frame);
            Ran::Moved(moved)
        })
    }

    /// The frame as the program sends it; `None` if it leaves it.
    fn run_at(&mut self, hook: Hook, number: u32, frame: &[u8], size: u32) -> Option<Vec<u8>> {
        let result = self.programs.run(hook, number, frame, size, 1);
        let TrialResult { verdict, frame: left, .. } =
            result.unwrap_or_else(|error| panic!("{error:?}: {frame:02x?}"));
        if verdict == hook.left() {
            assert_eq!(left, frame, "the next gets what came");
            return None;
        }
        assert_eq!(verdict, hook.sent(), "{hook:?}");
        Some(left)
    }

    /// Packets of connections one side of which had closed that programs have moved.
    pub(crate) fn ends(&self) -> Ends {
        self.table.places().ends
    }

    /// Has the programs ask sources of SYNs whether they are there, where the engine does.
    pub(crate) fn let_ask(&mut self) {
        self.table.places().asks = true;
    }

    /// What the program at tc sends for a frame that no flow covers; `None` if it leaves it to the engine.
    pub(crate) fn answer(&mut self, from: InterfaceId, frame: &[u8]) -> Option<Vec<u8>> {
        self.run_at(Hook::Tc, self.numbers[usize::from(from.0)], frame, 0)
    }

    /// How often each exit was taken.
    pub(crate) fn exits(&self) -> Vec<(Exit, u64)> {
        let all = self.programs.exits().unwrap();
        all.into_iter().filter(|(_, count)| *count > 0).collect()
    }
}

/// Shorter frames the kernel does not make for a test: none without anything in it, none without the header that its
/// type promises.
fn shortest(frame: &[u8]) -> usize {
    match frame.get(12..14) {
        Some([0x08, 0x00]) => 14 + 20,
        Some([0x86, 0xdd]) => 14 + 40,
        _ => 14 + 1,
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("namespace", &self.namespace.0).finish_non_exhaustive()
    }
}

/// A network namespace, in which the thread that made it is; gone with this.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("gab-equality-{}-{number}", std::process::id()));
        ip(&["netns", "add", &namespace.0]);
        let file = File::open(format!("/run/netns/{}", namespace.0)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        namespace
    }

    /// Makes an interface; returns the kernel's number for it.
    fn interface(&self, interface: &Interface) -> u32 {
        let [a, b, c, d, e, f] = interface.mac;
        let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
        let name = interface.name.as_str();
        let peer = format!("{name}-peer");
        let veth = ["link", "add", name, "address", &mac, "type", "veth", "peer", "name", &peer];
        ip(&[&["-n", &self.0], &veth[..]].concat());
        let shown = ip(&["-n", &self.0, "-o", "link", "show", name]);
        shown.split(':').next().unwrap().parse().unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn ip(words: &[&str]) -> String {
    let output = Command::new("ip").args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The node's table, but for the time: the kernel's does not pass as the engine's does.
#[derive(Debug, Clone)]
struct Table(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    shared: SharedTable,
    clock: Clock,
    limit: usize,
    flows: BTreeMap<u32, Seen>,
    ends: Ends,
    asks: bool,
}

#[derive(Debug)]
struct Seen {
    keys: [FlowKey; 2],
    is_opening: bool,
    has_fin: bool,
    /// The last packet of each direction by the engine's clock; and not before when by the kernel's.
    last: [Time; 2],
    ran: [Time; 2],
}

/// What the programs have moved of the beginnings and ends of connections: answers to SYNs, first segments behind a SYN,
/// FINs, and what followed one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ends {
    pub(crate) answers: u64,
    pub(crate) handshakes: u64,
    pub(crate) fins: u64,
    pub(crate) half_closed: u64,
}

/// Of a packet that the programs move, which has neither options nor extension headers.
fn has_flag(frame: &[u8], flag: u8) -> bool {
    let (protocol, flags) = if frame[14] == 0x45 { (frame[23], 47) } else { (frame[20], 67) };
    protocol == 6 && frame[flags] & flag != 0
}

impl Table {
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap()
    }
}

impl Places {
    /// Of a frame that the program has moved.
    fn note(&mut self, now: Time, ran: Time, frame: &[u8]) {
        let seen = read_packet(&frame[14..]).expect("the program moves IP packets");
        for flow in self.flows.values_mut() {
            if let Some(direction) = flow.keys.iter().position(|key| *key == seen.key) {
                flow.last[direction] = now;
                flow.ran[direction] = ran;
                let (syn, fin) = (has_flag(frame, 2), has_flag(frame, 1));
                self.ends.answers += u64::from(syn);
                let opens = direction == 0 && std::mem::take(&mut flow.is_opening);
                self.ends.handshakes += u64::from(opens);
                self.ends.half_closed += u64::from(flow.has_fin);
                self.ends.fins += u64::from(fin);
                flow.has_fin |= fin;
                return;
            }
        }
        panic!("the program moves packets of a flow that it was not given: {seen:?}");
    }

    /// With the engine's time in the place of the kernel's, which is seen to be right.
    fn of_engine(&self, place: u32, mut usage: FastUsage) -> FastUsage {
        let flow = &self.flows[&place];
        for direction in 0..2 {
            if usage.moved[direction].packets > 0 {
                let (said, ran) = (usage.seen[direction], flow.ran[direction]);
                assert!(said + TICK >= ran, "{said:?} is before {ran:?}");
                let latest = self.clock.now() + UNIT;
                assert!(said <= latest, "{said:?} is after {latest:?}");
            }
            usage.seen[direction] = flow.last[direction];
        }
        usage
    }
}

impl FastPath for Table {
    fn install(&mut self, flow: &FastFlow) -> Option<FastPlace> {
        let mut places = self.places();
        if places.flows.len() >= places.limit {
            return None;
        }
        let place = places.shared.install(flow)?;
        let never = [Time::ZERO; 2];
        let is_any =
            |is: fn(&FastWindow) -> bool| flow.tcp.is_some_and(|sides| sides.iter().any(is));
        let (is_opening, has_fin) = (is_any(|side| side.opening), is_any(|side| side.fin));
        let seen = Seen { keys: flow.keys, is_opening, has_fin, last: never, ran: never };
        assert!(places.flows.insert(place.0, seen).is_none(), "a place has one flow");
        Some(place)
    }

    fn renew(&mut self, place: FastPlace, flow: &FastFlow) {
        self.places().shared.renew(place, flow);
    }

    fn remove(&mut self, place: FastPlace) -> FastUsage {
        let mut places = self.places();
        let usage = places.shared.remove(place);
        let usage = places.of_engine(place.0, usage);
        places.flows.remove(&place.0);
        usage
    }

    fn take_usage(&mut self, place: FastPlace) -> FastUsage {
        let mut places = self.places();
        let usage = places.shared.take_usage(place);
        places.of_engine(place.0, usage)
    }

    fn set_hop(&mut self, hop: FastHop, way: Option<FastWay>) {
        self.places().shared.set_hop(hop, way);
    }

    fn set_zone(&mut self, interface: InterfaceId, zone: Option<ZoneId>) {
        self.places().shared.set_zone(interface, zone);
    }

    fn set_challenge_state(&mut self, state: [u64; 4]) {
        self.places().shared.set_challenge_state(state);
    }

    fn challenge(&mut self, destination: Endpoint, zone: ZoneId) {
        let mut places = self.places();
        if places.asks {
            places.shared.challenge(destination, zone);
        }
    }

    fn know(&mut self, source: Address) {
        self.places().shared.know(source);
    }

    fn set_stamp(&mut self, stamp: u32) {
        self.places().shared.set_stamp(stamp);
    }
}
