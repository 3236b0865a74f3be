//! Errors of accept: each is answered by going on, at once or after a pause.
//!
//! A peer that left before it was accepted is ignored. Any other error (no
//! descriptor, no memory) lasts for a while: it is logged when it begins and
//! when it ends, and accepting pauses in between.

use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::errno::Errno;

use crate::net::address::Address;
use crate::net::clock::Now;
use crate::observe::log::{Log, Severity};

/// Long enough to cost nothing, short against the time Postfix waits.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether accepting is in trouble, and since when.
#[derive(Debug, Default)]
pub struct AcceptErrors {
    since: Option<Now>,
}

impl AcceptErrors {
    /// Takes an error of accept(2), and says how long to pause, if at all.
    pub fn record(&mut self, error: &io::Error, address: &Address, log: &Log, now: Now) -> Option<Duration> {
        if is_of_the_peer(error) {
            return None;
        }
        if self.since.is_none() {
            self.since = Some(now);
            // Strangers can bring this about again and again, by connecting.
            log.limited(Severity::Err, "ACCEPT_FAILED", now, |line| {
                line.field("listen", address).field("cause", error);
            });
        }
        Some(PAUSE)
    }

    /// A connection was accepted.
    pub fn clear(&mut self, address: &Address, log: &Log, now: Now) {
        if let Some(since) = self.since.take() {
            let seconds = now.monotonic.saturating_sub(since.monotonic) / 1000;
            log.limited(Severity::Notice, "ACCEPT_RESUMED", now, |line| {
                line.field("listen", address).field("seconds", seconds);
            });
        }
    }
}

/// Errors that concern one connection only; accept(2) also hands on those
/// that its network met before we asked.
fn is_of_the_peer(error: &io::Error) -> bool {
    let aborted = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::Interrupted];
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return aborted.contains(&error.kind());
    };
    let network = [
        Errno::EPROTO,
        Errno::ENETDOWN,
        Errno::ENOPROTOOPT,
        Errno::EHOSTDOWN,
        Errno::ENONET,
        Errno::EHOSTUNREACH,
        Errno::ENETUNREACH,
        Errno::ETIMEDOUT,
    ];
    aborted.contains(&error.kind()) || network.contains(&errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(errno: Errno) -> io::Error {
        io::Error::from_raw_os_error(errno as i32)
    }

    #[test]
    fn a_peer_that_left_is_passed_over_in_silence() {
        let log = Log::in_memory(Severity::Debug);
        let mut trouble = AcceptErrors::default();
        for errno in [Errno::ECONNABORTED, Errno::EINTR, Errno::EPROTO, Errno::ETIMEDOUT] {
            let address = "unix:/run/x".parse().unwrap();
            assert_eq!(trouble.record(&error(errno), &address, &log, Now::simulated(0)), None, "{errno}");
        }
        assert!(log.lines().is_empty());
    }

    #[test]
    fn an_exhausted_host_is_told_once_and_once_when_it_has_recovered() {
        let log = Log::in_memory(Severity::Debug);
        let address = "inet:127.0.0.1:10040".parse().unwrap();
        let mut trouble = AcceptErrors::default();
        for (time, errno) in [(0, Errno::EMFILE), (100, Errno::ENFILE), (200, Errno::ENOMEM), (300, Errno::EBADF)] {
            assert_eq!(trouble.record(&error(errno), &address, &log, Now::simulated(time)), Some(PAUSE));
        }
        trouble.clear(&address, &log, Now::simulated(2500));
        trouble.clear(&address, &log, Now::simulated(2600));
        let lines = [
            "ACCEPT_FAILED listen=inet:127.0.0.1:10040 cause=\"Too many open files (os error 24)\"",
            "ACCEPT_RESUMED listen=inet:127.0.0.1:10040 seconds=2",
        ];
        assert_eq!(log.lines(), lines);
    }
}
