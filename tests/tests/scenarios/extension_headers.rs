//! IPv6 extension headers under rules that permit everything (RFC 9288): one row for each, and what
//! becomes of the packet. A dropped one is counted by its reason, whatever its transport header says.

use std::net::Ipv6Addr;

use gabion_engine::build::{self, FrameBuilder};

use super::ALLOW_ALL;
use super::dialogue::Dialogue;

const CLIENT: &str = "2600:9::9";
const SERVER: &str = "2600:2::10";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// As `extension-header`.
    Dropped,
    /// By another reason.
    DroppedAs(&'static str),
}
use Fate::{Dropped, DroppedAs, Passes};

/// Headers by number, in their order.
type Chain<'b> = Vec<(u8, &'b [u8])>;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

fn udp() -> FrameBuilder {
    build::udp().from(&format!("[{CLIENT}]:1025")).to(&format!("[{SERVER}]:53")).payload(&[0; 16])
}

/// A header of eight bytes per unit that holds one option and padding behind it.
fn option(kind: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = [&[0, kind, data.len() as u8], data].concat();
    let length = (bytes.len() + 1).next_multiple_of(8);
    bytes.resize(length - 1, 0);
    bytes[0] = (length / 8 - 1) as u8;
    bytes
}

fn routing(kind: u8, segments_left: u8, addresses: usize) -> Vec<u8> {
    let fixed = [(addresses * 2) as u8, kind, segments_left, 0, 0, 0, 0];
    [&fixed[..], &vec![0x26; 16 * addresses]].concat()
}

#[track_caller]
fn meets(name: &str, frame: &[u8], fate: Fate) {
    println!("{name}");
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let reason = match fate {
        Passes => {
            dialogue.send("ext", frame);
            let left = dialogue.left();
            assert_eq!(left.len(), 1, "{name}");
            assert!(left[0].starts_with("int: "), "{name}: {left:?}");
            return;
        }
        Dropped => "extension-header",
        DroppedAs(reason) => reason,
    };
    dialogue.step("ext", frame, &[], &[&format!("drop:{reason}")]);
    assert_eq!(dialogue.flows(), [""; 0], "{name}");
}

/// Covers: 9288-pass, 9288-drop, 6092-4
#[test]
fn every_header_has_its_fate() {
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let authentication: &[u8] = &[4; 23];
    #[rustfmt::skip]
    let rows: &[(&str, u8, &[u8], Fate)] = &[
        ("hop-by-hop, padding",                    HOP_BY_HOP,     pad,                 Dropped),
        ("destination options, padding",           DESTINATION,    pad,                 Passes),
        ("authentication",                         AUTHENTICATION, authentication,      Passes),
        ("fragment, atomic",                       FRAGMENT,       &[0; 7],             Passes),
        ("routing, type 0 (CVE-2007-2242)",        ROUTING,        &routing(0, 1, 1),   Dropped),
        ("routing, type 0, no segments left",      ROUTING,        &routing(0, 0, 1),   Dropped),
        ("routing, type 1, Nimrod",                ROUTING,        &routing(1, 1, 1),   Dropped),
        ("routing, type 2 with two addresses",     ROUTING,        &routing(2, 1, 2),   Dropped),
        ("routing, type 2, no segments left",      ROUTING,        &routing(2, 0, 1),   Dropped),
        ("routing, type 3, RPL",                   ROUTING,        &routing(3, 1, 1),   Dropped),
        ("routing, type 4, segment routing",       ROUTING,        &routing(4, 1, 1),   Dropped),
        ("routing, type 253, experimental",        ROUTING,        &routing(253, 1, 1), Dropped),
        ("routing, type 254, experimental",        ROUTING,        &routing(254, 1, 1), Dropped),
        ("experimental header 253",                253,            pad,                 Dropped),
        ("experimental header 254",                254,            pad,                 Dropped),
    ];
    for (name, number, bytes, fate) in rows {
        meets(name, &udp().extension_header(*number, bytes).frame(), *fate);
    }
    // Unassigned numbers are protocols to us: no rule but one for all of them lets them pass, and what
    // stands behind them is never taken for ports.
    let no_next_header = build::protocol(59).from(CLIENT).to(SERVER);
    meets("no next header", &no_next_header.frame(), Dropped);
}

