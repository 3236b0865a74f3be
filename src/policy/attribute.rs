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
    // Of the client's address, from databases: no request has them.
    Asn,
    Country,
}

/// Every attribute with its name on the wire, in the order of Postfix 3.12.
pub(crate) const NAMES: [(Attribute, &[u8]); Attribute::COUNT] = {
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

/// The attributes that Postfix does not send, with their names in conditions and their door.
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

/// The attributes that databases have of a client's address, with their names in conditions.
const OF_ORIGIN: [(Attribute, &str); 2] = [(Attribute::Asn, "asn"), (Attribute::Country, "country")];

impl Attribute {
    /// How many of them Postfix sends.
    pub const COUNT: usize = 32;

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
        let of_origin = OF_ORIGIN.iter().map(|(attribute, _)| *attribute);
        Self::all().chain(others).chain(of_origin).filter(move |attribute| attribute.is_at(door))
    }

    /// Whether a request at a door can have it.
    pub fn is_at(self, door: Door) -> bool {
        match (OTHERS.iter().find(|(other, ..)| *other == self), door) {
            _ if self.is_of_origin() => true,
            (Some((_, _, its)), door) => *its == door,
            (None, Door::Smtp) => true,
            (None, Door::Login) => {
                matches!(self, Self::ClientAddress | Self::ClientPort | Self::ServerAddress | Self::ServerPort)
            }
            (None, Door::Web) => self == Self::ClientAddress,
        }
    }

    /// Whether it is looked up in a database, and no request says it.
    pub fn is_of_origin(self) -> bool {
        matches!(self, Self::Asn | Self::Country)
    }

    /// Whether its values are mail addresses, or look like them.
    pub fn is_mail_address(self) -> bool {
        use Attribute::*;
        matches!(self, Sender | Recipient | SaslUsername | SaslSender | Login | User)
    }

    /// Whether its values are addresses of the envelope, which BATV and SRS may have rewritten.
    pub fn is_of_envelope(self) -> bool {
        matches!(self, Self::Sender | Self::Recipient | Self::SaslSender)
    }

    /// Whether its values are host names.
    pub fn is_host_name(self) -> bool {
        use Attribute::*;
        matches!(self, ClientName | ReverseClientName | HeloName | EtrnDomain | TlsSni | Host)
    }

    /// Its name, on the wire and in the configuration.
    pub fn name(self) -> &'static str {
        match NAMES.get(self as usize) {
            Some((_, name)) => str::from_utf8(name).expect("the names are ASCII"),
            None => {
                let others = OTHERS.iter().map(|(_, name, _)| *name);
                let mut names = others.chain(OF_ORIGIN.iter().map(|(_, name)| *name));
                names.nth(self as usize - Self::COUNT).expect("every attribute has a name")
            }
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
        for (place, (attribute, name)) in OF_ORIGIN.iter().enumerate() {
            assert_eq!(*attribute as usize, Attribute::COUNT + OTHERS.len() + place);
            assert_eq!((attribute.name(), Attribute::find(name.as_bytes(), 0)), (*name, None));
            assert!(Door::ALL.iter().all(|door| Attribute::at(*door).any(|known| known == *attribute)));
        }
        assert_eq!(Attribute::at(Door::Smtp).count(), Attribute::COUNT + OF_ORIGIN.len());
    }
}
