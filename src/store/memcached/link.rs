//! Connections to a server: made with TLS and login where those are configured, and tried before they are used.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;

use super::protocol::{Probed, Protocol, ProtocolError, read_login, write_login};
use super::settings::MemcachedConfig;
use crate::net::address::Address;
use crate::net::resolve;
use crate::net::stream::Stream;
use crate::net::tls::TlsFiles;
use crate::store::shared::login::{Secrets, StoreLogin};

/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(1500);

/// The longest password that memcached compares whole, with the name before it.
const MAX_PASSWORD: usize = 250;

/// A connection, without TLS or with it.
pub type MemcachedLink = Either<Stream, Box<TlsStream<Stream>>>;

/// Makes connections to one server.
#[derive(Debug)]
pub struct MemcachedConnector {
    pub address: Address,
    login: StoreLogin,
    tls: Option<TlsFiles>,
}

/// Why a server could not be asked.
enum Failure {
    /// The connection broke, or the answer was none of memcached's.
    Connection(io::Error),
    /// The server does not let us in.
    Login(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Connection(error)
    }
}

impl MemcachedConnector {
    /// To one server of a configuration.
    pub fn new(address: Address, config: &MemcachedConfig) -> Self {
        Self { address, login: config.login.clone(), tls: config.tls.clone() }
    }

    /// Whether a connection takes neither files nor a handshake.
    pub fn is_plain(&self) -> bool {
        self.login.password_file.is_none() && self.tls.is_none()
    }

    /// The addresses of the server's name.
    pub async fn lookup(&self) -> io::Result<Vec<SocketAddr>> {
        match &self.address {
            Address::Inet { host, port } => resolve::addresses(host, *port).await,
            Address::Unix(_) => Ok(Vec::new()),
        }
    }

    /// Connects, logs in where the server wants that, and finds out which commands it knows. There is no bound on the
    /// time: a caller who has one drops this. `Err` says why not.
    pub async fn open(&self, addresses: &[SocketAddr]) -> Result<(MemcachedLink, Protocol), String> {
        let secrets = self.secrets().await?;
        let mut link = self.connect(addresses, &secrets).await?;
        match self.probe(&mut link, Protocol::Meta, &secrets).await {
            Ok(true) => return Ok((link, Protocol::Meta)),
            Ok(false) => {}
            Err(Failure::Login(problem)) => return Err(problem),
            // A proxy that closes the connection on an unknown command may know the classic ones.
            Err(Failure::Connection(_)) => link = self.connect(addresses, &secrets).await?,
        }
        match self.probe(&mut link, Protocol::Classic, &secrets).await {
            Ok(true) => Ok((link, Protocol::Classic)),
            Ok(false) => Err("it does not speak memcached's text protocol".to_owned()),
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Connects, and logs in where the server wants that, for a connection that carries classic commands alone.
    pub async fn open_for_values(&self) -> io::Result<MemcachedLink> {
        let addresses = self.lookup().await?;
        let secrets = self.secrets().await.map_err(io::Error::other)?;
        let mut link = self.connect(&addresses, &secrets).await.map_err(io::Error::other)?;
        if secrets.password.is_some() {
            let probed = self.probe(&mut link, Protocol::Classic, &secrets).await;
            probed.map_err(|failure| io::Error::other(self.explain(failure)))?;
        }
        Ok(link)
    }

    async fn connect(&self, addresses: &[SocketAddr], secrets: &Secrets) -> Result<MemcachedLink, String> {
        let stream = self.open_stream(addresses).await.map_err(|error| error.to_string())?;
        match (&secrets.tls, &self.address) {
            (Some(tls), Address::Inet { host, .. }) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| format!("TLS: {error}"))?;
                let greeted = timeout(HANDSHAKE_TIMEOUT, tls.connect(name, stream)).await;
                let stream = greeted.map_err(|_| NO_TLS.to_owned())?.map_err(|error| of_handshake(&error))?;
                Ok(Either::Right(Box::new(stream)))
            }
            _ => Ok(Either::Left(stream)),
        }
    }

