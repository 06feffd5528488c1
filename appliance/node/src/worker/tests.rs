#![allow(clippy::unwrap_used)]

use gabion_datapath::{Loopback, VnetHeader, Wire};
use gabion_engine::{DropReason, Limits};

use super::*;
use crate::config::Log;
use crate::generations::Generations;
use crate::record::Reader;

struct Rig {
    worker: WorkerHandle,
    packets: JoinHandle<()>,
    records: JoinHandle<()>,
    recorder: Recorder,
    readiness: Arc<Readiness>,
    wire: Wire,
}

fn rig() -> Rig {
    let (datapath, wire) = Loopback::new(2).unwrap();
    let clock = Clock;
    let readiness = Arc::new(Readiness::new(Duration::from_secs(60)));
    let log = Log { journald: false, json: None, queue: 256, level: tracing::Level::INFO };
    let interfaces = ["ext", "int"]
        .map(|name| DataInterface { name: name.into(), device: format!("dev-{name}") })
        .to_vec();
    let generations = Generations::default();
    let reader = Reader { clock, generations, interfaces: interfaces.clone() };
    let (recorder, records) = Recorder::start(&log, reader).unwrap();
    let worker = Worker {
        engine: EngineConfig { limits: Limits::default(), seed: [7; 32], cluster: None },
        datapath,
        fast_path: None,
        interfaces,
        clock,
        readiness: Arc::clone(&readiness),
        recorder: recorder.clone(),
        neighbours: mpsc::channel(NEIGHBOURS_DEPTH).0,
        links: None,
        company: None,
    };
    let (worker, packets) = worker.spawn().unwrap();
    Rig { worker, packets, records, recorder, readiness, wire }
}

impl Rig {
    /// Sends a frame and waits until it has been decided.
    async fn send(&self, bytes: &[u8], frames_in: u64) -> Snapshot {
        assert!(self.wire.inject(Port(0), bytes, VnetHeader::default()));
        loop {
            let snapshot = self.worker.snapshot().await.unwrap();
            if snapshot.counters.frames_in == frames_in {
                return snapshot;
            }
        }
    }

    fn end(self) {
        self.worker.stop();
        self.packets.join().unwrap();
        self.recorder.stop();
        self.records.join().unwrap();
    }
}

fn rules() -> Arc<RuleSet> {
    let text = "apiVersion: gabion/v1\nzones:\n  a: { interfaces: [ext] }\n  b: { interfaces: [int] }\n\
                rules:\n  - { name: all, from: a, to: b, action: allow }\n";
    gabion_rules::load("test", text, None).unwrap().rule_set
}

/// Covers: CC-FAIL
#[tokio::test]
async fn nothing_passes_before_the_gate_is_open_and_after_it_has_closed() {
    let rig = rig();
    let nonsense = [0; 60];
    let closed = rig.send(&nonsense, 1).await;
    assert_eq!(closed.counters.dropped(DropReason::NotReady), 1);
    rig.worker.set_rules(Generation(1), rules(), 0).await.unwrap();
    let closed = rig.send(&nonsense, 2).await;
    assert_eq!(closed.counters.dropped(DropReason::NotReady), 2, "rules alone do not open");
    rig.worker.set_gate(true);
    let open = rig.send(&nonsense, 3).await;
    assert_eq!(open.counters.dropped(DropReason::NotIp), 1);
    rig.worker.set_gate(false);
    let closed = rig.send(&nonsense, 4).await;
    assert_eq!(closed.counters.dropped(DropReason::NotReady), 3);
    assert_eq!((closed.generation, closed.ports[0].received), (Generation(1), 4));
    rig.end();
}

#[tokio::test]
async fn a_port_that_goes_down_is_told_with_its_interface() {
    let rig = rig();
    rig.readiness.network(Ok(()));
    let mut changes = rig.readiness.changes();
    let told = |word: &str| {
        rig.readiness.obstacles().iter().any(|obstacle| obstacle.detail().contains(word))
    };
    while told("data interfaces are not open yet") {
        changes.next().await;
    }
    rig.wire.set_up(Port(1), false);
    while !told("is down") {
        changes.next().await;
    }
    rig.end();
}

#[tokio::test]
async fn who_asks_after_the_end_is_told_so() {
    let rig = rig();
    let worker = rig.worker.clone();
    rig.end();
    assert_eq!(worker.snapshot().await, Err(WorkerGone));
    worker.stop();
}
