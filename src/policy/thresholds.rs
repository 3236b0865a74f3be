//! Thresholds of single keys: of an account, of a domain, of a domain and all below it.
//!
//! They come from the table of a limit and from its files. A file may have a million lines, so a list is one text of
//! all keys and a sorted index into it. Keys have the form of counters' keys, in lower case and escaped, so a lookup
//! allocates nothing.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::key::KeyPart;
use super::key_field::KeyField;
use super::limit::Limit;
use super::request::Request;
use super::spelling::Spellings;

/// The threshold of a key that is not limited. A limit itself never has it.
pub const UNLIMITED: u32 = u32::MAX;

/// The thresholds of a limit's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// The field of a key whose values have thresholds.
    pub field: KeyField,
    /// The table, then the files in their order: of equal keys the first one counts.
    pub lists: Vec<Arc<ThresholdList>>,
}

/// The thresholds of one table or file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThresholdList {
    /// Where it is from, for people.
    source: Box<str>,
    keys: Box<str>,
    /// Whole values, and `@DOMAIN` for all addresses of one; sorted by their key.
    exact: Box<[ThresholdEntry]>,
    /// Domains with all below them, without their dot; sorted by their key.
    below: Box<[ThresholdEntry]>,
    reasons: Vec<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ThresholdEntry {
    start: u32,
    length: u16,
    threshold: u32,
    line: u32,
    reason: u32,
}

/// What [`ThresholdEntry::reason`] is where there is none.
const NO_REASON: u32 = u32::MAX;

/// The longest key, in bytes as it is escaped: those of counters are cut at 512.
pub const MAX_THRESHOLD_KEY: usize = 400;

/// A threshold with where it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnThreshold<'a> {
    /// [`UNLIMITED`]: the limit does not count the key.
    pub threshold: u32,
    /// The entry's key, as it is written: (`""`, VALUE or `@DOMAIN`), or (`"."`, DOMAIN).
    pub whose: (&'static str, &'a str),
    pub source: &'a str,
    pub line: u32,
    pub reason: Option<&'a str>,
}

impl fmt::Display for OwnThreshold<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { whose: (dot, key), source, line, reason, .. } = self;
        write!(f, "{dot}{key} in {source} line {line}")?;
        reason.map_or(Ok(()), |reason| write!(f, ": {reason}"))
    }
}

/// What the values of a field look like, and so the keys of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueForm {
    /// A login or a mail address.
    Mail,
    /// The name of a host or a domain.
    Domain,
    /// Anything else, in which there is no domain.
    Word,
}

impl ValueForm {
    /// The form of a field's values.
    pub fn of(field: KeyField) -> Self {
        use super::attribute::Attribute::*;
        match field {
            KeyField::Whole(SaslUsername | Sender | Recipient | Login | User) => Self::Mail,
            KeyField::Whole(HeloName | ClientName | ReverseClientName | Host) => Self::Domain,
            KeyField::MailDomain(_) | KeyField::HostDomain(_) => Self::Domain,
            KeyField::Client | KeyField::Whole(_) => Self::Word,
        }
    }
}

impl Thresholds {
    /// The threshold of a value in the form of keys: of the whole value, else of its domain, else of a domain above.
    pub fn find(&self, value: &str) -> Option<OwnThreshold<'_>> {
        self.exact(value).or_else(|| match ValueForm::of(self.field) {
            ValueForm::Mail => {
                let at = value.rfind('@')?;
                self.exact(&value[at..]).or_else(|| self.below(&value[at + 1..]))
            }
            ValueForm::Domain => self.below(value),
            ValueForm::Word => None,
        })
    }

    /// The threshold of a request that is counted under this key, of which a long one is cut.
    pub fn of_request(&self, part: &KeyPart, request: &Request, spellings: &Spellings) -> Option<OwnThreshold<'_>> {
        let value_of_key =
            part.pairs().find(|(word, _)| *word == self.field.word()).map(|(_, value)| Cow::Borrowed(value));
        let whole = value_of_key.filter(|value| !value.contains('#'));
        self.find(&whole.or_else(|| self.field.escaped(request, spellings).map(Cow::Owned))?)
    }

    fn exact(&self, key: &str) -> Option<OwnThreshold<'_>> {
        self.lists.iter().find_map(|list| list.find(&list.exact, key, ""))
    }

    fn below(&self, domain: &str) -> Option<OwnThreshold<'_>> {
        let parents = domain.match_indices('.').map(|(dot, _)| &domain[dot + 1..]);
        // No longer one is in a table; so a name of nothing but dots takes no time.
        let mut domains = [domain].into_iter().chain(parents).filter(|domain| domain.len() <= MAX_THRESHOLD_KEY);
        domains.find_map(|domain| self.lists.iter().find_map(|list| list.find(&list.below, domain, ".")))
    }
}

impl ThresholdList {
    /// Its number of keys.
    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn key(&self, entry: &ThresholdEntry) -> &str {
        &self.keys[entry.start as usize..][..entry.length.into()]
    }

