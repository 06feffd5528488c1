//! Handshakes, and SYNs on connections that are there.

use super::*;

// --- Handshake -----------------------------------------------------------------------------------

#[test]
fn handshake_data_and_close_pass() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("A", 1, 1).payload(100)), Ok(Continue));
    assert_eq!(d.server(segment("A", 1, 101).payload(5_000)), Ok(Continue));
    assert_eq!(d.client(segment("A", 101, 5_001)), Ok(Continue));
    assert_eq!(d.server(segment("FA", 5_001, 101)), Ok(Moved { from: Established, to: Closing }));
    assert_eq!(d.client(segment("FA", 101, 5_002)), Ok(Continue));
    assert_eq!(d.server(segment("A", 5_002, 102)), Ok(Moved { from: Closing, to: Closed }));
}

#[test]
fn syn_ack_must_acknowledge_the_syn_exactly() {
    for acknowledgement in [0, 2, 1_000, u32::MAX] {
        assert_eq!(Dialogue::open().server(segment("SA", 0, acknowledgement)), DROPPED_WINDOW);
    }
}

#[test]
fn ack_that_completes_the_handshake_must_match() {
    for (sequence, acknowledgement) in
        [(1, 0), (1, 2), (0, 1), (10_003, 1), (0_u32.wrapping_sub(50), 1)]
    {
        let mut d = Dialogue::answered();
        assert_eq!(d.client(segment("A", sequence, acknowledgement)), DROPPED_WINDOW);
        assert_eq!(d.0.state(), SynReceived);
    }
}

/// CC-1.5a: wrong flags during the handshake, with the right numbers.
///
/// Covers: CC-1.5a
#[test]
fn wrong_flags_in_the_handshake_are_not_part_of_it() {
    for flags in ["A", "FA"] {
        assert_eq!(Dialogue::open().server(segment(flags, 0, 1)), DROPPED_STATE);
        assert_eq!(Dialogue::open().client(segment(flags, 1, 1)), DROPPED_STATE);
    }
    assert_eq!(Dialogue::open().client(segment("SA", 0, 1)), DROPPED_STATE);
    assert_eq!(Dialogue::answered().client(segment("SA", 0, 1)), DROPPED_STATE);
    assert_eq!(Dialogue::answered().server(segment("S", 1, 0)), DROPPED_STATE);
}

/// Whoever replays the first SYN does not keep an idle connection in the table.
#[test]
fn copy_of_the_syn_refreshes_no_connection_that_is_open() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("S", 0, 0)), Ok(NoRefresh));
    d.client(segment("FA", 1, 1)).unwrap();
    assert_eq!(d.client(segment("S", 0, 0)), Ok(NoRefresh));
}

#[test]
fn syn_again_passes() {
    let mut d = Dialogue::open();
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Continue));
    let mut d = Dialogue::answered();
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Continue));
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(Continue));
    assert_eq!(d.client(segment("A", 1, 1)), Ok(Moved { from: SynReceived, to: Established }));
    // The ACK was lost behind us.
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(Continue));
    assert_eq!(d.client(segment("A", 1, 1)), Ok(Continue));
}

#[test]
fn syn_with_another_number_is_a_new_attempt() {
    let mut d = Dialogue::open();
    assert_eq!(d.client(segment("S", 7_000, 0)), Ok(Continue));
    assert_eq!(d.server(segment("SA", 0, 3_001)), DROPPED_WINDOW, "of no SYN that passed");
    assert_eq!(d.server(segment("SA", 0, 7_001)), Ok(Moved { from: SynSent, to: SynReceived }));
    assert_eq!(d.server(segment("SA", 300, 1)), DROPPED_WINDOW, "stale SYN-ACK");
    assert_eq!(d.client(segment("A", 7_001, 1)), Ok(Moved { from: SynReceived, to: Established }));
}

/// A SYN-ACK that overtakes the client's new attempt reaches it, draws a RST, and the new attempt has
/// its turn; or the new attempt's SYN-ACK comes by itself.
#[test]
fn stale_syn_ack_does_not_stop_the_new_attempt() {
    for is_reset in [false, true] {
        let mut d = Dialogue::open();
        assert_eq!(d.client(segment("S", 7_000, 0)), Ok(Continue));
        assert_eq!(d.server(segment("SA", 0, 1)), Ok(Moved { from: SynSent, to: SynReceived }));
        if is_reset {
            assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: SynReceived, to: Closed }));
            assert_eq!(d.client(segment("S", 7_000, 0)), Ok(Reopen));
            continue;
        }
        assert_eq!(d.server(segment("SA", 900, 7_001)), Ok(Continue));
        assert_eq!(
            d.client(segment("A", 7_001, 901)),
            Ok(Moved { from: SynReceived, to: Established })
        );
    }
}

