//! Hashes what strangers choose with a secret, so that they cannot choose values with equal hashes.
//!
//! There is one for the life of the daemon, so that a hash which is remembered
//! still means the same after an upgrade.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::OnceLock;

use siphasher::sip::SipHasher13;

static SECRET: OnceLock<[u64; 2]> = OnceLock::new();

/// The hash of a value under the secret.
pub fn hash(value: impl Hash) -> u64 {
    let [a, b] = get();
    let mut hasher = SipHasher13::new_with_keys(a, b);
    value.hash(&mut hasher);
    hasher.finish()
}

/// The secret; for the new program of an upgrade, and nobody else.
pub fn get() -> [u64; 2] {
    *SECRET.get_or_init(random)
}

/// Goes on with the secret of the old program. Returns whether that can be done: nothing was hashed with another.
pub fn restore(secret: [u64; 2]) -> bool {
    *SECRET.get_or_init(|| secret) == secret
}

/// Numbers that nobody can guess.
pub fn random() -> [u64; 2] {
    // Without `unsafe`, the standard library's own seed is the nearest source of entropy.
    [(); 2].map(|()| RandomState::new().hash_one(0))
}
