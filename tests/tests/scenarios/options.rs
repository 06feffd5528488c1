//! IPv4 options under a rule that permits everything (RFC 7126): one row for each.

use gabion_engine::build;

use super::ALLOW_ALL;
use super::dialogue::Dialogue;

fn with(options: &[u8]) -> Vec<u8> {
    build::udp().from("198.51.100.9:1025").to("10.1.0.10:53").options(options).frame()
}

#[track_caller]
fn dropped(dialogue: &mut Dialogue, name: &str, options: &[u8]) {
    println!("{name}");
    dialogue.step("ext", &with(options), &[], &["drop:ip-option"]);
}

/// Covers: 7126-drop, 7126-router-alert, 7126-policy, 7126-unknown, CC-1.6h
#[test]
fn every_option_but_padding_is_dropped_and_counted() {
    #[rustfmt::skip]
    let options: &[(&str, u8, u8)] = &[
        // name, type, length
        ("record route",                7, 7),
        ("probe MTU",                  11, 4),
        ("reply MTU",                  12, 4),
        ("Quick-Start",                25, 8),
        ("experiment",                 30, 4),
        ("timestamp",                  68, 12),
        ("traceroute",                 82, 12),
        ("experiment",                 94, 4),
        ("security",                  130, 11),
        ("loose source route",        131, 7),
        ("extended security",         133, 4),
        ("commercial security",       134, 10),
        ("stream identifier",         136, 4),
        ("strict source route",       137, 7),
        ("experimental access control", 142, 4),
        ("IMI traffic descriptor",    144, 4),
        ("extended internet protocol", 145, 4),
        ("address extension",         147, 10),
        ("router alert",              148, 4),
        ("selective directed broadcast", 149, 6),
        ("dynamic packet state",      151, 4),
        ("upstream multicast",        152, 4),
        ("experiment",                158, 4),
        ("experimental flow control", 205, 4),
        ("experiment",                222, 4),
    ];
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for (name, kind, length) in options {
        let mut option = vec![*kind, *length];
        option.resize(usize::from(*length), 4);
        dropped(&mut dialogue, name, &option);
        dropped(&mut dialogue, name, &[&[1, 1, 1], &option[..]].concat());
    }
    for unknown in (2..=u8::MAX).filter(|kind| options.iter().all(|(_, known, _)| known != kind)) {
        dropped(&mut dialogue, "unknown", &[unknown, 4, 0, 0]);
    }
    assert_eq!(dialogue.flows(), [""; 0]);
}

/// Covers: 7126-malformed
#[test]
fn an_option_with_an_impossible_length_drops_the_packet() {
    let mut dialogue = Dialogue::new(ALLOW_ALL);
    for kind in [7, 68, 131, 137, 148, 200] {
        for length in [0, 1, 41, 200, 255] {
            dropped(&mut dialogue, "length", &[kind, length, 4, 0]);
        }
        // The header ends where the length should be.
        dropped(&mut dialogue, "cut off", &[1, 1, 1, kind]);
    }
}

/// Covers: 7126-pass
#[test]
fn padding_passes_as_it_came() {
    for options in [&[1; 4][..], &[1; 40], &[0; 4], &[0; 40], &[1, 1, 0, 0, 131, 3, 4, 0]] {
        let mut dialogue = Dialogue::new(ALLOW_ALL);
        dialogue.send("ext", &with(options));
        assert_eq!(dialogue.left(), ["int: udp 198.51.100.9:1025 > 10.1.0.10:53 +0 ttl 63"]);
        let (_, bytes) = &dialogue.sent[0];
        assert_eq!(bytes[14 + 20..14 + 20 + options.len()], *options);
    }
}
