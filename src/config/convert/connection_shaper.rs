//! A connection_shaper file as TOML that means the same.

use ipnet::IpNet;

use std::path::Path;

use super::super::diagnostics::ConfigError;
use super::super::keys;
use super::super::source::ConfigText;
use super::super::{Loaded, Origin};
use super::{Conversion, Kind, Remark, RemarkKind};

pub(super) fn convert(path: &Path, source: &ConfigText) -> Result<Conversion, ConfigError> {
    let loaded = Loaded::of_original(path, source)?;
    let remark = |line, outcome, text| Remark { path: path.to_owned(), line, outcome, text };
    let mut remarks = Vec::new();
    for setting in &loaded.effective.settings {
        let written = format!("{} = {}", setting.key, setting.spelled());
        remarks.extend(match setting.origin {
            Origin::Line { line } | Origin::Included { line, .. } => {
                Some(remark(Some(line), RemarkKind::Carried, written))
            }
            Origin::ConnectionShaper => {
                Some(remark(None, RemarkKind::Carried, format!("{written}: {}", way(setting.key))))
            }
            Origin::Default | Origin::TopLevel => None,
        });
    }
    for warning in &loaded.config.warnings {
        let outcome = if warning.text.contains("is ignored") { RemarkKind::Missing } else { RemarkKind::Differs };
        remarks.push(remark(Some(warning.line), outcome, warning.text.clone()));
    }
    remarks.sort_by_key(|remark| remark.line.unwrap_or(usize::MAX));
    Ok(Conversion { kind: Kind::ConnectionShaper, toml: to_toml(&loaded), remarks })
}

/// Writes the keys that a file of the original's form sets, and every default of the original that differs from ours.
pub fn to_toml(Loaded { config, effective }: &Loaded) -> String {
    let mut text = String::from("# Converted from connection_shaper's form; means the same.\n");
    for setting in &effective.settings {
        let comment = match setting.origin {
            Origin::Default | Origin::TopLevel => continue,
            Origin::Line { .. } | Origin::Included { .. } => keys::find(setting.key).map_or("", |key| key.about),
            Origin::ConnectionShaper => way(setting.key),
        };
        let value = match setting.key {
            // `effective` has the beginning of a long list only.
            "whitelist" => format!("{:?}", config.whitelist().map(IpNet::to_string).collect::<Vec<_>>()),
            _ => setting.spelled(),
        };
        text += &format!("\n# {comment}\n{} = {value}\n", setting.key);
    }
    text
}

/// Why the TOML form has a line that the original file did not have.
fn way(key: &str) -> &'static str {
    match key {
        "exptime" | "threshold" => "not set, so connection_shaper's default",
        "memcached_server" => "connection_shaper asked this host when none was named",
        "memcached_port" => "connection_shaper used this port when none was named",
        "whitelist" => "connection_shaper exempted no other client, not even loopback",
        "on_store_failure" => "connection_shaper let everyone pass while memcached was down",
        "key_prefix" => "the key is the bare address, shared with connection_shaper",
        "ipv6_prefix_length" => "connection_shaper counted IPv6 clients as whole addresses",
        _ => "connection_shaper's way",
    }
}
