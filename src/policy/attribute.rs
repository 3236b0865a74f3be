//! The attributes of requests: those Postfix sends, in the order it sends them, and those of the other doors.

use super::door::Door;

/// An attribute of a policy request that some rule may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Postfix's own, explained in SMTPD_POLICY_README, or the manual's")]
pub enum Attribute {
    Request,
    ProtocolState,
    ProtocolName,
    ClientAddress,
    ClientName,
    ClientPort,
    ReverseClientName,
    ServerAddress,
    ServerPort,
    HeloName,
    Sender,
    Recipient,
    RecipientCount,
    QueueId,
    Instance,
    Size,
    EtrnDomain,
    Stress,
    SaslMethod,
    SaslUsername,
    SaslSender,
    CcertSubject,
    CcertIssuer,
    CcertFingerprint,
    CcertPubkeyFingerprint,
    EncryptionProtocol,
    EncryptionCipher,
    EncryptionKeysize,
    TlsSni,
    PolicyContext,
    CompatibilityLevel,
    MailVersion,
    // Of the other doors.
    Login,
    Protocol,
    DeviceId,
    SessionId,
    Mechanism,
    Tls,
    Method,
    Path,
    Query,
    Host,
    User,
    UserAgent,
}

/// Every attribute with its name on the wire, in the order of Postfix 3.12.
const NAMES: [(Attribute, &[u8]); Attribute::COUNT] = {
    use Attribute::*;
    [
        (Request, b"request"),
        (ProtocolState, b"protocol_state"),
        (ProtocolName, b"protocol_name"),
        (ClientAddress, b"client_address"),
        (ClientName, b"client_name"),
        (ClientPort, b"client_port"),
        (ReverseClientName, b"reverse_client_name"),
        (ServerAddress, b"server_address"),
        (ServerPort, b"server_port"),
        (HeloName, b"helo_name"),
        (Sender, b"sender"),
        (Recipient, b"recipient"),
        (RecipientCount, b"recipient_count"),
        (QueueId, b"queue_id"),
        (Instance, b"instance"),
        (Size, b"size"),
        (EtrnDomain, b"etrn_domain"),
        (Stress, b"stress"),
        (SaslMethod, b"sasl_method"),
        (SaslUsername, b"sasl_username"),
        (SaslSender, b"sasl_sender"),
        (CcertSubject, b"ccert_subject"),
        (CcertIssuer, b"ccert_issuer"),
        (CcertFingerprint, b"ccert_fingerprint"),
        (CcertPubkeyFingerprint, b"ccert_pubkey_fingerprint"),
        (EncryptionProtocol, b"encryption_protocol"),
        (EncryptionCipher, b"encryption_cipher"),
        (EncryptionKeysize, b"encryption_keysize"),
        (TlsSni, b"tls_sni"),
        (PolicyContext, b"policy_context"),
        (CompatibilityLevel, b"compatibility_level"),
        (MailVersion, b"mail_version"),
    ]
};

/// The attributes that Postfix does not send, with the names that conditions know them by and the door they are of.
const OTHERS: [(Attribute, &str, Door); 12] = {
    use Attribute::*;
    [
        (Login, "login", Door::Login),
        (Protocol, "protocol", Door::Login),
        (DeviceId, "device_id", Door::Login),
        (SessionId, "session_id", Door::Login),
        (Mechanism, "mechanism", Door::Login),
        (Tls, "tls", Door::Login),
        (Method, "method", Door::Web),
        (Path, "path", Door::Web),
        (Query, "query", Door::Web),
        (Host, "host", Door::Web),
        (User, "user", Door::Web),
        (UserAgent, "user_agent", Door::Web),
    ]
};

/// How many bytes `name=` is compared by; the longest of Postfix has 25.
const WINDOW: usize = 32;

/// `name=` of every attribute as the first bytes of a line, and which of those bytes count.
const HEADS: [NamePrefix; Attribute::COUNT] = {
    let mut heads =
        [NamePrefix { attribute: Attribute::Request, length: 0, bytes: [0; 4], mask: [0; 4] }; Attribute::COUNT];
    let mut place = 0;
    while place < Attribute::COUNT {
        let (attribute, name) = NAMES[place];
        let head = &mut heads[place];
        head.attribute = attribute;
        head.length = name.len() + 1;
        let mut at = 0;
        while at < head.length {
            let byte = if at < name.len() { name[at] } else { b'=' };
            head.bytes[at / 8] |= (byte as u64) << (at % 8 * 8);
            head.mask[at / 8] |= 0xff << (at % 8 * 8);
            at += 1;
        }
        place += 1;
    }
    heads
};

