//! The control socket: what an administrator asks of the running daemon, and tells it.
//!
//! `socket` accepts and answers, a line of JSON for a line of JSON; each command is a file below, with what
//! the daemon answers and how people are shown it. `client` is the other end, in the programs of the command
//! line. None of it is on the way of a request.

pub mod allow;
pub mod ban;
pub mod check_hit;
pub mod client;
pub mod columns;
pub mod disallow;
pub mod explain;
pub mod hit;
pub mod reload;
pub mod reset;
pub mod revoke;
pub mod show;
pub mod socket;
pub mod status;
pub mod top;
pub mod unban;

use std::future::Future;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::engine::overrides::TooMany;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::observe::log::Severity;
use crate::observe::log::line::Line;

/// The version of the protocol, in every request and every answer.
pub const VERSION: u64 = 1;

/// What the commands work on.
#[derive(Debug)]
pub struct Control {
    /// What answers Postfix.
    pub service: Arc<Service>,
    /// The policy connections.
    pub connections: TaskTracker,
    /// The most of them.
    pub max_connections: usize,
    /// Has the daemon read its configuration again.
    pub reload: mpsc::Sender<Reload>,
    /// When the daemon began to serve.
    pub started: Now,
}

/// Where to say what came of a reload: what is in force now, or why that is what was before.
pub type Reload = oneshot::Sender<Result<Value, String>>;

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For people to read.
    pub error: String,
    /// The exit code of the program that asked, of sysexits.
    pub code: u8,
}

impl Problem {
    /// The command, or what it is about, is wrong.
    pub fn usage(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: crate::sysexits::USAGE }
    }

    /// It cannot be done at present.
    pub fn unavailable(error: impl Into<String>) -> Self {
        Self { error: error.into(), code: crate::sysexits::UNAVAILABLE }
    }
}

impl From<TooMany> for Problem {
    fn from(error: TooMany) -> Self {
        Self::unavailable(error.to_string())
    }
}

/// What a command is told beside its name.
#[derive(Clone, Debug, Default)]
pub struct Arguments(pub Map<String, Value>);

impl Arguments {
    /// A text.
    ///
    /// # Errors
    ///
    /// When it is missing or no text.
    pub fn text(&self, name: &str) -> Result<&str, Problem> {
        let text = self.0.get(name).and_then(Value::as_str);
        text.ok_or_else(|| Problem::usage(format!("\"{name}\" is missing, or no string")))
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    ///
    /// When it is missing, no whole number or out of bounds.
    pub fn number(&self, name: &str, bounds: std::ops::RangeInclusive<u64>) -> Result<u64, Problem> {
        let number = self.0.get(name).and_then(Value::as_u64).filter(|number| bounds.contains(number));
        let (least, most) = bounds.into_inner();
        number.ok_or_else(|| Problem::usage(format!("\"{name}\" is no number from {least} to {most}")))
    }

    /// What a text stands for.
    ///
    /// # Errors
    ///
    /// When it is missing or stands for nothing of that kind.
    pub fn parsed<T: std::str::FromStr<Err = String>>(&self, name: &str) -> Result<T, Problem> {
        self.text(name)?.parse().map_err(Problem::usage)
    }
}

impl Control {
    /// Does a command. `user` is who gave it; changes are logged with that.
    pub async fn run(&self, user: &str, command: &str, arguments: &Arguments) -> Result<Value, Problem> {
        let (now, given) = (Now::read(), arguments);
        match command {
            "status" => Ok(status::answer(self, now)),
            "show" => show::answer(self, given, now).await,
            "top" => top::answer(self, given, now).await,
            "explain" => explain::answer(self, given, now).await,
            "check-hit" => check_hit::answer(self, given, now).await,
            "hit" => self.change(user, command, given, hit::answer(self, given, now)).await,
            "revoke" => self.change(user, command, given, revoke::answer(self, given, now)).await,
            "reset" => self.change(user, command, given, reset::answer(self, user, given, now)).await,
            "ban" => self.change(user, command, given, ban::answer(self, user, given, now)).await,
            "unban" => self.change(user, command, given, unban::answer(self, given, now)).await,
            "allow" => self.change(user, command, given, allow::answer(self, user, given, now)).await,
            "disallow" => self.change(user, command, given, disallow::answer(self, given, now)).await,
            "reload" => self.change(user, command, given, reload::answer(self)).await,
            _ => Err(Problem::usage(format!("there is no command {command:?}; is the daemon older than the program?"))),
        }
    }

    /// Does a command that changes something, and logs who did what.
    async fn change(
        &self,
        user: &str,
        command: &str,
        arguments: &Arguments,
        work: impl Future<Output = Result<Value, Problem>>,
    ) -> Result<Value, Problem> {
        let result = work.await;
        let said = match &result {
            Ok(answer) => ("done", answer["done"].as_str().unwrap_or_default()),
            Err(problem) => ("error", problem.error.as_str()),
        };
        let fill = |line: &mut Line| {
            line.field("user", user).field("command", command);
            for name in ["target", "limit", "key", "seconds"] {
                match arguments.0.get(name) {
                    Some(Value::String(text)) => line.field(name_of(name), text),
                    Some(value) => line.field(name_of(name), value),
                    None => continue,
                };
            }
            line.field(said.0, said.1);
        };
        let log = &self.service.log;
        match command {
            // What strangers do to a web form, its script may report here.
            "hit" | "revoke" => log.limited(Severity::Info, "CONTROL", Now::read(), fill),
            _ => log.line(Severity::Notice, "CONTROL", fill),
        }
        result
    }
}

/// Names of fields are constants.
fn name_of(name: &str) -> &'static str {
    match name {
        "target" => "target",
        "limit" => "limit",
        "key" => "key",
        _ => "seconds",
    }
}

/// The line that answers a request, without its newline.
fn spell(result: Result<Value, Problem>) -> String {
    let (mut answer, ok) = match result {
        Ok(answer) => (answer, true),
        Err(problem) => (json!({ "error": problem.error, "code": problem.code }), false),
    };
    answer["v"] = VERSION.into();
    answer["ok"] = ok.into();
    answer.to_string()
}
