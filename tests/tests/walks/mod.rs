//! What holds whatever happens: random packets, time, policies, networks and neighbours, and after
//! every step the same questions.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

use gabion_tests::walk::{Step, World, any_step};

/// The same walks every time, so that a change fails by its own doing; `PROPTEST_RNG_SEED` and
/// `PROPTEST_CASES` go hunting.
fn config() -> ProptestConfig {
    let hunting = std::env::var_os("PROPTEST_RNG_SEED").is_some();
    let chosen = ProptestConfig::default();
    ProptestConfig {
        max_shrink_iters: 3_000,
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { chosen.cases } else { 600 },
        rng_seed: if hunting { chosen.rng_seed } else { RngSeed::Fixed(2) },
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(
            "proptest-regressions",
        ))),
        ..chosen
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_lost_leaked_or_let_through(
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut world = World::begin();
        for step in &steps {
            world.take(step);
        }
        world.run_out();
        world.everything_is_free_again();
    }
}

#[test]
fn steps_reach_what_they_are_for() {
    // A generator that never opens a flow would hold any invariant.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut world = World::begin();
    let mut forwarded = 0;
    for _ in 0..4_000 {
        let step: Step = any_step().new_tree(&mut runner).unwrap().current();
        world.take(&step);
        forwarded += usize::from(!world.left_last().is_empty());
    }
    let reasons = world.reasons();
    assert!(forwarded > 200, "{forwarded} steps made anything leave");
    assert!(reasons.len() > 20, "only {reasons:?}");
}
