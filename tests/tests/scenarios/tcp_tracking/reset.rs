//! Resets, true and forged, and everything else that somebody off the path may try.

use super::*;

/// RFC 5961 section 3.2, all three cases, either way.
///
/// Covers: 5961-3a, 5961-3b, 5961-3c, 5961-mb
#[test]
fn only_an_exact_reset_closes() {
    for place in PLACES {
        for from_server in [false, true] {
            let mut talk = Conversation::established(place);
            let side = if from_server { "int" } else { "ext" };
            let reset = |talk: &Conversation, seq| {
                if from_server { talk.server(seq, None) } else { talk.client(seq, None) }.rst()
            };
            for outside in [0_u32.wrapping_sub(5), 64_002, 1 << 31] {
                let frame = reset(&talk, outside).frame();
                talk.is_dropped(side, &frame, "tcp-window");
            }
            // In the window: the endpoint answers with a challenge ACK, the connection lives.
            let frame = reset(&talk, 30_000).frame();
            talk.passes(side, &frame);
            assert_eq!(talk.state(), "established");
            if from_server {
                talk.client_passes(|s| s, 1, Some(1));
            } else {
                talk.server_passes(|s| s, 1, Some(1));
            }
            // The exact one that follows closes.
            let frame = reset(&talk, 1).payload(b"reason").frame();
            talk.passes(side, &frame);
            assert_eq!(talk.state(), "closed");
        }
    }
}

/// RFC 7857 section 2.2: translated, and the session stays for a while; only a SYN may have the tuple.
///
/// Covers: 7857-2.2, timer-after-rst
#[test]
fn a_reset_is_translated_and_leaves_the_session_for_a_while() {
    let mut talk = Conversation::established(TRANSLATED);
    let frame = talk.server(1, None).rst().frame();
    talk.dialogue.step(
        "int",
        &frame,
        &["ext: tcp 203.0.113.7:443 > 198.51.100.9:40000 R ttl 63"],
        &["forwarded"],
    );
    talk.dialogue.wait(std::time::Duration::from_secs(9), &[], &[]);
    assert_eq!(talk.state(), "closed");
    let frame = talk.client(1, Some(1)).payload(b"x").frame();
    talk.is_dropped("ext", &frame, "tcp-state");
    talk.client_passes(|s| s.syn(), 700, None);
    assert_eq!(talk.state(), "syn-sent");
}

/// ReDAN (NDSS 2025), CVE-2016-5696: somebody who knows addresses and ports sweeps the whole sequence
/// space with every kind of segment, from either side and through NAT.
///
/// Covers: 3.2, 5961-3a, 5961-4, 5961-5
#[test]
fn blind_sweeps_leave_the_connection_alone() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        talk.is_alive(0);
        // An odd stride that hits neither side's next number.
        for step in 0..4_096_u32 {
            let seq = step.wrapping_mul(1_048_583).wrapping_add(100_003);
            let far = seq.wrapping_add(1 << 30);
            for frame in [
                talk.client(seq, None).rst(),
                talk.client(seq, Some(far)).rst(),
                talk.client(seq, Some(far)).fin(),
                talk.client(seq, None).syn(),
                talk.client(seq, Some(far)).payload(b"forged"),
            ] {
                talk.dialogue.send("ext", &frame.frame());
            }
            for frame in [
                talk.server(seq, None).rst(),
                talk.server(seq, Some(far)).fin(),
                talk.server(seq, Some(far)).syn(),
                talk.server(seq, None).syn(),
            ] {
                talk.dialogue.send("int", &frame.frame());
            }
        }
        assert_eq!(talk.state(), "established");
        talk.is_alive(1);
        talk.is_alive(2);
    }
}

/// The same against a connection that is only just being opened: no foreign SYN, RST or SYN-ACK takes
/// the attempt away.
///
/// Covers: 3.2
#[test]
fn blind_sweeps_do_not_stop_an_attempt() {
    for place in PLACES {
        let mut talk = Conversation::at(place);
        talk.client_passes(|s| s.syn(), 0, None);
        for step in 0..2_048_u32 {
            let seq = step.wrapping_mul(2_097_169).wrapping_add(100_003);
            talk.dialogue.send("ext", &talk.client(seq, None).syn().frame());
            talk.dialogue.send("ext", &talk.client(seq, None).rst().frame());
            talk.dialogue.send("int", &talk.server(seq, None).rst().frame());
            let refusal = talk.server(0, Some(seq.wrapping_add(3))).rst();
            talk.dialogue.send("int", &refusal.frame());
            let forged = talk.server(seq, Some(seq.wrapping_add(3))).syn();
            talk.dialogue.send("int", &forged.frame());
        }
        assert_eq!(talk.state(), "syn-sent");
        talk.server_passes(|s| s.syn(), 0, Some(1));
        talk.client_passes(|s| s, 1, Some(1));
        talk.is_alive(0);
    }
}

/// What its receiver throws away moves nothing here: a wrong checksum, or a hop limit that ends at
/// this node.
///
/// Covers: 3.12, CC-1.5a
#[test]
fn segments_that_nobody_receives_move_nothing() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        for frame in [
            talk.client(1, None).rst(),
            talk.client(1, Some(1)).fin(),
            talk.client(1, Some(1)).payload(b"data"),
        ] {
            let wrong = frame.clone().bad_transport_checksum().frame();
            talk.is_dropped("ext", &wrong, "transport-checksum");
            let dying = frame.hop_limit(1).frame();
            talk.dialogue.send("ext", &dying);
            assert!(
                talk.dialogue.sent.iter().all(|(out, _)| out == "ext"),
                "an ICMP error at most"
            );
        }
        let wrong = talk.server(0, None).syn().bad_transport_checksum().frame();
        talk.is_dropped("int", &wrong, "transport-checksum");
        talk.is_alive(0);
    }
}

/// Covers: 5961-5
#[test]
fn data_with_an_impossible_acknowledgement_is_dropped() {
    let mut talk = Conversation::established(PLAIN);
    talk.is_alive(0);
    for ack in [22, 1 << 30, 21_u32.wrapping_sub(64_001), 1 << 31] {
        let frame = talk.client(11, Some(ack)).payload(b"forged").frame();
        talk.is_dropped("ext", &frame, "tcp-window");
    }
    talk.client_passes(|s| s.payload(&[1; 10]), 11, Some(21));
}

/// The node itself never sends a segment about a connection that it knows, nor about one that it
/// does not know: what it has may be stale, and every answer can be counted from outside.
///
/// Covers: 5961-mb, 5961-7
#[test]
fn nothing_is_answered_out_of_state() {
    let mut talk = Conversation::established(PLAIN);
    let before = talk.dialogue.engine.counters().answers_sent;
    for seq in [0, 5, 40_000, 90_000, 1 << 30] {
        for frame in [
            talk.client(seq, Some(1)).payload(b"x"),
            talk.client(seq, Some(1 << 30)),
            talk.client(seq, None).rst(),
            talk.client(seq, None).syn(),
            talk.client(seq, Some(9)).from("198.51.100.77:1025"),
        ] {
            talk.dialogue.send("ext", &frame.frame());
            assert!(talk.dialogue.sent.iter().all(|(out, _)| out == "int"));
        }
    }
    assert_eq!(talk.dialogue.engine.counters().answers_sent, before);
}
