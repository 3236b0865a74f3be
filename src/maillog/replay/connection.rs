//! A policy connection, from Postfix's side.

use std::io::{self, Read, Write};
use std::time::Duration;

use crate::maillog::reading::CommandFailure;
use crate::net::address::{Address, Duplex};
use crate::sysexits;

/// Longer than any answer of the daemon takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer; the daemon's are far shorter.
const LONGEST: usize = 64 * 1024;

pub struct ReplayConnection {
    address: Address,
    stream: Box<dyn Duplex>,
    reply: Vec<u8>,
}

impl ReplayConnection {
    pub fn open(address: &Address) -> Result<Self, CommandFailure> {
        let stream = address.dial(PATIENCE).map_err(|error| unavailable(address, &error))?;
        Ok(Self { address: address.clone(), stream, reply: Vec::new() })
    }

    /// Asks and waits for the action. If the daemon has closed the connection, it tries once more over a
    /// new one, as Postfix does.
    pub fn ask(&mut self, request: &str) -> Result<String, CommandFailure> {
        let answer = self.ask_once(request).or_else(|error| match error.kind() {
            io::ErrorKind::InvalidData => Err(error),
            _ => {
                self.stream = self.address.dial(PATIENCE)?;
                self.ask_once(request)
            }
        });
        answer.map_err(|error| unavailable(&self.address, &error))
    }

    fn ask_once(&mut self, request: &str) -> io::Result<String> {
        self.stream.write_all(request.as_bytes())?;
        self.reply.clear();
        while !self.reply.ends_with(b"\n\n") {
            let mut part = [0; 1024];
            match self.stream.read(&mut part)? {
                0 => return Err(io::Error::other("it closed the connection without an answer; see its log")),
                _ if self.reply.len() > LONGEST => return Err(strange("its answer has no end")),
                length => self.reply.extend_from_slice(&part[..length]),
            }
        }
        let reply = String::from_utf8_lossy(&self.reply);
        let action = reply.lines().find_map(|line| line.strip_prefix("action="));
        action.map(str::to_owned).ok_or_else(|| strange("its answer has no action"))
    }
}

fn unavailable(address: &Address, error: &io::Error) -> CommandFailure {
    (sysexits::UNAVAILABLE, format!("{address}: {error}"))
}

fn strange(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}
