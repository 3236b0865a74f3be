//! What administrators said of netblocks, as bytes.

use bytes::{Buf, BufMut};

use crate::policy::overrides::{Override, OverrideKind};
use crate::snapshot::fields::{put_bytes, take_bytes};
use crate::snapshot::section::SnapshotError;

/// Adds a list of words.
pub fn put(output: &mut Vec<u8>, words: &[Override]) {
    for word in words {
        put_bytes(output, word.netblock.to_string().as_bytes());
        put_bytes(output, word.kind.name().as_bytes());
        output.put_u64_le(word.ends);
        put_bytes(output, word.by.as_bytes());
    }
}

/// Takes a list off.
pub fn take(mut input: &[u8]) -> Result<Vec<Override>, SnapshotError> {
    let mut words = Vec::new();
    while input.has_remaining() {
        let netblock = text(take_bytes(&mut input)?)?.parse().map_err(|_| SnapshotError::Corrupt)?;
        let name = text(take_bytes(&mut input)?)?;
        let kind =
            [OverrideKind::Allow, OverrideKind::Ban, OverrideKind::Reset].into_iter().find(|kind| kind.name() == name);
        let ends = input.try_get_u64_le()?;
        let by = text(take_bytes(&mut input)?)?.to_owned();
        words.push(Override { netblock, kind: kind.ok_or(SnapshotError::Corrupt)?, ends, by });
    }
    Ok(words)
}

fn text(bytes: &[u8]) -> Result<&str, SnapshotError> {
    str::from_utf8(bytes).map_err(|_| SnapshotError::Corrupt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_afterwards() {
        let word = |netblock: &str, kind| Override {
            netblock: netblock.parse().unwrap(),
            kind,
            ends: 1_700_000_060,
            by: "root".to_owned(),
        };
        let words = [
            word("192.0.2.0/24", OverrideKind::Ban),
            word("2001:db8::1/128", OverrideKind::Allow),
            word("::/0", OverrideKind::Reset),
        ];
        let mut bytes = Vec::new();
        put(&mut bytes, &words);
        assert_eq!(take(&bytes).unwrap(), words);
        let mut one = Vec::new();
        put(&mut one, &words[..1]);
        for length in 1..one.len() {
            assert!(take(&one[..length]).is_err(), "{length}");
        }
    }
}
