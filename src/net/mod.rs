//! What knows nothing of mail or limits: addresses, netblocks, streams, name resolution, the clock, shutdown.

pub mod address;
pub mod clock;
pub mod embedded;
pub mod files;
pub mod lookup;
pub mod netblock;
pub mod origin;
pub mod percent;
pub mod recent_map;
pub mod resolve;
pub mod secret;
pub mod shutdown;
pub mod signals;
pub mod stream;
pub mod tls;
pub mod users;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Serializes a type as the text that `Display` writes and `FromStr` reads.
macro_rules! serialize_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::string::String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serialize_as_text;

/// Locks a mutex, also after a thread has panicked with it in hand: what our mutexes guard is whole between any two
/// statements, and a release aborts on a panic anyway.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
