//! The ways in which connections open, and those in which they must not.

use super::*;

/// RFC 9293 section 3.5, figure 7: to a published server, either side's SYN-ACK may come first.
///
/// Covers: 5382-2, 5382-2a, 6092-31, 9293, 3.12
#[test]
fn both_sides_open_at_once() {
    for place in PLACES {
        let mut talk = Conversation::at(place);
        talk.client_passes(|s| s.syn(), 0, None);
        talk.server_passes(|s| s.syn(), 0, None);
        talk.server_passes(|s| s.syn(), 0, Some(1));
        talk.client_passes(|s| s.syn(), 0, Some(1));
        assert_eq!(talk.state(), "established");
        talk.is_alive(0);
    }
}

/// NSS Labs 2011, "split handshake": the server answers a SYN with a SYN of its own (in four steps),
/// or with an ACK first (in five). The client stays the one who opened it.
///
/// Covers: 3.12
#[test]
fn split_handshakes_never_turn_the_connection_round() {
    for with_ack in [false, true] {
        let mut talk = Conversation::at(PLAIN);
        talk.client_passes(|s| s.syn(), 0, None);
        if with_ack {
            let frame = talk.server(0, Some(1)).frame();
            talk.is_dropped("int", &frame, "tcp-state");
        }
        talk.server_passes(|s| s.syn(), 0, None);
        talk.client_passes(|s| s.syn(), 0, Some(1));
        talk.server_passes(|s| s, 1, Some(1));
        let flow =
            "established 198.51.100.9:40000 > 10.1.0.10:443 | 10.1.0.10:443 > 198.51.100.9:40000";
        assert_eq!(talk.dialogue.flows(), [flow], "the client has opened it");
        // What the rules say of connections from inside is not asked for the server's SYN, and it
        // opens nothing: neither on this connection nor beside it.
        talk.server_passes(|s| s.syn(), 90_000, None);
        let frame = talk.client(0, Some(90_001)).syn().frame();
        talk.is_dropped("ext", &frame, "tcp-window");
        assert_eq!(talk.dialogue.flows(), [flow]);
    }
}

/// CC-1.5a: right addresses and numbers, wrong flags.
///
/// Covers: CC-1.5a
#[test]
fn wrong_flags_in_the_handshake_are_no_part_of_it() {
    let mut talk = Conversation::at(PLAIN);
    let frame = talk.client(0, Some(1)).frame();
    talk.is_dropped("ext", &frame, "tcp-not-syn");
    let frame = talk.client(0, Some(1)).syn().frame();
    talk.is_dropped("ext", &frame, "tcp-not-syn");
    talk.client_passes(|s| s.syn(), 0, None);
    for (frame, reason) in [
        (talk.server(0, Some(1)).frame(), "tcp-state"),
        (talk.server(0, Some(1)).fin().frame(), "tcp-state"),
        (talk.server(0, Some(2)).syn().frame(), "tcp-window"),
        (talk.server(0, Some(0)).syn().frame(), "tcp-window"),
        (talk.server(0, None).rst().frame(), "tcp-window"),
        (talk.server(0, None).frame(), "tcp-flags"),
        (talk.server(0, Some(1)).syn().fin().frame(), "tcp-flags"),
        (talk.server(0, Some(1)).syn().rst().frame(), "tcp-flags"),
    ] {
        talk.is_dropped("int", &frame, reason);
        assert_eq!(talk.state(), "syn-sent");
    }
    let frame = talk.client(1, Some(1)).frame();
    talk.is_dropped("ext", &frame, "tcp-state");
    talk.server_passes(|s| s.syn(), 0, Some(1));
    talk.client_passes(|s| s, 1, Some(1));
    talk.is_alive(0);
}

/// RFC 9293 section 3.5.1, figure 9: the server has an older connection of the client's former life.
///
/// Covers: 9293, 5961-mb
#[test]
fn a_server_that_is_half_open_recovers() {
    for place in PLACES {
        let mut talk = Conversation::at(place);
        talk.client_passes(|s| s.syn(), 0, None);
        // Its ACK of other numbers, the client's RST, and the SYN again.
        talk.server_passes(|s| s, 70_000, Some(300_000));
        talk.client_passes(|s| s.rst(), 300_000, None);
        talk.client_passes(|s| s.syn(), 0, None);
        talk.server_passes(|s| s.syn(), 0, Some(1));
        talk.client_passes(|s| s, 1, Some(1));
        talk.is_alive(0);
    }
}

