//! The values of a condition that stand in a file, of which there may be a million.

use std::collections::HashSet;

use super::conditions::Pattern;
use super::request::address;
use crate::net::netblock::{NetblockTable, canonical};

/// Numbers from one to another, and regular expressions, in one file: each is looked at for each request.
pub const MAX_SEARCHED: usize = 1000;

/// Patterns of which one has to fit. Texts and netblocks are looked up, however many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueList {
    /// Where they are from, for people.
    pub source: Box<str>,
    /// Whole values in lower case, and `@DOMAIN` for all addresses of one.
    texts: HashSet<Box<[u8]>>,
    /// Domains with all below them, in lower case.
    below: HashSet<Box<[u8]>>,
    /// The longest of them.
    longest: usize,
    netblocks: NetblockTable<()>,
    searched: Vec<Pattern>,
    /// How many there are, equal ones included.
    pub length: usize,
}

impl ValueList {
    pub fn new(source: &str, patterns: Vec<Pattern>) -> Self {
        let mut list = Self { source: source.into(), length: patterns.len(), ..Self::default() };
        let mut netblocks = Vec::new();
        let lower = |text: &str| text.to_ascii_lowercase().into_bytes().into_boxed_slice();
        for pattern in patterns {
            match pattern {
                Pattern::Text(text) => _ = list.texts.insert(lower(&text)),
                Pattern::MailDomain(domain) => _ = list.texts.insert(lower(&format!("@{domain}"))),
                Pattern::Below(domain) => {
                    list.longest = list.longest.max(domain.len());
                    list.below.insert(lower(&domain));
                }
                Pattern::Netblock(netblock) => netblocks.push((canonical(netblock), ())),
                other => list.searched.push(other),
            }
        }
        list.netblocks = netblocks.into_iter().collect();
        list
    }

    /// Whether one of them fits.
    pub fn fits(&self, value: &[u8]) -> bool {
        self.has(value) || self.searched.iter().any(|pattern| pattern.fits(value))
    }

    /// The same, without those that are looked at one after the other.
    pub fn has(&self, value: &[u8]) -> bool {
        let value = value.to_ascii_lowercase();
        let at = memchr::memrchr(b'@', &value);
        self.texts.contains(&*value)
            || at.is_some_and(|at| self.texts.contains(&value[at..]))
            || self.is_below(at.map_or(&value, |at| &value[at + 1..]))
            || address(&value).is_some_and(|address| self.netblocks.lookup(address).is_some())
    }

    fn is_below(&self, host: &[u8]) -> bool {
        // A host name may end with a dot.
        let host = host.strip_suffix(b".").unwrap_or(host);
        let parents = memchr::memchr_iter(b'.', host).map(|dot| &host[dot + 1..]);
        let mut domains = [host].into_iter().chain(parents).filter(|domain| domain.len() <= self.longest);
        domains.any(|domain| self.below.contains(domain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_fits_what_one_of_its_patterns_fits() {
        let text = |text: &str| Pattern::Text(text.into());
        let patterns = vec![
            text("Joe@example.org"),
            Pattern::MailDomain("Example.com".into()),
            Pattern::Below("example.net".into()),
            Pattern::Netblock("192.0.2.0/24".parse().unwrap()),
            Pattern::Range(5, 7),
        ];
        let list = ValueList::new("file", patterns.clone());
        assert_eq!(list.length, 5);
        let long = format!("{}.example.net", ".".repeat(100_000));
        for value in [
            "joe@Example.org",
            "joe@example.com",
            "JOE@EXAMPLE.COM",
            "example.com",
            "joe@x.example.com",
            "example.net",
            "a.b.example.net.",
            "x@a.Example.net",
            "badexample.net",
            "192.0.2.7",
            "192.0.3.7",
            "::ffff:192.0.2.7",
            "6",
            "8",
            "",
            "@",
            &long,
        ] {
            let expected = patterns.iter().any(|pattern| pattern.fits(value.as_bytes()));
            assert_eq!(list.fits(value.as_bytes()), expected, "{value}");
        }
    }
}
