//! What is answered over the limit: an access(5) action with its text.

/// An access(5) action that refuses, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {}

/// Why a configured action cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionError {
    /// Which setting is wrong.
    pub part: Part,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// The setting an `ActionError` speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `action`.
    Action,
    /// `text`.
    Text,
    /// `enhanced_status_code`.
    EnhancedStatusCode,
}

impl Action {
    /// Checks what the administrator wrote. `classes` are the names of restriction classes.
    pub fn new(action: &str, text: &str, code: &str, classes: &[String]) -> Result<Self, ActionError> {
        let _ = (action, text, code, classes);
        Ok(Self {})
    }
}
