//! Which server has a key.
//!
//! Each key belongs to the server that scores highest for it (rendezvous
//! hashing), so adding or losing a server moves only that server's share. The
//! score is SipHash-1-3 with a zero key over the server's address, as logs
//! show it, and the key: the same in every build, on every host.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// How high a server ranks for a key; the highest has it.
pub fn score(server: &str, key: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(server.as_bytes());
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_the_same_in_every_build() {
        assert_eq!(score("inet:127.0.0.1:11211", b"connshaper:192.0.2.1"), 17_110_413_493_875_272_879);
    }

    #[test]
    fn a_lost_server_moves_only_its_share() {
        let highest = |servers: &[&'static str], key: &str| {
            servers.iter().copied().max_by_key(|server| score(server, key.as_bytes())).unwrap()
        };
        let (three, two) = (["a", "b", "c"], ["a", "b"]);
        let mut moved = 0;
        for key in (0..3000).map(|number| format!("connshaper:{number}")) {
            let (before, after) = (highest(&three, &key), highest(&two, &key));
            assert!(before == after || before == "c");
            moved += usize::from(before != after);
        }
        assert!((900..1100).contains(&moved), "{moved} of 3000 keys moved");
    }
}
