//! The list of overrides that hosts with a shared store exchange, with the resets and the events of limits' bans.
//!
//! It is one small list in the store. A change is written at once; every host reads the list once a second, apart
//! from requests. What cannot be written because the store is down holds on this host, and is written when the store
//! is back. Without a shared store the list is this process's own.
//!
//! A limit's ban itself is not in the list: it is a key of the store, see `store::bans`.

mod announced;
mod list;

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::engine::bans;
use crate::engine::reset::forget_here;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::log::Severity;
use crate::policy::overrides::{MAX_OVERRIDES, Override};
use announced::AnnouncedRecord;
use list::MAX_EVENTS;
pub use list::{BanEvent, BanEventKind, Change, OverrideList, Reset};

/// The key of the list, after the prefix of all keys and a `!`.
const NAME: &str = "overrides";

/// The list stays this many seconds longer than its last entry: clocks differ.
const SPARE: u64 = 60;

/// Attempts to write the list, while other hosts change it at the same moment.
const TRIES: usize = 8;

/// Where a change holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// In this process, which is all there is.
    Local,
    /// On every host that shares the store.
    Shared,
    /// On this host, until the store of this name is back.
    Pending(&'static str, String),
}

impl Propagation {
    /// The note for the administrator.
    pub fn note(&self) -> Option<String> {
        match self {
            Self::Local | Self::Shared => None,
            Self::Pending(store, error) => {
                Some(format!("{store} could not be updated ({error}): in force on this host, on others once it is"))
            }
        }
    }
}

/// There are [`MAX_OVERRIDES`] bans and allowances already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("there are {} bans and allowances already; lift some", MAX_OVERRIDES)]
pub struct TooMany;

/// The list as this process knows it.
#[derive(Debug, Default)]
pub struct SharedOverrides {
    /// Held while the list is read and written.
    exchange: Mutex<AnnouncedRecord>,
    link: StdMutex<ExchangeState>,
    /// Why the list in the store cannot be read.
    unreadable: StdMutex<Option<String>>,
    silent: AtomicBool,
    /// This program, or the old one before an upgrade, has read the list.
    has_read: AtomicBool,
}

/// What this process has to write to the list, and has read from it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ExchangeState {
    /// Changes that are not in the store yet.
    pending: Vec<Change>,
    /// Resets and events that this host has seen, by their ids.
    seen: HashSet<u64>,
    /// The limits and keys of the bans that the list says were lifted lately.
    lifted: HashSet<(String, String)>,
}

/// Exchanges the list with the store once a second, for ever.
pub async fn follow(service: Arc<Service>) {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut rules = service.rules.load_full();
    let mut flushes = service.statistics.store_flushes.load(Ordering::Relaxed);
    let mut lost = Vec::new();
    loop {
        second.tick().await;
        let now = Now::read();
        let current = service.rules.load_full();
        if !Arc::ptr_eq(&rules, &current) {
            if service.overrides.announces() {
                bans::announce_reload(&service, &rules, &current, now).await;
            }
            rules = current;
        }
        service.overrides.refresh(&service, now).await;
        service.rules.load().policy.overrides().expire(now);
        if !service.overrides.announces() {
            continue;
        }
        // A second after they were missed: by then the list says which of them another host has lifted.
        bans::announce_lost(&service, &lost, now);
        let flushed = service.statistics.store_flushes.load(Ordering::Relaxed);
        if std::mem::replace(&mut flushes, flushed) != flushed {
            bans::look_for_lost(&rules, now).await;
        }
        lost = rules.store.lost_bans().take();
    }
}

