//! Values that all hosts share, over a connection of their own: they may be long, and the counters are not to wait.

use std::hash::Hasher;
use std::io;
use std::time::Duration;

use redis::{Pipeline, Value};
use siphasher::sip::SipHasher13;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::command::text_of;
use super::link::{Connector, Link};
use super::settings::{RedisServer, Topology};
use crate::store::shared::backend::VersionedValue;

/// For one exchange, which no request waits for.
const VALUE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest value that is believed. Ours are much shorter.
const MAX_VALUE: usize = 1 << 20;

/// The connection, while it lasts, and the server it is to.
#[derive(Debug, Default)]
pub struct ValueConnection {
    link: Mutex<Option<(RedisServer, Link)>>,
}

impl ValueConnection {
    /// Reads a value; `None`: there is none.
    pub async fn read(
        &self,
        connector: &Connector,
        server: &RedisServer,
        key: &str,
    ) -> io::Result<Option<VersionedValue>> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("GET").arg(key);
        in_time(async {
            let mut kept = self.link.lock().await;
            let mut link = take_or_open(&mut kept, connector, server).await?;
            let value = value(&mut link.ask(&pipeline, 1).await?)?;
            *kept = Some((server.clone(), link));
            Ok(value)
        })
        .await
    }

    /// Writes a value in place of what was read before, or where nothing was. Returns whether that was still the case.
    pub async fn write(
        &self,
        connector: &Connector,
        server: &RedisServer,
        key: &str,
        bytes: &[u8],
        exptime: u32,
        before: Option<&VersionedValue>,
    ) -> io::Result<bool> {
        let mut look = Pipeline::new();
        look.cmd("WATCH").arg(key);
        look.cmd("GET").arg(key);
        let mut leave = Pipeline::new();
        leave.cmd("UNWATCH");
        let mut write = Pipeline::new();
        write.cmd("MULTI");
        write.cmd("SET").arg(key).arg(bytes).arg("EX").arg(exptime.max(1));
        write.cmd("EXEC");
        in_time(async {
            let mut kept = self.link.lock().await;
            let mut link = take_or_open(&mut kept, connector, server).await?;
            let now = value(&mut link.ask(&look, 2).await?)?;
            let is_as_before = now.as_ref().map(|value| &value.bytes) == before.map(|value| &value.bytes);
            let is_written = match is_as_before {
                false => {
                    link.ask(&leave, 1).await?;
                    false
                }
                true => match link.ask(&write, 3).await?.pop() {
                    Some(Value::Array(_)) => true,
                    Some(Value::Nil) => false,
                    Some(Value::ServerError(error)) => return Err(text_of(&error)),
                    _ => return Err("this is not an answer to EXEC".to_owned()),
                },
            };
            *kept = Some((server.clone(), link));
            Ok(is_written)
        })
        .await
    }
}

async fn in_time<T>(exchange: impl Future<Output = Result<T, String>>) -> io::Result<T> {
    let done = timeout(VALUE_TIMEOUT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
    done.map_err(io::Error::other)
}

/// Takes the connection out. After any error it is dropped: what it says next may belong to that command.
async fn take_or_open(
    kept: &mut Option<(RedisServer, Link)>,
    connector: &Connector,
    server: &RedisServer,
) -> Result<Link, String> {
    match (kept.take(), &connector.config.topology) {
        (Some((known, link)), _) if known == *server => Ok(link),
        (_, Topology::Sentinel(name)) => connector.open(&connector.master(name).await?).await,
        (_, Topology::Servers | Topology::Cluster) => connector.open(server).await,
    }
}

/// The value that the last answer has.
fn value(values: &mut Vec<Value>) -> Result<Option<VersionedValue>, String> {
    match values.pop() {
        Some(Value::Nil) => Ok(None),
        Some(Value::BulkString(bytes)) if bytes.len() <= MAX_VALUE => {
            let mut hasher = SipHasher13::new();
            hasher.write(&bytes);
            Ok(Some(VersionedValue { version: hasher.finish(), bytes }))
        }
        Some(Value::ServerError(error)) => Err(text_of(&error)),
        _ => Err("the key holds something else".to_owned()),
    }
}
