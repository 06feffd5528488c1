//! What is compared with what, and what must come out.

use crate::lab::{ArmKind, Datapath, System};
use crate::load::Metric;

/// One comparison.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// As `--only` names it.
    pub(crate) id: &'static str,
    /// family/case
    pub(crate) name: &'static str,
    pub(crate) metric: Metric,
    pub(crate) arms: Vec<ArmKind>,
    /// What others are held against.
    pub(crate) base: ArmKind,
    /// The same again.
    pub(crate) control: ArmKind,
    pub(crate) gates: Vec<Gate>,
}

/// A promise about an arm's ratio to the base.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gate {
    /// Its number in the project's list.
    pub(crate) id: &'static str,
    pub(crate) arm: ArmKind,
    pub(crate) bound: Bound,
}

/// By that end of the interval that is further from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// So far from 1.
    Within(f64),
}

const DIRECT: ArmKind = ArmKind::of(System::Direct);
const PEER: ArmKind = ArmKind::of(System::Peer);
const CHAIN: ArmKind = ArmKind::of(System::PeerChain);
pub(crate) const USERSPACE: ArmKind = ArmKind::of(System::Gabion(Datapath::Userspace));
const EBPF: ArmKind = ArmKind::of(System::Gabion(Datapath::Ebpf));
const XDP: ArmKind = ArmKind::of(System::Gabion(Datapath::Xdp));

const THOUSAND: u32 = 1_000;
const MILLION: u64 = 1 << 20;

/// All comparisons, in the order in which they are made.
pub(crate) fn all() -> Vec<Case> {
    let frames = [
        ("packets-64", "udp4-snat/64", 60),
        ("packets-128", "udp4-snat/128", 124),
        ("packets-256", "udp4-snat/256", 252),
        ("packets-512", "udp4-snat/512", 508),
        ("packets-1024", "udp4-snat/1024", 1_020),
        ("packets-1518", "udp4-snat/1518", 1_514),
    ];
    let mut cases = vec![
        against_peer("stream-gso", "tcp4-snat/gso", Metric::StreamGso { streams: 1 })
            .gate("P2a", EBPF, Bound::AtLeast(1.0))
            .gate("P3", USERSPACE, Bound::AtLeast(0.6)),
        against_peer("stream-gso-8", "tcp4-snat/gso-8-streams", Metric::StreamGso { streams: 8 }),
        against_peer("stream-1500", "tcp4-snat/1500", Metric::Stream1500 { streams: 1 }).gate(
            "P2b",
            EBPF,
            Bound::AtLeast(1.1),
        ),
        against_peer(
            "stream-1500-8",
            "tcp4-snat/1500-8-streams",
            Metric::Stream1500 { streams: 8 },
        ),
        against_peer("round-trip", "tcp4-snat/1-byte", Metric::RoundTrip).gate(
            "P2c",
            EBPF,
            Bound::AtMost(0.9),
        ),
        against_peer("connections", "tcp4-snat/1-byte", Metric::Connections).gate(
            "P4a",
            EBPF,
            Bound::AtLeast(1.0),
        ),
        connections_by_rules(),
        against_peer("new-flows", "udp4-snat/64", Metric::NewFlows).gate(
            "P4c",
            EBPF,
            Bound::AtLeast(0.8),
        ),
    ];
    cases.extend(frames.map(|(id, name, bytes)| {
        let case = against_peer(id, name, Metric::Packets { bytes, flows: 1 << 10 });
        if bytes == 60 {
            case.in_the_driver_too().gate("P1a", EBPF, Bound::AtLeast(1.5)).gate(
                "P1b",
                XDP,
                Bound::AtLeast(4.0),
            )
        } else {
            case
        }
    }));
    cases.push(packets_by_rules());
    cases.push(
        against_peer(
            "packets-1m",
            "udp4-snat/64-1m-flows",
            Metric::Packets { bytes: 60, flows: MILLION },
        )
        .in_the_driver_too()
        .gate("P1c", EBPF, Bound::AtLeast(1.7))
        .gate("P1c-xdp", XDP, Bound::AtLeast(2.5)),
    );
    cases
}

