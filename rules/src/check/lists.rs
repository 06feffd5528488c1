//! Lists of zones, addresses and services, wherever they stand.

use crate::ZoneId;
use crate::address::{AddressWord, IpRange, parse_address_word};
use crate::limits::LIST_ENTRIES;
use crate::object::Term;
use crate::policy::{Match, Zones};
use crate::read::{At, OneOrMany};
use crate::service::{Service, ServiceWord, parse_service_word};

use super::Checker;

impl Checker<'_, '_> {
    /// Zone names, or `any`. `None` where one is wrong.
    pub(super) fn check_zone_list(&mut self, list: &OneOrMany) -> Option<Zones> {
        if self.is_any(list)? {
            return Some(Zones::Any);
        }
        let mut zones: Vec<ZoneId> = Vec::new();
        for item in &list.items {
            let zone = self.zone_named(item)?;
            if zones.contains(&zone) {
                self.problems.error(item.span, format!("the zone `{}` stands twice", item.value));
                return None;
            }
            zones.push(zone);
        }
        Some(Zones::Listed(zones))
    }

    pub(super) fn zone_named(&mut self, name: &At<String>) -> Option<ZoneId> {
        let index = self.zones.iter().position(|zone| zone.name == name.value);
        if index.is_none() {
            let zones = std::mem::take(&mut self.zones);
            let known = zones.iter().map(|zone| zone.name.as_str());
            self.unknown(name.span, "zone", &name.value, known);
            self.zones = zones;
        }
        index.and_then(|index| u16::try_from(index).ok()).map(ZoneId)
    }

    /// What a rule asks of an address; nothing written is `any`.
    pub(super) fn check_address_match(
        &mut self,
        list: Option<&OneOrMany>,
    ) -> Option<Match<IpRange>> {
        let Some(list) = list else { return Some(Match::Any) };
        if self.is_any(list)? {
            return Some(Match::Any);
        }
        self.check_addresses(list).map(Match::Terms)
    }

    /// What a rule asks of the service; nothing written is `any`.
    pub(super) fn check_service_match(
        &mut self,
        list: Option<&OneOrMany>,
    ) -> Option<Match<Service>> {
        let Some(list) = list else { return Some(Match::Any) };
        if self.is_any(list)? {
            return Some(Match::Any);
        }
        self.check_services(list).map(Match::Terms)
    }

    /// Addresses and names of objects.
    pub(super) fn check_addresses(&mut self, list: &OneOrMany) -> Option<Vec<Term<IpRange>>> {
        self.check_terms(list, |checker, item| match parse_address_word(&item.value) {
            Ok(AddressWord::Range(range)) => Some(Term::Value(range)),
            Ok(AddressWord::Object(name)) => match checker.address_names.get(name) {
                Some(id) => Some(Term::Object(*id)),
                None => {
                    let names = std::mem::take(&mut checker.address_names);
                    checker.unknown(
                        item.span,
                        "address object",
                        name,
                        names.keys().map(String::as_str),
                    );
                    checker.address_names = names;
                    None
                }
            },
            Err(error) => {
                checker.report(item.span, error);
                None
            }
        })
    }

    /// Services and names of objects.
    pub(super) fn check_services(&mut self, list: &OneOrMany) -> Option<Vec<Term<Service>>> {
        self.check_terms(list, |checker, item| match parse_service_word(&item.value) {
            Ok(ServiceWord::Service(service)) => Some(Term::Value(service)),
            Ok(ServiceWord::Object(name)) => match checker.service_names.get(name) {
                Some(id) => Some(Term::Object(*id)),
                None => {
                    let names = std::mem::take(&mut checker.service_names);
                    checker.unknown(
                        item.span,
                        "service object",
                        name,
                        names.keys().map(String::as_str),
                    );
                    checker.service_names = names;
                    None
                }
            },
            Err(error) => {
                checker.report(item.span, error);
                None
            }
        })
    }

    /// `None` where an entry is wrong; the other entries are looked at all the same.
    fn check_terms<T>(
        &mut self,
        list: &OneOrMany,
        mut check: impl FnMut(&mut Self, &At<String>) -> Option<Term<T>>,
    ) -> Option<Vec<Term<T>>> {
        self.check_list(list)?;
        let terms: Vec<_> = list.items.iter().map(|item| check(self, item)).collect();
        terms.into_iter().collect()
    }

    /// Whether the list is the word `any`, which stands alone.
    fn is_any(&mut self, list: &OneOrMany) -> Option<bool> {
        self.check_list(list)?;
        match list.items.iter().find(|item| item.value == "any") {
            Some(item) if list.items.len() > 1 => {
                let help = "leave the other entries out, or `any`";
                self.problems.error_with(item.span, "`any` stands alone", help);
                None
            }
            found => Some(found.is_some()),
        }
    }

    fn check_list(&mut self, list: &OneOrMany) -> Option<()> {
        if list.items.is_empty() {
            let help = "an empty list matches nothing; write `any` for everything";
            self.problems.error_with(list.span, "the list is empty", help);
            return None;
        }
        if list.items.len() > LIST_ENTRIES {
            self.problems.over(list.span, "entries", list.items.len(), LIST_ENTRIES);
            return None;
        }
        Some(())
    }
}
