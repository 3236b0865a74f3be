//! One value in memcached that hosts read and change together, apart from the counters.
//!
//! Nothing that a request waits for: it has a connection of its own. A change is a read and a write that
//! fails when another host has written in between.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::net::address::Address;
use crate::net::resolve;
use crate::net::stream::Stream;

/// memcached's own bound on a value.
const MAX_VALUE: usize = 1 << 20;

/// The longest line of an answer: a key and three numbers.
const MAX_LINE: u64 = 512;

/// Where the value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The server.
    pub server: Address,
    /// The key.
    pub key: String,
    /// How long one exchange may take.
    pub timeout: Duration,
}

/// The value, and a connection to it while it lasts.
#[derive(Debug)]
pub struct SharedValue {
    location: Location,
    connection: Option<BufReader<Stream>>,
}

/// A value as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Its bytes.
    pub value: Vec<u8>,
    /// What a write has to name that is to replace this and nothing newer.
    pub unique: u64,
}

impl SharedValue {
    /// A value that is not asked for yet.
    pub fn new(location: Location) -> Self {
        Self { location, connection: None }
    }

    /// Where it is.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The value; `None`: there is none.
    ///
    /// # Errors
    ///
    /// When the server cannot be reached, is late, or answers something else. The next call connects anew.
    pub async fn read(&mut self) -> io::Result<Option<Read>> {
        let command = format!("gets {}\r\n", self.location.key);
        self.exchange(command.as_bytes(), async |connection| {
            let head = line(connection).await?;
            if head == "END" {
                return Ok(None);
            }
            let mut words = head.split(' ').skip(3).map(str::parse::<u64>);
            let (Some(Ok(length)), Some(Ok(unique))) = (words.next(), words.next()) else {
                return Err(nonsense(&head));
            };
            let length = usize::try_from(length).ok().filter(|length| *length <= MAX_VALUE);
            let mut value = vec![0; length.ok_or_else(|| nonsense(&head))? + 2];
            connection.read_exact(&mut value).await?;
            value.truncate(value.len() - 2);
            match line(connection).await?.as_str() {
                "END" => Ok(Some(Read { value, unique })),
                other => Err(nonsense(other)),
            }
        })
        .await
    }

    /// Writes the value in place of what was `read`, or where there is none. Says whether that was still so.
    /// `expiry` is as [`expiry`](crate::store::memcached::protocol::expiry) has it.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read); whether it was written is then unknown.
    pub async fn write(&mut self, value: &[u8], expiry: u64, read: Option<&Read>) -> io::Result<bool> {
        let (key, length) = (&self.location.key, value.len());
        let mut command = match read {
            Some(Read { unique, .. }) => format!("cas {key} 0 {expiry} {length} {unique}\r\n"),
            None => format!("add {key} 0 {expiry} {length}\r\n"),
        }
        .into_bytes();
        command.extend_from_slice(value);
        command.extend_from_slice(b"\r\n");
        self.exchange(&command, async |connection| match line(connection).await?.as_str() {
            "STORED" => Ok(true),
            "EXISTS" | "NOT_STORED" | "NOT_FOUND" => Ok(false),
            other => Err(nonsense(other)),
        })
        .await
    }

    async fn exchange<T>(
        &mut self,
        command: &[u8],
        answer: impl AsyncFnOnce(&mut BufReader<Stream>) -> io::Result<T>,
    ) -> io::Result<T> {
        let Location { server, timeout: patience, .. } = &self.location;
        let mut connection = self.connection.take();
        let result = timeout(*patience, async {
            let mut stream = match connection.take() {
                Some(stream) => stream,
                None => BufReader::new(connect(server).await?),
            };
            stream.write_all(command).await?;
            let answer = answer(&mut stream).await?;
            Ok::<_, io::Error>((answer, stream))
        });
        let (answer, stream) = result.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        // After any error the connection is dropped: what it says next may belong to this.
        self.connection = Some(stream);
        Ok(answer)
    }
}

async fn connect(server: &Address) -> io::Result<Stream> {
    match server {
        Address::Inet { host, port } => {
            TcpStream::connect(&resolve::addresses(host, *port).await?[..]).await?.try_into()
        }
        Address::Unix(path) => UnixStream::connect(path).await?.try_into(),
    }
}

async fn line(connection: &mut BufReader<Stream>) -> io::Result<String> {
    let mut line = Vec::new();
    connection.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.strip_suffix(b"\r\n") {
        Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
        None => Err(nonsense(&String::from_utf8_lossy(&line))),
    }
}

fn nonsense(line: &str) -> io::Error {
    io::Error::other(format!("unexpected answer {line:?}"))
}
