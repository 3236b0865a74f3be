//! The trait that a shared store implements.
//!
//! Everything around it is written once, here and in `store`: the breaker, counting in this process while a server is
//! down, the cache of keys that are over their limit, coalescing, bans, log lines. A new store is a folder of its own
//! beside `memcached`, which says in a [`StoreKind`] what it is, with its `mod` line and its entry in [`STORES`].
//!
//! [`StoreKind`]: super::kind::StoreKind
//! [`STORES`]: crate::store::STORES

use std::fmt::Debug;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::breaker::ServerHealth;
use crate::net::clock::Now;
use crate::observe::log::Log;
use crate::observe::statistics::Statistics;
use crate::policy::{Key, OnStoreFailure};

/// A key as a shared store names it. Most fit without an allocation.
pub type KeyText = SmallVec<[u8; 64]>;

/// What is to be done with one counter. Each command is carried out in one step, which no other one can come between;
/// those of one request need not be. Counts end at `u32::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterCommand {
    /// Add this to its count, or create it with this count and its expiry. A counter that exists keeps its expiry.
    Hit(u32),
    Read,
    /// Subtract this, at most down to 0. Never creates the counter, nor changes its expiry.
    TakeBack(u32),
    /// Count hits in an exact sliding window, the last `exptime` seconds; see [`Slide`]. Only a store whose
    /// [`StoreKind::slides_exactly`](super::kind::StoreKind::slides_exactly) is true gets this and `SlideBack`.
    Slide(Slide),
    /// Subtract this from such a window, at most down to 0: from the hits of this command's `now`, if the store has
    /// them, then from the newest. `Done` if any hit was there, else `NotDone`. Never prolongs the window.
    SlideBack(u32),
    /// Create it with this count and its expiry, unless it exists.
    Add(u32),
    /// Set its count and its expiry, if it exists.
    Replace(u32),
    /// Set its expiry, if it exists.
    Touch,
    Delete,
}

/// Hits of an exact sliding window.
///
/// For its key the store keeps hits with the time of each in milliseconds. In one step, which no other host or process
/// can come between, it does this:
///
/// 1. It drops the hits that are `exptime` seconds old or older. `before` is the number of those that remain. Where the
///    clock was set back, no hit may remain for longer than `exptime` from now.
/// 2. With an amount of 0 it stores nothing, and replies as to a read: `before`, or `NotDone` if that is 0.
/// 3. Otherwise `count` is `before` + `amount`. It stores the new hits with the present time, unless `count` is above
///    `threshold` and `keeps_over` is false: then it stores none of them.
/// 4. It may drop the oldest hits as long as more than `threshold` remain, which bounds what is kept for a key. So a
///    count above the threshold may be too low, but it is still above the threshold.
/// 5. It replies with `count`, stored or not, and with `left`, which is never `None` here: the seconds, rounded up,
///    until so many of the stored hits have become too old that fewer than `threshold` remain (or none do, if that is
///    0). It is 0 if one more hit is allowed now.
///
/// The key expires when its newest hit is too old, or a little later. `Delete` ends it with all its hits. The present
/// time is the `now` of [`Backend::submit`], or that of a clock that all hosts share, as the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slide {
    pub amount: u32,
    /// The hits that the window allows.
    pub threshold: u32,
    /// Whether hits beyond the threshold are stored. False where the client is refused for them and they would only be
    /// taken back.
    pub keeps_over: bool,
}

/// One command for one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterRequest {
    /// At most [`MAX_STORE_KEY`](crate::policy::key::MAX_STORE_KEY) bytes, without blanks and control characters.
    pub key: KeyText,
    pub command: CounterCommand,
    /// Seconds that the counter lives, where the command sets that; the length of an exact sliding window. No counter
    /// may be left without an expiry.
    pub exptime: u32,
    /// This process knows the counter and when it expires: the reply to `Hit` may have no `left`, if the counter existed.
    /// Only set where [`omits_known_expiry`](Backend::omits_known_expiry).
    pub is_known: bool,
}

/// The commands of one request; nearly always one.
pub type CounterRequests = SmallVec<[CounterRequest; 2]>;

/// The reply of the store about one counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterReply {
    /// The reply to `Hit` and `Slide`, and to `Read` if the counter exists.
    Count {
        count: u32,
        /// Seconds until it expires; `None`: the store does not return that.
        left: Option<u32>,
    },
    /// Any other command was carried out.
    Done,
    /// Nothing was done: what was to be created exists, or any other command met no counter.
    NotDone,
}

/// Why a shared store did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Nothing was done: the server is known to be down and was not asked, or it does nothing for now.
    Unavailable,
    /// No usable answer came in time: none, or an error. Whether the command was sent and done is not known, and asking
    /// again might count twice.
    NoAnswer,
    /// The key holds something that is not a number.
    NotANumber,
}

/// The result of one command.
pub type Outcome = Result<CounterReply, StoreError>;

/// One server's part of a command: where its outcome arrives, or that it was not asked.
pub type Sent = Result<oneshot::Receiver<Outcome>, StoreError>;