    fn find(&self, entries: &[ThresholdEntry], key: &str, dot: &'static str) -> Option<OwnThreshold<'_>> {
        let entry = &entries[entries.binary_search_by(|entry| self.key(entry).cmp(key)).ok()?];
        Some(OwnThreshold {
            threshold: entry.threshold,
            whose: (dot, self.key(entry)),
            source: &self.source,
            line: entry.line,
            reason: self.reasons.get(entry.reason as usize).map(|reason| &**reason),
        })
    }
}

/// A list while it is read.
#[derive(Debug, Default)]
pub struct ThresholdListBuilder {
    keys: String,
    exact: Vec<ThresholdEntry>,
    below: Vec<ThresholdEntry>,
}

impl ThresholdListBuilder {
    /// Adds a key as counters have it; one that begins with a dot is a domain with all below it. `reason` is the place
    /// of its reason.
    pub fn add(&mut self, key: &str, threshold: u32, line: u32, reason: Option<u32>) {
        let (entries, key) = match key.strip_prefix('.') {
            Some(domain) => (&mut self.below, domain),
            None => (&mut self.exact, key),
        };
        let (start, length) = (self.keys.len() as u32, key.len() as u16);
        self.keys += key;
        entries.push(ThresholdEntry { start, length, threshold, line, reason: reason.unwrap_or(NO_REASON) });
    }

    /// The list. Of equal keys the first line counts. `repeated` is called for a later one with another threshold: with
    /// the key, its line, and the line of the first.
    pub fn finish(
        self,
        source: &str,
        reasons: Vec<Box<str>>,
        mut repeated: impl FnMut(&str, u32, u32),
    ) -> ThresholdList {
        let Self { keys, mut exact, mut below } = self;
        let key = |entry: &ThresholdEntry| &keys[entry.start as usize..][..entry.length.into()];
        for entries in [&mut exact, &mut below] {
            // Stable, so the first of equal keys stays the first.
            entries.sort_by(|one, other| key(one).cmp(key(other)));
            entries.dedup_by(|later, first| {
                let same = key(later) == key(first);
                if same && later.threshold != first.threshold {
                    repeated(key(later), later.line, first.line);
                }
                same
            });
        }
        ThresholdList { source: source.into(), keys: keys.into(), exact: exact.into(), below: below.into(), reasons }
    }
}

impl Limit {
    /// The own threshold of a key, if it has one.
    pub fn own_threshold(&self, part: &KeyPart) -> Option<OwnThreshold<'_>> {
        let own = self.thresholds.as_ref()?;
        let (_, value) = part.pairs().find(|(word, _)| *word == own.field.word())?;
        own.find(value)
    }

    /// Hits that it allows a key.
    pub fn threshold_of(&self, part: &KeyPart) -> u32 {
        self.own_threshold(part).map_or(self.threshold, |own| own.threshold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::attribute::Attribute;

    fn list(source: &str, keys: &[(&str, u32)]) -> Arc<ThresholdList> {
        let mut builder = ThresholdListBuilder::default();
        for (at, (key, threshold)) in keys.iter().enumerate() {
            builder.add(key, *threshold, at as u32 + 1, None);
        }
        Arc::new(builder.finish(source, Vec::new(), |_, _, _| ()))
    }

    fn of(field: KeyField, lists: &[Arc<ThresholdList>], value: &str) -> Option<u32> {
        Thresholds { field, lists: lists.to_vec() }.find(value).map(|own| own.threshold)
    }

    #[test]
    fn the_most_specific_threshold_wins() {
        let table = list(
            "table",
            &[("alice@example.org", 1), ("@example.org", 2), (".example.org", 3), (".org", 4), ("bob", 5)],
        );
        let login = |value: &str| of(KeyField::Whole(Attribute::SaslUsername), std::slice::from_ref(&table), value);
        for (value, threshold) in [
            ("alice@example.org", Some(1)),
            ("carol@example.org", Some(2)),
            ("alice@mail.example.org", Some(3)),
            ("alice@a.b.example.org", Some(3)),
            ("alice@badexample.org", Some(4)),
            ("alice@org", Some(4)),
            ("bob", Some(5)),
            ("bob@example.com", None),
            ("example.org", None),
            ("alice", None),
            ("a@b@example.org", Some(2)),
            ("", None),
            ("@", None),
        ] {
            assert_eq!(login(value), threshold, "{value}");
        }
    }

    #[test]
    fn a_domain_is_itself_and_below_itself() {
        let table = list("table", &[("example.org", 1), (".example.org", 2), (".example.com", 3)]);
        let domain = |value: &str| of(KeyField::MailDomain(Attribute::Sender), std::slice::from_ref(&table), value);
        assert_eq!(domain("example.org"), Some(1));
        assert_eq!(domain("a.example.org"), Some(2));
        assert_eq!(domain("example.com"), Some(3));
        assert_eq!(domain("notexample.com"), None);
        assert_eq!(domain(&".".repeat(100_000)), None);
    }

    #[test]
    fn of_equal_keys_the_first_counts_and_specific_ones_of_any_file_come_first() {
        let lists = [list("one", &[("@example.org", 1), ("x", 2)]), list("two", &[("a@example.org", 3), ("x", 4)])];
        let login = |value: &str| of(KeyField::Whole(Attribute::SaslUsername), &lists, value);
        assert_eq!(login("a@example.org"), Some(3));
        assert_eq!(login("b@example.org"), Some(1));
        assert_eq!(login("x"), Some(2));
        let mut told = Vec::new();
        let mut builder = ThresholdListBuilder::default();
        for (line, threshold) in [(1, 5), (2, 5), (3, 6)] {
            builder.add("x", threshold, line, None);
        }
        let list = builder.finish("", Vec::new(), |key, line, first| told.push((key.to_owned(), line, first)));
        assert_eq!((list.len(), told), (1, vec![("x".to_owned(), 3, 1)]));
    }
}
