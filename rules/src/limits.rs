//! The size of everything that a policy may say. Reaching one is an error that names the value and
//! the limit.

/// Bytes of a policy's text. 100,000 rules of the usual length are about 14 MB.
pub const POLICY_BYTES: usize = 32 << 20;
/// YAML values (scalars; beginnings and ends of lists and mappings) in one policy; bounds the memory that parsing takes.
pub const YAML_NODES: usize = 4_000_000;
/// Lists and mappings inside each other; the language itself needs five.
pub const YAML_NESTING: usize = 8;
/// Zones. Every ordered pair has a default rule of its own, so 64 zones make 4,096.
pub const ZONES: usize = 64;
pub const INTERFACES_PER_ZONE: usize = 64;
pub const NETWORKS_PER_ZONE: usize = 4_096;
/// Address objects, and service objects.
pub const OBJECTS_PER_KIND: usize = 16_384;
/// Objects that name objects that name objects.
pub const OBJECT_NESTING: usize = 16;
pub const RULES: usize = 100_000;
pub const NAT_RULES: usize = 10_000;
pub const TESTS: usize = 10_000;
/// Entries of one list.
pub const LIST_ENTRIES: usize = 65_536;
/// Characters of a zone's, object's or rule's name.
pub const NAME_LENGTH: usize = 63;
/// Characters of a test's name and of each text under `meta`.
pub const TEXT_LENGTH: usize = 256;
/// Addresses to which one dnat rule spreads its connections.
pub const NAT_TARGETS: usize = 1_024;
/// Addresses that all NAT rules publish and use together: the node may have to answer ARP and ND
/// for each of them.
pub const TRANSLATED_ADDRESSES: u128 = 65_536;
/// Address ranges and services of all rules together after objects are put in place; a list that is
/// one object counts for nothing.
pub const COMPILED_RANGES: usize = 4_000_000;
/// Places in the rule lists of zone pairs, after `from` and `to` lists are multiplied out.
pub const ZONE_PAIR_RULES: usize = 8_000_000;
/// Problems that are reported of one policy; the number of those left out is reported too.
pub const DIAGNOSTICS: usize = 100;
