//! Severities and facilities: syslog's numbers under their configured names.

use std::str::FromStr;

use strum::{Display, IntoStaticStr, VariantArray};

/// How much a line matters, as syslog counts it: the smaller, the more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
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
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        let facility = name.parse().map(Self)?;
        // The kernel's is closed to programs, and syslog.conf(5) has no word for those from 12 to 15.
        match facility.number() {
            0 | 12..=15 => Err(()),
            _ if name.starts_with("log_") || name.contains(char::is_uppercase) => Err(()),
            _ => Ok(facility),
        }
    }
}

/// How a line is sent to the system logger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum SyslogFormat {
    /// RFC 3164, without a time: every logger adds its own to a line from this host.
    #[default]
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_are_written() {
        for name in ["user", "mail", "daemon", "authpriv", "ftp", "local0", "local7"] {
            assert_eq!(format!("{:?}", name.parse::<Facility>().unwrap().0), format!("LOG_{}", name.to_uppercase()));
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["MAIL", "log_mail", "kern", "audit", "post", ""] {
            assert_eq!(name.parse::<Facility>(), Err(()), "{name}");
        }
    }

    #[test]
    fn a_priority_joins_facility_and_severity() {
        assert_eq!(Facility::MAIL.priority(Severity::Info), 22);
        assert_eq!("local7".parse::<Facility>().unwrap().priority(Severity::Debug), 191);
    }
}
