//! ICMP errors: what passes of them, to whom, saying what; and every way in which they can lie.

use std::time::Duration;

use gabion_engine::build::{self, FrameBuilder};

use super::POLICY;
use super::dialogue::Dialogue;

/// A flow from inside and its last packet as the world has seen it, translated in IPv4.
struct Sent {
    dialogue: Dialogue,
    /// The inside host, what the world takes it for, and the server.
    host: &'static str,
    shown: String,
    server: &'static str,
    frame: Vec<u8>,
    is_v4: bool,
}

const LENGTH: usize = 1_200;

impl Sent {
    /// An open TCP connection with `LENGTH` bytes in flight, from sequence number 1,001 on.
    fn tcp(is_v4: bool) -> Self {
        let (host, server) = Self::ends(is_v4);
        let mut dialogue = Dialogue::new(POLICY);
        let client = || build::tcp().from(host).to(server).window(64_000);
        dialogue.send("int", &client().syn().seq(1_000).frame());
        let shown = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
        let answer = build::tcp().from(server).to(&shown).syn().seq(5_000).ack(1_001);
        dialogue.send("ext", &answer.window(64_000).frame());
        dialogue.send("int", &client().seq(1_001).ack(5_001).frame());
        dialogue.send("int", &client().seq(1_001).ack(5_001).payload(&[5; LENGTH]).frame());
        Self::with(dialogue, host, shown, server, is_v4)
    }

    fn udp(is_v4: bool) -> Self {
        let (host, server) = Self::ends(is_v4);
        let mut dialogue = Dialogue::new(POLICY);
        dialogue.send("int", &build::udp().from(host).to(server).payload(&[5; LENGTH]).frame());
        let shown = dialogue.engine.flows(0, 1).0[0].reply.destination.to_string();
        Self::with(dialogue, host, shown, server, is_v4)
    }

    /// An echo request; the identifier stands for the port.
    fn echo(is_v4: bool) -> Self {
        let (host, server) =
            if is_v4 { ("10.1.0.10", "198.51.100.9") } else { ("2600:2::10", "2600:9::9") };
        let mut dialogue = Dialogue::new(POLICY);
        let ping = build::icmp_echo().from(host).to(server).id(77).payload(&[5; LENGTH]);
        dialogue.send("int", &ping.frame());
        let shown = dialogue.engine.flows(0, 1).0[0].reply.destination.address.to_string();
        Self::with(dialogue, host, shown, server, is_v4)
    }

    fn with(
        dialogue: Dialogue,
        host: &'static str,
        shown: String,
        server: &'static str,
        is_v4: bool,
    ) -> Self {
        let frame = dialogue.sent[0].1.clone();
        Self { dialogue, host, shown, server, frame, is_v4 }
    }

    fn ends(is_v4: bool) -> (&'static str, &'static str) {
        if is_v4 {
            ("10.1.0.10:5000", "198.51.100.9:443")
        } else {
            ("[2600:2::10]:5000", "[2600:9::9]:443")
        }
    }

    /// A segment as the world saw it, but for what is changed.
    fn segment(&self) -> FrameBuilder {
        build::tcp().from(&self.shown).to(self.server).seq(1_001).ack(5_001).payload(&[5; 99])
    }

    /// "Host unreachable" about `quoted`, to whom the flow's packets seemed to come from.
    fn about(&self, quoted: &[u8]) -> FrameBuilder {
        let (kind, code, router) = self.unreachable();
        let error = build::icmp_error_about(quoted, kind, code, [0; 4]).from(router);
        error.to(&bare(&self.shown))
    }

    const fn unreachable(&self) -> (u8, u8, &'static str) {
        if self.is_v4 { (3, 1, "192.0.2.77") } else { (1, 3, "2600:77::1") }
    }

    fn too_big(&self, mtu: u32) -> FrameBuilder {
        let [a, b, c, d] = mtu.to_be_bytes();
        let (kind, code, rest) =
            if self.is_v4 { (3, 4, [0, 0, c, d]) } else { (2, 0, [a, b, c, d]) };
        let (_, _, router) = self.unreachable();
        build::icmp_error_about(&self.frame, kind, code, rest).from(router)
    }

    #[track_caller]
    fn passes(&mut self, error: &FrameBuilder) {
        let flows = self.dialogue.engine.flows(0, 9).0;
        self.dialogue.send("ext", &error.frame());
        let left = self.dialogue.left();
        assert_eq!(left.len(), 1, "{left:?}");
        let about = format!("> {} error", bare(self.host));
        assert!(left[0].starts_with("int: icmp") && left[0].contains(&about), "{left:?}");
        assert_eq!(self.dialogue.engine.flows(0, 9).0, flows, "the flow is as it was");
    }