/// Covers: 9288-pass, 9288-drop, 9288-hop-by-hop, 3.7
#[test]
fn every_option_has_its_fate() {
    #[rustfmt::skip]
    let rows: &[(&str, u8, usize, Fate, Fate)] = &[
        // name,                        type, length, hop-by-hop, destination
        ("PadN",                         0x01,  4, Dropped, Passes),
        ("tunnel encapsulation limit",   0x04,  1, Dropped, Passes),
        ("router alert",                 0x05,  2, Dropped, Dropped),
        ("CALIPSO",                      0x07,  8, Dropped, Dropped),
        ("SMF_DPD",                      0x08,  4, Dropped, Dropped),
        ("performance and diagnostics",  0x0f, 10, Dropped, Passes),
        ("experiment",                   0x1e,  4, Dropped, Dropped),
        ("RPL",                          0x23,  4, Dropped, Dropped),
        ("Quick-Start",                  0x26,  6, Dropped, Dropped),
        ("experiment",                   0x3e,  4, Dropped, Dropped),
        ("deprecated",                   0x4d,  4, Dropped, Dropped),
        ("RPL, old",                     0x63,  4, Dropped, Dropped),
        ("MPL",                          0x6d,  4, Dropped, Dropped),
        ("endpoint identification",      0x8a,  4, Dropped, Dropped),
        ("ILNP nonce",                   0x8b,  4, Dropped, Passes),
        ("line identification",          0x8c,  4, Dropped, Dropped),
        ("jumbo payload",                0xc2,  4, Dropped, Dropped),
        ("home address, too short",      0xc9,  8, Dropped, Dropped),
        ("IP_DFF",                       0xee,  3, Dropped, Dropped),
        ("experiment",                   0xfe,  4, Dropped, Dropped),
        ("unknown, skipped by hosts",    0x2a,  4, Dropped, Passes),
        ("unknown, refused by hosts",    0x6a,  4, Dropped, Dropped),
    ];
    for (name, kind, length, hop_by_hop, destination) in rows {
        let bytes = option(*kind, &vec![0; *length]);
        meets(name, &udp().extension_header(HOP_BY_HOP, &bytes).frame(), *hop_by_hop);
        meets(name, &udp().extension_header(DESTINATION, &bytes).frame(), *destination);
    }
}

