//! What another member says: authentic as it is by then, it may still be anything.

use std::time::Duration;

use gabion_engine::{
    ClusterConfig, Engine, EngineConfig, Frame, Generation, InterfaceId, Limits, NodeId, Offload,
    Session, Time,
};
use gabion_tests::network;

/// A node with one peer that has a session.
fn member(now: Time) -> Engine {
    let limits = Limits { flows: 64, mappings: 64, neighbours: 16, ..Limits::default() };
    let cluster = ClusterConfig {
        node: NodeId(1),
        members: vec![NodeId(1), NodeId(2), NodeId(3)],
        machines: Vec::new(),
        incarnation: 1,
        secret: [9; 16],
        sync_mtu: 1_500,
        heartbeat: Duration::from_millis(100),
        heartbeats_missed: 4,
        reset_lost: true,
    };
    let config = EngineConfig { limits, seed: [3; 32], cluster: Some(cluster) };
    let mut engine = Engine::new(now, config);
    engine.set_network(network::network());
    engine.set_rules(Generation(1), network::rules());
    engine.open();
    let (send, receive) = ([1; 16], [2; 16]);
    let session = Session::Up { incarnation: 1, epoch: 0, send, receive, unwraps: true };
    engine.handle_session(now, NodeId(2), session);
    engine.handle_session(now, NodeId(3), Session::Lost);
    engine
}

/// Steps of a kind, a length and so many bytes: a datagram, a wrapped packet, a frame, or time.
pub(crate) fn peers(bytes: &[u8]) {
    let mut now = Time::from_nanos(1_000_000_000);
    let mut engine = member(now);
    let mut rest = bytes;
    while let [kind, length, behind @ ..] = rest {
        let (value, behind) = behind.split_at(usize::from(*length).min(behind.len()));
        rest = behind;
        match kind % 4 {
            0 => engine.handle_peer(now, NodeId(2), value),
            1 => {
                engine.handle_wrapped(now, NodeId(2), &mut value.to_vec());
            }
            2 => {
                let mut bytes = value.to_vec();
                let mut frame = Frame { bytes: &mut bytes, offload: Offload::default() };
                engine.handle_frame(now, InterfaceId(u16::from(*kind / 128)), &mut frame);
            }
            _ => {
                now = now + Duration::from_millis(10 * u64::from(*length));
                engine.handle_timeout(now);
            }
        }
        drain(&mut engine, now);
        let counters = engine.counters();
        assert_eq!(counters.frames_in, counters.decided() + counters.held);
        let status = engine.cluster_status(now).expect("it is a member");
        assert!(status.owned <= 64 && status.replicas <= 64 && status.directed <= 128);
        assert!(status.coverage.covered <= status.coverage.established);
    }
}

/// Everything that there is to be sent ends.
fn drain(engine: &mut Engine, now: Time) {
    let mut datagram = Vec::new();
    let mut count = 0;
    while engine.poll_peer(now, &mut datagram).is_some() {
        count += 1;
        assert!(count < 10_000, "it never ends");
    }
    while let Some(wrapped) = engine.poll_wrapped() {
        engine.recycle(wrapped);
    }
    while engine.poll_transmit().is_some() {}
    while engine.poll_event().is_some() {}
}
