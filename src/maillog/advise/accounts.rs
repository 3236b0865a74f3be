//! What users send: messages, recipients and different addresses per login, sender and sender domain.
//!
//! Only messages of clients that logged in count, or that a submission service
//! took: nobody limits a stranger by the sender that it claims. Windows and
//! numbers are those of `clients`. A message with ten recipients is ten hits of
//! a limit on recipients.

use std::collections::HashMap;
use std::net::IpAddr;

use strum::IntoStaticStr;

use super::parts::{MAX_PARTS, PartPeaks, join_bits};
use super::window::{HIGHEST, LogWindow, Moment};

/// The most logins, senders and domains that are kept of each.
pub const MAX_ACCOUNTS: usize = 50_000;

/// Different addresses that are told apart within one window.
const MAX_ADDRESSES: usize = 1_000;

/// What a limit counts by, as `per` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Per {
    #[strum(serialize = "sasl_username")]
    Login,
    Sender,
    SenderDomain,
}

impl Per {
    pub const ALL: [Self; 3] = [Self::Login, Self::Sender, Self::SenderDomain];
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum AccountCount {
    Messages,
    Recipients,
    Addresses,
}

impl AccountCount {
    pub const ALL: [Self; 3] = [Self::Messages, Self::Recipients, Self::Addresses];
}

/// The users of a log.
#[derive(Debug)]
pub struct Accounts {
    tables: [AccountTable; 3],
    /// The first and the last time of a message, in milliseconds since the epoch.
    pub span: Option<(i64, i64)>,
}

impl Accounts {
    /// `lengths` of windows are in seconds.
    pub fn new(lengths: &[u32]) -> Self {
        Self { tables: Per::ALL.map(|_| AccountTable::new(lengths, MAX_ACCOUNTS)), span: None }
    }

    pub fn table(&self, per: Per) -> &AccountTable {
        &self.tables[per as usize]
    }

    /// Counts a message in a part of the log. An empty login or sender is counted by what else there is.
    pub fn count(&mut self, moment: Moment, part: usize, login: &[u8], sender: &[u8], message: SentMessage) {
        let (first, last) = self.span.unwrap_or((moment.time, moment.time));
        self.span = Some((first.min(moment.time), last.max(moment.time)));
        let domain = memchr::memrchr(b'@', sender).map_or(&[][..], |at| &sender[at + 1..]);
        for (table, key) in self.tables.iter_mut().zip([login, sender, domain]) {
            if !key.is_empty() {
                table.count(moment, part, &key.to_ascii_lowercase(), message);
            }
        }
    }

    /// Joins the parts of the log in pairs.
    pub fn join_parts(&mut self) {
        self.tables.iter_mut().for_each(AccountTable::join_parts);
    }
}

/// What a message adds to the counts.
#[derive(Clone, Copy, Debug)]
pub struct SentMessage {
    pub client: Option<IpAddr>,
    pub recipients: u32,
}

/// All logins, all senders or all sender domains.
#[derive(Debug)]
pub struct AccountTable {
    /// Lengths of windows in milliseconds.
    lengths: Vec<u64>,
    max_accounts: usize,
    index: HashMap<Box<[u8]>, u32>,
    accounts: Vec<Account>,
    /// By what is counted, then by length: how many hits had which number.
    numbers: [Vec<Numbers>; 3],
    forgotten: u64,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Account {
    /// In lower case, as the daemon counts it.
    pub key: Box<[u8]>,
    pub messages: u64,
    pub recipients: u64,
    /// Its highest numbers by part, for what is counted and each length.
    parts: PartPeaks,
    /// The parts in which it sent, a bit for each.
    pub active_parts: u8,
    windows: Box<[Windows]>,
}

#[derive(Clone, Debug, Default)]
struct Windows {
    messages: LogWindow,
    recipients: LogWindow,
    addresses: AddressWindow,
}

/// A window that counts different addresses, IPv6 by their /64. As in a [`LogWindow`], both courses are followed
/// where a window may have ended.
#[derive(Clone, Debug, Default)]
struct AddressWindow {
    begin: i64,
    /// Sorted.
    addresses: Vec<u64>,
    /// The window that has begun if this one is over; without addresses there is none.
    next_begin: i64,
    next: Vec<u64>,
    peak: u16,
}

/// How many hits had each number in their window, as changes from one number to the next.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    changes: Vec<i64>,
}

impl AccountTable {
    fn new(lengths: &[u32], max_accounts: usize) -> Self {
        Self {
            lengths: lengths.iter().map(|seconds| u64::from(*seconds) * 1000).collect(),
            max_accounts,
            index: HashMap::new(),
            accounts: Vec::new(),
            numbers: AccountCount::ALL.map(|_| vec![Numbers::default(); lengths.len()]),
            forgotten: 0,
        }
    }

