//! Two small TCP endpoints with the tracker between them, on a network that loses, repeats and
//! reorders before and behind it. What a host sends passes; what is dropped after a delay would have
//! taught its receiver nothing; and every connection comes to its end.

use super::super::window::{end, is_at_most};
use super::*;
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq)]
struct Host {
    isn: u32,
    /// RFC 9293's SND.UNA, SND.NXT, and the right edge that the peer has granted.
    unacknowledged: u32,
    next: u32,
    limit: u32,
    largest_window: u32,
    /// Set when the peer's SYN has come: the next byte expected, and the right edge granted.
    expected: Option<u32>,
    granted: u32,
    window: u16,
    scale: Option<u8>,
    peer_scale: Option<u8>,
    unsent: u32,
    fin: Option<u32>,
    peer_fin: bool,
}

#[derive(Debug, Clone, Copy)]
enum Send {
    Syn,
    Data(u16),
    Again(u16),
    Ack,
    KeepAlive(bool),
    Probe,
    Fin,
}

impl Host {
    fn new(isn: u32, scale: Option<u8>, window: u16, unsent: u32) -> Self {
        Self {
            isn,
            unacknowledged: isn,
            next: isn,
            limit: isn,
            largest_window: 1,
            expected: None,
            granted: 0,
            window,
            scale,
            peer_scale: None,
            unsent,
            fin: None,
            peer_fin: false,
        }
    }

    fn is_open(&self) -> bool {
        self.expected.is_some() && self.unacknowledged != self.isn
    }

    fn is_done(&self) -> bool {
        self.peer_fin && self.fin.is_some() && self.unacknowledged == self.next
    }

    fn send(&mut self, what: Send) -> Option<TcpSegment> {
        let room = self.limit.wrapping_sub(self.next);
        let room = if room > 1 << 31 { 0 } else { room };
        match what {
            Send::Syn if !self.is_open() && self.unacknowledged == self.isn => {
                self.next = self.isn.wrapping_add(1);
                Some(self.segment("S", self.isn, 0))
            }
            Send::Data(size) if self.is_open() && self.fin.is_none() => {
                let size = u32::from(size).min(room).min(self.unsent);
                self.unsent -= size;
                let at = self.next;
                self.next = at.wrapping_add(size);
                Some(self.segment("", at, size))
            }
            Send::Again(size) if self.is_open() && self.unacknowledged != self.next => {
                let last = self.fin.unwrap_or(self.next);
                let left = last.wrapping_sub(self.unacknowledged);
                let flags = if u32::from(size) >= left && self.fin.is_some() { "F" } else { "" };
                Some(self.segment(flags, self.unacknowledged, left.min(u32::from(size))))
            }
            Send::Ack if self.is_open() => Some(self.segment("", self.next, 0)),
            // Long after the handshake, with nothing in flight.
            Send::KeepAlive(garbage)
                if self.is_open()
                    && self.unacknowledged == self.next
                    && self.next != self.isn.wrapping_add(1) =>
            {
                Some(self.segment("", self.next.wrapping_sub(1), u32::from(garbage)))
            }
            // The peer's window is zero and nothing is in flight: the byte behind the edge.
            Send::Probe
                if self.is_open()
                    && self.unsent > 0
                    && self.next == self.limit
                    && self.next == self.unacknowledged =>
            {
                let at = self.next;
                self.unsent -= 1;
                self.next = at.wrapping_add(1);
                Some(self.segment("", at, 1))
            }
            Send::Fin if self.is_open() && self.fin.is_none() && self.unsent == 0 => {
                let at = self.next;
                self.fin = Some(at);
                self.next = at.wrapping_add(1);
                Some(self.segment("F", at, 0))
            }
            Send::Syn
            | Send::Data(_)
            | Send::Again(_)
            | Send::Ack
            | Send::KeepAlive(_)
            | Send::Probe
            | Send::Fin => None,
        }
    }

