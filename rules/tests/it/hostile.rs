//! Texts that nobody would write. Whatever comes in, an answer comes out.

use gabion_rules::{Diagnostics, limits, load};
use proptest::prelude::*;

const EXAMPLES: [&str; 4] = [
    include_str!("golden/example.in.yaml"),
    include_str!("golden/block-style.in.yaml"),
    include_str!("golden/nat.in.yaml"),
    include_str!("golden/bad-anchors.in.yaml"),
];

/// What a text is changed by: words of YAML and of the language.
const PIECES: [&str; 30] = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ": ",
    ",",
    "- ",
    "\n",
    "  ",
    "\t",
    "&a ",
    "*a",
    "!t ",
    "!!str ",
    "|\n",
    ">\n",
    "\"",
    "'",
    "#",
    "%",
    "?",
    "---\n",
    "any",
    "self",
    "tcp/443",
    "10.0.0.0/8",
    "\u{feff}",
    "é",
    "\0",
];

fn load_any(text: &str) -> Result<(), Diagnostics> {
    let today = Some(time::macros::date!(2027 - 05 - 01));
    let loaded = load("hostile.yaml", text, today)?;
    // What is accepted can be printed and is accepted again.
    let again = load("hostile.yaml", &loaded.policy.print(), today)?;
    assert_eq!(again.policy, loaded.policy, "{text}");
    Ok(())
}

/// Every problem stands somewhere in the text.
fn check(text: &str) {
    if let Err(diagnostics) = load_any(text) {
        let lines = text.split('\n').count();
        assert!(diagnostics.first().is_some());
        for problem in diagnostics.iter() {
            assert!((1..=lines).contains(&(problem.line as usize)), "{problem}\n{text}");
            assert!(problem.column >= 1, "{problem}\n{text}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_pieces_have_an_answer(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..60)) {
        check(&format!("apiVersion: gabion/v1\n{}", pieces.concat()));
    }

    #[test]
    fn changed_examples_have_an_answer(
        example in prop::sample::select(&EXAMPLES[..]),
        changes in prop::collection::vec(
            (any::<prop::sample::Index>(), 0_usize..9, prop::sample::select(&PIECES[..])), 1..4,
        ),
    ) {
        let mut text: Vec<char> = example.chars().collect();
        for (at, removed, piece) in changes {
            let at = at.index(text.len());
            let end = (at + removed).min(text.len());
            text.splice(at..end, piece.chars());
        }
        check(&text.iter().collect::<String>());
    }
}

const HEAD: &str = "apiVersion: gabion/v1\nzones:\n  a: { interfaces: [x] }\n";

fn first_error(text: &str) -> String {
    load("p", text, None).unwrap_err().first().unwrap().to_string()
}

#[test]
fn a_text_over_the_limit_is_not_read() {
    let text = " ".repeat(limits::POLICY_BYTES + 1);
    assert_eq!(first_error(&text), "p:1:1: 33554433 bytes of policy, the limit is 33554432");
}

#[test]
fn too_many_zones_are_counted() {
    let zones: String =
        (0..=limits::ZONES).map(|i| format!("  z{i}: {{ interfaces: [i{i}] }}\n")).collect();
    let error = first_error(&format!("apiVersion: gabion/v1\nzones:\n{zones}"));
    assert_eq!(error, "p:67:3: 65 zones, the limit is 64");
}

/// Sixteen layers of two names each would be 65,536 copies if they were put in place one by one.
#[test]
fn objects_that_multiply_stay_small() {
    let layers: String =
        (1..15).map(|i| format!("    o{i}: [o{0}, o{0}, o{0}, o{0}]\n", i - 1)).collect();
    let text = format!(
        "{HEAD}objects:\n  addresses:\n    o0: [10.0.0.1, 10.0.0.3]\n{layers}rules:\n  - {{ name: r, from: a, \
         to: a, source: o14, action: allow }}\n"
    );
    load("p", &text, None).unwrap();
}

#[test]
fn only_so_many_problems_are_shown() {
    let rules: String = (0..500)
        .map(|i| format!("  - {{ name: r{i}, from: b, to: a, action: allow }}\n"))
        .collect();
    let diagnostics = load("p", &format!("{HEAD}rules:\n{rules}"), None).unwrap_err();
    assert_eq!(diagnostics.0.len(), limits::DIAGNOSTICS + 1);
    assert_eq!(diagnostics.0.last().unwrap().message, "400 more problems are not shown");
}

/// `[many, x]` is a set of its own in each rule, unlike `many` alone.
#[test]
fn rules_cannot_multiply_objects_beyond_the_limit() {
    let many: Vec<String> = (0..60_000_u32)
        .map(|i| format!("10.{}.{}.{}", i >> 15, i >> 7 & 255, i << 1 & 255))
        .collect();
    let rules = |source: &str| -> String {
        let rule =
            |i| format!("  - {{ name: r{i}, from: a, to: a, source: {source}, action: allow }}\n");
        (0..80).map(rule).collect()
    };
    let head = format!("{HEAD}objects:\n  addresses:\n    many: [{}]\nrules:\n", many.join(","));
    load("p", &format!("{head}{}", rules("many")), None).unwrap();
    let error = first_error(&format!("{head}{}", rules("[many, 192.0.2.1]")));
    let message = "the rules up to here hold over 4000000 addresses and services, the limit";
    assert_eq!(error, format!("p:74:13: {message}"));
}

#[test]
fn rules_cannot_fill_more_zone_pairs_than_the_limit() {
    let names: Vec<String> = (0..limits::ZONES).map(|i| format!("z{i}")).collect();
    let zones: String = names.iter().map(|z| format!("  {z}: {{ interfaces: [{z}] }}\n")).collect();
    let all = names.join(",");
    let rules: String = (0..1_960)
        .map(|i| format!("- {{ name: r{i}, from: [{all}], to: [{all}], action: allow }}\n"))
        .collect();
    let error = first_error(&format!("apiVersion: gabion/v1\nzones:\n{zones}rules:\n{rules}"));
    assert!(error.ends_with("fill over 8000000 places of zone pairs, the limit"), "{error}");
}

/// Each of these took minutes when every wrong word was compared with every name.
#[test]
fn many_wrong_words_are_answered_at_once() {
    let objects: String =
        (0..3_000).map(|i| format!("    object-number-{i}: 10.0.0.1\n")).collect();
    let rules: String = (0..3_000)
        .map(|i| {
            format!(
                "- {{ name: r{i}, from: a, to: a, source: object-numbre-{i}, action: allow }}\n"
            )
        })
        .collect();
    load("p", &format!("{HEAD}objects:\n  addresses:\n{objects}rules:\n{rules}"), None)
        .unwrap_err();
    let keys: String = (0..20_000).map(|i| format!("k{i}: 1, ")).collect();
    load("p", &format!("{HEAD}rules:\n- {{ {keys} }}\n"), None).unwrap_err();
    let long = "x".repeat(1 << 20);
    let diagnostics = load("p", &format!("{HEAD}rules:\n- {{ name: r, from: {long} }}\n"), None);
    assert!(diagnostics.unwrap_err().to_string().len() < 5_000);
}