/// Nobody can take an attempt away with a SYN of his own, nor learn anything by it.
///
/// Covers: 3.2
#[test]
fn foreign_syn_does_not_displace_the_first() {
    let mut d = Dialogue::open();
    for sequence in [70_000, 2_000_000_000] {
        assert_eq!(d.client(segment("S", sequence, 0)), Ok(Continue));
    }
    let zero = 0_u32.wrapping_sub(S);
    assert_eq!(d.server(segment("RA", zero, 2_000_000_001)), Ok(NoRefresh), "of the foreign one");
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(Moved { from: SynSent, to: SynReceived }));
    assert_eq!(d.client(segment("A", 1, 1)), Ok(Moved { from: SynReceived, to: Established }));
}

/// RFC 5382 REQ-2a, RFC 9293 section 3.5 figure 7.
///
/// Covers: 5382-2a, 9293
#[test]
fn simultaneous_open_passes() {
    let mut d = Dialogue::open();
    assert_eq!(d.server(segment("S", 0, 0)), Ok(Moved { from: SynSent, to: SynReceived }));
    assert_eq!(d.server(segment("S", 0, 0)), Ok(Continue), "again");
    assert_eq!(d.client(segment("SA", 0, 1)), Ok(Continue));
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(Moved { from: SynReceived, to: Established }));
    assert_eq!(d.client(segment("SA", 0, 1)), Ok(Continue), "lost behind us");
    assert_eq!(d.client(segment("A", 1, 1).payload(100)), Ok(Continue));
    assert_eq!(d.server(segment("A", 1, 101)), Ok(Continue));
}

/// The split handshake never turns the connection round: the client stays the originator, and only
/// segments that fit its SYN get the connection established.
///
/// Covers: 3.12
#[test]
fn split_handshake_does_not_invert_the_direction() {
    let mut d = Dialogue::open();
    assert_eq!(d.server(segment("A", 0, 1)), DROPPED_STATE);
    assert_eq!(d.server(segment("S", 0, 0)), Ok(Moved { from: SynSent, to: SynReceived }));
    assert_eq!(d.server(segment("A", 1, 2)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("SA", 0, 1)), Ok(Continue));
    assert_eq!(d.server(segment("A", 1, 1)), Ok(Moved { from: SynReceived, to: Established }));
    assert_eq!(d.client(segment("S", 90_000, 0)), Ok(NoRefresh), "still the originator's right");
    assert_eq!(d.server(segment("S", 90_000, 0)), Ok(NoRefresh));
    assert_eq!(
        d.client(segment("SA", 90_000, 90_001)),
        DROPPED_STATE,
        "a SYN of the server never opens anything"
    );
}

/// Covers: 3.12
#[test]
fn data_in_the_syn_passes() {
    let syn = segment("S", C, 0).payload(500);
    for acknowledged in [1, 200, 501] {
        let mut d = Dialogue(TcpTracker::open(&syn));
        assert_eq!(d.server(segment("SA", 0, 502)), DROPPED_WINDOW);
        assert_eq!(
            d.server(segment("SA", 0, acknowledged).payload(300)),
            Ok(Moved { from: SynSent, to: SynReceived })
        );
        assert_eq!(d.server(segment("A", 301, acknowledged).payload(700)), Ok(Continue));
        assert_eq!(
            d.client(segment("A", acknowledged, 301).payload(600)),
            Ok(Moved { from: SynReceived, to: Established })
        );
    }
}

/// A server without state (SYN cookies) may answer a repeated SYN with another sequence number; the
/// client's ACK tells which SYN-ACK it got.
#[test]
fn either_of_two_syn_acks_may_be_acknowledged() {
    for (chosen, other) in [(0, 300_000), (300_000, 0)] {
        let mut d = Dialogue::answered();
        assert_eq!(d.server(segment("SA", 300_000, 1)), Ok(NoRefresh));
        assert_eq!(
            d.client(segment("A", 1, chosen + 1)),
            Ok(Moved { from: SynReceived, to: Established })
        );
        assert_eq!(d.server(segment("A", chosen + 1, 1).payload(10)), Ok(Continue));
        assert_eq!(d.client(segment("A", 1, other + 1)), DROPPED_WINDOW);
    }
}