/// Covers, F-7, 3.5, 3.7
#[test]
fn chains_are_short_and_in_order() {
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let authentication: &[u8] = &[4; 23];
    let atomic: &[u8] = &[0; 7];
    let chain = |headers: &[(u8, &[u8])]| {
        let add =
            |udp: FrameBuilder, (number, bytes): &(u8, &[u8])| udp.extension_header(*number, bytes);
        headers.iter().fold(udp(), add).frame()
    };
    #[rustfmt::skip]
    let rows: &[(&str, Chain<'_>, Fate)] = &[
        ("in order", vec![(DESTINATION, pad), (FRAGMENT, atomic), (AUTHENTICATION, authentication), (DESTINATION, pad)], Passes),
        ("hop-by-hop second",          vec![(DESTINATION, pad), (HOP_BY_HOP, pad)], Dropped),
        ("hop-by-hop twice",           vec![(HOP_BY_HOP, pad); 2], Dropped),
        ("destination options thrice", vec![(DESTINATION, pad); 3], Dropped),
        ("authentication twice",       vec![(AUTHENTICATION, authentication); 2], Dropped),
        ("two fragment headers (CVE-2023-4809)", vec![(FRAGMENT, atomic); 2], Dropped),
        ("260 fragment headers",       vec![(FRAGMENT, atomic); 260], Dropped),
        ("19 authentication headers",  vec![(AUTHENTICATION, authentication); 19], Dropped),
        ("100 destination options",    vec![(DESTINATION, pad); 100], Dropped),
        ("many options in one header", vec![(DESTINATION, &MANY_OPTIONS)], Dropped),
    ];
    for (name, headers, fate) in rows {
        meets(name, &chain(headers), *fate);
    }
}

/// 2,038 times Pad1.
static MANY_OPTIONS: [u8; 2_047] = {
    let mut bytes = [0; 2_047];
    bytes[0] = u8::MAX;
    bytes
};

/// CVE-2026-72348, CVE-2016-10377: whatever is cut off is dropped before any rule, also where a rule
/// would drop it by its ports or permit everything.
///
/// Covers: X-2, 3.6
#[test]
fn what_is_cut_off_is_dropped_and_never_merely_no_match() {
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    let long = |units: u8| [units, 1, 4, 0, 0, 0, 0];
    for number in [HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION] {
        for units in [8, 200, 255] {
            let frame = udp().extension_header(number, &long(units)).frame();
            meets("a header past the end of the packet", &frame, Dropped);
        }
    }
    // The chain ends with the packet, in the middle of any header.
    let whole = udp().extension_header(DESTINATION, pad).extension_header(FRAGMENT, &[0; 7]);
    let whole = whole.extension_header(AUTHENTICATION, &[4; 23]).frame();
    for length in 0..8 + 8 + 24 + 8 {
        let mut cut = whole[..14 + 40 + length].to_vec();
        cut[14 + 4..14 + 6].copy_from_slice(&(length as u16).to_be_bytes());
        let reason = if length < 8 + 8 + 24 { Dropped } else { DroppedAs("transport-truncated") };
        meets("a chain that is cut off", &cut, reason);
    }
    // The payload length lies about more than there is.
    meets("a packet past its frame", &whole[..whole.len() - 1], DroppedAs("ip-header"));
    let option_past_header = udp().extension_header(DESTINATION, &[0, 4, 200, 0, 0, 0, 0]).frame();
    meets("an option past its header", &option_past_header, Dropped);
}

/// A deny rule for a service holds for every way of writing the packet.
///
/// Covers: 3.6, F-9
#[test]
fn headers_do_not_hide_ports_from_rules() {
    let policy = ALLOW_ALL.replace(
        "rules:",
        "rules:\n  - { name: no-dns, from: any, to: any, service: udp/53, action: drop }",
    );
    let pad: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
    for (name, frame) in [
        ("plain", udp()),
        ("behind options", udp().extension_header(DESTINATION, pad)),
        ("behind an atomic fragment header", udp().extension_header(FRAGMENT, &[0; 7])),
        ("authenticated", udp().extension_header(AUTHENTICATION, &[4; 23])),
    ] {
        println!("{name}");
        Dialogue::new(&policy).step("ext", &frame.frame(), &[], &["drop:rule-drop"]);
    }
    let mut dialogue = Dialogue::new(&policy);
    let mut pieces = build::fragmented(&udp().payload(&[1; 2_000]).frame(), 1_280, 5);
    pieces.reverse();
    dialogue.step("ext", &pieces[0], &[], &["held"]);
    dialogue.step("ext", &pieces[1], &[], &["drop:rule-drop=2", "held=-1"]);
}

// --- Mobile IPv6 -----------------------------------------------------------------------------------

const HOME: &str = "2600:77::1";

fn home() -> [u8; 16] {
    HOME.parse::<Ipv6Addr>().unwrap().octets()
}

/// What a mobile host of ours sends, which is at home elsewhere: its checksum is over the home address.
fn from_mobile(care_of: &str) -> Vec<u8> {
    let care_of: Ipv6Addr = care_of.parse().unwrap();
    let home_option = option(0xc9, &home());
    build::udp()
        .from(&format!("[{HOME}]:5000"))
        .to(&format!("[{CLIENT}]:5000"))
        .extension_header(DESTINATION, &home_option)
        .lie_ip(8, &care_of.octets())
        .frame()
}

/// The answer, by way of a routing header that names a home.
fn to_mobile(care_of: &str, home: &str) -> Vec<u8> {
    let care_of: Ipv6Addr = care_of.parse().unwrap();
    let octets = home.parse::<Ipv6Addr>().unwrap().octets();
    build::udp()
        .from(&format!("[{CLIENT}]:5000"))
        .to(&format!("[{home}]:5000"))
        .extension_header(ROUTING, &[&[2, 2, 1, 0, 0, 0, 0], &octets[..]].concat())
        .lie_ip(24, &care_of.octets())
        .frame()
}

/// Covers: 6092-27
#[test]
fn a_type_2_routing_header_passes_where_the_home_address_is_the_flows() {
    let mut dialogue = Dialogue::new(super::OUTBOUND);
    let answer = to_mobile(SERVER, HOME);
    dialogue.step("ext", &answer, &[], &["drop:extension-header"]);
    dialogue.send("int", &from_mobile(SERVER));
    assert_eq!(dialogue.sent.len(), 1);
    dialogue.send("ext", &answer);
    assert_eq!(dialogue.sent.len(), 1, "the answer to the home address");
    for (name, stray) in [
        ("another home", to_mobile(SERVER, "2600:77::2")),
        ("no home", build::udp().from("[2600:9::9]:5000").to("[2600:2::10]:5000").frame()),
    ] {
        println!("{name}");
        dialogue.step("ext", &stray, &[], &["drop:extension-header"]);
    }
    // Another care-of address is another flow's.
    dialogue.step("ext", &to_mobile("2600:2::11", HOME), &[], &["drop:extension-header"]);
    dialogue.send("int", &from_mobile(SERVER));
    assert_eq!(dialogue.sent.len(), 1, "the flow lives");
}

/// Covers: 6092-27, 3.17
#[test]
fn nobody_outside_is_at_home_inside() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    let inside: [u8; 16] = "2600:2::77".parse::<Ipv6Addr>().unwrap().octets();
    let claims = |home: [u8; 16]| {
        let source: Ipv6Addr = CLIENT.parse().unwrap();
        build::udp()
            .from(&format!("[{}]:1025", Ipv6Addr::from(home)))
            .to(&format!("[{SERVER}]:53"))
            .extension_header(DESTINATION, &option(0xc9, &home))
            .lie_ip(8, &source.octets())
            .frame()
    };
    dialogue.step("ext", &claims(inside), &[], &["drop:spoofed-source"]);
    let mut loopback = [0; 16];
    loopback[15] = 1;
    dialogue.step("ext", &claims(loopback), &[], &["drop:martian-source"]);
}
