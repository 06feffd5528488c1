#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn tally_is_a_multiset(
        steps in prop::collection::vec((any::<bool>(), 0..40_u8), 0..2_000),
    ) {
        let mut tally = Tally::new(64, [1; 16]);
        let mut model: HashMap<u8, u32> = HashMap::new();
        for (add, of) in steps {
            if add && model.values().sum::<u32>() < 64 {
                tally.add(of);
                *model.entry(of).or_default() += 1;
            } else if !add {
                // What is not there is not taken.
                tally.take(&of);
                model.entry(of).and_modify(|count| *count = count.saturating_sub(1));
            }
            for of in 0..40 {
                prop_assert_eq!(tally.count(&of), model.get(&of).copied().unwrap_or(0));
            }
        }
        prop_assert_eq!(tally.0.len(), model.values().filter(|count| **count > 0).count());
    }
}
