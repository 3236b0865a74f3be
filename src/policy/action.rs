//! The answer to a request over a limit: an access(5) action with its text.
//!
//! Postfix misreads an unknown word, a bare number or an empty action, some of
//! them as "permit". So an action is checked when the configuration is read,
//! and `Action::write` writes it without a check.

use bytes::BytesMut;

use super::overrides::MAX_NOTE;
use super::template::{Template, Values as TemplateValues, write_clipped};

pub use super::template::Values;

/// An access(5) action that refuses, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    template: Template,
    /// The text alone, for the doors without access(5).
    text: Template,
    /// What stands before the text, which an administrator's reason may replace; `None`: the action has no text.
    head: Option<Box<str>>,
    /// The HTTP status at the web door, as text.
    status: Box<str>,
}

/// The HTTP status of clients on the blacklist.
pub const BLACKLIST_STATUS: u16 = 403;

/// Why a configured action cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionError {
    /// Which setting is wrong.
    pub setting: ActionSetting,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

/// The setting that an `ActionError` is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActionSetting {
    /// `action`.
    Action,
    /// `text`.
    Text,
    /// `enhanced_status_code`.
    EnhancedStatusCode,
}

/// Longest answer, filled in. Postfix cuts SMTP replies at 510 bytes and adds
/// the client's name and address before the text.
const MAX_ANSWER: usize = 200;

/// Seconds; an smtpd process that sleeps serves no other client.
const LONGEST_SLEEP: u64 = 60;

/// Restrictions of postconf(5) that can only refuse, without an argument.
const RESTRICTIONS: [&str; 16] = [
    "reject_invalid_helo_hostname",
    "reject_multi_recipient_bounce",
    "reject_non_fqdn_helo_hostname",
    "reject_non_fqdn_recipient",
    "reject_non_fqdn_sender",
    "reject_plaintext_session",
    "reject_sender_login_mismatch",
    "reject_unauth_pipelining",
    "reject_unknown_client_hostname",
    "reject_unknown_helo_hostname",
    "reject_unknown_recipient_domain",
    "reject_unknown_reverse_client_hostname",
    "reject_unknown_sender_domain",
    "reject_unlisted_recipient",
    "reject_unlisted_sender",
    "reject_unverified_sender",
];

impl Action {
    /// Checks what the administrator wrote. `classes` are the names of restriction classes in main.cf.
    ///
    /// A lone word or reply code that can carry a text gets `code` and `text`; an action with a text of its own is taken
    /// whole. `status` is for the web door.
    pub fn new(action: &str, text: &str, code: &str, status: u16, classes: &[String]) -> Result<Self, ActionError> {
        let action = action.trim();
        let kind = ActionKind::of(action, classes)?;
        let code = enhanced_status_code(code)?;
        let lone = !action.contains(' ');
        if text.trim().is_empty() {
            let remedy = "write what the client is told, as in \"Too many connections\"".to_owned();
            return Err(ActionError { setting: ActionSetting::Text, problem: "an empty text".to_owned(), remedy });
        }
        let head = match kind {
            ActionKind::Reply { permanent } if lone => {
                Some(format!("{action} {}.{} ", if permanent { 5 } else { 4 }, code))
            }
            ActionKind::Reply { .. } | ActionKind::Text => {
                let mut words = action.split(' ').enumerate();
                let is_head = |(at, word): &(usize, &str)| *at == 0 || *at == 1 && enhanced_status_code(word).is_ok();
                Some(words.by_ref().take_while(is_head).map(|(_, word)| format!("{word} ")).collect())
            }
            ActionKind::Whole => None,
        };
        let whole = match &head {
            Some(head) if lone => format!("{head}{text}"),
            _ => action.to_owned(),
        };
        let setting = if whole.len() > action.len() { ActionSetting::Text } else { ActionSetting::Action };
        let template = Template::parse(&whole).map_err(|problem| ActionError {
            setting,
            remedy: problem.remedy(),
            problem: problem.to_string(),
        })?;
        if template.longest() > MAX_ANSWER {
            return Err(ActionError {
                setting,
                problem: format!("the answer can become longer than {MAX_ANSWER} bytes"),
                remedy: "shorten it: Postfix cuts long replies".to_owned(),
            });
        }
        // Where it is not part of the whole, which is checked, only the other doors use it.
        let text = Template::parse(text).map_err(|problem| ActionError {
            setting: ActionSetting::Text,
            remedy: problem.remedy(),
            problem: problem.to_string(),
        })?;
        Ok(Self { template, text, head: head.map(Into::into), status: status.to_string().into() })
    }

