//! The target of an administrator's ban or allowance: a netblock, or requests with some fields of a key.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use super::attribute::Attribute;
use super::key::KeyPart;
use super::key_escape::is_cut;
use super::key_field::KeyField;
use crate::net::{netblock, serialize_as_text};

/// The target of an override. Its text has the form of keys: a single address has no prefix length.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OverrideTarget {
    /// All clients of a netblock.
    Netblock(IpNet),
    /// All requests with these fields of a key, at least one of which is no address. `login` is the login of an SMTP
    /// client too.
    Key(KeyPart),
}

impl OverrideTarget {
    pub fn netblock(&self) -> Option<IpNet> {
        match self {
            Self::Netblock(netblock) => Some(*netblock),
            Self::Key(_) => None,
        }
    }

    /// The target in the form of a key.
    pub fn key(&self) -> KeyPart {
        match self {
            Self::Netblock(netblock) => {
                KeyPart::Client { address: netblock.addr(), prefix_length: netblock.prefix_len() }
            }
            Self::Key(part) => part.clone(),
        }
    }

    /// Its fields with their escaped values; none of a netblock.
    pub fn fields(&self) -> impl Iterator<Item = (KeyField, &str)> {
        let part = match self {
            Self::Netblock(_) => None,
            Self::Key(part) => Some(part),
        };
        let pairs = part.into_iter().flat_map(KeyPart::pairs);
        pairs.filter_map(|(word, value)| Some((KeyField::of_word(word)?, value)))
    }

    /// Whether it is about recipients, of which a message may have several.
    pub fn is_of_recipient(&self) -> bool {
        self.fields().any(|(field, _)| field.is_of_recipient())
    }

    /// Whether all requests of the other target are requests of this one.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Netblock(wide), Self::Netblock(narrow)) => wide.contains(narrow),
            (Self::Netblock(wide), Self::Key(_)) => {
                other.fields().any(|(field, value)| field == KeyField::Client && is_within(value, *wide))
            }
            (Self::Key(_), Self::Netblock(_)) => false,
            (Self::Key(_), Self::Key(_)) => self.fields().all(|wide| other.fields().any(|narrow| covers(wide, narrow))),
        }
    }
}

/// Whether every request with the narrow field has the wide one.
fn covers((wide, value): (KeyField, &str), (narrow, other): (KeyField, &str)) -> bool {
    use Attribute::{Login, SaslUsername};
    let is_of = |wide, narrow| wide == narrow || (wide, narrow) == (Login, SaslUsername);
    match (wide, narrow) {
        (KeyField::Client, KeyField::Client) => netblock::parse(value).is_some_and(|wide| is_within(other, wide)),
        (KeyField::Whole(wide), KeyField::Whole(narrow)) => is_of(wide, narrow) && value == other,
        (KeyField::MailDomain(wide), KeyField::Whole(narrow)) => {
            is_of(wide, narrow) && other.rsplit_once('@').is_some_and(|(_, domain)| domain == value)
        }
        _ => wide == narrow && value == other,
    }
}

fn is_within(value: &str, wide: IpNet) -> bool {
    netblock::parse(value).is_some_and(|narrow| wide.contains(&narrow))
}

impl FromStr for OverrideTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(netblock) = netblock::parse(text) {
            return Ok(Self::Netblock(netblock));
        }
        if is_cut(text) {
            return Err(format!("{text} is the shortened form of a value that is too long for a ban or an allowance"));
        }
        let part = KeyPart::of_text(text);
        let is_of_origin = |(word, _): (&str, &str)| {
            KeyField::of_word(word).is_some_and(|field| field.is_of_address() && field != KeyField::Client)
        };
        if part.pairs().any(is_of_origin) {
            return Err(format!("{text}: asn and country cannot be banned or allowed; write netblocks"));
        }
        let is_known = |(word, value): (&str, &str)| match KeyField::of_word(word) {
            Some(KeyField::Client) => netblock::parse(value).is_some(),
            Some(_) => !value.is_empty(),
            None => false,
        };
        let (known, all) = (part.pairs().filter(|pair| is_known(*pair)).count(), text.split(',').count());
        // Of clients alone there are netblocks.
        if known < all || part.pairs().all(|(word, _)| word == "client") {
            return Err(format!(
                "{text} is not what requests have; write an address, a netblock, or as in login=joe@example.org, \
                 sender=joe@example.org, sender_domain=example.org"
            ));
        }
        Ok(Self::Key(part))
    }
}

serialize_as_text!(OverrideTarget);

impl From<IpNet> for OverrideTarget {
    fn from(netblock: IpNet) -> Self {
        Self::Netblock(netblock)
    }
}

impl fmt::Display for OverrideTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> OverrideTarget {
        text.parse().unwrap()
    }

    #[test]
    fn a_target_is_a_netblock_or_a_key_and_reads_back_as_it_is_shown() {
        for text in [
            "192.0.2.1",
            "192.0.2.0/24",
            "2001:db8::/32",
            "login=joe%20doe",
            "sender=<>",
            "client=192.0.2.0/24,sender=joe@example.org",
        ] {
            assert_eq!(target(text).to_string(), text);
        }
        assert_eq!(target("192.0.2.1/32"), target("192.0.2.1"));
        let digest = format!("sender=a#{}", "0".repeat(64));
        for wrong in [
            "",
            "all",
            "group=office",
            "colour=red",
            "sender=",
            "sender=a,joe",
            "client=joe",
            "client=192.0.2.1",
            &digest,
        ] {
            assert!(wrong.parse::<OverrideTarget>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wider_target_contains_a_narrower_one_and_no_other() {
        for (wide, narrow) in [
            ("192.0.2.0/24", "192.0.2.1"),
            ("192.0.2.0/24", "client=192.0.2.1,sender=a@example.org"),
            ("login=joe", "login=joe"),
            ("login=joe", "sasl_username=joe"),
            ("login=joe", "login=joe,client=192.0.2.1"),
            ("login_domain=example.org", "sasl_username=joe@example.org"),
            ("sender_domain=example.org", "sender=a%40b@example.org"),
            ("client=192.0.2.0/24,login=joe", "login=joe,client=192.0.2.1,sender=a"),
        ] {
            assert!(target(wide).contains(&target(narrow)), "{wide} {narrow}");
            assert!(wide == narrow || !target(narrow).contains(&target(wide)), "{narrow} {wide}");
        }
        for (one, other) in [
            ("192.0.2.0/24", "login=joe"),
            ("login=joe", "login=ann"),
            ("sender_domain=example.org", "sender=a@mail.example.org"),
            ("sender_domain=example.org", "recipient=a@example.org"),
        ] {
            assert!(!target(one).contains(&target(other)) && !target(other).contains(&target(one)), "{one} {other}");
        }
    }
}
