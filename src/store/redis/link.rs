//! Connections to a server: made with name service, TLS and login, and tried before they are used.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::pki_types::ServerName;

use super::command::{CommandForm, RedisCommand, RedisReply, ServerRefusal, read, text_of, write};
use super::settings::{RedisConfig, RedisServer};
use crate::net::address::Address;
use crate::net::resolve;
use crate::net::stream::Stream;
use crate::store::shared::backend::CounterCommand;
use crate::store::shared::login::{Secrets, StoreLogin};

/// How long one address may take to accept. The kernel asks again after a second only, and a server that was away is to
/// be found sooner.
const TCP_TIMEOUT: Duration = Duration::from_millis(500);

/// Makes connections.
#[derive(Clone, Debug)]
pub struct Connector {
    pub config: Arc<RedisConfig>,
}

/// A connection.
pub struct Link {
    connection: MultiplexedConnection,
    /// Moves bytes for the connection while it is polled, and ends with it.
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub form: CommandForm,
    /// When it is asked for its statistics next; `None`: it does not tell them.
    pub server_stats: Option<Instant>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("form", &self.form).finish_non_exhaustive()
    }
}

impl Connector {
    /// Connects and logs in. There is no bound on the time: a caller who has one drops this. `Err` says why not.
    pub async fn open(&self, server: &RedisServer) -> Result<Link, String> {
        self.open_with(server, &self.config.login).await
    }

    async fn open_with(&self, server: &RedisServer, user: &StoreLogin) -> Result<Link, String> {
        let Secrets { password, tls } = user.secrets(server.tls.then_some(&self.config.tls)).await?;
        let mut login = RedisConnectionInfo::default().set_db(server.database.into()).set_skip_set_lib_name();
        if let Some(username) = &user.username {
            login = login.set_username(username);
        }
        if let Some(password) = password {
            login = login.set_password(password);
        }
        let stream = open_stream(&server.address).await?;
        match (tls, &server.address) {
            (Some(tls), Address::Inet { host, .. }) => {
                let name = ServerName::try_from(host.clone()).map_err(|error| format!("TLS: {error}"))?;
                let stream = tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
                Link::over(stream, &login).await
            }
            _ => Link::over(stream, &login).await,
        }
    }

    /// Connects to a server that is to have counters, and finds out in which form it takes commands.
    pub async fn open_for_counters(&self, server: &RedisServer) -> Result<Link, String> {
        let mut link = self.open(server).await?;
        link.learn_form().await?;
        Ok(link)
    }

    /// Where the master is, as the first Sentinel says that answers.
    pub async fn master(&self, name: &str) -> Result<RedisServer, String> {
        let mut problem = String::new();
        for sentinel in &self.config.servers {
            match self.ask_sentinel(sentinel, name).await {
                Ok(address) => {
                    let RedisServer { tls, database, .. } = *sentinel;
                    return Ok(RedisServer { address, tls, database });
                }
                Err(error) => problem = format!("Sentinel at {sentinel}: {error}"),
            }
        }
        Err(problem)
    }

    async fn ask_sentinel(&self, sentinel: &RedisServer, name: &str) -> Result<Address, String> {
        // A Sentinel has no databases.
        let sentinel = RedisServer { database: 0, ..sentinel.clone() };
        let mut pipeline = Pipeline::new();
        pipeline.cmd("SENTINEL").arg("get-master-addr-by-name").arg(name);
        let ask = async {
            // Few have a password of their own, and those without one refuse every login.
            let mut link = self.open_with(&sentinel, &StoreLogin::default()).await?;
            let mut values = link.ask(&pipeline, 1).await?;
            if matches!(&values[..], [Value::ServerError(error)] if error.code() == "NOAUTH") {
                values = self.open(&sentinel).await?.ask(&pipeline, 1).await?;
            }
            match &values[..] {
                [Value::Array(parts)] => match &parts[..] {
                    [Value::BulkString(host), Value::BulkString(port)] => {
                        let host = String::from_utf8_lossy(host).into_owned();
                        let port = String::from_utf8_lossy(port).parse().map_err(|_| "it names no port".to_owned())?;
                        Ok(Address::Inet { host, port })
                    }
                    _ => Err("it answers with something else".to_owned()),
                },
                [Value::ServerError(error)] => Err(text_of(error)),
                _ => Err(format!("it knows no master {name}")),
            }
        };
        // Of several Sentinels one may be down.
        let each = super::node::CONNECT_TIMEOUT / 2;
        tokio::time::timeout(each, ask).await.unwrap_or_else(|_| Err("it does not answer".to_owned()))
    }
}

