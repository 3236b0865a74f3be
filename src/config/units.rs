//! Durations and sizes: how they are written, and how we write them.

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

/// Units of sizes, largest first, as we write them and in bytes.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `100MB`, `1GiB`, `500 kB`: bytes.
pub fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start();
    let (_, factor) = SIZES.iter().find(|(known, _)| known.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// A size in words, in the largest unit whose whole number reads back as so many KiB, rounded up: `500 MB`.
pub fn size_words(kib: u32) -> String {
    let bytes = u64::from(kib) * 1024;
    let whole = |(unit, factor): &(&str, u64)| {
        let number = bytes / factor;
        (number > 0 && (number * factor).div_ceil(1024) == u64::from(kib)).then(|| format!("{number} {unit}"))
    };
    SIZES.iter().find_map(whole).unwrap_or_else(|| format!("{kib} KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1000_or_1024() {
        for (text, bytes) in [("1KB", 1000), ("1 KiB", 1024), ("100MB", 100_000_000), ("2GiB", 2 << 30), ("7B", 7)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "1.5MB", "-1MB", "1XB", "99999999999TiB", "1"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_said_as_they_were_written() {
        for text in ["1 KiB", "100 KiB", "1 MiB", "1536 KiB", "500 MB", "1 GB", "5 GiB", "1500 MB", "1 TB", "999 MB"] {
            let kib = size(text).unwrap().div_ceil(1024) as u32;
            assert_eq!(size_words(kib), text);
        }
        // Several texts give the same number of KiB: the larger unit is shown.
        for (text, said) in [("1024KiB", "1 MiB"), ("1000MB", "1 GB"), ("500KB", "489 KiB"), ("1B", "1 KiB")] {
            assert_eq!(size_words(size(text).unwrap().div_ceil(1024) as u32), said);
        }
    }

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