    pub fn accounts(&self) -> &[Account] {
        &self.accounts
    }

    /// Accounts that are no longer kept.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    pub fn numbers(&self, counted: AccountCount, length: usize) -> &Numbers {
        &self.numbers[counted as usize][length]
    }

    fn count(&mut self, moment: Moment, part: usize, key: &[u8], message: SentMessage) {
        let at = self.find(key);
        let account = &mut self.accounts[at];
        account.messages += 1;
        account.recipients += u64::from(message.recipients);
        let [messages, recipients, addresses] = &mut self.numbers;
        for (at, (windows, length)) in account.windows.iter_mut().zip(&self.lengths).enumerate() {
            let row = |counted: AccountCount| counted as usize * self.lengths.len() + at;
            let number = windows.messages.count(moment, *length, 1);
            messages[at].note(number.stamped, 1);
            account.parts.note(part, row(AccountCount::Messages), number.worst);
            let amount = message.recipients.max(1);
            let number = windows.recipients.count(moment, *length, amount);
            recipients[at].note(number.stamped, amount);
            account.parts.note(part, row(AccountCount::Recipients), number.worst);
            if let Some(client) = message.client {
                if let Some(number) = windows.addresses.count(moment, *length, client) {
                    addresses[at].note(number, 1);
                }
                account.parts.note(part, row(AccountCount::Addresses), windows.addresses.worst());
            }
        }
        account.active_parts |= 1 << part;
    }

    fn find(&mut self, key: &[u8]) -> usize {
        if let Some(at) = self.index.get(key) {
            return *at as usize;
        }
        if self.accounts.len() >= self.max_accounts {
            self.make_room();
        }
        let windows = vec![Windows::default(); self.lengths.len()].into();
        let (key, parts) = (Box::<[u8]>::from(key), PartPeaks::new(AccountCount::ALL.len() * self.lengths.len()));
        self.index.insert(key.clone(), self.accounts.len() as u32);
        self.accounts.push(Account { key, messages: 0, recipients: 0, parts, active_parts: 0, windows });
        self.accounts.len() - 1
    }

    /// Forgets the tenth of the accounts that sent least.
    fn make_room(&mut self) {
        let kept = self.max_accounts - self.max_accounts / 10 - 1;
        self.accounts.sort_unstable_by_key(|account| std::cmp::Reverse(account.recipients));
        self.forgotten += (self.accounts.len() - kept) as u64;
        self.accounts.truncate(kept);
        self.index = self.accounts.iter().zip(0..).map(|(account, at)| (account.key.clone(), at)).collect();
    }

    fn join_parts(&mut self) {
        for account in &mut self.accounts {
            account.parts.join();
            account.active_parts = join_bits(account.active_parts);
        }
    }
}

impl Account {
    /// The highest number that it had in a window of this length.
    pub fn peak(&self, counted: AccountCount, length: usize) -> u32 {
        let windows = &self.windows[length];
        match counted {
            AccountCount::Messages => windows.messages.peak(),
            AccountCount::Recipients => windows.recipients.peak(),
            AccountCount::Addresses => windows.addresses.peak.into(),
        }
    }

    /// The highest numbers by part of the log.
    pub fn part_peaks(&self, counted: AccountCount, length: usize) -> [u32; MAX_PARTS] {
        self.parts.peaks(counted as usize * self.windows.len() + length)
    }
}

impl AddressWindow {
    /// The number of different addresses, as the stamps say, if this one is new.
    fn count(&mut self, moment: Moment, length: u64, client: IpAddr) -> Option<u32> {
        let Moment { time, slack } = moment;
        let is_over = |begin: i64| time >= begin + length as i64 + i64::from(slack);
        if !self.next.is_empty() && is_over(self.begin) {
            (self.begin, self.addresses) = (self.next_begin, std::mem::take(&mut self.next));
        }
        if self.addresses.is_empty() || is_over(self.begin) {
            self.addresses.clear();
            self.begin = time;
        }
        let address = match client {
            // The high half of an IPv6 address is never so small.
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => (address.to_bits() >> 64) as u64,
        };
        let is_edge = time >= self.begin + length as i64;
        let mut is_new = insert(&mut self.addresses, address);
        if is_edge || !self.next.is_empty() {
            if self.next.is_empty() {
                self.next_begin = time;
            }
            is_new = insert(&mut self.next, address);
        }
        self.peak = self.peak.max(self.worst() as u16);
        let stamped = if self.next.is_empty() { &self.addresses } else { &self.next };
        is_new.then_some(stamped.len() as u32)
    }

    /// The highest number it may be now.
    fn worst(&self) -> u32 {
        self.addresses.len().max(self.next.len()) as u32
    }
}

