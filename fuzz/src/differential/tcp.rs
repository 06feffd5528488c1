//! TCP conversations: two hosts that do it right, and somebody who does not.

use gabion_engine::build::{self, FrameBuilder};

use super::rng::Rng;
use super::script::{Conversation, Path, Step, TCP_PATHS, complaint};

/// One end, as it sees itself.
#[derive(Debug, Clone, Copy)]
struct Host {
    /// SND.NXT.
    next: u32,
    /// RCV.NXT.
    expected: u32,
    window: u16,
    scale: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

struct Talk<'a> {
    rng: &'a mut Rng,
    path: Path,
    port: u16,
    client: Host,
    server: Host,
    steps: Vec<Step>,
}

pub(super) fn conversation(rng: &mut Rng, port: u16) -> Conversation {
    let path = *rng.of(&TCP_PATHS);
    let scale = *rng.of(&[0, 0, 3, 7]);
    let host = |rng: &mut Rng| Host {
        // Near the wrap now and then.
        next: if rng.percent(20) { u32::MAX - 20 } else { rng.next() as u32 },
        expected: 0,
        window: *rng.of(&[8_192, 64_000, 1_000]),
        scale,
    };
    let (client, server) = (host(rng), host(rng));
    let mut talk = Talk { rng, path, port, client, server, steps: Vec::new() };
    match talk.rng.below(10) {
        0 => talk.simultaneous(),
        1 => talk.split(),
        2 => talk.stray(),
        _ => talk.ordinary(),
    }
    Conversation { name: path.name, steps: talk.steps }
}

