//! Spellings: which ways to write a mailbox, a login or the name of a host mean the same, and which of them keys have.
//!
//! Letters are in lower case in all of Unicode and composed (NFC), a domain is in ASCII as DNS has it (`xn--`), without
//! a dot at its end. A site may also have extensions cut (`alice+lists@`), and what BATV and SRS put into an address
//! taken out again. Code that makes or looks up a key from what an administrator wrote calls [`Spellings::written`].

use std::borrow::Cow;

use icu_casemap::CaseMapper;
use icu_normalizer::ComposingNormalizer;
use idna::AsciiDenyList;

use super::attribute::Attribute;
use super::key_escape;
use super::key_field::KeyField;
use crate::net::origin::as_number;

/// Which spellings are one, beyond those that always are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spellings {
    /// `recipient_delimiter`: the first of these characters in the local part begins an extension.
    pub delimiters: Box<str>,
    /// `canonical_senders`: BATV and SRS forms are the mailbox that they were made of.
    pub canonical_senders: bool,
}

/// A longer domain cannot be in DNS, and is compared as text.
const MAX_DOMAIN: usize = 1000;

/// A mail address or a login in its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mailbox<'v> {
    local: &'v [u8],
    domain: Option<&'v [u8]>,
}

impl Spellings {
    /// Whether values of a field may become others though they are ASCII.
    pub(super) fn change(&self, field: KeyField) -> bool {
        if !self.change_any() {
            return false;
        }
        match field {
            KeyField::Whole(attribute) => self.change_mailboxes(attribute),
            KeyField::MailDomain(attribute) => self.canonical_senders && attribute.is_of_envelope(),
            KeyField::Client | KeyField::HostDomain(_) => false,
        }
    }

    /// Whether any value in ASCII may become another.
    fn change_any(&self) -> bool {
        !self.delimiters.is_empty() || self.canonical_senders
    }

    fn change_mailboxes(&self, attribute: Attribute) -> bool {
        attribute.is_mail_address()
            && (!self.delimiters.is_empty() || self.canonical_senders && attribute.is_of_envelope())
    }

    /// The value of a field in the one spelling that keys have, but for ASCII capitals. Of [`KeyField::MailDomain`]
    /// `value` may be the whole address.
    pub(super) fn canonical<'v>(&self, field: KeyField, value: &'v [u8]) -> Cow<'v, [u8]> {
        match field {
            KeyField::Whole(attribute) if attribute.is_mail_address() => {
                self.mailbox(attribute, value).spelled().into()
            }
            KeyField::Whole(attribute) if attribute.is_host_name() => domain(value),
            KeyField::HostDomain(_) => domain(value),
            KeyField::MailDomain(attribute) => {
                let reduced = memchr::memchr(b'@', value).and_then(|_| self.mailbox(attribute, value).domain);
                domain(reduced.unwrap_or(value))
            }
            KeyField::Client | KeyField::Whole(_) => folded(value),
        }
    }

    /// The value of a field in the form of keys, from what an administrator wrote: plain, or as the log shows it.
    pub fn written(&self, field: KeyField, value: &str) -> String {
        let escaped = key_escape::escaped(value);
        // The rest of a cut value is not known.
        if escaped == key_escape::ABSENT || key_escape::is_cut(&escaped) {
            return escaped;
        }
        match field {
            KeyField::Whole(Attribute::Asn | Attribute::Country) if key_escape::is_address(value) => {
                return value.to_owned();
            }
            KeyField::Whole(Attribute::Asn) => {
                if let Some(number) = as_number(value) {
                    return number.to_string();
                }
            }
            _ => {}
        }
        let mut text = String::new();
        key_escape::escape(&self.canonical(field, &key_escape::unescaped_bytes(&escaped)), &mut text);
        text
    }

    /// The same of a domain.
    pub fn written_domain(&self, name: &str) -> String {
        self.written(KeyField::HostDomain(Attribute::ClientName), name)
    }

    /// A text that values are compared with in the one spelling that keys have.
    pub fn spelled(&self, field: KeyField, text: &str) -> String {
        String::from_utf8_lossy(&self.canonical(field, text.as_bytes())).into_owned()
    }

    /// The other spellings of a value that conditions also compare: with its letters and its domain as keys have them,
    /// and as the mailbox that it is an address of. `None`: there are none.
    #[inline]
    pub(super) fn others(&self, attribute: Attribute, value: &[u8]) -> Option<[Vec<u8>; 2]> {
        // Nearly every value that is compared is none at all, or in ASCII.
        let is_plain = value.is_empty()
            || value.is_ascii() && !value.ends_with(b".") && !(self.change_any() && self.change_mailboxes(attribute));
        (!is_plain).then(|| self.spelled_otherwise(attribute, value))
    }

    #[cold]
    fn spelled_otherwise(&self, attribute: Attribute, value: &[u8]) -> [Vec<u8>; 2] {
        let field = KeyField::Whole(attribute);
        [Self::default(), self.clone()].map(|spellings| spellings.canonical(field, value).into_owned())
    }

    /// The mailbox behind an address.
    fn mailbox<'v>(&self, attribute: Attribute, value: &'v [u8]) -> Mailbox<'v> {
        let mut mailbox = Mailbox::of(value);
        if self.canonical_senders && attribute.is_of_envelope() {
            while let Some(reduced) = mailbox.reduced() {
                mailbox = reduced;
            }
        }
        Mailbox { local: self.without_extension(mailbox.local), ..mailbox }
    }

    /// As Postfix's `split_addr` does with `owner_request_special = yes`, its default.
    fn without_extension<'v>(&self, local: &'v [u8]) -> &'v [u8] {
        const NEVER: [&[u8]; 3] = [b"postmaster", b"mailer-daemon", b"double-bounce"];
        let delimiters = self.delimiters.as_bytes();
        let Some(at) = local.iter().position(|byte| delimiters.contains(byte)).filter(|at| *at > 0) else {
            return local;
        };
        let is_request = || {
            let begin = local.len().checked_sub(b"-request".len()).filter(|begin| *begin > 0);
            begin.is_some_and(|begin| local[begin..].eq_ignore_ascii_case(b"-request"))
        };
        let is_special = delimiters.contains(&b'-') && (strip_prefix(local, b"owner-").is_some() || is_request());
        match is_special || NEVER.iter().any(|name| local.eq_ignore_ascii_case(name)) {
            true => local,
            false => &local[..at],
        }
    }
}

