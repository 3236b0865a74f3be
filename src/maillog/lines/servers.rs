//! Other mail servers, told by what their logs look like.

use memchr::memmem;

/// The server whose program wrote a line that is none of Postfix's.
pub fn of_program(program: &[u8], message: &[u8]) -> Option<&'static str> {
    let has = |text: &str| memmem::find(message, text.as_bytes()).is_some();
    Some(match program {
        b"exim" | b"exim4" => "Exim",
        b"sendmail" | b"sm-mta" | b"sm-msp-queue" => "Sendmail",
        b"qmail" | b"qmail-send" | b"qmail-smtpd" => "qmail",
        b"smtpd" if has("smtp connected") || has("smtp event=") => "OpenSMTPD",
        b"MSExchangeTransport" => "Exchange",
        b"courieresmtpd" | b"courierd" => "Courier",
        _ => return None,
    })
}

/// What to say of a log of another server.
pub fn is_of(server: &str) -> String {
    format!("a log of {server}; only Postfix's logs are understood")
}

/// The server that wrote a line without a program, as far as one can tell.
pub fn of_line(line: &[u8]) -> Option<&'static str> {
    let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    let first = words.next()?;
    if first.len() == 25 && first.starts_with(b"@4") && first[1..].iter().all(u8::is_ascii_hexdigit) {
        return Some("qmail");
    }
    // `2026-11-01 09:05:07 1t6nXa-0001Ab-2C <= ...`; a zone or a process number may stand before the id.
    let second = words.next()?;
    if first.len() != 10 || second.len() < 8 || first.get(4) != Some(&b'-') {
        return None;
    }
    let words: Vec<&[u8]> = words.take(4).collect();
    let is_id = |word: &[u8]| {
        let mut parts = word.split(|byte| *byte == b'-');
        let lengths = [(); 3].map(|()| parts.next().map_or(0, <[u8]>::len));
        lengths[0] == 6 && matches!(lengths[1], 6 | 11) && matches!(lengths[2], 2 | 4) && parts.next().is_none()
    };
    let is_sign = |word: &[u8]| matches!(word, b"<=" | b"=>" | b"->" | b"==" | b"**" | b"Completed");
    words.windows(2).any(|pair| is_id(pair[0]) && is_sign(pair[1])).then_some("Exim")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_without_program_names_are_known_by_their_lines() {
        let line = b"2026-11-01 09:05:07 1t6nXa-0001Ab-2C <= a@example.org H=mx [192.0.2.1] P=esmtp S=9";
        assert_eq!(of_line(line), Some("Exim"));
        assert_eq!(of_line(b"@400000006732a1b30c9f1a2c new msg 1234"), Some("qmail"));
        assert_eq!(of_line(b"2026-11-01 09:05:07 hello world <= x"), None);
        assert_eq!(of_line(b""), None);
    }
}
