//! Bytes to requests, and the bounds on what a stranger may send.

use std::cell::RefCell;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use memchr::memchr;
use tokio_util::codec::Decoder;
use wide::u8x16;

use crate::policy::attribute::{Attribute, NAMES};
use crate::policy::request::{MAX_REQUEST, MAX_VALUE, Request, ValueSpan};
use crate::postfix::error::RequestError;

/// The longest name of Postfix has 24 bytes; a peer that sends a longer one than this is not a policy client.
pub const MAX_ATTRIBUTE_NAME: usize = 256;

/// Postfix sends a request at once, so this leaves time for a network to recover.
pub const REQUEST_TIME: Duration = Duration::from_secs(30);

/// What every request of Postfix is, by its first attribute.
const POLICY_REQUEST: &[u8] = b"smtpd_access_policy";

/// The lines that nearly all requests of Postfix begin with. They are compared at once.
const FIRST_LINES: &[u8] = b"request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n";

/// Where the values are in [`FIRST_LINES`].
const FIRST_PLACES: [ValueSpan; Attribute::ClientAddress as usize] = {
    let (mut places, mut place, mut begin, mut at) = ([ValueSpan::NONE; _], 0, 0, 0);
    while at < FIRST_LINES.len() {
        match FIRST_LINES[at] {
            b'=' => begin = at + 1,
            b'\n' => {
                places[place] = ValueSpan::new(begin, at - begin);
                place += 1;
            }
            _ => {}
        }
        at += 1;
    }
    places
};

/// The attributes of the server. Most hosts have few addresses, so their lines are compared with those of before.
const SERVER: Range<usize> = Attribute::ServerAddress as usize..Attribute::HeloName as usize;

/// The most bytes of these lines that are remembered. An IPv6 address has 45 at most.
const MAX_SERVER: usize = 96;

/// The lines of [`SERVER`] in an earlier request, of whatever connection.
struct LastServer {
    text: [u8; MAX_SERVER],
    length: usize,
    /// Where the values are in that text.
    places: [ValueSpan; SERVER.end - SERVER.start],
    /// What they say; `None`: nothing is remembered.
    server: Option<(IpAddr, u16)>,
}

/// The attributes whose lines are nearly always those of the request before: compared at once.
const LAST_ATTRIBUTES: Range<usize> = Attribute::EtrnDomain as usize..Attribute::COUNT;

/// The most of these lines that is remembered. Of a client without login or certificate they have some 300 bytes.
const MAX_LAST: usize = 512;

/// The lines of [`LAST_ATTRIBUTES`] in an earlier request, of whatever connection, with the empty one at its end.
struct LastLines {
    text: [u8; MAX_LAST],
    length: usize,
    /// Where the values are in that text.
    places: [ValueSpan; LAST_ATTRIBUTES.end - LAST_ATTRIBUTES.start],
}

thread_local! {
    static LAST_SERVER: RefCell<LastServer> = const {
        RefCell::new(LastServer { text: [0; MAX_SERVER], length: 0, places: [ValueSpan::NONE; _], server: None })
    };
    static LAST_LINES: RefCell<LastLines> =
        const { RefCell::new(LastLines { text: [0; MAX_LAST], length: 0, places: [ValueSpan::NONE; _] }) };
}

/// Cuts requests out of the bytes of one policy connection. Of a repeated attribute the last one counts.
#[derive(Debug, Default)]
pub struct RequestDecoder {
    /// Where the first line that is not read yet begins.
    line: usize,
    /// Up to here that line was searched for its end, in vain: of a slow sender nothing is searched twice.
    searched: usize,
    /// Where the next attribute stands in Postfix's order.
    hint: usize,
    places: [ValueSpan; Attribute::COUNT],
    /// The server, if its lines were those of an earlier request.
    server: Option<(IpAddr, u16)>,
    /// Where the lines of [`LAST_ATTRIBUTES`] begin, if they came in Postfix's order and differ from those of before.
    last_lines: Option<usize>,
}

