//! Keys of counters. `KeySpec::part` makes the part of a key that a request determines, and `Key::write` the text that
//! a shared store gets: the prefix of the limit, the part, and a suffix for the kind of counter.
//!
//! A part made of a client's address alone stays a number. Any other is a text
//! of `attribute=value` pairs, escaped and bounded by `key_escape`.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use strum::VariantArray;

use super::calendar::CalendarWindow;
use super::door::Door;
use super::key_escape::{ABSENT, bounded, digest, escape, is_address, unescaped};
use super::key_field::KeyField;
use super::limit::{self, CountKind, Limit};
use super::request::Request;
use super::spelling::Spellings;
use crate::net::address::ipv4_text;
use crate::net::netblock::mask;

/// The longest key that memcached takes, in bytes. Other stores take longer ones.
pub const MAX_STORE_KEY: usize = 250;

/// The longest `key_prefix`.
pub const MAX_SITE_PREFIX: usize = 100;

/// Marks the counters of a limit that is only logged.
const LOG_ONLY: &str = "log_only!";

/// The most that a limit can add to the prefix of the site: `log_only!NAME:recipients/`.
const MAX_LIMIT_PREFIX: usize = LOG_ONLY.len() + limit::MAX_LIMIT_NAME + ":".len() + longest_count() + "/".len();

/// The most that [`Key::write`] puts behind a part: `!m` or `!w` and a number in hexadecimal, or `!violations`.
const MAX_SUFFIX: usize = "!m".len() + u64::BITS as usize / 4;

/// The longest key part in a shared store, which has the digest only of a longer one.
pub const MAX_PART: usize = MAX_STORE_KEY - MAX_SITE_PREFIX - MAX_LIMIT_PREFIX - MAX_SUFFIX;

const _: () = assert!(MAX_SUFFIX >= "!violations".len());

/// The length of the longest word of [`CountKind`].
const fn longest_count() -> usize {
    let (mut longest, mut at) = (0, 0);
    while at < CountKind::VARIANTS.len() {
        let length = CountKind::VARIANTS[at].into_str().len();
        longest = if length > longest { length } else { longest };
        at += 1;
    }
    longest
}

/// The prefix of a limit's keys in a shared store. `site` is `key_prefix`.
///
/// The limit at the top level adds nothing if it counts connections, as connection_shaper does, and else
/// `connections:COUNT/`; no other limit can be named `connections`. Any other limit adds `NAME/` if it counts
/// connections, else `NAME:COUNT/`. A log-only limit has `log_only!` before that. So no two limits share a counter, and
/// one whose `count` is changed begins new counters.
pub fn limit_prefix(site: &str, name: &str, counts: CountKind, door: Door, log_only: bool) -> String {
    let mark = if log_only { LOG_ONLY } else { "" };
    match (name, counts) {
        // Postfix's requests, `NAME:requests/`, must not share a counter with those at the web door.
        (name, CountKind::Requests) if door == Door::Web => format!("{site}{mark}{name}:web/"),
        (limit::TOP, CountKind::Connections) => format!("{site}{mark}"),
        (name, CountKind::Connections) => format!("{site}{mark}{name}/"),
        (name, counts) => format!("{site}{mark}{name}:{}/", counts.into_str()),
    }
}

/// One counter.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    pub limit: &'a Limit,
    pub part: &'a KeyPart,
    pub kind: CounterKind,
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterKind {
    /// Hits of a fixed window.
    FixedWindow,
    /// Hits of one slot of a sliding window, by its number since the Unix epoch.
    Slot(u64),
    /// Hits of an exact sliding window.
    ExactWindow,
    /// How often it went over.
    Violations,
    /// A ban that is in force, while the key is there.
    ActiveBan,
    /// How many bans there were.
    BanCount,
    /// Marks a client or a wrong password with this digest as counted: of equal ones only the first is.
    Member(u64),
    /// Marks a window that has its length from the last reload.
    Retimed,
    /// Hits of a window of the calendar.
    Calendar(CalendarWindow),
}

