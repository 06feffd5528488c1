//! Rules that are right and yet cannot be what was meant: they never match, or never decide.

use crate::diagnostic::Problems;
use crate::policy::{Match, Policy, RulePolicy, Zones};
use crate::service::{IcmpFamily, Service};

/// Warns of rules that no packet can meet.
pub(crate) fn lint(policy: &Policy, problems: &mut Problems) {
    let mut covered = Covered::new(policy.zones.len());
    for rule in &policy.rules {
        if !Families::of(policy, rule).any() {
            let message = format!("the rule `{}` never matches", rule.name);
            let help = "its source, destination and service are not of one address family";
            problems.warn(rule.place.span, message, help);
        } else if let Some(above) = covered.by(rule) {
            let message = format!("the rule `{}` never matches", rule.name);
            let above = &policy.rules[above].name;
            problems.warn(rule.place.span, message, format!("`{above}` above it matches all"));
        }
        covered.add(rule);
    }
}

/// The address families of which a packet can meet a rule.
#[derive(Clone, Copy)]
struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    const BOTH: Self = Self { v4: true, v6: true };

    fn of(policy: &Policy, rule: &RulePolicy) -> Self {
        let addresses = [&rule.source, &rule.destination].map(|wanted| match wanted {
            Match::Any => Self::BOTH,
            Match::Terms(terms) => {
                let set = policy.resolved.address_set(terms);
                Self { v4: set.has_ipv4(), v6: set.has_ipv6() }
            }
        });
        let service = match &rule.service {
            Match::Any => Self::BOTH,
            Match::Terms(terms) => {
                let mut services = policy.resolved.services(terms);
                let is_only = |family, service: &Service| matches!(service, Service::Icmp(other, ..) if *other == family);
                Self {
                    v4: services.clone().any(|service| !is_only(IcmpFamily::V6, service)),
                    v6: services.any(|service| !is_only(IcmpFamily::V4, service)),
                }
            }
        };
        let [source, destination] = addresses;
        Self {
            v4: source.v4 && destination.v4 && service.v4,
            v6: source.v6 && destination.v6 && service.v6,
        }
    }

    fn any(self) -> bool {
        self.v4 || self.v6
    }
}

/// For each zone pair the first rule that decides all of its packets.
struct Covered {
    zones: usize,
    by_pair: Vec<Option<usize>>,
    rules: usize,
}

impl Covered {
    fn new(zones: usize) -> Self {
        Self { zones, by_pair: vec![None; zones * zones], rules: 0 }
    }

    /// The last of the rules that leave nothing to `rule`; `None` where something is left.
    fn by(&self, rule: &RulePolicy) -> Option<usize> {
        let above: Option<Vec<usize>> = self.pairs(rule).map(|pair| self.by_pair[pair]).collect();
        above?.into_iter().max()
    }

    fn add(&mut self, rule: &RulePolicy) {
        let takes_all = rule.action.is_some()
            && rule.meta.expires.is_none()
            && rule.source == Match::Any
            && rule.destination == Match::Any
            && rule.service == Match::Any;
        if takes_all {
            for pair in self.pairs(rule).collect::<Vec<_>>() {
                self.by_pair[pair].get_or_insert(self.rules);
            }
        }
        self.rules += 1;
    }

    fn pairs<'r>(&self, rule: &'r RulePolicy) -> impl Iterator<Item = usize> + use<'r> {
        let zones = self.zones;
        let among = move |wanted: &'r Zones| (0..zones).filter(move |zone| wanted.names(*zone));
        let (from, to) = (&rule.from, &rule.to);
        among(from).flat_map(move |from| among(to).map(move |to| from * zones + to))
    }
}

impl Zones {
    fn names(&self, zone: usize) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(zones) => zones.iter().any(|listed| usize::from(listed.0) == zone),
        }
    }
}
