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
        expected: "no custom data: closed, and it says why",
        make: |_| None,
        reason: "there is no first-boot data",
    },
    Bad {
        name: "custom-data-empty",
        expected: "empty custom data: closed, and it says why",
        make: |_| Some(String::new()),
        reason: "empty",
    },
    Bad {
        name: "custom-data-malformed",
        expected: "malformed custom data: the same",
        make: |good| Some(good[..good.len() / 2].to_owned()),
        // Whatever it says of where the text ends.
        reason: "",
    },
    Bad {
        name: "custom-data-version",
        expected: "custom data of another version: the same",
        make: |good| Some(good.replace("gabion/first-boot/v1", "gabion/first-boot/v9")),
        reason: "gabion/first-boot/v9",
    },
    Bad {
        name: "custom-data-policy",
        expected: "custom data with a bad policy: the same",
        make: |good| {
            Some(good.replacen('{', "{\"policy\": \"apiVersion: gabion/v1\\nrules: 7\\n\",", 1))
        },
        reason: "policy",
    },
];
