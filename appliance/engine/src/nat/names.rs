//! NAT rules by name: mappings outlive the rule set whose ids they were made under.

use std::collections::BTreeMap;

use gabion_rules::{NatId, RuleSet};

/// A name for each rule in force, and for each that still has mappings. No others are kept.
#[derive(Debug, Default)]
pub(crate) struct RuleNames {
    names: Vec<Option<Named>>,
    /// The place in `names` of each NAT rule in force.
    places: Vec<Option<NatId>>,
}

#[derive(Debug)]
struct Named {
    name: String,
    in_force: Option<NatId>,
    mappings: u32,
}

impl RuleNames {
    pub(crate) fn set_rules(&mut self, rules: &RuleSet) {
        let ids: BTreeMap<&str, NatId> =
            rules.nat_rules().iter().map(|rule| (rule.name(), rule.id())).collect();
        self.places = vec![None; rules.nat_rules().len()];
        for (place, entry) in self.names.iter_mut().enumerate() {
            let Some(named) = entry else { continue };
            named.in_force = ids.get(named.name.as_str()).copied();
            if let Some(id) = named.in_force {
                self.places[usize::from(id.0)] = place_id(place);
            } else if named.mappings == 0 {
                *entry = None;
            }
        }
        let mut from = 0;
        for (name, id) in ids {
            if self.places[usize::from(id.0)].is_none() {
                from = self.vacancy(from);
                let named = Named { name: name.to_owned(), in_force: Some(id), mappings: 0 };
                self.names[from] = Some(named);
                self.places[usize::from(id.0)] = place_id(from);
            }
        }
    }

    /// The first free place from `from` on.
    fn vacancy(&mut self, from: usize) -> usize {
        let free = (from..self.names.len()).find(|place| self.names[*place].is_none());
        free.unwrap_or_else(|| {
            self.names.push(None);
            self.names.len() - 1
        })
    }

    /// What stands for a rule in force in whatever outlives the rule set; `None` where 65,536 names
    /// are in use, most of them of rules that have gone.
    pub(crate) fn place(&self, id: NatId) -> Option<NatId> {
        self.places.get(usize::from(id.0)).copied().flatten()
    }

    /// The rule in force that a place stands for.
    pub(crate) fn in_force(&self, place: NatId) -> Option<NatId> {
        self.names.get(usize::from(place.0))?.as_ref()?.in_force
    }

    /// One mapping more was made under the name.
    pub(crate) fn retain(&mut self, place: NatId) {
        if let Some(Some(named)) = self.names.get_mut(usize::from(place.0)) {
            named.mappings += 1;
        }
    }

    pub(crate) fn release(&mut self, place: NatId) {
        let Some(entry) = self.names.get_mut(usize::from(place.0)) else { return };
        let Some(named) = entry else { return };
        named.mappings -= 1;
        if named.mappings == 0 && named.in_force.is_none() {
            *entry = None;
        }
    }
}

fn place_id(place: usize) -> Option<NatId> {
    u16::try_from(place).ok().map(NatId)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;

    fn rules(names: &[String]) -> Arc<RuleSet> {
        let rule = |name: &String| {
            format!("{{ name: {name}, kind: snat, from: a, out: b, address: 192.0.2.1 }}")
        };
        let text = format!(
            "apiVersion: gabion/v1\nzones:\n  a: {{ interfaces: [int], networks: [10.0.0.0/8] }}\n  \
             b: {{ interfaces: [ext] }}\nnat: [{}]\nrules: []\n",
            names.iter().map(rule).collect::<Vec<_>>().join(", ")
        );
        match gabion_rules::load("names.yaml", &text, None) {
            Ok(loaded) => loaded.rule_set,
            Err(diagnostics) => panic!("{diagnostics}"),
        }
    }

    #[test]
    fn names_of_rules_that_have_gone_are_forgotten_with_their_last_mapping() {
        let mut names = RuleNames::default();
        names.set_rules(&rules(&["kept".to_owned(), "used".to_owned()]));
        let (kept, used) = (names.place(NatId(0)).unwrap(), names.place(NatId(1)).unwrap());
        names.retain(used);
        for generation in 0..100 {
            names.set_rules(&rules(&[format!("new-{generation}"), "kept".to_owned()]));
            assert_eq!(names.place(NatId(1)), Some(kept));
            assert_eq!(names.in_force(kept), Some(NatId(1)));
            assert_eq!(names.in_force(used), None);
            assert_ne!(names.place(NatId(0)), Some(used));
        }
        assert!(names.names.len() <= 4, "{names:?}");
        names.set_rules(&rules(&["used".to_owned()]));
        assert_eq!(names.place(NatId(0)), Some(used));
        names.set_rules(&rules(&[]));
        names.release(used);
        assert!(names.names.iter().all(Option::is_none), "{names:?}");
    }
}
