//! `connshaper allow CLIENT|PREFIX for DURATION`: passes uncounted for a while, on every host that shares the store.

use serde_json::Value;

use super::ban::say;
use super::{Arguments, Control, Problem};
use crate::net::clock::Now;
use crate::policy::overrides::OverrideKind;

/// Lets all clients of a target pass, whatever lists, bans and limits say.
pub async fn answer(control: &Control, user: &str, arguments: &Arguments, now: Now) -> Result<Value, Problem> {
    say(control, user, arguments, OverrideKind::Allow, now).await
}
