//! Names of clients on the lists.
//!
//! They are compared with `client_name`, which Postfix has looked up both ways: the name of the address has this
//! address. A name that is only claimed is never looked at.

use std::fmt;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use smallvec::SmallVec;

use super::lists::ListEntry;

/// The most memory that a regular expression takes, compiled and while it is matched.
pub const REGEX_SIZE: usize = 1 << 20;

/// The most memory that all of them take as one automaton; beyond this each is an automaton of its own.
const SET_SIZE: usize = 16 * REGEX_SIZE;

/// The longest name in DNS.
const MAX_DNS_NAME: usize = 255;

/// An entry of a list that is no netblock. Names are in lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    /// This name alone.
    Host(Box<str>),
    /// This name and all below it.
    Domain(Box<str>),
    /// Every name in which the regular expression finds something, in whatever case. It can be compiled.
    Matching(Box<str>),
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => f.write_str(name),
            Self::Domain(name) => write!(f, ".{name}"),
            Self::Matching(expression) => write!(f, "/{expression}/"),
        }
    }
}

/// Compiles an expression for names.
///
/// # Errors
///
/// When it is none, or takes too much memory.
pub fn expression(text: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(text).case_insensitive(true).size_limit(REGEX_SIZE).dfa_size_limit(REGEX_SIZE).build()
}

/// All names, found by the name that a client has.
#[derive(Debug, Default)]
pub struct NamePatterns {
    /// In the order of the lists.
    entries: Vec<(NamePattern, ListEntry)>,
    names: HashMap<Box<[u8]>, EntryIndexes, FixedState>,
    expressions: Expressions,
}

/// The places of a name among the entries.
#[derive(Clone, Copy, Debug, Default)]
struct EntryIndexes {
    host: Option<u32>,
    domain: Option<u32>,
}

/// The regular expressions, with their places.
#[derive(Debug, Default)]
enum Expressions {
    #[default]
    None,
    Set(RegexSet, Vec<u32>),
    Each(Vec<(Regex, u32)>),
}

