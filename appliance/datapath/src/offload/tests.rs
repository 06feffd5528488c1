#![allow(clippy::unwrap_used)]

use super::*;

fn path(in_port: u16, source: u8, destination: u8) -> FlowPath {
    let end = |last| WireEndpoint { address: [192, 0, 2, last].into(), port: 7 };
    let key = WireKey { protocol: 6, source: end(source), destination: end(destination) };
    FlowPath {
        in_port: Port(in_port),
        arrives: key,
        leaves: key,
        out_port: Port(1 - in_port),
        source_mac: LinkAddress([2; 6]),
        destination_mac: LinkAddress([4; 6]),
        mtu: 1500,
    }
}

fn flow(id: u64, client: u8) -> FlowEntry {
    let window = TcpWindow { end: 1, permitted_end: 2, largest_window: 3, scale: Some(7) };
    FlowEntry {
        id: FlowId(id),
        generation: 1,
        paths: [path(0, client, 100), path(1, 100, client)],
        tcp: Some([window; 2]),
    }
}

#[test]
fn what_is_installed_is_told_and_removed_once() {
    let mut flows = RecordedFlows::new(8);
    flows.install(&flow(1, 1)).unwrap();
    flows.install(&flow(2, 2)).unwrap();
    let used = FlowUsage { packets: [3, 4], bytes: [300, 400], ..FlowUsage::default() };
    assert!(flows.set_usage(FlowId(2), used));

    let mut told = Vec::new();
    flows.for_each_usage(&mut |id, usage| told.push((id, usage.packets)));
    assert_eq!(told, [(FlowId(1), [0, 0]), (FlowId(2), [3, 4])]);

    assert_eq!(flows.remove(FlowId(2)), Some(used));
    assert_eq!(flows.remove(FlowId(2)), None);
    assert_eq!(flows.usage(FlowId(2)), None);
    assert!(!flows.set_usage(FlowId(2), used));
}

#[test]
fn replacing_a_flow_keeps_its_usage_and_takes_its_windows() {
    let mut flows = RecordedFlows::new(1);
    flows.install(&flow(1, 1)).unwrap();
    flows.set_usage(FlowId(1), FlowUsage { packets: [3, 4], ..FlowUsage::default() });
    let renewed = FlowEntry { generation: 2, ..flow(1, 1) };
    flows.install(&renewed).unwrap();
    assert_eq!(
        flows.usage(FlowId(1)),
        Some(FlowUsage { packets: [3, 4], tcp: renewed.tcp, ..FlowUsage::default() })
    );
    assert_eq!(flows.entries().map(|entry| entry.generation).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_full_table_and_a_taken_key_refuse_and_change_nothing() {
    let mut flows = RecordedFlows::new(2);
    flows.install(&flow(1, 1)).unwrap();
    assert_eq!(flows.install(&flow(2, 1)), Err(InstallFlowError::KeyTaken));
    flows.install(&flow(2, 2)).unwrap();
    assert_eq!(flows.install(&flow(3, 3)), Err(InstallFlowError::Full { limit: 2 }));
    assert_eq!(flows.entries().count(), 2);
}

#[test]
fn the_generation_is_the_one_set_last() {
    let mut flows = RecordedFlows::new(1);
    flows.set_generation(7);
    assert_eq!(flows.generation(), 7);
}
