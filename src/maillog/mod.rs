//! Postfix's logs: reading them, `advise` and `replay`.
//!
//! ```text
//! lines/                                         sessions   advise/    replay/
//! source -> blocks -> line -> event -> merge  -> sessions -> tables,    policy
//! opens,    all cores, takes   what     one      what the    report     requests to
//! unpacks   in order   apart   it says  order    daemon is              a daemon
//!                                                asked
//! ```

pub mod advise;
pub mod lines;
pub mod options;
pub mod postconf;
pub mod reading;
pub mod replay;
pub mod request;
pub mod sessions;
pub mod summary;
pub mod text;
