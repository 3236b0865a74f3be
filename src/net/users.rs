//! Names of users, for logs.

use std::time::Duration;

use nix::unistd::{Uid, User};
use tokio::time::timeout;

use super::lookup::Lookups;

/// How long the name service may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The number that the kernel shows for every user that a user namespace does not map. Its name would blame `nobody`.
const UNMAPPED: u32 = 65534;

static USERS: Lookups<u32, Option<String>> = Lookups::none();

/// The name of a user; its number where it has none, or none in time.
pub async fn name(uid: u32) -> String {
    if uid == UNMAPPED {
        return uid.to_string();
    }
    let look_up = |uid: &u32| User::from_uid(Uid::from_raw(*uid)).ok().flatten().map(|user| user.name);
    named(uid, look_up).await
}

async fn named(uid: u32, look_up: impl FnOnce(&u32) -> Option<String> + Send + 'static) -> String {
    let found = timeout(LOOKUP_TIMEOUT, USERS.get(uid, look_up)).await;
    found.ok().flatten().flatten().unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[tokio::test]
    async fn a_user_is_named_unless_the_name_service_hangs_or_knows_none() {
        assert_eq!(name(0).await, "root");
        assert_eq!(name(UNMAPPED).await, "65534");
        assert_eq!(named(4_000_000_001, |_| None).await, "4000000001");
        let (end, hangs) = sync_channel::<()>(0);
        let hanging = move |_: &u32| {
            // Until the test is over.
            let _ = hangs.recv();
            None
        };
        assert_eq!(named(4_000_000_002, hanging).await, "4000000002");
        drop(end);
    }
}
