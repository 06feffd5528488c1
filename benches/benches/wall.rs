//! Wall-clock times of the engine and of the rule matcher alone: metric/action/family/case.
//!
//! Set-up is outside the timed part. A hit is one packet of an established flow with 64 bytes of
//! payload, copied anew each time because it is rewritten in place; the copy is timed too. A miss is
//! the first packet of a flow: rules, translation, flow table, log.

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gabion_benches::{EXTERNAL, Established, Kind, Subject, policy};
use gabion_engine::Verdict;
use gabion_rules::{Query, Transport, ZoneId};

/// Flows that the hits go round: more than the first-level cache holds.
const FLOWS: u16 = 1_000;
/// First packets of a batch, each of a flow of its own.
const MISSES: u16 = 1_000;

fn process_hits(criterion: &mut Criterion) {
    for kind in Kind::ALL {
        let mut subject = Subject::new(&policy(10), 16_384);
        let flows: Vec<Established> =
            (0..FLOWS).map(|number| Established::open(&mut subject, kind, number)).collect();
        let mut frames: Vec<_> = flows.into_iter().map(|flow| flow.original).collect();
        let fresh = frames.clone();
        let mut next = 0;
        let mut group = criterion.benchmark_group(format!("wall/process/{}", kind.label()));
        group.throughput(Throughput::Elements(1));
        group.bench_function("hit", |bencher| {
            bencher.iter(|| {
                let (from, frame) = &mut frames[next];
                frame.copy_from_slice(&fresh[next].1);
                let verdict = subject.handle(*from, frame);
                assert!(matches!(verdict, Verdict::Forward { .. }));
                next = (next + 1) % usize::from(FLOWS);
            });
        });
        group.finish();
    }
}

fn process_misses(criterion: &mut Criterion) {
    for kind in Kind::ALL {
        let mut group = criterion.benchmark_group(format!("wall/process/{}", kind.label()));
        group.throughput(Throughput::Elements(MISSES.into()));
        group.bench_function("miss", |bencher| {
            bencher.iter_batched_ref(
                || {
                    let mut subject = Subject::new(&policy(10), 16_384);
                    // The neighbours are known, so that nothing waits.
                    Established::open(&mut subject, kind, MISSES);
                    let frames: Vec<_> = (0..MISSES).map(|number| kind.first(number)).collect();
                    (subject, frames)
                },
                |(subject, frames)| {
                    for frame in frames {
                        let verdict = subject.handle(kind.interfaces().0, frame);
                        assert!(matches!(verdict, Verdict::Forward { .. }));
                    }
                },
                BatchSize::PerIteration,
            );
        });
        group.finish();
    }
}

fn process_drops(criterion: &mut Criterion) {
    let mut subject = Subject::new(&policy(10), 16_384);
    let stray =
        gabion_engine::build::tcp().from("198.51.100.9:40000").to("10.1.0.10:443").seq(1).ack(1);
    let frame = stray.frame();
    let mut bytes = frame.clone();
    criterion.bench_function("wall/process/tcp4/stray", |bencher| {
        bencher.iter(|| {
            bytes.copy_from_slice(&frame);
            let verdict = subject.handle(EXTERNAL, &mut bytes);
            assert!(matches!(verdict, Verdict::Drop(_)));
            // The record of the denial, which is limited per second.
            while subject.engine.poll_event().is_some() {}
        });
    });
}

fn decide(criterion: &mut Criterion) {
    for rules in [10, 1_000, 10_000] {
        let loaded = gabion_rules::load("wall.yaml", &policy(rules), None)
            .unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
        let query = Query {
            from: ZoneId(0),
            to: ZoneId(1),
            source: Ipv4Addr::new(198, 51, 100, 9).into(),
            destination: Ipv4Addr::new(10, 1, 0, 10).into(),
            transport: Transport::Tcp { source_port: 40_000, destination_port: 443 },
        };
        let mut group = criterion.benchmark_group("wall/decide/tcp4");
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("last-of-{rules}"), |bencher| {
            bencher.iter(|| loaded.rule_set.decide(black_box(&query), &mut |_| {}));
        });
        group.finish();
    }
}

criterion_group!(wall, process_hits, process_misses, process_drops, decide);
criterion_main!(wall);
