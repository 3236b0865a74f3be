//! Bytes to `Request`, and the bounds on what a stranger may send.
//!
//! Works on bytes: a HELO name or a sender need not be UTF-8. A request is one
//! slice of the input with a table of where each value lies in it; the few
//! values every request is recognised by are parsed here, once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;
use tokio_util::codec::Decoder;

use super::Attribute;

/// A longer value is clipped to this many bytes. SMTP commands are bounded by
/// `line_length_limit` (2048 in Postfix), so nothing honest is longer, and no
/// answer at all would mean the site's `default_action`.
pub const MAX_VALUE: usize = 16 * 1024;

/// The longest name of Postfix has 24 bytes; a longer one than this is no policy client.
pub const MAX_NAME: usize = 256;

/// Thirty attributes of usual length are about 700 bytes.
pub const MAX_REQUEST: usize = 128 * 1024;

/// Postfix sends a request at once, so this leaves time for a network to recover.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);

/// One policy request.
#[derive(Debug)]
pub struct Request {
    block: BytesMut,
    places: [Place; Attribute::COUNT],
    /// The client's address, IPv4-mapped IPv6 folded to IPv4; `None` when absent, `unknown` or no address.
    pub client: Option<IpAddr>,
    /// The client's port; 0 when Postfix does not say.
    pub client_port: u16,
    /// The address and port the client connected to; `None` before Postfix 3.2.
    pub server: Option<(IpAddr, u16)>,
    /// The stage of the SMTP session.
    pub state: State,
    /// Which message this is about; `None` outside a mail transaction.
    pub instance: Option<Instance>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: u32,
    length: u32,
}

/// The stage of the SMTP session, as far as it tells sessions apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The client has just connected.
    Connect,
    /// A proxy has just named another client. Postfix sends the word `XCLIENT` though its manual does not list it.
    Xclient,
    /// Any other stage, known or not.
    Other,
}

/// Postfix's `instance`: smtpd's process id, the time of MAIL FROM, and the count of MAIL commands in the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The smtpd process.
    pub pid: u64,
    /// Seconds and microseconds (or a hash where the form is not Postfix's).
    pub time: (u64, u64),
    /// Accepted MAIL commands of the session before this one.
    pub seqno: u64,
}

impl Request {
    /// The bytes of an attribute; empty when absent (Postfix makes no difference). Clipped to `MAX_VALUE`.
    pub fn value(&self, attribute: Attribute) -> &[u8] {
        let Place { start, length } = self.places[attribute as usize];
        &self.block[start as usize..(start + length) as usize]
    }

