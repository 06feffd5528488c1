use super::*;
use gabion_rules::Settings;

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

// --- Windows ----------------------------------------------------------------------------------------

#[test]
fn data_beyond_the_right_edge_is_dropped() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("A", 1, 1).payload(10_001)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("A", 10_001, 1).payload(1)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("A", 1, 1).payload(10_000)), Ok(Continue));
    assert_eq!(d.server(segment("A", 1, 5_001)), Ok(Continue));
    assert_eq!(d.client(segment("A", 10_001, 1).payload(5_000)), Ok(Continue));
    assert_eq!(d.client(segment("A", 15_001, 1).payload(1)), DROPPED_WINDOW);
}

/// RFC 7323 section 2.2: scales hold only if both SYNs have the option, and never for a SYN.
///
/// Covers: 6092-32
#[test]
fn window_scale_needs_both_syns_and_spares_them() {
    for (client, server, reach) in
        [(Some(7), Some(3), 80_000), (None, Some(3), 10_000), (Some(7), None, 10_000)]
    {
        let mut d =
            Dialogue(TcpTracker::open(&TcpSegment { window_scale: client, ..segment("S", C, 0) }));
        let syn_ack = TcpSegment { window_scale: server, ..segment("SA", 0, 1) };
        assert_eq!(d.server(syn_ack), Ok(Moved { from: SynSent, to: SynReceived }));
        assert_eq!(
            d.client(segment("A", 1, 1).payload(10_001)),
            DROPPED_WINDOW,
            "the SYN's own window is not scaled"
        );
        assert_eq!(
            d.client(segment("A", 1, 1).payload(10_000)),
            Ok(Moved { from: SynReceived, to: Established })
        );
        assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue));
        assert_eq!(d.client(segment("A", 2, 1).payload(reach)), DROPPED_WINDOW);
        assert_eq!(d.client(segment("A", 1, 1).payload(reach)), Ok(Continue));
    }
}

#[test]
fn shift_count_above_fourteen_counts_as_fourteen() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).scale(255)));
    d.server(segment("SA", 0, 1).scale(255)).unwrap();
    d.client(segment("A", 1, 1).window(1)).unwrap();
    d.server(segment("A", 1, 1).window(1)).unwrap();
    assert_eq!(d.client(segment("A", 1, 1).payload(16_384)), Ok(Continue));
    assert_eq!(d.client(segment("A", 16_385, 1).payload(1)), DROPPED_WINDOW);
}

/// A client that gives up options when it repeats its SYN may yet be answered with them.
#[test]
fn repeated_syn_without_options_keeps_the_scale() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).scale(4)));
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Continue));
    d.server(segment("SA", 0, 1).scale(4)).unwrap();
    d.client(segment("A", 1, 1)).unwrap();
    assert_eq!(d.server(segment("A", 1, 1).payload(60_000)), Ok(Continue));
    assert_eq!(d.server(segment("A", 60_001, 1).payload(60_000)), Ok(Continue));
}

/// RFC 5961 section 5.2.
///
/// Covers: 5961-5
#[test]
fn ack_of_what_was_not_sent_and_ack_from_the_past_are_dropped() {
    let mut d = Dialogue::established();
    for n in 0..10 {
        d.client(segment("A", 1 + n * 9_000, 1).payload(9_000)).unwrap();
        d.server(segment("A", 1, 1 + (n + 1) * 9_000)).unwrap();
    }
    // 90,000 bytes acknowledged; the client has seen a window of 10,000 at most.
    assert_eq!(d.server(segment("A", 1, 90_002).payload(1)), DROPPED_WINDOW);
    assert_eq!(d.server(segment("A", 1, 80_000).payload(1)), DROPPED_WINDOW);
    assert_eq!(d.server(segment("A", 1, 80_001).payload(1)), Ok(Continue));
    assert_eq!(d.server(segment("A", 1, 90_001).payload(1)), Ok(Continue));
}