    #[track_caller]
    fn is_dropped(&mut self, what: &str, error: &FrameBuilder, reason: &str) {
        let flows = self.dialogue.engine.flows(0, 9).0;
        let dropped = |dialogue: &Dialogue| {
            let counters = dialogue.engine.counters();
            let all = gabion_engine::DropReason::ALL.iter();
            let count =
                all.filter(|r| r.label() == reason).map(|r| counters.dropped(*r)).sum::<u64>();
            (count, counters.forwarded)
        };
        let (before, forwarded) = dropped(&self.dialogue);
        self.dialogue.send("ext", &error.frame());
        assert_eq!(self.dialogue.left(), [""; 0], "{what} passes");
        assert_eq!(dropped(&self.dialogue), (before + 1, forwarded), "{what} is {reason}");
        assert_eq!(self.dialogue.engine.flows(0, 9).0, flows, "{what}: the flow is as it was");
    }
}

/// The address of `address:port`.
fn bare(endpoint: &str) -> String {
    endpoint
        .parse::<std::net::SocketAddr>()
        .map_or_else(|_| endpoint.to_owned(), |socket| socket.ip().to_string())
}

/// Every way in which the quoted packet can lie: none passes, none changes anything, and the truth
/// passes afterwards.
///
/// Covers: 3.1, 5508-3, 5508-3a, 5508-4, 5927, 6092-10, 5382-10, 6092-37
#[test]
fn quotes_that_lie_pass_nowhere() {
    for is_v4 in [true, false] {
        let mut sent = Sent::tcp(is_v4);
        let (other_host, other_server) = if is_v4 {
            ("203.0.113.5:5000", "198.51.100.10:443")
        } else {
            ("[2600:2::11]:5000", "[2600:9::10]:443")
        };
        let with_port = |endpoint: &str, port: u16| {
            let mut socket: std::net::SocketAddr = endpoint.parse().unwrap();
            socket.set_port(port);
            socket.to_string()
        };
        let udp = build::udp().from(&sent.shown).to(sent.server).payload(&[5; 99]);
        let lies = [
            ("another protocol", udp.frame(), "icmp-error-unmatched"),
            ("another sender", sent.segment().from(other_host).frame(), "icmp-error-forged"),
            ("another receiver", sent.segment().to(other_server).frame(), "icmp-error-unmatched"),
            (
                "another source port",
                sent.segment().from(&with_port(&sent.shown, 9)).frame(),
                "icmp-error-unmatched",
            ),
            (
                "another destination port",
                sent.segment().to(&with_port(sent.server, 444)).frame(),
                "icmp-error-unmatched",
            ),
            ("before the window", sent.segment().seq(1_000).frame(), "icmp-error-forged"),
            (
                "beyond what was sent",
                sent.segment().seq(1_001 + LENGTH as u32).frame(),
                "icmp-error-forged",
            ),
            ("far away", sent.segment().seq(1 << 31).frame(), "icmp-error-forged"),
        ];
        for (what, quoted, reason) in lies {
            let error = sent.about(&quoted);
            sent.is_dropped(what, &error, reason);
        }
        // Sent by the server, not to it; and to somebody else than it is told.
        let answer = build::tcp().from(sent.server).to(&sent.shown).seq(5_001).ack(1_001).frame();
        let error = sent.about(&answer);
        sent.is_dropped("an answer to the host", &error, "icmp-error-forged");
        let truth = sent.segment().frame();
        let error = sent.about(&truth).to(&bare(other_host));
        sent.is_dropped("told to another", &error, "icmp-error-forged");
        let error = sent.about(&truth).bad_transport_checksum();
        sent.is_dropped("a wrong checksum", &error, "transport-checksum");
        for length in [0, 7, 19, 27, 39, 47] {
            let header = if is_v4 { 20 } else { 40 };
            if length < header + 8 {
                let error = sent.about(&truth).payload(&truth[14..14 + length]);
                sent.is_dropped("cut short", &error, "icmp-error-forged");
            }
        }
        let error = sent.about(&truth);
        sent.passes(&error);
    }
}

