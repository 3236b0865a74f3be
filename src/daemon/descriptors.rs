//! How many files may be open: a policy connection is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for everything else: listeners, the store, logs, files read at a reload.
const OTHERS: u64 = 64;

/// Raises the limit on open files as far as it goes, and says how many policy connections that allows.
pub fn policy_connections() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return usize::MAX;
    };
    // A sandbox may forbid it; then the limit stays what it is.
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(limit.saturating_sub(OTHERS)).unwrap_or(usize::MAX).max(1)
}
