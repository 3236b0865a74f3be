//! The target of a command: a client, a netblock, or a key as the log shows it; and its counters.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::net::clock::Now;
use crate::net::netblock::canonical;
use crate::net::serialize_as_text;
use crate::policy::attribute::Attribute;
use crate::policy::checks::client_part;
use crate::policy::key::KeyPart;
use crate::policy::key::{CounterKind, Key};
use crate::policy::key_escape::{escaped, is_address, is_digest};
use crate::policy::key_field::KeyField;
use crate::policy::limit::{Limit, Rate, Window};
use crate::policy::lists::ListEntry;
use crate::policy::override_target::OverrideTarget;
use crate::policy::thresholds::UNLIMITED;
use crate::policy::{Policy, rate_of, sliding_window};

/// What a command is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// One address.
    Client(IpAddr),
    /// All addresses of a netblock of more than one.
    Netblock(IpNet),
    /// A key that is no address, as `key=` in the log shows it, or some of its fields. `login` stands for a login at
    /// whichever door it is counted.
    Key(String),
}

/// The word that stands for a login at any door.
pub const LOGIN: &str = "login";

/// The key of netblocks that are counted together.
const GROUP: &str = "group";

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Client(address.to_canonical()));
        }
        if let Ok(netblock) = text.parse::<IpNet>() {
            return Ok(Self::of_netblock(canonical(netblock)));
        }
        if text == "all" || text.strip_prefix('#').is_some_and(is_digest) {
            return Ok(Self::Key(text.to_owned()));
        }
        let pairs = pairs(text);
        if let [("client", value)] = pairs.as_slice() {
            return value.parse();
        }
        if pairs.is_empty() || pairs.iter().any(|(_, value)| value.is_empty()) {
            return Err(format!(
                "{text:?} is neither an address nor a netblock nor a key; write one as the log shows it, or as in \
                 sasl_username=joe@example.org, sender=joe@example.org, sender_domain=example.org"
            ));
        }
        let canonical = pairs.into_iter().map(|(word, value)| {
            let value = match word {
                "client" => value.parse::<Self>()?.to_string(),
                "asn" | "country" if is_address(value) => value.parse::<Self>()?.to_string(),
                word if word.ends_with("_domain") => escaped(value.strip_prefix('@').unwrap_or(value)),
                _ => escaped(value),
            };
            Ok((word, value))
        });
        let canonical: Vec<_> = canonical.collect::<Result<_, String>>()?;
        Ok(Self::Key(KeyPart::of_pairs(canonical.iter().map(|(word, value)| (*word, value.as_str()))).to_string()))
    }
}

/// The words of a key with their values, as somebody wrote it: `sender=joe@example.org`, `sender joe@example.org`, or
/// several with commas between. A value may have commas and equals signs too.
fn pairs(text: &str) -> Vec<(&str, &str)> {
    let is_word = |word: &str| word == GROUP || KeyField::of_word(word).is_some();
    if let Some((word, value)) = text.split_once(' ').filter(|(word, _)| is_word(word)) {
        return vec![(word, value.trim())];
    }
    let begins = |at: usize| {
        let (word, value) = text[at..].split_once('=')?;
        is_word(word).then_some((word, at + word.len() + 1, value))
    };
    let starts = [0].into_iter().chain(text.match_indices(',').map(|(at, _)| at + 1));
    let starts: Vec<usize> = starts.filter(|at| begins(*at).is_some()).collect();
    if starts.first() != Some(&0) {
        return Vec::new();
    }
    let ends = starts[1..].iter().map(|at| at - 1).chain([text.len()]);
    starts
        .iter()
        .zip(ends)
        .filter_map(|(start, end)| begins(*start).map(|(word, at, _)| (word, &text[at..end])))
        .collect()
}

serialize_as_text!(Target);

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(address) => write!(f, "{address}"),
            Self::Netblock(netblock) => write!(f, "{netblock}"),
            Self::Key(text) => f.write_str(text),
        }
    }
}

impl Target {
    /// All of a netblock, which may be one address.
    pub fn of_netblock(netblock: IpNet) -> Self {
        match netblock.prefix_len() == netblock.max_prefix_len() {
            true => Self::Client(netblock.addr()),
            false => Self::Netblock(netblock),
        }
    }

