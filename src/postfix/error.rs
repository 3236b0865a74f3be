//! Why a policy connection cannot go on.

use thiserror::Error;

use crate::listener::Peer;
use crate::net::clock::Now;
use crate::observe::log::{Log, Severity};

use super::decoder::{MAX_ATTRIBUTE_NAME, REQUEST_TIME};
use crate::policy::request::MAX_REQUEST;

/// Why a policy connection cannot go on. There is no reply to such a request: Postfix asks again, then takes its default action.
#[derive(Debug, Error)]
#[error("{problem}")]
pub struct RequestError {
    /// The beginning of the offending name or line; not to be shown unescaped.
    pub attribute: Vec<u8>,
    /// What is wrong with it.
    pub problem: RequestProblem,
}

/// What is wrong with a request.
#[derive(Debug, Error)]
pub enum RequestProblem {
    #[error("a line without =")]
    NoEqualsSign,
    #[error("a name longer than {} bytes", MAX_ATTRIBUTE_NAME)]
    LongName,
    /// There is no empty line within that.
    #[error("a request longer than {} bytes", MAX_REQUEST)]
    TooLong,
    #[error("not request=smtpd_access_policy")]
    NotAPolicyRequest,
    #[error("the connection ended within a request")]
    CutShort,
    #[error("a request that was begun {} seconds ago is not finished", REQUEST_TIME.as_secs())]
    Unfinished,
    /// Reading failed.
    #[error("{0}")]
    Io(std::io::Error),
}

impl RequestError {
    pub(crate) fn no_equals_sign(line: &[u8]) -> Self {
        Self::new(line, RequestProblem::NoEqualsSign)
    }

    pub(crate) fn long_name(line: &[u8]) -> Self {
        Self::new(line, RequestProblem::LongName)
    }

    pub(crate) fn too_long() -> Self {
        Self::new(b"", RequestProblem::TooLong)
    }

    pub(crate) fn not_a_policy_request(value: &[u8]) -> Self {
        let attribute = [b"request=", value].concat();
        Self::new(&attribute, RequestProblem::NotAPolicyRequest)
    }

    pub(crate) fn cut_short() -> Self {
        Self::new(b"", RequestProblem::CutShort)
    }

    /// A request whose rest did not come within `REQUEST_TIME`.
    pub fn unfinished() -> Self {
        Self::new(b"", RequestProblem::Unfinished)
    }

    /// Writes the line about it.
    pub fn log(&self, log: &Log, peer: &Peer, now: Now) {
        log.limited(Severity::Notice, "BAD_REQUEST", now, |line| {
            line.field("peer", peer);
            if !self.attribute.is_empty() {
                line.bytes("attribute", &self.attribute);
            }
            line.field("problem", self);
        });
    }

    fn new(attribute: &[u8], problem: RequestProblem) -> Self {
        // Enough to recognise it in the log.
        let shown = attribute.len().min(64);
        Self { attribute: attribute[..shown].to_vec(), problem }
    }
}

impl From<std::io::Error> for RequestError {
    fn from(error: std::io::Error) -> Self {
        Self::new(b"", RequestProblem::Io(error))
    }
}
