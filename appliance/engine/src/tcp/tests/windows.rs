//! What the windows admit.

use super::*;

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

/// Each side's segments are held against the other's window, each side's acknowledgements against its
/// own.
///
/// Covers: 5961-5
#[test]
fn windows_of_unlike_sizes_are_not_mixed_up() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).window(1_000)));
    d.server(segment("SA", 0, 1).window(60_000)).unwrap();
    d.client(segment("A", 1, 1).window(1_000)).unwrap();
    for n in 0..200 {
        d.client(segment("A", 1 + n * 1_000, 1 + n * 1_000).window(1_000).payload(1_000)).unwrap();
        d.server(segment("A", 1 + n * 1_000, 1 + (n + 1) * 1_000).window(60_000).payload(1_000))
            .unwrap();
    }
    // Both have sent 200,000 bytes; all of the client's are acknowledged.
    let client = |sequence, ack| segment("A", sequence, ack).window(1_000);
    let server = |sequence, ack| segment("A", sequence, ack).window(60_000);
    for (segment, passes) in [
        (client(140_001, 200_001), true),
        (client(139_998, 200_001), false),
        (client(200_001, 198_001), true),
        (client(200_001, 198_000), false),
        (client(260_001, 200_001), true),
        (client(260_001, 200_001).payload(1), false),
    ] {
        assert_eq!(Dialogue(d.0).client(segment).is_ok(), passes, "client: {segment:?}");
    }
    for (segment, passes) in [
        (server(199_001, 200_001), true),
        (server(198_998, 200_001), false),
        (server(200_001, 140_001), true),
        (server(200_001, 140_000), false),
        (server(200_001, 200_001).payload(1), false),
    ] {
        assert_eq!(Dialogue(d.0).server(segment).is_ok(), passes, "server: {segment:?}");
    }
}

/// RFC 7323 section 2.2, also when the SYN-ACK comes again.
#[test]
fn window_of_a_repeated_syn_ack_is_not_scaled() {
    let mut d = Dialogue(TcpTracker::open(&segment("S", C, 0).scale(7)));
    d.server(segment("SA", 0, 1).scale(7)).unwrap();
    assert_eq!(d.server(segment("SA", 0, 1).scale(7)), Ok(Continue));
    d.client(segment("A", 1, 1)).unwrap();
    assert_eq!(d.client(segment("A", 10_001, 1).payload(1)), DROPPED_WINDOW);
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
