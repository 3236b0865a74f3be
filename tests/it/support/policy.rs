//! A policy client without a Postfix: attributes out, answer in.

use std::io::{BufRead, BufReader, Write};

use super::{Stream, connect};

/// A policy connection.
pub struct Policy(BufReader<Box<dyn Stream>>);

impl Policy {
    /// Connects to `inet:ADDRESS:PORT` or `unix:/PATH`.
    pub fn connect(endpoint: &str) -> Self {
        let stream = connect(endpoint).unwrap_or_else(|error| panic!("cannot connect to {endpoint}: {error}"));
        Self::over(stream)
    }

    /// Uses an open connection.
    pub fn over(stream: Box<dyn Stream>) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).unwrap();
    }

    /// Sends bytes to a daemon that may hang up meanwhile.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.0.get_mut().write_all(bytes.as_ref())
    }

    /// The next answer, without the empty line that ends it; `None`: the daemon hung up instead.
    pub fn answer(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\n\n") {
            match self.0.read_until(b'\n', &mut bytes) {
                Ok(0) if bytes.is_empty() => return None,
                Ok(0) => panic!("half an answer: {:?}", String::from_utf8_lossy(&bytes)),
                Ok(_) => {}
                // Bytes that the daemon did not read turn its close into a reset.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
        bytes.truncate(bytes.len() - 2);
        Some(String::from_utf8(bytes).expect("an answer in UTF-8"))
    }

    /// Asks with these attributes, given as `name=value`, after the `request=` line; returns the action.
    #[track_caller]
    pub fn ask(&mut self, attributes: &[&str]) -> String {
        self.send(request(attributes));
        let answer = self.answer().expect("an answer");
        let Some(action) = answer.strip_prefix("action=") else { panic!("no action in {answer:?}") };
        action.to_owned()
    }

    /// Asks as Postfix does when a client connects.
    #[track_caller]
    pub fn connected(&mut self, client: &str, port: u16) -> String {
        self.ask(&[
            "protocol_state=CONNECT",
            &format!("client_address={client}"),
            &format!("client_port={port}"),
            "server_address=192.0.2.25",
            "server_port=25",
        ])
    }
}

/// A request with these attributes, given as `name=value`.
pub fn request(attributes: &[&str]) -> String {
    format!("request=smtpd_access_policy\n{}\n\n", attributes.join("\n"))
}