#[derive(Clone, Copy)]
struct NamePrefix {
    attribute: Attribute,
    length: usize,
    bytes: [u64; WINDOW / 8],
    mask: [u64; WINDOW / 8],
}

impl NamePrefix {
    /// Whether the line that begins so has this attribute.
    fn begins(&self, window: &[u8; WINDOW]) -> bool {
        let (words, _) = window.as_chunks::<8>();
        let differs = |at: usize| (u64::from_le_bytes(words[at]) ^ self.bytes[at]) & self.mask[at];
        differs(0) | differs(1) | differs(2) | differs(3) == 0
    }
}

impl Attribute {
    /// How many of them Postfix sends.
    pub const COUNT: usize = 32;

    /// The attribute at `place` in Postfix's order or, as an older Postfix leaves one out here and
    /// there, the one after it, and the length of its `name=`: if that is what `line` begins with.
    /// Postfix sends them in order, so this is nearly always the right guess.
    pub fn expect(place: usize, line: &[u8]) -> Option<(Self, usize)> {
        let window = match line.first_chunk() {
            Some(window) => *window,
            None => {
                let mut window = [0; WINDOW];
                window[..line.len()].copy_from_slice(line);
                window
            }
        };
        let met = |place: usize| HEADS.get(place).filter(|head| head.begins(&window));
        met(place).or_else(|| met(place + 1)).map(|head| (head.attribute, head.length))
    }

    /// The attribute of a name, wherever it stands in the order. The search begins at `place`:
    /// what an older Postfix leaves out is passed over.
    pub fn find(name: &[u8], place: usize) -> Option<Self> {
        let (before, after) = NAMES.split_at(place.min(Self::COUNT));
        after.iter().chain(before).find(|(_, known)| *known == name).map(|(attribute, _)| *attribute)
    }

    /// All that Postfix sends, in its order.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(attribute, _)| *attribute)
    }

    /// Those that a request at a door can have.
    pub fn at(door: Door) -> impl Iterator<Item = Self> {
        let others = OTHERS.iter().map(|(attribute, ..)| *attribute);
        Self::all().chain(others).filter(move |attribute| attribute.is_at(door))
    }

    /// Whether a request at a door can have it.
    pub fn is_at(self, door: Door) -> bool {
        match (OTHERS.iter().find(|(other, ..)| *other == self), door) {
            (Some((_, _, its)), door) => *its == door,
            (None, Door::Smtp) => true,
            (None, Door::Login) => {
                matches!(self, Self::ClientAddress | Self::ClientPort | Self::ServerAddress | Self::ServerPort)
            }
            (None, Door::Web) => self == Self::ClientAddress,
        }
    }

    /// Its name: on the wire, if Postfix sends it.
    pub fn name(self) -> &'static str {
        match NAMES.get(self as usize) {
            Some((_, name)) => str::from_utf8(name).expect("the names are ASCII"),
            None => OTHERS[self as usize - Self::COUNT].1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_found_by_its_name_wherever_the_search_begins() {
        for (place, (attribute, name)) in NAMES.iter().enumerate() {
            assert_eq!(*attribute as usize, place);
            for begin in 0..=Attribute::COUNT {
                assert_eq!(Attribute::find(name, begin), Some(*attribute));
            }
        }
        assert_eq!(Attribute::find(b"Request", 0), None);
    }

    #[test]
    fn the_attributes_of_other_doors_follow_those_of_postfix() {
        for (place, (attribute, name, door)) in OTHERS.iter().enumerate() {
            assert_eq!(*attribute as usize, Attribute::COUNT + place);
            assert_eq!(attribute.name(), *name);
            assert!(Attribute::at(*door).any(|known| known == *attribute));
            assert!(!Attribute::at(Door::Smtp).any(|known| known == *attribute));
        }
        assert_eq!(Attribute::at(Door::Smtp).count(), Attribute::COUNT);
    }

    #[test]
    fn only_the_expected_attribute_and_the_next_are_met() {
        for (place, (attribute, name)) in NAMES.iter().enumerate() {
            for rest in [b"".as_slice(), b"value\nand what follows the line, long enough\n"] {
                let line = [name, b"=".as_slice(), rest].concat();
                for expected in 0..=Attribute::COUNT {
                    let met = (expected..expected + 2).contains(&place).then_some((*attribute, name.len() + 1));
                    assert_eq!(Attribute::expect(expected, &line), met, "{}", attribute.name());
                }
                let longer = [name, b"x=".as_slice(), rest].concat();
                assert_eq!(Attribute::expect(place, &longer), None);
                assert_eq!(Attribute::expect(place, name), None);
            }
        }
    }
}