    fn new(block: BytesMut, places: [Place; Attribute::COUNT]) -> Result<Self, RequestError> {
        let mut request =
            Self { block, places, client: None, client_port: 0, server: None, state: State::Other, instance: None };
        if request.value(Attribute::Request) != b"smtpd_access_policy" {
            return Err(RequestError::not_a_policy_request(request.value(Attribute::Request)));
        }
        request.client = address(request.value(Attribute::ClientAddress));
        request.client_port = port(request.value(Attribute::ClientPort));
        request.server = address(request.value(Attribute::ServerAddress))
            .map(|server| (server, port(request.value(Attribute::ServerPort))));
        request.state = match request.value(Attribute::ProtocolState) {
            b"CONNECT" => State::Connect,
            b"XCLIENT" => State::Xclient,
            _ => State::Other,
        };
        request.instance = Instance::parse(request.value(Attribute::Instance));
        Ok(request)
    }
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if let Some(address) = dotted_quad(value) {
        return Some(IpAddr::V4(address));
    }
    str::from_utf8(value).ok()?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The form that nearly all addresses have, read without the detours of a general parser.
fn dotted_quad(value: &[u8]) -> Option<Ipv4Addr> {
    let (mut octets, mut octet, mut digits, mut dots) = ([0; 4], 0_u16, 0, 0);
    for byte in value {
        match byte {
            // A second digit after 0 may mean octal to some: the general parser decides.
            b'0'..=b'9' if digits < 3 && (octet > 0 || digits == 0) => {
                octet = octet * 10 + u16::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 && dots < 3 => {
                octets[dots] = u8::try_from(octet).ok()?;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => return None,
        }
    }
    octets[3] = u8::try_from(octet).ok()?;
    (dots == 3 && digits > 0).then_some(Ipv4Addr::from(octets))
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
        let mut fields = value.split(|byte| *byte == b'.').map(hexadecimal);
        let mut next = || fields.next();
        let (pid, seconds, third, fourth) = (next()??, next()??, next()??, next());
        match (fourth, next()) {
            (None, _) => Some(Self { pid, time: (seconds, 0), seqno: third }),
            (Some(Some(seqno)), None) => Some(Self { pid, time: (seconds, third), seqno }),
            _ => None,
        }
    }

    /// An instance that is not Postfix's: only its being the same or another means anything.
    fn of_another(value: &[u8]) -> Self {
        let hash = siphasher::sip128::SipHasher13::new().hash(value);
        Self { pid: 0, time: (hash.h1, hash.h2), seqno: 0 }
    }
}

fn hexadecimal(field: &[u8]) -> Option<u64> {
    if field.is_empty() || field.len() > 16 {
        return None;
    }
    field.iter().try_fold(0, |value, byte| Some(value << 4 | u64::from((*byte as char).to_digit(16)?)))
}

/// Cuts requests out of the bytes of one policy connection. Of a repeated attribute the last one counts.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    /// Where the first line that is not read yet begins.
    line: usize,
    /// Up to where that line has no end; a slow sender is not searched twice.
    searched: usize,
    /// Where the next attribute stands in Postfix's order.
    hint: usize,
    places: [Place; Attribute::COUNT],
}

impl Decoder for RequestDecoder {
    type Item = Request;
    type Error = RequestError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        loop {
            let expected = Attribute::expect(self.hint, &input[self.line..]);
            let value = self.line + expected.map_or(0, |(_, length)| length);
            let Some(end) = line_end(input, value.max(self.searched)) else {
                self.searched = input.len();
                self.unfinished(&input[self.line..])?;
                return Ok(None);
            };
            let start = self.line;
            self.line = end + 1;
            self.searched = self.line;
            if self.line > MAX_REQUEST {
                return Err(RequestError::too_long());
            }
            match expected {
                Some((attribute, _)) => self.found(attribute, value, end),
                None if start == end => {
                    let finished = std::mem::take(self);
                    return Request::new(input.split_to(finished.line), finished.places).map(Some);
                }
                None => self.attribute(&input[start..end], start)?,
            }
        }
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Request>, RequestError> {
        match self.decode(input)? {
            None if !input.is_empty() => Err(RequestError::cut_short()),
            request => Ok(request),
        }
    }
}

/// Where the line that is known to go on until `from` ends. Half of all values are empty.
fn line_end(input: &[u8], from: usize) -> Option<usize> {
    match input.get(from) {
        Some(b'\n') => Some(from),
        _ => memchr(b'\n', &input[from..]).map(|length| from + length),
    }
}

impl RequestDecoder {
    fn attribute(&mut self, line: &[u8], start: usize) -> Result<(), RequestError> {
        let Some(name) = memchr(b'=', line) else {
            return Err(RequestError::no_equals_sign(line));
        };
        if name > MAX_NAME {
            return Err(RequestError::long_name(line));
        }
        if let Some(attribute) = Attribute::find(&line[..name], self.hint) {
            self.found(attribute, start + name + 1, start + line.len());
        }
        Ok(())
    }

    fn found(&mut self, attribute: Attribute, value: usize, end: usize) {
        self.hint = attribute as usize + 1;
        self.places[attribute as usize] = Place { start: value as u32, length: (end - value).min(MAX_VALUE) as u32 };
    }

