//! Custom data that no node can be made of.

/// What is handed over, and words of the reason that the node must give.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bad {
    pub(crate) name: &'static str,
    pub(crate) expected: &'static str,
    /// `None`: the provider hands nothing over.
    pub(crate) make: fn(good: &str) -> Option<String>,
    pub(crate) reason: &'static str,
}

/// Each is booted once.
pub(crate) const ALL: [Bad; 5] = [
    Bad {
        name: "custom-data-missing",
        expected: "without custom data nothing passes, and it says so",
        make: |_| None,
        reason: "there is no first-boot data",
    },
    Bad {
        name: "custom-data-empty",
        expected: "with empty custom data nothing passes, and it says so",
        make: |_| Some(String::new()),
        reason: "empty",
    },
    Bad {
        name: "custom-data-malformed",
        expected: "with malformed custom data nothing passes, and it says so",
        make: |good| Some(good[..good.len() / 2].to_owned()),
        // Whatever it says of where the text ends.
        reason: "",
    },
    Bad {
        name: "custom-data-version",
        expected: "with another version's nothing passes, and it says so",
        make: |good| Some(good.replace("gabion/first-boot/v1", "gabion/first-boot/v9")),
        reason: "gabion/first-boot/v9",
    },
    Bad {
        name: "custom-data-policy",
        expected: "with a bad policy nothing passes, and it says so",
        make: |good| {
            Some(good.replacen('{', "{\"policy\": \"apiVersion: gabion/v1\\nrules: 7\\n\",", 1))
        },
        reason: "policy",
    },
];