    /// The target of a ban or an allowance of it.
    ///
    /// # Errors
    ///
    /// When no request can have it. Its text names what to write.
    pub fn to_override(&self) -> Result<OverrideTarget, String> {
        match (self.netblock(), self) {
            (None, Self::Key(text)) => text.parse(),
            (netblock, _) => Ok(OverrideTarget::Netblock(netblock.expect("no key"))),
        }
    }

    /// The netblock it stands for; none for a key.
    pub fn netblock(&self) -> Option<IpNet> {
        match self {
            Self::Client(address) => Some(IpNet::from(*address)),
            Self::Netblock(netblock) => Some(*netblock),
            Self::Key(_) => None,
        }
    }
}

/// The counters of one key of one limit.
#[derive(Clone, Debug)]
pub struct TargetCounter<'p> {
    /// The limit.
    pub limit: &'p Limit,
    pub part: KeyPart,
    /// Hits it allows.
    pub threshold: u32,
}

impl TargetCounter<'_> {
    /// The kinds of counters it may have at a moment, those of the window first.
    pub fn kinds(&self, now: Now) -> Vec<CounterKind> {
        let mut kinds = match &self.limit.window {
            window @ (Window::Fixed | Window::Exact | Window::Calendar(_)) => vec![window.counter(now)],
            Window::Sliding => {
                let newest = sliding_window::slot(self.limit.exptime, now.unix_ms);
                (0..=sliding_window::OLDER).map(|age| CounterKind::Slot(newest.saturating_sub(age))).collect()
            }
        };
        if self.limit.delay.is_some() || self.limit.ban.is_some() {
            kinds.extend([CounterKind::Violations, CounterKind::ActiveBan, CounterKind::BanCount]);
        }
        kinds
    }

    /// What it allows, in what the limit counts; `None`: it is not limited.
    pub fn allowed(&self) -> Option<u64> {
        (self.threshold != UNLIMITED).then(|| u64::from(self.threshold) * u64::from(self.limit.counts.unit()))
    }

    /// Its counter of a kind.
    pub fn key(&self, kind: CounterKind) -> Key<'_> {
        Key { limit: self.limit, part: &self.part, kind }
    }
}

impl Policy {
    /// A target as requests are counted: as IPv4 where its IPv6 addresses carry IPv4 addresses, and with a key in the
    /// spelling that keys have.
    pub fn canonical_target(&self, target: &Target) -> Target {
        match (target.netblock(), target) {
            (Some(netblock), _) => Target::of_netblock(self.embedded().fold_netblock(netblock)),
            (None, Target::Key(text)) => Target::Key(self.spelled(text)),
            (None, target) => target.clone(),
        }
    }

    /// A key in the spelling that keys have.
    fn spelled(&self, key: &str) -> String {
        // What is cut cannot be spelled otherwise any more.
        if !key.contains('=') || key.contains('#') {
            return key.to_owned();
        }
        let written = KeyPart::of_text(key);
        let spelled = written.pairs().map(|(word, value)| match KeyField::of_word(word) {
            None | Some(KeyField::Client) => (word, value.to_owned()),
            Some(field) => (word, self.spellings().written(field, value)),
        });
        let spelled: Vec<_> = spelled.collect();
        KeyPart::of_pairs(spelled.iter().map(|(word, value)| (*word, value.as_str()))).to_string()
    }