    pub fn status_text(&self) -> &str {
        &self.status
    }

    /// The text for the client, filled in.
    pub fn text(&self, values: &TemplateValues<'_>) -> String {
        let mut output = BytesMut::new();
        match values.note {
            Some(note) => write_note(note, &mut output),
            None => self.text.write(values, &mut output),
        }
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Appends the action to a reply, behind `action=`.
    pub fn write(&self, values: &TemplateValues<'_>, output: &mut BytesMut) {
        match (values.note, &self.head) {
            (Some(note), Some(head)) => {
                output.extend_from_slice(head.as_bytes());
                write_note(note, output);
            }
            _ => self.template.write(values, output),
        }
    }

    /// Its first word, as the log shows it.
    pub fn keyword(&self) -> &str {
        self.template.first_word()
    }
}

/// Appends an administrator's text.
fn write_note(note: &str, output: &mut BytesMut) {
    write_clipped(note.as_bytes(), MAX_NOTE, output).expect("a BytesMut grows as needed");
}

/// How Postfix reads an action, as far as we complete it.
enum ActionKind {
    /// Takes an enhanced status code and a text.
    Reply {
        /// The reply is 5xx, and so must the enhanced status code be.
        permanent: bool,
    },
    /// Takes a text only.
    Text,
    /// Is complete as it stands.
    Whole,
}

impl ActionKind {
    fn of(action: &str, classes: &[String]) -> Result<Self, ActionError> {
        let error = |problem: String, remedy: &str| {
            Err(ActionError { setting: ActionSetting::Action, problem, remedy: remedy.to_owned() })
        };
        let (word, rest) = action.split_once(' ').unwrap_or((action, ""));
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Self::of_number(word, rest);
        }
        let upper = word.to_ascii_uppercase();
        match upper.as_str() {
            "DEFER_IF_PERMIT" | "DEFER_IF_REJECT" | "DEFER" => Ok(Self::Reply { permanent: false }),
            "REJECT" => Ok(Self::Reply { permanent: true }),
            "WARN" | "INFO" | "HOLD" | "DISCARD" => Ok(Self::Text),
            "PREPEND" if rest.contains(':') => Ok(Self::Whole),
            "PREPEND" => error("PREPEND without a header".into(), "write PREPEND Name: value"),
            "FILTER" if rest.contains(':') => Ok(Self::Whole),
            "FILTER" => error("FILTER without a destination".into(), "write FILTER transport:destination"),
            "REDIRECT" | "BCC" if rest.contains('@') => Ok(Self::Whole),
            "REDIRECT" | "BCC" => {
                error(format!("{upper} without an address"), "write an address, as in user@example.org")
            }
            "SLEEP" => Self::of_sleep(rest, classes),
            "DUNNO" => error(
                "DUNNO would refuse no client".into(),
                "to try a limit out, write action = \"WARN over the limit\": Postfix then logs it and goes on",
            ),
            "OK" | "RELAY" | "PERMIT" => Self::permits(word),
            _ if upper.starts_with("PERMIT_") => Self::permits(word),
            _ if classes.iter().any(|class| class == action) => Ok(Self::Whole),
            _ if RESTRICTIONS.contains(&word.to_ascii_lowercase().as_str()) && rest.is_empty() => Ok(Self::Whole),
            _ => error(
                format!("Postfix does not know the action {word:?} and would answer 451 to every mail"),
                "write an action of access(5); a class from smtpd_restriction_classes must be listed in restriction_classes too",
            ),
        }
    }