/// Covers: 5382-2
#[test]
fn zero_window_probe_and_its_answer_pass() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(10_000)).unwrap();
    assert_eq!(d.server(segment("A", 1, 10_001).window(0)), Ok(Continue));
    assert_eq!(d.client(segment("A", 10_001, 1).payload(2)), DROPPED_WINDOW);
    for _ in 0..3 {
        assert_eq!(d.client(segment("A", 10_001, 1).payload(1)), Ok(Continue), "BSD's probe");
        assert_eq!(d.client(segment("A", 10_000, 1)), Ok(Continue), "Linux's probe");
        assert_eq!(d.server(segment("A", 1, 10_001).window(0)), Ok(Continue));
    }
    assert_eq!(d.server(segment("A", 1, 10_001).window(500)), Ok(Continue));
    assert_eq!(d.client(segment("A", 10_001, 1).payload(500)), Ok(Continue));
}

/// RFC 9293 section 3.8.4: one below the next, with or without a byte of garbage.
///
/// Covers: 5382-2
#[test]
fn keep_alive_passes() {
    let mut d = Dialogue::established();
    for payload in [0, 1] {
        assert_eq!(d.client(segment("A", 0, 1).payload(payload)), Ok(Continue));
        assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue));
        assert_eq!(d.server(segment("A", 0, 1).payload(payload)), Ok(Continue));
    }
    d.client(segment("FA", 1, 1)).unwrap();
    assert_eq!(d.client(segment("A", 1, 1).payload(1)), Ok(Continue), "behind the FIN");
}

/// Covers: 5382-2
#[test]
fn whole_window_may_be_sent_again() {
    let mut d = Dialogue::established();
    for n in 0..10 {
        d.client(segment("A", 1 + n * 1_000, 1).payload(1_000)).unwrap();
    }
    d.client(segment("FA", 10_001, 1)).unwrap();
    assert_eq!(d.client(segment("A", 1, 1).payload(1_000)), Ok(Continue));
    assert_eq!(d.client(segment("FA", 1, 1).payload(10_000)), Ok(Continue));
    assert_eq!(d.client(segment("A", 0, 1)), Ok(Continue), "keep-alive below a full flight");
    assert_eq!(d.client(segment("A", 0_u32.wrapping_sub(2), 1)), DROPPED_WINDOW);
}

/// RFC 9293 section 3.8.6: a sender may have used a window that was taken back.
#[test]
fn shrunk_window_loses_nothing_in_flight() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(100)).unwrap();
    assert_eq!(d.server(segment("A", 1, 101).window(0)), Ok(Continue));
    assert_eq!(d.client(segment("A", 101, 1).payload(9_900)), Ok(Continue));
}

/// A FIN does not count against the window.
#[test]
fn fin_behind_a_full_window_passes() {
    let mut d = Dialogue::established();
    assert_eq!(
        d.client(segment("FA", 1, 1).payload(10_000)),
        Ok(Moved { from: Established, to: Closing })
    );
    assert_eq!(d.client(segment("A", 10_002, 1)), Ok(Continue));
}

#[test]
fn superframe_of_64_kilobytes_passes() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).scale(7)));
    d.server(segment("SA", 0, 1).scale(7)).unwrap();
    d.client(segment("A", 1, 1)).unwrap();
    d.server(segment("A", 1, 1)).unwrap();
    for n in 0..10 {
        let at = 1 + n * 65_160;
        assert_eq!(d.client(segment("A", at, 1).payload(65_160)), Ok(Continue));
    }
}