/// For those who keep a request longer than its bytes.
impl Decoder for RequestDecoder {
    type Item = Request<'static>;
    type Error = RequestError;

    fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Request<'static>>, RequestError> {
        let Some((request, length)) = self.read(input, |request, length| (request.to_owned(), length))? else {
            return Ok(None);
        };
        input.advance(length);
        Ok(Some(request))
    }

    fn decode_eof(&mut self, input: &mut BytesMut) -> Result<Option<Request<'static>>, RequestError> {
        match self.decode(input)? {
            None if !input.is_empty() => Err(RequestError::cut_short()),
            request => Ok(request),
        }
    }
}

impl RequestDecoder {
    /// Shows the request that `input` begins with, and how long it is. `None`: not all of it has come, and the same
    /// input has to be read again when there is more.
    pub fn read<T>(
        &mut self,
        input: &[u8],
        show: impl FnOnce(&Request<'_>, usize) -> T,
    ) -> Result<Option<T>, RequestError> {
        let Some(length) = self.end(input)? else {
            return Ok(None);
        };
        let request = Request::new(&input[..length], &self.places, self.server);
        if self.server.is_none() && request.server.is_some() {
            remember_server(&request);
        }
        *self = Self::default();
        match request.value(Attribute::Request) {
            POLICY_REQUEST => Ok(Some(show(&request, length))),
            kind => Err(RequestError::not_a_policy_request(kind)),
        }
    }

    /// Notes where the values lie in all lines that are complete. Says how long the request is, once it is.
    fn end(&mut self, input: &[u8]) -> Result<Option<usize>, RequestError> {
        let bounded = &input[..input.len().min(MAX_REQUEST)];
        let came = &bounded[self.searched..];
        if came.is_empty() || self.searched > 0 && memchr(b'\n', came).is_none() {
            self.searched = bounded.len();
            return unfinished(input, self.line).map(|()| None);
        }
        if self.line == 0 && bounded.starts_with(FIRST_LINES) {
            self.places[..FIRST_PLACES.len()].copy_from_slice(&FIRST_PLACES);
            (self.line, self.hint) = (FIRST_LINES.len(), FIRST_PLACES.len());
        }
        loop {
            self.expected(bounded);
            let rest = &bounded[self.line..];
            if rest.first() == Some(&b'\n') {
                if let Some(begin) = self.last_lines {
                    self.keep_last_lines(bounded, begin);
                }
                return Ok(Some(self.line + 1));
            }
            let Some(length) = memchr(b'\n', rest) else {
                self.searched = bounded.len();
                return unfinished(input, self.line).map(|()| None);
            };
            if let Some((attribute, name)) = named(&rest[..length], self.hint)? {
                self.places[attribute as usize] = ValueSpan::new(self.line + name, (length - name).min(MAX_VALUE));
                self.hint = attribute as usize + 1;
                self.server = None;
                if (attribute as usize) < LAST_ATTRIBUTES.start {
                    self.last_lines = None;
                }
            }
            self.line += length + 1;
        }
    }

    /// Takes the lines that come as Postfix sends them, which all do, nearly always.
    fn expected(&mut self, input: &[u8]) {
        while self.hint < Attribute::COUNT {
            if SERVER.contains(&self.hint) {
                self.server = self.take_server(input);
            }
            let met = match self.hint {
                hint if hint < SERVER.start => self.take_lines(input, SERVER.start),
                hint if hint < LAST_ATTRIBUTES.start => self.take_lines(input, LAST_ATTRIBUTES.start),
                _ => self.take_last_lines(input) || self.take_lines(input, Attribute::COUNT),
            };
            if !met {
                // Each Postfix leaves out some attribute that another has.
                let after = NAME_PREFIXES.get(self.hint + 1);
                if after.is_none_or(|prefix| prefix.strip_from(&input[self.line..]).is_none()) {
                    return;
                }
                self.hint += 1;
            }
        }
    }

    /// Takes the lines of [`SERVER`] if they are those of an earlier request, and says what they mean.
    fn take_server(&mut self, input: &[u8]) -> Option<(IpAddr, u16)> {
        if self.hint > SERVER.start {
            return None;
        }
        LAST_SERVER.with_borrow(|last| {
            let server = last.server.filter(|_| input[self.line..].starts_with(&last.text[..last.length]))?;
            self.places[SERVER].copy_from_slice(&last.places.map(|place| place.moved(self.line)));
            (self.line, self.hint) = (self.line + last.length, SERVER.end);
            Some(server)
        })
    }

    /// Takes the lines of [`LAST_ATTRIBUTES`] if they are those of an earlier request.
    fn take_last_lines(&mut self, input: &[u8]) -> bool {
        // What came out of order is not forgotten.
        let has_none = self.places[LAST_ATTRIBUTES].iter().all(|place| *place == ValueSpan::NONE);
        if self.hint > LAST_ATTRIBUTES.start || !has_none {
            return false;
        }
        let is_same = LAST_LINES.with_borrow(|last| {
            let is_same = last.length > 0 && input[self.line..].starts_with(&last.text[..last.length]);
            if is_same {
                for (place, of_last) in self.places[LAST_ATTRIBUTES].iter_mut().zip(last.places) {
                    *place = of_last.moved(self.line);
                }
                (self.line, self.hint) = (self.line + last.length - 1, LAST_ATTRIBUTES.end);
            }
            is_same
        });
        if !is_same {
            self.last_lines = Some(self.line);
        }
        is_same
    }

    /// Remembers the last lines of a request that ends here.
    #[cold]
    fn keep_last_lines(&self, input: &[u8], begin: usize) {
        let lines = &input[begin..=self.line];
        if lines.len() > MAX_LAST {
            return;
        }
        LAST_LINES.with_borrow_mut(|last| {
            last.text[..lines.len()].copy_from_slice(lines);
            last.length = lines.len();
            for (place, here) in last.places.iter_mut().zip(&self.places[LAST_ATTRIBUTES]) {
                *place = if *here == ValueSpan::NONE { *here } else { here.moved_back(begin) };
            }
        });
    }

    /// Takes the lines of the attributes from `hint` to `stop`, as long as each is the next one. Returns whether all
    /// were.
    fn take_lines(&mut self, input: &[u8], stop: usize) -> bool {
        let expected = self.hint..stop;
        let (mut rest, mut met) = (&input[self.line..], 0);
        for (prefix, place) in NAME_PREFIXES[expected.clone()].iter().zip(&mut self.places[expected.clone()]) {
            let Some((value, after)) = prefix.strip_from(rest).and_then(split_line) else { break };
            *place = ValueSpan::new(input.len() - after.len() - 1 - value, value.min(MAX_VALUE));
            (rest, met) = (after, met + 1);
        }
        (self.line, self.hint) = (input.len() - rest.len(), self.hint + met);
        met == expected.len()
    }
}

/// Remembers the server of a request, and the lines that tell it as Postfix sends them.
#[cold]
fn remember_server(request: &Request) {
    LAST_SERVER.with_borrow_mut(|last| {
        (last.server, last.length) = (None, 0);
        for (place, attribute) in last.places.iter_mut().zip([Attribute::ServerAddress, Attribute::ServerPort]) {
            let (name, value) = (attribute.name().as_bytes(), request.value(attribute));
            let line = [name, b"=", value, b"\n"].concat();
            let begin = last.length;
            let Some(room) = last.text.get_mut(begin..begin + line.len()) else { return };
            room.copy_from_slice(&line);
            last.length += line.len();
            *place = ValueSpan::new(begin + name.len() + 1, value.len());
        }
        last.server = request.server;
    });
}

/// The attribute of a line that was not expected, if it is a known one, and the length of its `name=`.
fn named(line: &[u8], hint: usize) -> Result<Option<(Attribute, usize)>, RequestError> {
    let Some(name) = memchr(b'=', line) else {
        return Err(RequestError::no_equals_sign(line));
    };
    if name > MAX_ATTRIBUTE_NAME {
        return Err(RequestError::long_name(line));
    }
    Ok(Attribute::find(&line[..name], hint).map(|attribute| (attribute, name + 1)))
}

/// Refuses a request before its end: if it is too long, or its last line has no `=` within [`MAX_ATTRIBUTE_NAME`] bytes.
fn unfinished(input: &[u8], line: usize) -> Result<(), RequestError> {
    if input.len() > MAX_REQUEST {
        return Err(RequestError::too_long());
    }
    let line = &input[line..];
    if line.len() > MAX_ATTRIBUTE_NAME && memchr(b'=', &line[..=MAX_ATTRIBUTE_NAME]).is_none() {
        return Err(RequestError::long_name(line));
    }
    Ok(())
}

/// How much of a line is left, looked for 16 bytes at a time, and what follows it.
#[inline]
fn split_line(line: &[u8]) -> Option<(usize, &[u8])> {
    let mut rest = line;
    while let Some((block, after)) = rest.split_first_chunk::<16>() {
        let ends = u8x16::from(*block).simd_eq(u8x16::splat(b'\n')).to_bitmask();
        if ends != 0 {
            let end = ends.trailing_zeros() as usize;
            return Some((line.len() - rest.len() + end, rest.get(end + 1..)?));
        }
        rest = after;
    }
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    Some((line.len() - rest.len() + end, &rest[end + 1..]))
}

/// `name=` of every attribute as the first bytes of a line.
static NAME_PREFIXES: [NamePrefix; Attribute::COUNT] = {
    let mut prefixes = [NamePrefix { length: 0, counting: 0, first: [0; BLOCK], last: [0; BLOCK] }; Attribute::COUNT];
    let mut place = 0;
    while place < Attribute::COUNT {
        let name = NAMES[place].1;
        let prefix = &mut prefixes[place];
        prefix.length = name.len() + 1;
        let mut at = 0;
        while at < prefix.length {
            let byte = if at < name.len() { name[at] } else { b'=' };
            if at < BLOCK {
                prefix.first[at] = byte;
                prefix.counting |= 1 << at;
            }
            if at + BLOCK >= prefix.length {
                prefix.last[at + BLOCK - prefix.length] = byte;
            }
            at += 1;
        }
        place += 1;
    }
    prefixes
};

/// How many bytes of `name=` are compared at a time; the longest of Postfix has 25.
const BLOCK: usize = 16;

/// What the line of an attribute begins with.
#[derive(Clone, Copy)]
struct NamePrefix {
    /// Bytes of `name=`.
    length: usize,
    /// Which of the first bytes count.
    counting: u32,
    first: [u8; BLOCK],
    /// The last bytes of a longer one; the two overlap.
    last: [u8; BLOCK],
}

impl NamePrefix {
    /// What follows `name=`, if `line` begins with that. `None` as well where fewer bytes follow than are compared.
    #[inline]
    fn strip_from<'l>(&self, line: &'l [u8]) -> Option<&'l [u8]> {
        let same = |bytes: &[u8; BLOCK], expected: [u8; BLOCK]| {
            u8x16::from(*bytes).simd_eq(u8x16::from(expected)).to_bitmask()
        };
        let first = line.first_chunk()?;
        if same(first, self.first) & self.counting != self.counting {
            return None;
        }
        let (prefix, value) = line.split_at_checked(self.length)?;
        match prefix.last_chunk() {
            Some(last) if self.length > BLOCK && same(last, self.last) != ALL => None,
            _ => Some(value),
        }
    }
}