impl Key<'_> {
    /// Appends the text of the key in a shared store: at most [`MAX_STORE_KEY`] bytes, no blanks. For the limit at the
    /// top level and a whole address it is the bare address, as in connection_shaper, which so shares the counter.
    ///
    /// No two counters of a configuration share a key. The `/` behind a limit's name is the first `/`, and what
    /// stands before the first `/` of a part is an address or has a `=`, which no name of a limit has. A part has
    /// no `!`.
    pub fn write(&self, output: &mut impl Write) -> fmt::Result {
        output.write_str(&self.limit.key_prefix)?;
        match self.part {
            KeyPart::Text(text) if text.len() > MAX_PART => output.write_str(&digest(text))?,
            KeyPart::Client { address: IpAddr::V4(address), prefix_length: 32 } => {
                let text = ipv4_text(*address);
                output.write_str(str::from_utf8(&text).expect("digits and dots"))?;
            }
            part => write!(output, "{part}")?,
        }
        match self.kind {
            CounterKind::Slot(number) => write!(output, "!{number:x}"),
            CounterKind::Member(digest) => write!(output, "!m{digest:x}"),
            CounterKind::Retimed => write!(output, "!={:x}", self.limit.exptime),
            CounterKind::Calendar(window) => write!(output, "!w{:x}", window.number()),
            kind => output.write_str(&kind.suffix().unwrap_or_default()),
        }
    }
}

impl CounterKind {
    /// Whether it is all of a window with a fixed end.
    pub fn is_whole_window(self) -> bool {
        matches!(self, Self::FixedWindow | Self::Calendar(_))
    }

    /// The suffix of its keys; `None`: each has its own.
    pub fn suffix(self) -> Option<Cow<'static, str>> {
        Some(Cow::Borrowed(match self {
            Self::FixedWindow => "",
            Self::Slot(_) | Self::Member(_) | Self::Retimed => return None,
            Self::ExactWindow => "!hits",
            Self::Violations => "!violations",
            Self::ActiveBan => "!ban",
            Self::BanCount => "!bans",
            Self::Calendar(window) => return Some(format!("!w{:x}", window.number()).into()),
        }))
    }
}

/// The fields of a limit's keys, `per`, in order. Without any all requests share one counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpec(pub SmallVec<[KeyField; 2]>);

/// The part of a key that a request determines: the values of all fields in `per`. The log shows it as `key`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KeyPart {
    /// A client's address with the bits after the prefix cleared.
    Client {
        address: IpAddr,
        /// The bits that are not cleared.
        prefix_length: u8,
    },
    /// Anything else.
    Text(Box<str>),
}

impl KeyPart {
    /// All of a client's netblock.
    pub fn client(client: IpAddr, ipv4_prefix_length: u8, ipv6_prefix_length: u8) -> Self {
        let (address, prefix_length) = mask(client, ipv4_prefix_length, ipv6_prefix_length);
        Self::Client { address, prefix_length }
    }

    /// All netblocks of a group.
    pub fn group(name: &str) -> Self {
        let mut text = String::from("group=");
        escape(name.as_bytes(), &mut text);
        Self::Text(bounded(text))
    }

    /// A number that is the same for it on every host.
    pub fn digest(&self) -> u64 {
        let digest = Sha256::digest(self.to_string());
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A key from its text.
    pub fn of_text(text: &str) -> Self {
        Self::Text(text.into())
    }

    /// A key of these words with their values, which are escaped.
    pub fn of_pairs<'t>(pairs: impl IntoIterator<Item = (&'t str, &'t str)>) -> Self {
        let pairs: Vec<String> = pairs.into_iter().map(|(word, value)| format!("{word}={value}")).collect();
        Self::Text(bounded(pairs.join(",")))
    }

    /// What it is about, for people: `login joe@example.org and sender domain example.org`.
    pub fn described(&self) -> String {
        let name = |word: &str| match word {
            "sasl_username" => "login".to_owned(),
            word => word.replace('_', " "),
        };
        let described = |(word, value): (&str, &str)| match word {
            "asn" if value.bytes().all(|byte| byte.is_ascii_digit()) => format!("AS{value}"),
            // The origin of an address that no database has.
            "asn" | "country" if is_address(value) => value.to_owned(),
            "country" => format!("country {}", value.to_ascii_uppercase()),
            word => format!("{} {}", name(word), unescaped(value)),
        };
        let parts = self.pairs().map(described);
        match self {
            Self::Client { .. } => self.to_string(),
            Self::Text(text) if !text.contains('=') => "all clients".to_owned(),
            Self::Text(_) => parts.collect::<Vec<_>>().join(" and "),
        }
    }

    /// The words of a key that is no address, with their values as they are escaped.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = match self {
            Self::Client { .. } => "",
            Self::Text(text) => text,
        };
        text.split(',').filter_map(|pair| pair.split_once('='))
    }
}

