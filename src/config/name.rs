//! Entries of lists that are names: `mail.example.com`, `.example.com`, `/regular expression/`.

use crate::config::diagnostics::quoted;
use crate::policy::attribute::Attribute;
use crate::policy::key_field::KeyField;
use crate::policy::name_patterns::{NamePattern, expression};
use crate::policy::spelling::Spellings;

/// The entries that a list may have, for remedies.
pub(super) const WRITE: &str = "write an address, a netblock as in 192.0.2.0/24, a name as in mail.example.com or \
                                .example.com, or a regular expression for names as in /^mx[0-9]+\\./";

/// Reads a name; `None`: it is meant to be something else. `Err` says what is wrong and what to write.
pub(super) fn parse(text: &str) -> Option<Result<NamePattern, (String, String)>> {
    if let Some(rest) = text.strip_prefix('/') {
        let Some(inner) = rest.strip_suffix('/').filter(|inner| !inner.is_empty()) else {
            return Some(Err(("a regular expression stands between slashes".to_owned(), WRITE.to_owned())));
        };
        return Some(match expression(inner) {
            Ok(_) => Ok(NamePattern::Matching(inner.into())),
            Err(error) => {
                let error = error.to_string();
                let reason = error.trim_end().lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
                let problem = format!("{} is not a valid regular expression: {reason}", quoted(inner));
                let remedy = "write one in the syntax of the regex crate: like Perl's, without look-around and \
                              back-references";
                Err((problem, remedy.to_owned()))
            }
        });
    }
    let name = text.strip_prefix('.').unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let name = match name.is_ascii() {
        true => name,
        // In DNS, so in `client_name`, names are in ASCII.
        false => Spellings::default().spelled(KeyField::HostDomain(Attribute::ClientName), &name),
    };
    is_host_name(&name).then(|| {
        Ok(match text.starts_with('.') {
            true => NamePattern::Domain(name.into()),
            false => NamePattern::Host(name.into()),
        })
    })
}

/// Whether a text is a full host name and not a mistyped address.
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(is_usual)
    };
    let Some((others, top)) = name.rsplit_once('.') else { return false };
    let is_top = top.starts_with("xn--") || top.len() > 1 && top.bytes().all(|byte| byte.is_ascii_alphabetic());
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && is_top && others.split('.').all(is_label) && !others.split('.').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_from_nonsense() {
        let read =
            |text: &str| parse(text).map(|read| read.map(|name| name.to_string()).map_err(|(problem, _)| problem));
        let right = [
            ("mail.Example.com", "mail.example.com"),
            (".example.com.", ".example.com"),
            ("_x.a-b.xn--p1ai", "_x.a-b.xn--p1ai"),
            ("/^mx\\d+\\./", "/^mx\\d+\\./"),
            ("mail.B\u{dc}cher.example", "mail.xn--bcher-kva.example"),
            (".b\u{fc}cher.example", ".xn--bcher-kva.example"),
            ("mail.\u{440}\u{444}", "mail.xn--p1ai"),
        ];
        for (text, expected) in right {
            assert_eq!(read(text), Some(Ok(expected.to_owned())), "{text}");
        }
        for text in [
            "",
            ".",
            "com",
            ".com",
            "192.0.2.x",
            "192.0.2.xx",
            "192.0.2",
            "a..com",
            "a b.com",
            "m\u{fc}ller",
            "\u{fc}.1\u{b2}",
            "a\u{200b} b.com",
            "*.a.com",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        for text in ["/", "//", "/x", "/(/", "/a(?=b)/"] {
            assert!(matches!(read(text), Some(Err(_))), "{text}");
        }
    }
}
