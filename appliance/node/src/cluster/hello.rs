//! The first thing that two nodes say to each other. Bytes in, values out.
//!
//! Fields are type (1 byte), length (2), value; integers big-endian. A field of an unknown type is skipped if its type
//! is below 128, and refuses the whole if not: what a later version cannot do without says so by its type.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gabion_engine::NodeId;

use super::refusal::Refusal;

/// The policy that a node has in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PolicyMark {
    /// The node's own count of revisions, 0 for none.
    pub revision: u64,
    /// SHA-256 of the canonical text: equal where the policies are.
    pub digest: [u8; 32],
}

/// Where a node's machine can be asked whether it is there: addresses of its data interfaces, and the port.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reach {
    pub port: u16,
    pub addresses: Vec<IpAddr>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) cluster: String,
    /// Lowest and highest version of the protocol.
    pub(super) versions: (u8, u8),
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    /// Drawn at start: tells two machines with one number and one incarnation apart.
    pub(super) boot: [u8; 16],
    /// Of the keys that come of this session; the one who opens it chooses.
    pub(super) epoch: u8,
    pub(super) policy: PolicyMark,
    pub(super) reach: Reach,
    /// Whether its datapath takes what another's has wrapped.
    pub(super) unwraps: bool,
    /// How many of its members there are.
    pub(super) workers: u8,
}

const CLUSTER: u8 = 129;
const VERSIONS: u8 = 130;
const NODE: u8 = 131;
const INCARNATION: u8 = 132;
const BOOT: u8 = 133;
const EPOCH: u8 = 134;
/// One byte; not said of one, as members of before have.
const WORKERS: u8 = 135;
pub(super) const POLICY: u8 = 1;
const REACH: u8 = 2;
/// One byte, not zero. Members of before do not say it.
const UNWRAPS: u8 = 3;
/// Types from here on refuse the whole where they are unknown.
const MUST_UNDERSTAND: u8 = 128;

impl Hello {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        put(&mut bytes, CLUSTER, self.cluster.as_bytes());
        put(&mut bytes, VERSIONS, &[self.versions.0, self.versions.1]);
        put(&mut bytes, NODE, &[self.node.0]);
        put(&mut bytes, INCARNATION, &self.incarnation.to_be_bytes());
        put(&mut bytes, BOOT, &self.boot);
        put(&mut bytes, EPOCH, &[self.epoch]);
        put(&mut bytes, POLICY, &self.policy.encode());
        put(&mut bytes, REACH, &self.reach.encode());
        put(&mut bytes, UNWRAPS, &[self.unwraps.into()]);
        if self.workers != 1 {
            put(&mut bytes, WORKERS, &[self.workers]);
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let (mut cluster, mut versions, mut node, mut incarnation) = (None, None, None, None);
        let (mut boot, mut epoch, mut policy, mut reach) = (None, None, None, None);
        let (mut unwraps, mut workers) = (false, 1);
        for field in fields(bytes) {
            let (kind, value) = field?;
            match kind {
                CLUSTER => cluster = std::str::from_utf8(value).ok().map(str::to_owned),
                VERSIONS => versions = value.first_chunk().map(|[low, high]| (*low, *high)),
                NODE => node = value.first().map(|number| NodeId(*number)),
                INCARNATION => incarnation = value.first_chunk().map(|n| u64::from_be_bytes(*n)),
                BOOT => boot = value.first_chunk().copied(),
                EPOCH => epoch = value.first().copied(),
                POLICY => policy = PolicyMark::decode(value),
                REACH => reach = Reach::decode(value),
                UNWRAPS => unwraps = value.first().is_some_and(|said| *said != 0),
                WORKERS => workers = value.first().copied().unwrap_or(0),
                other if other < MUST_UNDERSTAND => {}
                _ => return Err(Refusal::Malformed("a field of an unknown kind in HELLO")),
            }
        }
        let hello = || {
            Some(Self {
                cluster: cluster?,
                versions: versions?,
                node: node?,
                incarnation: incarnation?,
                boot: boot?,
                epoch: epoch?,
                policy: policy.unwrap_or_default(),
                reach: reach.unwrap_or_default(),
                unwraps,
                workers,
            })
        };
        hello().ok_or(Refusal::Malformed("a HELLO that lacks a field"))
    }

    /// The version that both speak.
    pub(super) fn agree(&self, theirs: &Self) -> Result<u8, Refusal> {
        if theirs.cluster != self.cluster {
            let (ours, theirs) = (self.cluster.clone(), theirs.cluster.clone());
            return Err(Refusal::Cluster { ours, theirs });
        }
        if theirs.workers != self.workers {
            return Err(Refusal::Workers { ours: self.workers, theirs: theirs.workers });
        }
        let lowest = self.versions.0.max(theirs.versions.0);
        let highest = self.versions.1.min(theirs.versions.1);
        if lowest > highest {
            return Err(Refusal::Incompatible { ours: self.versions, theirs: theirs.versions });
        }
        Ok(highest)
    }
}

impl PolicyMark {
    pub(super) fn encode(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&self.revision.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest);
        bytes
    }

    /// The digest, hexadecimal.
    pub fn digest_text(&self) -> String {
        self.digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (revision, rest) = bytes.split_first_chunk()?;
        Some(Self { revision: u64::from_be_bytes(*revision), digest: *rest.first_chunk()? })
    }
}

/// The most addresses that a node tells, and that are kept of what it tells.
const ADDRESSES_MAX: usize = 64;

