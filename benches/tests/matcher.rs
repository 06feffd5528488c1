//! The rule set that is in force against asking the rules one after the other.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use gabion_benches::rulesets::{
    Class, Dice, Family, Hostile, Popularity, Rule, Service, boundaries, first_match, generate,
    hits, policy_text,
};
use gabion_rules::{Query, RuleSet};

fn compiled(rules: &[Rule]) -> Arc<RuleSet> {
    let loaded = gabion_rules::load("oracle.yaml", &policy_text(rules), None);
    loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).rule_set
}

/// Which rule decides a packet; `None` for a default.
fn decide(rule_set: &RuleSet, query: &Query) -> Option<usize> {
    let decision = rule_set.decide(query, &mut |_| panic!("no rule monitors"));
    let name = &rule_set.rules()[decision.rule.0 as usize].name;
    name.strip_prefix('r').map(|number| number.parse().unwrap())
}

/// Asks both; returns how many different rules decided.
fn compare<'q>(what: &str, rules: &[Rule], queries: impl IntoIterator<Item = &'q Query>) -> usize {
    let rule_set = compiled(rules);
    let mut deciding = HashSet::new();
    for query in queries {
        let expected = first_match(rules, query);
        assert_eq!(decide(&rule_set, query), expected, "{what}: {query:?}");
        deciding.extend(expected);
    }
    deciding.len()
}

fn all_boundaries(rules: &[Rule], seed: u64) -> Vec<Query> {
    let mut dice = Dice::new(seed);
    rules.iter().flat_map(|rule| boundaries(rule, &mut dice)).collect()
}

/// Covers: CC-1.8
#[test]
fn every_end_of_every_range_is_decided_by_the_first_rule_that_holds_it() {
    for class in Class::ALL {
        for (family, seed) in [(Family::V4, 1), (Family::V6, 2)] {
            let rules = generate(class, family, 1_500, seed);
            compare(class.label(), &rules, &all_boundaries(&rules, seed));
        }
    }
}

/// Covers: CC-1.8
#[test]
fn families_do_not_mix() {
    let mut rules = generate(Class::Acl, Family::V4, 700, 3);
    let other = generate(Class::Fw, Family::V6, 700, 4);
    for (at, rule) in other.into_iter().enumerate() {
        rules.insert(at * 2, rule);
    }
    compare("both families", &rules, &all_boundaries(&rules, 5));
}

/// Covers: CC-1.8
#[test]
fn a_hundred_thousand_rules_decide_as_one_after_the_other() {
    for class in Class::ALL {
        let rules = generate(class, Family::V4, 100_000, 7);
        let mut dice = Dice::new(8);
        let mut queries = hits(&rules, Popularity::Uniform, 1_500, 9);
        queries.extend(hits(&rules, Popularity::Zipf, 500, 10));
        for _ in 0..100 {
            let rule = &rules[dice.below(rules.len() as u64) as usize];
            queries.extend(boundaries(rule, &mut dice));
        }
        let deciding = compare(class.label(), &rules, &queries);
        assert!(deciding > 500, "{}: only {deciding} rules decided", class.label());
    }
}

/// Covers: 3.10, CC-1.8
#[test]
fn rule_sets_that_break_classifiers_are_decided_right() {
    for hostile in Hostile::ALL {
        let count = if hostile == Hostile::Lists { 150 } else { 1_500 };
        let rules = hostile.generate(count, 11);
        let queries = all_boundaries(&rules, 12);
        let step = if hostile == Hostile::Lists { 7 } else { 1 };
        compare(hostile.label(), &rules, queries.iter().step_by(step));
    }
}

/// Covers: 3.10
#[test]
fn no_rule_set_takes_memory_out_of_proportion() {
    // A box is 32 bytes, copies and bits for each field included some 500.
    const BYTES_PER_BOX: usize = 1_024;
    for hostile in Hostile::ALL {
        let (count, boxes) = if hostile == Hostile::Lists { (300, 30_000) } else { (6_000, 6_000) };
        let bytes = compiled(&hostile.generate(count, 16)).matcher_bytes();
        assert!(bytes <= boxes * BYTES_PER_BOX, "{}: {bytes} bytes", hostile.label());
    }
}

/// CVE-2026-4748: rules that differ in a range only were taken for duplicates, and lost.
///
/// Covers: 3.8
#[test]
fn rules_that_differ_in_one_range_only_all_take_effect() {
    let full = (0, u16::MAX);
    let base = generate(Class::Ipc, Family::V4, 400, 13);
    let mut dice = Dice::new(14);
    for field in 0..3 {
        // Each range is longer than all above it, so that each has packets of its own.
        let rules: Vec<Rule> = (0..2_000_u16)
            .map(|step| {
                let rule = base.iter().find(|rule| rule.source.len() + rule.destination.len() == 2);
                let service = Service::tcp(full, (80, 80));
                let mut rule = Rule { service, ..rule.unwrap().clone() };
                match field {
                    0 => rule.service = Service::tcp(full, (1_000, 1_000 + step)),
                    1 => rule.service = Service::tcp((1_000, 1_000 + step), (80, 80)),
                    _ => rule.source[0].last = rule.source[0].first + u128::from(step),
                }
                rule
            })
            .collect();
        let deciding = compare("ranges", &rules, &all_boundaries(&rules, dice.next()));
        assert_eq!(deciding, rules.len(), "field {field}");
    }
}

/// Covers: 3.8
#[test]
fn every_rule_that_no_other_hides_takes_effect() {
    let rules = Hostile::Ports.generate(400, 15);
    let rule_set = compiled(&rules);
    assert_eq!(rule_set.rules().len(), rules.len() + 4);
    for (at, rule) in rules.iter().enumerate() {
        // Alone, in the same place: nothing of it is lost to its neighbours.
        let alone = compiled(std::slice::from_ref(rule));
        for query in boundaries(rule, &mut Dice::new(at as u64)) {
            let above = first_match(&rules[..at], &query);
            let expected = above.or_else(|| decide(&alone, &query).map(|_| at));
            let found = decide(&rule_set, &query).filter(|found| *found <= at);
            assert_eq!(found, expected, "{query:?}");
        }
    }
}