    /// A line without an end is refused as soon as nothing honest can follow.
    fn unfinished(&self, line: &[u8]) -> Result<(), RequestError> {
        if self.line + line.len() > MAX_REQUEST {
            return Err(RequestError::too_long());
        }
        if line.len() > MAX_NAME && memchr(b'=', &line[..=MAX_NAME]).is_none() {
            return Err(RequestError::long_name(line));
        }
        Ok(())
    }
}

/// Why a policy connection cannot go on. There is no reply to such a request: Postfix asks again, then takes its default action.
#[derive(Debug)]
pub struct RequestError {
    /// The beginning of the offending name or line; not to be shown unescaped.
    pub attribute: Vec<u8>,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a request.
#[derive(Debug)]
pub enum Problem {
    /// A line that is no `name=value`.
    NoEqualsSign,
    /// A name longer than `MAX_NAME`.
    LongName,
    /// More than `MAX_REQUEST` bytes before the empty line.
    TooLong,
    /// `request` is not `smtpd_access_policy`.
    NotAPolicyRequest,
    /// The connection ended within a request.
    CutShort,
    /// The rest of a request did not come in time.
    Unfinished,
    /// Reading failed.
    Io(std::io::Error),
}

impl RequestError {
    fn no_equals_sign(line: &[u8]) -> Self {
        Self::new(line, Problem::NoEqualsSign)
    }

    fn long_name(line: &[u8]) -> Self {
        Self::new(line, Problem::LongName)
    }

    fn too_long() -> Self {
        Self::new(b"", Problem::TooLong)
    }

    fn not_a_policy_request(value: &[u8]) -> Self {
        let attribute = [b"request=", value].concat();
        Self::new(&attribute, Problem::NotAPolicyRequest)
    }

    fn cut_short() -> Self {
        Self::new(b"", Problem::CutShort)
    }

    /// A request whose rest did not come within `REQUEST_TIME`.
    pub fn unfinished() -> Self {
        Self::new(b"", Problem::Unfinished)
    }

