//! The fields of a key, which are the words of `per`: which value of a request each is.

use std::net::IpAddr;

use super::attribute::Attribute;
use super::door::Door;
use super::key_escape::{ABSENT, escape};
use super::request::Request;
use super::spelling::Spellings;

/// One field of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyField {
    /// The client's address, masked.
    Client,
    /// An attribute as it is.
    Whole(Attribute),
    /// What follows the `@` of an address.
    MailDomain(Attribute),
    /// The registrable domain of a host name: `example.co.uk` of `mail.example.co.uk`.
    HostDomain(Attribute),
}

impl KeyField {
    /// Every one of them with its word.
    pub const WORDS: [(&'static str, Self); 25] = [
        ("client", Self::Client),
        ("asn", Self::Whole(Attribute::Asn)),
        ("country", Self::Whole(Attribute::Country)),
        ("sasl_username", Self::Whole(Attribute::SaslUsername)),
        ("sender", Self::Whole(Attribute::Sender)),
        ("sender_domain", Self::MailDomain(Attribute::Sender)),
        ("recipient", Self::Whole(Attribute::Recipient)),
        ("recipient_domain", Self::MailDomain(Attribute::Recipient)),
        ("helo_name", Self::Whole(Attribute::HeloName)),
        ("client_name", Self::Whole(Attribute::ClientName)),
        ("client_domain", Self::HostDomain(Attribute::ClientName)),
        ("reverse_client_name", Self::Whole(Attribute::ReverseClientName)),
        ("reverse_client_domain", Self::HostDomain(Attribute::ReverseClientName)),
        ("instance", Self::Whole(Attribute::Instance)),
        ("policy_context", Self::Whole(Attribute::PolicyContext)),
        ("server_address", Self::Whole(Attribute::ServerAddress)),
        ("server_port", Self::Whole(Attribute::ServerPort)),
        ("login", Self::Whole(Attribute::Login)),
        ("login_domain", Self::MailDomain(Attribute::Login)),
        ("protocol", Self::Whole(Attribute::Protocol)),
        ("device_id", Self::Whole(Attribute::DeviceId)),
        ("user", Self::Whole(Attribute::User)),
        ("host", Self::Whole(Attribute::Host)),
        ("path", Self::Whole(Attribute::Path)),
        ("method", Self::Whole(Attribute::Method)),
    ];

    /// The field of a word; `None`: there is no such field.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(known, _)| *known == word).map(|(_, field)| *field)
    }

    /// Whether a request at a door can have it.
    pub fn is_at(self, door: Door) -> bool {
        match self {
            Self::Client => true,
            Self::Whole(attribute) | Self::MailDomain(attribute) | Self::HostDomain(attribute) => attribute.is_at(door),
        }
    }

    /// Its word in the configuration.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, field)| *field == self).map_or("", |(word, _)| word)
    }

    /// Whether it is the address of the client, or where that is from, of which every client has one: an address that
    /// no database knows is an origin of its own.
    pub fn is_of_address(self) -> bool {
        matches!(self, Self::Client | Self::Whole(Attribute::Asn | Attribute::Country))
    }

    /// Whether it differs between the recipients of one message.
    pub fn is_of_recipient(self) -> bool {
        matches!(self, Self::Whole(Attribute::Recipient) | Self::MailDomain(Attribute::Recipient))
    }

    /// Whether it says who sends what to whom, rather than where the client is.
    pub fn is_of_mail(self) -> bool {
        use Attribute::{Instance, Login, Recipient, SaslUsername, Sender, User};
        matches!(self, Self::Whole(SaslUsername | Sender | Recipient | Login | User | Instance) | Self::MailDomain(_))
    }

    /// Whether clients that have no value for it send mail too, and leave it out as they please: not an address, which
    /// they all have, nor a login.
    pub fn may_be_left_out(self) -> bool {
        use Attribute::{Instance, Login, Recipient, SaslUsername, User};
        !self.is_of_address() && !matches!(self, Self::Whole(SaslUsername | Login | User | Recipient | Instance))
    }

    /// Whether a request without a value has none, rather than one that is not known yet.
    pub(super) fn is_left_out(self, request: &Request) -> bool {
        use Attribute::{HeloName, Sender};
        match self {
            // Known from MAIL FROM on.
            Self::Whole(HeloName | Sender) | Self::MailDomain(Sender) => request.instance.is_some(),
            Self::MailDomain(attribute) => !request.value(attribute).is_empty(),
            field => field.may_be_left_out(),
        }
    }

    /// The value of a request as keys have it; `None` where it says nothing.
    pub(crate) fn escaped(self, request: &Request, spellings: &Spellings) -> Option<String> {
        let mut text = String::new();
        if self.write(request, spellings, &mut text) {
            return Some(text);
        }
        self.is_left_out(request).then(|| ABSENT.to_owned())
    }

    /// Whether Postfix says `unknown` where it does not know it. Elsewhere that is a word like any other.
    fn may_be_unknown(self) -> bool {
        use Attribute::{ClientName, ReverseClientName, ServerAddress, ServerPort};
        matches!(self, Self::Whole(ClientName | ReverseClientName | ServerAddress | ServerPort))
    }

    /// The value, which is part of what the request says; `None` where it says nothing.
    pub(super) fn value<'r>(self, request: &'r Request<'_>) -> Option<&'r [u8]> {
        let value = match self {
            Self::Client => request.value(Attribute::ClientAddress),
            Self::Whole(attribute) => request.value(attribute),
            Self::MailDomain(attribute) => {
                let address = request.value(attribute);
                &address[memchr::memrchr(b'@', address)? + 1..]
            }
            Self::HostDomain(attribute) => registrable(request.value(attribute))?,
        };
        let unknown = value == b"unknown" && self.may_be_unknown();
        (!value.is_empty() && !unknown).then_some(value)
    }

    /// Appends the value as keys have it. Returns whether the request has one.
    pub(super) fn write(self, request: &Request, spellings: &Spellings, text: &mut String) -> bool {
        let Some(value) = self.value(request) else { return false };
        let begin = text.len();
        // Nearly every value is in ASCII and has no spelling but that.
        let is_as_it_is = escape(value, text) && !text.ends_with('.') && !spellings.change(self);
        if !is_as_it_is {
            text.truncate(begin);
            self.write_spelled(request, value, spellings, text);
        }
        true
    }

    #[cold]
    fn write_spelled(self, request: &Request, value: &[u8], spellings: &Spellings, text: &mut String) {
        let value = match self {
            Self::MailDomain(attribute) => request.value(attribute),
            _ => value,
        };
        escape(&spellings.canonical(self, value), text);
    }
}

/// The registered domain of a host name, by the public suffix list; an IP address has none.
fn registrable(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if str::from_utf8(name).is_ok_and(|name| name.parse::<IpAddr>().is_ok()) {
        return None;
    }
    // The list is in lower case; names of hosts are as their owners spell them.
    let length = psl::domain(&name.to_ascii_lowercase())?.as_bytes().len();
    Some(&name[name.len() - length..])
}
