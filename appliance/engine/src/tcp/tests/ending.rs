//! RSTs, FINs, and what ICMP errors may quote.

use super::*;
use gabion_rules::Settings;

// --- RST --------------------------------------------------------------------------------------------

/// RFC 5961 section 3.2, all three cases.
///
/// Covers: 5961-3a, 5961-3b, 5961-3c
#[test]
fn rst_closes_only_when_exact() {
    let mut d = Dialogue::established();
    assert_eq!(d.client(segment("R", 0, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 10_002, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 10_001, 0)), DROPPED_WINDOW, "the window ends before it");
    assert_eq!(d.client(segment("R", 10_000, 0)), Ok(NoRefresh), "the window's last");
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

/// The receiver may not have got the data: then what it has acknowledged is what it expects.
///
/// Covers: 5961-3b
#[test]
fn rst_where_the_receiver_has_acknowledged_closes() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(700)).unwrap();
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: Established, to: Closed }));
}

/// An acknowledgement that was overtaken takes nothing back: a RST at what it says is an old one.
///
/// Covers: 5961-3a
#[test]
fn old_acknowledgement_does_not_make_an_old_rst_exact() {
    let mut d = Dialogue::established();
    d.client(segment("A", 1, 1).payload(700)).unwrap();
    d.server(segment("A", 1, 701)).unwrap();
    assert_eq!(d.server(segment("A", 1, 1)), Ok(Continue), "overtaken");
    assert_eq!(d.client(segment("R", 1, 0)), DROPPED_WINDOW);
    assert_eq!(d.0.state(), Established);
}

/// A RST of the client is never an answer to its own SYN, whatever it acknowledges.
#[test]
fn rst_of_the_client_refuses_no_syn_of_its_own() {
    let mut d = Dialogue::answered();
    let of_its_own_syn = C.wrapping_add(1).wrapping_sub(S);
    assert_eq!(d.client(segment("RA", 1 << 30, of_its_own_syn)), DROPPED_WINDOW);
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

/// RFC 9293 section 3.10.7.3: whichever of its SYNs was answered, the client may refuse the answer.
#[test]
fn client_may_take_its_second_syn_back() {
    let mut d = Dialogue::open();
    d.client(segment("S", 700, 0)).unwrap();
    assert_eq!(d.client(segment("R", 702, 0)), DROPPED_WINDOW);
    assert_eq!(d.client(segment("R", 701, 0)), Ok(NoRefresh));
    assert_eq!(d.client(segment("R", 1, 0)), Ok(Moved { from: SynSent, to: Closed }));
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

/// A replay of what had passed, data and SYN-ACK, passed again for ten seconds after the close.
///
/// Covers: CC-1.5b
#[test]
fn old_segments_do_not_pass_after_a_normal_close() {
    let mut d = Dialogue::established();
    let request = segment("A", 1, 1).payload(100);
    let reply = segment("A", 1, 101).payload(200);
    d.client(request).unwrap();
    d.server(reply).unwrap();
    d.client(segment("FA", 101, 201)).unwrap();
    d.server(segment("FA", 201, 102)).unwrap();
    assert_eq!(d.client(segment("A", 102, 202)), Ok(Moved { from: Closing, to: Closed }));
    assert_eq!(d.client(request), DROPPED_STATE);
    assert_eq!(d.server(reply), DROPPED_STATE);
    assert_eq!(d.server(segment("SA", 0, 1)), DROPPED_STATE);
    assert_eq!(d.client(segment("A", 102, 202)), DROPPED_STATE);
}

/// Both FINs crossed, both came again, and only then were they acknowledged: the acknowledgements
/// were dropped.
#[test]
fn acknowledgements_of_fins_that_crossed_twice_pass() {
    let mut d = Dialogue::established();
    d.client(segment("FA", 1, 1)).unwrap();
    d.server(segment("FA", 1, 1)).unwrap();
    d.client(segment("FA", 1, 2)).unwrap();
    assert_eq!(d.server(segment("FA", 1, 2)), Ok(Moved { from: Closing, to: Closed }));
    assert_eq!(d.client(segment("A", 2, 2)), Ok(NoRefresh));
    assert_eq!(d.server(segment("A", 2, 2)), Ok(NoRefresh));
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

/// Only the SYN-ACK that was sent is one that may come again.
#[test]
fn only_the_same_syn_ack_comes_again_after_a_rst() {
    let mut d = Dialogue::established();
    d.server(segment("A", 1, 1).payload(100)).unwrap();
    d.client(segment("R", 1, 0)).unwrap();
    assert_eq!(d.server(segment("SA", 50, 1)), DROPPED_STATE);
    assert_eq!(d.server(segment("SA", 0, 1)), Ok(NoRefresh));
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
