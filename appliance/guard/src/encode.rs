//! The rules as one netlink batch: the kernel takes all of it or none.

use std::ffi::CString;
use std::ops::{Range, RangeInclusive};

use nftnl::expr::{
    Cmp, CmpOp, Counter, Expression, Icmpv6HeaderField, InterfaceName, Ipv4HeaderField,
    Ipv6HeaderField, Meta, NetworkHeaderField, Payload, TcpHeaderField, TransportHeaderField,
};
use nftnl::{Batch, ChainType, FinalizedBatch, MsgType, Policy, ProtoFamily};

use crate::message::set_table_flags;
use crate::rules::{
    Chain, HELD_PRIORITY, HELD_TABLE, Hook, IpVersion, Match, PRIORITY, Rule, TABLE, Transport,
    Verdict,
};

/// What the kernel is to do, as it is sent.
pub(crate) struct Request {
    pages: Vec<Vec<u8>>,
    /// The sequence numbers that the kernel acknowledges.
    pub(crate) awaited: Range<u32>,
}

impl Request {
    fn new(batch: &FinalizedBatch) -> Self {
        let pages = batch.iter().map(<[u8]>::to_vec).collect();
        Self { pages, awaited: batch.sequence_numbers() }
    }

    pub(crate) fn pages(&self) -> impl Iterator<Item = &[u8]> {
        self.pages.iter().map(Vec::as_slice)
    }
}

/// Puts a table with these chains in the place of the one that may be there.
pub(crate) fn replacement(chains: &[Chain]) -> Request {
    Request::new(&batch(chains, TABLE, PRIORITY))
}

/// The same chains in a table that belongs to the socket by which this is sent: nobody else can change
/// or flush it, and the kernel takes it away with the socket.
pub(crate) fn held(chains: &[Chain]) -> Request {
    let mut request = Request::new(&batch(chains, HELD_TABLE, HELD_PRIORITY));
    for page in &mut request.pages {
        // libnftnl's safe binding has no word for a table's flags.
        set_table_flags(page, NFT_TABLE_F_OWNER);
    }
    request
}

/// Since Linux 5.12 (linux/netfilter/nf_tables.h).
const NFT_TABLE_F_OWNER: u32 = 2;

fn batch(chains: &[Chain], name: &str, priority: i32) -> FinalizedBatch {
    let mut batch = Batch::new();
    let table = table(name);
    // Deleting what is not there is an error, adding what is there is not: so added, deleted, added.
    batch.add(&table, MsgType::Add);
    batch.add(&table, MsgType::Del);
    batch.add(&table, MsgType::Add);
    let built: Vec<_> =
        chains.iter().map(|chain| (build_chain(chain, priority, &table), chain)).collect();
    for (chain, _) in &built {
        batch.add(chain, MsgType::Add);
    }
    for (chain, description) in &built {
        for rule in &description.rules {
            batch.add(&build_rule(rule, chain), MsgType::Add);
        }
    }
    batch.finalize()
}

/// Takes the table away, if it is there.
pub(crate) fn removal() -> Request {
    let mut batch = Batch::new();
    let table = table(TABLE);
    batch.add(&table, MsgType::Add);
    batch.add(&table, MsgType::Del);
    Request::new(&batch.finalize())
}

fn table(name: &str) -> nftnl::Table {
    nftnl::Table::new(c_string(name), ProtoFamily::Inet)
}

fn build_chain<'a>(chain: &Chain, priority: i32, table: &'a nftnl::Table) -> nftnl::Chain<'a> {
    let mut built = nftnl::Chain::new(c_string(chain.name), table);
    if let Some(hook) = chain.hook {
        let hook = match hook {
            Hook::Prerouting => nftnl::Hook::PreRouting,
            Hook::Forward => nftnl::Hook::Forward,
            Hook::Output => nftnl::Hook::Out,
        };
        built.set_hook(hook, priority);
        built.set_type(ChainType::Filter);
        built.set_policy(Policy::Accept);
    }
    built
}

