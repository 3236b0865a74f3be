//! Conditions on the attributes of a request, one by one: what a value has to be.

use std::sync::Arc;

use ipnet::IpNet;
use regex::bytes::Regex;

use crate::net::netblock::canonical;
use crate::policy::attribute::Attribute;
use crate::policy::request::{Request, address};
use crate::policy::spelling::Spellings;
use crate::policy::value_list::ValueList;

/// What one attribute has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub attribute: Attribute,
    /// What it has to be.
    pub test: Test,
}

/// A test of one value. Postfix makes no difference between absent and empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// There is a value.
    Present,
    /// There is none.
    Absent,
    /// One of these fits.
    AnyOf(Vec<Pattern>),
}

/// What a value may be.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// This text, in whatever case; its letters beyond ASCII and its domain as keys have them.
    Text(Box<str>),
    /// An address in this netblock.
    Netblock(IpNet),
    /// A number from the first to the last.
    Range(u64, u64),
    /// A mail address with this domain.
    MailDomain(Box<str>),
    /// A host name that is this domain or below it, or a mail address with such a domain.
    Below(Box<str>),
    /// One of those of a file.
    Listed(Arc<ValueList>),
    /// Whatever this regular expression finds something in. It takes time linear in the value's length.
    Regex(Regex),
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(one), Self::Text(other)) => one == other,
            (Self::Netblock(one), Self::Netblock(other)) => one == other,
            (Self::Listed(one), Self::Listed(other)) => one == other,
            (Self::Regex(one), Self::Regex(other)) => one.as_str() == other.as_str(),
            (Self::Range(least, most), Self::Range(other_least, other_most)) => {
                (least, most) == (other_least, other_most)
            }
            (Self::MailDomain(one), Self::MailDomain(other)) | (Self::Below(one), Self::Below(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Pattern {}

impl Condition {
    #[inline]
    pub(super) fn holds(&self, request: &Request, spellings: &Spellings) -> bool {
        let value = request.value(self.attribute);
        self.test.holds(value)
            || !value.is_empty() && self.test.holds_for_another_spelling(self.attribute, value, spellings)
    }
}

impl Test {
    /// Whether a value passes it.
    #[inline]
    pub fn holds(&self, value: &[u8]) -> bool {
        match self {
            Self::Present => !value.is_empty(),
            Self::Absent => value.is_empty(),
            Self::AnyOf(patterns) => patterns.iter().any(|pattern| pattern.fits(value)),
        }
    }

    fn holds_for_another_spelling(&self, attribute: Attribute, value: &[u8], spellings: &Spellings) -> bool {
        let Self::AnyOf(patterns) = self else { return false };
        let fits = |value: &Vec<u8>| patterns.iter().any(|pattern| pattern.fits_spelling(value));
        spellings.others(attribute, value).is_some_and(|others| others.iter().any(fits))
    }
}

impl Pattern {
    /// The values of a file.
    pub fn list(&self) -> Option<&Arc<ValueList>> {
        match self {
            Self::Listed(list) => Some(list),
            _ => None,
        }
    }

    /// Whether it fits another spelling of a value. A regular expression is about what was sent.
    fn fits_spelling(&self, value: &[u8]) -> bool {
        match self {
            Self::Regex(_) => false,
            Self::Listed(list) => list.has(value),
            pattern => pattern.fits(value),
        }
    }

    #[inline]
    pub(super) fn fits(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(text) => value.eq_ignore_ascii_case(text.as_bytes()),
            other => other.finds(value),
        }
    }

    /// The same for all patterns but texts.
    fn finds(&self, value: &[u8]) -> bool {
        match self {
            Self::Text(_) => false,
            Self::Listed(list) => list.fits(value),
            Self::Netblock(netblock) => address(value).is_some_and(|address| canonical(*netblock).contains(&address)),
            Self::Regex(regex) => regex.is_match(value),
            Self::Range(least, most) => number(value).is_some_and(|number| (*least..=*most).contains(&number)),
            Self::MailDomain(domain) => {
                let at = memchr::memrchr(b'@', value);
                at.is_some_and(|at| value[at + 1..].eq_ignore_ascii_case(domain.as_bytes()))
            }
            Self::Below(domain) => {
                // A host name may end with a dot.
                let value = value.strip_suffix(b".").unwrap_or(value);
                let host = memchr::memrchr(b'@', value).map_or(value, |at| &value[at + 1..]);
                let Some(above) = host.len().checked_sub(domain.len()) else { return false };
                let (below, end) = host.split_at(above);
                end.eq_ignore_ascii_case(domain.as_bytes()) && (below.is_empty() || below.ends_with(b"."))
            }
        }
    }
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use regex::bytes::RegexBuilder;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::policy::limit::Conditions;
    use crate::postfix::decoder::RequestDecoder;

    fn request(lines: &str) -> Request<'static> {
        let text = format!("request=smtpd_access_policy\n{lines}\n");
        RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap()
    }

    fn holds(attribute: Attribute, test: Test, lines: &str) -> bool {
        Condition { attribute, test }.holds(&request(lines), &Spellings::default())
    }

    #[test]
    fn a_value_is_there_or_not() {
        for (lines, there) in [("sasl_username=joe\n", true), ("sasl_username=\n", false), ("", false)] {
            assert_eq!(holds(Attribute::SaslUsername, Test::Present, lines), there, "{lines:?}");
            assert_eq!(holds(Attribute::SaslUsername, Test::Absent, lines), !there, "{lines:?}");
        }
    }

    #[test]
    fn any_of_several_patterns_may_fit() {
        let regex = RegexBuilder::new("^dyn-").case_insensitive(true).build().unwrap();
        let names = || Test::AnyOf(vec![Pattern::Text("mail.example.org".into()), Pattern::Regex(regex.clone())]);
        for (name, fits) in [("Mail.Example.org", true), ("DYN-1.example.net", true), ("x.dyn-1", false), ("", false)] {
            assert_eq!(holds(Attribute::ClientName, names(), &format!("client_name={name}\n")), fits, "{name}");
        }
    }

    #[test]
    fn numbers_are_compared() {
        let holds = |count: &str, least, most| {
            let test = Test::AnyOf(vec![Pattern::Range(least, most)]);
            holds(Attribute::RecipientCount, test, &format!("recipient_count={count}\n"))
        };
        assert!(holds("51", 51, u64::MAX) && !holds("50", 51, u64::MAX) && !holds("", 0, u64::MAX));
        assert!(holds("1", 1, 10) && holds("10", 1, 10) && !holds("11", 1, 10) && !holds("unknown", 0, 10));
    }

    #[test]
    fn a_domain_is_of_an_address_or_above_a_name() {
        let of =
            |sender: &str, pattern| holds(Attribute::Sender, Test::AnyOf(vec![pattern]), &format!("sender={sender}\n"));
        let at = || Pattern::MailDomain("example.com".into());
        assert!(of("joe@Example.com", at()) && of("a@b@example.com", at()));
        for other in ["joe@mail.example.com", "joe@notexample.com", "example.com", "", "example.com@example.org"] {
            assert!(!of(other, at()), "{other}");
        }
        let below = || Pattern::Below("example.com".into());
        for name in ["joe@mail.Example.com", "joe@example.com", "example.com", "mail.example.com", "a.b.example.com."] {
            assert!(of(name, below()), "{name}");
        }
        for other in ["joe@notexample.com", "notexample.com", "com", "x.example.com@example.org", ""] {
            assert!(!of(other, below()), "{other}");
        }
    }

    #[test]
    fn netblocks_take_addresses_as_the_client_has_them() {
        let inside = |address: &str| {
            let test = Test::AnyOf(vec![Pattern::Netblock("192.0.2.0/24".parse().unwrap())]);
            holds(Attribute::ClientAddress, test, &format!("client_address={address}\n"))
        };
        assert!(inside("192.0.2.7") && inside("::ffff:192.0.2.7"));
        assert!(!inside("192.0.3.7") && !inside("unknown") && !inside("2001:db8::1"));
    }

    #[test]
    fn all_have_to_hold_and_none_of_the_exceptions() {
        let condition =
            |attribute, text: &str| Condition { attribute, test: Test::AnyOf(vec![Pattern::Text(text.into())]) };
        let conditions = Conditions {
            all: vec![condition(Attribute::ServerPort, "25"), condition(Attribute::ProtocolState, "RCPT")],
            none: vec![condition(Attribute::PolicyContext, "a"), condition(Attribute::PolicyContext, "b")],
            spellings: Spellings::default(),
        };
        let holds = |lines: &str| conditions.hold(&request(lines));
        assert!(holds("server_port=25\nprotocol_state=RCPT\n"));
        assert!(holds("server_port=25\nprotocol_state=RCPT\npolicy_context=c\n"));
        assert!(!holds("server_port=25\nprotocol_state=DATA\n"));
        assert!(!holds("server_port=25\nprotocol_state=RCPT\npolicy_context=b\n"));
        assert!(Conditions::default().hold(&request("")));
    }
}
