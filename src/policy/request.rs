//! A request at any door: its values, by attribute.
//!
//! Works on bytes: a HELO name or a sender need not be UTF-8. A request is one
//! slice of the input with a table of where each value lies in it. The few
//! values that tell the session of a request are parsed here, once.

use std::borrow::Cow;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use wide::u8x16;

use crate::net::address::ipv4_text;
use crate::policy::attribute::Attribute;
use crate::policy::door::Door;
use serde::{Deserialize, Serialize};

/// A longer value is clipped to this many bytes. SMTP commands are bounded by
/// `line_length_limit` (2048 in Postfix), so no value of a real session is longer.
/// A request that is not answered would mean the site's `default_action`.
pub const MAX_VALUE: usize = 16 * 1024;

/// Bytes of a request. Thirty attributes of usual length are about 700 bytes.
pub const MAX_REQUEST: usize = 128 * 1024;

/// A longer value at another door than Postfix's is clipped to this many bytes.
pub const MAX_OTHER_VALUE: usize = 4096;

/// The bytes, and the values, for which another door's request has room from the start. Most have no more.
const USUAL_BLOCK: usize = 240;
const USUAL_VALUES: usize = 6;

/// One policy request. One that is answered at once borrows the bytes that were read.
#[derive(Debug)]
pub struct Request<'b> {
    block: Cow<'b, [u8]>,
    places: [ValueSpan; Attribute::COUNT],
    /// `None` where there are none, as in every request of Postfix.
    others: Option<Box<OtherValues>>,
    pub door: Door,
    /// At the login door: what came of the login.
    pub login: LoginOutcome,
    /// The client's address, IPv4-mapped IPv6 folded to IPv4; `None` when absent, `unknown` or no address.
    pub client: Option<IpAddr>,
    /// The client's port; 0 when Postfix does not say.
    pub client_port: u16,
    /// The address and port the client connected to; `None` before Postfix 3.2.
    pub server: Option<(IpAddr, u16)>,
    /// The stage of the SMTP session.
    pub state: Stage,
    /// Which message this is about; `None` outside a mail transaction.
    pub instance: Option<Instance>,
}

/// Where the values are of attributes that Postfix does not send. In a box, as requests of Postfix are moved.
#[derive(Clone, Debug, Default)]
struct OtherValues(Vec<(Attribute, ValueSpan)>);

/// Where a value lies in a request: the start above the length, in one word, for the table of them is moved
/// with every request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ValueSpan(u32);

impl ValueSpan {
    const LENGTH_BITS: u32 = MAX_VALUE.ilog2() + 1;

    /// The span of a missing value.
    pub const NONE: Self = Self(0);

    pub const fn new(start: usize, length: usize) -> Self {
        Self((start << Self::LENGTH_BITS | length) as u32)
    }

    /// The span after this many bytes were put before the value.
    pub fn moved(self, bytes: usize) -> Self {
        Self(self.0 + ((bytes << Self::LENGTH_BITS) as u32))
    }

    /// The span after this many bytes before the value were removed.
    pub fn moved_back(self, bytes: usize) -> Self {
        Self(self.0 - ((bytes << Self::LENGTH_BITS) as u32))
    }

    fn range(self) -> Range<usize> {
        let start = (self.0 >> Self::LENGTH_BITS) as usize;
        start..start + (self.0 & ((1 << Self::LENGTH_BITS) - 1)) as usize
    }
}

const _: () = assert!(MAX_REQUEST <= 1 << (u32::BITS - ValueSpan::LENGTH_BITS), "every place in a request fits a word");

/// What is known of a login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It is about to be tried, or the request is not about a login.
    #[default]
    Unknown,
    Succeeded,
    /// The password was wrong, or there is no such account.
    Failed,
}

/// The stage of the SMTP session, as far as it matters what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The client has just connected.
    Connect,
    /// A proxy has just named another client. Postfix sends the word `XCLIENT` though its manual does not list it.
    Xclient,
    /// One recipient.
    Rcpt,
    /// The recipients are complete, the message is to come. Postfix reports BDAT as `DATA`.
    Data,
    /// The message has come.
    EndOfMessage,
    /// `VRFY` or `ETRN`.
    Verify,
    /// Any other stage, known or not.
    Other,
}