// --- Half-open connections, SYN on a live connection ------------------------------------------------

/// RFC 9293 section 3.5.1: the server has an older connection and the tracker does not know it.
///
/// Covers: 9293
#[test]
fn half_open_connection_is_cured_by_the_clients_rst() {
    let mut d = Dialogue::open();
    assert_eq!(d.client(segment("R", 77_000, 0)), DROPPED_WINDOW);
    assert_eq!(d.server(segment("A", 40_000, 77_000).payload(1)), DROPPED_STATE);
    assert_eq!(d.server(segment("A", 40_000, 77_000)), Ok(NoRefresh));
    assert_eq!(d.client(segment("R", 77_001, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 77_000, 0)), Ok(NoRefresh));
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Continue));
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(Moved { from: SynSent, to: SynReceived }));
}

/// RFC 5961 section 4.
///
/// Covers: 5961-4, 3.2
#[test]
fn syn_on_a_live_connection_passes_and_changes_nothing() {
    for sequence in [500, 2_000_000_000] {
        let mut d = Dialogue::established();
        assert_eq!(d.client(segment("S", sequence, 0)), Ok(NoRefresh));
        assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue), "challenge ACK");
        assert_eq!(d.client(segment("A", 1, 1).payload(100)), Ok(Continue), "it was not ours");
        assert_eq!(d.server(segment("S", sequence, 0)), Ok(NoRefresh));
        assert_eq!(d.client(segment("A", 101, 1)), Ok(Continue), "challenge ACK");
        assert_eq!(d.0.state(), Established);
    }
}

/// The client has started anew, the server lives: challenge ACK, RST, new SYN.
///
/// Covers: 9293
#[test]
fn client_that_lost_the_connection_gets_a_new_one() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("S", 800_000, 0)), Ok(NoRefresh));
    assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue));
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: Established, to: Closed }));
    assert_eq!(d.client(segment("S", 800_000, 0)), Ok(Reopen));
}

/// Both have lost the connection (or the server left TIME-WAIT): only the tracker still knows it.
///
/// Covers: 9293
#[test]
fn server_that_lost_the_connection_takes_a_new_syn() {
    let mut d = Dialogue::established();
    assert_eq!(d.server(segment("SA", 60_000, 800_001)), DROPPED_WINDOW, "no such SYN");
    assert_eq!(d.client(segment("S", 800_000, 0)), Ok(NoRefresh));
    assert_eq!(d.server(segment("SA", 60_000, 800_002)), DROPPED_WINDOW);
    assert_eq!(
        d.server(segment("SA", 60_000, 800_001)),
        Ok(Moved { from: Established, to: SynReceived })
    );
    assert_eq!(
        d.client(segment("A", 800_001, 60_001)),
        Ok(Moved { from: SynReceived, to: Established })
    );
    assert_eq!(d.client(segment("A", 1, 1).payload(1)), DROPPED_WINDOW, "the old one is gone");
}

#[test]
fn server_that_lost_the_connection_may_refuse_a_new_syn() {
    let mut d = Dialogue::established();
    let refusal = segment("RA", 0_u32.wrapping_sub(S), 800_001);
    assert_eq!(d.server(refusal), DROPPED_WINDOW);
    assert_eq!(d.client(segment("S", 800_000, 0)), Ok(NoRefresh));
    assert_eq!(d.server(refusal), Ok(NoRefresh), "it can not close the old connection");
}

/// The last ACK of a close is the one side's own; a challenge ACK of the other is not it.
///
/// Covers: 3.13
#[test]
fn challenge_ack_in_last_ack_is_not_the_last_ack() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("FA", 1, 1)), Ok(Moved { from: Established, to: Closing }));
    assert_eq!(d.server(segment("FA", 1, 2)), Ok(Continue));
    assert_eq!(d.client(segment("S", 900_000, 0)), Ok(NoRefresh));
    assert_eq!(d.server(segment("A", 2, 2)), Ok(Continue));
    assert_eq!(d.0.state(), Closing);
    assert_eq!(d.client(segment("R", 2, 0)), Ok(Moved { from: Closing, to: Closed }));
    assert_eq!(d.client(segment("S", 900_000, 0)), Ok(Reopen));
}
