//! What holds for every configuration, of either form.

use std::net::IpAddr;
use std::path::Path;

use bytes::BytesMut;
use connshaper::config::{Config, ConfigError, KEYS, Loaded};
use connshaper::policy::Policy;
use connshaper::policy::action::Values;
use connshaper::policy::key::KeyPart;

/// The most mistakes that are shown.
const SHOWN: usize = 50;

/// Whether it may name list files. A fuzzer would find files that never end; `lists` makes its own.
pub fn names_files(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    // A key may be written with escapes as well.
    text.contains("_file") || (text.contains('\\') && text.contains("ile"))
}

/// Reads a configuration. What parses can be used; what does not says where and why, in text that can be shown.
pub fn read(content: &[u8]) -> Option<Loaded> {
    match Loaded::parse(Path::new("/etc/connshaper.toml"), content) {
        Ok(loaded) => {
            assert_eq!(loaded.effective.settings.len(), KEYS.len());
            for setting in &loaded.effective.settings {
                printable(&setting.spelled());
            }
            use_it(&loaded.config);
            Some(loaded)
        }
        Err(error) => {
            show(&error, content);
            None
        }
    }
}

/// Makes of it what the daemon does.
pub fn use_it(config: &Config) {
    assert!(config.max_connections > 0 && !config.listen.is_empty());
    for warning in &config.warnings {
        printable(&warning.to_string());
    }
    // Makes every table that a lookup needs.
    drop(Policy::new(&config.policy, None));
    for limit in &config.policy.limits {
        assert!(limit.threshold > 0 && limit.exptime > 0);
        let client = IpAddr::from([0x2001; 8]);
        let key = &KeyPart::of_pairs([("sender", "x".repeat(1000).as_str())]);
        let (count, threshold, left, request, now) = (u64::MAX, u64::MAX, u32::MAX, None, 1 << 31);
        let (name, note) = (&limit.name, None);
        let values = Values { client, limit: name, count, threshold, left, key, request, note, now };
        let mut action = BytesMut::new();
        limit.action.write(&values, &mut action);
        assert!(!action.is_empty() && action.iter().all(|byte| (b' '..=b'~').contains(byte)), "{action:?}");
    }
}

/// Says what is wrong with `content`.
pub fn show(error: &ConfigError, content: &[u8]) {
    assert!(!error.diagnostics.is_empty() && error.diagnostics.len() <= SHOWN);
    printable(&error.summary());
    error.to_string().lines().for_each(printable);
    let lines = content.iter().filter(|byte| **byte == b'\n').count() + 1;
    for mistake in &error.diagnostics {
        let spot = mistake.snippet.as_ref().expect("text has lines");
        assert!((1..=lines).contains(&spot.line), "line {} of {lines}", spot.line);
        assert!(!mistake.problem.is_empty() && !mistake.remedy.is_empty(), "{mistake:?}");
    }
}

/// Fails for text that a terminal would obey.
#[track_caller]
pub fn printable(text: &str) {
    assert!(!text.contains(char::is_control), "{text:?}");
}