/// The client starts anew on the same ports while the node still has the old connection.
///
/// Covers: 9293, 5961-4, 5961-mb
#[test]
fn a_client_that_lost_its_connection_gets_a_new_one() {
    for place in PLACES {
        for server_lives in [true, false] {
            let mut talk = Conversation::established(place);
            talk.client_passes(|s| s.syn(), 800_000, None);
            if server_lives {
                talk.server_passes(|s| s, 1, Some(1));
                talk.client_passes(|s| s.rst(), 1, None);
                assert_eq!(talk.state(), "closed");
                talk.client_passes(|s| s.syn(), 800_000, None);
            }
            talk.server_passes(|s| s.syn(), 900_000, Some(800_001));
            talk.client_passes(|s| s, 800_001, Some(900_001));
            talk.client_passes(|s| s.payload(&[1; 99]), 800_001, Some(900_001));
            talk.server_passes(|s| s, 900_001, Some(800_100));
            assert_eq!(talk.state(), "established");
        }
    }
}

/// A SYN-ACK that answers none of the SYNs which have passed, or comes with nobody waiting.
///
/// Covers: 5382-2, CC-1.5a
#[test]
fn stale_syn_acks_pass_nowhere() {
    let mut talk = Conversation::at(PLAIN);
    let frame = talk.server(0, Some(1)).syn().frame();
    talk.is_dropped("int", &frame, "tcp-not-syn");
    talk.client_passes(|s| s.syn(), 0, None);
    let frame = talk.server(0, Some(77_001)).syn().frame();
    talk.is_dropped("int", &frame, "tcp-window");
    let mut talk = Conversation::established(PLAIN);
    for (seq, ack) in [(40_000, 1), (40_000, 500_001), (0, 500_001)] {
        let frame = talk.server(seq, Some(ack)).syn().frame();
        talk.is_dropped("int", &frame, "tcp-window");
    }
    talk.is_alive(0);
}

/// Covers: 5382-2, 3.12
#[test]
fn a_handshake_whose_segments_are_lost_and_repeated_completes() {
    for place in PLACES {
        let mut talk = Conversation::at(place);
        for _ in 0..3 {
            talk.client_passes(|s| s.syn().wscale(7).mss(1_460), 0, None);
        }
        // The last attempts leave options out.
        talk.client_passes(|s| s.syn(), 0, None);
        for _ in 0..2 {
            talk.server_passes(|s| s.syn().wscale(7), 0, Some(1));
        }
        talk.client_passes(|s| s, 1, Some(1));
        talk.server_passes(|s| s.syn().wscale(7), 0, Some(1));
        talk.client_passes(|s| s, 1, Some(1));
        // 64,000 << 7 is granted, once the server says so in a segment that is no SYN.
        talk.server_passes(|s| s, 1, Some(1));
        talk.client_passes(|s| s.payload(&[1; 1_000]), 5_000_001, Some(1));
    }
}

/// Windows are held to what both sides have said, and a flow begins with its SYN: there is none whose
/// scales are not known.
///
/// Covers: 6092-32, 3.12
#[test]
fn window_scales_count_when_both_sides_have_said_them() {
    for (client, server, passes) in
        [(Some(7), Some(7), true), (Some(7), None, false), (None, Some(7), false)]
    {
        let mut talk = Conversation::at(PLAIN);
        let scaled = |segment: FrameBuilder, shift: Option<u8>| match shift {
            Some(shift) => segment.wscale(shift),
            None => segment,
        };
        talk.client_passes(|s| scaled(s.syn(), client), 0, None);
        talk.server_passes(|s| scaled(s.syn(), server), 0, Some(1));
        talk.client_passes(|s| s, 1, Some(1));
        talk.server_passes(|s| s, 1, Some(1));
        let far = talk.client(100_001, Some(1)).payload(&[1; 1_000]).frame();
        if passes {
            talk.passes("ext", &far);
        } else {
            talk.is_dropped("ext", &far, "tcp-window");
        }
    }
    let mut talk = Conversation::at(PLAIN);
    let frame = talk.client(1, Some(1)).payload(&[1; 9]).frame();
    talk.is_dropped("ext", &frame, "tcp-not-syn");
}