    async fn open_stream(&self, addresses: &[SocketAddr]) -> io::Result<Stream> {
        match &self.address {
            Address::Unix(path) => UnixStream::connect(path).await?.try_into(),
            Address::Inet { .. } => TcpStream::connect(addresses).await?.try_into(),
        }
    }

    /// Asks the server whether it knows a protocol. Credentials go only to a server that requires a login: any other
    /// would store them, as a value that everybody can read.
    async fn probe(&self, link: &mut MemcachedLink, protocol: Protocol, secrets: &Secrets) -> Result<bool, Failure> {
        let mut output = BytesMut::new();
        protocol.write_probe(&mut output);
        match exchange(link, &output, |input| protocol.read_probe(input)).await? {
            Probed::Knows => return Ok(true),
            Probed::Lacks => return Ok(false),
            Probed::WantsLogin => self.log_in(link, secrets).await?,
        }
        match exchange(link, &output, |input| protocol.read_probe(input)).await? {
            Probed::Knows => Ok(true),
            Probed::Lacks => Ok(false),
            Probed::WantsLogin => Err(Failure::Login("it requires a login again after one".to_owned())),
        }
    }

    async fn log_in(&self, link: &mut MemcachedLink, secrets: &Secrets) -> Result<(), Failure> {
        let (Some(username), Some(password)) = (&self.login.username, &secrets.password) else {
            let remedy = "it requires a login: set memcached_username and memcached_password_file";
            return Err(Failure::Login(remedy.to_owned()));
        };
        let mut output = BytesMut::new();
        write_login(username, password, &mut output);
        match exchange(link, &output, read_login).await? {
            true => Ok(()),
            // The server's own words are not kept.
            false => {
                let problem = "it refuses the login: see memcached_username and memcached_password_file";
                Err(Failure::Login(problem.to_owned()))
            }
        }
    }

    fn explain(&self, failure: Failure) -> String {
        use io::ErrorKind::{ConnectionReset, UnexpectedEof};
        match failure {
            Failure::Login(problem) => problem,
            Failure::Connection(error)
                if self.tls.is_none() && matches!(error.kind(), ConnectionReset | UnexpectedEof) =>
            {
                "it closes the connection at the first command: perhaps it speaks TLS alone, see memcached_tls"
                    .to_owned()
            }
            Failure::Connection(error) => error.to_string(),
        }
    }

    /// What the files say that a connection needs.
    async fn secrets(&self) -> Result<Secrets, String> {
        let secrets = self.login.secrets(self.tls.as_ref()).await?;
        let is_right = |text: &String| text.len() <= MAX_PASSWORD && text.bytes().all(|byte| byte.is_ascii_graphic());
        match (&secrets.password, &self.login.password_file) {
            (Some(password), Some(path)) if !is_right(password) => {
                Err(format!("{}: not one password of printable ASCII without blanks", path.display()))
            }
            _ => Ok(secrets),
        }
    }
}

const NO_TLS: &str = "it does not answer in TLS: see memcached_tls";

/// What a handshake failed for.
fn of_handshake(error: &io::Error) -> String {
    let problem = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match problem {
        Some(rustls::Error::InvalidMessage(_)) => NO_TLS.to_owned(),
        _ => format!("TLS: {error}"),
    }
}

/// Sends one command on a connection that carries no other, and reads the answer.
pub async fn exchange<T>(
    link: &mut MemcachedLink,
    command: &[u8],
    mut read: impl FnMut(&mut BytesMut) -> Result<Option<T>, ProtocolError>,
) -> io::Result<T> {
    /// What a TLS server says to plain text, if it says something: a record that is an alert.
    const ALERT: &[u8] = b"\x15\x03";
    link.write_all(command).await?;
    link.flush().await?;
    let mut input = BytesMut::new();
    loop {
        if link.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if input.starts_with(ALERT) {
            return Err(io::Error::other("it speaks TLS: see memcached_tls"));
        }
        if let Some(answer) = read(&mut input).map_err(|error| io::Error::other(error.to_string()))? {
            return Ok(answer);
        }
    }
}