impl Reach {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.port.to_be_bytes().to_vec();
        for address in self.addresses.iter().take(ADDRESSES_MAX) {
            match address {
                IpAddr::V4(v4) => {
                    bytes.push(4);
                    bytes.extend(v4.octets());
                }
                IpAddr::V6(v6) => {
                    bytes.push(6);
                    bytes.extend(v6.octets());
                }
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (port, mut rest) = bytes.split_first_chunk()?;
        let mut reach = Self { port: u16::from_be_bytes(*port), addresses: Vec::new() };
        while let [family, after @ ..] = rest {
            let (address, after) = match family {
                4 => after.split_first_chunk().map(|(v4, rest)| (Ipv4Addr::from(*v4).into(), rest)),
                6 => after.split_first_chunk().map(|(v6, rest)| (Ipv6Addr::from(*v6).into(), rest)),
                _ => None,
            }?;
            reach.addresses.push(address);
            rest = after;
        }
        reach.addresses.truncate(ADDRESSES_MAX);
        Some(reach)
    }
}

fn put(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    let length = u16::try_from(value.len()).expect("no field of ours has 64 KiB");
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(value);
}

fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u8, &[u8]), Refusal>> {
    std::iter::from_fn(move || {
        let [kind, high, low, rest @ ..] = bytes else {
            let cut = !std::mem::take(&mut bytes).is_empty();
            return cut.then_some(Err(Refusal::Malformed("a field that is cut short")));
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, rest)) = rest.split_at_checked(length) else {
            bytes = &[];
            return Some(Err(Refusal::Malformed("a field that is cut short")));
        };
        bytes = rest;
        Some(Ok((*kind, value)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn hello(versions: (u8, u8)) -> Hello {
        Hello {
            cluster: "fw".to_owned(),
            versions,
            node: NodeId(2),
            incarnation: 7,
            boot: [9; 16],
            epoch: 255,
            policy: PolicyMark { revision: 3, digest: [5; 32] },
            reach: Reach { port: 6_084, addresses: vec![[192, 0, 2, 1].into()] },
            unwraps: true,
            workers: 1,
        }
    }

    #[test]
    fn all_nodes_have_as_many_workers() {
        let two = Hello { workers: 2, ..hello((1, 1)) };
        assert_eq!(two.agree(&two), Ok(1));
        assert_eq!(two.agree(&hello((1, 1))), Err(Refusal::Workers { ours: 2, theirs: 1 }));
        assert_eq!(Hello::decode(&two.encode()), Ok(two));
    }

    #[test]
    fn neighbouring_versions_agree_on_the_higher_that_both_speak() {
        for (ours, theirs, agreed) in [
            ((1, 1), (1, 1), Some(1)),
            ((1, 1), (1, 2), Some(1)),
            ((1, 2), (1, 2), Some(2)),
            ((2, 3), (1, 2), Some(2)),
            ((1, 1), (2, 3), None),
            ((2, 2), (1, 1), None),
        ] {
            assert_eq!(hello(ours).agree(&hello(theirs)).ok(), agreed, "{ours:?} and {theirs:?}");
        }
        let refused = hello((1, 1)).agree(&hello((2, 3))).unwrap_err();
        assert_eq!(refused.label(), "peer-incompatible");
        assert!(refused.to_string().contains("2 to 3") && refused.to_string().contains("1 to 1"));
    }

    #[test]
    fn what_a_later_version_adds_is_skipped_unless_it_must_be_understood() {
        let mut bytes = hello((1, 2)).encode();
        put(&mut bytes, 77, b"something new");
        assert_eq!(Hello::decode(&bytes).unwrap(), hello((1, 2)));
        put(&mut bytes, 177, b"something that matters");
        assert_eq!(Hello::decode(&bytes).unwrap_err().label(), "peer-malformed");
    }

    #[test]
    fn a_hello_of_a_member_of_before_is_one_and_without_another_field_is_none() {
        let whole = hello((1, 1)).encode();
        let fields: Vec<Vec<u8>> = fields(&whole)
            .map(|field| {
                let (kind, value) = field.unwrap();
                let mut bytes = Vec::new();
                put(&mut bytes, kind, value);
                bytes
            })
            .collect();
        for left_out in 0..fields.len() {
            let rest: Vec<u8> = fields
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != left_out)
                .flat_map(|(_, f)| f.clone())
                .collect();
            assert_eq!(
                Hello::decode(&rest).is_ok(),
                [POLICY, REACH, UNWRAPS].contains(&fields[left_out][0])
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            (cluster, incarnation, boot) in ("[a-z0-9-]{1,63}", any::<u64>(), any::<[u8; 16]>()),
            (versions, node, epoch) in (any::<(u8, u8)>(), any::<u8>(), any::<u8>()),
            (revision, digest) in any::<(u64, [u8; 32])>(),
            (port, addresses) in (any::<u16>(), prop::collection::vec(any::<IpAddr>(), 0..64)),
            (unwraps, workers) in any::<(bool, u8)>(),
        ) {
            let hello = Hello {
                cluster, versions, node: NodeId(node), incarnation, boot, epoch,
                policy: PolicyMark { revision, digest },
                reach: Reach { port, addresses }, unwraps, workers,
            };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }

        #[test]
        fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
        }

        #[test]
        fn a_hello_that_is_cut_is_refused(cut in 0_usize..1_000) {
            let whole = hello((1, 1)).encode();
            // Policy, addresses, and whether it unwraps stand last, and may be missing whole.
            let cut = cut % whole.len();
            let bare = whole.len() - 4;
            let is_whole = [bare, bare - 10, bare - 10 - 43].contains(&cut);
            prop_assert_eq!(Hello::decode(&whole[..cut]).is_ok(), is_whole);
        }
    }
}