impl Stage {
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Xclient, Self::Rcpt, Self::Data, Self::EndOfMessage, Self::Verify, Self::Other];

    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    fn parse(value: &[u8]) -> Self {
        match value {
            b"CONNECT" => Self::Connect,
            b"XCLIENT" => Self::Xclient,
            b"RCPT" => Self::Rcpt,
            b"DATA" | b"BDAT" => Self::Data,
            b"END-OF-MESSAGE" => Self::EndOfMessage,
            b"VRFY" | b"ETRN" => Self::Verify,
            _ => Self::Other,
        }
    }
}

/// Postfix's `instance`: smtpd's process id, the time of MAIL FROM, and the count of MAIL commands in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// The smtpd process.
    pub pid: u64,
    /// Seconds and microseconds (or a hash where the form is not Postfix's).
    pub time: (u64, u64),
    /// Accepted MAIL commands of the session before this one.
    pub seqno: u64,
}

impl<'b> Request<'b> {
    /// The bytes of an attribute; empty when absent (Postfix makes no difference). Clipped to `MAX_VALUE`.
    pub fn value(&self, attribute: Attribute) -> &[u8] {
        match self.places.get(attribute as usize) {
            Some(span) => &self.block[span.range()],
            None => self.other_value(attribute),
        }
    }

    fn other_value(&self, attribute: Attribute) -> &[u8] {
        let found = self.others.iter().flat_map(|others| &others.0).find(|(other, _)| *other == attribute);
        found.map_or(b"", |(_, span)| &self.block[span.range()])
    }

    /// A request at another door than Postfix's, with these values. Each is clipped to [`MAX_OTHER_VALUE`].
    pub fn at<'v>(
        door: Door,
        client: Option<IpAddr>,
        values: impl IntoIterator<Item = (Attribute, &'v [u8])>,
    ) -> Request<'static> {
        let mut block = Vec::with_capacity(USUAL_BLOCK);
        match client {
            Some(IpAddr::V4(client)) => block.extend_from_slice(&ipv4_text(client)),
            Some(IpAddr::V6(client)) => write!(block, "{client}").expect("a vector grows as needed"),
            None => {}
        }
        let address = ValueSpan::new(0, block.len());
        let others = Some(Box::new(OtherValues(Vec::with_capacity(USUAL_VALUES))));
        let places = [ValueSpan::default(); Attribute::COUNT];
        let mut request = Request { door, client, others, ..Request::unread(Cow::Owned(block), &places) };
        request.places[Attribute::ClientAddress as usize] = address;
        values.into_iter().for_each(|(attribute, value)| request.set(attribute, value));
        request
    }

    fn set(&mut self, attribute: Attribute, value: &[u8]) {
        let value = &value[..value.len().min(MAX_OTHER_VALUE)];
        let span = ValueSpan::new(self.block.len(), value.len());
        self.block.to_mut().extend_from_slice(value);
        match self.places.get_mut(attribute as usize) {
            Some(place) => *place = span,
            None => self.others.get_or_insert_default().0.push((attribute, span)),
        }
    }

    /// The same about another recipient.
    pub fn about(&self, recipient: &[u8]) -> Request<'static> {
        self.with([(Attribute::Recipient, recipient)])
    }

    /// The same with these values too.
    pub fn with<'v>(&self, values: impl IntoIterator<Item = (Attribute, &'v [u8])>) -> Request<'static> {
        let (block, others) = (Cow::Owned(self.block.to_vec()), self.others.clone());
        let mut request = Request { block, others, ..*self };
        for (attribute, value) in values {
            // What begins beyond that has no place in the table. No request of Postfix is half as long.
            if request.block.len() < MAX_REQUEST {
                request.set(attribute, value);
            }
        }
        request
    }

    /// The same with bytes of its own.
    pub fn to_owned(&self) -> Request<'static> {
        self.with([])
    }

    /// A request of Postfix. `server` is what its values say of the server, if that is known already.
    pub(crate) fn new(block: &'b [u8], places: &[ValueSpan; Attribute::COUNT], server: Option<(IpAddr, u16)>) -> Self {
        let mut request = Self::unread(Cow::Borrowed(block), places);
        request.client = address(request.value(Attribute::ClientAddress));
        request.client_port = port(request.value(Attribute::ClientPort));
        request.server = server.or_else(|| {
            let server = address(request.value(Attribute::ServerAddress))?;
            Some((server, port(request.value(Attribute::ServerPort))))
        });
        request.state = Stage::parse(request.value(Attribute::ProtocolState));
        request.instance = Instance::parse(request.value(Attribute::Instance));
        request
    }

    /// With none of its values parsed.
    fn unread(block: Cow<'b, [u8]>, places: &[ValueSpan; Attribute::COUNT]) -> Self {
        Self {
            block,
            places: *places,
            others: None,
            door: Door::Smtp,
            login: LoginOutcome::Unknown,
            client: None,
            client_port: 0,
            server: None,
            state: Stage::Other,
            instance: None,
        }
    }
}

