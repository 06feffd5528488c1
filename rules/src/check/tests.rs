//! The tests that a policy carries: their form, not yet their outcome.

use std::collections::{BTreeSet, HashMap};

use crate::Action;
use crate::document::TestText;
use crate::limits::TESTS;
use crate::notation::PacketText;
use crate::policy::{NatPolicy, RulePolicy, TestPolicy};
use crate::read::{At, OneOrMany};
use crate::ruleset::default_name;

use super::Checker;

impl Checker<'_, '_> {
    pub(super) fn check_tests(
        &mut self,
        tests: Vec<TestText>,
        rules: &[RulePolicy],
        nat: &[NatPolicy],
    ) -> Vec<TestPolicy> {
        if tests.is_empty() {
            return Vec::new();
        }
        let beyond = tests.get(TESTS).map(|test| test.name.span);
        self.check_count(beyond, "tests", tests.len(), TESTS);
        // A rule with an error has no name here; its tests would only repeat that.
        let rule_names = (!self.problems.any_errors()).then(|| self.rule_names(rules));
        let nat_names: BTreeSet<&str> = nat.iter().map(|rule| rule.name.as_str()).collect();
        let mut names = HashMap::new();
        let mut checked = Vec::new();
        for test in tests {
            self.check_unique(&mut names, &test.name, "test");
            let place = self.place(test.name.span);
            let packet = self.check_packet(&test.packet);
            if let (Some(rule), Some(known)) = (&test.rule, &rule_names)
                && !known.contains(&rule.value)
            {
                self.unknown(rule.span, "rule", &rule.value, known.iter().map(String::as_str));
            }
            let expected_nat = test.nat.map(|list| {
                if rule_names.is_some() {
                    self.check_nat_names(&list, &nat_names);
                }
                list.items.into_iter().map(|item| item.value).collect()
            });
            let (Some(name), Some(packet)) = (self.check_text(test.name), packet) else { continue };
            checked.push(TestPolicy {
                name,
                place,
                packet,
                expect: Action::from(test.expect),
                rule: test.rule.map(|rule| rule.value),
                nat: expected_nat,
            });
        }
        checked
    }

    /// Of the rules that can decide, defaults included.
    fn rule_names(&self, rules: &[RulePolicy]) -> BTreeSet<String> {
        let deciding = rules.iter().filter(|rule| rule.action.is_some());
        let pairs = self.zones.iter().flat_map(|from| self.zones.iter().map(move |to| (from, to)));
        let defaults = pairs.map(|(from, to)| default_name(&from.name, &to.name));
        deciding.map(|rule| rule.name.clone()).chain(defaults).collect()
    }

    fn check_nat_names(&mut self, list: &OneOrMany, known: &BTreeSet<&str>) {
        for item in &list.items {
            if !known.contains(item.value.as_str()) {
                self.unknown(item.span, "NAT rule", &item.value, known.iter().copied());
            }
        }
    }

    fn check_packet(&mut self, text: &At<String>) -> Option<PacketText> {
        let packet: PacketText = match text.value.parse() {
            Ok(packet) => packet,
            Err(error) => {
                let crate::ParsePacketError { offset, message } = error;
                let help = "as in `tcp 198.51.100.9:40000 -> 10.1.0.10:443 in internet`";
                self.problems.error_with(self.source.within(text.span, offset), message, help);
                return None;
            }
        };
        let interfaces = self.zones.iter().flat_map(|zone| &zone.interfaces);
        let is_interface = interfaces.into_iter().any(|interface| *interface == packet.from);
        let at = |value: &str| At { value: value.to_owned(), span: text.span };
        if !is_interface {
            self.zone_named(&at(&packet.from))?;
        }
        if let Some(out) = &packet.out {
            self.zone_named(&at(out))?;
        }
        Some(packet)
    }
}