impl<'v> Mailbox<'v> {
    fn of(value: &'v [u8]) -> Self {
        match memchr::memrchr(b'@', value) {
            Some(at) => Self { local: &value[..at], domain: Some(&value[at + 1..]) },
            None => Self { local: value, domain: None },
        }
    }

    fn spelled(self) -> Vec<u8> {
        let mut spelled = folded(self.local).into_owned();
        if let Some(of) = self.domain {
            spelled.push(b'@');
            spelled.extend_from_slice(&domain(of));
        }
        spelled
    }

    /// The address that a BATV or SRS address was made of. `None`: it is neither.
    fn reduced(self) -> Option<Self> {
        self.domain?;
        let local = self.local;
        if let Some(local) = batv(local) {
            return Some(Self { local, ..self });
        }
        // After the tag there is `=`, `+` or `-`: forwarders differ.
        let tagged = |tag| strip_prefix(local, tag).filter(|_| is_separator(local, 4)).map(|rest| &rest[1..]);
        if let Some(rest) = tagged(b"SRS0") {
            return srs(rest);
        }
        if let Some(rest) = tagged(b"SRS1") {
            // The end is what followed the tag in the SRS0 address of the first forwarder.
            let (hash, rest) = split(rest, b'=')?;
            let (forwarder, rest) = split(rest, b'=')?;
            return srs(rest.get(1..)?).filter(|_| is_hash(hash) && is_domain(forwarder) && is_separator(rest, 0));
        }
        // As Exchange Online writes it, behind the mailbox that forwards.
        let marks = memchr::memchr_iter(b'+', local);
        marks.filter_map(|at| strip_prefix(&local[at..], b"+SRS=")).find_map(srs)
    }
}

/// The local part that was signed: `prvs=TAG=LOCAL`, by Barracuda `btv1==TAG==LOCAL`, by Momentum `msprvs1=TAG=LOCAL`.
fn batv(local: &[u8]) -> Option<&[u8]> {
    let (tag, signed) = if let Some(rest) = strip_prefix(local, b"btv1==") {
        let (tag, signed) = split(rest, b'=')?;
        (tag, signed.strip_prefix(b"=")?)
    } else {
        split(strip_prefix(local, b"prvs=").or_else(|| strip_prefix(local, b"msprvs1="))?, b'=')?
    };
    (is_word(tag) && !signed.is_empty()).then_some(signed)
}

