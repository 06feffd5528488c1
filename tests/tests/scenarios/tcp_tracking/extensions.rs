//! What the node does not know of TCP it leaves to the endpoints, every bit of it.

use super::*;

/// Options that are unknown here, or known and not looked at, pass as they are in SYNs and in data.
/// Timestamps too: whether a segment is too old is the endpoint's to say (RFC 7323 section 5).
///
/// Covers: 2979-F, 2979-T, 3.12
#[test]
fn options_pass_untouched() {
    // TCP Fast Open with a cookie (RFC 7413), TCP-AO (RFC 5925), MD5 (RFC 2385), multipath (RFC 8684),
    // experimental (RFC 6994), a kind that nobody has.
    let options: [&[u8]; 7] = [
        &[34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1],
        &[34, 2, 1, 1],
        &[29, 16, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[19, 18, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 1],
        &[30, 12, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8],
        &[254, 4, 0xf9, 0x89],
        &[77, 6, 1, 2, 3, 4, 1, 0],
    ];
    for place in PLACES {
        for option in options {
            let mut talk = Conversation::at(place);
            talk.client_passes(|s| s.syn().tcp_options(option), 0, None);
            talk.server_passes(|s| s.syn().tcp_options(option), 0, Some(1));
            talk.client_passes(|s| s.tcp_options(option).payload(b"data"), 1, Some(1));
            talk.server_passes(|s| s.tcp_options(option), 1, Some(5));
        }
    }
    let mut talk = Conversation::at(TRANSLATED);
    talk.client_passes(|s| s.syn().timestamp(1_000, 0).sack_permitted(), 0, None);
    talk.server_passes(|s| s.syn().timestamp(9_000, 1_000), 0, Some(1));
    // The clock goes back: the endpoint drops this, not we.
    talk.client_passes(|s| s.timestamp(500, 9_000).payload(b"old"), 1, Some(1));
    // Selective acknowledgements, and duplicate ones (RFC 2883).
    let block = [1, 1, 5, 10, 0, 0, 0x13, 0x90, 0, 0, 0x13, 0xa0];
    talk.client_passes(|s| s.tcp_options(&block), 4, Some(1));
}

/// Data in SYN and SYN-ACK (RFC 9293, RFC 7413), taken whole, in part or not at all.
///
/// Covers: 3.12, 2979-T, 5382-2
#[test]
fn data_in_the_handshake_passes() {
    for place in PLACES {
        for taken in [0, 100, 500] {
            let mut talk = Conversation::at(place);
            talk.client_passes(|s| s.syn().payload(&[7; 500]), 0, None);
            let frame = talk.server(0, Some(502)).syn().frame();
            talk.is_dropped("int", &frame, "tcp-window");
            talk.server_passes(|s| s.syn().payload(&[8; 300]), 0, Some(1 + taken));
            talk.client_passes(|s| s.payload(&[7; 600]), 1 + taken, Some(301));
            talk.server_passes(|s| s, 301, Some(601 + taken));
            assert_eq!(talk.state(), "established");
        }
    }
}

/// Urgent data (RFC 6093), ECN (RFC 3168) and the reserved bits (RFC 3360) are the endpoints' matter.
///
/// Covers: 3.12, 2979-F, 2979-T
#[test]
fn urgent_data_ecn_and_reserved_bits_pass() {
    for place in PLACES {
        let mut talk = Conversation::at(place);
        // Octet 12: data offset and reserved bits; octet 13: CWR, ECE and the flags.
        talk.client_passes(|s| s.syn().lie_transport(13, &[0xc2]), 0, None);
        talk.server_passes(|s| s.syn().lie_transport(13, &[0x52]), 0, Some(1));
        talk.client_passes(|s| s.lie_transport(12, &[0x5f]), 1, Some(1));
        // URG, and a pointer far beyond the data.
        let urgent = |s: FrameBuilder| {
            s.payload(b"now").lie_transport(13, &[0x38, 0xfa, 0, 0, 0, 0xff, 0xff])
        };
        talk.client_passes(urgent, 1, Some(1));
        talk.server_passes(|s| s.lie_transport(13, &[0x50]), 1, Some(4));
        talk.server_passes(|s| s.rst().payload(b"why"), 1, Some(4));
        assert_eq!(talk.state(), "closed");
    }
}

/// Zero windows, probes of either kind, keep-alives with and without their byte, a whole window sent
/// again, overlapping and out-of-order segments.
///
/// Covers: 5382-2, 6092-31, 2979-T, 3.12
#[test]
fn everything_that_hosts_send_passes() {
    for place in PLACES {
        let mut talk = Conversation::established(place);
        let full = [5; 1_000];
        for at in 0..64 {
            talk.client_passes(|s| s.payload(&full), 1 + at * 1_000, Some(1));
        }
        talk.server_passes(|s| s.window(0), 1, Some(64_001));
        let frame = talk.client(64_001, Some(1)).payload(&[5; 2]).frame();
        talk.is_dropped("ext", &frame, "tcp-window");
        for _ in 0..3 {
            talk.client_passes(|s| s.payload(&[5]), 64_001, Some(1));
            talk.client_passes(|s| s, 64_000, Some(1));
            talk.server_passes(|s| s.window(0), 1, Some(64_001));
        }
        talk.server_passes(|s| s, 1, Some(64_002));
        // Out of order, the gap filled, all of it again, cut elsewhere.
        let pieces =
            [(65_402, 1_000), (64_002, 1_400), (64_002, 800), (64_802, 1_200), (65_000, 1_402)];
        for (at, length) in pieces {
            let data = vec![6; length];
            talk.client_passes(|s| s.payload(&data), at, Some(1));
        }
        talk.server_passes(|s| s, 1, Some(66_402));
        for payload in [&[][..], &[0]] {
            talk.client_passes(|s| s.payload(payload), 66_401, Some(1));
            talk.server_passes(|s| s, 1, Some(66_402));
            talk.server_passes(|s| s.payload(payload), 0, Some(66_402));
        }
        assert_eq!(talk.state(), "established");
    }
}
