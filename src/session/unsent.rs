//! Messages that end before they are sent, whose recipients then do not count: finds them, and the hits that go back.
//! `engine::decide` takes the hits back from the store.
//!
//! Postfix does not tell that a client gave up a message. What comes after it shows
//! that: another message, another session, the end of the policy connection, or no
//! request for longer than a client may be silent. A message has been sent if
//! Postfix asked at DATA, or at END-OF-MESSAGE where it asks there too.
//!
//! But Postfix may ask at RCPT only, always or for some clients, and then no
//! message is ever seen to be sent. So hits go back only if Postfix is known to ask
//! later about the same service, or the limit says so (`count_unsent`), and not if
//! more than `MAX_IN_A_ROW` messages of a network in a row have ended that early.

use std::net::Ipv6Addr;

use super::table::Endpoints;
use crate::net::clock::Now;
use crate::net::recent_map::RecentMap;
use crate::net::secret;
use crate::policy::SessionRecord;
use crate::policy::message::{HeldHits, MessageProgress};

/// So many messages of a network in a row may be given up. What all of its messages have in common is how Postfix asks.
const MAX_IN_A_ROW: u8 = 10;

/// Milliseconds after the last recipient after which a message is taken for one that is not sent: Postfix waits 300
/// seconds for a command (`smtpd_timeout`). Should it go on nevertheless, it is counted at DATA.
const LONGEST_SILENCE: u64 = 330_000;

/// Services and networks that are remembered.
const MAX_SERVICES: usize = 1024;
const MAX_NETWORKS: usize = 8192;

/// What is known of services and of the networks of their clients.
#[derive(Debug, Default)]
pub struct Unsent {
    /// The latest stage of a message at which Postfix asked about each service.
    services: RecentMap<Option<MessageProgress>, MAX_SERVICES>,
    /// How many messages of each network ended early since the last that did not.
    networks: RecentMap<u8, MAX_NETWORKS>,
}

impl Unsent {
    /// A message has gone on.
    pub fn proceeded(&mut self, endpoints: &Endpoints, service: u64, progress: MessageProgress) {
        let (service, network) = Self::hashes(endpoints, service);
        let furthest = self.services.touch(service);
        *furthest = (*furthest).max(Some(progress));
        if *furthest <= Some(progress) {
            self.networks.forget(network);
        }
    }

    /// The message of a session has ended, or is taken to have. Returns the hits that go back.
    pub fn end(&mut self, endpoints: &Endpoints, record: &mut SessionRecord) -> Vec<HeldHits> {
        let Some((service, progress, _)) = record.message().and_then(|message| message.state()) else {
            return Vec::new();
        };
        let (service, network) = Self::hashes(endpoints, service);
        let furthest = self.services.find(service).flatten();
        // Until more is known, a limit with `count_unsent = false` takes DATA for the stage at which Postfix asks.
        if progress >= furthest.unwrap_or(MessageProgress::Data) {
            return Vec::new();
        }
        let in_a_row = self.networks.touch(network);
        *in_a_row = in_a_row.saturating_add(1);
        if *in_a_row > MAX_IN_A_ROW {
            return Vec::new();
        }
        record.give_up_message(|count_unsent| match count_unsent {
            Some(stay_counted) => !stay_counted,
            None => furthest.is_some(),
        })
    }

    /// The same for a message about which Postfix has asked nothing for too long.
    pub fn end_silent(&mut self, endpoints: &Endpoints, record: &mut SessionRecord, now: Now) -> Vec<HeldHits> {
        let named = record.message().and_then(|message| message.state()).map(|(.., named)| named);
        match named.is_some_and(|named| now.monotonic.saturating_sub(named) >= LONGEST_SILENCE) {
            true => self.end(endpoints, record),
            false => Vec::new(),
        }
    }

    /// The hashes of a service, and of a client's network with that service.
    fn hashes(endpoints: &Endpoints, service: u64) -> (u64, u64) {
        let Endpoints { client, server, peer, server_port, .. } = *endpoints;
        let service = secret::hash((service, server, peer, server_port));
        let host_bits = if Ipv6Addr::from_bits(client).to_ipv4_mapped().is_some() { 8 } else { 64 };
        (service, secret::hash((service, client >> host_bits)))
    }
}
