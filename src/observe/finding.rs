//! What `connshaper doctor` finds: whether something is right, or what to do about it.

use serde::Serialize;
use strum::IntoStaticStr;

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub state: Assessment,
    pub what: String,
    /// The remedy; none where it is right.
    pub remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, IntoStaticStr)]
#[strum(const_into_str, serialize_all = "snake_case")]
#[serde(rename_all = "lowercase")]
pub enum Assessment {
    Right,
    /// It works, but not as it could.
    Doubtful,
    /// It does not work.
    Wrong,
}

pub fn right(what: impl Into<String>) -> Finding {
    Finding { state: Assessment::Right, what: what.into(), remedy: None }
}

pub fn doubtful(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    not_right(Assessment::Doubtful, what, remedy)
}

pub fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    not_right(Assessment::Wrong, what, remedy)
}

pub fn not_right(state: Assessment, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { state, what: what.into(), remedy: Some(remedy.into()) }
}