    fn segment(&mut self, flags: &str, sequence: u32, payload: u32) -> TcpSegment {
        let is_syn = flags.contains('S');
        let mut segment = segment(flags, sequence, 0).payload(payload).window(self.window);
        if is_syn {
            segment.window_scale = self.scale;
        }
        if let Some(expected) = self.expected {
            segment.flags.ack = true;
            segment.acknowledgement = expected;
            let shift = if is_syn { 0 } else { self.shift(self.scale) };
            let edge = expected.wrapping_add(u32::from(self.window) << shift);
            if is_at_most(self.granted, edge) {
                self.granted = edge;
            }
        }
        segment
    }

    fn shift(&self, scale: Option<u8>) -> u8 {
        if self.scale.is_some() && self.peer_scale.is_some() { scale.unwrap() } else { 0 }
    }

    /// RFC 9293 section 3.10.7, without a queue for what comes out of order.
    fn receive(&mut self, segment: &TcpSegment) {
        let flags = segment.flags;
        let Some(expected) = self.expected else {
            let fits = !flags.ack || segment.acknowledgement == self.next;
            if flags.syn && fits && (!flags.ack || self.next != self.isn) {
                self.expected = Some(end(segment));
                self.granted = end(segment).wrapping_add(u32::from(self.window));
                self.peer_scale = segment.window_scale;
                self.limit = self.isn.wrapping_add(1).wrapping_add(u32::from(segment.window));
                self.largest_window = u32::from(segment.window).max(1);
                self.take_ack(segment);
            }
            return;
        };
        let first = segment.sequence.wrapping_add(u32::from(flags.syn));
        // Section 3.10.7.4: of a segment that is not empty, the last byte counts.
        let last = end(segment).wrapping_sub(u32::from(segment.payload > 0));
        if !is_at_most(expected, last) || !is_at_most(first, self.granted) || !flags.ack {
            return;
        }
        if !self.take_ack(segment) || !is_at_most(first, expected) {
            return;
        }
        let data = first.wrapping_add(segment.payload);
        let taken = if is_at_most(data, self.granted) { data } else { self.granted };
        if is_at_most(expected, taken) {
            self.expected = Some(taken);
        }
        if flags.fin && taken == data && !self.peer_fin {
            self.peer_fin = true;
            self.expected = Some(data.wrapping_add(1));
        }
    }

    fn take_ack(&mut self, segment: &TcpSegment) -> bool {
        let ack = segment.acknowledgement;
        if !segment.flags.ack {
            return true;
        }
        let oldest = self.unacknowledged.wrapping_sub(self.largest_window);
        if !is_at_most(oldest, ack) || !is_at_most(ack, self.next) {
            return false;
        }
        let shift = if segment.flags.syn { 0 } else { self.shift(self.peer_scale) };
        let window = u32::from(segment.window) << shift;
        self.largest_window = self.largest_window.max(window);
        if is_at_most(self.unacknowledged, ack) {
            self.unacknowledged = ack;
            self.limit = ack.wrapping_add(window);
        }
        true
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Straight through the tracker, then queued for the receiver.
    Send(Send),
    /// Queued in front of the tracker.
    SendSlowly(Send),
    Window(u16),
    Track(usize),
    Deliver(usize),
    Repeat(usize),
    Lose(usize),
    LoseBehind(usize),
}

fn sends() -> impl Strategy<Value = Send> {
    prop_oneof![
        Just(Send::Syn),
        any::<u16>().prop_map(Send::Data),
        (1_u16..3_000).prop_map(Send::Data),
        any::<u16>().prop_map(Send::Again),
        Just(Send::Ack),
        any::<bool>().prop_map(Send::KeepAlive),
        Just(Send::Probe),
        Just(Send::Fin),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => sends().prop_map(Step::Send),
        3 => sends().prop_map(Step::SendSlowly),
        1 => prop_oneof![Just(0), 1_u16..2_000, any::<u16>()].prop_map(Step::Window),
        4 => any::<usize>().prop_map(Step::Track),
        7 => any::<usize>().prop_map(Step::Deliver),
        1 => any::<usize>().prop_map(Step::Repeat),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => any::<usize>().prop_map(Step::LoseBehind),
    ]
}

struct Network {
    tracker: TcpTracker,
    /// Client and server; so are the queues of what each has sent.
    hosts: [Host; 2],
    before: [Vec<TcpSegment>; 2],
    behind: [Vec<TcpSegment>; 2],
}

impl Network {
    fn step(&mut self, from: usize, step: Step) -> Result<(), TestCaseError> {
        let pick = |queue: &Vec<TcpSegment>, n: usize| (!queue.is_empty()).then(|| n % queue.len());
        match step {
            Step::Send(what) => {
                if let Some(segment) = self.hosts[from].send(what) {
                    let closed = self.tracker.state() == Closed;
                    let passed = self.track(from, segment)?;
                    let must = !closed || segment.flags.fin || segment.payload > 1;
                    prop_assert!(passed || !must, "{what:?} {segment:?} {:?}", self.tracker);
                }
            }
            Step::SendSlowly(what) => {
                let sent = self.hosts[from].send(what);
                self.before[from].extend(sent);
            }
            Step::Window(window) => self.hosts[from].window = window,
            Step::Track(n) => {
                if let Some(n) = pick(&self.before[from], n) {
                    let segment = self.before[from].swap_remove(n);
                    self.track(from, segment)?;
                }
            }
            Step::Deliver(n) => {
                if let Some(n) = pick(&self.behind[from], n) {
                    let segment = self.behind[from].swap_remove(n);
                    self.hosts[1 - from].receive(&segment);
                }
            }
            Step::Repeat(n) => {
                for queue in [&mut self.before[from], &mut self.behind[from]] {
                    if let Some(n) = pick(queue, n) {
                        queue.push(queue[n]);
                    }
                }
            }
            Step::Lose(n) => {
                if let Some(n) = pick(&self.before[from], n) {
                    self.before[from].swap_remove(n);
                }
            }
            Step::LoseBehind(n) => {
                if let Some(n) = pick(&self.behind[from], n) {
                    self.behind[from].swap_remove(n);
                }
            }
        }
        Ok(())
    }

