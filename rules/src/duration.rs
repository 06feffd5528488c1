//! Durations as the policy writes them: `30s`, `5m`, `2h4m`, `7d`.

use std::time::Duration;

use crate::term::TermError;

/// The shortest and the longest timer.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(7 * 24);

const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// Reads a duration: numbers with units, each unit at most once, the large ones first.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, TermError> {
    let malformed = || {
        let help = "write numbers with the units d, h, m and s, as in `30s` or `2h4m`";
        TermError::new(format!("`{text}` is not a duration"), help)
    };
    let mut units = UNITS.iter();
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let unit = tail.chars().next().ok_or_else(malformed)?;
        // Each search goes on behind the unit found before, which keeps the order.
        let (_, scale) = units.find(|(letter, _)| *letter == unit).ok_or_else(malformed)?;
        seconds = number
            .checked_mul(*scale)
            .and_then(|n| n.checked_add(seconds))
            .ok_or_else(malformed)?;
        rest = tail.get(1..).ok_or_else(malformed)?;
    }
    let duration = Duration::from_secs(seconds);
    if text.is_empty() {
        return Err(malformed());
    }
    if !(SHORTEST..=LONGEST).contains(&duration) {
        return Err(TermError::new(format!("{text} is out of range [1s, 7d]"), ""));
    }
    Ok(duration)
}

/// The shortest text of a duration of whole seconds.
pub(crate) fn print_duration(duration: Duration) -> String {
    let mut rest = duration.as_secs();
    let mut text = String::new();
    for (letter, scale) in UNITS {
        if rest >= scale {
            text += &format!("{}{letter}", rest / scale);
            rest %= scale;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn units_add_up() {
        for (text, seconds) in [("30s", 30), ("2h4m", 7_440), ("90m", 5_400), ("7d", 604_800)] {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "30", "s", "4m2h", "1s1s", "-1s", "1.5h", "0s", "8d", "9w", "30 s", "1é"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        let error = parse_duration("8d").unwrap_err();
        assert_eq!(error.message, "8d is out of range [1s, 7d]");
    }

    proptest! {
        #[test]
        fn printing_can_be_read_again(seconds in 1_u64..=604_800) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse_duration(&print_duration(duration)).unwrap(), duration);
        }
    }
}
