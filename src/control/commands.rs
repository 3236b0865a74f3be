//! The list of commands, and the trait of a command.

use std::future::Future;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::client::ClientCommand;
use super::{Control, Problem};
use super::{allow, ban, check_hit, disallow, explain, hit, reload, report, reset, revoke, show, status, top, unban};
use crate::net::clock::Now;
use crate::observe::log::LogRecord;
use crate::observe::log::Severity;
use crate::observe::terminal::Paint;

/// The version of the protocol, in every request and every answer.
pub const VERSION: u64 = 1;

/// A command: its arguments, on the command line as in the request, and what the daemon does about them.
pub trait ControlCommand: Args + Clone + Serialize + DeserializeOwned + Sync + Sized {
    type Answer: Serialize + DeserializeOwned + Send;

    /// Does it, in the daemon. `user` gave the command.
    fn run(
        &self,
        control: &Control,
        user: &str,
        now: Now,
    ) -> impl Future<Output = Result<Self::Answer, Problem>> + Send;

    /// The answer to this command, for people.
    fn show(&self, answer: &Self::Answer, paint: Paint) -> String;

    /// The exit code of the program after this answer.
    fn exit_code(_: &Self::Answer) -> u8 {
        0
    }

    /// Whether it is about the daemon itself, so it cannot be done on a file of counts alone.
    fn needs_daemon() -> bool {
        false
    }

    /// How it is logged: what changes nothing is not.
    fn logged() -> Logged<Self> {
        Logged::Never
    }
}

/// How a command is logged.
pub enum Logged<C: ControlCommand> {
    Never,
    /// Every time.
    Always(Record<C>),
    /// At most as often as `log_rate` allows: a script may give the command whenever a stranger acts.
    Limited(Record<C>),
}

/// The fields of a change's log line.
pub struct Record<C: ControlCommand> {
    pub arguments: fn(&C, &mut LogRecord),
    /// The result in one sentence.
    pub done: fn(&C::Answer) -> &str,
}

macro_rules! commands {
    ($($word:literal $name:ident($arguments:ty),)*) => {
        /// A request, without the version.
        #[derive(Debug, Serialize, Deserialize)]
        #[serde(tag = "command")]
        pub enum ControlRequest {
            $(#[serde(rename = $word)] $name($arguments),)*
        }

        impl ControlRequest {
            /// Does a command; the answer is a line of JSON without its newline.
            pub async fn run(&self, control: &Control, user: &str) -> String {
                match self {
                    $(Self::$name(command) => respond($word, command, control, user).await,)*
                }
            }
        }

        $(impl From<$arguments> for ControlRequest {
            fn from(arguments: $arguments) -> Self {
                Self::$name(arguments)
            }
        })*

        /// The same commands on the command line.
        #[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
        pub enum ControlSubcommand {
            $(#[command(name = $word)] $name(ClientCommand<$arguments>),)*
        }

        impl ControlSubcommand {
            /// Has the daemon do it, and prints the answer.
            pub fn run(self) -> std::process::ExitCode {
                match self {
                    $(Self::$name(asked) => asked.run(),)*
                }
            }
        }
    };
}

commands! {
    "status" Status(status::StatusArgs),
    "top" Top(top::TopArgs),
    "show" Show(show::ShowArgs),
    "report" Report(report::ReportArgs),
    "explain" Explain(explain::ExplainArgs),
    "reset" Reset(reset::ResetArgs),
    "ban" Ban(ban::BanArgs),
    "unban" Unban(unban::UnbanArgs),
    "allow" Allow(allow::AllowArgs),
    "disallow" Disallow(disallow::DisallowArgs),
    "hit" Hit(hit::HitArgs),
    "revoke" Revoke(revoke::RevokeArgs),
    "check-hit" CheckHit(check_hit::CheckHitArgs),
    "reload" Reload(reload::ReloadArgs),
}

/// A request as a line has it.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestLine {
    pub v: u64,
    #[serde(flatten)]
    pub request: ControlRequest,
}

/// An answer as a line has it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ControlResponse<T> {
    Done {
        v: u64,
        ok: bool,
        #[serde(flatten)]
        answer: T,
    },
    Failed {
        v: u64,
        ok: bool,
        #[serde(flatten)]
        problem: Problem,
    },
}

impl<T> From<Result<T, Problem>> for ControlResponse<T> {
    fn from(result: Result<T, Problem>) -> Self {
        match result {
            Ok(answer) => Self::Done { v: VERSION, ok: true, answer },
            Err(problem) => Self::Failed { v: VERSION, ok: false, problem },
        }
    }
}

impl<T: Serialize> ControlResponse<T> {
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("an answer has string keys only")
    }
}

/// Does a command, logs it if it is a change, and says what came of it.
async fn respond<C: ControlCommand>(word: &str, command: &C, control: &Control, user: &str) -> String {
    let result = command.run(control, user, Now::read()).await;
    let fill = |record: &Record<C>, line: &mut LogRecord| {
        line.field("user", user).field("command", word);
        (record.arguments)(command, line);
        match &result {
            Ok(answer) => line.field("done", (record.done)(answer)),
            Err(problem) => line.field("error", &problem.error),
        };
    };
    let log = &control.service.log;
    match C::logged() {
        Logged::Never => {}
        Logged::Always(record) => log.line(Severity::Notice, "CONTROL", |line| fill(&record, line)),
        Logged::Limited(record) => {
            log.limited(Severity::Info, "CONTROL", Now::read(), |line| fill(&record, line));
        }
    }
    ControlResponse::from(result).line()
}