    fn new(attribute: &[u8], problem: Problem) -> Self {
        // Enough to recognise it by in the log.
        let shown = attribute.len().min(64);
        Self { attribute: attribute[..shown].to_vec(), problem }
    }
}

impl From<std::io::Error> for RequestError {
    fn from(error: std::io::Error) -> Self {
        Self::new(b"", Problem::Io(error))
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::NoEqualsSign => f.write_str("a line without ="),
            Problem::LongName => write!(f, "a name longer than {MAX_NAME} bytes"),
            Problem::TooLong => write!(f, "a request longer than {MAX_REQUEST} bytes"),
            Problem::NotAPolicyRequest => f.write_str("not request=smtpd_access_policy"),
            Problem::Unfinished => {
                write!(f, "a request that was begun {} seconds ago is not finished", REQUEST_TIME.as_secs())
            }
            Problem::CutShort => f.write_str("the connection ended within a request"),
            Problem::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RequestError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Option<Request>, RequestError> {
        RequestDecoder::default().decode(&mut BytesMut::from(bytes))
    }

    fn request(lines: &str) -> Request {
        decode(format!("request=smtpd_access_policy\n{lines}\n").as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn attributes_are_found_in_any_order_among_unknown_ones() {
        let request =
            request("sender=a=b\nfoo=bar\nclient_port=4711\nclient_address=192.0.2.1\nprotocol_state=CONNECT\n");
        assert_eq!(request.value(Attribute::Sender), b"a=b");
        assert_eq!(request.value(Attribute::Recipient), b"");
        assert_eq!((request.client, request.client_port), (Some([192, 0, 2, 1].into()), 4711));
        assert_eq!(request.state, State::Connect);
    }

    #[test]
    fn the_last_of_a_repeated_attribute_counts() {
        assert_eq!(request("sender=a\nsender=b\n").value(Attribute::Sender), b"b");
    }

    #[test]
    fn mapped_addresses_are_ipv4_and_unknown_ones_are_none() {
        assert_eq!(request("client_address=::ffff:192.0.2.1\n").client, Some([192, 0, 2, 1].into()));
        for absent in ["unknown", "", "0", "192.0.2", "2001:db8::1%lo"] {
            assert_eq!(request(&format!("client_address={absent}\n")).client, None, "{absent}");
        }
        assert_eq!(request("client_port=unknown\n").client_port, 0);
    }

    #[test]
    fn instances_are_read_in_both_forms_of_postfix() {
        let read = |text: &str| Instance::parse(text.as_bytes());
        assert_eq!(read("75c.59df7ea1.56819.a"), Some(Instance { pid: 0x75c, time: (0x59df7ea1, 0x56819), seqno: 10 }));
        assert_eq!(read("123.456.7"), Some(Instance { pid: 0x123, time: (0x456, 0), seqno: 7 }));
        assert_eq!(read(""), None);
        assert_ne!(read("message-1"), read("message-2"));
        assert_eq!(read("message-1"), read("message-1"));
    }

    #[test]
    fn long_values_are_clipped_and_answered() {
        let long = "x".repeat(MAX_VALUE + 5);
        let request = request(&format!("helo_name={long}\nsender=a\n"));
        assert_eq!(request.value(Attribute::HeloName).len(), MAX_VALUE);
        assert_eq!(request.value(Attribute::Sender), b"a");
    }

    #[test]
    fn trouble_is_told_apart() {
        let problem = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
        assert_eq!(problem(b"request\n"), "a line without =");
        assert_eq!(problem(b"request=smtpd_access_policy\r\n\r\n"), "a line without =");
        assert_eq!(problem(b"\n"), "not request=smtpd_access_policy");
        assert_eq!(problem(b"request=junk\n\n"), "not request=smtpd_access_policy");
        assert_eq!(problem(&[b'a'; MAX_NAME + 1]), "a name longer than 256 bytes");
        let name = [&[b'a'; MAX_NAME + 1][..], b"=b\n"].concat();
        assert_eq!(problem(&name), "a name longer than 256 bytes");
        let long = b"sender=a\n".repeat(MAX_REQUEST / 9 + 1);
        assert_eq!(problem(&long), "a request longer than 131072 bytes");
        assert_eq!(problem(&[b"a=".to_vec(), vec![b'x'; MAX_REQUEST]].concat()), "a request longer than 131072 bytes");
        let cut = RequestDecoder::default().decode_eof(&mut BytesMut::from("request=x"));
        assert_eq!(cut.unwrap_err().to_string(), "the connection ended within a request");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_its_input_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn addresses_are_read_as_the_standard_library_reads_them(text in "[0-9]{0,4}([.][0-9]{0,4}){2,4}") {
            prop_assert_eq!(address(text.as_bytes()), text.parse().ok());
        }

        #[test]
        fn ports_are_read_as_the_standard_library_reads_them(text in "[0-9a]{0,6}") {
            prop_assert_eq!(port(text.as_bytes()), text.parse().unwrap_or(0));
        }

        #[test]
        fn the_cut_of_the_input_makes_no_difference(
            values in proptest::collection::vec("[^\n\0]{0,40}", 3),
            cuts in proptest::collection::vec(0_usize..400, 0..6),
        ) {
            let text = format!(
                "request=smtpd_access_policy\nsender={}\nhelo_name={}\nrecipient={}\n\n",
                values[0], values[1], values[2],
            );
            let twice = text.repeat(2);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(twice.len())).collect();
            cuts.extend([0, twice.len()]);
            cuts.sort_unstable();
            let (mut decoder, mut input, mut requests) = (RequestDecoder::default(), BytesMut::new(), Vec::new());
            for part in cuts.windows(2) {
                input.extend_from_slice(&twice.as_bytes()[part[0]..part[1]]);
                while let Some(request) = decoder.decode(&mut input).unwrap() {
                    requests.push(request);
                }
            }
            prop_assert_eq!(requests.len(), 2);
            for request in &requests {
                prop_assert_eq!(request.value(Attribute::Sender), values[0].as_bytes());
                prop_assert_eq!(request.value(Attribute::HeloName), values[1].as_bytes());
                prop_assert_eq!(request.value(Attribute::Recipient), values[2].as_bytes());
            }
        }
    }
}
