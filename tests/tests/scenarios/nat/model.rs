//! NAT against a model of it: two maps and the RFC's sentences, over random conversations.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use gabion_engine::Time;
use proptest::prelude::*;

use super::probe::{Probe, Protocol, address, out};

const UNREPLIED: Duration = Duration::from_secs(120);
const REPLIED: Duration = Duration::from_secs(300);
const REST: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filtering {
    EndpointIndependent,
    AddressDependent,
    AddressAndPortDependent,
}

#[derive(Debug, Clone)]
enum Step {
    /// An inside socket sends to a remote endpoint.
    Outward {
        inside: usize,
        remote: usize,
    },
    /// A remote endpoint sends to the endpoint that stands for an inside socket, or last stood for it.
    Inward {
        remote: usize,
        inside: usize,
    },
    Wait(u64),
}

/// A conversation of an inside socket with a remote endpoint.
#[derive(Debug)]
struct Flow {
    expires: Time,
    replied: bool,
    /// The remote endpoint began it.
    is_guest: bool,
}

#[derive(Debug, Default)]
struct Model {
    flows: BTreeMap<(String, String), Flow>,
    /// Of sockets that have one now or had one.
    externals: BTreeMap<String, String>,
    /// When each external endpoint was last given up.
    freed: BTreeMap<String, Time>,
}

impl Model {
    fn advance(&mut self, now: Time) {
        let before: BTreeSet<String> =
            self.flows.keys().map(|(inside, _)| inside.clone()).collect();
        self.flows.retain(|_, flow| flow.expires > now);
        let gone: Vec<String> =
            before.into_iter().filter(|inside| !self.is_mapped(inside)).collect();
        for inside in gone {
            self.freed.insert(self.externals[&inside].clone(), now);
        }
    }

    fn of<'m>(&'m self, inside: &'m str) -> impl Iterator<Item = (&'m str, &'m Flow)> {
        let own = self.flows.iter().filter(move |((host, _), _)| host == inside);
        own.map(|((_, remote), flow)| (remote.as_str(), flow))
    }

    fn is_mapped(&self, inside: &str) -> bool {
        self.of(inside).next().is_some()
    }

    fn send(&mut self, now: Time, inside: &str, remote: &str) {
        let flow = self.flows.entry((inside.to_owned(), remote.to_owned())).or_insert(Flow {
            expires: now,
            replied: false,
            is_guest: false,
        });
        flow.replied |= flow.is_guest;
        flow.expires = now + if flow.replied { REPLIED } else { UNREPLIED };
    }

    /// Whether a packet gets in, RFC 4787 section 5.
    fn receive(&mut self, now: Time, filtering: Filtering, remote: &str, inside: &str) -> bool {
        if let Some(flow) = self.flows.get_mut(&(inside.to_owned(), remote.to_owned())) {
            if !flow.is_guest {
                flow.replied = true;
                flow.expires = now + REPLIED;
            }
            return true;
        }
        let is_used = self.of(inside).any(|(_, flow)| !flow.is_guest || flow.replied);
        let is_known = self
            .of(inside)
            .any(|(other, flow)| !flow.is_guest && address(other) == address(remote));
        let admits = match filtering {
            Filtering::EndpointIndependent => is_used,
            Filtering::AddressDependent => is_known,
            Filtering::AddressAndPortDependent => false,
        };
        if admits {
            let guest = Flow { expires: now + UNREPLIED, replied: false, is_guest: true };
            self.flows.insert((inside.to_owned(), remote.to_owned()), guest);
        }
        admits
    }
}

fn inside(number: usize) -> String {
    format!("10.1.0.{}:{}", 10 + number % 4, 5_000 + number / 4)
}

fn remote(number: usize) -> String {
    format!("198.51.100.{}:{}", 7 + number % 3, 50 + number / 3)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..12_usize, 0..6_usize)
            .prop_map(|(inside, remote)| Step::Outward { inside, remote }),
        6 => (0..6_usize, 0..12_usize)
            .prop_map(|(remote, inside)| Step::Inward { remote, inside }),
        3 => (1..130_u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Covers: 4787-1, 4787-3, 4787-6, 6888-8
    #[test]
    fn a_nat_is_two_maps(steps in steps(), kind in 0..3_usize) {
        let (filtering, written) = [
            (Filtering::EndpointIndependent, "endpoint-independent"),
            (Filtering::AddressDependent, "address-dependent"),
            (Filtering::AddressAndPortDependent, "address-and-port-dependent"),
        ][kind];
        let how = format!("address: 203.0.113.16-203.0.113.17, ports: 2000-2099, filtering: {written}");
        let mut probe = Probe::new(&out(&how));
        let mut model = Model::default();
        for step in steps {
            let now = probe.dialogue.now;
            match step {
                Step::Outward { inside: host, remote: peer } => {
                    let (host, peer) = (inside(host), remote(peer));
                    let seen = probe.outward(Protocol::Udp, &host, &peer).unwrap();
                    if model.is_mapped(&host) {
                        prop_assert_eq!(&seen, &model.externals[&host]);
                    } else {
                        let mut others = model.externals.iter();
                        prop_assert!(!others.any(|(other, known)| *known == seen && model.is_mapped(other)));
                        // Its own it may have back.
                        let is_own = model.externals.get(&host) == Some(&seen);
                        let freed = model.freed.get(&seen).filter(|_| !is_own);
                        prop_assert!(freed.is_none_or(|freed| now.since(*freed) >= REST), "{seen}");
                        model.externals.insert(host.clone(), seen);
                    }
                    model.send(now, &host, &peer);
                }
                Step::Inward { remote: peer, inside: host } => {
                    let (host, peer) = (inside(host), remote(peer));
                    let Some(external) = model.externals.get(&host).cloned() else { continue };
                    // Somebody else may have it by now.
                    let owner = model
                        .externals
                        .iter()
                        .find(|(owner, known)| **known == external && model.is_mapped(owner))
                        .map(|(owner, _)| owner.clone());
                    let expected = owner.filter(|owner| model.receive(now, filtering, &peer, owner));
                    prop_assert_eq!(probe.inward(Protocol::Udp, &peer, &external), expected);
                }
                Step::Wait(seconds) => {
                    probe.wait(seconds);
                    // As the engine's, the model's timers fire in each second.
                    for second in 1..=seconds {
                        model.advance(now + Duration::from_secs(second));
                    }
                }
            }
            prop_assert_eq!(probe.dialogue.flows().len(), model.flows.len());
        }
    }
}
