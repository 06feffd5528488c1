//! Floods in virtual time: what becomes of good clients, of live connections and of the tables.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

mod attack;
mod rig;

use std::time::Duration;

use gabion_engine::{DropReason, Event, Limits};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use attack::Kind;
use rig::{LIMITS, Rig};

const POLICY: &str = r"
apiVersion: gabion/v1
zones:
  internet: { interfaces: [ext] }
  spokes: { interfaces: [int], networks: [10.0.0.0/8, '2600:2::/32'] }
settings:
  flood: { half-open: 512, half-open-per-destination: 256, half-open-per-source: 64, flows-per-source: 512, answers-per-second: 100 }
rules:
  - { name: no-telnet, from: internet, to: spokes, service: tcp/23, action: reject }
  - { name: in, from: internet, to: spokes, service: [tcp/443, udp/53, icmp/echo-request], action: allow, log: sampled }
";

/// Ten seconds of flood with twenty good clients of each kind a second, and what follows.
fn flooded(kind: Kind, per_second: u64) -> Rig {
    let mut rig = Rig::new(POLICY, LIMITS);
    for round in 0..200 {
        rig.ask(round);
        rig.run(Duration::from_millis(50), Some((kind, per_second)));
    }
    // Those that came last have as much time as the others.
    rig.run(Duration::from_secs(8), Some((kind, per_second)));
    rig
}

/// What must hold in and after every flood.
fn endures(kind: Kind, per_second: u64) {
    let mut rig = flooded(kind, per_second);
    let seen = ["203.0.114.", "44.", "45."].map(|of| rig.success(of));
    let [known, new, fragments] = seen.map(rig::Success::per_cent);
    assert_eq!(known, 100, "known clients in {kind:?}: {seen:?}");
    assert_eq!(new, 100, "new clients in {kind:?}: {seen:?}");
    if !matches!(kind, Kind::SynFromOne | Kind::SynFromOneNetwork) {
        assert!(
            rig.success("44.").slowest < Duration::from_secs(1),
            "at once in {kind:?}: {seen:?}"
        );
    }
    assert_eq!(fragments, 100, "fragments in {kind:?}: {seen:?}");
    let (sent, echoed) = rig.live_traffic();
    // What is still on the way apart.
    assert!(sent > 2_000 && echoed + 8 >= sent, "live connections in {kind:?}: {echoed} of {sent}");

    // At once after the flood nobody needs a third try, and once its handshakes have timed out
    // nobody needs a second one.
    for (pause, patience) in [(0, 1_100), (30, 100)] {
        rig.run(Duration::from_secs(pause), None);
        rig.forget_clients();
        for round in 0..20 {
            rig.ask(300 + 100 * pause as u16 + round);
            rig.run(Duration::from_millis(50), None);
        }
        rig.run(Duration::from_secs(2), None);
        for of in ["203.0.114.", "44.", "45."] {
            let success = rig.success(of);
            assert_eq!(success.per_cent(), 100, "{of} after {kind:?} and {pause} s");
            let slowest = success.slowest.as_millis();
            assert!(slowest <= patience, "{of} after {kind:?} and {pause} s: {success:?}");
        }
    }
    let said = |is: fn(&Event) -> bool| rig.said.iter().filter(|event| is(event)).count();
    let reached = said(|event| matches!(event, Event::LimitReached { .. }));
    let over = said(|event| matches!(event, Event::LimitOver { .. }));
    assert!(over <= reached && reached - over <= 1, "{:?}", rig.said);
    let is_limited = !matches!(kind, Kind::AckFromAnywhere | Kind::RefusedFromAnywhere);
    assert!(reached < 8 && (reached > 0) == is_limited, "{kind:?}: {:?}", rig.said);
}

/// Covers: 3.9, 3.14, CC-1.10, 4787-14a
#[test]
fn good_clients_live_connections_and_tables_endure_every_flood() {
    std::thread::scope(|scope| {
        for kind in Kind::ALL {
            scope.spawn(move || endures(kind, 4_000));
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 12,
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Covers: 3.9
    #[test]
    fn whatever_follows_whatever_live_connections_stay_and_tables_hold(
        floods in prop::collection::vec((0..Kind::ALL.len(), 200..6_000_u64, 100..1_500_u64), 1..5),
        flows in 64..2_048_u32,
    ) {
        let mut rig = Rig::new(POLICY, Limits { flows, ..LIMITS });
        for (round, (kind, per_second, millis)) in (0..).zip(floods) {
            rig.ask(round);
            rig.run(Duration::from_millis(millis), Some((Kind::ALL[kind], per_second)));
        }
        rig.run(Duration::from_millis(100), None);
        let (sent, echoed) = rig.live_traffic();
        prop_assert!(echoed + 8 >= sent, "{echoed} of {sent}");
    }
}

/// Covers: 3.18
#[test]
fn refusals_do_not_flood_others() {
    let rig = flooded(Kind::RefusedFromAnywhere, 4_000);
    let counters = rig.engine.counters();
    assert!(counters.rejected(DropReason::RuleReject) <= 18 * 100 + 100);
    assert!(counters.answers_limited > 60_000);
    assert_eq!(counters.events_lost, 0, "a flood does not crowd the log");
}