impl NamePatterns {
    /// Of equal names an entry of the whitelist counts, else the last one.
    pub fn new(entries: Vec<(NamePattern, ListEntry)>) -> Self {
        let mut names: HashMap<Box<[u8]>, EntryIndexes, FixedState> = HashMap::default();
        let mut expressions = Vec::new();
        for ((name, _), at) in entries.iter().zip(0..) {
            let is_exempt = |place: &Option<u32>| {
                place.is_some_and(|place: u32| matches!(entries[place as usize].1, ListEntry::Whitelist))
            };
            let (text, is_domain) = match name {
                NamePattern::Host(name) => (name, false),
                NamePattern::Domain(name) => (name, true),
                NamePattern::Matching(text) => {
                    expressions.push((&**text, at));
                    continue;
                }
            };
            let places = names.entry(text.as_bytes().into()).or_default();
            let place = if is_domain { &mut places.domain } else { &mut places.host };
            if !is_exempt(place) {
                *place = Some(at);
            }
        }
        let expressions = Expressions::new(&expressions);
        Self { entries, names, expressions }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, in the order of the lists.
    pub fn entries(&self) -> &[(NamePattern, ListEntry)] {
        &self.entries
    }

    /// The entry of a client with this name: that of the longest name, else of a regular expression. Of several, one of
    /// the whitelist.
    pub fn lookup(&self, name: &[u8]) -> Option<(&NamePattern, ListEntry)> {
        if self.entries.is_empty() || name.is_empty() || name.len() > MAX_DNS_NAME || name == b"unknown" {
            return None;
        }
        let mut lower = SmallVec::<[u8; 256]>::from_slice(name.strip_suffix(b".").unwrap_or(name));
        lower.make_ascii_lowercase();
        let found = self.longest(&lower).or_else(|| self.matching(&lower))?;
        self.entries.get(found as usize).map(|(name, entry)| (name, *entry))
    }

    fn longest(&self, name: &[u8]) -> Option<u32> {
        let mut is_whole = true;
        let mut rest = name;
        loop {
            if let Some(EntryIndexes { host, domain }) = self.names.get(rest) {
                let host = host.filter(|_| is_whole);
                if host.is_some() || domain.is_some() {
                    return self.whitelisted_first(host.into_iter().chain(*domain));
                }
            }
            let dot = memchr::memchr(b'.', rest)?;
            rest = &rest[dot + 1..];
            is_whole = false;
        }
    }

    fn matching(&self, name: &[u8]) -> Option<u32> {
        match &self.expressions {
            Expressions::None => None,
            Expressions::Set(set, places) => {
                if !set.is_match(name) {
                    return None;
                }
                self.whitelisted_first(set.matches(name).iter().map(|number| places[number]))
            }
            Expressions::Each(each) => {
                self.whitelisted_first(each.iter().filter(|(regex, _)| regex.is_match(name)).map(|(_, place)| *place))
            }
        }
    }

    /// The first on the whitelist, else the first.
    fn whitelisted_first(&self, places: impl Iterator<Item = u32>) -> Option<u32> {
        let mut first = None;
        for place in places {
            if matches!(self.entries[place as usize].1, ListEntry::Whitelist) {
                return Some(place);
            }
            first = first.or(Some(place));
        }
        first
    }
}

impl Expressions {
    fn new(expressions: &[(&str, u32)]) -> Self {
        if expressions.is_empty() {
            return Self::None;
        }
        let mut builder = RegexSetBuilder::new(expressions.iter().map(|(text, _)| text));
        match builder.case_insensitive(true).size_limit(SET_SIZE).dfa_size_limit(SET_SIZE).build() {
            Ok(set) => Self::Set(set, expressions.iter().map(|(_, place)| *place).collect()),
            Err(_) => Self::Each(
                expressions.iter().filter_map(|(text, place)| Some((expression(text).ok()?, *place))).collect(),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(white: &[&str], black: &[&str]) -> NamePatterns {
        let read = |text: &&str| match text.strip_prefix('.') {
            Some(domain) => NamePattern::Domain(domain.into()),
            None => match text.strip_prefix('/') {
                Some(expression) => NamePattern::Matching(expression.trim_end_matches('/').into()),
                None => NamePattern::Host((*text).into()),
            },
        };
        let black = black.iter().map(|text| (read(text), ListEntry::Blacklist(None)));
        NamePatterns::new(black.chain(white.iter().map(|text| (read(text), ListEntry::Whitelist))).collect())
    }

    fn says(names: &NamePatterns, name: &str) -> String {
        match names.lookup(name.as_bytes()) {
            Some((found, ListEntry::Whitelist)) => format!("white {found}"),
            Some((found, _)) => format!("black {found}"),
            None => String::new(),
        }
    }

    #[test]
    fn the_longest_name_decides_then_a_regular_expression_and_the_whitelist_before_the_blacklist() {
        let names = names(
            &["mail.example.com", ".good.example.net", "/^mx[0-9]+\\./", "both.example.org"],
            &[".example.net", "bad.good.example.net", "/dyn/", "both.example.org", "/^mx9/"],
        );
        let cases = [
            ("mail.example.com", "white mail.example.com"),
            ("MAIL.Example.COM.", "white mail.example.com"),
            ("x.mail.example.com", ""),
            ("example.com", ""),
            ("example.net", "black .example.net"),
            ("a.b.example.net", "black .example.net"),
            ("notexample.net", ""),
            ("good.example.net", "white .good.example.net"),
            ("x.good.example.net", "white .good.example.net"),
            ("bad.good.example.net", "black bad.good.example.net"),
            ("both.example.org", "white both.example.org"),
            ("DYN-7.example.org", "black /dyn/"),
            ("mx9.dyn.example.org", "white /^mx[0-9]+\\./"),
            ("unknown", ""),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(says(&names, name), expected, "{name}");
        }
        assert_eq!(says(&names, &"a.".repeat(200)), "");
        assert_eq!(says(&NamePatterns::default(), "mail.example.com"), "");
    }

    #[test]
    fn expressions_that_are_too_large_together_are_tried_one_by_one() {
        let many: Vec<String> = (0..120).map(|number| format!("/^a{number}\\w{{10}}b/")).collect();
        let names = names(&[], &many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(matches!(names.expressions, Expressions::Each(_)), "{:?}", names.expressions);
        assert_eq!(says(&names, &format!("a7{}b.example.com", "x".repeat(10))), "black /^a7\\w{10}b/");
    }
}