fn against_peer(id: &'static str, name: &'static str, metric: Metric) -> Case {
    let (base, control) = (PEER, PEER.again());
    let arms = vec![DIRECT, base, USERSPACE, EBPF, control];
    Case { id, name, metric, arms, base, control, gates: Vec::new() }
}

/// A thousand rules: in a map where the kernel can, one after the other where it could not.
fn connections_by_rules() -> Case {
    let (base, control) = (PEER.rules(THOUSAND), PEER.rules(THOUSAND).again());
    let ours = EBPF.rules(THOUSAND);
    let arms = vec![EBPF, base, CHAIN.rules(THOUSAND), ours, control];
    let (id, name, metric) = ("connections-1k", "tcp4-snat/1000-rules", Metric::Connections);
    let case = Case { id, name, metric, arms, base, control, gates: Vec::new() };
    case.gate("P4b", ours, Bound::AtLeast(1.5))
}

/// An established packet asks no rule.
fn packets_by_rules() -> Case {
    let (base, control) = (EBPF.rules(1), EBPF.rules(1).again());
    let most = EBPF.rules(100 * THOUSAND);
    let arms = vec![base, EBPF, EBPF.rules(THOUSAND), EBPF.rules(10 * THOUSAND), most, control];
    let metric = Metric::Packets { bytes: 60, flows: 1 << 10 };
    let (id, name) = ("rules", "udp4-snat/64-by-rules");
    let case = Case { id, name, metric, arms, base, control, gates: Vec::new() };
    case.gate("P8", most, Bound::Within(0.03))
}

impl Case {
    /// Where frames are as a driver has them: of sockets they are not, so no other load has this arm.
    fn in_the_driver_too(mut self) -> Self {
        self.arms.push(XDP);
        self
    }

    fn gate(mut self, id: &'static str, arm: ArmKind, bound: Bound) -> Self {
        self.gates.push(Gate { id, arm, bound });
        self
    }

    /// So many that what each of them takes can be told from all else that goes on.
    pub(crate) fn many_flows(&self) -> Option<f64> {
        match self.metric {
            Metric::Packets { flows, .. } => (flows >= MILLION).then_some(flows as f64),
            Metric::StreamGso { .. }
            | Metric::Stream1500 { .. }
            | Metric::RoundTrip
            | Metric::Connections
            | Metric::NewFlows => None,
        }
    }

    /// The same with these datapaths of the appliance alone; `None` where nothing to compare is left.
    pub(crate) fn with(mut self, datapaths: &[Datapath]) -> Option<Self> {
        let stays = |arm: ArmKind| arm.datapath().is_none_or(|path| datapaths.contains(&path));
        self.arms.retain(|&arm| stays(arm));
        self.gates.retain(|gate| stays(gate.arm));
        (stays(self.base) && stays(self.control)).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_comparison_has_its_base_its_control_and_what_it_promises() {
        for case in all() {
            for arm in [case.base, case.control].iter().chain(case.gates.iter().map(|g| &g.arm)) {
                assert!(case.arms.contains(arm), "{}: {}", case.id, arm.label());
            }
            assert_eq!(case.base.again(), case.control);
        }
    }

    #[test]
    fn without_a_datapath_its_arms_and_gates_are_gone() {
        let find = |id| all().into_iter().find(|case| case.id == id).unwrap();
        let case = find("stream-gso").with(&[Datapath::Userspace]).unwrap();
        assert_eq!(case.arms.len(), 4);
        assert_eq!(case.gates.len(), 1);
        let packets = find("packets-64").with(&[Datapath::Ebpf]).unwrap();
        assert!(!packets.arms.contains(&XDP));
        assert!(find("rules").with(&[Datapath::Userspace]).is_none());
    }
}
