//! The request decoder, fed in pieces, against a reader that has all of it at once and takes its time.

use std::collections::HashMap;

use bytes::BytesMut;
use connshaper::policy::attribute::Attribute;
use connshaper::policy::request::{MAX_REQUEST, MAX_VALUE};
use connshaper::policy::request::{Request, Stage};
use connshaper::postfix::decoder::MAX_ATTRIBUTE_NAME;
use connshaper::postfix::decoder::RequestDecoder;
use connshaper::postfix::error::RequestError;
use tokio_util::codec::Decoder;

use super::cuts::Cuts;

/// Attributes whose values are compared.
const COMPARED: [Attribute; 8] = [
    Attribute::Request,
    Attribute::ClientAddress,
    Attribute::HeloName,
    Attribute::Sender,
    Attribute::Recipient,
    Attribute::Instance,
    Attribute::TlsSni,
    Attribute::MailVersion,
];

/// Decodes what a policy connection might bring.
pub fn run(data: &[u8]) {
    let input = Cuts::read(data);
    let (decoded, error) = decode(&input);
    let (expected, fine) = naive(&input.bytes);
    assert_eq!(decoded.len(), expected.len(), "requests in {input:?}");
    assert_eq!(error.is_none(), fine, "{error:?} of {input:?}");
    for (request, values) in decoded.iter().zip(&expected) {
        compare(request, values);
    }
    if let Some(error) = error {
        assert!(error.attribute.len() <= 64 && !error.to_string().contains(char::is_control));
    }
}

fn decode(input: &Cuts) -> (Vec<Request<'static>>, Option<RequestError>) {
    let (mut decoder, mut buffer, mut requests) = (RequestDecoder::default(), BytesMut::new(), Vec::new());
    for piece in input.pieces() {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(request)) => requests.push(request),
                Ok(None) => break,
                Err(error) => return (requests, Some(error)),
            }
        }
        assert!(buffer.len() <= MAX_REQUEST, "{} bytes are kept of an unfinished request", buffer.len());
    }
    match decoder.decode_eof(&mut buffer) {
        Ok(None) => (requests, None),
        Ok(Some(request)) => panic!("{request:?} only at the end"),
        Err(error) => (requests, Some(error)),
    }
}

type Values<'a> = HashMap<&'a [u8], &'a [u8]>;

/// The requests of a whole conversation, and whether nothing else is in it.
fn naive(bytes: &[u8]) -> (Vec<Values<'_>>, bool) {
    let mut requests = Vec::new();
    let mut values = Values::new();
    let mut size = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let Some(line) = line.strip_suffix(b"\n") else {
            return (requests, false);
        };
        size += line.len() + 1;
        if size > MAX_REQUEST {
            return (requests, false);
        }
        if line.is_empty() {
            if values.get(b"request".as_slice()) != Some(&b"smtpd_access_policy".as_slice()) {
                return (requests, false);
            }
            requests.push(std::mem::take(&mut values));
            size = 0;
            continue;
        }
        match line.iter().position(|byte| *byte == b'=') {
            Some(name) if name <= MAX_ATTRIBUTE_NAME => values.insert(&line[..name], &line[name + 1..]),
            _ => return (requests, false),
        };
    }
    (requests, size == 0)
}

fn compare(request: &Request, values: &Values<'_>) {
    let value = |name: &str| {
        let value = values.get(name.as_bytes()).map_or(b"".as_slice(), |value| *value);
        &value[..value.len().min(MAX_VALUE)]
    };
    for attribute in COMPARED {
        assert_eq!(request.value(attribute), value(attribute.name()), "{}", attribute.name());
    }
    let text = |name: &str| str::from_utf8(value(name)).unwrap_or("");
    let address = |name: &str| text(name).parse().ok().map(|address: std::net::IpAddr| address.to_canonical());
    // A sign is no part of a port.
    let port = |name: &str| text(name).strip_prefix('+').map_or(text(name).parse().unwrap_or(0), |_| 0);
    assert_eq!(request.client, address("client_address"));
    assert_eq!(request.client_port, port("client_port"));
    assert_eq!(request.server, address("server_address").map(|address| (address, port("server_port"))));
    assert_eq!(request.state == Stage::Connect, value("protocol_state") == b"CONNECT");
    assert_eq!(request.instance.is_none(), matches!(value("instance"), b"" | b"0"));
}
