//! Durations: how they are written, and how we write them.

use std::time::Duration;

/// Reads `90s`, `10m`, `1h30m`. `Err` says what to write.
pub fn duration(text: &str) -> Result<Duration, String> {
    if text.trim().bytes().all(|b| b.is_ascii_digit()) && !text.trim().is_empty() {
        return Err(format!("write {0} without quotes, or \"{0}s\"", text.trim()));
    }
    humantime::parse_duration(text).map_err(|_| EXAMPLES.into())
}

/// How a duration is written.
pub(super) const EXAMPLES: &str =
    "write whole seconds, as in 90, or units in quotes, as in \"90s\", \"10m\", \"1h30m\", \"1d\"";

/// A duration as the configuration would have it: `1h30m`.
pub fn spell(duration: Duration) -> String {
    written(duration, &["d", "h", "m", "s", "ms"], "")
}

/// A duration in words: `60 seconds`, `1 hour 30 minutes`.
pub fn words(duration: Duration) -> String {
    // Mail administrators think of a window of 60 seconds as just that.
    if duration <= Duration::from_secs(120) && duration.subsec_millis() == 0 {
        let seconds = duration.as_secs();
        return format!("{seconds} second{}", if seconds == 1 { "" } else { "s" });
    }
    let units = [" days", " hours", " minutes", " seconds", " milliseconds"];
    written(duration, &units, " ")
}

fn written(duration: Duration, units: &[&str; 5], gap: &str) -> String {
    let mut left = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, milliseconds) in units.iter().zip([86_400_000, 3_600_000, 60_000, 1_000, 1]) {
        let number = left / milliseconds;
        left %= milliseconds;
        let unit = if number == 1 && unit.len() > 2 { unit.trim_end_matches('s') } else { unit };
        if number > 0 {
            parts.push(format!("{number}{unit}"));
        }
    }
    if parts.is_empty() {
        return format!("0{}", units[3]);
    }
    parts.join(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_as_they_are_spelled() {
        for text in ["100ms", "90s", "10m", "1h30m", "1d", "365d"] {
            let read = duration(text).unwrap();
            assert_eq!(duration(&spell(read)).unwrap(), read, "{text}");
        }
        assert_eq!(spell(Duration::from_secs(5400)), "1h30m");
        assert_eq!(spell(Duration::ZERO), "0s");
    }

    #[test]
    fn words_are_those_of_an_administrator() {
        assert_eq!(words(Duration::from_secs(1)), "1 second");
        assert_eq!(words(Duration::from_secs(60)), "60 seconds");
        assert_eq!(words(Duration::from_secs(600)), "10 minutes");
        assert_eq!(words(Duration::from_secs(5400)), "1 hour 30 minutes");
        assert_eq!(words(Duration::from_millis(100)), "100 milliseconds");
    }

    #[test]
    fn a_number_in_quotes_is_told_what_to_write() {
        assert_eq!(duration("60").unwrap_err(), "write 60 without quotes, or \"60s\"");
    }
}
