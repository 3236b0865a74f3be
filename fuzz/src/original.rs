//! A file of connection_shaper's form, which converted to TOML means the same.

use connshaper::config::{Form, convert};

use super::configuration;

/// A line by which the form is told; those that follow may say otherwise.
const FIRST: &[u8] = b"exptime 60\n";

/// Reads it, converts it, and reads that.
pub fn run(data: &[u8]) {
    let Some(loaded) = configuration::read(&[FIRST, data].concat()) else {
        return;
    };
    assert_eq!(loaded.config.form, Form::ConnectionShaper);
    let text = convert::to_toml(&loaded);
    let converted = configuration::read(text.as_bytes()).unwrap_or_else(|| panic!("cannot be read:\n{text}"));
    let (config, converted) = (loaded.config, converted.config);
    assert_eq!(converted.form, Form::Toml);
    assert_eq!(converted.policy.lists, config.policy.lists, "{text}");
    assert_eq!(converted.policy.limits, config.policy.limits, "{text}");
    assert_eq!(converted.store, config.store, "{text}");
    assert_eq!(converted.policy.on_store_failure, config.policy.on_store_failure, "{text}");
    assert_eq!(converted.listen, config.listen, "{text}");
}
