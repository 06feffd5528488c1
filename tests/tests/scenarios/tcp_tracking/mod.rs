//! TCP as it must pass, and as it must not: whole conversations through the engine, translated and
//! not, in either family. The tracker's own tests know every segment; these know that nothing between
//! the wire and the tracker spoils it.

mod close;
mod extensions;
mod handshake;
mod reset;
mod unsolicited;

use gabion_engine::build::{self, FrameBuilder};

use super::POLICY;
use super::dialogue::Dialogue;

/// Who talks to whom, and what either sees of the other.
#[derive(Debug, Clone, Copy)]
struct Place {
    client: &'static str,
    /// The server as the client knows it, and as it is.
    called: &'static str,
    server: &'static str,
}

const PLAIN: Place =
    Place { client: "198.51.100.9:40000", called: "10.1.0.10:443", server: "10.1.0.10:443" };
const TRANSLATED: Place =
    Place { client: "198.51.100.9:40000", called: "203.0.113.7:443", server: "10.1.0.10:443" };
const IPV6: Place =
    Place { client: "[2600:9::9]:40000", called: "[2600:1::7]:443", server: "[2600:2::10]:443" };
const PLACES: [Place; 3] = [PLAIN, TRANSLATED, IPV6];

/// The client's and the server's initial sequence numbers, the first about to wrap.
const C: u32 = 0_u32.wrapping_sub(500);
const S: u32 = 5_000;

/// One connection; sequence numbers count from each side's initial one.
struct Conversation {
    dialogue: Dialogue,
    place: Place,
}

impl Conversation {
    fn at(place: Place) -> Self {
        Self { dialogue: Dialogue::new(POLICY), place }
    }

    fn established(place: Place) -> Self {
        let mut talk = Self::at(place);
        talk.client_passes(|segment| segment.syn(), 0, None);
        talk.server_passes(|segment| segment.syn(), 0, Some(1));
        talk.client_passes(|segment| segment, 1, Some(1));
        assert_eq!(talk.state(), "established");
        talk
    }

    /// A segment of the client, 64,000 bytes of window.
    fn client(&self, seq: u32, ack: Option<u32>) -> FrameBuilder {
        let segment = build::tcp().from(self.place.client).to(self.place.called).window(64_000);
        let segment = segment.seq(C.wrapping_add(seq));
        ack.map_or(segment.clone(), |ack| segment.ack(S.wrapping_add(ack)))
    }

    fn server(&self, seq: u32, ack: Option<u32>) -> FrameBuilder {
        let segment = build::tcp().from(self.place.server).to(self.place.client).window(64_000);
        let segment = segment.seq(S.wrapping_add(seq));
        ack.map_or(segment.clone(), |ack| segment.ack(C.wrapping_add(ack)))
    }

    #[track_caller]
    fn client_passes(
        &mut self,
        with: impl Fn(FrameBuilder) -> FrameBuilder,
        seq: u32,
        ack: Option<u32>,
    ) {
        let frame = with(self.client(seq, ack)).frame();
        self.passes("ext", &frame);
    }

    #[track_caller]
    fn server_passes(
        &mut self,
        with: impl Fn(FrameBuilder) -> FrameBuilder,
        seq: u32,
        ack: Option<u32>,
    ) {
        let frame = with(self.server(seq, ack)).frame();
        self.passes("int", &frame);
    }

    /// The frame leaves by the other side, its payload and options as they were.
    #[track_caller]
    fn passes(&mut self, from: &str, frame: &[u8]) {
        let before = self.state();
        self.dialogue.send(from, frame);
        let left = self.dialogue.left();
        assert_eq!(left.len(), 1, "in state {before:?}: {left:?}");
        let (out, bytes) = &self.dialogue.sent[0];
        assert_ne!(out, from);
        let header = if frame[14] >> 4 == 4 { 34 } else { 54 };
        // Ports and checksum are NAT's; all else is the endpoints'.
        assert_eq!(bytes[header + 4..header + 16], frame[header + 4..header + 16]);
        assert_eq!(bytes[header + 18..], frame[header + 18..]);
    }

    #[track_caller]
    fn is_dropped(&mut self, from: &str, frame: &[u8], reason: &str) {
        let before = self.dialogue.flows();
        self.dialogue.step(from, frame, &[], &[&format!("drop:{reason}")]);
        assert_eq!(self.dialogue.flows(), before);
    }

    /// Data passes both ways, once for each `round`.
    #[track_caller]
    fn is_alive(&mut self, round: u32) {
        let (client, server) = (1 + round * 10, 1 + round * 20);
        self.client_passes(|s| s.payload(&[1; 10]), client, Some(server));
        self.server_passes(|s| s.payload(&[2; 20]), server, Some(client + 10));
        self.client_passes(|s| s, client + 10, Some(server + 20));
        assert_eq!(self.state(), "established");
    }

    fn state(&self) -> String {
        let flows = self.dialogue.flows();
        assert!(flows.len() <= 1, "{flows:?}");
        flows.first().map_or("none", |flow| flow.split(' ').next().unwrap_or_default()).to_owned()
    }
}
