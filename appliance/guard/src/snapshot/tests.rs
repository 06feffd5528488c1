#![allow(clippy::unwrap_used)]

use super::*;
use crate::configuration::Configuration;
use crate::encode;
use crate::rules::{self, Match, Verdict};

fn chains() -> Vec<rules::Chain> {
    rules::chains(&Configuration::new(["eth1", "eth2"], [4480, 4481]).unwrap())
}

fn snapshot(chains: &[rules::Chain]) -> Snapshot {
    Snapshot::gather(encode::replacement(chains).pages().flat_map(Message::all))
}

#[test]
fn a_batch_says_what_was_put_in() {
    let snapshot = snapshot(&chains());
    assert_eq!(snapshot.flags, Some(0));
    for chain in chains() {
        let read = &snapshot.chains[chain.name];
        let labels: Vec<_> = read.rules.iter().map(|r| r.label.as_str()).collect();
        let expected: Vec<_> = chain.rules.iter().map(|r| r.label.as_str()).collect();
        assert_eq!(labels, expected);
        assert_eq!(read.base.priority, chain.hook.map(|_| (-450i32).cast_unsigned()));
        assert_eq!(read.base.kind.is_some(), chain.hook.is_some());
    }
}

#[test]
fn the_held_table_is_another_that_has_an_owner() {
    let held = encode::held(&chains());
    assert_eq!(Snapshot::gather(held.pages().flat_map(Message::all)).flags, None);
    let made = libc::NFT_MSG_NEWTABLE as u16;
    let tables = held.pages().flat_map(Message::all).filter(|m| m.kind & 0xff == made);
    let flags = tables.flat_map(|m| m.inet_attributes().unwrap()).filter(|a| a.kind == 2);
    assert_eq!(flags.map(|a| a.u32()).collect::<Vec<_>>(), [Some(2), Some(2)]);
}

#[test]
fn the_same_rules_are_the_same() {
    assert_eq!(snapshot(&chains()).difference(&snapshot(&chains())), None);
}

#[test]
fn nothing_is_not_the_table() {
    let none = Snapshot::default();
    assert_eq!(snapshot(&chains()).difference(&none), Some(Difference::NoTable));
}

#[test]
fn a_dormant_table_is_not_the_table() {
    let mut dormant = snapshot(&chains());
    dormant.flags = Some(1);
    assert_eq!(snapshot(&chains()).difference(&dormant), Some(Difference::TableFlags));
}

/// Each way of changing one thing is seen, and named.
#[test]
fn any_change_is_a_difference() {
    let rule = |chain: &str, label: &str| Difference::Rule {
        chain: chain.to_owned(),
        label: label.to_owned(),
    };
    let count = |theirs| Difference::RuleCount { chain: "from_data".to_owned(), ours: 6, theirs };
    type Change = fn(&mut Vec<rules::Chain>);
    let cases: [(Change, Difference); 9] = [
        (|c| drop(c.pop()), Difference::NoChain("output".to_owned())),
        (|c| c[2].hook = None, Difference::ChainHook("prerouting".to_owned())),
        (|c| c[3].hook = Some(rules::Hook::Output), Difference::ChainHook("forward".to_owned())),
        (|c| drop(c[0].rules.pop()), count(5)),
        (|c| c[0].rules.swap(1, 2), rule("from_data", "tcp 4480")),
        (|c| c[0].rules[5].verdict = Verdict::Accept, rule("from_data", "the rest")),
        (|c| c[2].rules[1].verdict = Verdict::Goto("to_data"), rule("prerouting", "from eth2")),
        (|c| c[1].rules[1].matches.push(Match::SourcePort(1)), rule("to_data", "tcp 4480")),
        (|c| c[1].rules[1].matches[1] = Match::DestinationPort(4480), rule("to_data", "tcp 4480")),
    ];
    for (change, expected) in cases {
        let mut changed = chains();
        change(&mut changed);
        assert_eq!(snapshot(&chains()).difference(&snapshot(&changed)), Some(expected));
    }
}

#[test]
fn a_chain_more_is_a_difference() {
    let mut more = chains();
    more.push(rules::Chain { name: "theirs", hook: None, rules: vec![] });
    let expected = Difference::ExtraChain("theirs".to_owned());
    assert_eq!(snapshot(&chains()).difference(&snapshot(&more)), Some(expected));
}