impl std::fmt::Display for KeyPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client { address, prefix_length } => {
                let whole = if address.is_ipv4() { 32 } else { 128 };
                match prefix_length {
                    length if *length == whole => write!(f, "{address}"),
                    length => write!(f, "{address}/{length}"),
                }
            }
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl KeySpec {
    /// The client's address alone.
    pub fn client() -> Self {
        Self(SmallVec::from_slice(&[KeyField::Client]))
    }

    /// The words of the fields that a request lacks.
    pub fn missing(&self, request: &Request) -> Vec<&'static str> {
        let has = |field: &KeyField| field.value(request).is_some() || field.is_of_address();
        let none = !self.0.iter().any(has);
        let missing = |field: &&KeyField| !has(field) && (none || !field.is_left_out(request));
        self.0.iter().filter(missing).map(|field| field.word()).collect()
    }

    /// Whether a request may have none of it, for the client left it out.
    pub fn may_be_left_out(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|field| field.may_be_left_out())
    }

    /// Whether its keys are addresses.
    pub fn is_client(&self) -> bool {
        matches!(self.0.as_slice(), [KeyField::Client])
    }

    /// Whether its keys differ between the recipients of one message.
    pub fn is_of_recipient(&self) -> bool {
        self.0.iter().any(|field| field.is_of_recipient())
    }

    /// The key part of a request. `client` is the value of the field `client`. A field that the client leaves out has a
    /// value of its own; `counts_absent`: all fields may be left out. `None`: the request lacks a field.
    #[inline]
    pub fn part(
        &self,
        request: &Request,
        client: KeyPart,
        counts_absent: bool,
        spellings: &Spellings,
    ) -> Option<KeyPart> {
        match self.is_client() {
            true => Some(client),
            false => self.text_part(request, client, counts_absent, spellings),
        }
    }

    fn text_part(
        &self,
        request: &Request,
        client: KeyPart,
        counts_absent: bool,
        spellings: &Spellings,
    ) -> Option<KeyPart> {
        let mut text = String::new();
        let mut is_absent = !self.0.is_empty() && !counts_absent;
        for field in &self.0 {
            if !text.is_empty() {
                text.push(',');
            }
            text += field.word();
            text.push('=');
            match field {
                field if *field != KeyField::Client && field.write(request, spellings, &mut text) => is_absent = false,
                field if field.is_of_address() => {
                    is_absent = false;
                    write!(text, "{client}").expect("a string grows as needed");
                }
                field if field.is_left_out(request) => text += ABSENT,
                _ => return None,
            }
        }
        if is_absent {
            return None;
        }
        if text.is_empty() {
            text += "all";
        }
        Some(KeyPart::Text(bounded(text)))
    }
}

/// One counter to hit, or to read.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    pub key: Key<'a>,
    /// What is added to it; 0: nothing, it is read.
    pub amount: u32,
    /// Seconds it lives from its first hit on.
    pub exptime: u32,
    /// A counter beyond this is evicted last when the table is full.
    pub threshold: u32,
}