#[test]
fn sequence_numbers_wrap() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).scale(14)));
    d.server(segment("SA", 0, 1).scale(14)).unwrap();
    d.client(segment("A", 1, 1)).unwrap();
    d.server(segment("A", 1, 1)).unwrap();
    let (step, mut at) = (100_000_000, 1_u32);
    for _ in 0..100 {
        assert_eq!(d.client(segment("A", at, 1).payload(step)), Ok(Continue));
        at = at.wrapping_add(step);
        assert_eq!(d.server(segment("A", 1, at)), Ok(Continue));
        assert_eq!(d.client(segment("A", at.wrapping_add(1 << 30), 1)), DROPPED_WINDOW);
        assert_eq!(d.client(segment("A", at.wrapping_sub(1 << 30), 1)), DROPPED_WINDOW);
    }
}

// --- RST --------------------------------------------------------------------------------------------

/// RFC 5961 section 3.2, all three cases.
///
/// Covers: 5961-3a, 5961-3b, 5961-3c
#[test]
fn rst_closes_only_when_exact() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("R", 0, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 10_002, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 5_000, 0)), Ok(NoRefresh), "in the window");
    assert_eq!(d.0.state(), Established);
    assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue), "challenge ACK");
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: Established, to: Closed }));
}

#[test]
fn rst_behind_data_that_is_not_acknowledged_yet_closes() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(700)).unwrap();
    assert_eq!(d.client(segment("R", 300, 0)), Ok(NoRefresh));
    assert_eq!(d.client(segment("RA", 701, 1)), Ok(Moved { from: Established, to: Closed }));
}

/// The data before the RST was lost behind us: the server's challenge ACK and the client's exact RST
/// still pass.
///
/// Covers: 5961-mb
#[test]
fn challenge_ack_after_a_rst_and_its_answer_pass() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(700)).unwrap();
    d.client(segment("R", 701, 0)).unwrap();
    assert_eq!(d.server(segment("A", 1, 1)), Ok(NoRefresh));
    assert_eq!(d.client(segment("R", 1, 0)), Ok(NoRefresh));
}

#[test]
fn rst_against_a_syn_must_acknowledge_it() {
    let zero = 0_u32.wrapping_sub(S);
    for refusal in
        [segment("R", 0, 0), segment("R", 1, 1), segment("RA", zero, 0), segment("RA", zero, 2)]
    {
        assert_eq!(Dialogue::open().server(refusal), DROPPED_WINDOW);
    }
    let mut d = Dialogue::open();
    let refusal = segment("RA", zero, 1);
    assert_eq!(d.server(refusal), Ok(Moved { from: SynSent, to: Closed }));
    assert_eq!(d.server(refusal), Ok(NoRefresh), "again, for a repeated SYN that passed before");
    assert_eq!(d.server(segment("A", 1, 1)), DROPPED_STATE);
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Reopen));
}

/// The server died between its SYN-ACK, which was lost behind us, and the repeated SYN.
#[test]
fn rst_against_a_repeated_syn_passes_after_the_syn_ack() {
    let mut d = Dialogue::answered();
    assert_eq!(d.client(segment("S", 0, 0)), Ok(Continue));
    assert_eq!(d.server(segment("RA", 0_u32.wrapping_sub(S), 1)), Ok(NoRefresh));
}

/// The client may have the SYN-ACK already, and then ignores a RST with a wrong sequence number: the
/// engine ended the connection under both. Found beside Linux.
#[test]
fn rst_that_only_acknowledges_the_syn_ends_nothing_after_the_syn_ack() {
    for sequence in [100, 0x4000_0000, 0_u32.wrapping_sub(90_000_000)] {
        let mut d = Dialogue::answered();
        assert_eq!(d.server(segment("RA", sequence, 1)), Ok(NoRefresh));
        assert_eq!(d.client(segment("A", 1, 1)), Ok(Moved { from: SynReceived, to: Established }));
        assert_eq!(d.server(segment("A", 1, 1).payload(10)), Ok(Continue));
    }
}

#[test]
fn client_may_take_its_syn_back() {
    let mut d = Dialogue::open();
    assert_eq!(d.client(segment("R", 0, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: SynSent, to: Closed }));
    let mut d = Dialogue::answered();
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: SynReceived, to: Closed }));
}

