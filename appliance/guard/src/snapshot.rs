//! Our table as it was sent, or as the kernel tells it: the same messages, so the two can be compared.
//!
//! Counters, handles and the order of attributes are left out of the comparison; all else counts.

use std::collections::BTreeMap;
use std::fmt;

use crate::message::{Attribute, Message};
use crate::rules::TABLE;

/// The table, and all that is in it.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The flags of the table; none if it is not there.
    flags: Option<u32>,
    chains: BTreeMap<String, Chain>,
}

impl Snapshot {
    /// Gathers what messages say about our table; deletions are not among them.
    pub(crate) fn gather<'a>(messages: impl IntoIterator<Item = Message<'a>>) -> Self {
        let mut snapshot = Self::default();
        for message in messages {
            snapshot.add(&message);
        }
        snapshot
    }

    pub(crate) fn add(&mut self, message: &Message<'_>) {
        let Some(attributes) = message.inet_attributes() else { return };
        let attributes: Attributes<'_> = attributes.map(|a| (a.kind, a)).collect();
        if attributes.get(&attribute::TABLE).is_none_or(|table| table.text() != TABLE) {
            return;
        }
        match i32::from(message.kind & 0xff) {
            libc::NFT_MSG_NEWTABLE => {
                self.flags =
                    attributes.get(&attribute::TABLE_FLAGS).map_or(Some(0), Attribute::u32);
            }
            libc::NFT_MSG_NEWCHAIN => {
                if let Some(name) = attributes.get(&attribute::CHAIN_NAME) {
                    self.chains.entry(name.text()).or_default().base = Base::read(&attributes);
                }
            }
            libc::NFT_MSG_NEWRULE => {
                if let Some(name) = attributes.get(&attribute::RULE_CHAIN) {
                    self.chains.entry(name.text()).or_default().rules.push(Rule::read(&attributes));
                }
            }
            _ => {}
        }
    }

    /// The first way in which the other is not like this one.
    pub(crate) fn difference(&self, found: &Self) -> Option<Difference> {
        match found.flags {
            None => return Some(Difference::NoTable),
            flags if flags != self.flags => return Some(Difference::TableFlags),
            Some(_) => {}
        }
        if let Some(name) = found.chains.keys().find(|name| !self.chains.contains_key(*name)) {
            return Some(Difference::ExtraChain(name.clone()));
        }
        for (name, ours) in &self.chains {
            let Some(theirs) = found.chains.get(name) else {
                return Some(Difference::NoChain(name.clone()));
            };
            if ours.base != theirs.base {
                return Some(Difference::ChainHook(name.clone()));
            }
            if ours.rules.len() != theirs.rules.len() {
                let (ours, theirs) = (ours.rules.len(), theirs.rules.len());
                return Some(Difference::RuleCount { chain: name.clone(), ours, theirs });
            }
            let mut pairs = ours.rules.iter().zip(&theirs.rules);
            if let Some((rule, _)) = pairs.find(|(ours, theirs)| !ours.is_like(theirs)) {
                return Some(Difference::Rule { chain: name.clone(), label: rule.label.clone() });
            }
        }
        None
    }

    /// The chain and the label of each rule.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules().map(|(chain, rule)| (chain, rule.label.as_str()))
    }

    /// Each rule, with its chain.
    pub(crate) fn rules(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.chains
            .iter()
            .flat_map(|(name, chain)| chain.rules.iter().map(move |rule| (name.as_str(), rule)))
    }
}

/// What is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Difference {
    NoTable,
    TableFlags,
    NoChain(String),
    ExtraChain(String),
    ChainHook(String),
    RuleCount { chain: String, ours: usize, theirs: usize },
    Rule { chain: String, label: String },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTable => write!(f, "table inet {TABLE} is not there"),
            Self::TableFlags => write!(f, "table inet {TABLE} is dormant or has other flags"),
            Self::NoChain(name) => write!(f, "chain {name} is not there"),
            Self::ExtraChain(name) => write!(f, "chain {name} is none of the guard's"),
            Self::ChainHook(name) => write!(f, "chain {name} has another hook, priority or policy"),
            Self::RuleCount { chain, ours, theirs } => {
                write!(f, "chain {chain} has {theirs} rules instead of {ours}")
            }
            Self::Rule { chain, label } => {
                write!(f, "rule \"{label}\" of chain {chain} is not as it should be")
            }
        }
    }
}

