//! What administrators said, and how the hosts that share a store hear of it.
//!
//! All of it is one small list in the store. A change is written at once; every host reads the list once a
//! second, off the way of requests. What cannot be written, because memcached is away, holds on this host and
//! is written when memcached is back. Without memcached the list is this process's own.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::Problem;
use super::reset::forget_here;
use crate::clock::Now;
use crate::policy::overrides::{Kind, MAX_WORDS, Word};
use crate::service::Service;
use crate::store::shared::{Read, Shared};
use crate::store::wire::expiry;

/// The key of the list, after the prefix of all keys.
const NAME: &str = "overrides";

/// The version of the list's form.
const FORM: u64 = 1;

/// How long a reset is told to other hosts, in seconds; each hears of it within one.
pub const RESET_TOLD: u64 = 60;

/// The list stays this many seconds longer than its last word: clocks differ.
const SPARE: u64 = 60;

/// Hosts that change the list at the same moment try again; this many would have to win before us.
const TRIES: usize = 8;

/// A change to the list.
#[derive(Clone, Debug)]
pub enum Change {
    /// Something is said of a netblock, in place of what was.
    Say(Word),
    /// What was said of this netblock no longer holds.
    Unsay(IpNet),
}

/// Where a change holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// In this process, which is all there is.
    Here,
    /// On every host that shares the store.
    Everywhere,
    /// On this host, until memcached is back.
    HereFirst(String),
}

impl Reach {
    /// For people to read; nothing where nothing is to be said.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Here | Self::Everywhere => None,
            Self::HereFirst(error) => {
                Some(format!("memcached cannot be told ({error}): it holds on this host, and on others once it can"))
            }
        }
    }
}

/// The list's other copy.
#[derive(Debug, Default)]
pub struct Words {
    link: Mutex<Link>,
}

#[derive(Debug, Default)]
struct Link {
    shared: Option<Shared>,
    /// Changes the store does not know of yet.
    pending: Vec<Change>,
    /// Resets that were heeded here, by netblock and end.
    heeded: HashSet<(IpNet, u64)>,
}

/// Keeps the list as the other hosts have it, for ever.
pub async fn follow(service: Arc<Service>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        second.tick().await;
        let now = Now::read();
        service.words.refresh(&service, now).await;
        service.rules.load().policy.overrides().expire(now);
    }
}

impl Words {
    /// Makes a change, here at once, and wherever it can be told.
    ///
    /// # Errors
    ///
    /// When there are too many words already.
    pub async fn change(&self, service: &Service, change: Change, now: Now) -> Result<Reach, Problem> {
        let mut link = self.link.lock().await;
        let overrides = service.rules.load().policy.overrides().clone();
        let list = apply(overrides.list(), std::slice::from_ref(&change));
        if list.len() > MAX_WORDS {
            return Err(Problem::unavailable(format!("there are {MAX_WORDS} bans and allowances already; lift some")));
        }
        if let Change::Say(Word { netblock, ends, kind: Kind::Reset, .. }) = &change {
            link.heeded.insert((*netblock, *ends));
        }
        overrides.set(list, now);
        link.meet(service);
        if link.shared.is_none() {
            return Ok(Reach::Here);
        }
        link.pending.push(change);
        // Beyond this they are kept here only.
        link.pending.truncate(MAX_WORDS);
        Ok(match link.exchange(service, now).await {
            Ok(()) => Reach::Everywhere,
            Err(error) => Reach::HereFirst(error.to_string()),
        })
    }

    /// Reads the list, and says what other hosts do not know yet.
    pub async fn refresh(&self, service: &Service, now: Now) {
        let mut link = self.link.lock().await;
        link.meet(service);
        link.heeded.retain(|(_, ends)| *ends > now.unix());
        if link.shared.is_some() {
            // The store's own lines tell of it when it is away.
            let _ = link.exchange(service, now).await;
        }
    }
}

impl Link {
    /// Goes where the list is, which a reload may have changed.
    fn meet(&mut self, service: &Service) {
        let location = service.rules.load().store.shared(NAME);
        if self.shared.as_ref().map(Shared::location) != location.as_ref() {
            self.shared = location.map(Shared::new);
        }
    }

