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

impl From<Severity> for syslog::Severity {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Err => Self::LOG_ERR,
            Severity::Warning => Self::LOG_WARNING,
            Severity::Notice => Self::LOG_NOTICE,
            Severity::Info => Self::LOG_INFO,
            Severity::Debug => Self::LOG_DEBUG,
        }
    }
}

/// A syslog facility that programs may log to.
#[derive(Clone, Copy, Debug)]
pub struct Facility(syslog::Facility);

impl Facility {
    /// Where mail systems log.
    pub const MAIL: Self = Self(syslog::Facility::LOG_MAIL);

    /// Its number in syslog.
    pub fn number(self) -> u8 {
        self.0 as u8 / 8
    }

    /// What stands between `<` and `>` before a line.
    pub fn priority(self, severity: Severity) -> u8 {
        self.0 as u8 | severity as u8
    }
}

impl PartialEq for Facility {
    fn eq(&self, other: &Self) -> bool {
        self.number() == other.number()
    }
}

impl Eq for Facility {}

impl From<Facility> for syslog::Facility {
    fn from(facility: Facility) -> Self {
        facility.0
    }
}

impl FromStr for Facility {
    type Err = UnknownName;

    fn from_str(name: &str) -> Result<Self, UnknownName> {
        let facility = name.parse().map(Self).map_err(|()| UnknownName::Facility)?;
        // The kernel's is closed to programs, and syslog.conf(5) has no word for those from 12 to 15.
        match facility.number() {
            0 | 12..=15 => Err(UnknownName::Facility),
            _ if name.starts_with("log_") || name.contains(char::is_uppercase) => Err(UnknownName::Facility),
            _ => Ok(facility),
        }
    }
}

/// How a line is sent to the system logger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyslogFormat {
    /// RFC 3164, without a time: every logger adds its own to a line from this host.
    #[default]
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
}

impl SyslogFormat {
    /// Both, with their words in the configuration.
    pub const WORDS: [(&'static str, Self); 2] = [("rfc3164", Self::Rfc3164), ("rfc5424", Self::Rfc5424)];
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
        for name in ["user", "mail", "daemon", "authpriv", "ftp", "local0", "local7"] {
            assert_eq!(format!("{:?}", name.parse::<Facility>().unwrap().0), format!("LOG_{}", name.to_uppercase()));
        }
    }

    #[test]
    fn other_names_say_what_to_write() {
        assert_eq!("error".parse::<Severity>(), Err(UnknownName::Severity));
        for name in ["MAIL", "log_mail", "kern", "audit", "post", ""] {
            assert_eq!(name.parse::<Facility>(), Err(UnknownName::Facility), "{name}");
        }
        assert!(UnknownName::Facility.to_string().contains("local0 to local7"));
    }

    #[test]
    fn a_priority_joins_facility_and_severity() {
        assert_eq!(Facility::MAIL.priority(Severity::Info), 22);
        assert_eq!("local7".parse::<Facility>().unwrap().priority(Severity::Debug), 191);
    }
}
