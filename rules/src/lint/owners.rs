//! Which zone an address lies in.

use std::cmp::Reverse;

use ipnet::IpNet;

use crate::address::number;
use crate::policy::Policy;

use super::space::{Family, Span};

/// Which zones an address lies in: that of the longest prefix or, where none holds it, those without
/// networks.
pub(super) struct Owners {
    /// By family; sorted, without gaps.
    segments: [Vec<(Span, u64)>; 2],
}

impl Owners {
    pub(super) fn new(policy: &Policy) -> Self {
        let rest = policy.zones.iter().enumerate().filter(|(_, zone)| zone.networks.is_empty());
        let rest = rest.fold(0_u64, |mask, (zone, _)| mask | 1 << zone);
        let networks = policy.zones.iter().enumerate().flat_map(|(zone, policy)| {
            policy.networks.iter().map(move |network| (*network, 1_u64 << zone))
        });
        let mut by_family: [Vec<(Span, u64)>; 2] = [Vec::new(), Vec::new()];
        for (network, zone) in networks {
            let span = (number(network.network()), number(network.broadcast()));
            let family = if matches!(network, IpNet::V4(_)) { Family::V4 } else { Family::V6 };
            by_family[family as usize].push((span, zone));
        }
        let segments = Family::ALL.map(|family| {
            let networks = std::mem::take(&mut by_family[family as usize]);
            segments((family.all_addresses(), rest), networks)
        });
        Self { segments }
    }

    /// The zones that an address may lie in.
    pub(super) fn of(&self, family: Family, address: u128) -> u64 {
        let segments = &self.segments[family as usize];
        let at = segments.partition_point(|(segment, _)| segment.1 < address);
        segments.get(at).map_or(0, |(_, owners)| *owners)
    }

    /// Whether one of the addresses lies in one of the zones.
    pub(super) fn meet(&self, family: Family, spans: &[Span], zones: u64) -> bool {
        let segments = &self.segments[family as usize];
        spans.iter().any(|(first, last)| {
            let from = segments.partition_point(|(segment, _)| segment.1 < *first);
            let behind = segments[from..].iter().take_while(|(segment, _)| segment.0 <= *last);
            behind.into_iter().any(|(_, owners)| owners & zones != 0)
        })
    }
}

/// Lays nested networks over everything, so that the smaller ones are on top.
fn segments(everything: (Span, u64), mut networks: Vec<(Span, u64)>) -> Vec<(Span, u64)> {
    networks.sort_unstable_by_key(|((first, last), _)| (*first, Reverse(*last)));
    let mut segments = Vec::new();
    let mut open = vec![everything];
    let mut next = 0_u128;
    let emit = |segments: &mut Vec<(Span, u64)>, next: &mut u128, end: u128, owner: u64| {
        if *next <= end {
            segments.push(((*next, end), owner));
            *next = end.saturating_add(1);
        }
    };
    for (span, owner) in networks {
        while let Some((around, outer)) = open.pop_if(|(around, _)| around.1 < span.0) {
            emit(&mut segments, &mut next, around.1, outer);
        }
        if let (Some((_, outer)), Some(end)) = (open.last(), span.0.checked_sub(1)) {
            emit(&mut segments, &mut next, end, *outer);
        }
        open.push((span, owner));
    }
    while let Some((around, outer)) = open.pop() {
        emit(&mut segments, &mut next, around.1, outer);
    }
    segments
}
