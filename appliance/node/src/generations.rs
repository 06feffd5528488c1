//! The names of the last generations: ids in events and flows are read in the rule set that they were
//! decided by, which may have been replaced since. What decides is freed with the rule set.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use gabion_engine::Generation;
use gabion_rules::{NatId, Rule, RuleId, RuleSet, ZoneId};

/// How many generations can still be read. Live flows are asked again under each new one, so
/// this only has to cover what is under way to the log.
const GENERATIONS_KEPT: usize = 16;
/// How many rules' names all generations but the last two may hold together: 16 generations of a
/// hundred thousand rules would take 90 MB.
const NAMES_KEPT: usize = 1 << 18;

/// Shared by whoever has to name rules.
#[derive(Debug, Clone, Default)]
pub struct Generations(Arc<Mutex<VecDeque<Kept>>>);

type Kept = (Generation, Arc<NamesKept>);

#[derive(Debug)]
struct NamesKept {
    rules: Arc<[Rule]>,
    zones: Box<[String]>,
    nat: Box<[String]>,
}

impl Generations {
    /// To be called before the engine is told, so that no event comes before its names.
    pub fn remember(&self, generation: Generation, rules: &RuleSet) {
        let names = NamesKept {
            rules: rules.shared_rules(),
            zones: rules.zones().iter().map(|zone| zone.name.clone()).collect(),
            nat: rules.nat_rules().iter().map(|rule| rule.name().to_owned()).collect(),
        };
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((generation, Arc::new(names)));
        forget(&mut kept, NAMES_KEPT);
    }

    /// The names of a generation.
    pub fn names(&self, generation: Generation) -> Names {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rev().find(|(kept, _)| *kept == generation);
        Names(found.map(|(_, names)| Arc::clone(names)))
    }
}

/// Drops the oldest names. Those of the last two generations stay: events of the one before are under
/// way when the next comes.
fn forget(kept: &mut VecDeque<Kept>, most_names: usize) {
    let mut names: usize = kept.iter().map(|(_, names)| names.rules.len()).sum();
    while kept.len() > GENERATIONS_KEPT || (kept.len() > 2 && names > most_names) {
        let Some((_, oldest)) = kept.pop_front() else { return };
        names -= oldest.rules.len();
    }
}

/// Names of one rule set; what has been forgotten is shown by number.
#[derive(Debug, Clone)]
pub struct Names(Option<Arc<NamesKept>>);

impl Names {
    pub fn rule(&self, id: RuleId) -> String {
        let rule = usize::try_from(id.0).ok().and_then(|index| self.rules().get(index));
        rule.map_or_else(|| format!("#{}", id.0), |rule| rule.name.clone())
    }

    /// Every rule, indexed by its id; none when the rule set has been forgotten.
    pub fn rules(&self) -> &[Rule] {
        self.0.as_ref().map_or(&[], |names| &names.rules)
    }

    pub fn zone(&self, id: ZoneId) -> String {
        let zone = self.0.as_ref().and_then(|names| names.zones.get(usize::from(id.0)));
        zone.cloned().unwrap_or_else(|| format!("#{}", id.0))
    }

    pub fn nat(&self, id: NatId) -> String {
        let name = self.0.as_ref().and_then(|names| names.nat.get(usize::from(id.0)));
        name.cloned().unwrap_or_else(|| format!("#{}", id.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn rule_set(name: &str) -> Arc<RuleSet> {
        let text = format!(
            "apiVersion: gabion/v1\nzones: {{ {name}-zone: {{ interfaces: [a] }} }}\nrules: [{{ name: {name}-rule, from: any, to: any, action: allow }}]\n",
        );
        gabion_rules::load("test", &text, None).unwrap().rule_set
    }

    #[test]
    fn names_outlive_the_rule_set_they_came_from() {
        let generations = Generations::default();
        let old = rule_set("old");
        let watch = Arc::downgrade(&old);
        generations.remember(Generation(1), &old);
        generations.remember(Generation(2), &rule_set("new"));
        drop(old);
        assert!(watch.upgrade().is_none(), "the rule set is kept");
        let names = generations.names(Generation(1));
        assert_eq!(names.rule(RuleId(0)), "old-rule");
        assert_eq!(names.rule(RuleId(1)), "default:old-zone->old-zone");
        assert_eq!(names.zone(ZoneId(0)), "old-zone");
        assert_eq!(generations.names(Generation(2)).rule(RuleId(0)), "new-rule");
    }

    #[test]
    fn many_names_are_kept_for_few_generations_but_for_two_at_least() {
        let generations = Generations::default();
        let rules = rule_set("a");
        (0..6).for_each(|number| generations.remember(Generation(number), &rules));
        let mut kept = generations.0.lock().unwrap();
        let each = rules.rules().len();
        for (most_names, expected) in [(6 * each, 6), (5 * each - 1, 4), (3 * each, 3), (0, 2)] {
            forget(&mut kept, most_names);
            assert_eq!(kept.len(), expected, "{most_names} names");
        }
        assert_eq!(kept.back().unwrap().0, Generation(5));
    }

    #[test]
    fn the_oldest_names_are_forgotten_and_shown_by_number() {
        let generations = Generations::default();
        let rules = rule_set("a");
        (0..=GENERATIONS_KEPT as u64).for_each(|n| generations.remember(Generation(n), &rules));
        let names = generations.names(Generation(0));
        assert_eq!((names.rule(RuleId(0)), names.zone(ZoneId(7))), ("#0".into(), "#7".into()));
        assert!(names.rules().is_empty());
        assert_eq!(generations.names(Generation(1)).rule(RuleId(0)), "a-rule");
    }
}
