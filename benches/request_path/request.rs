//! The bytes of policy requests, made once and then changed in place.
//!
//! The load generator runs beside the server it measures, so what it does per
//! request must cost next to nothing: only the client's address and port and
//! the instance change, and all of them have a fixed width.

use std::time::{SystemTime, UNIX_EPOCH};

/// What a policy server says to let mail pass.
pub const DUNNO: &[u8] = b"action=DUNNO\n\n";

/// An RCPT request of a client that did not authenticate or encrypt, as Postfix 3.8 sends it, without its version.
const FULL: &[(&str, &str)] = &[
    ("request", "smtpd_access_policy"),
    ("protocol_state", "RCPT"),
    ("protocol_name", "ESMTP"),
    ("client_address", ""),
    ("client_name", "mail-198-51-100-27.outbound.example.net"),
    ("client_port", ""),
    ("reverse_client_name", "mail-198-51-100-27.outbound.example.net"),
    ("server_address", "192.0.2.25"),
    ("server_port", "25"),
    ("helo_name", "mail-198-51-100-27.outbound.example.net"),
    ("sender", "bounces+2718281828-user=example.org@newsletter.example.net"),
    ("recipient", "firstname.lastname@example.org"),
    ("recipient_count", "0"),
    ("queue_id", ""),
    ("instance", ""),
    ("size", "48213"),
    ("etrn_domain", ""),
    ("stress", ""),
    ("sasl_method", ""),
    ("sasl_username", ""),
    ("sasl_sender", ""),
    ("ccert_subject", ""),
    ("ccert_issuer", ""),
    ("ccert_fingerprint", ""),
    ("ccert_pubkey_fingerprint", ""),
    ("encryption_protocol", "TLSv1.3"),
    ("encryption_cipher", "TLS_AES_256_GCM_SHA384"),
    ("encryption_keysize", "256"),
    ("policy_context", ""),
    ("compatibility_level", "3.6"),
];

/// What a policy server needs to count a client, and no more.
const SHORT: &[(&str, &str)] = &[
    ("request", "smtpd_access_policy"),
    ("protocol_state", "RCPT"),
    ("client_address", ""),
    ("client_port", ""),
    ("instance", ""),
];

/// A client by its number: every number is another address, and for IPv6 another /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    V4(u32),
    V6(u32),
}

/// Makes requests, each of a new SMTP session.
pub struct Requests {
    v4: Template,
    v6: Template,
    octets: [[u8; 3]; OCTETS as usize],
    hex: [[u8; 2]; 256],
    /// The microseconds since the epoch at first; then just a number that never comes twice.
    session: u64,
}

/// Octets from 100 to 255 are written with three digits.
const OCTETS: u32 = 156;

/// Groups from 1000 to ffff are written with four digits.
const GROUPS: u32 = 0xf000;

impl Requests {
    /// Requests with the thirty attributes of Postfix.
    pub fn full() -> Self {
        Self::of(FULL)
    }

    /// Requests that are as short as can be, to fill a store with.
    pub fn short() -> Self {
        Self::of(SHORT)
    }

    /// The next request, for a session of `client` with the smtpd process of that number.
    pub fn next(&mut self, client: Client, process: usize) -> &[u8] {
        self.session += 1;
        let template = match client {
            Client::V4(number) => {
                let octet = |place: u32| &self.octets[(number / OCTETS.pow(place) % OCTETS) as usize];
                let address = &mut self.v4.bytes[self.v4.address..][..15];
                address[0..3].copy_from_slice(octet(3));
                address[4..7].copy_from_slice(octet(2));
                address[8..11].copy_from_slice(octet(1));
                address[12..15].copy_from_slice(octet(0));
                &mut self.v4
            }
            Client::V6(number) => {
                let mut write = |at: usize, group: u32| {
                    let [high, low] = [group >> 8, group & 0xff].map(|byte| self.hex[byte as usize]);
                    self.v6.bytes[self.v6.address + at..][..2].copy_from_slice(&high);
                    self.v6.bytes[self.v6.address + at + 2..][..2].copy_from_slice(&low);
                };
                write(9, 0x1000 + number / GROUPS);
                write(14, 0x1000 + number % GROUPS);
                &mut self.v6
            }
        };
        template.write_port(10_000 + (self.session % 50_000) as u32);
        template.write_instance(&self.hex, process, self.session);
        &template.bytes
    }

    fn of(attributes: &[(&str, &str)]) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let digits = |number: usize| format!("{number:03}").into_bytes().try_into().expect("three digits");
        let hex = |number: usize| format!("{number:02x}").into_bytes().try_into().expect("two digits");
        Self {
            v4: Template::new(attributes, "100.100.100.100"),
            v6: Template::new(attributes, "2001:db8:1000:1000::25"),
            octets: std::array::from_fn(|octet| digits(octet + 100)),
            hex: std::array::from_fn(hex),
            session: now.as_secs() << 20,
        }
    }
}

/// One request, and where in it the values lie that change.
struct Template {
    bytes: Vec<u8>,
    address: usize,
    port: usize,
    instance: usize,
}

impl Template {
    fn new(attributes: &[(&str, &str)], address: &str) -> Self {
        let mut template = Self { bytes: Vec::new(), address: 0, port: 0, instance: 0 };
        for (name, value) in attributes {
            template.bytes.extend_from_slice(format!("{name}=").as_bytes());
            let here = template.bytes.len();
            let value = match *name {
                "client_address" => {
                    template.address = here;
                    address
                }
                "client_port" => {
                    template.port = here;
                    "10000"
                }
                "instance" => {
                    template.instance = here;
                    "10000.00000000.00000.0"
                }
                _ => value,
            };
            template.bytes.extend_from_slice(format!("{value}\n").as_bytes());
        }
        template.bytes.push(b'\n');
        template
    }

    fn write_port(&mut self, mut port: u32) {
        for digit in self.bytes[self.port..][..5].iter_mut().rev() {
            *digit = b'0' + (port % 10) as u8;
            port /= 10;
        }
    }

    /// `pid.seconds.microseconds.seqno`, in hexadecimal; each session's first message.
    fn write_instance(&mut self, hex: &[[u8; 2]; 256], process: usize, session: u64) {
        let place = &mut self.bytes[self.instance..];
        place[1..3].copy_from_slice(&hex[process >> 8 & 0xff]);
        place[3..5].copy_from_slice(&hex[process & 0xff]);
        let (seconds, microseconds) = (session >> 20, session & 0xf_ffff);
        for (pair, byte) in place[6..14].chunks_exact_mut(2).zip((seconds as u32).to_be_bytes()) {
            pair.copy_from_slice(&hex[usize::from(byte)]);
        }
        place[15] = hex[(microseconds >> 16) as usize][1];
        place[16..18].copy_from_slice(&hex[(microseconds >> 8 & 0xff) as usize]);
        place[18..20].copy_from_slice(&hex[(microseconds & 0xff) as usize]);
    }
}
