//! `connshaper reload`: the configuration is read again, as at SIGHUP, and the answer says how that went.

use serde_json::Value;
use tokio::sync::oneshot;

use super::{Control, Problem};
use crate::sysexits;

/// Waits until the new configuration is in force, or found to be wrong.
pub async fn answer(control: &Control) -> Result<Value, Problem> {
    let (told, outcome) = oneshot::channel();
    let gone = |_| Problem::unavailable("the daemon is about to stop");
    control.reload.send(told).await.map_err(|_| Problem::unavailable("the daemon is about to stop"))?;
    outcome.await.map_err(gone)?.map_err(|error| Problem { error, code: sysexits::CONFIG })
}
