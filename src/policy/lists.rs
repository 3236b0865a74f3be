//! Who is exempt, who is refused, and whose rate differs, by netblock and by name.
//!
//! All of it is one set of netblocks, of which the longest around a client
//! decides: a rate within a whitelisted network limits, a whitelisted host
//! within a blacklisted network passes.

use ipnet::IpNet;

use super::client_names::ClientName;
use super::limit::Rate;

/// Netblocks as the configuration and its list files have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Each netblock with what is said of it; of equal ones the last counts.
    pub netblocks: Vec<(IpNet, ListEntry)>,
    /// Each name with what is said of it.
    pub names: Vec<(ClientName, ListEntry)>,
    /// The reasons of blacklist entries.
    pub reasons: Vec<Box<str>>,
    /// The rates.
    pub rates: Vec<Rate>,
}

/// What is said of a netblock. Small, for there may be a million of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListEntry {
    /// Its clients are neither counted nor refused.
    Whitelist,
    /// Its clients are refused, for the reason of this number in [`Lists::reasons`] if one is noted.
    Blacklist(Option<ListIndex>),
    /// Its clients have the rate of this place in [`Lists::rates`] instead of the top level's threshold.
    Rate(ListIndex),
}

/// A place in a table of [`Lists`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListIndex(std::num::NonZeroU32);

impl ListIndex {
    /// The place at an index below 4,294,967,295.
    pub fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(std::num::NonZeroU32::new);
        Self(number.expect("there are fewer entries than addresses"))
    }

    /// Its index.
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}