/// An address as Postfix writes it, IPv4-mapped IPv6 folded to IPv4.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    if let Some(address) = dotted_quad(value) {
        return Some(IpAddr::V4(address));
    }
    str::from_utf8(value).ok()?.parse::<Ipv6Addr>().ok().map(|address| address.to_canonical())
}

/// As the standard library reads it, without the detours of a general parser.
fn dotted_quad(value: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0; 4];
    let mut rest = value;
    for (place, octet) in octets.iter_mut().enumerate() {
        if place > 0 {
            rest = rest.strip_prefix(b".")?;
        }
        (*octet, rest) = decimal_octet(rest)?;
    }
    rest.is_empty().then_some(Ipv4Addr::from(octets))
}

/// The number from 0 to 255 that a text begins with, and what follows its digits.
fn decimal_octet(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |place: usize| text.get(place).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10);
    let first = digit(0)?;
    // A second digit after 0 may mean octal to some: that is no address.
    let Some(second) = digit(1).filter(|_| first > 0) else {
        return Some((first, &text[1..]));
    };
    let Some(third) = digit(2) else {
        return Some((first * 10 + second, &text[2..]));
    };
    let octet = u8::try_from(u16::from(first) * 100 + u16::from(second * 10 + third)).ok()?;
    Some((octet, &text[3..]))
}

fn port(value: &[u8]) -> u16 {
    let digit = |number: u16, byte: &u8| match byte {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u16::from(byte - b'0')),
        _ => None,
    };
    value.iter().try_fold(0, digit).unwrap_or(0)
}

impl Instance {
    /// `pid.seconds.microseconds.seqno` in hexadecimal; before Postfix 2.3 without the microseconds.
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.is_empty() || value == b"0" {
            return None;
        }
        Some(Self::of_postfix(value).unwrap_or_else(|| Self::of_another(value)))
    }

    fn of_postfix(value: &[u8]) -> Option<Self> {
        let mut text = [0; LONGEST_INSTANCE];
        text.get_mut(..value.len())?.copy_from_slice(value);
        let (digits, are_digits) = hexadecimal_digits(&text);
        let (mut numbers, mut count, mut at) = ([0; 4], 0, 0);
        loop {
            let length = (!are_digits >> at).trailing_zeros() as usize;
            if !(1..=8).contains(&length) {
                return None;
            }
            let eight = u64::from_be_bytes(*digits.get(at..)?.first_chunk()?) >> (8 * (8 - length));
            let pairs = (eight | eight >> 4) & 0x00ff_00ff_00ff_00ff;
            let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
            *numbers.get_mut(count)? = (fours | fours >> 16) & 0xffff_ffff;
            (count, at) = (count + 1, at + length);
            if at >= value.len() {
                break;
            }
            if text[at] != b'.' {
                return None;
            }
            at += 1;
        }
        let [pid, seconds, third, fourth] = numbers;
        match count {
            4 => Some(Self { pid, time: (seconds, third), seqno: fourth }),
            3 => Some(Self { pid, time: (seconds, 0), seqno: third }),
            _ => None,
        }
    }

    /// An instance that does not have Postfix's form: it can only be compared for equality.
    #[cold]
    fn of_another(value: &[u8]) -> Self {
        let hash = siphasher::sip128::SipHasher13::new().hash(value);
        Self { pid: 0, time: (hash.h1, hash.h2), seqno: 0 }
    }
}