    /// The counters of a target, in the order of the limits.
    pub fn counters_of(&self, target: &Target) -> Vec<TargetCounter<'_>> {
        let of = |limit| match target {
            Target::Client(client) => self.of_client(limit, *client),
            Target::Netblock(netblock) => {
                let (address, prefix_length) = (netblock.addr(), netblock.prefix_len());
                let part = KeyPart::Client { address, prefix_length };
                limit.per.is_client().then_some(TargetCounter { limit, part, threshold: limit.threshold })
            }
            Target::Key(text) => {
                whole(limit, text).map(|part| TargetCounter { limit, threshold: limit.threshold_of(&part), part })
            }
        };
        self.limits.iter().filter_map(of).collect()
    }

    /// What a limit counts under a text: an address where its keys are addresses, the value of the one attribute
    /// they are made of, or all of a key as the log shows it.
    ///
    /// # Errors
    ///
    /// When there is no limit of that name, or the text cannot be a key of it. Its text names what to write.
    pub fn counter_by_text(&self, limit: &str, text: &str) -> Result<TargetCounter<'_>, String> {
        let limit = self.limit_named(limit)?;
        if limit.per.is_client() {
            let Ok(Target::Client(client)) = text.parse() else {
                return Err(format!("limit {} counts clients, and {text:?} is not an address", limit.name));
            };
            let client = self.embedded().fold(client);
            return self
                .of_client(limit, client)
                .ok_or_else(|| format!("limit {} does not count {client}", limit.name));
        }
        if let Ok(Target::Key(key)) = text.parse()
            && let Some(part) = whole(limit, &self.spelled(&key))
        {
            return target_counter(limit, part);
        }
        match limit.per.0.as_slice() {
            [] => target_counter(limit, KeyPart::Text("all".into())),
            [field] if !text.is_empty() => {
                let value = self.spellings().written(*field, text);
                target_counter(limit, KeyPart::of_pairs([(field.word(), value.as_str())]))
            }
            fields => {
                let words: Vec<String> = fields.iter().map(|field| format!("{}=...", field.word())).collect();
                Err(format!("{text:?} is not a key of limit {}; write {}", limit.name, words.join(",")))
            }
        }
    }

    /// The threshold of a limit for a client, which its netblock may change.
    pub fn threshold_of_client(&self, limit: &Limit, client: IpAddr) -> u32 {
        self.of_client(limit, client).map_or(limit.threshold, |own| own.threshold)
    }

    fn of_client<'p>(&'p self, limit: &'p Limit, client: IpAddr) -> Option<TargetCounter<'p>> {
        let rate = rate_of(limit, client, self.rate(client))?;
        let threshold = rate.map_or(limit.threshold, |(_, rate)| rate.threshold);
        limit.per.is_client().then(|| TargetCounter { limit, part: client_part(limit, rate, client), threshold })
    }

    fn rate(&self, client: IpAddr) -> Option<(&IpNet, &Rate)> {
        match self.netblocks.lookup(client)? {
            (netblock, ListEntry::Rate(place)) => Some((netblock, &self.rates[place.index()])),
            _ => None,
        }
    }
}

/// The counter of a key that the limit counts.
fn target_counter(limit: &Limit, part: KeyPart) -> Result<TargetCounter<'_>, String> {
    match limit.own_threshold(&part).filter(|own| own.threshold == UNLIMITED) {
        Some(own) => Err(format!("limit {} does not count {part}, which is not limited by {own}", limit.name)),
        None => Ok(TargetCounter { limit, threshold: limit.threshold_of(&part), part }),
    }
}

/// The key of a limit from a text that has all its fields, in whatever order.
fn whole(limit: &Limit, text: &str) -> Option<KeyPart> {
    let as_it_is = || Some(KeyPart::Text(text.into()));
    if text == "all" {
        return as_it_is().filter(|_| limit.per.0.is_empty());
    }
    if text.starts_with('#') {
        return as_it_is().filter(|_| !limit.per.is_client());
    }
    let part = KeyPart::Text(text.into());
    let said: Vec<_> = part.pairs().collect();
    if let [(GROUP, _)] = said.as_slice() {
        return as_it_is().filter(|_| limit.per.is_client());
    }
    let fields = &limit.per.0;
    if limit.per.is_client() || said.len() != fields.len() {
        return None;
    }
    let value = |field: &KeyField| said.iter().find(|(word, _)| names(word, field.word())).map(|(_, value)| *value);
    let pairs = fields.iter().map(|field| Some((field.word(), value(field)?)));
    Some(KeyPart::of_pairs(pairs.collect::<Option<Vec<_>>>()?))
}

/// Whether a word of a target means this word of a key.
fn names(said: &str, word: &str) -> bool {
    said == word || said == LOGIN && word == KeyField::Whole(Attribute::SaslUsername).word()
}

