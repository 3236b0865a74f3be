//! What is answered: the actions of limits and of the blacklist, with their texts.

use super::super::settings::Settings;
use crate::config::diagnostics::quoted;
use crate::config::resolve::penalties as ladder;
use crate::config::resolve::penalties::Patience;
use crate::policy::Blacklist;
use crate::policy::action::{self, Action, ActionError, Part};
use crate::policy::limit::Counts;

/// What the blacklist tells unless configured.
pub(in crate::config) const BLACKLIST_TEXT: &str = "Access denied for {client}";

/// An answer as the configuration has it, in parts.
#[derive(Clone)]
pub(super) struct Answer {
    action: String,
    /// `None`: one that says what there was too much of.
    text: Option<String>,
    enhanced_status_code: String,
    stress_action: Option<String>,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            action: action::DEFAULT_ACTION.to_owned(),
            text: None,
            enhanced_status_code: action::DEFAULT_CODE.to_owned(),
            stress_action: None,
        }
    }
}

impl Answer {
    /// What a table says; the rest as it is here.
    pub fn with(&self, s: &Settings) -> Self {
        let said = |key| s.string(key).map(|(text, _)| text);
        Self {
            action: said("action").unwrap_or_else(|| self.action.clone()),
            text: said("text").or_else(|| self.text.clone()),
            enhanced_status_code: said("enhanced_status_code").unwrap_or_else(|| self.enhanced_status_code.clone()),
            stress_action: said("stress_action").or_else(|| self.stress_action.clone()),
        }
    }
}

/// What is there too much of.
pub(in crate::config) fn default_text(counts: Counts) -> String {
    let what = match counts {
        Counts::Connections => return action::DEFAULT_TEXT.to_owned(),
        Counts::Messages => "many messages",
        Counts::Recipients => "many recipients",
        Counts::Bytes => "much mail",
        Counts::Requests => "many requests",
    };
    format!("Too {what} from {{client}}, try again in {{left}} seconds")
}

/// A limit's action, and the one under stress.
pub(super) fn read(s: &Settings, above: &Answer, counts: Counts, classes: &[String]) -> (Action, Option<Action>) {
    let answer = above.with(s);
    let text = answer.text.unwrap_or_else(|| default_text(counts));
    let new = |action: &str| Action::new(action, &text, &answer.enhanced_status_code, classes);
    let usual = new(&answer.action);
    let stress = answer.stress_action.as_deref().map(&new).transpose();
    match (usual, stress) {
        (Ok(usual), Ok(stress)) => return (usual, stress),
        (Err(error), _) => wrong(s, error, ["action", "enhanced_status_code", "text"]),
        (_, Err(error)) => wrong(s, error, ["stress_action", "enhanced_status_code", "text"]),
    }
    (Action::default(), None)
}

/// Notes what is wrong with an action that is made of these keys.
fn wrong(s: &Settings, error: ActionError, keys: [&'static str; 3]) {
    let key = match error.part {
        Part::Action => keys[0],
        Part::EnhancedStatusCode => keys[1],
        Part::Text => keys[2],
    };
    // A default can clash with what was said: then what was said is the place. Where nothing was said, it
    // is the top level's mistake, and noted there.
    let places = [key, keys[0], keys[1], keys[2]];
    if let Some(span) = places.into_iter().find_map(|key| s.span(key)) {
        s.diagnostics.error::<()>(&span, error.problem, error.remedy);
    }
}

/// The restriction classes that actions may name.
pub(super) fn classes(s: &Settings) -> Vec<String> {
    let classes = s.list("restriction_classes").unwrap_or_default();
    for (class, span) in &classes {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if class.is_empty() || !class.bytes().all(letters) {
            let problem = format!("{} is no name of a restriction class", quoted(class));
            let remedy = "write a name that stands in main.cf's smtpd_restriction_classes";
            s.diagnostics.error::<()>(span, problem, remedy);
        }
    }
    classes.into_iter().map(|(class, _)| class).collect()
}

/// What is done about clients on the blacklist.
pub(super) fn blacklist(s: &Settings, top: &Answer, patience: Patience, classes: &[String]) -> Blacklist {
    let said = s.string("blacklist_action").map(|(action, _)| action);
    let text = s.string("blacklist_text").map_or_else(|| BLACKLIST_TEXT.to_owned(), |(text, _)| text);
    let own = said.as_deref().filter(|action| !["refuse", "delay"].contains(action));
    let action = Action::new(own.unwrap_or(&top.action), &text, &top.enhanced_status_code, classes);
    let action = action.unwrap_or_else(|error| {
        // What is wrong with the top level's action was noted there.
        if own.is_some() || error.part == Part::Text {
            wrong(s, error, ["blacklist_action", "enhanced_status_code", "blacklist_text"]);
        }
        Action::default()
    });
    let delays = said.as_deref() == Some("delay");
    let waits = ladder::waits(s, patience, delays.then_some("blacklist_action"));
    Blacklist { action, delay: delays.then_some(waits.max), max_concurrent: waits.max_concurrent }
}
