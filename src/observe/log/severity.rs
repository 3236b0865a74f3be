//! Severities and facilities: syslog's numbers under their configured names.

use std::fmt;
use std::str::FromStr;

/// How much a line matters, as syslog counts it: the smaller, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is broken.
    Err = 3,
    /// Something may break.
    Warning = 4,
    /// Normal but notable.
    Notice = 5,
    /// A refusal, a start, a stop.
    Info = 6,
    /// Every verdict.
    Debug = 7,
}

impl Severity {
    pub const WORDS: [(&str, Self); 5] = [
        ("err", Self::Err),
        ("warning", Self::Warning),
        ("notice", Self::Notice),
        ("info", Self::Info),
        ("debug", Self::Debug),
    ];
}

impl FromStr for Severity {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::WORDS.iter().find(|(known, _)| *known == name);
        known.map(|(_, severity)| *severity).ok_or(UnknownName::Severity)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::WORDS.iter().find(|(_, known)| known == self);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

/// A syslog facility.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facility(u8);

impl Facility {
    /// Where mail systems log.
    pub const MAIL: Self = Self(2);

    /// By number. That of the kernel is missing: no other program can log to it.
    pub const WORDS: [(&str, u8); 19] = [
        ("user", 1),
        ("mail", 2),
        ("daemon", 3),
        ("auth", 4),
        ("syslog", 5),
        ("lpr", 6),
        ("news", 7),
        ("uucp", 8),
        ("cron", 9),
        ("authpriv", 10),
        ("ftp", 11),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ];

    /// Its number in syslog.
    pub fn number(self) -> u8 {
        self.0
    }

    /// What stands between `<` and `>` before a line.
    pub fn priority(self, severity: Severity) -> u8 {
        self.0 * 8 + severity as u8
    }
}

impl FromStr for Facility {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let known = Self::WORDS.iter().find(|(known, _)| *known == name);
        known.map(|(_, number)| Self(*number)).ok_or(UnknownName::Facility)
    }
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = Self::WORDS.iter().find(|(_, number)| *number == self.0);
        f.write_str(known.map_or("", |(name, _)| name))
    }
}

/// A name that is none, with those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownName {
    /// Of a severity.
    Severity,
    /// Of a facility.
    Facility,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Severity => "write err, warning, notice, info or debug",
            Self::Facility => {
                "write a syslog facility: user, mail, daemon, auth, syslog, lpr, news, uucp, cron, \
                 authpriv, ftp or local0 to local7"
            }
        })
    }
}

impl std::error::Error for UnknownName {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_are_written() {
        for (name, _) in Severity::WORDS {
            assert_eq!(name.parse::<Severity>().unwrap().to_string(), name);
        }
        for (name, _) in Facility::WORDS {
            assert_eq!(name.parse::<Facility>().unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_say_what_to_write() {
        assert_eq!("error".parse::<Severity>(), Err(UnknownName::Severity));
        assert_eq!("MAIL".parse::<Facility>(), Err(UnknownName::Facility));
        assert!(UnknownName::Facility.to_string().contains("local0 to local7"));
    }

    #[test]
    fn a_priority_joins_facility_and_severity() {
        assert_eq!(Facility::MAIL.priority(Severity::Info), 22);
        assert_eq!("local7".parse::<Facility>().unwrap().priority(Severity::Debug), 191);
    }
}