impl SharedOverrides {
    /// Bans that other processes of this host announce already are not announced by this one.
    pub fn disable_ban_events(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    fn announces(&self) -> bool {
        !self.silent.load(Ordering::Relaxed)
    }

    /// Why the list in the store cannot be read, if so. Then what other hosts change does not hold here.
    pub fn unreadable(&self) -> Option<String> {
        lock(&self.unreadable).clone()
    }

    /// Whether the list says that a ban was lifted lately, which was announced then.
    pub fn is_lifted(&self, limit: &str, key: &str) -> bool {
        lock(&self.link).lifted.contains(&(limit.to_owned(), key.to_owned()))
    }

    /// The state, for the new program of an upgrade.
    pub fn save(&self, service: &Service, now: Now) -> ExchangeState {
        self.queue_unpublished_bans(service, now);
        lock(&self.link).clone()
    }

    /// Restores the state of the old program.
    pub fn restore(&self, link: ExchangeState) {
        *lock(&self.link) = link;
        self.has_read.store(true, Ordering::Relaxed);
        self.exchange.try_lock().expect("nothing is exchanged before the start").skip();
    }

    /// At the end of the process: writes its last bans, for other hosts, and what it has announced, for the next daemon
    /// on this host. Takes no longer than `patience`.
    pub async fn finish(&self, service: &Service, patience: Duration, now: Now) {
        let store = Arc::clone(&service.rules.load().store);
        if !store.is_shared() {
            return;
        }
        let tell = async {
            store.wait_for_background().await;
            self.queue_unpublished_bans(service, now);
            let has_news = !lock(&self.link).pending.is_empty();
            if has_news || self.announces() {
                self.refresh(service, now).await;
            }
        };
        let _ = timeout(patience, tell).await;
    }

    /// Makes changes: on this host at once, on others by the list.
    ///
    /// # Errors
    ///
    /// When there would be too many overrides; then nothing is changed.
    pub async fn change(&self, service: &Service, changes: Vec<Change>, now: Now) -> Result<Propagation, TooMany> {
        let mut record = self.exchange.lock().await;
        let rules = service.rules.load_full();
        let mut overrides = rules.policy.overrides().list();
        for change in &changes {
            let target = match change {
                Change::Set(Override { target, .. }) | Change::Remove(target) => target,
                Change::Reset(Reset { id, .. }) | Change::Event(BanEvent { id, .. }) => {
                    lock(&self.link).seen.insert(*id);
                    continue;
                }
            };
            overrides.retain(|other| other.target != *target && other.left(now) > 0);
            if let Change::Set(entry) = change {
                overrides.push(entry.clone());
            }
        }
        if overrides.len() > MAX_OVERRIDES {
            return Err(TooMany);
        }
        self.put_in_force(service, overrides, now);
        if !rules.store.is_shared() {
            return Ok(Propagation::Local);
        }
        {
            let pending = &mut lock(&self.link).pending;
            pending.extend(changes);
            // Of more, the newest are kept on this host only.
            pending.truncate(2 * MAX_OVERRIDES);
        }
        Ok(match self.exchange(&mut record, service, now).await {
            Ok(()) => Propagation::Shared,
            Err(error) => Propagation::Pending(rules.store.name(), error.to_string()),
        })
    }

    /// Reads the list, and writes what other hosts do not know yet.
    pub async fn refresh(&self, service: &Service, now: Now) {
        let mut record = self.exchange.lock().await;
        if !service.rules.load().store.is_shared() {
            return;
        }
        self.queue_unpublished_bans(service, now);
        // A store that is down is logged by itself.
        let _ = self.exchange(&mut record, service, now).await;
    }

    /// Adds the bans that this process began to the changes for other hosts.
    fn queue_unpublished_bans(&self, service: &Service, now: Now) {
        let (begun, more) = service.rules.load().store.unpublished_bans().take();
        let link = &mut *lock(&self.link);
        let waiting = link.pending.iter().filter(|change| matches!(change, Change::Event(_))).count();
        let room = MAX_EVENTS.saturating_sub(waiting);
        let left_out = more + begun.len().saturating_sub(room);
        if left_out > 0 {
            service.log.limited(Severity::Warning, "CONTROL_FAILED", now, |line| {
                line.field("error", format!("{left_out} bans were not passed on to other hosts: too many at once"));
            });
        }
        for ban in begun.into_iter().take(room) {
            let kind = BanEventKind::Begun { seconds: ban.seconds, repetition: ban.repetition };
            let event = BanEvent::new(ban.limit, ban.part.to_string(), kind, now);
            link.seen.insert(event.id);
            link.pending.push(Change::Event(event));
        }
    }

    /// Reads the list, adds what it lacks of ours, and puts it in force.
    async fn exchange(&self, record: &mut AnnouncedRecord, service: &Service, now: Now) -> io::Result<()> {
        let rules = service.rules.load_full();
        let overrides = rules.policy.overrides();
        if self.announces() {
            record.recall(self, service, now).await?;
        }
        for _ in 0..TRIES {
            let read = rules.store.read_value(NAME).await?;
            let known = overrides.list();
            let pending = lock(&self.link).pending.clone();
            let told = match read.as_ref().map(|read| OverrideList::parse(&read.bytes)).transpose() {
                Ok(told) => {
                    self.set_unreadable(service, None);
                    told
                }
                Err(error) => {
                    self.set_unreadable(service, Some(error.to_string()));
                    // The next change replaces it by what this host knows.
                    if pending.is_empty() {
                        return Err(error);
                    }
                    None
                }
            };
            // It was lost with a restart of the store, or there never was one.
            let is_missing = told.is_none();
            let told = told.unwrap_or_else(|| OverrideList::of(&known, now));
            // Entries that have ended stay in the store until a host has a reason to write the list. What this process
            // has not seen yet it does even if it has ended: its clock may be ahead, or the store was down for a while.
            // Only at its first reading it leaves such entries out, which are from before its start.
            let stored = told.ids();
            let is_first = !self.has_read.swap(true, Ordering::Relaxed);
            let is_new = |id, ends| self.note_seen(id) && (!is_first || ends > now.unix());
            for reset in told.resets.iter().filter(|reset| is_new(reset.id, reset.ends)) {
                forget_here(service, reset.target.clone(), now).await;
            }
            for event in told.events.iter().filter(|event| is_new(event.id, event.ends)) {
                bans::apply_event(service, event, self.announces(), now);
            }
            let told = told.after(&pending, now).at(now);
            if !pending.is_empty() || is_missing && !told.is_empty() {
                let last = told.ends().max().unwrap_or(0);
                let seconds = u32::try_from(last.saturating_sub(now.unix()) + SPARE).unwrap_or(u32::MAX);
                if !rules.store.write_value(NAME, told.to_json().as_bytes(), seconds, read.as_ref(), now).await? {
                    continue;
                }
                lock(&self.link).pending.clear();
                self.set_unreadable(service, None);
            }
            self.note(&told, stored);
            let entries = told.overrides(&known, now);
            if entries != known {
                self.put_in_force(service, entries, now);
            }
            if self.announces() {
                record.keep(self, service, is_missing, now).await?;
            }
            return Ok(());
        }
        Err(io::Error::other(format!("other hosts kept changing the list; gave up after {TRIES} attempts")))
    }

    /// Notes that a reset or an event was seen. Returns whether it is new.
    fn note_seen(&self, id: u64) -> bool {
        lock(&self.link).seen.insert(id)
    }

    /// Keeps the seen ids that are in the list, or were among `stored` ids.
    fn note(&self, told: &OverrideList, stored: HashSet<u64>) {
        let ids = &stored | &told.ids();
        let lifted = told.events.iter().filter(|event| event.kind == BanEventKind::Lifted);
        let link = &mut *lock(&self.link);
        link.seen.retain(|id| ids.contains(id));
        link.lifted = lifted.map(|event| (event.limit.clone(), event.key.clone())).collect();
    }

    /// Puts overrides in force and announces the bans that begin and end with that.
    fn put_in_force(&self, service: &Service, entries: Vec<Override>, now: Now) {
        let rules = service.rules.load();
        let before = rules.policy.overrides().list();
        rules.policy.overrides().set(entries.clone(), rules.policy.spellings(), now);
        if self.announces() {
            bans::announce_overrides(service, &before, &entries, now);
        }
    }

    fn set_unreadable(&self, service: &Service, error: Option<String>) {
        let mut unreadable = lock(&self.unreadable);
        if let (Some(error), None) = (&error, &*unreadable) {
            service.log.line(Severity::Warning, "OVERRIDES_UNREADABLE", |line| {
                line.field("store", service.rules.load().store.name()).field("error", error);
            });
        }
        *unreadable = error;
    }
}
