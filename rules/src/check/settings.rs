//! Settings: every value in its range, every default filled in.

use std::time::Duration;

use crate::diagnostic::Problems;
use crate::document::{
    FloodText, LogText, ProfileText, RuleTimeoutsText, SettingsText, TimeoutsText, VerdictText,
};
use crate::duration::parse_duration;
use crate::policy::DefaultPolicy;
use crate::read::At;
use crate::settings::Timer;
use crate::{Action, FloodLimits, LogMode, Profile, Settings};

use super::Checker;

/// Beyond this no table of the node goes, and no counter of a second.
const MOST: u32 = 16_777_216;

impl Checker<'_, '_> {
    pub(super) fn check_settings(&mut self, text: SettingsText) -> (DefaultPolicy, Settings) {
        let default = text.default.map_or(
            DefaultPolicy { action: Action::Drop, log: LogMode::Sampled, place: None },
            |default| DefaultPolicy {
                action: default.value.action.map_or(Action::Drop, Action::from),
                log: default.value.log.map_or(LogMode::Sampled, LogMode::from),
                place: Some(self.place(default.span)),
            },
        );
        let mut settings = Settings::default();
        settings.profile = text.profile.map_or(settings.profile, Profile::from);
        if let Some(timeouts) = text.timeouts {
            for (timer, duration) in read_timeouts(timeouts, self.problems) {
                *settings.timeouts.get_mut(timer) = duration;
            }
        }
        if let Some(flood) = text.flood {
            set_flood(&mut settings.flood, flood, self.problems);
        }
        (default, settings)
    }

    /// The timers of a rule; `action` is the rule's.
    pub(super) fn check_rule_timeouts(
        &mut self,
        text: Option<At<RuleTimeoutsText>>,
        action: Option<Action>,
    ) -> Vec<(Timer, Duration)> {
        let Some(At { value: text, span }) = text else { return Vec::new() };
        if action != Some(Action::Allow) {
            let help = "only a rule that allows admits flows: leave `timeouts` out";
            self.problems.error_with(span, "`timeouts` has no effect here", help);
        }
        let text = TimeoutsText {
            tcp_opening: text.tcp_opening,
            tcp_established: text.tcp_established,
            tcp_closing: text.tcp_closing,
            tcp_closed: text.tcp_closed,
            udp: text.udp,
            udp_unreplied: text.udp_unreplied,
            icmp: text.icmp,
            other: text.other,
            fragment: None,
        };
        read_timeouts(text, self.problems)
    }
}

/// The timers that are written out, in the order of their list.
fn read_timeouts(text: TimeoutsText, problems: &mut Problems) -> Vec<(Timer, Duration)> {
    let written = Timer::ALL.into_iter().zip([
        text.tcp_opening,
        text.tcp_established,
        text.tcp_closing,
        text.tcp_closed,
        text.udp,
        text.udp_unreplied,
        text.icmp,
        text.other,
        text.fragment,
    ]);
    let read = |(timer, text): (Timer, Option<At<String>>)| {
        let At { value, span } = text?;
        let duration = parse_duration(&value);
        let duration =
            duration.map_err(|error| problems.error_with(span, error.message, error.help));
        Some((timer, duration.ok()?))
    };
    written.filter_map(read).collect()
}

fn set_flood(flood: &mut FloodLimits, text: FloodText, problems: &mut Problems) {
    let mut set = |slot: &mut u32, number: Option<At<u32>>| {
        *slot = number.and_then(|number| check_limit(&number, problems)).unwrap_or(*slot);
    };
    set(&mut flood.half_open, text.half_open);
    set(&mut flood.half_open_per_destination, text.half_open_per_destination);
    set(&mut flood.half_open_per_source, text.half_open_per_source);
    set(&mut flood.flows_per_source, text.flows_per_source);
    set(&mut flood.new_flows_per_source_per_second, text.new_flows_per_source_per_second);
    set(&mut flood.answers_per_second, text.answers_per_second);
    set(&mut flood.sampled_logs_per_second, text.sampled_logs_per_second);
    set(&mut flood.all_logs_per_second, text.all_logs_per_second);
}

/// A number of things that something may hold.
pub(super) fn check_limit(number: &At<u32>, problems: &mut Problems) -> Option<u32> {
    let At { value, span } = *number;
    if (1..=MOST).contains(&value) {
        return Some(value);
    }
    problems.error(span, format!("{value} is out of range [1, {MOST}]"));
    None
}

impl From<ProfileText> for Profile {
    fn from(text: ProfileText) -> Self {
        match text {
            ProfileText::Standard => Self::Standard,
            ProfileText::StrictCc => Self::StrictCc,
        }
    }
}

impl From<VerdictText> for Action {
    fn from(text: VerdictText) -> Self {
        match text {
            VerdictText::Allow => Self::Allow,
            VerdictText::Drop => Self::Drop,
            VerdictText::Reject => Self::Reject,
        }
    }
}

impl From<LogText> for LogMode {
    fn from(text: LogText) -> Self {
        match text {
            LogText::None => Self::None,
            LogText::Sampled => Self::Sampled,
            LogText::All => Self::All,
        }
    }
}
