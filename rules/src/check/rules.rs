//! Rules.

use std::collections::HashMap;

use crate::document::{ActionText, RuleText};
use crate::limits::RULES;
use crate::policy::RulePolicy;
use crate::read::At;
use crate::{Action, LogMode};

use super::Checker;

impl Checker<'_, '_> {
    pub(super) fn check_rules(&mut self, rules: Vec<RuleText>) -> Vec<RulePolicy> {
        let beyond = rules.get(RULES).map(|rule| rule.name.span);
        self.check_count(beyond, "rules", rules.len(), RULES);
        let mut names = HashMap::new();
        let mut checked = Vec::with_capacity(rules.len());
        for rule in rules {
            self.check_name(&rule.name, &[]);
            self.check_unique(&mut names, &rule.name, "rule");
            checked.extend(self.check_rule(rule));
        }
        checked
    }

    fn check_rule(&mut self, rule: RuleText) -> Option<RulePolicy> {
        let from = self.check_zone_list(&rule.from);
        let to = self.check_zone_list(&rule.to);
        let source = self.check_address_match(rule.source.as_ref());
        let destination = self.check_address_match(rule.destination.as_ref());
        let service = self.check_service_match(rule.service.as_ref());
        let action = match rule.action {
            ActionText::Allow => Some(Action::Allow),
            ActionText::Drop => Some(Action::Drop),
            ActionText::Reject => Some(Action::Reject),
            ActionText::Monitor => None,
        };
        let timeouts = self.check_rule_timeouts(rule.timeouts, action);
        let is_strict = self.check_strict(rule.strict, action);
        let meta = self.check_meta(rule.meta);
        Some(RulePolicy {
            place: self.place(rule.name.span),
            name: rule.name.value,
            from: from?,
            to: to?,
            source: source?,
            destination: destination?,
            service: service?,
            action,
            log: rule.log.map_or(LogMode::None, LogMode::from),
            timeouts,
            is_strict,
            meta,
        })
    }

    fn check_strict(&mut self, text: Option<At<bool>>, action: Option<Action>) -> bool {
        let Some(At { value, span }) = text else { return false };
        if value && action != Some(Action::Allow) {
            let help = "only a rule that allows admits flows: leave `strict` out";
            self.problems.error_with(span, "`strict` has no effect here", help);
        }
        value
    }
}