    /// Reads the list, adds what it lacks of ours, and puts it in force.
    async fn exchange(&mut self, service: &Service, now: Now) -> io::Result<()> {
        let Some(shared) = &mut self.shared else {
            return Ok(());
        };
        let overrides = service.rules.load().policy.overrides().clone();
        for _ in 0..TRIES {
            let read = shared.read().await?;
            let told = match &read {
                Some(Read { value, .. }) => parse(value)?,
                // It was lost with a restart of memcached, or there never was one.
                None => overrides.list(),
            };
            let missing = read.is_none() && !told.is_empty();
            let mut list = apply(told, &self.pending);
            list.retain(|word| word.ends > now.unix());
            list.truncate(MAX_WORDS);
            if !self.pending.is_empty() || missing {
                let last = list.iter().map(|word| word.ends).max().unwrap_or(0);
                let seconds = u32::try_from(last.saturating_sub(now.unix()) + SPARE).unwrap_or(u32::MAX);
                if !shared.write(spell(&list).as_bytes(), expiry(seconds, now.unix()), read.as_ref()).await? {
                    continue;
                }
                self.pending.clear();
            }
            for word in list.iter().filter(|word| word.kind == Kind::Reset) {
                if self.heeded.insert((word.netblock, word.ends)) {
                    forget_here(service, word.netblock, now).await;
                }
            }
            if list != overrides.list() {
                overrides.set(list, now);
            }
            return Ok(());
        }
        Err(io::Error::other("other hosts change the list all the time"))
    }
}

fn apply(mut list: Vec<Word>, changes: &[Change]) -> Vec<Word> {
    for change in changes {
        let (netblock, reset) = match change {
            Change::Say(word) => (word.netblock, word.kind == Kind::Reset),
            Change::Unsay(netblock) => (*netblock, false),
        };
        // A reset is news, and stands beside what holds.
        list.retain(|word| word.netblock != netblock || (word.kind == Kind::Reset) != reset);
        if let Change::Say(word) = change {
            list.push(word.clone());
        }
    }
    list
}

fn spell(list: &[Word]) -> String {
    let word = |word: &Word| json!({ "netblock": word.netblock.to_string(), "word": word.kind.name(), "ends": word.ends, "by": word.by });
    json!({ "v": FORM, "words": list.iter().map(word).collect::<Vec<_>>() }).to_string()
}

fn parse(value: &[u8]) -> io::Result<Vec<Word>> {
    let wrong = || io::Error::other("the list in memcached is not one of this version");
    let list: Value = serde_json::from_slice(value).map_err(|_| wrong())?;
    let words = list["words"].as_array().filter(|_| list["v"] == FORM).ok_or_else(wrong)?;
    let word = |word: &Value| {
        let kind = [Kind::Allow, Kind::Ban, Kind::Reset].into_iter().find(|kind| word["word"] == kind.name())?;
        Some(Word {
            netblock: word["netblock"].as_str()?.parse().ok()?,
            kind,
            ends: word["ends"].as_u64()?,
            by: word["by"].as_str()?.chars().take(100).collect(),
        })
    };
    words.iter().take(MAX_WORDS).map(|said| word(said).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(netblock: &str, kind: Kind) -> Word {
        Word { netblock: netblock.parse().unwrap(), kind, ends: 1_700_000_060, by: "root".to_owned() }
    }

    #[test]
    fn the_last_word_of_a_netblock_holds_and_a_reset_stands_beside_it() {
        let said = [
            Change::Say(word("192.0.2.0/24", Kind::Ban)),
            Change::Say(word("192.0.2.0/24", Kind::Reset)),
            Change::Say(word("192.0.2.0/24", Kind::Allow)),
            Change::Say(word("2001:db8::/32", Kind::Ban)),
        ];
        let list = apply(Vec::new(), &said);
        let kinds: Vec<_> = list.iter().map(|word| word.kind).collect();
        assert_eq!(kinds, [Kind::Reset, Kind::Allow, Kind::Ban]);
        let list = apply(list, &[Change::Unsay("192.0.2.0/24".parse().unwrap())]);
        assert_eq!(list.len(), 2);
    }

    #[test]
    fn a_list_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let list = vec![word("192.0.2.0/24", Kind::Ban), word("2001:db8::1/128", Kind::Allow)];
        assert_eq!(parse(spell(&list).as_bytes()).unwrap(), list);
        for wrong in ["", "11", "{}", "{\"v\":2,\"words\":[]}", "{\"v\":1,\"words\":[{\"netblock\":\"x\"}]}"] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
