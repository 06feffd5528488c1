//! Who directs a key, and who owns a block of ports: rendezvous hashing (D. G. Thaler and C. V.
//! Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996).
//!
//! Every member gives each node a weight for each key, by a hash under a secret of the cluster. Where two
//! agree on who is there they agree on the heaviest, and a node that comes or goes moves its own share only.

use std::fmt;

use super::NodeId;
use crate::hash::KeyedHash;
use crate::{Address, FlowKey};

/// A flow's packets as one side shows them, whichever way they go: both directions of an untranslated
/// flow have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Pair(FlowKey);

impl Pair {
    /// The one of the two directions' keys that stands for both; its source is the lesser endpoint.
    pub(crate) const fn key(self) -> FlowKey {
        self.0
    }
}

impl From<FlowKey> for Pair {
    fn from(key: FlowKey) -> Self {
        Self(if key.source <= key.destination { key } else { key.reversed() })
    }
}

/// A set of members: those that a node takes for alive, or all that are configured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct View(u16);

impl View {
    pub(crate) const NONE: Self = Self(0);

    /// From its form on the wire: the lowest bit is member 1.
    pub(crate) const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    pub(crate) const fn bits(self) -> u16 {
        self.0
    }

    #[must_use]
    pub(crate) const fn with(self, node: NodeId) -> Self {
        Self(self.0 | bit(node))
    }

    #[must_use]
    pub(crate) const fn without(self, node: NodeId) -> Self {
        Self(self.0 & !bit(node))
    }

    #[must_use]
    pub(crate) const fn without_all(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) const fn contains(self, node: NodeId) -> bool {
        self.0 & bit(node) != 0
    }

    pub(crate) const fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In order of their numbers.
    pub(crate) fn nodes(self) -> impl Iterator<Item = NodeId> {
        (1..=NodeId::MAX).map(NodeId).filter(move |node| self.contains(*node))
    }
}

/// Nothing for a number that no member has.
const fn bit(node: NodeId) -> u16 {
    if node.0 == 0 || node.0 > NodeId::MAX { 0 } else { 1 << (node.0 - 1) }
}

impl FromIterator<NodeId> for View {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        nodes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.nodes().map(|node| node.0)).finish()
    }
}

/// Which members are workers of one machine, and go with it. Whoever is named with nobody is alone on his.
#[derive(Debug, Clone, Default)]
pub(crate) struct Machines(Vec<View>);

impl Machines {
    pub(crate) fn new(machines: &[Vec<NodeId>]) -> Self {
        Self(machines.iter().map(|members| members.iter().copied().collect()).collect())
    }

    /// The members on the machine of one, which is among them.
    pub(crate) fn around(&self, node: NodeId) -> View {
        let found = self.0.iter().find(|members| members.contains(node));
        found.copied().unwrap_or(View::NONE.with(node))
    }
}

/// What the weights of a key's nodes follow from: the key, hashed under the cluster's secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(pub(crate) u64);

/// The weights, the same at all members of a cluster and unknown to everybody else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rendezvous(KeyedHash);

impl Rendezvous {
    pub(crate) fn new(secret: [u8; 16]) -> Self {
        Self(KeyedHash::new(secret))
    }

    pub(crate) fn digest(self, pair: &Pair) -> Digest {
        Digest(self.0.flow(&pair.0))
    }

    /// The member that knows who owns the key; `None` where there is no member.
    pub(crate) fn director(self, pair: &Pair, view: View) -> Option<NodeId> {
        self.heaviest(self.digest(pair), view)
    }

    /// The member at which `owner` registers the key: the director, or the next where that is `owner`. It is one more
    /// where this one would go with the owner's machine.
    pub(crate) fn holder(self, pair: &Pair, view: View, owner: NodeId) -> Option<NodeId> {
        self.director(pair, view.without(owner))
    }

    /// The member of `configured` that gives out the ports `64 * block` to `64 * block + 63` of an address
    /// that several nodes share.
    pub(crate) fn block_owner(
        self,
        address: Address,
        block: u16,
        configured: View,
    ) -> Option<NodeId> {
        let [a, b] = address.words();
        self.heaviest(Digest(self.0.words([a, b], BLOCK | u64::from(block))), configured)
    }

    /// Of the members of a view the one of the highest weight, which is the director where no other is
    /// named; two of one weight, in 2^64, are told apart by their numbers.
    pub(crate) fn heaviest(self, digest: Digest, view: View) -> Option<NodeId> {
        view.nodes().max_by_key(|node| (self.0.words([digest.0], NODE | u64::from(node.0)), *node))
    }
}