async fn open_stream(address: &Address) -> Result<Stream, String> {
    let open = async {
        match address {
            Address::Unix(path) => UnixStream::connect(path).await?.try_into(),
            Address::Inet { host, port } => {
                let addresses = resolve::addresses(host, *port).await;
                let addresses =
                    addresses.map_err(|error| io::Error::other(format!("its name does not resolve: {error}")))?;
                connect_to_one(&addresses).await?.try_into()
            }
        }
    };
    open.await.map_err(|error: io::Error| error.to_string())
}

/// Each address has its time: one of them may lead nowhere.
async fn connect_to_one(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut problem = io::Error::other("its name has no address");
    for address in addresses {
        match timeout(TCP_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => problem = error,
            Err(_) => problem = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(problem)
}

impl Link {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        login: &RedisConnectionInfo,
    ) -> Result<Self, String> {
        // We have deadlines of our own.
        let config = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let made = MultiplexedConnection::new_with_config(login, stream, config).await;
        let (connection, driver) = made.map_err(|error| explain(&error))?;
        Ok(Self {
            connection,
            driver: Box::pin(driver),
            form: CommandForm::Script { whole: false },
            server_stats: Some(Instant::now()),
        })
    }

    /// Sends commands and returns the answers, of which some may be errors. Cancelled, the answers are dropped when
    /// they come. `Err`: the connection is of no more use.
    pub async fn ask(&mut self, pipeline: &Pipeline, answers: usize) -> Result<Vec<Value>, String> {
        let values = self.send(pipeline.clone(), answers);
        tokio::select! {
            biased;
            values = values => values,
            cause = self.closed() => Err(cause.to_owned()),
        }
    }

    /// A future that sends commands when it is first polled, and returns the answers like [`ask`](Self::ask). Nothing is
    /// sent or read unless [`closed`](Self::closed) is polled as well. Of several such futures the first is done first.
    pub fn send(
        &self,
        pipeline: Pipeline,
        answers: usize,
    ) -> impl Future<Output = Result<Vec<Value>, String>> + Send + 'static {
        let mut connection = self.connection.clone();
        async move {
            let values = connection.send_packed_commands(&pipeline, 0, answers).await;
            values.map_err(|error| explain(&error))
        }
    }

    /// Returns when the connection has ended.
    pub async fn closed(&mut self) -> &'static str {
        (&mut self.driver).await;
        CLOSED
    }

    /// Finds out whether the server allows scripts, and makes the script known to it.
    async fn learn_form(&mut self) -> Result<(), String> {
        let mut pipeline = Pipeline::new();
        write(&[], CommandForm::Script { whole: true }, true, &mut pipeline);
        match &self.ask(&pipeline, 1).await?[..] {
            [Value::ServerError(error)] => match error.code() {
                "NOPERM" | "ERR" => self.form = CommandForm::Plain,
                _ => return Err(text_of(error)),
            },
            _ => self.form = CommandForm::Script { whole: false },
        }
        Ok(())
    }

    /// Creates a counter, as every first hit does, that expires at once. `Err` is what the server has against that.
    pub async fn try_counter(&mut self, key_prefix: &str) -> Result<(), String> {
        let key = format!("{key_prefix}!probe").as_bytes().into();
        let probe = RedisCommand {
            key,
            command: CounterCommand::Hit(1),
            exptime: 1,
            is_known: false,
            unix_ms: 0,
            asking: false,
        };
        let mut pipeline = Pipeline::new();
        let answers = write(&[&probe], self.form, true, &mut pipeline);
        let values = self.ask(&pipeline, answers).await?;
        match read(&[&probe], self.form, true, values).as_deref() {
            Some([RedisReply::Refused(text)]) => match ServerRefusal::of(text) {
                // Of a cluster, this node or none has that key.
                ServerRefusal::NotANumber | ServerRefusal::Elsewhere { .. } | ServerRefusal::Nowhere => Ok(()),
                _ => Err(text.clone()),
            },
            Some(_) => Ok(()),
            None => Err(NONSENSE.to_owned()),
        }
    }
}

const CLOSED: &str = "it closed the connection";

/// What is said of an answer that does not belong to what was asked.
pub const NONSENSE: &str = "unexpected reply; is this a Redis server?";

/// An error in the server's own words, where it said something.
fn explain(error: &RedisError) -> String {
    match (error.code(), error.detail()) {
        // The server's own words are not kept.
        _ if error.kind() == ErrorKind::AuthenticationFailed => {
            "it refuses the login: see redis_username and redis_password_file".to_owned()
        }
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ if error.is_connection_dropped() => CLOSED.to_owned(),
        _ => error.to_string(),
    }
}
