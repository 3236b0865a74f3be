//! The stages at which Postfix can ask about what a limit counts, and the messages about limits that it never asks
//! about.

use std::fmt::Display;

use super::attribute::Attribute;
use super::conditions::{Condition, Test};
use super::key_field::KeyField;
use super::limit::{CountKind, Limit};
use super::request::Stage;

/// The stages of an SMTP session at which Postfix asks, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestrictionStage {
    Connect,
    Helo,
    Mail,
    Rcpt,
    Data,
    EndOfData,
    Etrn,
}

impl RestrictionStage {
    pub const ALL: [Self; 7] =
        [Self::Connect, Self::Helo, Self::Mail, Self::Rcpt, Self::Data, Self::EndOfData, Self::Etrn];

    /// What `protocol_state` is then.
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Self::Connect => &["CONNECT", "XCLIENT"],
            Self::Helo => &["HELO", "EHLO"],
            Self::Mail => &["MAIL"],
            Self::Rcpt => &["RCPT"],
            Self::Data => &["DATA"],
            Self::EndOfData => &["END-OF-MESSAGE"],
            Self::Etrn => &["ETRN"],
        }
    }

    pub fn word(self) -> &'static str {
        self.states()[0]
    }

    /// Whether there is a message then, with its `instance`.
    pub fn is_of_message(self) -> bool {
        matches!(self, Self::Rcpt | Self::Data | Self::EndOfData)
    }

    /// Whether a recipient has been accepted before.
    pub fn is_late(self) -> bool {
        matches!(self, Self::Data | Self::EndOfData)
    }

    /// The values of `Request::state` at this stage. `Other` and `Verify` occur elsewhere as well.
    pub fn request_stages(self) -> &'static [Stage] {
        match self {
            Self::Connect => &[Stage::Connect, Stage::Xclient],
            Self::Helo | Self::Mail => &[Stage::Other],
            Self::Rcpt => &[Stage::Rcpt],
            Self::Data => &[Stage::Data],
            Self::EndOfData => &[Stage::EndOfMessage],
            Self::Etrn => &[Stage::Verify],
        }
    }

    /// The list of that stage.
    pub fn list(self) -> &'static str {
        match self {
            Self::Connect => "smtpd_client_restrictions",
            Self::Helo => "smtpd_helo_restrictions",
            Self::Mail => "smtpd_sender_restrictions",
            Self::Rcpt => "smtpd_recipient_restrictions",
            Self::Data => "smtpd_data_restrictions",
            Self::EndOfData => "smtpd_end_of_data_restrictions",
            Self::Etrn => "smtpd_etrn_restrictions",
        }
    }
}

/// The message about a limit that never counts anything.
pub fn never_counts(limit: &Limit, why: impl Display) -> String {
    format!("limit {} never counts anything: {why}", limit.name)
}

/// The same where Postfix does not ask at the stages that it needs.
pub fn needs_stages(limit: &Limit, stages: &[RestrictionStage]) -> String {
    match stages {
        [] => never_counts(limit, "no request of Postfix has all that it needs"),
        _ => {
            let words: Vec<_> = stages.iter().map(|stage| stage.word()).collect();
            never_counts(limit, format_args!("it needs a request at {}", words.join(" or ")))
        }
    }
}

/// What to do where no request has all that a limit needs.
pub fn change_limit(limit: &Limit) -> String {
    format!("change count, per or match of limit {}", limit.name)
}

/// Whether all that it counts is taken back, unless Postfix asks later than at RCPT.
pub fn gives_all_back(limit: &Limit) -> bool {
    limit.counts == CountKind::Recipients && limit.count_unsent == Some(false)
}

/// The message about a limit whose hits are all taken back, and the remedy.
pub fn all_goes_back(limit: &Limit) -> (String, String) {
    let problem = format!(
        "limit {} keeps no counts: with count_unsent = false they are taken back unless Postfix also asks at DATA or \
         END-OF-MESSAGE, and it asks at neither",
        limit.name
    );
    let list = RestrictionStage::EndOfData.list();
    (problem, format!("write the same check_policy_service in {list}, or remove count_unsent of limit {}", limit.name))
}

/// The stages at which a request can have all that the limit needs.
pub fn stages(limit: &Limit) -> Vec<RestrictionStage> {
    let counted = |stage: &RestrictionStage| match limit.counts {
        CountKind::Connections => *stage != RestrictionStage::Etrn,
        CountKind::Bytes => *stage == RestrictionStage::EndOfData,
        CountKind::Messages | CountKind::Clients => stage.is_of_message(),
        CountKind::Recipients if limit.per.is_of_recipient() => *stage == RestrictionStage::Rcpt,
        CountKind::Recipients => stage.is_of_message(),
        _ => true,
    };
    let needed = attributes(limit);
    let known = |stage: &RestrictionStage| needed.iter().all(|attribute| is_known(*attribute, *stage));
    let all = RestrictionStage::ALL.into_iter().filter(counted).filter(known).filter(|stage| may_be_at(limit, *stage));
    let mut stages: Vec<_> = all.collect();
    // Most connections never come to DATA.
    if limit.counts == CountKind::Connections && stages.iter().any(|stage| !stage.is_late()) {
        stages.retain(|stage| !stage.is_late());
    }
    stages
}

/// Whether it counts only those who have logged in.
pub fn needs_login(limit: &Limit) -> bool {
    attributes(limit).iter().any(|attribute| is_of_login(*attribute))
}

/// The attributes without which it never counts.
fn attributes(limit: &Limit) -> Vec<Attribute> {
    let has_value = |condition: &&Condition| condition.test != Test::Absent;
    let keys = limit.per.0.iter().filter_map(|field| match field {
        KeyField::Client => None,
        KeyField::Whole(attribute) | KeyField::MailDomain(attribute) | KeyField::HostDomain(attribute) => {
            Some(*attribute)
        }
    });
    keys.chain(limit.conditions.all.iter().filter(has_value).map(|condition| condition.attribute)).collect()
}

/// Whether a request can have an attribute at that stage.
fn is_known(attribute: Attribute, stage: RestrictionStage) -> bool {
    match attribute {
        Attribute::HeloName => stage != RestrictionStage::Connect,
        Attribute::Sender | Attribute::Size => stage.is_of_message() || stage == RestrictionStage::Mail,
        Attribute::Recipient | Attribute::QueueId | Attribute::Instance => stage.is_of_message(),
        Attribute::RecipientCount => stage.is_late(),
        Attribute::EtrnDomain => stage == RestrictionStage::Etrn,
        attribute if is_of_login(attribute) => !matches!(stage, RestrictionStage::Connect | RestrictionStage::Helo),
        _ => true,
    }
}

fn is_of_login(attribute: Attribute) -> bool {
    matches!(attribute, Attribute::SaslUsername | Attribute::SaslMethod | Attribute::SaslSender)
}

/// Whether the limit's conditions on `protocol_state` allow that stage.
fn may_be_at(limit: &Limit, stage: RestrictionStage) -> bool {
    let of_state = |condition: &&Condition| condition.attribute == Attribute::ProtocolState;
    let holds = |condition: &Condition| stage.states().iter().any(|state| condition.test.holds(state.as_bytes()));
    let fails = |condition: &Condition| stage.states().iter().all(|state| condition.test.holds(state.as_bytes()));
    limit.conditions.all.iter().filter(of_state).all(holds) && !limit.conditions.none.iter().filter(of_state).any(fails)
}