/// The highest byte of what is hashed last is the message's length: those of a node's weight, and of a
/// block, are no other's.
const NODE: u64 = 9 << 56;
const BLOCK: u64 = 18 << 56;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Endpoint;

    prop_compose! {
        fn any_key()(
            ends: [[u8; 4]; 2], ports: [u16; 2], wide: bool, protocol in prop::sample::select(vec![1_u8, 6, 17, 58]),
        ) -> FlowKey {
            let address = |end: [u8; 4]| if wide {
                Address::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, end[0], end[1], end[2], end[3]])
            } else {
                Address::from(end)
            };
            FlowKey {
                source: Endpoint { address: address(ends[0]), port: ports[0] },
                destination: Endpoint { address: address(ends[1]), port: ports[1] },
                protocol,
            }
        }
    }

    fn view() -> impl Strategy<Value = View> {
        (1_u16..).prop_map(View::from_bits)
    }

    fn node() -> impl Strategy<Value = NodeId> {
        (1..=NodeId::MAX).prop_map(NodeId)
    }

    proptest! {
        #[test]
        fn a_view_is_a_set(steps in prop::collection::vec((any::<bool>(), 0..20_u8), 0..60)) {
            let mut view = View::NONE;
            let mut model = std::collections::BTreeSet::new();
            for (adds, number) in steps {
                let node = NodeId(number);
                if adds {
                    view = view.with(node);
                    if (1..=NodeId::MAX).contains(&number) {
                        model.insert(node);
                    }
                } else {
                    view = view.without(node);
                    model.remove(&node);
                }
                prop_assert_eq!(view.contains(node), model.contains(&node));
                prop_assert!(view.nodes().eq(model.iter().copied()));
                prop_assert_eq!((view.len() as usize, view.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(View::from_bits(view.bits()), view);
                prop_assert_eq!(view.nodes().collect::<View>(), view);
            }
        }

        #[test]
        fn both_directions_have_one_key(key in any_key()) {
            let (one, other) = (Pair::from(key), Pair::from(key.reversed()));
            prop_assert_eq!(one, other);
            prop_assert!([key, key.reversed()].contains(&one.key()));
            prop_assert_eq!(Pair::from(one.key()), one);
        }

        /// A director is a member, and the holder is the director wherever that is not the owner.
        #[test]
        fn the_holder_is_the_director_but_for_the_owner(
            secret: [u8; 16], key in any_key(), view in view(), owner in node(),
        ) {
            let (rendezvous, pair) = (Rendezvous::new(secret), Pair::from(key));
            let director = rendezvous.director(&pair, view).unwrap();
            let holder = rendezvous.holder(&pair, view, owner);
            prop_assert!(view.contains(director));
            prop_assert!(director == owner || holder == Some(director));
            prop_assert_ne!(holder, Some(owner));
            prop_assert_eq!(holder, rendezvous.director(&pair, view.without(owner)));
        }

        /// Only what a member directs moves when it goes, and only to it when it comes.
        #[test]
        fn a_member_moves_its_own_share_only(
            secret: [u8; 16], key in any_key(), view in view(), member in node(),
        ) {
            let (rendezvous, pair) = (Rendezvous::new(secret), Pair::from(key));
            let with = rendezvous.director(&pair, view.with(member)).unwrap();
            let without = rendezvous.director(&pair, view.without(member));
            prop_assert!(with == member || without == Some(with));
        }

        #[test]
        fn a_block_has_one_owner_of_those_configured(
            secret: [u8; 16], octets: [u8; 4], block in 0..1_024_u16, view in view(),
        ) {
            let owner = Rendezvous::new(secret).block_owner(Address::from(octets), block, view);
            prop_assert!(owner.is_some_and(|owner| view.contains(owner)));
        }
    }

    /// How much each member has of 40,000 numbers, as a part of what is fair.
    fn shares(
        members: u8,
        owner_of: impl Fn(u16, View) -> Option<NodeId>,
    ) -> BTreeMap<NodeId, f64> {
        let view: View = (1..=members).map(NodeId).collect();
        let mut shares = BTreeMap::new();
        for number in 0..40_000 {
            *shares.entry(owner_of(number, view).unwrap()).or_default() +=
                f64::from(members) / 40_000.0;
        }
        shares
    }

    #[test]
    fn every_member_has_its_share() {
        let rendezvous = Rendezvous::new([7; 16]);
        for members in [2, 3, 5, 16] {
            let directed = shares(members, |port, view| {
                let source = Endpoint { address: Address::from([198, 51, 100, 9]), port };
                let destination = Endpoint { address: Address::from([10, 1, 0, 10]), port: 443 };
                let key = FlowKey { source, destination, protocol: 6 };
                rendezvous.director(&Pair::from(key), view)
            });
            assert_eq!(directed.len(), usize::from(members));
            assert!(directed.values().all(|share| (0.93..1.07).contains(share)), "{directed:?}");
        }
        for members in [2, 3, 5, 16] {
            let owned = shares(members, |number, view| {
                let address = Address::from([203, 0, 113, (number >> 10) as u8]);
                rendezvous.block_owner(address, number % 1_024, view)
            });
            assert!(owned.values().all(|share| (0.93..1.07).contains(share)), "{owned:?}");
        }
    }

    /// What members of different releases must agree on: changed weights are another protocol.
    #[test]
    fn weights_are_those_of_the_first_release() {
        let rendezvous = Rendezvous::new([7; 16]);
        let view = View::from_bits(0xff);
        let directors: Vec<u8> = (0..12)
            .map(|port| {
                let source = Endpoint { address: Address::from([198, 51, 100, 9]), port };
                let destination = Endpoint { address: Address::from([10, 1, 0, 10]), port: 443 };
                let key = FlowKey { source, destination, protocol: 6 };
                rendezvous.director(&Pair::from(key), view).unwrap().0
            })
            .collect();
        let owners: Vec<u8> = (0..12)
            .map(|block| {
                rendezvous.block_owner(Address::from([203, 0, 113, 1]), block, view).unwrap().0
            })
            .collect();
        assert_eq!(directors, [7, 8, 5, 4, 5, 1, 6, 2, 8, 5, 6, 2]);
        assert_eq!(owners, [5, 6, 2, 5, 3, 3, 2, 3, 7, 4, 1, 7]);
    }
}