/// A command on its way. It is carried out whether or not its outcome is waited for.
#[derive(Debug)]
pub struct PendingReply {
    first: Sent,
    second: Option<(Sent, Combine)>,
}

/// Makes one outcome of those of two servers that have the same key.
pub type Combine = fn(Outcome, Outcome) -> Outcome;

impl PendingReply {
    /// A command that one server carries out.
    pub fn one(sent: Sent) -> Self {
        Self { first: sent, second: None }
    }

    /// A command that two servers carry out.
    pub fn two(first: Sent, second: Sent, combine: Combine) -> Self {
        Self { first, second: Some((second, combine)) }
    }

    /// Waits for the outcome, at most `store_timeout`.
    pub async fn outcome(&mut self) -> Outcome {
        let first = received(&mut self.first).await;
        match &mut self.second {
            None => first,
            Some((second, combine)) => combine(first, received(second).await),
        }
    }
}

/// Waits until these commands are done or given up.
pub fn all_received(sent: impl IntoIterator<Item = Sent>) -> Boxed<'static, ()> {
    let sent: Vec<_> = sent.into_iter().collect();
    Box::pin(async move {
        for mut sent in sent {
            let _ = received(&mut sent).await;
        }
    })
}

async fn received(sent: &mut Sent) -> Outcome {
    match sent {
        Ok(receiver) => receiver.await.unwrap_or(Err(StoreError::NoAnswer)),
        Err(error) => Err(*error),
    }
}

/// A value that all hosts share, as it was read, such as the list of bans and allowances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionedValue {
    pub bytes: Vec<u8>,
    /// Changes with every write.
    pub version: u64,
}

/// Since when a server is down, as the old program tells the new one at an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedOutage {
    pub server: String,
    pub milliseconds: u64,
    /// Requests that were decided without it.
    pub decisions: u64,
}

/// Which keys are listed: those that begin with a prefix, and whose rest is wanted.
pub struct KeyQuery {
    pub prefix: String,
    pub wanted: Arc<dyn Fn(&str) -> bool + Send + Sync>,
    /// Of more, those with the most hits are listed.
    pub most: usize,
}

/// Keys that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyListing {
    /// Those with the most hits first.
    pub keys: Vec<ListedKey>,
    /// Further ones that are wanted.
    pub more: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedKey {
    pub key: String,
    pub count: u32,
    /// Seconds until it expires.
    pub left: u32,
}

/// A future of a trait's method.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What every shared store is made with.
#[derive(Clone, Debug)]
pub struct BackendContext {
    /// The longest time that a request waits.
    pub timeout: Duration,
    /// What is done while a server is down, for the log.
    pub on_failure: OnStoreFailure,
    /// Servers that are known to be down.
    pub outages: Vec<SavedOutage>,
    pub statistics: Arc<Statistics>,
    pub log: Log,
}

/// A shared store.
pub trait Backend: Debug + Send + Sync {
    /// Sends commands, which travel together, and returns a reply for each of them in the same order. Never blocks.
    /// `waited_for`: a request waits for the replies, so it counts in the statistics and towards the breaker.
    fn submit(&self, requests: CounterRequests, waited_for: bool, now: Now) -> SmallVec<[PendingReply; 2]>;

    /// Whether it leaves out when a counter expires that [`is_known`](CounterRequest::is_known).
    fn omits_known_expiry(&self) -> bool {
        false
    }

    /// Reads a value that all hosts share; `None`: there is none. Takes a second at most.
    fn read_value<'a>(&'a self, key: &'a str) -> Boxed<'a, io::Result<Option<VersionedValue>>>;

    /// Writes a value for `exptime` seconds in place of what was read before, or where nothing was. Returns whether
    /// that was still the case. After an error it is unknown whether the value was written.
    fn write_value<'a>(
        &'a self,
        key: &'a str,
        value: &'a [u8],
        exptime: u32,
        before: Option<&'a VersionedValue>,
        now: Now,
    ) -> Boxed<'a, io::Result<bool>>;

    /// Whether it can list its keys.
    fn lists_keys(&self) -> bool {
        false
    }

    /// Lists keys, beside the requests: none waits for it.
    fn list_keys(&self, _: KeyQuery, _: Now) -> Boxed<'_, io::Result<KeyListing>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    /// The state of every server.
    fn servers(&self) -> Vec<ServerHealth>;

    /// Whether no server that has this key can be asked.
    fn is_down_for(&self, key: &Key<'_>) -> bool;

    /// The servers that are down. At an upgrade the new program gets them in [`BackendContext::outages`], so that it
    /// does not wait for them again.
    fn outages(&self) -> Vec<SavedOutage>;

    /// Waits until everything that was submitted is done or given up.
    fn wait_for_background(&self) -> Boxed<'_, ()>;
}

/// The text of a key, which [`Key::write`] makes.
pub fn key_text(key: &Key<'_>) -> KeyText {
    let mut text = KeyWriter(KeyText::new());
    key.write(&mut text).expect("a key text grows as needed");
    text.0
}

struct KeyWriter(KeyText);

impl std::fmt::Write for KeyWriter {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