    fn track(&mut self, from: usize, segment: TcpSegment) -> Result<bool, TestCaseError> {
        let direction = [Original, Reply][from];
        let before = self.tracker;
        match self.tracker.handle_segment(direction, &segment) {
            Ok(effect) => {
                prop_assert_ne!(effect, Reopen);
                self.behind[from].push(segment);
                Ok(true)
            }
            Err(_) => {
                prop_assert_eq!(before, self.tracker);
                let mut receiver = self.hosts[1 - from].clone();
                receiver.receive(&segment);
                // After the close a bare ACK passes only as an answer; `finish` shows that it suffices.
                let unasked =
                    before.state() == Closed && segment.payload == 0 && !segment.flags.fin;
                let useless = receiver == self.hosts[1 - from];
                prop_assert!(
                    useless || unasked || self.is_stale(from, &segment),
                    "useful {segment:?} from {direction:?} dropped by {before:?}"
                );
                Ok(false)
            }
        }
    }

    /// The sender has acknowledged more than a window beyond this since; RFC 5961 section 5.2 has
    /// the receiver drop it, if it got those.
    fn is_stale(&self, from: usize, segment: &TcpSegment) -> bool {
        let host = &self.hosts[from];
        let window = self.hosts[1 - from].largest_window;
        host.expected.is_some_and(|expected| {
            !is_at_most(expected.wrapping_sub(window), segment.acknowledgement)
        })
    }

    /// From now on nothing is lost: both must come to their end.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        self.before = [vec![], vec![]];
        self.behind = [vec![], vec![]];
        for host in &mut self.hosts {
            host.window = u16::MAX;
        }
        for _ in 0..200 {
            for from in [0, 1] {
                for what in [
                    Send::Syn,
                    Send::Again(u16::MAX),
                    Send::Data(u16::MAX),
                    Send::Probe,
                    Send::Fin,
                    Send::Ack,
                ] {
                    // A server that is not open waits for the SYN.
                    if matches!(what, Send::Syn) && from == 1 && self.hosts[1].expected.is_none() {
                        continue;
                    }
                    self.step(from, Step::Send(what))?;
                    while !self.behind[from].is_empty() {
                        self.step(from, Step::Deliver(0))?;
                    }
                }
            }
            if self.hosts.iter().all(Host::is_done) {
                prop_assert_eq!(self.tracker.state(), Closed);
                return Ok(());
            }
        }
        prop_assert!(false, "stuck: {:?} {:?}", self.tracker, self.hosts);
        Ok(())
    }
}