/// As bits: all bytes of a block.
const ALL: u32 = (1 << BLOCK) - 1;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::request::Stage;

    fn decode(bytes: &[u8]) -> Result<Option<Request<'static>>, RequestError> {
        RequestDecoder::default().decode(&mut BytesMut::from(bytes))
    }

    fn request(lines: &str) -> Request<'static> {
        decode(format!("request=smtpd_access_policy\n{lines}\n").as_bytes()).unwrap().unwrap()
    }

    #[test]
    fn attributes_are_found_in_any_order_among_unknown_ones() {
        let request =
            request("sender=a=b\nfoo=bar\nclient_port=4711\nclient_address=192.0.2.1\nprotocol_state=CONNECT\n");
        assert_eq!(request.value(Attribute::Sender), b"a=b");
        assert_eq!(request.value(Attribute::Recipient), b"");
        assert_eq!((request.client, request.client_port), (Some([192, 0, 2, 1].into()), 4711));
        assert_eq!(request.state, Stage::Connect);
    }

    #[test]
    fn the_last_of_a_repeated_attribute_counts() {
        assert_eq!(request("sender=a\nsender=b\n").value(Attribute::Sender), b"b");
    }

    #[test]
    fn lines_that_are_those_of_the_request_before_are_read_alike() {
        let begin = |helo: &str| format!("protocol_state=RCPT\nhelo_name={helo}\nsize=1\n");
        let last = "etrn_domain=\nstress=\nsasl_username=joe\nencryption_keysize=256\npolicy_context=a\n";
        let of = |lines: &str| {
            let request = request(lines);
            let value = |attribute| String::from_utf8(request.value(attribute).to_vec()).unwrap();
            [Attribute::HeloName, Attribute::Stress, Attribute::SaslUsername, Attribute::PolicyContext].map(value)
        };
        for helo in ["one.example.org", "", "another.example.org"] {
            assert_eq!(of(&(begin(helo) + last)), [helo, "", "joe", "a"]);
        }
        assert_eq!(of(&(begin("b") + &last.replace("joe", "jim"))), ["b", "", "jim", "a"]);
        assert_eq!(of(&(begin("b") + &last.replace("stress=", "stress=yes"))), ["b", "yes", "joe", "a"]);
        assert_eq!(of(&(begin("b") + last + "mail_version=3\nstress=yes\n")), ["b", "yes", "joe", "a"]);
        // A line of theirs that came before counts, unless another follows.
        assert_eq!(of(&("policy_context=b\n".to_owned() + &begin("c") + last)), ["c", "", "joe", "a"]);
        let without = last.replace("policy_context=a\n", "");
        assert_eq!(of(&(begin("b") + &without)), ["b", "", "joe", ""]);
        assert_eq!(of(&("policy_context=b\n".to_owned() + &begin("c") + &without)), ["c", "", "joe", "b"]);
        assert_eq!(of(&(begin("b") + &without + "sender=a\nhelo_name=d\n")), ["d", "", "joe", ""]);
        assert_eq!(of(&(begin("b") + &without)), ["b", "", "joe", ""]);
    }

    #[test]
    fn the_server_is_the_one_that_the_last_lines_about_it_tell() {
        let server =
            |lines: &str| request(&format!("protocol_state=RCPT\nreverse_client_name=a\n{lines}helo_name=b\n")).server;
        let of = |host: &str, port: u16| Some((host.parse().unwrap(), port));
        let lines = |host: &str, port: &str| format!("server_address={host}\nserver_port={port}\n");
        for _ in 0..2 {
            for host in ["192.0.2.1", "2001:db8::1", "192.0.2.25"] {
                for (text, port) in [("25", 25), ("587", 587), ("", 0), ("unknown", 0)] {
                    assert_eq!(server(&lines(host, text)), of(host, port), "{host} {text}");
                    assert_eq!(server(&lines(host, text)), of(host, port), "{host} {text} again");
                }
            }
        }
        let last = lines("192.0.2.25", "unknown");
        assert_eq!(server(&(last.clone() + "server_port=25\n")), of("192.0.2.25", 25));
        assert_eq!(server(&last), of("192.0.2.25", 0));
        assert_eq!(server(&(last.clone() + "server_address=192.0.2.1\n")), of("192.0.2.1", 0));
        assert_eq!(server(&last), of("192.0.2.25", 0));
        assert_eq!(server(&(last.clone() + "sender=a\nserver_address=\n")), None);
        assert_eq!(server(&last), of("192.0.2.25", 0));
        assert_eq!(
            server(&(last.clone() + "reverse_client_name=c\n" + &lines("192.0.2.1", "25"))),
            of("192.0.2.1", 25)
        );
        assert_eq!(server("server_address=192.0.2.1\n"), of("192.0.2.1", 0));
        assert_eq!(server("server_port=25\n"), None);
        assert_eq!(server(""), None);
        let long = lines("192.0.2.1", &"5".repeat(MAX_SERVER));
        assert_eq!(server(&long), of("192.0.2.1", 0));
        assert_eq!(server(&long), of("192.0.2.1", 0));
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
        assert_eq!(problem(&[b'a'; MAX_ATTRIBUTE_NAME + 1]), "a name longer than 256 bytes");
        let name = [&[b'a'; MAX_ATTRIBUTE_NAME + 1][..], b"=b\n"].concat();
        assert_eq!(problem(&name), "a name longer than 256 bytes");
        let long = b"sender=a\n".repeat(MAX_REQUEST / 9 + 1);
        assert_eq!(problem(&long), "a request longer than 131072 bytes");
        assert_eq!(problem(&[b"a=".to_vec(), vec![b'x'; MAX_REQUEST]].concat()), "a request longer than 131072 bytes");
        let cut = RequestDecoder::default().decode_eof(&mut BytesMut::from("request=x"));
        assert_eq!(cut.unwrap_err().to_string(), "the connection ended within a request");
    }

    /// What requests and errors the pieces of an input come to.
    fn decode_pieces<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Request<'static>>, Option<String>) {
        let (mut decoder, mut input, mut requests) = (RequestDecoder::default(), BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut input) {
                    Ok(Some(request)) => requests.push(request),
                    Ok(None) => break,
                    Err(error) => return (requests, Some(error.to_string())),
                }
            }
        }
        (requests, None)
    }

    /// The values of the requests in an input, and the error it ends with, read the simplest way there is.
    fn reference(input: &[u8]) -> (Vec<Vec<Vec<u8>>>, Option<String>) {
        let (mut requests, mut values, mut length) = (Vec::new(), vec![Vec::new(); Attribute::COUNT], 0);
        for line in input.split_inclusive(|byte| *byte == b'\n') {
            length += line.len();
            if length > MAX_REQUEST {
                return (requests, Some(RequestError::too_long().to_string()));
            }
            let (name, value) = match (line.strip_suffix(b"\n"), line.iter().position(|byte| *byte == b'=')) {
                (_, Some(name)) if name > MAX_ATTRIBUTE_NAME => {
                    return (requests, Some(RequestError::long_name(line).to_string()));
                }
                (None, None) if line.len() > MAX_ATTRIBUTE_NAME => {
                    return (requests, Some(RequestError::long_name(line).to_string()));
                }
                (None, _) => break,
                (Some(b""), _) if values[0] != b"smtpd_access_policy" => {
                    return (requests, Some(RequestError::not_a_policy_request(&values[0]).to_string()));
                }
                (Some(b""), _) => {
                    requests.push(std::mem::replace(&mut values, vec![Vec::new(); Attribute::COUNT]));
                    length = 0;
                    continue;
                }
                (Some(line), None) => return (requests, Some(RequestError::no_equals_sign(line).to_string())),
                (Some(line), Some(name)) => (&line[..name], &line[name + 1..]),
            };
            if let Some(attribute) = Attribute::find(name, 0) {
                values[attribute as usize] = value[..value.len().min(MAX_VALUE)].to_vec();
            }
        }
        (requests, None)
    }

    fn values(request: &Request) -> Vec<Vec<u8>> {
        Attribute::all().map(|attribute| request.value(attribute).to_vec()).collect()
    }

    /// A value as they come, and as they might.
    fn value() -> impl Strategy<Value = Vec<u8>> {
        let bytes =
            |length| proptest::collection::vec(any::<u8>().prop_map(|byte| byte ^ u8::from(byte == b'\n')), length);
        prop_oneof![
            4 => Just(Vec::new()),
            4 => bytes(0..40),
            1 => Just(b"=".to_vec()),
            1 => bytes(0..40).prop_map(|bytes| bytes.repeat(500)),
        ]
    }

    /// A line that may be in a request, or may not.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let name = prop_oneof![
            8 => (0..Attribute::COUNT).prop_map(|place| Attribute::all().nth(place).unwrap().name().to_owned()),
            2 => "[a-z_]{0,30}",
            1 => (MAX_ATTRIBUTE_NAME - 1..MAX_ATTRIBUTE_NAME + 2).prop_map(|length| "n".repeat(length)),
        ];
        prop_oneof![
            30 => (name, value()).prop_map(|(name, value)| [name.as_bytes(), b"=", &value, b"\n"].concat()),
            1 => value().prop_map(|value| [value, b"\n".to_vec()].concat()),
        ]
    }

    /// A request in Postfix's order with some attributes left out, then lines in any order.
    fn block() -> impl Strategy<Value = Vec<u8>> {
        let ordered = proptest::collection::vec(proptest::option::weighted(0.8, value()), Attribute::COUNT - 1);
        (ordered, proptest::collection::vec(line(), 0..4)).prop_map(|(ordered, lines)| {
            let mut block = b"request=smtpd_access_policy\n".to_vec();
            for (attribute, value) in Attribute::all().skip(1).zip(ordered) {
                if let Some(value) = value {
                    block.extend([attribute.name().as_bytes(), b"=", &value, b"\n"].concat());
                }
            }
            block.extend(lines.concat());
            block.push(b'\n');
            block
        })
    }

    #[test]
    fn a_line_has_only_the_prefix_of_its_own_attribute() {
        for (attribute, name) in NAMES {
            let follows = b"value\nand what follows the line, long enough\n".as_slice();
            let line = [name, b"=", follows].concat();
            for (prefix, other) in NAME_PREFIXES.iter().zip(Attribute::all()) {
                let met = (other == attribute).then_some(follows);
                assert_eq!(prefix.strip_from(&line), met, "{}", attribute.name());
            }
            let prefix = &NAME_PREFIXES[attribute as usize];
            assert_eq!(prefix.strip_from(&[name, b"x=", follows].concat()), None);
            assert_eq!(prefix.strip_from(name), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_its_input_is_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn it_reads_what_the_simplest_decoder_reads(blocks in proptest::collection::vec(block(), 1..4)) {
            let input = blocks.concat();
            let (requests, error) = decode_pieces(std::iter::once(input.as_slice()));
            let read = requests.iter().map(values).collect();
            prop_assert_eq!((read, error), reference(&input));
        }

        #[test]
        fn the_cut_of_the_input_makes_no_difference(
            blocks in proptest::collection::vec(block(), 1..4),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let input = blocks.concat();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let (requests, error) = decode_pieces(cuts.windows(2).map(|piece| &input[piece[0]..piece[1]]));
            let (expected, problem) = reference(&input);
            let read: Vec<_> = requests.iter().map(values).collect();
            prop_assert_eq!(read, expected);
            // What is wrong with a line may be told before all of it is there.
            prop_assert_eq!(error.is_some(), problem.is_some());
        }
    }
}