/// Lies about the quoted IPv4 header itself.
///
/// Covers: 3.1, 5508-3a, 5508-3b
#[test]
fn quoted_headers_that_lie_pass_nowhere() {
    let mut sent = Sent::tcp(true);
    let segment = sent.segment();
    // Octet 6: flags and offset. Octet 0: version and length. Octet 3: total length.
    let lies = [
        ("a later fragment", segment.clone().lie_ip(6, &[0x20, 0x01])),
        ("the other version", segment.clone().lie_ip(0, &[0x65])),
        ("a header of 16 octets", segment.clone().lie_ip(0, &[0x44])),
        ("a header past the end", segment.clone().lie_ip(0, &[0x4f]).payload(&[])),
        ("shorter than its headers", segment.clone().lie_ip(2, &[0, 39])),
        ("a wrong header checksum", segment.clone().bad_ip_checksum()),
        ("an option without length", segment.clone().options(&[7, 0, 0, 0])),
        ("an option past the end", segment.clone().options(&[7, 9, 4, 0])),
        // What stands where the ports would be without options is another's.
        ("ports in the options", segment.clone().from("203.0.113.4:9").options(&[1, 1, 1, 1])),
    ];
    for (what, quoted) in lies {
        let error = sent.about(&quoted.frame());
        let reason = match what {
            "ports in the options" => "icmp-error-unmatched",
            _ => "icmp-error-forged",
        };
        sent.is_dropped(what, &error, reason);
    }
    // The other family's packet and the other family's error (CVE-2009-0687).
    let v6 = build::tcp().from("[2600:2::10]:5000").to("[2600:9::9]:443").seq(1_001).frame();
    let error = build::icmp(3, 1, [0; 4]).payload(&v6[14..]).from("192.0.2.77").to("203.0.113.4");
    sent.is_dropped("IPv6 in IPv4", &error, "icmp-error-forged");
    let mut other = Sent::tcp(false);
    let error = build::icmp(1, 3, [0; 4]).payload(&sent.frame[14..]);
    let error = error.from("2600:77::1").to("2600:2::10");
    other.is_dropped("IPv4 in IPv6", &error, "icmp-error-forged");
    let later = other.segment().extension_header(44, &[0, 0, 9, 0, 0, 0, 1]).frame();
    let error = other.about(&later);
    other.is_dropped("a later fragment, IPv6", &error, "icmp-error-forged");
    // An error about an error is none (RFC 1122 section 3.2.2).
    let quoted = sent.about(&sent.frame).from("203.0.113.4").to("198.51.100.9").frame();
    let error = sent.about(&quoted);
    sent.is_dropped("about an error", &error, "icmp-error-forged");
    // Options that may be one and a checksum that may have been spoilt on the way are no lies.
    for options in [&[1, 1, 1, 0][..], &[7, 7, 4, 0, 0, 0, 0], &[148, 4, 0, 0]] {
        let error = sent.about(&segment.clone().options(options).frame());
        sent.passes(&error);
    }
    let error = sent.about(&segment.bad_transport_checksum().frame());
    sent.passes(&error);
}

/// What is said of queries and of datagrams must be about one that went out.
///
/// Covers: 3.1, 5508-4, 5508-10a, 6092-18, 6092-19
#[test]
fn errors_about_what_was_never_sent_pass_nowhere() {
    for is_v4 in [true, false] {
        let mut sent = Sent::echo(is_v4);
        let shown = sent.shown.clone();
        let id = {
            let header = if is_v4 { 34 } else { 54 };
            u16::from_be_bytes([sent.frame[header + 4], sent.frame[header + 5]])
        };
        let echo = || build::icmp_echo().from(&shown).to(sent.server).id(id).frame();
        let other = build::icmp_echo().from(&shown).to(sent.server).id(id ^ 1).frame();
        let reply = build::icmp_echo_reply().from(&shown).to(sent.server).id(id).frame();
        let truth = echo();
        for (what, quoted, reason) in [
            ("another identifier", &other, "icmp-error-unmatched"),
            ("a reply for the request", &reply, "icmp-error-forged"),
        ] {
            let error = sent.about(quoted);
            sent.is_dropped(what, &error, reason);
        }
        let error = sent.about(&truth);
        sent.passes(&error);

        let mut sent = Sent::udp(is_v4);
        let truth = sent.frame.clone();
        let error = sent.about(&truth);
        sent.passes(&error);
        // From inside, about an answer that never came.
        let answer = build::udp().from(sent.server).to(sent.host).frame();
        let (kind, code, _) = sent.unreachable();
        let error = build::icmp_error_about(&answer, kind, code, [0; 4]).from(&bare(sent.host));
        sent.dialogue.step("int", &error.frame(), &[], &["drop:icmp-error-forged"]);

        let mut sent = Sent::echo(is_v4);
        let answer = build::icmp_echo_reply().from(sent.server).to(sent.host).id(77).frame();
        let error = build::icmp_error_about(&answer, kind, code, [0; 4]).from(sent.host);
        sent.dialogue.step("int", &error.frame(), &[], &["drop:icmp-error-forged"]);
    }
}

