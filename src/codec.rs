//! The Postfix policy protocol: bytes to `Request`, `Reply` to bytes. No I/O.
//!
//! The protocol is SMTPD_POLICY_README's: lines of `name=value`, then an empty
//! line; the answer is one `action=` line and an empty line.

pub mod attribute;
pub mod decoder;
pub mod error;
pub mod reply;
pub mod request;

pub use attribute::Attribute;
pub use decoder::RequestDecoder;
pub use error::RequestError;
pub use reply::{Reply, ReplyEncoder};
pub use request::{Instance, Request, State, address};
