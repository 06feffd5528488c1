//! Where the engine and Linux differ, why, and which is right.

use std::fmt::Write as _;

use super::{Difference, Stage};

/// Which side does what the sources ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Ours,
    Linux,
    /// Both are permitted.
    Either,
}

/// Differences of one cause.
#[derive(Debug, Clone, Copy)]
pub struct Class {
    pub name: &'static str,
    pub right: Right,
    pub why: &'static str,
    pub source: &'static str,
    pub holds: fn(&Difference<'_>) -> bool,
}

fn only_linux_passes(difference: &Difference<'_>) -> bool {
    difference.ours.passed.is_empty() && !difference.linux.passed.is_empty()
}

fn only_ours_passes(difference: &Difference<'_>) -> bool {
    !difference.ours.passed.is_empty() && difference.linux.passed.is_empty()
}

/// All that is known; the first that fits names a difference.
pub const CLASSES: &[Class] = &[
    Class {
        name: "a segment after the end of its connection, or behind its sender's FIN",
        right: Right::Ours,
        why: "Linux keeps a closed connection for ten seconds and more, and passes what fits its windows; here only \
              what ends may repeat (FIN, RST, their acknowledgements) goes through.",
        source: "CC FFW_RUL_EXT.1.5 (CC-1.5b)",
        holds: |d| {
            let over = d.stage == Stage::Reset || d.stage == Stage::Finished && d.what != "plain";
            over && refused_as_tcp(d)
        },
    },
    Class {
        name: "a word of the dead",
        right: Right::Either,
        why: "Linux forgets a connection that was refused with the RST; here it is kept for a while, so that a \
              repeated RST, or an error about the last segment, still finds its way.",
        source: "RFC 5382 REQ-5, RFC 7857 section 2.2",
        holds: |d| d.stage >= Stage::Finished && only_ours_passes(d),
    },
    Class {
        name: "the last ACK twice, without a FIN between",
        right: Right::Either,
        why: "The first has ended the connection; another passes when the FIN has been repeated, and answers nothing \
              before.",
        source: "CC FFW_RUL_EXT.1.5 (CC-1.5b)",
        holds: |d| {
            let odd = d.before.last().is_some_and(|what| *what != "plain");
            d.stage == Stage::Finished && odd && d.ours.verdict == "tcp-state" && refused_as_tcp(d)
        },
    },
    Class {
        name: "a segment from before the window",
        right: Right::Ours,
        why: "Linux takes what is older than any window for a repetition and passes it; it is too old to be one.",
        source: "RFC 5961 sections 3.2 and 5.2, RFC 9293 section 3.10.7.4",
        holds: |d| {
            matches!(d.what, "very old data" | "very old ACK" | "RST from before the window")
                && refused_as_tcp(d)
        },
    },
    Class {
        name: "a RST from beyond the window",
        right: Right::Ours,
        why: "Linux checks that a RST is not before what was acknowledged, and lets some pass that lie ahead of all \
              windows.",
        source: "RFC 5961 section 3.2",
        holds: |d| d.what == "RST outside the window" && refused_as_tcp(d),
    },
    Class {
        name: "a segment in the handshake that neither end takes",
        right: Right::Ours,
        why: "Before the SYN-ACK a host takes nothing but SYN and RST, and then nothing that does not acknowledge \
              the SYN; Linux ignores such segments, and passes what it ignores.",
        source: "RFC 9293 sections 3.10.7.3 and 3.10.7.4",
        holds: |d| d.stage == Stage::Handshake && refused_as_tcp(d),
    },
    Class {
        name: "a RST that acknowledges the SYN",
        right: Right::Either,
        why: "A host that still waits for the SYN-ACK looks at the acknowledgement of a RST alone, so it passes until \
              the handshake is over; it ends the connection only where its sequence number is exact too.",
        source: "RFC 9293 section 3.10.7.3",
        holds: |d| d.stage == Stage::Handshake && d.what.starts_with("RST") && only_ours_passes(d),
    },
    Class {
        name: "a SYN within a connection",
        right: Right::Ours,
        why: "It goes on to the host, whose challenge ACK finds out whether the peer has lost the connection; Linux \
              drops that of the replier.",
        source: "RFC 5961 section 4.2, RFC 9293 section 3.5.1",
        holds: |d| d.what == "SYN within the connection" && only_ours_passes(d),
    },
    Class {
        name: "a SYN-ACK that is none of the connection's",
        right: Right::Ours,
        why: "Neither the replier's first one again nor an answer to a SYN that has passed; Linux ignores it, and \
              passes what it ignores.",
        source: "RFC 5961 section 4.2",
        holds: |d| d.what == "SYN-ACK that is none of the connection's" && refused_as_tcp(d),
    },
    Class {
        name: "the second of two SYN-ACKs is the one that counts",
        right: Right::Ours,
        why: "A stateless server, or somebody before it, answers twice; the client's ACK tells which it took. Linux \
              holds on to the first.",
        source: "RFC 4987 section 3.6",
        holds: |d| {
            d.before.contains(&"SYN-ACK that is none of the connection's") && only_ours_passes(d)
        },
    },
    Class {
        name: "the answer to a SYN that has crossed the first",
        right: Right::Ours,
        why: "Both ends have begun at once; Linux keeps to the first SYN where an ACK came between.",
        source: "RFC 9293 section 3.5, figure 8",
        holds: |d| {
            d.what.starts_with("SYN-ACK")
                && d.before.contains(&"SYN within the connection")
                && only_ours_passes(d)
        },
    },
    Class {
        name: "a segment that begins in the window and ends behind it",
        right: Right::Ours,
        why: "Linux looks at where it begins, and lets it overrun by a window at most.",
        source: "RFC 9293 section 3.8.6",
        holds: |d| {
            matches!(d.what, "plain" | "urgent" | "RST in the window, not exact")
                && d.ours.verdict == "tcp-window"
                && only_linux_passes(d)
        },
    },
    Class {
        name: "an ICMP error about a segment that is not in flight",
        right: Right::Ours,
        why: "Linux does not look at the sequence number that is quoted.",
        source: "RFC 5927 section 4.1",
        holds: |d| {
            d.ours.verdict == "icmp-error-forged" && quotes(d, "tcp") && only_linux_passes(d)
        },
    },
    Class {
        name: "an MTU that the quoted packet fits into",
        right: Right::Ours,
        why: "Such a router had no reason to complain; hosts would shrink their segments for nothing.",
        source: "RFC 5927 section 7.2",
        holds: |d| {
            let announces =
                |text: &String| text.starts_with("error 0304") || text.starts_with("error 0200");
            d.ours.verdict == "icmp-error-forged" && d.linux.passed.iter().any(announces)
        },
    },
    Class {
        name: "an ICMP error that quotes less than eight bytes behind the IP header",
        right: Right::Ours,
        why: "Every router quotes so much; Linux is content with the ports.",
        source: "RFC 792, RFC 1812 section 4.3.2.3",
        holds: |d| {
            d.what.starts_with("error: quote cut")
                && d.ours.verdict == "icmp-error-forged"
                && only_linux_passes(d)
        },
    },
    Class {
        name: "source quench and redirects",
        right: Right::Ours,
        why: "The first is obsolete and an attack, the second is for the link that it is sent on.",
        source: "RFC 6633 section 4, RFC 1812 section 5.2.7.2",
        holds: |d| d.ours.verdict == "icmp-type" && only_linux_passes(d),
    },
    Class {
        name: "a lie that is the truth of another conversation",
        right: Right::Either,
        why: "The changed port is one that NAT has given to another flow with the same server.",
        source: "the test's own doing",
        holds: |d| d.what == "error: another source port inside" && only_ours_passes(d),
    },
    Class {
        name: "two flows that look alike to the server",
        right: Right::Either,
        why: "The published server has itself begun to speak with the client from the published port. Linux gives \
              the client another source port, which the server has not asked for; here the newcomer is refused \
              until the first flow is over.",
        source: "RFC 4787 leaves it open",
        holds: |d| {
            d.ours.verdict == "nat-conflict" && only_linux_passes(d) || linux_gives_another_port(d)
        },
    },
    Class {
        name: "fragments that leave as one packet",
        right: Right::Ours,
        why: "Linux sends in one piece what came in several, larger than any that it has seen; here fragments leave \
              as they came.",
        source: "RFC 8200 section 5, RFC 8900 section 3 (F-12)",
        holds: |d| {
            let pieces = |text: &String| text.ends_with(" in pieces");
            d.ours.passed.iter().any(pieces) && !d.linux.passed.iter().any(pieces)
        },
    },
    Class {
        name: "who is told that the hop limit has run out",
        right: Right::Either,
        why: "Linux routes before it translates back what it finds invalid, and then has no route for it; or looks at \
              the hop limit before it looks at the flow.",
        source: "RFC 1812 section 5.3.1",
        holds: |d| d.what == "hop limit 1" && d.ours.passed.is_empty() && d.linux.passed.is_empty(),
    },
];

fn refused_as_tcp(difference: &Difference<'_>) -> bool {
    matches!(difference.ours.verdict, "tcp-state" | "tcp-window" | "tcp-not-syn")
        && only_linux_passes(difference)
}

/// Both pass the same but for the source port, which stands behind the protocol and the address.
fn linux_gives_another_port(difference: &Difference<'_>) -> bool {
    let without = |passed: &[String]| -> Vec<String> {
        let words = passed.iter().flat_map(|text| text.split(' ').enumerate());
        words.filter(|(place, _)| *place != 2).map(|(_, word)| word.to_owned()).collect()
    };
    let (ours, linux) = (&difference.ours.passed, &difference.linux.passed);
    difference.what == "plain" && !ours.is_empty() && without(ours) == without(linux)
}

fn quotes(difference: &Difference<'_>, protocol: &str) -> bool {
    let about = format!("about [{protocol} ");
    difference.linux.passed.iter().any(|text| text.contains(&about))
}

/// The table in Markdown.
pub fn page() -> String {
    let mut page = String::from(
        "# Differences from Linux\n\n\
         Seeded conversations go through the engine and through nftables with conntrack (strict settings,\n\
         `nf_conntrack_tcp_loose=0`, `nf_conntrack_tcp_be_liberal=0`, reverse path filter), packet by packet.\n\
         Whatever became of a packet on one side and not on the other is in one of these classes, or the test\n\
         fails (docs/fuzzing.md).\n\n\
         | difference | right | why | source |\n|---|---|---|---|\n",
    );
    for Class { name, right, why, source, .. } in CLASSES {
        let right = match right {
            Right::Ours => "Gabion",
            Right::Linux => "Linux",
            Right::Either => "either",
        };
        let _ = writeln!(page, "| {name} | {right} | {why} | {source} |");
    }
    page.push_str(
        "\nThis page is written from `fuzz/src/differential/classes.rs`:\n\
         `GABION_BLESS=1 cargo test -p gabion-fuzz --test differential`.\n",
    );
    page
}
