//! The rule sets of the last generations: ids in events and flows are read in the rule set that they
//! were decided by, which may have been replaced since.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use gabion_engine::Generation;
use gabion_rules::{NatId, Rule, RuleId, RuleSet, ZoneId};

/// How many replaced rule sets can still be read. Live flows are asked again under each new one, so
/// this only has to cover what is under way to the log.
const GENERATIONS_KEPT: usize = 16;

/// Shared by whoever has to name rules.
#[derive(Debug, Clone, Default)]
pub struct Generations(Arc<Mutex<VecDeque<Kept>>>);

type Kept = (Generation, Arc<RuleSet>);

impl Generations {
    /// To be called before the engine is told, so that no event comes before its names.
    pub fn remember(&self, generation: Generation, rules: Arc<RuleSet>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back((generation, rules));
        if kept.len() > GENERATIONS_KEPT {
            kept.pop_front();
        }
    }

    /// The names of a generation.
    pub fn names(&self, generation: Generation) -> Names {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rev().find(|(kept, _)| *kept == generation);
        Names(found.map(|(_, rules)| Arc::clone(rules)))
    }
}

/// Names of one rule set; what has been forgotten is shown by number.
#[derive(Debug, Clone)]
pub struct Names(Option<Arc<RuleSet>>);

impl Names {
    pub fn rule(&self, id: RuleId) -> String {
        let rule = usize::try_from(id.0).ok().and_then(|index| self.rules().get(index));
        rule.map_or_else(|| format!("#{}", id.0), |rule| rule.name.clone())
    }

    /// Every rule, indexed by its id; none when the rule set has been forgotten.
    pub fn rules(&self) -> &[Rule] {
        self.0.as_ref().map_or(&[], |rules| rules.rules())
    }

    pub fn zone(&self, id: ZoneId) -> String {
        let zone = self.0.as_ref().and_then(|rules| rules.zones().get(usize::from(id.0)));
        zone.map_or_else(|| format!("#{}", id.0), |zone| zone.name.clone())
    }

    pub fn nat(&self, id: NatId) -> String {
        let rule = self.0.as_ref().and_then(|rules| rules.nat_rules().get(usize::from(id.0)));
        rule.map_or_else(|| format!("#{}", id.0), |rule| rule.name().to_owned())
    }
}
