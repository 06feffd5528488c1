//! The Rust files of the workspace, read once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use super::scan::{code_of, without_tests};

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Product,
    Tests,
}

#[derive(Debug)]
pub(super) struct Source {
    /// From the root of the workspace.
    pub(super) path: String,
    pub(super) part: Part,
    pub(super) text: String,
    /// Without comments and literals.
    pub(super) code: String,
    /// Without tests also; empty for a file of tests.
    pub(super) product: String,
    /// How many lines of tests stand among the product.
    pub(super) test_lines: usize,
}

impl Source {
    pub(super) fn is_of(&self, folder: &str) -> bool {
        Path::new(&self.path).starts_with(folder)
    }

    /// This test itself has to name what it forbids.
    pub(super) fn is_tidy(&self) -> bool {
        self.is_of("tests/tests/tidy")
    }

    /// How many lines are not tests.
    pub(super) fn product_lines(&self) -> usize {
        match self.part {
            Part::Product => self.text.lines().count() - self.test_lines,
            Part::Tests => 0,
        }
    }
}

pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(super) fn all() -> &'static [Source] {
    static ALL: LazyLock<Vec<Source>> = LazyLock::new(|| {
        let mut found = Vec::new();
        for folder in ["rules", "appliance", "image", "tests", "benches", "fuzz"] {
            collect(&root().join(folder), &mut found);
        }
        found.sort_by(|a, b| a.path.cmp(&b.path));
        mark_test_modules(&mut found);
        assert!(found.len() > 50, "only {} files were found", found.len());
        found
    });
    &ALL
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(read(&path));
        }
    }
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    let code = code_of(&text);
    let path = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    // Everything for tests lies in a folder `tests` or in a file `tests.rs`.
    let of_tests = path.split('/').any(|part| part == "tests" || part == "tests.rs");
    let part = if of_tests { Part::Tests } else { Part::Product };
    let (product, test_lines) = if of_tests { (String::new(), 0) } else { without_tests(&code) };
    Source { path, part, text, code, product, test_lines }
}

/// Files that some other file declares for tests only.
fn mark_test_modules(all: &mut [Source]) {
    let mut modules = Vec::new();
    for source in all.iter() {
        let folder =
            source.path.trim_end_matches(".rs").trim_end_matches("/lib").trim_end_matches("/mod");
        let lines: Vec<&str> = source.code.lines().collect();
        for pair in lines.windows(2) {
            let name = pair[1].trim().rsplit(' ').next().unwrap_or_default();
            if pair[0].trim() == "#[cfg(test)]"
                && pair[1].contains("mod ")
                && let Some(name) = name.strip_suffix(';')
            {
                modules.push(format!("{folder}/{name}"));
            }
        }
    }
    for source in all.iter_mut() {
        let of_module = |module: &String| {
            source.path == format!("{module}.rs") || Path::new(&source.path).starts_with(module)
        };
        if modules.iter().any(of_module) {
            source.part = Part::Tests;
            source.product.clear();
        }
    }
}