/// What is over or permitted no longer is as if it had never been, though nothing has yet taken it
/// away.
///
/// Covers: 3.1, 5508-4, 6092-10
#[test]
fn errors_about_flows_that_are_over_or_revoked_pass_nowhere() {
    for is_v4 in [true, false] {
        let sent = || [Sent::tcp(is_v4), Sent::udp(is_v4), Sent::echo(is_v4)];
        for mut sent in sent() {
            let error = sent.about(&sent.frame).frame();
            sent.dialogue.now = sent.dialogue.now + Duration::from_secs(3 * 60 * 60);
            sent.dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);
        }
        for mut sent in sent() {
            let error = sent.about(&sent.frame).frame();
            sent.dialogue.commit(&POLICY.replace("action: allow", "action: drop"));
            sent.dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);
        }
    }
}

/// RFC 1191, RFC 8201: what a router truly says of its link passes, for every protocol; what would
/// only make packets small does not (RFC 5927 section 7).
///
/// Covers: 2979-P, 5927, 6092-18, 6092-36, 5508-10a
#[test]
fn path_mtu_discovery_works_and_cannot_be_abused() {
    for is_v4 in [true, false] {
        for mut sent in [Sent::tcp(is_v4), Sent::udp(is_v4), Sent::echo(is_v4)] {
            let length = (sent.frame.len() - 14) as u32;
            // Zero too, of routers from before RFC 1191: Linux takes it for 552.
            let absurd = if is_v4 { vec![0, 1, 67, 68, 575] } else { vec![0, 68, 1_279] };
            for mtu in absurd.into_iter().chain([length, length + 1, 65_535]) {
                let error = sent.too_big(mtu);
                sent.is_dropped(&format!("an MTU of {mtu}"), &error, "icmp-error-forged");
            }
            // An IPv6 packet that is to be too big for 1,280 has to be larger than these.
            let plausible = if is_v4 { vec![576, 1_000, length - 1] } else { vec![] };
            for mtu in plausible {
                let error = sent.too_big(mtu);
                sent.passes(&error);
            }
        }
    }
    let mut dialogue = Dialogue::new(POLICY);
    let large = build::udp().from("[2600:2::10]:9").to("[2600:9::9]:53").payload(&[1; 1_400]);
    dialogue.send("int", &large.frame());
    let error = build::icmp_error_about(&dialogue.sent[0].1, 2, 0, [0, 0, 5, 0]).from("2600:77::1");
    dialogue.step(
        "ext",
        &error.frame(),
        &["int: icmpv6 2600:77::1 > 2600:2::10 error 2/0 mtu 1280 about \
           [udp 2600:2::10:9 > 2600:9::9:53] ttl 63"],
        &["forwarded"],
    );
}

/// The host gets back what it sent: its addresses and ports, its checksum, and nothing changed behind
/// the datagram.
///
/// Covers: 5508-4, 5508-3d, 5508-3c, 5382-9, 4787-12b
#[test]
fn the_quote_becomes_what_the_host_has_sent() {
    let mut dialogue = Dialogue::new(POLICY);
    let inside = build::udp().from("10.1.0.10:5000").to("198.51.100.9:53").payload(b"question");
    let as_sent = inside.frame();
    dialogue.send("int", &as_sent);
    let seen = dialogue.sent[0].1[14..].to_vec();
    // RFC 4884: padded to 128 octets, the length in words, and an extension behind.
    let extension = [0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 1, 2, 3, 4];
    let mut quote = seen;
    let length = quote.len();
    quote.resize(128, 0);
    quote.extend_from_slice(&extension);
    let error = build::icmp(11, 0, [0, 32, 0, 0]).payload(&quote);
    dialogue.send("ext", &error.from("192.0.2.77").to("203.0.113.4").frame());
    let passed = &dialogue.sent[0].1[14 + 20 + 8..];
    let (ours, rest) = passed.split_at(length);
    assert_eq!(ours[12..], as_sent[14 + 12..], "addresses, ports, checksum, payload");
    assert!(rest[..128 - length].iter().all(|octet| *octet == 0), "padding");
    assert_eq!(rest[128 - length..], extension);
}

