//! Numbers for people: three significant digits and a unit. JSON carries them exactly.

use std::time::Duration;

/// `950`, `12.3 k`, `4.56 M`.
pub(crate) fn count(value: u64) -> String {
    scaled(value, 1000, &["", " k", " M", " G", " T", " P", " E"])
}

/// `950 B`, `12.3 KiB`, `4.56 MiB`.
pub(crate) fn bytes(value: u64) -> String {
    scaled(value, 1024, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB"])
}

/// `340 ms`, `12 s`, `4 min 10 s`, `3 h 05 min`, `12 d 4 h`.
pub(crate) fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0 => format!("{} ms", value.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `12 s ago`, or `-` for what has never been.
pub(crate) fn age(value: Option<Duration>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{} ago", duration(value)))
}

fn scaled(value: u64, step: u64, units: &[&str]) -> String {
    let mut unit = 0;
    let mut size = 1u64;
    while value / size >= step && unit + 1 < units.len() {
        size = size.saturating_mul(step);
        unit += 1;
    }
    let unit = units[unit];
    if size == 1 {
        return format!("{value}{unit}");
    }
    // Rounded down, so that 999,999 does not show as 1000 k.
    let tenths = u128::from(value) * 100 / u128::from(size);
    match tenths {
        0..1000 => format!("{}.{:02}{unit}", tenths / 100, tenths % 100),
        1000..10_000 => format!("{}.{}{unit}", tenths / 100, tenths % 100 / 10),
        _ => format!("{}{unit}", tenths / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits_and_never_round_up() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1.00 k"),
            (12_345, "12.3 k"),
            (999_999, "999 k"),
            (1_000_000, "1.00 M"),
            (u64::MAX, "18.4 E"),
        ];
        for (value, expected) in cases {
            assert_eq!(count(value), expected);
        }
    }

    #[test]
    fn bytes_count_in_binary_units() {
        for (value, expected) in [(1023, "1023 B"), (1024, "1.00 KiB"), (5 << 30, "5.00 GiB")] {
            assert_eq!(bytes(value), expected);
        }
    }

    #[test]
    fn durations_show_the_two_largest_units() {
        let cases = [
            (Duration::from_millis(340), "340 ms"),
            (Duration::from_secs(59), "59 s"),
            (Duration::from_secs(250), "4 min 10 s"),
            (Duration::from_secs(11_100), "3 h 05 min"),
            (Duration::from_secs(1_051_200), "12 d 4 h"),
        ];
        for (value, expected) in cases {
            assert_eq!(duration(value), expected);
        }
    }
}
