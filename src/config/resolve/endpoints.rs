//! Where memcached is and where Postfix asks: addresses and rights of sockets.

use super::super::settings::Settings;
use super::super::{ControlConfig, SocketConfig};
use crate::config::diagnostics::quoted;
use crate::net::address::Address;

pub(super) fn servers(s: &Settings, port: u16) -> Option<Vec<Address>> {
    let list = s.one_or_more("memcached_server")?;
    let mut servers = Vec::new();
    for (text, span) in &list {
        match server(text, port) {
            Ok(server) if servers.contains(&server) => {
                s.diagnostics.warn(span, format!("{server} is named twice"));
            }
            Ok(server) => servers.push(server),
            Err(remedy) => {
                let problem = format!("{} is no memcached server", quoted(text));
                s.diagnostics.error::<()>(span, problem, remedy);
            }
        }
    }
    Some(servers)
}

/// Reads a memcached server's address. `Err` says what to write.
pub(in crate::config) fn server(text: &str, port: u16) -> Result<Address, String> {
    match Address::of_server(text, port) {
        Ok(Address::Inet { port: 0, .. }) => Err("write the port memcached listens at".into()),
        other => other.map_err(|error| error.to_string()),
    }
}

pub(super) fn listen(s: &Settings, key: &'static str) -> Option<Vec<Address>> {
    let list = s.one_or_more(key)?;
    let mut places = Vec::new();
    for (text, span) in &list {
        match text.parse::<Address>() {
            Ok(place) if places.contains(&place) => {
                s.diagnostics.warn(span, format!("{place} is named twice"));
            }
            Ok(place) => {
                if matches!(place, Address::Inet { port: 0, .. }) {
                    let text = "port 0 is any free port: nobody can know which";
                    s.diagnostics.warn(span, text);
                }
                places.push(place);
            }
            Err(error) => {
                let problem = format!("{} is no address to listen at", quoted(text));
                s.diagnostics.error::<()>(span, problem, error.to_string());
            }
        }
    }
    Some(places)
}

pub(super) fn socket(s: &Settings, default: SocketConfig) -> SocketConfig {
    SocketConfig {
        mode: socket_mode(s).unwrap_or(default.mode),
        owner: account(s, "socket_owner"),
        group: account(s, "socket_group"),
    }
}

pub(super) fn control(s: &Settings) -> Option<ControlConfig> {
    let group = account(s, "control_group");
    let Some((path, span)) = s.string("control_socket") else {
        if let Some(span) = s.name("control_group") {
            s.diagnostics.warn(&span, "`control_group` has no effect without `control_socket`");
        }
        return None;
    };
    match format!("unix:{path}").parse::<Address>() {
        Ok(Address::Unix(path)) => Some(ControlConfig { path, group }),
        _ => {
            let problem = format!("{} is no path of a socket", quoted(&path));
            s.diagnostics.error(
                &span,
                problem,
                "write an absolute path of at most 107 bytes, as in \"/run/connshaper/control\"",
            )
        }
    }
}

fn socket_mode(s: &Settings) -> Option<u32> {
    let (text, span) = s.string("socket_mode")?;
    let octal = text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(&text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Some(mode),
        _ => {
            let problem = format!("{} is no file mode", quoted(&text));
            let remedy = "write it in octal, from \"0000\" to \"0777\", as in \"0660\"";
            s.diagnostics.error(&span, problem, remedy)
        }
    }
}

fn account(s: &Settings, key: &'static str) -> Option<String> {
    let (name, span) = s.string(key)?;
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/';
    if name.is_empty() || name.contains(odd) {
        let problem = format!("{} is no name", quoted(&name));
        return s.diagnostics.error(&span, problem, "write one name as in /etc/passwd or /etc/group");
    }
    Some(name)
}
