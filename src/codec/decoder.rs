//! Bytes to requests, and the bounds on what a stranger may send.

use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;
use tokio_util::codec::Decoder;

use super::request::Place;
use super::{Attribute, Request, RequestError};

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::State;

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
