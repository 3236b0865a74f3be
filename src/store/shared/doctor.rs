//! What the checks of `connshaper doctor` of every store have in common.

use std::fmt::Display;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use crate::observe::finding::{Finding, doubtful, right, wrong};

/// How long a server of the store may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take to answer without a remark.
pub const FAR: Duration = Duration::from_millis(10);

/// Runs the checks of a store's servers.
pub fn ask(store: &str, servers: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(servers),
        Err(error) => vec![wrong(format!("{store} cannot be checked: {error}"), "free memory or file descriptors")],
    }
}

/// Waits for a server of a store, but not for long.
pub async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

/// The finding about a server of a store that answered in this time.
pub fn distance(server: impl Display, time: Duration) -> Finding {
    let what = format!("{server} answers in {:.1} ms", time.as_secs_f64() * 1000.0);
    match time > FAR {
        true => doubtful(what, "every first request of a session waits that long; use a server that is closer"),
        false => right(what),
    }
}