/// RFC 4884 section 3: in ICMPv6 the length of the quote counts eight octets, in ICMP four.
///
/// Covers: 5508-3d, 6092-18
#[test]
fn a_quote_with_options_is_found_before_what_extends_the_error() {
    let mut dialogue = Dialogue::new(POLICY);
    let mut padding = [0; 31];
    padding[..3].copy_from_slice(&[3, 1, 28]);
    let inside = build::udp().from("[2600:2::10]:5000").to("[2600:9::9]:53").payload(b"question");
    dialogue.send("int", &inside.extension_header(60, &padding).frame());
    let mut quote = dialogue.sent[0].1[14..].to_vec();
    quote.resize(128, 0);
    quote.extend_from_slice(&[0x20, 0, 0xde, 0xad, 0, 8, 1, 1, 1, 2, 3, 4]);
    let error = build::icmp(1, 3, [16, 0, 0, 0]).payload(&quote);
    dialogue.send("ext", &error.from("2600:77::1").to("2600:2::10").frame());
    assert_eq!(dialogue.sent.len(), 1);
    assert_eq!(dialogue.sent[0].1[14 + 40 + 8..], quote);
}

/// Covers: 5508-5, 3.18
#[test]
fn an_error_from_inside_names_no_inside_address() {
    let mut dialogue = Dialogue::new(POLICY);
    let syn = build::tcp().from("198.51.100.9:40000").to("203.0.113.7:443").syn().seq(1).frame();
    dialogue.send("ext", &syn);
    let (_, as_received) = dialogue.sent[0].clone();
    for (from, kind, code) in [("10.1.0.10", 3, 3), ("10.1.0.99", 3, 1), ("10.77.0.1", 11, 0)] {
        let error = build::icmp_error_about(&as_received, kind, code, [0; 4]).from(from).frame();
        dialogue.step(
            "int",
            &error,
            &[&format!(
                "ext: icmp 203.0.113.7 > 198.51.100.9 error {kind}/{code} about \
                 [tcp 198.51.100.9:40000 > 203.0.113.7:443] ttl 63"
            )],
            &["forwarded"],
        );
        let inside = [[10, 1, 0, 10], [10, 1, 0, 99], [10, 77, 0, 1]];
        let (_, bytes) = &dialogue.sent[0];
        assert!(bytes.windows(4).all(|octets| !inside.iter().any(|i| i == octets)));
    }
}

/// Both hosts are inside and know each other by their external endpoints.
///
/// Covers: 5508-7, 5508-7a, 7857-12
#[test]
fn an_error_by_hairpin_goes_to_the_sender_as_it_is_inside() {
    let policy = "
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8] }
nat:
  - { name: out, kind: snat, from: spokes, out: internet, address: 203.0.113.4, ports: 1024-65000,
      filtering: endpoint-independent }
rules:
  - { name: out, from: spokes, to: internet, action: allow }
  - { name: inside, from: spokes, to: spokes, action: allow }
";
    let mut dialogue = Dialogue::new(policy);
    let external = |dialogue: &mut Dialogue, from: &str| {
        dialogue.send("int", &build::udp().from(from).to("198.51.100.9:53").frame());
        let flows = dialogue.engine.flows(0, 9).0;
        flows.last().unwrap().reply.destination.to_string()
    };
    let one = external(&mut dialogue, "10.1.0.10:5000");
    let two = external(&mut dialogue, "10.1.0.20:6000");
    let frame = build::udp().from("10.1.0.10:5000").to(&two).payload(b"hello").frame();
    dialogue.step(
        "int",
        &frame,
        &[&format!("int: udp {one} > 10.1.0.20:6000 +5 ttl 63")],
        &["forwarded"],
    );
    let (_, as_received) = dialogue.sent[0].clone();
    let error = build::icmp_error_about(&as_received, 3, 3, [0; 4]).from("10.1.0.20").frame();
    dialogue.step(
        "int",
        &error,
        &[&format!(
            "int: icmp 203.0.113.4 > 10.1.0.10 error 3/3 about [udp 10.1.0.10:5000 > {two}] ttl 63"
        )],
        &["forwarded"],
    );
}