proptest! {
    /// Covers: 2979-T, 5382-2, 6092-31
    #[test]
    fn legal_segments_pass_and_connections_end(
        isns: (u32, u32),
        scales: (Option<u8>, Option<u8>),
        windows: (u16, u16),
        unsent: (u16, u16),
        active_server: bool,
        steps in prop::collection::vec((any::<bool>(), steps()), 0..250),
    ) {
        let scale = |scale: Option<u8>| scale.map(|shift| shift % 15);
        let mut client = Host::new(isns.0, scale(scales.0), windows.0, u32::from(unsent.0) * 4);
        let server = Host::new(isns.1, scale(scales.1), windows.1, u32::from(unsent.1) * 4);
        let syn = client.send(Send::Syn).unwrap();
        let mut network = Network {
            tracker: TcpTracker::open(&syn),
            hosts: [client, server],
            before: [vec![], vec![]],
            behind: [vec![syn], vec![]],
        };
        for (server, step) in steps {
            let from = usize::from(server);
            let opens = matches!(step, Step::Send(Send::Syn) | Step::SendSlowly(Send::Syn));
            let passive = network.hosts[from].expected.is_none() && !active_server;
            if !(server && opens && passive) {
                network.step(from, step)?;
            }
        }
        network.finish()?;
    }

    /// Whoever does not know where the windows are neither passes nor changes anything.
    ///
    /// Covers: 3.2, 5961-3a, 5961-5
    #[test]
    fn segments_outside_the_windows_never_pass(
        isns: (u32, u32),
        direction in prop::sample::select(vec![Original, Reply]),
        flags in prop::sample::select(vec!["A", "FA", "SA", "R", "RA"]),
        sequence: u32,
        acknowledgement: u32,
        payload in 0_u32..65_536,
        far_sequence: bool,
    ) {
        const REACH: u32 = 200_000;
        let (client, server) = isns;
        let mut tracker = TcpTracker::open(&segment("S", client, 0));
        let [c, s] = [client.wrapping_add(1), server.wrapping_add(1)];
        tracker.handle_segment(Reply, &segment("SA", server, c)).unwrap();
        tracker.handle_segment(Original, &segment("A", c, s).payload(3_000)).unwrap();
        let (own, other) = if direction == Original { (c, s) } else { (s, c) };
        let is_far = |a: u32, b: u32| a.wrapping_sub(b).min(b.wrapping_sub(a)) > REACH;
        let rst = flags.starts_with('R');
        prop_assume!(if far_sequence || rst {
            is_far(sequence, own)
        } else {
            is_far(acknowledgement, other)
        });
        let sequence = if far_sequence || rst { sequence } else { own };
        let before = tracker;
        let forged = segment(flags, sequence, acknowledgement).payload(payload);
        prop_assert!(tracker.handle_segment(direction, &forged).is_err());
        prop_assert_eq!(tracker, before);
    }

    /// Nothing that anybody sends makes the tracker panic or the state leave its table.
    #[test]
    fn any_segments_are_survived(
        segments in prop::collection::vec(
            (any::<bool>(), 0_u8..16, 0_u32..9, 0_u32..9, 0_u16..4, 0_u32..4), 0..60),
    ) {
        let mut tracker = TcpTracker::open(&segment("S", u32::MAX - 3, 0).scale(1));
        for (reply, bits, sequence, acknowledgement, window, payload) in segments {
            let flags: String = "SAFR".chars().enumerate()
                .filter(|(n, _)| bits >> n & 1 == 1).map(|(_, flag)| flag).collect();
            let base = u32::MAX - 5;
            let any = segment(&flags, base.wrapping_add(sequence), base.wrapping_add(acknowledgement))
                .window(window).payload(payload);
            let direction = if reply { Reply } else { Original };
            let before = tracker;
            match tracker.handle_segment(direction, &any) {
                Ok(Moved { from, to }) => {
                    prop_assert_eq!(from, before.state());
                    prop_assert_eq!(to, tracker.state());
                    prop_assert_ne!(from, to);
                }
                Ok(Continue | NoRefresh) => prop_assert_eq!(before.state(), tracker.state()),
                Ok(Reopen) | Err(_) => prop_assert_eq!(before, tracker),
            }
        }
    }
}
