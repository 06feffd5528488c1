//! The ways in which connections end, and what may still come then.

use std::time::Duration;

use super::*;

/// Covers: 9293, 5382-2
#[test]
fn both_sides_close_at_once() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        talk.client_passes(|s| s.fin(), 1, Some(1));
        talk.server_passes(|s| s.fin(), 1, Some(1));
        talk.client_passes(|s| s, 2, Some(2));
        assert_eq!(talk.state(), "closing");
        talk.server_passes(|s| s, 2, Some(2));
        assert_eq!(talk.state(), "closed");
    }
}

/// One side has closed; the other's data goes on for as long as it takes.
///
/// Covers: 5382-2, 5382-5, 2979-T
#[test]
fn a_half_closed_connection_carries_data_for_hours() {
    let mut talk = Conversation::established(TRANSLATED);
    talk.client_passes(|s| s.fin(), 1, Some(1));
    for hour in 0..5 {
        talk.dialogue.wait(Duration::from_hours(2), &[], &[]);
        let at = 1 + hour * 1_000;
        talk.server_passes(|s| s.payload(&[3; 1_000]), at, Some(2));
        talk.client_passes(|s| s, 2, Some(at + 1_000));
    }
    talk.server_passes(|s| s.fin(), 5_001, Some(2));
    talk.client_passes(|s| s, 2, Some(5_002));
    assert_eq!(talk.state(), "closed");
}

/// The server waits in LAST-ACK; the client's next connection has the same ports. The challenge ACK
/// that answers its SYN is not the ACK that is missing.
///
/// Covers: 3.13, 5961-4, 9293
#[test]
fn a_challenge_ack_in_last_ack_is_not_the_last_ack() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        talk.client_passes(|s| s.fin(), 1, Some(1));
        talk.server_passes(|s| s.fin(), 1, Some(2));
        talk.client_passes(|s| s.syn(), 900_000, None);
        talk.server_passes(|s| s, 2, Some(2));
        assert_eq!(talk.state(), "closing");
        // RFC 5961: the client's RST ends the old one, then its SYN opens the new one.
        talk.client_passes(|s| s.rst(), 2, None);
        talk.client_passes(|s| s.syn(), 900_000, None);
        talk.server_passes(|s| s.syn(), 700_000, Some(900_001));
        talk.client_passes(|s| s, 900_001, Some(700_001));
        assert_eq!(talk.state(), "established");
    }
}

/// The same with the client in LAST-ACK and a SYN from the server's side, which never opens anything.
///
/// Covers: 3.13, 3.12
#[test]
fn a_syn_of_the_other_side_in_last_ack_changes_nothing() {
    let mut talk = Conversation::established(PLAIN);
    talk.server_passes(|s| s.fin(), 1, Some(1));
    talk.client_passes(|s| s.fin(), 1, Some(2));
    talk.server_passes(|s| s.syn(), 900_000, None);
    talk.client_passes(|s| s, 2, Some(2));
    assert_eq!(talk.state(), "closing");
    talk.server_passes(|s| s, 2, Some(2));
    assert_eq!(talk.state(), "closed");
}

/// RFC 9293 section 3.6.1, RFC 6191: a SYN may have a tuple whose connection is closed, if the rules
/// permit it; nothing else may.
///
/// Covers: 9293, CC-1.5b
#[test]
fn a_closed_tuple_is_for_a_syn_that_the_rules_permit() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        talk.client_passes(|s| s.fin(), 1, Some(1));
        talk.server_passes(|s| s.fin(), 1, Some(2));
        talk.client_passes(|s| s, 2, Some(2));
        assert_eq!(talk.state(), "closed");
        talk.dialogue.wait(Duration::from_secs(1), &[], &[]);
        for (side, frame) in [
            ("ext", talk.client(2, Some(2)).payload(b"more").frame()),
            ("ext", talk.client(2, Some(2)).frame()),
            ("int", talk.server(2, Some(2)).payload(b"more").frame()),
            ("int", talk.server(2, Some(2)).fin().frame()),
        ] {
            talk.is_dropped(side, &frame, "tcp-state");
        }
        talk.client_passes(|s| s.syn(), 50_000, None);
        assert_eq!(talk.state(), "syn-sent");
    }
    let mut talk = Conversation::established(PLAIN);
    talk.client_passes(|s| s.rst(), 1, None);
    let closed = POLICY.replace("service: [https, tcp/22]", "service: tcp/22");
    talk.dialogue.commit(&closed);
    let frame = talk.client(50_000, None).syn().frame();
    talk.dialogue.step("ext", &frame, &[], &["drop:rule-drop"]);
}

/// The last acknowledgement was lost behind the node: the FIN comes again, and so does its answer.
///
/// Covers: 2979-T, 5382-2
#[test]
fn a_lost_last_acknowledgement_is_repaired() {
    let mut talk = Conversation::established(TRANSLATED);
    talk.client_passes(|s| s.fin(), 1, Some(1));
    talk.server_passes(|s| s.fin(), 1, Some(2));
    talk.client_passes(|s| s, 2, Some(2));
    for _ in 0..3 {
        talk.dialogue.wait(Duration::from_secs(8), &[], &[]);
        talk.server_passes(|s| s.fin(), 1, Some(2));
        talk.client_passes(|s| s, 2, Some(2));
    }
}

/// CC-1.5c: the timer decides, not when somebody gets round to look; the wheel turns in quarters of a
/// second.
///
/// Covers: CC-1.5c, timer-virtual, 5382-5, 6092-35
#[test]
fn a_packet_after_the_timer_is_no_packet_of_the_flow() {
    let idle = Duration::from_secs(7_440);
    for (late, passes) in [(false, true), (true, false)] {
        let mut talk = Conversation::established(TRANSLATED);
        // Nobody looks at the timers.
        talk.dialogue.now = talk.dialogue.now + idle;
        if !late {
            let nanos = talk.dialogue.now.as_nanos() - 1;
            talk.dialogue.now = gabion_engine::Time::from_nanos(nanos);
        }
        let frame = talk.client(1, Some(1)).payload(b"x").frame();
        if passes {
            talk.passes("ext", &frame);
        } else {
            talk.dialogue.step("ext", &frame, &[], &["drop:tcp-not-syn"]);
            assert_eq!(talk.state(), "none");
        }
    }
}