    fn of_number(word: &str, rest: &str) -> Result<Self, ActionError> {
        let error = |problem: String| {
            let remedy =
                "write a reply code from 400 to 599 with a text, as in \"450 4.7.0 try again later\"".to_owned();
            Err(ActionError { setting: ActionSetting::Action, problem, remedy })
        };
        if word.is_empty() {
            return error("an empty action means OK to Postfix: everyone passes, and later checks are skipped".into());
        }
        match word.as_bytes() {
            [class @ (b'4' | b'5'), _, _] => Ok(Self::Reply { permanent: *class == b'5' }),
            _ if rest.is_empty() => {
                error(format!("the number {word} means OK to Postfix: everyone passes, and later checks are skipped"))
            }
            _ => error(format!("{word} is not a reply code that refuses")),
        }
    }

    fn of_sleep(rest: &str, classes: &[String]) -> Result<Self, ActionError> {
        let (seconds, then) = rest.split_once(' ').unwrap_or((rest, ""));
        if seconds.is_empty() || !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
            let remedy = "write sleep SECONDS, and what follows, as in \"sleep 1 defer_if_permit\"".to_owned();
            return Err(ActionError {
                setting: ActionSetting::Action,
                problem: "sleep without seconds".into(),
                remedy,
            });
        }
        if seconds.parse().is_ok_and(|seconds: u64| seconds > LONGEST_SLEEP) {
            let remedy =
                format!("write {LONGEST_SLEEP} seconds at most: an smtpd process sleeps, and does nothing else");
            return Err(ActionError {
                setting: ActionSetting::Action,
                problem: format!("sleep {seconds} is long"),
                remedy,
            });
        }
        if !then.is_empty() && !["reject", "defer", "defer_if_permit", "defer_if_reject"].contains(&then) {
            Self::of(then, classes)?;
        }
        Ok(Self::Whole)
    }

    fn permits(word: &str) -> Result<Self, ActionError> {
        Err(ActionError {
            setting: ActionSetting::Action,
            problem: format!("{word} would let a client over its limit skip the checks that follow"),
            remedy: "write an action that refuses, as in \"DEFER_IF_PERMIT\"".to_owned(),
        })
    }
}