impl Talk<'_> {
    fn say(&mut self, who: Who, what: &'static str, builder: FrameBuilder) {
        let step = match who {
            Who::Client => self.path.ask(what, builder, self.port),
            Who::Server => self.path.answer(what, builder, self.port),
        };
        self.steps.push(step);
    }

    fn host(&mut self, who: Who) -> &mut Host {
        match who {
            Who::Client => &mut self.client,
            Who::Server => &mut self.server,
        }
    }

    /// A segment as the host would send it now.
    fn segment(&mut self, who: Who) -> FrameBuilder {
        let host = *self.host(who);
        build::tcp().seq(host.next).ack(host.expected).window(host.window)
    }

    fn syn(&mut self, who: Who) -> FrameBuilder {
        let host = *self.host(who);
        let builder = build::tcp().syn().seq(host.next).window(host.window).mss(1_460);
        if host.scale > 0 { builder.wscale(host.scale) } else { builder }
    }

    fn sent(&mut self, who: Who, length: u32) {
        let next = self.host(who).next.wrapping_add(length);
        self.host(who).next = next;
        let other = if who == Who::Client { Who::Server } else { Who::Client };
        self.host(other).expected = next;
    }

    fn data(&mut self, who: Who) {
        let length = 1 + self.rng.below(600) as usize;
        let builder = self.segment(who).psh().payload(&vec![b'd'; length]);
        self.say(who, "plain", builder);
        self.sent(who, length as u32);
    }

    fn bare(&mut self, who: Who) {
        let builder = self.segment(who);
        self.say(who, "plain", builder);
    }

    fn open(&mut self) {
        let syn = self.syn(Who::Client);
        self.say(Who::Client, "plain", syn);
        self.sent(Who::Client, 1);
        self.maybe_odd(25);
        let expected = self.server.expected;
        let syn_ack = self.syn(Who::Server).ack(expected);
        self.say(Who::Server, "plain", syn_ack);
        self.sent(Who::Server, 1);
        self.maybe_odd(15);
        self.bare(Who::Client);
    }

    fn ordinary(&mut self) {
        self.open();
        for _ in 0..1 + self.rng.below(5) {
            let who = self.who();
            match self.rng.below(3) {
                0 => self.bare(who),
                _ => self.data(who),
            }
            self.maybe_odd(45);
        }
        match self.rng.below(4) {
            0 => {
                let who = self.who();
                let reset = self.segment(who).rst();
                self.say(who, "reset", reset);
            }
            1 => return,
            _ => self.close(),
        }
        match self.rng.below(3) {
            0 => {
                // The tuple again, at once.
                self.client.next = self.client.next.wrapping_add(100_000);
                self.server.next = self.rng.next() as u32;
                let syn = self.syn(Who::Client);
                self.say(Who::Client, "the tuple used again", syn);
            }
            1 => {
                let late = self.segment(Who::Server).payload(b"late");
                self.say(Who::Server, "data after the end", late);
            }
            _ => self.maybe_odd(100),
        }
    }

    fn close(&mut self) {
        let first = self.who();
        let second = if first == Who::Client { Who::Server } else { Who::Client };
        for (who, other) in [(first, second), (second, first)] {
            let fin = self.segment(who).fin();
            self.say(who, "plain", fin);
            self.sent(who, 1);
            self.maybe_odd(15);
            self.bare(other);
        }
    }

    /// Both ends begin at once.
    fn simultaneous(&mut self) {
        let syn = self.syn(Who::Client);
        self.say(Who::Client, "plain", syn);
        self.sent(Who::Client, 1);
        let syn = self.syn(Who::Server);
        self.say(Who::Server, "simultaneous open: the other SYN", syn);
        self.sent(Who::Server, 1);
        for who in [Who::Client, Who::Server] {
            let Host { next, expected, window, scale } = *self.host(who);
            let builder = build::tcp().syn().seq(next.wrapping_sub(1)).ack(expected).window(window);
            let builder = if scale > 0 { builder.wscale(scale) } else { builder };
            self.say(who, "simultaneous open: SYN-ACK", builder);
        }
        self.data(Who::Client);
        self.data(Who::Server);
    }

    /// The server answers with an ACK and a SYN of its own instead of a SYN-ACK.
    fn split(&mut self) {
        let syn = self.syn(Who::Client);
        self.say(Who::Client, "plain", syn);
        self.sent(Who::Client, 1);
        if self.rng.percent(50) {
            let expected = self.server.expected;
            let ack = build::tcp().seq(self.server.next).ack(expected).window(8_192);
            self.say(Who::Server, "split handshake: ACK", ack);
        }
        let syn = self.syn(Who::Server);
        self.say(Who::Server, "split handshake: SYN", syn);
        self.sent(Who::Server, 1);
        let Host { next, expected, window, .. } = self.client;
        let syn_ack = build::tcp().syn().seq(next.wrapping_sub(1)).ack(expected).window(window);
        self.say(Who::Client, "split handshake: SYN-ACK", syn_ack);
        self.bare(Who::Server);
        self.data(Who::Client);
    }

    /// Something without a connection.
    fn stray(&mut self) {
        self.client.expected = self.rng.next() as u32;
        let segment = self.segment(Who::Client);
        let (what, builder) = match self.rng.below(8) {
            0 => ("stray ACK", segment),
            1 => ("stray RST", segment.rst()),
            2 => ("stray FIN", segment.fin()),
            3 => ("stray SYN-ACK", segment.syn()),
            4 => ("no flags", build::tcp().seq(1)),
            5 => ("SYN and FIN", build::tcp().syn().fin().seq(1)),
            6 => ("SYN and RST", build::tcp().syn().rst().seq(1)),
            _ => ("SYN with data", self.syn(Who::Client).payload(b"early")),
        };
        self.say(Who::Client, what, builder);
        self.open();
    }

    fn who(&mut self) -> Who {
        *self.rng.of(&[Who::Client, Who::Server])
    }

    fn maybe_odd(&mut self, chance: u64) {
        if self.rng.percent(chance) {
            self.odd();
        }
    }

    fn odd(&mut self) {
        let who = self.who();
        let Host { next, expected, .. } = *self.host(who);
        let plain = self.segment(who);
        let far = 0x4000_0000;
        let (what, builder) = match self.rng.below(22) {
            0 => ("RST in the window, not exact", plain.rst().seq(next.wrapping_add(100))),
            1 => ("RST outside the window", plain.rst().seq(next.wrapping_add(far))),
            2 => ("RST from before the window", plain.rst().seq(next.wrapping_sub(90_000_000))),
            3 => (
                "SYN within the connection",
                build::tcp().syn().seq(next.wrapping_add(77)).window(8_192),
            ),
            4 => (
                "SYN-ACK that is none of the connection's",
                build::tcp().syn().seq(next.wrapping_sub(1)).ack(expected).window(8_192),
            ),
            5 => ("data outside the window", plain.seq(next.wrapping_add(far)).payload(b"far")),
            6 => ("old data", plain.seq(next.wrapping_sub(1)).payload(b"o")),
            7 => ("very old data", plain.seq(next.wrapping_sub(90_000_000)).payload(b"older")),
            8 => ("ACK of what was not sent", plain.ack(expected.wrapping_add(100_000))),
            9 => ("very old ACK", plain.ack(expected.wrapping_sub(90_000_000))),
            10 => ("old ACK", plain.ack(expected.wrapping_sub(1))),
            11 => ("no flags", build::tcp().seq(next)),
            12 => ("SYN and FIN", plain.syn().fin()),
            13 => ("FIN without ACK", build::tcp().fin().seq(next)),
            14 => ("urgent", plain.urg().payload(b"!")),
            15 => ("bad checksum", plain.bad_transport_checksum().payload(b"x")),
            16 => ("hop limit 1", plain.hop_limit(1)),
            17 => ("window of zero", plain.window(0)),
            18 => ("header shorter than it may be", plain.lie_transport(12, &[0x40])),
            19 => ("header longer than the packet", plain.lie_transport(12, &[0xf0])),
            20 => ("another port", plain),
            _ => {
                let step = complaint(self.rng, &self.path);
                self.steps.push(step);
                return;
            }
        };
        self.say(who, what, builder);
        if what == "another port" {
            let (client, server_port) = (self.path.client, self.path.server_port);
            let (server, port) = (self.path.server, self.port);
            let step = self.steps.pop().expect("it was just said");
            let step = Step { learns: false, ..step };
            self.steps.push(step.changed(|builder| match who {
                Who::Client => builder.from(&Path::end(client, port + 1)),
                Who::Server => builder.from(&Path::end(server, server_port + 1)),
            }));
        }
    }
}
