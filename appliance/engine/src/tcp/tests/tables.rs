use super::super::state::{Event, Kind, Rule, rule};
use super::*;

const STATES: [TcpState; 5] = [SynSent, SynReceived, Established, Closing, Closed];

/// Covers: 7857-2
#[test]
fn every_segment_falls_under_the_rule_of_the_table() {
    let kinds = [Kind::Syn, Kind::SynAck, Kind::Ack, Kind::Fin, Kind::Rst];
    let mut table = String::new();
    for state in STATES {
        for direction in [Original, Reply] {
            let row: Vec<_> = kinds
                .map(|kind| format!("{:<9}", format!("{:?}", rule(state, direction, kind))))
                .to_vec();
            let name = format!("{state:?} {direction:?}");
            table.push_str(format!("{name:<20} {}", row.join(" ")).trim_end());
            table.push('\n');
        }
    }
    let expected = "\
SynSent Original     Retry     Refuse    Refuse    Refuse    Abort
SynSent Reply        Answer    Answer    HalfOpen  Refuse    Refusal
SynReceived Original Renew     Meet      Follow    Follow    Reset
SynReceived Reply    Meet      Repeat    Follow    Follow    Reset
Established Original Renew     Meet      Follow    Follow    Reset
Established Reply    Challenge Repeat    Follow    Follow    Reset
Closing Original     Renew     Meet      Follow    Follow    Reset
Closing Reply        Challenge Repeat    Follow    Follow    Reset
Closed Original      Reopen    Linger    Linger    Linger    Reset
Closed Reply         Reopen    Linger    Linger    Linger    Reset
";
    assert_eq!(table, expected, "\n{table}");
    let _: Rule = rule(SynSent, Original, Kind::Syn);
}

/// Covers: 7857-2
#[test]
fn every_event_leads_to_the_state_of_the_table() {
    let events = [Event::Answered, Event::Opened, Event::Fin, Event::Finished, Event::Reset];
    let table = STATES.map(|state| events.map(|event| state.after(event)));
    assert_eq!(
        table,
        [
            // Answered, Opened, Fin, Finished, Reset
            [SynReceived, SynSent, SynSent, SynSent, Closed],
            [SynReceived, Established, SynReceived, SynReceived, Closed],
            [Established, Established, Closing, Established, Closed],
            [Closing, Closing, Closing, Closed, Closed],
            [Closed, Closed, Closed, Closed, Closed],
        ]
    );
}

#[test]
fn a_segment_without_syn_rst_and_ack_is_dropped_in_every_state() {
    for mut dialogue in
        [Dialogue::open(), Dialogue::answered(), Dialogue::established(), Dialogue::finished()]
    {
        for flags in ["", "F"] {
            assert_eq!(dialogue.client(segment(flags, 1, 1)), DROPPED_STATE);
            assert_eq!(dialogue.server(segment(flags, 1, 1)), DROPPED_STATE);
        }
    }
}
