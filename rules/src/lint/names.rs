//! The lints by name: a closed list.

/// When a lint speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LintGroup {
    /// Always: what it finds is hardly ever meant.
    Usual,
    /// When asked for: what it finds may well be meant.
    Pedantic,
}

/// One list gives the enum, its names, its help texts and its page in docs.
macro_rules! lints {
    ($($(#[doc = $help:literal])+ $variant:ident => $label:literal, $group:ident,)+) => {
        /// What is right and yet hardly meant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Lint {
            $($(#[doc = $help])+ $variant,)+
        }

        impl Lint {
            /// Every lint, in the order of the docs.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in policies, on the command line, in JSON and in docs; it never changes.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// What it looks for and what to do.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help,)+).trim_ascii(),)+ }
            }

            pub const fn group(self) -> LintGroup {
                match self { $(Self::$variant => LintGroup::$group,)+ }
            }
        }
    };
}

lints! {
    /// Every packet of the rule is decided by rules above it, at least one of which says otherwise:
    /// what the rule says never happens. Move it up, or remove it. For a monitor rule: it never counts.
    ShadowedRule => "shadowed-rule", Usual,
    /// The rule can be removed and nothing changes: rules above it decide all of its packets as it
    /// would, or a rule below it (or the default) decides them with the same action, log and timeouts.
    RedundantRule => "redundant-rule", Usual,
    /// A rule above takes a part of the rule's packets and does otherwise with them, and neither holds
    /// the other: which of the two stands first matters. (A narrow rule above a wide one is the usual
    /// way to write an exception and is not reported.)
    ConflictingRules => "conflicting-rules", Pedantic,
    /// No packet can meet the rule: its source, destination and service are of different families.
    NeverMatches => "never-matches", Usual,
    /// No source of the rule lies in a zone that it is `from`: such packets are dropped as spoofed.
    ForeignSource => "foreign-source", Usual,
    /// No destination of the rule lies in a zone that it is `to`.
    ForeignDestination => "foreign-destination", Usual,
    /// The destination of the rule is a published address, all packets to which are translated before
    /// they come to the rules: write the servers' addresses.
    PublishedDestination => "published-destination", Usual,
    /// The rule, or the default, allows everything into a zone from one without `networks`, which is
    /// where everybody else is.
    AnyAny => "any-any", Usual,
    /// Every packet of the NAT rule is translated by NAT rules of its kind above it.
    ShadowedNat => "shadowed-nat", Usual,
    /// A server is published and no rule ever allows a packet to it.
    UnpermittedNat => "unpermitted-nat", Usual,
    /// One source may take all ports of a pool's address, or the sources that the NAT rule names are
    /// more than the pool has ports: later ones are dropped as `nat-ports-exhausted`.
    NatPoolSize => "nat-pool-size", Usual,
    /// A pair of zones that both have IPv4 and IPv6 behind them has rules for one family only, or a
    /// rule names ICMP of one family only.
    Ipv6Parity => "ipv6-parity", Usual,
    /// The day of `expires` has passed: the rule is left out. Remove it, or set a later day.
    ExpiredRule => "expired-rule", Usual,
    /// No rule, NAT rule or used object names the object.
    UnusedObject => "unused-object", Usual,
    /// No rule and no NAT rule names the zone, and none is for `any` zone.
    UnusedZone => "unused-zone", Usual,
    /// The policy has ten rules or more and no tests.
    NoTests => "no-tests", Usual,
    /// The rules are so many and so entangled that looking at all of them would take too long: lints
    /// that compare rules say nothing of the rest.
    LintsIncomplete => "lints-incomplete", Usual,
}