fn build_rule<'a>(rule: &Rule, chain: &'a nftnl::Chain<'a>) -> nftnl::Rule<'a> {
    let mut built = nftnl::Rule::new(chain);
    built.set_comment(c_string(&rule.label)).expect("a label is shorter than a comment may be");
    for condition in &rule.matches {
        add_match(&mut built, condition);
    }
    built.add_expr(&Counter);
    built.add_expr(&match rule.verdict {
        Verdict::Accept => nftnl::expr::Verdict::Accept,
        Verdict::Drop => nftnl::expr::Verdict::Drop,
        Verdict::Goto(name) => nftnl::expr::Verdict::Goto { chain: c_string(name) },
    });
    built
}

fn add_match(rule: &mut nftnl::Rule<'_>, condition: &Match) {
    let ports = |field| Payload::Transport(TransportHeaderField::Tcp(field));
    match condition {
        Match::From(name) => {
            let name = InterfaceName::Exact(name.as_c_str().to_owned());
            equal(rule, &Meta::IifName, name);
        }
        Match::To(name) => {
            let name = InterfaceName::Exact(name.as_c_str().to_owned());
            equal(rule, &Meta::OifName, name);
        }
        Match::Ip(version) => {
            let family = match version {
                IpVersion::V4 => ProtoFamily::Ipv4,
                IpVersion::V6 => ProtoFamily::Ipv6,
            };
            equal(rule, &Meta::NfProto, family as u8);
        }
        Match::Transport(transport) => {
            // IANA protocol numbers.
            let number: u8 = match transport {
                Transport::Tcp => 6,
                Transport::Udp => 17,
                Transport::Icmpv6 => 58,
            };
            equal(rule, &Meta::L4Proto, number);
        }
        // TCP and UDP have their ports in the same place.
        Match::SourcePort(port) => equal(rule, &ports(TcpHeaderField::Sport), port.to_be()),
        Match::DestinationPort(port) => equal(rule, &ports(TcpHeaderField::Dport), port.to_be()),
        Match::Source(address) => {
            let field = NetworkHeaderField::Ipv4(Ipv4HeaderField::Saddr);
            equal(rule, &Payload::Network(field), *address);
        }
        Match::Destination(address) => {
            let field = NetworkHeaderField::Ipv4(Ipv4HeaderField::Daddr);
            equal(rule, &Payload::Network(field), *address);
        }
        Match::SourcePorts(range) => within(rule, &ports(TcpHeaderField::Sport), range),
        Match::DestinationPorts(range) => within(rule, &ports(TcpHeaderField::Dport), range),
        Match::HopLimit(limit) => {
            let field = NetworkHeaderField::Ipv6(Ipv6HeaderField::HopLimit);
            equal(rule, &Payload::Network(field), *limit);
        }
        Match::Icmpv6Type(range) => {
            let field = TransportHeaderField::Icmpv6(Icmpv6HeaderField::Type);
            rule.add_expr(&Payload::Transport(field));
            rule.add_expr(&Cmp::new(CmpOp::Gte, *range.start()));
            rule.add_expr(&Cmp::new(CmpOp::Lte, *range.end()));
        }
    }
}

fn equal(rule: &mut nftnl::Rule<'_>, field: &impl Expression, value: impl nftnl::expr::ToSlice) {
    rule.add_expr(field);
    rule.add_expr(&Cmp::new(CmpOp::Eq, value));
}

fn within(rule: &mut nftnl::Rule<'_>, field: &impl Expression, range: &RangeInclusive<u16>) {
    rule.add_expr(field);
    // Compared byte by byte, as on the wire.
    rule.add_expr(&Cmp::new(CmpOp::Gte, range.start().to_be()));
    rule.add_expr(&Cmp::new(CmpOp::Lte, range.end().to_be()));
}

/// For names and labels of this program, none of which can hold a NUL.
fn c_string(text: &str) -> CString {
    CString::new(text).expect("names and labels hold no NUL")
}
