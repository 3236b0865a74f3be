//! The attributes Postfix sends, in the order it sends them.

/// An attribute of a policy request that some rule may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are Postfix's own, explained in SMTPD_POLICY_README")]
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

impl Attribute {
    /// How many there are.
    pub const COUNT: usize = 32;

    /// The attribute of a line's name, and its place in the order. The search begins at `hint`:
    /// Postfix sends them in order, so the first comparison is nearly always the last.
    pub fn find(name: &[u8], hint: usize) -> Option<(Self, usize)> {
        let places = (hint..Self::COUNT).chain(0..hint.min(Self::COUNT));
        places
            .map(|place| (place, NAMES[place]))
            .find(|(_, (_, known))| *known == name)
            .map(|(place, (attribute, _))| (attribute, place))
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        str::from_utf8(NAMES[self as usize].1).expect("the names are ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attribute_is_found_by_its_name_wherever_the_search_begins() {
        for (place, (attribute, name)) in NAMES.iter().enumerate() {
            assert_eq!(*attribute as usize, place);
            for hint in 0..=Attribute::COUNT {
                assert_eq!(Attribute::find(name, hint), Some((*attribute, place)));
            }
        }
        assert_eq!(Attribute::find(b"Request", 0), None);
    }
}