/// However hard the error: the flow neither ends nor lives longer.
///
/// Covers: 5508-6, 5927, 5382-10, 6092-19, 6092-37, 4787-12
#[test]
fn errors_neither_end_nor_refresh_a_flow() {
    for is_v4 in [true, false] {
        for (mut sent, idle) in
            [(Sent::tcp(is_v4), 7_440), (Sent::udp(is_v4), 120), (Sent::echo(is_v4), 60)]
        {
            let quoted = sent.frame.clone();
            let (kind, codes) = if is_v4 { (3, [0, 1, 2, 3, 13]) } else { (1, [0, 1, 3, 4, 5]) };
            for code in codes {
                let (_, _, router) = sent.unreachable();
                let error = build::icmp_error_about(&quoted, kind, code, [0; 4]).from(router);
                sent.dialogue.wait(Duration::from_secs(idle / 6), &[], &[]);
                sent.passes(&error);
            }
            assert_eq!(sent.dialogue.flows().len(), 1);
            sent.dialogue.wait(Duration::from_secs(idle / 6), &[], &[]);
            let late = sent.about(&quoted);
            sent.dialogue.step("ext", &late.frame(), &[], &["drop:icmp-error-unmatched"]);
            assert_eq!(sent.dialogue.flows(), [""; 0]);
        }
    }
}

/// The errors of ESP and of any other protocol without ports, by its addresses.
///
/// Covers: 6092-23, 2979-P
#[test]
fn errors_about_protocols_without_ports_pass() {
    for protocol in [50, 47] {
        let mut dialogue = Dialogue::new(POLICY);
        let packet = build::protocol(protocol).from("2600:2::10").to("2600:9::9");
        dialogue.send("int", &packet.payload(&[1; 1_400]).frame());
        let quoted = dialogue.sent[0].1.clone();
        let error = build::icmp_error_about(&quoted, 2, 0, [0, 0, 5, 0]).from("2600:77::1");
        dialogue.step(
            "ext",
            &error.frame(),
            &[&format!(
                "int: icmpv6 2600:77::1 > 2600:2::10 error 2/0 mtu 1280 about \
                 [proto {protocol} 2600:2::10 > 2600:9::9] ttl 63"
            )],
            &["forwarded"],
        );
    }
}

/// ReDAN tells NATs apart by how their answers to pings follow the path MTU of hosts behind them. The
/// node answers no ping on its data addresses, whatever it has heard.
///
/// Covers: 3.2
#[test]
fn the_nodes_own_answers_tell_nothing_of_the_hosts_behind_it() {
    let mut sent = Sent::tcp(true);
    let error = sent.too_big(600);
    sent.passes(&error);
    for length in [8, 500, 700, 1_400] {
        for own in ["203.0.113.1", "203.0.113.4", "203.0.113.7"] {
            let ping = build::icmp_echo().from("198.51.100.9").to(own).payload(&vec![0; length]);
            sent.dialogue.send("ext", &ping.frame());
            assert_eq!(sent.dialogue.left(), [""; 0]);
        }
    }
}

/// An error is the first packet after the policy has changed, or after the flow's time is up and
/// nobody has looked yet: the flow that it is about is gone, and the error with it.
///
/// Covers: 6092-10, 5508-4, CC-1.5c
#[test]
fn an_error_about_a_flow_that_is_over_does_not_pass() {
    for is_v4 in [true, false] {
        let mut sent = Sent::udp(is_v4);
        let error = sent.about(&sent.frame).frame();
        let denied =
            POLICY.replace("to: internet, action: allow }", "to: internet, action: drop }");
        sent.dialogue.commit(&denied);
        sent.dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);

        let mut sent = Sent::udp(is_v4);
        sent.dialogue.now = sent.dialogue.now + Duration::from_secs(120);
        sent.dialogue.step("ext", &error, &[], &["drop:icmp-error-unmatched"]);
    }
}

/// Covers: 3.1, 5508-4
#[test]
fn an_error_about_an_answer_that_was_not_given_is_forged() {
    let mut dialogue = Dialogue::new(POLICY);
    let (client, server) = ("198.51.100.9", "10.1.0.10");
    dialogue.send("ext", &build::icmp_echo().from(client).to(server).id(7).frame());
    let answer = build::icmp_echo_reply().from(server).to(client).id(7).frame();
    let error = build::icmp_error_about(&answer, 3, 1, [0; 4]).from(client).frame();
    dialogue.step("ext", &error, &[], &["drop:icmp-error-forged"]);
    dialogue.send("int", &answer);
    dialogue.send("ext", &error);
    assert_eq!(dialogue.sent.len(), 1, "now it was");
}