/// Inserts an address into a sorted list; `false` if it is there, or there is no room.
fn insert(addresses: &mut Vec<u64>, address: u64) -> bool {
    match addresses.binary_search(&address) {
        Err(at) if addresses.len() < MAX_ADDRESSES => {
            addresses.insert(at, address);
            true
        }
        _ => false,
    }
}

impl Numbers {
    /// Notes so many hits, of which the last had this number.
    fn note(&mut self, last: u32, amount: u32) {
        let first = last.saturating_sub(amount) + 1;
        let last = last.min(HIGHEST);
        if self.changes.len() <= last as usize + 1 {
            self.changes.resize(last as usize + 2, 0);
        }
        self.changes[first as usize] += 1;
        self.changes[last as usize + 1] -= 1;
    }

    /// For each number: how many hits had it.
    pub fn counts(&self) -> Vec<u64> {
        let sum = |sum: &mut i64, change: &i64| {
            *sum += change;
            Some(*sum as u64)
        };
        self.changes.iter().scan(0, sum).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;

    #[test]
    fn an_address_of_a_whole_second_at_the_end_of_a_window_may_belong_to_it() {
        let mut window = AddressWindow::default();
        let mut count = |second: i64, client: u8| {
            let moment = Moment::new(1_700_000_000_000 + second * 1000, false);
            (window.count(moment, 60_000, IpAddr::from([192, 0, 2, client])), window.worst())
        };
        assert_eq!([count(0, 1), count(60, 2)], [(Some(1), 1), (Some(1), 2)]);
        // The second address began a window, or was the last of the one before.
        assert_eq!([count(61, 3), count(62, 2), count(119, 4)], [(Some(2), 2), (None, 2), (Some(3), 3)]);
        assert_eq!(count(121, 5), (Some(1), 1));
    }

    fn count(table: &mut AccountTable, time: i64, key: &str, client: &str, recipients: u32) {
        let message = SentMessage { client: Some(client.parse().unwrap()), recipients };
        table.count(Moment::new(1_700_000_000_000 + time, true), 0, key.as_bytes(), message);
    }

    #[test]
    fn a_message_is_a_hit_for_each_of_its_recipients() {
        let mut table = AccountTable::new(&[60, 3600], 10);
        count(&mut table, 0, "joe", "192.0.2.1", 3);
        count(&mut table, 1_000, "joe", "192.0.2.1", 2);
        count(&mut table, MINUTE, "joe", "192.0.2.1", 1);
        let joe = &table.accounts()[0];
        assert_eq!([0, 1].map(|length| joe.peak(AccountCount::Messages, length)), [2, 3]);
        assert_eq!([0, 1].map(|length| joe.peak(AccountCount::Recipients, length)), [5, 6]);
        assert_eq!(table.numbers(AccountCount::Recipients, 0).counts(), [0, 2, 1, 1, 1, 1, 0]);
        assert_eq!(table.numbers(AccountCount::Messages, 0).counts(), [0, 2, 1, 0]);
    }

    #[test]
    fn an_address_counts_once_in_a_window() {
        let mut table = AccountTable::new(&[60], 10);
        for (time, client) in
            [(0, "192.0.2.1"), (1, "192.0.2.1"), (2, "2001:db8::1"), (3, "2001:db8::2"), (MINUTE, "192.0.2.9")]
        {
            count(&mut table, time, "joe", client, 1);
        }
        assert_eq!(table.accounts()[0].peak(AccountCount::Addresses, 0), 2);
        assert_eq!(table.numbers(AccountCount::Addresses, 0).counts(), [0, 2, 1, 0]);
    }

    #[test]
    fn the_accounts_that_send_least_are_forgotten() {
        let mut table = AccountTable::new(&[60], 20);
        count(&mut table, 0, "busy", "192.0.2.1", 50);
        for number in 0..100 {
            count(&mut table, number, &format!("user{number}"), "192.0.2.1", 1);
        }
        assert!(table.accounts().len() <= 20 && table.forgotten() + table.accounts().len() as u64 == 101);
        assert!(table.accounts().iter().any(|account| *account.key == *b"busy"));
    }

    #[test]
    fn a_sender_counts_for_its_domain_and_spelling_makes_no_difference() {
        let mut accounts = Accounts::new(&[60]);
        let message = SentMessage { client: None, recipients: 1 };
        for (login, sender) in [("Joe", "joe@Example.org"), ("joe", "JOE@example.org"), ("", ""), ("ann", "a@b")] {
            accounts.count(Moment::new(0, true), 0, login.as_bytes(), sender.as_bytes(), message);
        }
        let keys =
            |per| accounts.table(per).accounts().iter().map(|it| String::from_utf8_lossy(&it.key)).collect::<Vec<_>>();
        assert_eq!(keys(Per::Login), ["joe", "ann"]);
        assert_eq!(keys(Per::Sender), ["joe@example.org", "a@b"]);
        assert_eq!(keys(Per::SenderDomain), ["example.org", "b"]);
    }
}
