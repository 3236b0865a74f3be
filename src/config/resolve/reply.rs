//! Answers: the actions of limits and of the blacklist, with their texts.

use super::super::diagnostics::quoted;
use super::super::effective::Origin;
use super::super::settings::{TableSettings, default_word};
use super::limit::{self, Timeouts};
use crate::policy::Blacklist;
use crate::policy::action::{Action, ActionError, ActionSetting, BLACKLIST_STATUS};
use crate::policy::key::KeySpec;
use crate::policy::limit::CountKind;

/// The default of `text` where it is not the one of the key: it names what is counted, and by what.
pub(in crate::config) fn default_text(counts: CountKind, per: &KeySpec) -> Option<String> {
    let whose = match per.is_client() {
        true => "from {client}",
        false if per.is_of_recipient() => "for {key}",
        false => "from {key}",
    };
    let what = match counts {
        CountKind::Connections if per.is_client() => return None,
        CountKind::Connections => "many connections",
        CountKind::Messages => "many messages",
        CountKind::Recipients => "many recipients",
        CountKind::Bytes => "much mail",
        CountKind::Clients => "many different clients",
        CountKind::Requests => "many requests",
        CountKind::Logins => "many logins",
        CountKind::FailedLogins => "many failed logins",
        CountKind::FailedPasswords => "many wrong passwords",
    };
    Some(format!("Too {what} {whose}, try again in {{left}} seconds"))
}

/// A limit's action, and the one under stress.
pub(super) fn actions(
    s: &TableSettings,
    counts: CountKind,
    per: &KeySpec,
    classes: &[String],
) -> (Action, Option<Action>) {
    let default = default_text(counts, per).filter(|_| s.origin("text") == Origin::Default);
    let text: String = default.unwrap_or_else(|| s.get("text"));
    let code: String = s.get("enhanced_status_code");
    let status = s.get::<u16>("status");
    let new = |action: String| Action::new(&action, &text, &code, status, classes);
    let usual = new(s.get("action"));
    let stress = s.get::<Option<String>>("stress_action").map(new).transpose();
    match (usual, stress) {
        (Ok(usual), Ok(stress)) => return (usual, stress),
        (Err(error), _) => note(s, error, ["action", "enhanced_status_code", "text"]),
        (_, Err(error)) => note(s, error, ["stress_action", "enhanced_status_code", "text"]),
    }
    (default_action(), None)
}

/// The built-in action, in place of one that is wrong: such a configuration is never in force.
fn default_action() -> Action {
    let [action, text, code] = ["action", "text", "enhanced_status_code"].map(default_word);
    Action::new(action, text, code, BLACKLIST_STATUS, &[]).expect("the defaults are an action")
}

/// Notes what is wrong with an action that is made of these keys.
fn note(s: &TableSettings, error: ActionError, keys: [&'static str; 3]) {
    let key = match error.setting {
        ActionSetting::Action => keys[0],
        ActionSetting::EnhancedStatusCode => keys[1],
        ActionSetting::Text => keys[2],
    };
    // A default can clash with a value that is set: the mistake is there. Where a limit sets none of them,
    // it is the top level's mistake, and noted there.
    let candidates = [key, keys[0], keys[1], keys[2]];
    if let Some(key) = candidates.into_iter().find(|key| s.sets(key)) {
        s.error::<()>(key, error.problem, error.remedy);
    }
}

/// The restriction classes that actions may name.
pub(super) fn classes(s: &TableSettings) -> Vec<String> {
    let classes = s.strings("restriction_classes").unwrap_or_default();
    for (class, span) in classes {
        let letters = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if class.is_empty() || !class.bytes().all(letters) {
            let problem = format!("{} is not a valid name of a restriction class", quoted(class));
            let remedy = "write a name that stands in main.cf's smtpd_restriction_classes";
            s.diagnostics.error::<()>(span, problem, remedy);
        }
    }
    classes.iter().map(|(class, _)| class.clone()).collect()
}

/// The default of `blacklist_text` where the banned key is not an address.
const KEY_TEXT: &str = "Access denied for {key}";

/// The answer to clients on the blacklist, and to requests that an administrator's ban refuses.
pub(super) fn blacklist(s: &TableSettings, timeouts: Timeouts, classes: &[String]) -> Blacklist {
    let set: String = s.get("blacklist_action");
    let own = Some(set.clone()).filter(|action| !["refuse", "delay"].contains(&action.as_str()));
    let is_own = own.is_some();
    let (text, code): (String, String) = (s.get("blacklist_text"), s.get("enhanced_status_code"));
    let own_action = own.unwrap_or_else(|| s.get("action"));
    let action = Action::new(&own_action, &text, &code, BLACKLIST_STATUS, classes);
    let action = action.unwrap_or_else(|error| {
        // A mistake in the top level's action was noted there.
        if is_own || error.setting == ActionSetting::Text {
            note(s, error, ["blacklist_action", "enhanced_status_code", "blacklist_text"]);
        }
        default_action()
    });
    let delays = set == "delay";
    let key_text = if text == default_word("blacklist_text") { KEY_TEXT } else { &text };
    let key_action = Action::new(&own_action, key_text, &code, BLACKLIST_STATUS, classes);
    let key_action = key_action.unwrap_or_else(|_| action.clone());
    let longest = limit::longest_delay(s, timeouts, delays.then_some("blacklist_action"));
    Blacklist { action, key_action, delay: delays.then_some(longest.max), max_concurrent: longest.max_concurrent }
}
