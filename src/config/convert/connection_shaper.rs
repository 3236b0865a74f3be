//! A connection_shaper file as TOML that means the same.

use ipnet::IpNet;

use super::super::keys;
use super::super::{Loaded, Origin};

/// Writes the keys that a file of the original's form sets, and every default of the original that differs from ours.
pub fn to_toml(Loaded { config, effective }: &Loaded) -> String {
    let mut text = String::from("# Converted from connection_shaper's form; means the same.\n");
    for setting in &effective.settings {
        let comment = match setting.origin {
            Origin::Default | Origin::TopLevel => continue,
            Origin::Line { .. } => keys::find(setting.key).map_or("", |key| key.about),
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