/// The bytes of the longest instance of Postfix: none of its numbers has more than eight digits.
const LONGEST_INSTANCE: usize = 32;

/// The value of each byte as a hexadecimal digit, and a bit for each byte that is one. Every request has some twenty.
fn hexadecimal_digits(text: &[u8; LONGEST_INSTANCE]) -> ([u8; LONGEST_INSTANCE + 8], u64) {
    let (mut digits, mut are_digits) = ([0; LONGEST_INSTANCE + 8], 0);
    for (place, block) in text.as_chunks::<16>().0.iter().enumerate() {
        let bytes = u8x16::from(*block);
        let (digit, letter) = (bytes - u8x16::splat(b'0'), (bytes | u8x16::splat(0x20)) - u8x16::splat(b'a'));
        let is_digit = digit.min(u8x16::splat(9)).simd_eq(digit);
        let is_letter = letter.min(u8x16::splat(5)).simd_eq(letter);
        let values = digit & is_digit | (letter + u8x16::splat(10)) & is_letter;
        digits[16 * place..][..16].copy_from_slice(&values.to_array());
        are_digits |= u64::from((is_digit | is_letter).to_bitmask()) << (16 * place);
    }
    (digits, are_digits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn instances_are_read_in_both_forms_of_postfix() {
        let read = |text: &str| Instance::parse(text.as_bytes());
        assert_eq!(read("75c.59df7ea1.56819.a"), Some(Instance { pid: 0x75c, time: (0x59df7ea1, 0x56819), seqno: 10 }));
        assert_eq!(read("123.456.7"), Some(Instance { pid: 0x123, time: (0x456, 0), seqno: 7 }));
        assert_eq!(read(""), None);
        for another in [
            "75c.59df7ea1.56819.a.1",
            "75c.59df7ea1",
            ".456.7",
            "123..7",
            "123.456.",
            "123.456.g",
            "12345678123456781.2.3",
        ] {
            assert_eq!(read(another).unwrap().pid, 0, "{another}");
        }
        assert_ne!(read("message-1"), read("message-2"));
        assert_eq!(read("message-1"), read("message-1"));
    }

    #[test]
    fn a_request_at_another_door_has_its_own_values_and_none_of_postfix() {
        let long = [b'x'; 2 * MAX_OTHER_VALUE];
        let values: [(Attribute, &[u8]); 3] =
            [(Attribute::Path, b"/login"), (Attribute::Method, b"POST"), (Attribute::UserAgent, &long)];
        let request = Request::at(Door::Web, Some([192, 0, 2, 1].into()), values);
        assert_eq!(request.value(Attribute::Path), b"/login");
        assert_eq!(request.value(Attribute::ClientAddress), b"192.0.2.1");
        assert_eq!(request.value(Attribute::UserAgent).len(), MAX_OTHER_VALUE);
        assert_eq!((request.value(Attribute::Host), request.value(Attribute::Stress)), (&b""[..], &b""[..]));
    }

    #[test]
    fn stages_are_told_apart_as_far_as_they_matter() {
        let known = [
            ("CONNECT", Stage::Connect),
            ("XCLIENT", Stage::Xclient),
            ("RCPT", Stage::Rcpt),
            ("DATA", Stage::Data),
            ("BDAT", Stage::Data),
            ("END-OF-MESSAGE", Stage::EndOfMessage),
            ("VRFY", Stage::Verify),
            ("ETRN", Stage::Verify),
        ];
        for (word, state) in known {
            assert_eq!(Stage::parse(word.as_bytes()), state);
        }
        for word in ["", "MAIL", "EHLO", "rcpt", "END-OF-MESSAGES"] {
            assert_eq!(Stage::parse(word.as_bytes()), Stage::Other, "{word}");
        }
    }

    proptest! {
        #[test]
        fn addresses_are_read_as_the_standard_library_reads_them(text in "[0-9]{0,4}([.][0-9]{0,4}){2,4}") {
            prop_assert_eq!(address(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn ports_are_read_as_the_standard_library_reads_them(text in "[0-9a]{0,6}") {
            prop_assert_eq!(port(text.as_bytes()), text.parse().unwrap_or(0));
        }
    }
}
