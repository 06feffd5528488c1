//! Objects put in place of their names.

use std::collections::HashSet;
use std::sync::Arc;

use crate::address::{AddressSet, IpRange};
use crate::limits::COMPILED_RANGES;
use crate::object::{Object, ObjectId, Term};
use crate::service::Service;

/// What each object means in the end: index with [`ObjectId`].
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Resolved {
    addresses: Vec<Arc<AddressSet>>,
    services: Vec<Arc<[Service]>>,
}

/// The objects of one kind grow beyond [`COMPILED_RANGES`] entries.
#[derive(Debug)]
pub(crate) struct TooLarge(pub ObjectId);

impl Resolved {
    /// `addresses` and `services` form no cycles and nest no deeper than the limit.
    pub(crate) fn new(
        addresses: &[Object<IpRange>],
        services: &[Object<Service>],
    ) -> Result<Self, TooLarge> {
        let union = |values: Vec<IpRange>, parts: Vec<&Arc<AddressSet>>| {
            let parts = parts.into_iter().flat_map(|set| set.ranges());
            AddressSet::new(values.into_iter().chain(parts)).into()
        };
        let list = |values: Vec<Service>, parts: Vec<&Arc<[Service]>>| {
            let mut seen = HashSet::new();
            let parts = parts.into_iter().flat_map(|services| services.iter().cloned());
            values.into_iter().chain(parts).filter(|service| seen.insert(service.clone())).collect()
        };
        Ok(Self {
            addresses: resolve_all(addresses, union, |set| set.range_count())?,
            services: resolve_all(services, list, |services| services.len())?,
        })
    }

    pub(crate) fn address_set(&self, terms: &[Term<IpRange>]) -> Arc<AddressSet> {
        if let [Term::Object(id)] = terms {
            return self.addresses[id.0].clone();
        }
        let values = terms.iter().filter_map(|term| match term {
            Term::Value(range) => Some(*range),
            Term::Object(_) => None,
        });
        let parts = terms.iter().filter_map(|term| match term {
            Term::Object(id) => Some(&self.addresses[id.0]),
            Term::Value(_) => None,
        });
        let ranges = values.chain(parts.flat_map(|set| set.ranges()));
        Arc::new(AddressSet::new(ranges))
    }

    /// How many ranges `terms` name before they are merged.
    pub(crate) fn range_count(&self, terms: &[Term<IpRange>]) -> usize {
        let count = |term: &Term<IpRange>| match term {
            Term::Value(_) => 1,
            Term::Object(id) => self.addresses[id.0].range_count(),
        };
        terms.iter().map(count).sum()
    }

    pub(crate) fn services<'s>(
        &'s self,
        terms: &'s [Term<Service>],
    ) -> impl Iterator<Item = &'s Service> + Clone {
        terms.iter().flat_map(|term| match term {
            Term::Value(service) => std::slice::from_ref(service),
            Term::Object(id) => &self.services[id.0],
        })
    }
}

/// Resolves each object after those that it names.
fn resolve_all<T: Clone, R>(
    objects: &[Object<T>],
    combine: impl Fn(Vec<T>, Vec<&R>) -> R,
    size: impl Fn(&R) -> usize,
) -> Result<Vec<R>, TooLarge> {
    let mut resolved: Vec<Option<R>> = objects.iter().map(|_| None).collect();
    let mut total: usize = 0;
    for first in 0..objects.len() {
        let mut waiting = vec![first];
        while let Some(&index) = waiting.last() {
            let parts = objects[index].terms.iter().filter_map(|term| match term {
                Term::Object(id) => Some(id.0),
                Term::Value(_) => None,
            });
            let before = waiting.len();
            if resolved[index].is_some() {
                waiting.pop();
                continue;
            }
            waiting.extend(parts.clone().filter(|&part| resolved[part].is_none()));
            if waiting.len() == before {
                let values = objects[index].terms.iter().filter_map(|term| match term {
                    Term::Value(value) => Some(value.clone()),
                    Term::Object(_) => None,
                });
                let parts: Vec<&R> = parts.filter_map(|part| resolved[part].as_ref()).collect();
                total += parts.iter().map(|part| size(part)).sum::<usize>();
                if total > COMPILED_RANGES {
                    return Err(TooLarge(ObjectId(index)));
                }
                let whole = combine(values.collect(), parts);
                resolved[index] = Some(whole);
            }
        }
    }
    Ok(resolved.into_iter().flatten().collect())
}