/// ReDAN, CVE-2016-5696: a sweep over the sequence space by one who sees nothing.
///
/// Covers: 3.2
#[test]
fn blind_sweep_neither_closes_nor_changes_anything() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(777)).unwrap();
    d.server(segment("A", 1, 778).payload(333)).unwrap();
    let before = d.0;
    let mut in_window = 0;
    for sequence in (7..=u32::MAX).step_by(4_999) {
        for flags in ["R", "RA"] {
            match d.server(segment(flags, sequence, 4)) {
                Ok(effect) => {
                    assert_eq!(effect, NoRefresh);
                    in_window += 1;
                }
                Err(reason) => assert_eq!(reason, DropReason::TcpWindow),
            }
        }
        for flags in ["FA", "A"] {
            let far = 778_u32.wrapping_add(1 << 20);
            assert_eq!(d.server(segment(flags, sequence, far).payload(1)), DROPPED_WINDOW);
        }
        assert_eq!(d.server(segment("SA", sequence, 778)), DROPPED_WINDOW);
    }
    assert!(in_window <= 6, "{in_window} RSTs hit the window");
    assert_eq!(d.0, before);
}

// --- Close ------------------------------------------------------------------------------------------

/// Covers: 9293
#[test]
fn simultaneous_close_passes() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("FA", 1, 1)), Ok(Moved { from: Established, to: Closing }));
    assert_eq!(d.server(segment("FA", 1, 1)), Ok(Continue));
    assert_eq!(d.client(segment("A", 2, 2)), Ok(Continue));
    assert_eq!(d.server(segment("A", 2, 2)), Ok(Moved { from: Closing, to: Closed }));
}

/// RFC 6146 section 3.5.2.2: a half-closed connection keeps the timer of an established one.
///
/// Covers: 7857-2.1
#[test]
fn half_closed_connection_carries_data_for_hours() {
    let timeouts = Settings::default().timeouts;
    let mut d = Dialogue::open();
    assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_opening);
    d.server(segment("SA", 0, 1)).unwrap();
    assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_opening);
    d.client(segment("A", 1, 1)).unwrap();
    assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_established);
    d.client(segment("FA", 1, 1)).unwrap();
    let mut at = 1_u32;
    for _ in 0..1_000 {
        assert_eq!(d.server(segment("A", at, 2).payload(10_000)), Ok(Continue));
        at += 10_000;
        assert_eq!(d.client(segment("A", 2, at)), Ok(Continue));
        assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_established);
    }
    d.server(segment("FA", at, 2)).unwrap();
    assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_closing);
    d.client(segment("A", 2, at + 1)).unwrap();
    assert_eq!(d.0.timeout(&timeouts), timeouts.tcp_closed);
}

#[test]
fn nothing_follows_a_fin() {
    let mut d = Dialogue::established();
    d.client(segment("FA", 1, 1).payload(10)).unwrap();
    assert_eq!(d.client(segment("A", 12, 1).payload(1)), DROPPED_STATE);
    assert_eq!(d.client(segment("A", 1, 1).payload(12)), DROPPED_STATE);
    assert_eq!(d.client(segment("FA", 12, 1)), DROPPED_STATE, "a second end");
    assert_eq!(d.client(segment("FA", 1, 1).payload(10)), Ok(Continue), "the same again");
}

#[test]
fn fin_follows_everything() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(1_000)).unwrap();
    assert_eq!(d.client(segment("FA", 500, 1)), DROPPED_STATE);
    assert_eq!(d.0.state(), Established);
}

#[test]
fn fin_of_the_server_waits_for_the_handshake() {
    let mut d = Dialogue::answered();
    assert_eq!(d.server(segment("FA", 1, 1)), Ok(Continue));
    assert_eq!(d.0.state(), SynReceived);
    assert_eq!(d.client(segment("A", 1, 2)), Ok(Moved { from: SynReceived, to: Closing }));
}

