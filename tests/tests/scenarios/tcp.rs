//! A connection's whole life, plain and through each kind of NAT.

use std::time::Duration;

use gabion_engine::build;

use super::POLICY;
use super::dialogue::Dialogue;

const CLIENT: &str = "198.51.100.9:40000";
const SERVER: &str = "10.1.0.10:443";

/// Opens the connection and says what stands in the table.
fn open(dialogue: &mut Dialogue) {
    let client = || build::tcp().from(CLIENT).to(SERVER);
    let server = || build::tcp().from(SERVER).to(CLIENT);
    dialogue.step(
        "ext",
        &client().syn().seq(1_000).window(64_000).frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().syn().seq(5_000).ack(1_001).window(64_000).frame(),
        &["ext: tcp 10.1.0.10:443 > 198.51.100.9:40000 S. ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "ext",
        &client().seq(1_001).ack(5_001).window(64_000).frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 . ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn a_connection_opens_carries_data_and_closes() {
    let mut dialogue = Dialogue::new(POLICY);
    // The first packet waits for the server's link address, which the dialogue gives at once.
    open(&mut dialogue);
    assert_eq!(
        dialogue.flows(),
        ["established 198.51.100.9:40000 > 10.1.0.10:443 | 10.1.0.10:443 > 198.51.100.9:40000"]
    );
    let client = || build::tcp().from(CLIENT).to(SERVER).window(64_000);
    let server = || build::tcp().from(SERVER).to(CLIENT).window(64_000);
    dialogue.step(
        "ext",
        &client().seq(1_001).ack(5_001).psh().payload(b"GET /").frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 P. +5 ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().seq(5_001).ack(1_006).fin().frame(),
        &["ext: tcp 10.1.0.10:443 > 198.51.100.9:40000 F. ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "ext",
        &client().seq(1_006).ack(5_002).fin().frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 F. ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().seq(5_002).ack(1_007).frame(),
        &["ext: tcp 10.1.0.10:443 > 198.51.100.9:40000 . ttl 63"],
        &["forwarded"],
    );
    dialogue.wait(Duration::from_secs(300), &[], &[]);
    assert_eq!(dialogue.flows(), [""; 0]);
    // CC-1.5b: a packet of the old session is not forwarded.
    dialogue.step("ext", &client().seq(1_007).ack(5_002).frame(), &[], &["drop:tcp-not-syn"]);
}

#[test]
fn a_segment_off_the_window_is_dropped_and_changes_nothing() {
    let mut dialogue = Dialogue::new(POLICY);
    open(&mut dialogue);
    let client = || build::tcp().from(CLIENT).to(SERVER).window(64_000);
    dialogue.step(
        "ext",
        &client().seq(1_001 + 200_000).ack(5_001).payload(b"x").frame(),
        &[],
        &["drop:tcp-window"],
    );
    dialogue.step("ext", &client().seq(900_000).rst().frame(), &[], &["drop:tcp-window"]);
    dialogue.step(
        "ext",
        &client().seq(1_001).ack(5_001).payload(b"x").frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 . +1 ttl 63"],
        &["forwarded"],
    );
}

#[test]
fn an_idle_connection_outlives_two_hours_and_four_minutes() {
    // RFC 5382 REQ-5.
    let mut dialogue = Dialogue::new(POLICY);
    open(&mut dialogue);
    let client = || build::tcp().from(CLIENT).to(SERVER).window(64_000);
    dialogue.wait(Duration::from_secs(2 * 3_600 + 4 * 60 - 1), &[], &[]);
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.step(
        "ext",
        &client().seq(1_001).ack(5_001).payload(b"x").frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 . +1 ttl 63"],
        &["forwarded"],
    );
    // Refreshed: the timer that was armed first finds nothing to do.
    dialogue.wait(Duration::from_secs(2 * 3_600), &[], &[]);
    assert_eq!(dialogue.flows().len(), 1);
    dialogue.wait(Duration::from_secs(5 * 60), &[], &[]);
    assert_eq!(dialogue.flows().len(), 0);
}

#[test]
fn ipv6_takes_the_same_path() {
    let mut dialogue = Dialogue::new(POLICY);
    let client = || build::tcp().from("[2600:9::9]:40000").to("[2600:2::10]:443").window(64_000);
    let server = || build::tcp().from("[2600:2::10]:443").to("[2600:9::9]:40000").window(64_000);
    dialogue.step(
        "ext",
        &client().syn().seq(1).frame(),
        &["int: tcp [2600:9::9]:40000 > [2600:2::10]:443 S ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().syn().seq(9).ack(2).frame(),
        &["ext: tcp [2600:2::10]:443 > [2600:9::9]:40000 S. ttl 63"],
        &["forwarded"],
    );
    dialogue.step("int", &server().seq(10_000_000).ack(2).frame(), &[], &["drop:tcp-window"]);
}

#[test]
fn superframes_and_partial_checksums_pass_whole() {
    let mut dialogue = Dialogue::new(POLICY);
    let client = || build::tcp().from(CLIENT).to("203.0.113.7:443").window(64_000);
    let server = || build::tcp().from(SERVER).to(CLIENT).window(64_000);
    dialogue.step(
        "ext",
        &client().syn().seq(1_000).wscale(7).frame(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 S ttl 63"],
        &["forwarded"],
    );
    dialogue.step(
        "int",
        &server().syn().seq(5_000).ack(1_001).wscale(7).frame(),
        &["ext: tcp 203.0.113.7:443 > 198.51.100.9:40000 S. ttl 63"],
        &["forwarded"],
    );
    let superframe = client().seq(1_001).ack(5_001).payload(&[b'x'; 40_000]).segment_size(1_448);
    dialogue.step_offloaded(
        "ext",
        &superframe.frame(),
        superframe.offload(),
        &["int: tcp 198.51.100.9:40000 > 10.1.0.10:443 . +40000 ttl 63 partial gso 1448"],
        &["forwarded"],
    );
}