/// The address in `HASH=TIME=DOMAIN=LOCAL`.
fn srs(text: &[u8]) -> Option<Mailbox<'_>> {
    let (hash, rest) = split(text, b'=')?;
    let (time, rest) = split(rest, b'=')?;
    let (domain, local) = split(rest, b'=')?;
    let is_one = is_hash(hash) && is_word(time) && is_domain(domain) && !local.is_empty();
    is_one.then_some(Mailbox { local, domain: Some(domain) })
}

fn is_separator(text: &[u8], at: usize) -> bool {
    matches!(text.get(at), Some(b'=' | b'+' | b'-'))
}

fn is_word(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(u8::is_ascii_alphanumeric)
}

/// Whether a text is in Base64.
fn is_hash(text: &[u8]) -> bool {
    !text.is_empty()
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_'))
}

fn is_domain(text: &[u8]) -> bool {
    let is_usual = |byte: &u8| byte.is_ascii_alphanumeric() || !byte.is_ascii() || matches!(byte, b'.' | b'-' | b'_');
    memchr::memchr(b'.', text).is_some_and(|at| at > 0) && text.iter().all(is_usual)
}

fn split(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    memchr::memchr(at, text).map(|at| (&text[..at], &text[at + 1..]))
}

fn strip_prefix<'t>(text: &'t [u8], prefix: &[u8]) -> Option<&'t [u8]> {
    let (beginning, rest) = text.split_at_checked(prefix.len())?;
    beginning.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// A domain as DNS has it, but for ASCII capitals.
fn domain(value: &[u8]) -> Cow<'_, [u8]> {
    let end = value.iter().rposition(|byte| *byte != b'.').map_or(value.len(), |last| last + 1);
    let value = &value[..end];
    if value.is_ascii() {
        return Cow::Borrowed(value);
    }
    let ascii = (value.len() <= MAX_DOMAIN).then(|| idna::domain_to_ascii_cow(value, AsciiDenyList::EMPTY));
    match ascii {
        // A dot of another script has become one.
        Some(Ok(ascii)) if ascii.is_ascii() => ascii.trim_end_matches('.').as_bytes().to_vec().into(),
        _ => folded(value),
    }
}