/// The subject and detail of an enhanced status code (RFC 3463); its class follows the action.
fn enhanced_status_code(code: &str) -> Result<&str, ActionError> {
    let number = |part: &str| !part.is_empty() && part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let subject_and_detail = code.strip_prefix("4.").or(code.strip_prefix("5."));
    match subject_and_detail.and_then(|rest| rest.split_once('.')) {
        Some((subject, detail)) if number(subject) && number(detail) => Ok(&code[2..]),
        _ => Err(ActionError {
            setting: ActionSetting::EnhancedStatusCode,
            problem: format!("{code:?} is not an enhanced status code of a refusal"),
            remedy: "write three numbers, the first 4 or 5, as in \"4.7.0\"".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::KeyPart;

    fn answer(action: &str) -> String {
        answer_with(action, None)
    }

    fn answer_with(action: &str, note: Option<&str>) -> String {
        let classes = ["slow_down".to_owned()];
        let action = Action::new(action, "wait {left} s", "4.7.0", 429, &classes).unwrap();
        let mut output = BytesMut::new();
        let (client, key) = ([192, 0, 2, 1].into(), &KeyPart::client([192, 0, 2, 1].into(), 32, 64));
        let (limit, request, now) = ("connections", None, 0);
        let values = Values { client, limit, count: 11, threshold: 10, left: 7, key, request, note, now };
        action.write(&values, &mut output);
        String::from_utf8(output.to_vec()).unwrap()
    }

    #[test]
    fn lone_words_get_code_and_text_and_whole_actions_stay_as_they_are() {
        let cases = [
            ("DEFER_IF_PERMIT", "DEFER_IF_PERMIT 4.7.0 wait 7 s"),
            ("defer", "defer 4.7.0 wait 7 s"),
            ("REJECT", "REJECT 5.7.0 wait 7 s"),
            ("450", "450 4.7.0 wait 7 s"),
            ("521", "521 5.7.0 wait 7 s"),
            ("421 4.2.0 {client}: {count} of {threshold}", "421 4.2.0 192.0.2.1: 11 of 10"),
            ("REJECT go away", "REJECT go away"),
            ("WARN", "WARN wait 7 s"),
            ("HOLD too many", "HOLD too many"),
            ("PREPEND X-Limit: {limit}", "PREPEND X-Limit: connections"),
            ("FILTER slow:[127.0.0.1]:10025", "FILTER slow:[127.0.0.1]:10025"),
            ("REDIRECT postmaster@example.org", "REDIRECT postmaster@example.org"),
            ("slow_down", "slow_down"),
            ("reject_unverified_sender", "reject_unverified_sender"),
            ("sleep 2 defer_if_permit", "sleep 2 defer_if_permit"),
        ];
        for (action, expected) in cases {
            assert_eq!(answer(action), expected, "{action}");
        }
    }

    #[test]
    fn what_an_administrator_said_takes_the_place_of_the_text_where_there_is_one() {
        for (action, expected) in [
            ("DEFER_IF_PERMIT", "DEFER_IF_PERMIT 4.7.0 stolen: {left}"),
            ("REJECT", "REJECT 5.7.0 stolen: {left}"),
            ("521 5.3.2 {client}: go away", "521 5.3.2 stolen: {left}"),
            ("REJECT go away", "REJECT stolen: {left}"),
            ("HOLD too many", "HOLD stolen: {left}"),
            ("PREPEND X-Limit: {limit}", "PREPEND X-Limit: connections"),
            ("slow_down", "slow_down"),
        ] {
            assert_eq!(answer_with(action, Some("stolen: {left}")), expected, "{action}");
        }
        assert_eq!(answer_with("REJECT", Some("gest\u{f6}rt\n")), r"REJECT 5.7.0 gest\x{F6}rt?");
    }

    #[test]
    fn actions_that_permit_or_that_postfix_does_not_know_are_refused() {
        let refused = [
            "",
            " ",
            "0",
            "450450",
            "200 fine",
            "OK",
            "ok",
            "RELAY",
            "PERMIT",
            "permit_mynetworks",
            "DUNNO",
            "DEFFER",
            "smtp:[127.0.0.1]",
            "PREPEND",
            "FILTER",
            "BCC",
            "REDIRECT nobody",
            "sleep",
            "sleep soon",
            "sleep 1 permit",
            "reject_unverified_sender now",
        ];
        for action in refused {
            let error = Action::new(action, "text", "4.7.0", 429, &[]).unwrap_err();
            assert_eq!(error.setting, ActionSetting::Action, "{action}");
        }
    }

    #[test]
    fn text_and_code_are_checked_too() {
        let setting = |text: &str, code: &str| Action::new("DEFER", text, code, 429, &[]).unwrap_err().setting;
        assert_eq!(setting("{who}", "4.7.0"), ActionSetting::Text);
        assert_eq!(setting(" ", "4.7.0"), ActionSetting::Text);
        assert_eq!(setting("a\nb", "4.7.0"), ActionSetting::Text);
        assert_eq!(setting("\u{e9}t\u{e9}", "4.7.0"), ActionSetting::Text);
        assert_eq!(setting(&"x".repeat(201), "4.7.0"), ActionSetting::Text);
        for code in ["2.7.0", "4.7", "4.7.0.1", "4.x.0", "4.7.1234", ""] {
            assert_eq!(setting("x", code), ActionSetting::EnhancedStatusCode, "{code}");
        }
    }
}
