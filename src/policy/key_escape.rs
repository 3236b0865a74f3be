//! The texts of keys: folded to lower case so that spelling makes no difference, escaped so that no two are the same, and
//! bounded in length.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::key::MAX_PART;
use crate::net::{netblock, percent};

/// Stands for a field that a request leaves out. Only the value `<>` itself is written in the same way.
pub const ABSENT: &str = "<>";

/// The longest text of a key, in bytes. It has room for a login and a sender of RFC 5321; of a longer one
/// the beginning stays, and its digest.
pub const MAX_TEXT: usize = 512;

/// What stands before a digest, and nowhere else in a text.
const DIGEST_MARK: char = '#';

/// The length of a digest with its mark.
const MAX_DIGEST: usize = "#".len() + 64;

/// ASCII letters in lower case; what has a meaning in a key, or none in a line of text, as `%` and two digits. Says
/// whether all of it is ASCII.
pub(super) fn escape(value: &[u8], text: &mut String) -> bool {
    if value == ABSENT.as_bytes() {
        text.push_str(ABSENT);
        return true;
    }
    let mut is_ascii = true;
    for byte in value.iter().map(u8::to_ascii_lowercase) {
        match is_plain(byte) {
            true => text.push(byte.into()),
            false => {
                is_ascii &= byte.is_ascii();
                write!(text, "%{byte:02x}").expect("a string grows as needed");
            }
        }
    }
    is_ascii
}

/// Whether a byte stands for itself in a key.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'@' | b'+' | b':')
}

/// Whether a value is a client, alone or with its netblock: so an address is named that no database knows.
pub fn is_address(value: &str) -> bool {
    netblock::parse(value).is_some()
}

/// A value in the form of keys, from what an administrator wrote: plain, or as the log shows it.
pub fn escaped(value: &str) -> String {
    let mut text = String::new();
    match is_escaped(value) {
        true => text += value,
        false => {
            escape(value.as_bytes(), &mut text);
        }
    }
    text
}

/// Whether a value is as the log shows it. What is cut there ends in a digest.
fn is_escaped(value: &str) -> bool {
    if value == ABSENT {
        return true;
    }
    let value = match value.split_once(DIGEST_MARK) {
        Some((beginning, digest)) if is_digest(digest) => beginning,
        _ => value,
    };
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| byte.filter(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_escape = byte == b'%' && digit(bytes.next()).is_some() && digit(bytes.next()).is_some();
        if !is_plain(byte) && !is_escape {
            return false;
        }
    }
    true
}

/// A value of a key as it was, as far as it is text.
pub fn unescaped(value: &str) -> String {
    String::from_utf8_lossy(&unescaped_bytes(value)).into_owned()
}

/// A value of a key as it was, but for its letters' case.
pub(super) fn unescaped_bytes(value: &str) -> Vec<u8> {
    percent::decode(value)
}

/// Whether a value is cut, and ends in a digest.
pub(super) fn is_cut(value: &str) -> bool {
    value.contains(DIGEST_MARK)
}

/// Whether this is what stands behind the mark of a digest.
pub fn is_digest(text: &str) -> bool {
    text.len() == MAX_DIGEST - 1 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

const _: () = assert!(MAX_DIGEST <= MAX_PART && MAX_DIGEST < MAX_TEXT, "a digest fits where a text does not");

/// The SHA-256 digest of a text, or that in it if it is cut.
pub(super) fn digest(text: &str) -> String {
    if let Some(at) = text.find(DIGEST_MARK) {
        return text[at..].to_owned();
    }
    let mut digest = String::from(DIGEST_MARK);
    for byte in Sha256::digest(text) {
        write!(digest, "{byte:02x}").expect("a string grows as needed");
    }
    digest
}

/// A text that is too long is cut, and ends in its digest.
pub(super) fn bounded(text: String) -> Box<str> {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let digest = digest(&text);
    let mut beginning = &text[..MAX_TEXT - MAX_DIGEST];
    // No half of an escape stays.
    if let Some(at) = beginning.rfind('%').filter(|at| at + 3 > beginning.len()) {
        beginning = &beginning[..at];
    }
    format!("{beginning}{digest}").into()
}
