//! Bytes that are written as `%` and two digits.

use std::fmt::Write;

/// The bytes of a text, `%` and two hexadecimal digits as the byte that they stand for.
pub fn decode(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let [first, after @ ..] = rest {
        let escape = after.get(..2).filter(|digits| *first == b'%' && digits.iter().all(u8::is_ascii_hexdigit));
        let escape = escape.and_then(|digits| str::from_utf8(digits).ok());
        let escaped = escape.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &after[2..] } else { after };
    }
    bytes
}

/// The text in these bytes; what is none, or a control character, as `%` and two digits.
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let escape = |text: &mut String, bytes: &[u8]| {
        bytes.iter().for_each(|byte| write!(text, "%{byte:02x}").expect("a string grows as needed"));
    };
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            match letter.is_control() {
                true => escape(&mut text, letter.encode_utf8(&mut [0; 4]).as_bytes()),
                false => text.push(letter),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_in_clear_and_what_could_forge_a_line_is_not() {
        for (escaped, clear) in [
            ("sasl_username=j%c3%bcrgen@example.com", "sasl_username=j\u{fc}rgen@example.com"),
            ("login=domain%5cjoe%20doe", "login=domain\\joe doe"),
            ("login=a%0ab%00%7f%c2%85", "login=a%0ab%00%7f%c2%85"),
            ("login=%ff%c3x", "login=%ff%c3x"),
            ("100%25", "100%"),
            ("%", "%"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(printable(&decode(escaped)), clear);
        }
    }
}