/// Whether a key has all the fields of a target, and perhaps others.
pub fn has_fields(part: &KeyPart, target: &KeyPart) -> bool {
    target.pairs().all(|(said, value)| part.pairs().any(|(word, other)| names(said, word) && value == other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use std::path::Path;

    fn policy(text: &str) -> Policy {
        Policy::new(&Config::parse(Path::new("connshaper.toml"), text).unwrap().policy, None)
    }

    const LIMITS: &str = "[netblocks]\n\"198.51.100.0/24\" = { threshold = 5, per = \"netblock\" }\n\
        [limit.login]\nthreshold = 3\nper = \"sasl_username\"\n\
        [limit.pair]\nthreshold = 3\nper = [\"client\", \"sender\"]\n";

    #[test]
    fn a_target_is_an_address_a_netblock_or_a_key() {
        let read = |text: &str| text.parse::<Target>().map(|target| target.to_string());
        assert_eq!(read("::ffff:192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(read("192.0.2.1/32").unwrap(), "192.0.2.1");
        assert_eq!(read("192.0.2.7/24").unwrap(), "192.0.2.0/24");
        assert_eq!(read("sender=joe@example.org").unwrap(), "sender=joe@example.org");
        for (written, key) in [
            ("login Joe@Example.com", "login=joe@example.com"),
            ("sender=bounce=joe=example.com@list.example", "sender=bounce%3djoe%3dexample.com@list.example"),
            ("sender a b@x", "sender=a%20b@x"),
            (r"sasl_username=DOMAIN\joe", "sasl_username=domain%5cjoe"),
            ("sasl_username=jürgen@example.com", "sasl_username=j%c3%bcrgen@example.com"),
            ("sasl_username=a,b,sender_domain=@example.org", "sasl_username=a%2cb,sender_domain=example.org"),
            ("client=192.0.2.7/24,sender=joe@example.org", "client=192.0.2.0/24,sender=joe@example.org"),
            ("client=192.0.2.7", "192.0.2.7"),
        ] {
            assert_eq!(read(written).unwrap(), key);
            assert_eq!(read(key).unwrap(), key);
        }
        for wrong in ["192.0.2", "joe", "sender=", "sender", "colour=red", "#12", "sender=a,recipient="] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_has_the_counters_that_requests_of_it_would_hit() {
        let policy = policy(LIMITS);
        let of = |text: &str| -> Vec<String> {
            let counted = policy.counters_of(&text.parse().unwrap());
            let line =
                |counted: &TargetCounter| format!("{} {} {}", counted.limit.name, counted.part, counted.threshold);
            counted.iter().map(line).collect()
        };
        assert_eq!(of("192.0.2.1"), ["connections 192.0.2.1 10"]);
        assert_eq!(of("198.51.100.7"), ["connections 198.51.100.0/24 5"]);
        assert_eq!(of("sasl_username=joe"), ["login sasl_username=joe 3"]);
        assert_eq!(of("login=joe"), ["login sasl_username=joe 3"]);
        assert_eq!(of("client=192.0.2.1,sender=joe@example.org"), ["pair client=192.0.2.1,sender=joe@example.org 3"]);
        assert_eq!(of("sender=joe@example.org,client=192.0.2.1"), ["pair client=192.0.2.1,sender=joe@example.org 3"]);
        assert_eq!(of("sender=joe@example.org"), [""; 0]);
    }

    #[test]
    fn a_key_of_a_limit_is_named_as_briefly_as_it_can_be() {
        let policy = policy(LIMITS);
        let named =
            |limit: &str, text: &str| policy.counter_by_text(limit, text).map(|counted| counted.part.to_string());
        assert_eq!(named("connections", "192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(named("login", "Joe Doe").unwrap(), "sasl_username=joe%20doe");
        assert_eq!(named("login", "sasl_username=joe").unwrap(), "sasl_username=joe");
        assert!(named("pair", "joe").unwrap_err().ends_with("write client=...,sender=..."));
        assert!(named("logins", "joe").unwrap_err().contains("there are connections, login, pair"));
        assert!(named("connections", "joe").is_err());
    }
}