/// One rule, of which only the label and the counter are of use to others.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) label: String,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    expressions: Vec<Expression>,
}

impl Rule {
    fn read(attributes: &Attributes<'_>) -> Self {
        let mut rule = Self { label: String::new(), packets: 0, bytes: 0, expressions: Vec::new() };
        if let Some(data) = attributes.get(&attribute::RULE_USERDATA) {
            rule.label = label(data.value).unwrap_or_default();
        }
        let list = attributes.get(&attribute::RULE_EXPRESSIONS).into_iter();
        for element in list.flat_map(Attribute::nested) {
            let parts: Attributes<'_> = element.nested().map(|a| (a.kind, a)).collect();
            let name = parts.get(&attribute::EXPRESSION_NAME).map(Attribute::text);
            let name = name.unwrap_or_default();
            let mut expression = Expression { name, ..Expression::default() };
            let data = parts.get(&attribute::EXPRESSION_DATA).into_iter();
            for part in data.flat_map(Attribute::nested) {
                if expression.name != "counter" {
                    expression.add(&[], &part);
                } else if part.kind == attribute::COUNTER_PACKETS {
                    rule.packets = part.u64().unwrap_or_default();
                } else if part.kind == attribute::COUNTER_BYTES {
                    rule.bytes = part.u64().unwrap_or_default();
                }
            }
            rule.expressions.push(expression);
        }
        rule
    }

    fn is_like(&self, other: &Self) -> bool {
        self.label == other.label && self.expressions == other.expressions
    }
}

#[derive(Debug, Default)]
struct Chain {
    base: Base,
    rules: Vec<Rule>,
}

/// What makes a chain one that the kernel calls: nothing of it is there in other chains.
#[derive(Debug, Default, PartialEq, Eq)]
struct Base {
    hook: Option<u32>,
    priority: Option<u32>,
    policy: Option<u32>,
    kind: Option<String>,
}

impl Base {
    fn read(attributes: &Attributes<'_>) -> Self {
        let hook: Attributes<'_> = attributes
            .get(&attribute::CHAIN_HOOK)
            .into_iter()
            .flat_map(Attribute::nested)
            .map(|a| (a.kind, a))
            .collect();
        Self {
            hook: hook.get(&attribute::HOOK_NUMBER).and_then(Attribute::u32),
            priority: hook.get(&attribute::HOOK_PRIORITY).and_then(Attribute::u32),
            policy: attributes.get(&attribute::CHAIN_POLICY).and_then(Attribute::u32),
            kind: attributes.get(&attribute::CHAIN_TYPE).map(Attribute::text),
        }
    }
}

/// An expression as its attributes, each under the path of kinds that leads to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expression {
    name: String,
    parts: BTreeMap<Vec<u16>, Vec<u8>>,
}

impl Expression {
    fn add(&mut self, path: &[u16], part: &Attribute<'_>) {
        let path = [path, &[part.kind]].concat();
        if attribute::NESTS.contains(&(self.name.as_str(), path.as_slice())) {
            for inner in part.nested() {
                self.add(&path, &inner);
            }
        } else {
            self.parts.insert(path, part.value.to_vec());
        }
    }
}

type Attributes<'a> = BTreeMap<u16, Attribute<'a>>;

/// The comment in a rule's user data: kind, length, text. libnftnl defines it (udata.h), not the kernel.
fn label(data: &[u8]) -> Option<String> {
    const COMMENT: u8 = 0;
    let (&[COMMENT, length], rest) = data.split_first_chunk()? else { return None };
    let text = rest.get(..usize::from(length))?;
    Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}

/// Kinds of attributes (linux/netfilter/nf_tables.h), which depend on where they stand.
mod attribute {
    /// In tables, chains and rules alike.
    pub(super) const TABLE: u16 = 1;
    pub(super) const TABLE_FLAGS: u16 = 2;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_POLICY: u16 = 5;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const RULE_USERDATA: u16 = 7;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const COUNTER_BYTES: u16 = 1;
    pub(super) const COUNTER_PACKETS: u16 = 2;
    /// Where attributes stand inside attributes of an expression: the data of a comparison, and the
    /// data and the verdict in it of an immediate.
    pub(super) const NESTS: [(&str, &[u16]); 3] =
        [("cmp", &[3]), ("immediate", &[2]), ("immediate", &[2, 2])];
}

#[cfg(test)]
mod tests;
