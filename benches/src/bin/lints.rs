//! How long the lints of large rule sets take, and what they find: one line for each set.

use std::collections::BTreeMap;
use std::time::Instant;

use gabion_benches::rulesets::{Class, Family, Hostile, generate, policy_text};
use gabion_rules::{LintGroup, load};

fn main() {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(100_000);
    for class in Class::ALL {
        for family in [Family::V4, Family::V6] {
            let rules = generate(class, family, count, 1);
            measure(&format!("{}/{family:?}", class.label()), &policy_text(&rules));
        }
    }
    for hostile in Hostile::ALL {
        let count = if hostile == Hostile::Lists { count / 10 } else { count };
        measure(hostile.label(), &policy_text(&hostile.generate(count, 1)));
    }
}

fn measure(name: &str, text: &str) {
    let start = Instant::now();
    let loaded = match load("policy.yaml", text, None) {
        Ok(loaded) => loaded,
        Err(error) => {
            println!("{name:12} {error}");
            return;
        }
    };
    let loading = start.elapsed();
    let start = Instant::now();
    let found = loaded.policy.lint("policy.yaml", text, None, LintGroup::Usual);
    let linting = start.elapsed();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for lint in found.iter().filter_map(|one| one.lint) {
        *counts.entry(lint.label()).or_default() += 1;
    }
    let rest = found.last().map(|last| &*last.message).unwrap_or_default();
    println!("{name:12} load {loading:8.2?}  lint {linting:8.2?}  {counts:?}  {rest}");
}