/// A text with its letters in lower case and composed; ASCII as it is.
fn folded(value: &[u8]) -> Cow<'_, [u8]> {
    let text = match str::from_utf8(value) {
        Ok(text) if !text.is_ascii() => text,
        _ => return Cow::Borrowed(value),
    };
    let (composed, mapper) = (ComposingNormalizer::new_nfc(), CaseMapper::new());
    // Simple folding, one letter for one: a name with \u{df} stays another one than that with `ss`.
    let lower: String = composed.normalize(text).chars().map(|letter| mapper.simple_fold(letter)).collect();
    composed.normalize(&lower).into_owned().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SENDER: KeyField = KeyField::Whole(Attribute::Sender);

    fn spellings(delimiters: &str, canonical_senders: bool) -> Spellings {
        Spellings { delimiters: delimiters.into(), canonical_senders }
    }

    fn spelled(spellings: &Spellings, field: KeyField, value: &str) -> String {
        key_escape::unescaped(&spellings.written(field, value))
    }

    #[test]
    fn letters_and_domains_have_one_spelling() {
        let always = Spellings::default();
        for (written, one) in [
            ("Joe@Example.ORG", "joe@example.org"),
            ("joe@example.org.", "joe@example.org"),
            ("J\u{dc}RGEN@example.org", "j\u{fc}rgen@example.org"),
            ("ju\u{308}rgen@example.org", "j\u{fc}rgen@example.org"),
            ("JU\u{308}RGEN@example.org", "j\u{fc}rgen@example.org"),
            ("joe@B\u{dc}CHER.example", "joe@xn--bcher-kva.example"),
            ("joe@b\u{fc}cher\u{3002}example\u{3002}", "joe@xn--bcher-kva.example"),
            ("joe@XN--BCHER-KVA.example", "joe@xn--bcher-kva.example"),
            ("\u{39f}\u{394}\u{39f}\u{3a3}@example.org", "\u{3bf}\u{3b4}\u{3bf}\u{3c3}@example.org"),
            ("\u{3bf}\u{3b4}\u{3bf}\u{3c2}@example.org", "\u{3bf}\u{3b4}\u{3bf}\u{3c3}@example.org"),
            ("stra\u{df}e@example.org", "stra\u{df}e@example.org"),
            ("\u{131}@example.org", "\u{131}@example.org"),
            ("alice+lists@example.org", "alice+lists@example.org"),
            ("prvs=1234abcdef=alice@example.org", "prvs=1234abcdef=alice@example.org"),
            ("joe@", "joe@"),
            ("@", "@"),
            (".", "."),
            ("<>", "<>"),
        ] {
            assert_eq!(spelled(&always, SENDER, written), one, "{written}");
        }
        let helo = |name: &str| spelled(&always, KeyField::Whole(Attribute::HeloName), name);
        assert_eq!((helo("MX.b\u{fc}cher.example.").as_str(), helo(".").as_str()), ("mx.xn--bcher-kva.example", "."));
        let domain = |name: &str| spelled(&always, KeyField::MailDomain(Attribute::Sender), name);
        assert_eq!(domain("B\u{fc}cher.example."), "xn--bcher-kva.example");
        assert_eq!(spelled(&always, KeyField::Whole(Attribute::Path), "/\u{c4}."), "/\u{e4}.");
        assert_eq!(always.written(SENDER, "j%c3%9crgen@example.org"), "j%c3%bcrgen@example.org");
    }

    #[test]
    fn what_is_no_domain_is_folded_as_text() {
        let always = Spellings::default();
        let long = format!("joe@{}\u{dc}", "a".repeat(MAX_DOMAIN));
        assert_eq!(spelled(&always, SENDER, &long), long.replace('\u{dc}', "\u{fc}"));
        let bytes = b"J\xfcrgen@EXAMPLE.org.";
        assert_eq!(&*always.canonical(SENDER, bytes), b"J\xfcrgen@EXAMPLE.org");
    }

    #[test]
    fn extensions_are_cut_as_postfix_cuts_them() {
        let cases = [
            ("+", "alice+lists@example.org", "alice@example.org"),
            ("+", "alice+a+b@example.org", "alice@example.org"),
            ("+-", "alice-a+b@example.org", "alice@example.org"),
            ("+-", "alice+a-b@example.org", "alice@example.org"),
            ("+", "alice-lists@example.org", "alice-lists@example.org"),
            ("+", "+alice@example.org", "+alice@example.org"),
            ("+-", "alice+@example.org", "alice@example.org"),
            ("+-", "postmaster@example.org", "postmaster@example.org"),
            ("+-", "Mailer-Daemon@example.org", "mailer-daemon@example.org"),
            ("+-", "double-bounce@example.org", "double-bounce@example.org"),
            ("+-", "Owner-list@example.org", "owner-list@example.org"),
            ("+-", "list-Request@example.org", "list-request@example.org"),
            ("+-", "-request@example.org", "-request@example.org"),
            ("+", "owner-list+x@example.org", "owner-list@example.org"),
            ("+", "list+x-request@example.org", "list@example.org"),
            ("+-", "list+user=example.com@example.org", "list@example.org"),
            ("+-", "bounces-123-user=example.com@example.org", "bounces@example.org"),
            ("+", "alice+lists", "alice"),
            ("+", "\u{c4}nne+x@b\u{fc}cher.example", "\u{e4}nne@xn--bcher-kva.example"),
        ];
        for (delimiters, written, one) in cases {
            let spellings = spellings(delimiters, false);
            for field in [SENDER, KeyField::Whole(Attribute::Recipient), KeyField::Whole(Attribute::SaslUsername)] {
                assert_eq!(spelled(&spellings, field, written), one, "{delimiters} {written}");
            }
            let helo = KeyField::Whole(Attribute::HeloName);
            assert_eq!(spelled(&spellings, helo, "mail-1+x.example.org"), "mail-1+x.example.org");
        }
    }

    #[test]
    fn forms_of_batv_and_srs_are_reduced_to_the_mailbox() {
        let (senders, both) = (spellings("", true), spellings("+-", true));
        for (written, one) in [
            ("prvs=123456=alice@example.org", "alice@example.org"),
            ("PRVS=1234ABCDEF=Alice@example.org", "alice@example.org"),
            ("prvs=1234abcdef=a=b@example.org", "a=b@example.org"),
            ("btv1==053a9bd3de3==alice@example.org", "alice@example.org"),
            ("msprvs1=18042ABC=bounces@example.org", "bounces@example.org"),
            ("SRS0=HHH=TT=example.org=alice@forwarder.example", "alice@example.org"),
            ("srs0+h/+H=ts=Example.org=alice@forwarder.example", "alice@example.org"),
            ("SRS0-HHHH=TT=example.org=alice@forwarder.example", "alice@example.org"),
            ("SRS1=GGG=one.example==HHH=TT=example.org=alice@two.example", "alice@example.org"),
            ("SRS1+GGG=one.example=-HHH=TT=example.org=alice@two.example", "alice@example.org"),
            ("joe+SRS=44ldt=IX=example.org=alice@tenant.example", "alice@example.org"),
            ("SRS0=HHH=TT=example.org=prvs=123456=alice@forwarder.example", "alice@example.org"),
            ("prvs=123456=SRS0=HHH=TT=example.org=alice@forwarder.example", "alice@example.org"),
            // What cannot be understood stays.
            ("prvs=alice@example.org", "prvs=alice@example.org"),
            ("prvs==alice@example.org", "prvs==alice@example.org"),
            ("prvs=123456=@example.org", "prvs=123456=@example.org"),
            ("prvs=123456=alice", "prvs=123456=alice"),
            ("btv1==053a9bd3de3=alice@example.org", "btv1==053a9bd3de3=alice@example.org"),
            ("srs0=hhh=tt=example.org@forwarder.example", "srs0=hhh=tt=example.org@forwarder.example"),
            ("srs0=hhh=tt=example=alice@forwarder.example", "srs0=hhh=tt=example=alice@forwarder.example"),
            ("srs0hhh=tt=example.org=alice@forwarder.example", "srs0hhh=tt=example.org=alice@forwarder.example"),
            ("srs1=ggg=one.example=@two.example", "srs1=ggg=one.example=@two.example"),
            (
                "srs1=ggg=one.example=xhhh=tt=a.example=b@c.example",
                "srs1=ggg=one.example=xhhh=tt=a.example=b@c.example",
            ),
            ("srs0@example.org", "srs0@example.org"),
            ("srs1=@example.org", "srs1=@example.org"),
            ("bounces+srs=44ldt=ix@tenant.example", "bounces+srs=44ldt=ix@tenant.example"),
            ("alice+lists@example.org", "alice+lists@example.org"),
        ] {
            assert_eq!(spelled(&senders, SENDER, written), one, "{written}");
            let login = KeyField::Whole(Attribute::SaslUsername);
            assert_eq!(spelled(&senders, login, written), written.to_lowercase(), "{written}");
        }
        let of = |field, written: &str| spelled(&both, field, written);
        assert_eq!(of(SENDER, "SRS0=HHH=TT=example.org=alice+x@forwarder.example"), "alice@example.org");
        assert_eq!(of(SENDER, "prvs=123456=alice-x@example.org"), "alice@example.org");
        let domain = KeyField::MailDomain(Attribute::Sender);
        assert_eq!(&*both.canonical(domain, b"SRS0=HHH=TT=example.org=alice@forwarder.example"), b"example.org");
        assert_eq!(&*both.canonical(domain, b"alice+x@example.org"), b"example.org");
    }

    proptest! {
        #[test]
        fn what_is_spelled_once_stays_so(
            value in "([A-Za-z+=@.-]{0,8}|\\PC{0,6}|(prvs=|SRS0[=+]|SRS1=|[A-Z]=|a\\.b=|=){0,8}){0,4}@?\\PC{0,8}",
            canonical in any::<bool>(),
        ) {
            for field in [SENDER, KeyField::Whole(Attribute::SaslUsername), KeyField::Whole(Attribute::HeloName)] {
                let spellings = spellings("+-", canonical);
                let one = spellings.written(field, &value);
                prop_assert_eq!(spellings.written(field, &one), one.clone(), "{}", value);
            }
        }
    }
}