/// The value of a counter, as the store returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// Hits in the window, this one included; 0 where there is no such counter.
    pub count: u32,
    /// Seconds until the window ends, rounded up.
    pub left: u32,
    /// What was added to it; less than was asked when it coalesced with an earlier hit.
    pub added: u32,
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::Decoder;

    use super::*;
    use crate::config::Config;
    use crate::policy::key_escape::{MAX_TEXT, escaped};
    use crate::policy::limit::Limit;
    use crate::postfix::decoder::RequestDecoder;

    fn request(lines: &str) -> Request<'static> {
        let text = format!("request=smtpd_access_policy\nclient_address=192.0.2.1\n{lines}\n");
        RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap()
    }

    fn key(words: &[&str], lines: &str) -> Option<String> {
        let field = |word: &&str| KeyField::WORDS.iter().find(|(known, _)| known == word).unwrap().1;
        let client = KeyPart::client([192, 0, 2, 1].into(), 24, 64);
        KeySpec(words.iter().map(field).collect())
            .part(&request(lines), client, false, &Spellings::default())
            .map(|part| part.to_string())
    }

    #[test]
    fn keys_name_what_they_are_made_of() {
        assert_eq!(key(&["client"], "").as_deref(), Some("192.0.2.0/24"));
        assert_eq!(key(&[], "").as_deref(), Some("all"));
        assert_eq!(key(&["sasl_username"], "sasl_username=Joe\n").as_deref(), Some("sasl_username=joe"));
        let lines = "sender=Joe@Example.ORG\nrecipient=a@b@example.net\n";
        assert_eq!(key(&["sender_domain"], lines).as_deref(), Some("sender_domain=example.org"));
        assert_eq!(key(&["recipient_domain"], lines).as_deref(), Some("recipient_domain=example.net"));
        let both = Some("client=192.0.2.0/24,sender=joe@example.org");
        assert_eq!(key(&["client", "sender"], lines).as_deref(), both);
    }

    #[test]
    fn the_domain_of_a_host_is_what_was_registered() {
        let domain = |name: &str| key(&["client_domain"], &format!("client_name={name}\n"));
        assert_eq!(domain("mail-1.Example.co.uk").as_deref(), Some("client_domain=example.co.uk"));
        assert_eq!(domain("a.b.example.com").as_deref(), Some("client_domain=example.com"));
        for none in ["unknown", "", "com", "192.0.2.1"] {
            assert_eq!(domain(none), None, "{none}");
        }
    }

    #[test]
    fn what_the_request_does_not_say_has_no_key() {
        assert_eq!(key(&["sasl_username"], ""), None);
        assert_eq!(key(&["client", "sender"], "sender=\n"), None);
        assert_eq!(key(&["sender_domain"], "sender=postmaster\n"), None);
        assert_eq!(key(&["client_name"], "client_name=unknown\n"), None);
    }

    #[test]
    fn a_long_text_is_named_in_clear_and_stored_as_its_digest() {
        let stored = |part: &KeyPart| {
            let limit = Limit { key_prefix: String::new(), ..Config::default().top().clone() };
            let mut text = String::new();
            Key { limit: &limit, part, kind: CounterKind::ActiveBan }.write(&mut text).unwrap();
            text
        };
        let sender = |local: &str| format!("{}@{}.example", local, "d".repeat(240));
        let of = |sender: &str| KeyPart::of_pairs([("sender", escaped(sender).as_str())]);
        let long = of(&sender("joe"));
        assert_eq!(long.to_string(), format!("sender={}", sender("joe")));
        assert!(stored(&long).starts_with('#') && stored(&long).len() == "#!ban".len() + 64);
        let (one, other) = (of(&sender(&"\u{fc}".repeat(300))), of(&sender(&"\u{fc}".repeat(301))));
        for cut in [&one, &other] {
            let text = cut.to_string();
            assert!(text.len() <= MAX_TEXT && text.starts_with("sender=%c3%bc%c3%bc"), "{text}");
            assert_eq!(stored(cut), format!("{}!ban", &text[text.find('#').unwrap()..]));
            assert_eq!(escaped(&text["sender=".len()..]), text["sender=".len()..]);
        }
        assert_ne!(one, other);
    }

    #[test]
    fn what_an_administrator_writes_is_read_as_it_is_or_as_the_log_has_it() {
        for (written, key) in [
            ("Joe Doe", "joe%20doe"),
            ("joe%20doe", "joe%20doe"),
            (r"DOMAIN\joe", "domain%5cjoe"),
            ("bounce=joe=example.com@list", "bounce%3djoe%3dexample.com@list"),
            ("joe%relay@example.com", "joe%25relay@example.com"),
            ("100%", "100%25"),
        ] {
            assert_eq!(escaped(written), key, "{written}");
            assert_eq!(unescaped(key).to_lowercase(), unescaped(&escaped(written)), "{written}");
        }
        assert_eq!(unescaped("j%c3%bcrgen@x"), "jürgen@x");
        assert_eq!(unescaped("100%"), "100%");
    }

    #[test]
    fn every_word_of_a_key_is_there_once() {
        for (place, (word, field)) in KeyField::WORDS.iter().enumerate() {
            assert_eq!(field.word(), *word);
            assert!(KeyField::WORDS.iter().skip(place + 1).all(|(other, _)| other != word));
        }
    }

    proptest! {
        #[test]
        fn different_texts_have_different_keys_of_bounded_length(
            one in ("[^\n\0]{0,60}", "[^\n\0]{0,60}"),
            other in ("[a,=%#@ ]{0,3}", "[a,=%#@ ]{0,3}"),
            with in ("[a,=%#@ ]{0,3}", "[a,=%#@ ]{0,3}"),
        ) {
            let key = |(sender, helo): &(String, String)| {
                key(&["sender", "helo_name"], &format!("sender={sender}\nhelo_name={helo}\n"))
            };
            if let Some(key) = key(&one) {
                prop_assert!(key.len() <= MAX_TEXT && key.bytes().all(|byte| byte.is_ascii_graphic()));
            }
            if let (Some(one), Some(two)) = (key(&other), key(&with)) {
                prop_assert_eq!(one == two, other == with);
            }
        }
    }
}
