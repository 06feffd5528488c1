#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

use proptest::prelude::*;

use super::*;
use crate::{Address, InterfaceId};

fn denial(at: Time) -> Denial {
    let reason = DropReason::Land;
    let (source, destination) = (Address::from([10, 0, 0, 1]), Address::from([10, 0, 0, 2]));
    Denial { at, reason, interface: InterfaceId(0), source, destination, decided: None }
}

proptest! {
    /// Of every record it is known in the end whether it was written or suppressed, and of no
    /// source are more written than may be in any second that begins with a record.
    #[test]
    fn every_record_is_written_or_said_to_be_missing(
        steps in prop::collection::vec((0..4_u8, 0..600_u64, any::<bool>()), 0..300),
    ) {
        let flood = FloodLimits {
            sampled_logs_per_second: 3,
            all_logs_per_second: 5,
            ..gabion_rules::Settings::default().flood
        };
        let mut now = Time::from_nanos(5_000_000_000);
        let mut journal = Journal::new(1_000);
        journal.set_rules(Generation(1), 2, flood);
        let (mut asked, mut written, mut suppressed) = (0_u64, 0_u64, 0_u64);
        let mut windows: Vec<Time> = Vec::new();
        for (generation, (kind, millis, late)) in (2..).zip(steps) {
            match kind {
                0 => {
                    journal.invalid(now, denial(now));
                    asked += 1;
                }
                1 => {
                    asked += 1;
                    written += u64::from(journal.may_log(now, RuleId(0), LogMode::All));
                }
                2 => {
                    now = now + Duration::from_millis(millis);
                    if !late {
                        journal.handle_timeout(now);
                        prop_assert!(journal.poll_timeout().is_none_or(|due| due > now));
                    }
                }
                _ if late => journal.set_rules(Generation(generation), 2, flood),
                _ => {}
            }
            while let Some(event) = journal.pop() {
                match event {
                    Event::Denied(denial) => {
                        written += 1;
                        windows.push(denial.at);
                    }
                    Event::Suppressed { records, source } => {
                        suppressed += records;
                        if let LogSource::Rule { generation: of, .. } = source {
                            prop_assert!(of.0 <= generation);
                        }
                    }
                    _ => unreachable!(),
                }
            }
            // A window of the limiter may end in any second: at most two of them meet there.
            let recent = windows.iter().filter(|at| now.since(**at) < SECOND).count();
            prop_assert!(recent <= 6, "{recent} records in a second");
        }
        journal.handle_timeout(now + SECOND);
        journal.handle_timeout(now + 2 * SECOND);
        while let Some(event) = journal.pop() {
            if let Event::Suppressed { records, .. } = event {
                suppressed += records;
            }
        }
        prop_assert_eq!(written + suppressed, asked);
        prop_assert_eq!(journal.poll_timeout(), None);
    }
}

#[test]
fn what_was_suppressed_under_a_policy_is_said_when_it_goes() {
    let now = Time::from_nanos(5_000_000_000);
    let mut journal = Journal::new(16);
    let flood = FloodLimits { all_logs_per_second: 1, ..gabion_rules::Settings::default().flood };
    journal.set_rules(Generation(1), 1, flood);
    for _ in 0..4 {
        journal.may_log(now, RuleId(0), LogMode::All);
    }
    journal.set_rules(Generation(2), 1, flood);
    let source = LogSource::Rule { generation: Generation(1), rule: RuleId(0) };
    assert_eq!(journal.pop(), Some(Event::Suppressed { source, records: 3 }));
}
