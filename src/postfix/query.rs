//! `connshaper query`: asks a running daemon as Postfix would.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::net::address::Address;

/// As long as Postfix waits by default: the daemon may delay this answer like any other.
const PATIENCE: Duration = Duration::from_secs(100);

/// The action a daemon answers. `attributes` are sent instead of, or beside, those of a client that has just connected.
pub fn ask(address: &Address, client: &str, attributes: &[(String, String)]) -> io::Result<String> {
    let mut stream = address.dial(PATIENCE)?;
    stream.write_all(request(client, attributes).as_bytes())?;
    let mut reply = Vec::new();
    while !reply.ends_with(b"\n\n") {
        let mut part = [0; 1024];
        match stream.read(&mut part)? {
            0 => return Err(io::Error::other("it closed the connection without an answer; see its log")),
            length => reply.extend_from_slice(&part[..length]),
        }
    }
    let reply = String::from_utf8_lossy(&reply);
    let action = reply.lines().find_map(|line| line.strip_prefix("action="));
    action.map(str::to_owned).ok_or_else(|| io::Error::other(format!("its answer has no action: {reply:?}")))
}

/// The attributes that only a request about a message has.
const OF_MAIL: [&str; 4] = ["sasl_username", "sender", "recipient", "size"];

/// What Postfix sends when a client has just connected; where the attributes are about a message, at its first recipient.
pub fn request(client: &str, attributes: &[(String, String)]) -> String {
    // Every run is to be a session of its own, so it comes from a port of its own, and to an address
    // of its own. The seed of the standard library's hashes is random.
    let random = RandomState::new().hash_one(client);
    let port = (1024 + random % 64_000).to_string();
    let [.., b, c, d] = (random >> 32).to_be_bytes();
    let server = Ipv4Addr::new(127, b, c, d).to_string();
    let (state, instance) = match is_of_mail(attributes) {
        true => ("RCPT", format!("{:x}.{:x}.{:x}.0", random as u16, random >> 32, random as u32)),
        false => ("CONNECT", String::new()),
    };
    let usual = [
        ("request", "smtpd_access_policy"),
        ("protocol_state", state),
        ("instance", &instance),
        ("protocol_name", "SMTP"),
        ("client_address", client),
        ("client_name", "unknown"),
        ("client_port", &port),
        ("reverse_client_name", "unknown"),
        ("server_address", &server),
        ("server_port", "25"),
    ];
    let is_given = |name: &str| attributes.iter().any(|(given, _)| given == name);
    let mut lines: String = usual
        .iter()
        .filter(|(name, value)| !is_given(name) && !value.is_empty())
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect();
    lines.extend(attributes.iter().map(|(name, value)| format!("{name}={value}\n")));
    lines.push('\n');
    lines
}

/// Whether the attributes are about a message.
pub fn is_of_mail(attributes: &[(String, String)]) -> bool {
    attributes.iter().any(|(name, _)| OF_MAIL.contains(&name.as_str()))
}

/// A value that fits into one line of a request.
pub fn value(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.contains(['\n', '\0']) {
        return Err("it cannot have a line break or NUL".into());
    }
    Ok(text.to_owned())
}

/// A `NAME=VALUE` of the command line.
pub fn attribute(text: &str) -> Result<(String, String), String> {
    match value(text)?.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as in protocol_state=RCPT".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_attributes_take_the_place_of_the_usual_ones() {
        let given =
            [("protocol_state".to_owned(), "RCPT".to_owned()), ("sender".to_owned(), "a@example.org".to_owned())];
        let text = request("192.0.2.1", &given);
        assert!(text.starts_with("request=smtpd_access_policy\ninstance="));
        assert!(text.contains("\nprotocol_name=SMTP\nclient_address=192.0.2.1\n"));
        assert!(text.ends_with("\nprotocol_state=RCPT\nsender=a@example.org\n\n"));
        assert_eq!(text.matches("protocol_state=").count(), 1);
        let login = [("sasl_username".to_owned(), "joe".to_owned())];
        let of_login = || request("192.0.2.1", &login);
        assert!(of_login().contains("\nprotocol_state=RCPT\ninstance="));
        let instance = |text: &str| text.lines().find(|line| line.starts_with("instance=")).unwrap().to_owned();
        assert_ne!(instance(&of_login()), instance(&of_login()));
        assert!(request("192.0.2.1", &[]).contains("\nprotocol_state=CONNECT\nprotocol_name"));
    }
}