/// CC-1.5b: after a normal close nothing new passes.
///
/// Covers: CC-1.5b
#[test]
fn nothing_new_passes_after_the_close() {
    for mut d in [Dialogue::finished(), Dialogue::reset()] {
        for sequence in [1, 2, 3] {
            assert!(d.client(segment("A", sequence, 2).payload(10)).is_err());
            assert!(d.server(segment("A", sequence, 2).payload(10)).is_err());
            assert!(d.server(segment("A", sequence, 2)).is_err());
        }
        assert!(d.client(segment("SA", 1, 2)).is_err());
        assert_eq!(d.0.state(), Closed);
    }
}

/// The last ACK was lost behind us: FIN (or data and FIN) and ACK come again.
#[test]
fn lost_last_ack_is_repaired() {
    let mut d = Dialogue::finished();
    assert_eq!(d.client(segment("A", 2, 2)), DROPPED_STATE, "nothing to answer");
    assert_eq!(d.server(segment("FA", 1, 2)), Ok(Continue));
    assert_eq!(d.client(segment("A", 2, 2)), Ok(NoRefresh));
    assert_eq!(d.server(segment("FA", 0, 2)), DROPPED_STATE);
    assert_eq!(d.server(segment("FA", 2, 2)), DROPPED_STATE);
}

/// The RST was lost behind us: data that was sent before comes again and draws another RST.
#[test]
fn lost_rst_is_repaired() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(100)).unwrap();
    d.server(segment("R", 1, 0)).unwrap();
    assert_eq!(d.client(segment("A", 1, 1).payload(100)), Ok(NoRefresh));
    assert_eq!(d.server(segment("R", 1, 0)), Ok(NoRefresh));
    assert_eq!(d.client(segment("A", 101, 1).payload(100)), DROPPED_STATE);
}

/// RFC 9293 section 3.6.1: either side may open a closed connection anew.
///
/// Covers: 9293
#[test]
fn syn_on_a_closed_connection_reopens() {
    for mut d in [Dialogue::finished(), Dialogue::reset()] {
        assert_eq!(d.client(segment("S", 50_000, 0)), Ok(Reopen));
        assert_eq!(d.server(segment("S", 50_000, 0)), Ok(Reopen));
    }
}

/// The network has kept a copy of the first SYN for longer than the connection lived.
#[test]
fn late_copy_of_the_syn_opens_nothing() {
    for mut d in [Dialogue::finished(), Dialogue::reset()] {
        assert_eq!(d.client(segment("S", 0, 0)), DROPPED_STATE);
        assert_eq!(d.server(segment("S", 0, 0)), DROPPED_STATE);
    }
}

// --- ICMP errors ------------------------------------------------------------------------------------

/// RFC 5927 section 4.1: SND.UNA <= sequence < SND.NXT.
///
/// Covers: 5927
#[test]
fn only_what_is_in_flight_may_be_quoted() {
    let quoted = |d: &Dialogue, direction, relative: u32| {
        let own = if direction == Original { C } else { S };
        d.0.in_flight(direction, relative.wrapping_add(own))
    };
    let mut d = Dialogue::open();
    assert!(quoted(&d, Original, 0));
    assert!(!quoted(&d, Original, 1));
    assert!(!quoted(&d, Reply, 0));
    d.server(segment("SA", 0, 1)).unwrap();
    assert!(!quoted(&d, Original, 0));
    assert!(quoted(&d, Reply, 0));
    d.client(segment("A", 1, 1).payload(1_000)).unwrap();
    for (relative, expected) in [(0, false), (1, true), (500, true), (1_000, true), (1_001, false)]
    {
        assert_eq!(quoted(&d, Original, relative), expected, "{relative}");
    }
    d.server(segment("A", 1, 501)).unwrap();
    assert!(!quoted(&d, Original, 500));
    assert!(quoted(&d, Original, 501));
}
