//! Keys and numbers of `thresholds` and of `thresholds_file`, which are the same in both.

use super::diagnostics::quoted;
use super::resolve::LARGEST_THRESHOLD;
use super::units;
use crate::net::origin::{CountryCode, as_number};
use crate::policy::attribute::Attribute;
use crate::policy::key_escape::ABSENT;
use crate::policy::key_field::KeyField;
use crate::policy::limit::CountKind;
use crate::policy::spelling::Spellings;
use crate::policy::thresholds::{MAX_THRESHOLD_KEY, UNLIMITED, ValueForm};

/// Problem and remedy.
type WrongKey = (String, String);

/// A key as counters have it; one that begins with a dot is a domain with all below it.
pub(super) fn key(field: KeyField, text: &str, spellings: &Spellings) -> Result<String, WrongKey> {
    let word = field.word();
    let form = ValueForm::of(field);
    let write = match form {
        ValueForm::Mail => {
            format!("a {word}, \"@example.org\" for all of a domain, or \".example.org\" with all below it")
        }
        ValueForm::Domain => format!("a {word}, or \".example.org\" for a domain with all below it"),
        ValueForm::Word => format!("a {word}"),
    };
    let wrong = |problem: String, remedy: String| Err((format!("{} {problem}", quoted(text)), remedy));
    if text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER) {
        return wrong(format!("is not a {word}"), format!("write {write}"));
    }
    if let Some((word_before, value)) = text.split_once('=')
        && KeyField::of_word(word_before).is_some()
    {
        return wrong(
            format!("has the name of a part: the keys here are each a {word}"),
            format!("write {value:?} alone"),
        );
    }
    let is_expression = text.len() > 1 && text.starts_with('/') && text.ends_with('/') && form != ValueForm::Word;
    if text.contains(['*', ',', '"', ' ', '\t']) || text.starts_with('!') || is_expression {
        return wrong(format!("is never a {word}"), format!("write {write}"));
    }
    let is_of_unknown = text.contains([':', '.']);
    match field {
        KeyField::Whole(Attribute::Asn) if !is_of_unknown && as_number(text).is_none() => {
            return wrong(
                "is not the number of an autonomous system".to_owned(),
                "write it as in \"64500\"".to_owned(),
            );
        }
        KeyField::Whole(Attribute::Country) if !is_of_unknown && CountryCode::new(text).is_none() => {
            return wrong("is not the code of a country".to_owned(), "write two letters, as in \"DE\"".to_owned());
        }
        _ => {}
    }
    let (domain, mark) = match (form, text.chars().next()) {
        (ValueForm::Mail, Some('@')) => (&text[1..], "@"),
        (ValueForm::Domain, Some('@')) => (&text[1..], ""),
        (ValueForm::Mail | ValueForm::Domain, Some('.')) => (&text[1..], "."),
        (ValueForm::Word, Some('.')) => return wrong(format!("is never a {word}"), format!("write {write}")),
        (ValueForm::Domain, _) => (text, ""),
        _ => ("", ""),
    };
    let is_domain = !mark.is_empty() || form == ValueForm::Domain;
    if is_domain && text != ABSENT && (domain.is_empty() || domain.starts_with('.') || domain.contains('@')) {
        return wrong("is not a domain".to_owned(), format!("write {write}"));
    }
    let is_address = matches!(field, KeyField::Whole(Attribute::Sender | Attribute::Recipient));
    if is_address && mark.is_empty() && !text.contains('@') && text.contains('.') {
        return wrong("is not an address".to_owned(), format!("write \"@{text}\" for all of the domain"));
    }
    let key = match is_domain {
        true => format!("{mark}{}", spellings.written_domain(domain)),
        false => spellings.written(field, text),
    };
    match key.len() {
        ..=MAX_THRESHOLD_KEY => Ok(key),
        _ => wrong("is too long".to_owned(), format!("write at most {MAX_THRESHOLD_KEY} bytes")),
    }
}

