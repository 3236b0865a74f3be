//! What a configuration says about decisions.

use strum::{IntoStaticStr, VariantArray};

use super::lists::Lists;
use super::spelling::Spellings;
use super::{Blacklist, Limit};
use crate::net::embedded::EmbeddedIpv4;
use crate::net::origin::OriginDatabases;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySettings {
    /// Who is exempt, who is refused, and whose rate differs.
    pub lists: Lists,
    /// Whose IPv6 addresses are taken for the IPv4 addresses in them.
    pub embedded: EmbeddedIpv4,
    /// What is known of where clients are from.
    pub origins: OriginDatabases,
    /// Which spellings of a mailbox are one.
    pub spellings: Spellings,
    /// What is done about clients on the blacklist.
    pub blacklist: Blacklist,
    /// The limits in the order of the file.
    pub limits: Vec<Limit>,
    /// What is done while the store is down.
    pub on_store_failure: OnStoreFailure,
    /// Nothing is enforced: all of it is judged, counted and logged only.
    pub log_only: bool,
}

/// What is done while the store is down. A single time-out does not make it down: such a request is always counted in
/// this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum OnStoreFailure {
    /// Count in this process meanwhile.
    Local,
    /// Let everyone pass.
    Dunno,
    /// Refuse everyone who is not whitelisted.
    Defer,
}
