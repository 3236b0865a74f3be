//! Addresses and sockets: listeners, the control socket.

use super::super::diagnostics::quoted;
use super::super::settings::TableSettings;
use super::super::{ControlConfig, SocketConfig};
use crate::listener::Peers;
use crate::net::address::Address;
use crate::policy::config_key::read_entries;

pub(super) fn listen(s: &TableSettings, key: &str) -> Vec<Address> {
    let read = |text: &str| text.parse().map_err(|error| format!("{error}"));
    let addresses = read_entries(s, key, "address to listen at", read);
    for (text, span) in s.strings(key).unwrap_or_default() {
        if matches!(text.parse(), Ok(Address::Inet { port: 0, .. })) {
            s.diagnostics.warn(span, "port 0 is any free port, which Postfix cannot know");
        }
    }
    addresses
}

pub(super) fn allow_peers(s: &TableSettings) -> Peers {
    let netblocks = s.netblocks("allow_peers");
    for (net, span) in netblocks.iter().filter(|(net, _)| net.prefix_len() == 0) {
        s.diagnostics.warn(span, format!("{net} lets every host ask that reaches the port"));
    }
    Peers::new(netblocks.iter().map(|(net, _)| *net).collect())
}

pub(super) fn socket(s: &TableSettings) -> SocketConfig {
    let text: String = s.get("socket_mode");
    let octal = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| octal && *mode <= 0o777);
    if mode.is_none() {
        let remedy = "write it in octal, from \"0000\" to \"0777\", as in \"0660\"";
        s.error::<()>("socket_mode", format!("{} is not a valid file mode", quoted(&text)), remedy);
    }
    SocketConfig {
        mode: mode.unwrap_or_default(),
        owner: account(s, "socket_owner"),
        group: account(s, "socket_group"),
    }
}

pub(super) fn control(s: &TableSettings) -> Option<ControlConfig> {
    let group = account(s, "control_group");
    let Some(path) = s.get::<Option<String>>("control_socket") else {
        if !s.sets("control_socket") {
            s.warn("control_group", "has no effect without `control_socket`");
        }
        return None;
    };
    match format!("unix:{path}").parse() {
        Ok(Address::Unix(path)) => Some(ControlConfig { path, group }),
        _ => {
            let remedy = "write an absolute path of at most 107 bytes, as in \"/run/connshaper/control\"";
            s.error("control_socket", format!("{} is not a valid socket path", quoted(&path)), remedy)
        }
    }
}

fn account(s: &TableSettings, key: &str) -> Option<String> {
    let name = s.get::<Option<String>>(key)?;
    let forbidden = |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/';
    if name.is_empty() || name.contains(forbidden) {
        let remedy = "write one name as in /etc/passwd or /etc/group";
        return s.error(key, format!("{} is not a valid name", quoted(&name)), remedy);
    }
    Some(name)
}
