//! The statistics of a server, as far as they show that counts were lost.

use bytes::{Buf, BytesMut};
use memchr::memmem;

use crate::store::memcached::protocol::response::{ProtocolError, Response, is_error, nonsense, take_line};

/// Numbers since the server was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Seconds.
    pub uptime: u64,
    /// Keys that had to make room for others before their time.
    pub evictions: u64,
    /// How often it was told to forget everything.
    pub flushes: u64,
}

/// The longest list a server sends us honestly; that of memcached 1.6 is 3 KB long.
const MAX_LIST: usize = 64 * 1024;

/// Lines of `STAT <name> <value>`, then `END`; or an error.
pub(crate) fn server_stats(input: &mut BytesMut) -> Result<Option<Response>, ProtocolError> {
    const END: &[u8] = b"END\r\n";
    if !b"STAT ".starts_with(&input[..input.len().min(5)]) && !input.starts_with(END) {
        return match take_line(input)? {
            None => Ok(None),
            Some(line) if is_error(&line) => Ok(Some(Response::Failed)),
            Some(line) => Err(nonsense(&line)),
        };
    }
    let length = match memmem::find(input, b"\r\nEND\r\n") {
        // An empty list; the END that was found belongs to a later answer.
        _ if input.starts_with(END) => 0,
        Some(last) => last + 2,
        None if input.len() > MAX_LIST => return Err(nonsense(input)),
        None => return Ok(None),
    };
    let mut server_stats = ServerStats::default();
    for line in input[..length].split(|byte| *byte == b'\n') {
        let mut words = line.trim_ascii_end().split(|byte| *byte == b' ').skip(1);
        let number = match words.next() {
            Some(b"uptime") => &mut server_stats.uptime,
            Some(b"evictions") => &mut server_stats.evictions,
            Some(b"cmd_flush") => &mut server_stats.flushes,
            _ => continue,
        };
        let value = words.next().and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        *number = value.ok_or_else(|| nonsense(line))?;
    }
    input.advance(length + END.len());
    Ok(Some(Response::ServerStats(server_stats)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Result<Option<Response>, ProtocolError>, usize) {
        let mut input = BytesMut::from(text);
        let answer = server_stats(&mut input);
        (answer, input.len())
    }

    #[test]
    fn three_numbers_are_taken_from_the_list_and_nothing_beyond_it() {
        let list = "STAT pid 7\r\nSTAT uptime 12\r\nSTAT cmd_flush 3\r\nSTAT evictions 45\r\nEND\r\n";
        let expected = ServerStats { uptime: 12, evictions: 45, flushes: 3 };
        assert_eq!(read(&format!("{list}NF\r\n")), (Ok(Some(Response::ServerStats(expected))), 4));
        for end in 0..list.len() {
            assert_eq!(read(&list[..end]), (Ok(None), end));
        }
        assert_eq!(read("END\r\n"), (Ok(Some(Response::ServerStats(ServerStats::default()))), 0));
        assert_eq!(
            read("END\r\nSTAT uptime 1\r\nEND\r\n"),
            (Ok(Some(Response::ServerStats(ServerStats::default()))), 20)
        );
    }

    #[test]
    fn a_server_that_does_not_say_is_one_that_could_not() {
        assert_eq!(read("ERROR\r\n"), (Ok(Some(Response::Failed)), 0));
        assert!(read("STAT uptime long\r\nEND\r\n").0.is_err());
        assert!(read("HTTP/1.1 400\r\n").0.is_err());
        assert!(read(&format!("STAT {}", "x".repeat(MAX_LIST))).0.is_err());
    }
}
