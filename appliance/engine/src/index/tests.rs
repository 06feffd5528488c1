#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::hash::KeyedHash;

/// Hashes as they come: no two alike, spread well.
fn spread(number: u32) -> u64 {
    KeyedHash::new([3; 16]).words([], u64::from(number))
}

fn taken(bucket: &Bucket) -> usize {
    bucket.tags.iter().filter(|tag| **tag != 0).count()
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Insert(u64, u32),
    Remove(u64, u32),
}

/// Few hashes, many of which share buckets and tags.
fn hashes() -> impl Strategy<Value = u64> {
    prop_oneof![
        (0..6_u64).prop_map(|number| number << 30 | 1),
        (0..6_u64).prop_map(|number| number << 62 | 1),
        any::<u8>().prop_map(|number| spread(number.into())),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (hashes(), 0..400_u32).prop_map(|(hash, id)| Step::Insert(hash, id)),
        1 => (hashes(), 0..400_u32).prop_map(|(hash, id)| Step::Remove(hash, id)),
    ]
}

proptest! {
    /// Against a map, with hashes as an enemy would choose who knew the key: what is in is found,
    /// what is not is not, and what is refused leaves no trace.
    #[test]
    fn index_is_a_map_whatever_the_hashes_are(
        keys in 1..64_usize,
        steps in prop::collection::vec(steps(), 0..1_500),
    ) {
        let mut index = Index::new(keys);
        let mut model = BTreeMap::new();
        for step in steps {
            match step {
                Step::Insert(hash, id) => {
                    if model.contains_key(&id) {
                        continue;
                    }
                    if index.insert(hash, id) {
                        model.insert(id, hash);
                    } else {
                        let at = index.home(hash).bucket;
                        let tried = index.buckets.iter().cycle().skip(at).take(BUCKETS_TRIED);
                        prop_assert!(tried.into_iter().all(|bucket| taken(bucket) == WAYS));
                    }
                }
                Step::Remove(hash, id) => {
                    let there = model.remove(&id);
                    let removed = index.remove(there.unwrap_or(hash), id);
                    prop_assert_eq!(removed, there.is_some());
                }
            }
        }
        for (id, hash) in &model {
            prop_assert_eq!(index.find(*hash, |there| there == *id), Some(*id));
        }
        prop_assert_eq!(index.buckets.iter().map(taken).sum::<usize>(), model.len());
        for (id, hash) in &model {
            prop_assert!(index.remove(*hash, *id));
            prop_assert_eq!(index.find(*hash, |there| there == *id), None);
        }
        prop_assert!(index.buckets.iter().all(|bucket| bucket.passed_by == 0));
    }
}

#[test]
fn a_full_index_has_a_place_for_every_key() {
    for keys in [1, 2, 7, 64, 1_000, 200_000] {
        let mut index = Index::new(keys as usize);
        let mut oldest = 0;
        for id in 0..keys {
            assert!(index.insert(spread(id), id), "{id} of {keys}");
        }
        // Full, one out and one in, for three times as many.
        for id in keys..4 * keys {
            assert!(index.remove(spread(oldest), oldest % IDS_MAX));
            assert!(index.insert(spread(id), id), "{id} in the place of {oldest}");
            oldest += 1;
        }
        for id in oldest..4 * keys {
            assert_eq!(index.find(spread(id), |there| there == id), Some(id));
        }
        let passed_by: u32 = index.buckets.iter().map(|bucket| bucket.passed_by).sum();
        assert!(passed_by <= 8 + keys / 15, "{passed_by} of {keys}");
    }
}