/// A threshold of a file: a number, or a size where the limit counts bytes; -1 stands for none, 0 for nothing at all.
pub(super) fn number(text: &str, counts: CountKind) -> Result<u32, WrongKey> {
    let is_size = counts == CountKind::Bytes;
    let number = match text {
        "-1" => return Ok(UNLIMITED),
        "0" => return Ok(0),
        _ if is_size => units::size(text),
        _ => {
            Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())).and_then(|text| text.parse().ok())
        }
    };
    match number.map(|number| number.div_ceil(counts.unit().into())) {
        Some(amount @ 1..=LARGEST_THRESHOLD) => Ok(amount as u32),
        _ => {
            let (what, most) = match is_size {
                true => ("a size", "1000000000KiB".to_owned()),
                false => ("a whole number", LARGEST_THRESHOLD.to_string()),
            };
            let remedy = format!("write {what} up to {most}, 0 for nothing at all, or -1 for no limit");
            Err((format!("{} is not a valid threshold", quoted(text)), remedy))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_as_counters_have_them_and_what_never_matches_is_an_error() {
        let spellings = Spellings { delimiters: "+".into(), canonical_senders: true };
        let login = KeyField::Whole(Attribute::SaslUsername);
        let sender = KeyField::Whole(Attribute::Sender);
        let domain = KeyField::MailDomain(Attribute::Sender);
        let right = [
            (login, "Alice@Example.com", "alice@example.com"),
            (login, "bob", "bob"),
            (login, "J\u{dc}rgen+x@example.com", "j%c3%bcrgen@example.com"),
            (login, "@b\u{fc}cher.example.", "@xn--bcher-kva.example"),
            (domain, "B\u{fc}cher.example", "xn--bcher-kva.example"),
            (sender, "prvs=123456=alice@example.org", "alice@example.org"),
            (login, "john.doe", "john.doe"),
            (login, "DOMAIN\\joe", "domain%5cjoe"),
            (login, "joe%20doe", "joe%20doe"),
            (login, "@Example.org", "@example.org"),
            (login, ".Example.org", ".example.org"),
            (sender, "<>", "<>"),
            (sender, "a=b@example.org", "a%3db@example.org"),
            (sender, "postmaster", "postmaster"),
            (domain, "@example.org", "example.org"),
            (domain, "Example.org", "example.org"),
            (domain, ".example.org", ".example.org"),
            (domain, "<>", "<>"),
        ];
        for (field, text, expected) in right {
            assert_eq!(key(field, text, &spellings).as_deref(), Ok(expected), "{text}");
        }
        let wrong = [
            (login, "*@example.org", "is never a sasl_username"),
            (login, "a,b", "is never"),
            (login, "/^a/", "is never"),
            (login, "!bob", "is never"),
            (login, "joe doe", "is never"),
            (login, "@", "is not a domain"),
            (login, ".", "is not a domain"),
            (login, "sasl_username=bob", "has the name of a part"),
            (sender, "example.org", "is not an address"),
            (domain, "a@example.org", "is not a domain"),
            (login, "", "is not a sasl_username"),
        ];
        for (field, text, expected) in wrong {
            let (problem, remedy) = key(field, text, &spellings).expect_err(text);
            assert!(problem.contains(expected) && remedy.starts_with("write "), "{problem}: {remedy}");
        }
        assert!(key(login, &"x".repeat(500), &spellings).unwrap_err().0.contains("is too long"));
    }

    #[test]
    fn a_number_is_a_threshold_none_or_nothing() {
        let of = |text: &str, counts| number(text, counts).ok();
        for (text, expected) in [
            ("-1", Some(UNLIMITED)),
            ("0", Some(0)),
            ("12", Some(12)),
            ("+1", None),
            ("-2", None),
            ("1000000001", None),
        ] {
            assert_eq!(of(text, CountKind::Messages), expected, "{text}");
        }
        assert_eq!(of("1MiB", CountKind::Bytes), Some(1024));
        assert_eq!(of("1MiB", CountKind::Messages), None);
        assert_eq!(of("", CountKind::Messages), None);
    }
}
