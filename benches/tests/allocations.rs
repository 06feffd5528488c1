//! The promise of the established path: no packet of a flow that is open allocates memory.

#![allow(clippy::unwrap_used)]

use gabion_benches::{Established, Kind, Subject, policy};
use gabion_engine::Verdict;

/// Enough to meet anything that allocates once in a while.
const ROUNDS: usize = 1_000;

#[test]
fn packets_of_established_flows_allocate_nothing() {
    for kind in Kind::ALL {
        let mut subject = Subject::new(&policy(10), 1_024);
        let flows: Vec<_> =
            (0..16).map(|number| Established::open(&mut subject, kind, number)).collect();
        let mut frames: Vec<_> =
            flows.iter().flat_map(|flow| [flow.original.clone(), flow.reply.clone()]).collect();
        let fresh = frames.clone();
        let mut forwarded = 0;
        let counted = allocation_counter::measure(|| {
            for _ in 0..ROUNDS {
                for ((from, frame), (_, fresh)) in frames.iter_mut().zip(&fresh) {
                    frame.copy_from_slice(fresh);
                    let verdict = subject.handle(*from, frame);
                    forwarded += usize::from(matches!(verdict, Verdict::Forward { .. }));
                    while subject.engine.poll_transmit().is_some() {}
                    while subject.engine.poll_event().is_some() {}
                }
            }
        });
        assert_eq!(forwarded, ROUNDS * fresh.len(), "{}", kind.label());
        assert_eq!(counted.count_total, 0, "{}: {counted:?}", kind.label());
    }
}

#[test]
fn the_counter_counts() {
    let counted = allocation_counter::measure(|| drop(std::hint::black_box(vec![0_u8; 64])));
    assert_eq!(counted.count_total, 1);
}
