//! The command line: what can be asked of connshaper.

pub mod check;
mod control;
pub mod doctor;
pub mod top;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::maillog::{advise, replay};
use crate::net::address::Address;
use crate::sysexits;

pub use control::{About, Allow, Ban, Connection, Explain, Hit};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve Postfix in the foreground (also without any command)
    Serve(Serve),
    /// Serve one policy connection on standard input and output
    #[command(after_help = INETD_NOTES)]
    Inetd(File),
    /// Validate the configuration and print what is in force
    #[command(after_help = CHECK_NOTES)]
    Check(Check),
    /// Ask a running daemon as Postfix would, and print its action
    #[command(after_help = QUERY_NOTES)]
    Query(Query),
    /// Show how the running daemon is
    #[command(after_help = control::STATUS_NOTES)]
    Status(Connection),
    /// Say what is right and wrong about Postfix, the daemon and memcached here
    #[command(after_help = control::DOCTOR_NOTES)]
    Doctor(Connection),
    /// Watch the busiest clients of the running daemon
    #[command(after_help = control::TOP_NOTES)]
    Top(Connection),
    /// Print what a shell needs to complete commands and options
    #[command(after_help = control::COMPLETIONS_NOTES)]
    Completions(Completions),
    /// Show every counter and ban of a client, a prefix or a key
    #[command(after_help = control::SHOW_NOTES)]
    Show(About),
    /// Show what a client's next request would get, and why; counts nothing
    #[command(after_help = control::EXPLAIN_NOTES)]
    Explain(Explain),
    /// Forget all that is counted for a client, a prefix or a key, and let it in
    #[command(after_help = control::RESET_NOTES)]
    Reset(About),
    /// Refuse a client or a prefix for a while
    #[command(after_help = control::BAN_NOTES)]
    Ban(Ban),
    /// Lift the bans of a client, a prefix or a key
    #[command(after_help = control::CHANGE_NOTES)]
    Unban(About),
    /// Let a client or a prefix pass uncounted for a while
    #[command(after_help = control::ALLOW_NOTES)]
    Allow(Allow),
    /// End before its time what allow said of a client or a prefix
    #[command(after_help = control::CHANGE_NOTES)]
    Disallow(About),
    /// Count something that happened outside of Postfix
    #[command(after_help = control::HIT_NOTES)]
    Hit(Hit),
    /// Take the last hit back
    #[command(after_help = control::CHANGE_NOTES)]
    Revoke(Hit),
    /// Say whether a hit would be one too many; counts nothing
    #[command(after_help = control::CHECK_HIT_NOTES)]
    CheckHit(Hit),
    /// Have the daemon read its configuration again, and say how that went
    #[command(after_help = control::RELOAD_NOTES)]
    Reload(Connection),
    /// Print a configuration file of connection_shaper as TOML
    #[command(after_help = CONVERT_NOTES)]
    Convert(Convert),
    /// Choose threshold and exptime from Postfix's own logs
    #[command(after_help = ADVISE_NOTES)]
    Advise(Box<advise::options::Options>),
    /// Ask a running daemon about the sessions of Postfix's logs
    #[command(after_help = REPLAY_NOTES)]
    Replay(Box<replay::options::Options>),
}

/// Options of `serve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Serve {
    /// The configuration file.
    #[command(flatten)]
    pub file: File,
    /// Listen here instead of where the file says, e.g. inet:127.0.0.1:10040 or
    /// unix:/var/spool/postfix/private/connshaper; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Address>,
}

/// The option that names a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct File {
    /// The configuration file, which must exist; without this option
    /// /etc/connshaper/connshaper.toml, which need not
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Options of `check`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Check {
    /// The configuration file.
    #[command(flatten)]
    pub file: File,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `query`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Query {
    /// The configuration file, which tells where the daemon listens.
    #[command(flatten)]
    pub file: File,
    /// Ask here, instead of at the first address the configuration listens at
    #[arg(long, value_name = "ADDR")]
    pub to: Option<Address>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The client's address
    #[arg(value_parser = line)]
    pub client: String,
    /// Further attributes of the request, or others for those that are sent anyway
    #[arg(value_name = "NAME=VALUE", value_parser = attribute)]
    pub attributes: Vec<(String, String)>,
}

/// Options of `completions`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

impl Completions {
    /// The script for the shell.
    pub fn script(&self) -> String {
        let mut script = Vec::new();
        if let Ok(shell) = self.shell.parse::<clap_complete::Shell>() {
            clap_complete::generate(shell, &mut Cli::command(), "connshaper", &mut script);
        }
        String::from_utf8_lossy(&script).into_owned()
    }
}

/// Options of `convert`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Convert {
    /// The file of connection_shaper
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
}

impl Command {
    /// Reads the command line of this process. `Err`: everything was said
    /// (help, version or what is wrong), and the process is to exit so.
    pub fn parse_or_exit_code() -> Result<Self, ExitCode> {
        Self::parse_from(std::env::args_os()).map_err(|error| {
            // A closed pipe behind --help is no error of the command line.
            let _ = error.print();
            if error.use_stderr() { ExitCode::from(sysexits::USAGE) } else { ExitCode::SUCCESS }
        })
    }

    /// Reads a command line, whose first word is the program's name.
    pub fn parse_from<I>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<std::ffi::OsString> + Clone,
    {
        let cli = Cli::try_parse_from(words)?;
        Ok(cli.command.unwrap_or(Self::Serve(cli.serve)))
    }
}

/// Limits how often an SMTP client may connect.
///
/// connshaper is a Postfix policy daemon: Postfix asks it about every client,
/// and it answers DUNNO while the client is within its limit and
/// DEFER_IF_PERMIT once it is over.
#[derive(Parser)]
#[command(name = "connshaper", version, after_help = NOTES)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

const NOTES: &str = "\
Examples:
  connshaper                               serve at inet:127.0.0.1:10040
  connshaper --listen unix:/var/spool/postfix/private/connshaper
  connshaper check                         is the configuration right?
  connshaper query 198.51.100.7            what would Postfix be told?
  connshaper explain 198.51.100.7          and why?
  connshaper reset 198.51.100.7            let it in again

Exit codes: 0, 64 wrong command line, 69 cannot listen, 78 wrong configuration.
See connshaper(8) and connshaper.toml(5).";

const INETD_NOTES: &str = "\
For inetd, xinetd and Postfix spawn(8). Counts must be in memcached: every
connection has a process of its own. Whatever is wrong is logged to syslog and
answered DUNNO, because an exit would cost every mail a 451.";

const CHECK_NOTES: &str = "\
Examples:
  connshaper check -c connshaper.toml.new && mv connshaper.toml.new connshaper.toml
  connshaper check --json | jq .warnings

Exit codes: 0 (warnings too), 64 wrong command line, 78 wrong configuration.";

const QUERY_NOTES: &str = "\
Examples:
  connshaper query 198.51.100.7
  connshaper query --to unix:/var/spool/postfix/private/connshaper 2001:db8::1 protocol_state=RCPT

Every run is a connection of its own and counts like one.
Exit codes: 0 whatever the answer, 64 wrong command line, 69 no daemon answers,
78 wrong configuration.";

const CONVERT_NOTES: &str = "\
Example:
  connshaper convert /etc/qpsmtpd/connection_shaper > /etc/connshaper/connshaper.toml

Exit codes: 0, 64 wrong command line, 66 OLD cannot be read, 78 OLD is wrong.";

const ADVISE_NOTES: &str = "\
Examples:
  connshaper advise /var/log/mail.log*
  connshaper advise --threshold 5,10,20 --exptime 1m,10m --html numbers.html mail.log
  journalctl -o json -u 'postfix*' | connshaper advise -c connshaper.toml -

See CHOOSING THE NUMBERS in connshaper(8).
Exit codes: 0, 64 wrong command line, 66 LOG cannot be read or is empty,
73 a file cannot be written, 78 wrong configuration.";

const REPLAY_NOTES: &str = "\
Examples:
  connshaper serve -c new.toml --listen inet:127.0.0.1:10041
  connshaper replay --to inet:127.0.0.1:10041 --speed 60 /var/log/mail.log

Never at a daemon that counts for real mail: it would count the log's clients.
Exit codes: 0 whatever the verdicts, 64 wrong command line, 66 LOG cannot be
read or is empty, 69 no daemon answers, 73 a file cannot be written, 78 wrong
configuration.";

/// A value that fits into one line of a request.
fn line(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("it is empty".into());
    }
    if text.contains(['\n', '\0']) {
        return Err("it cannot have a line break or NUL".into());
    }
    Ok(text.to_owned())
}

fn attribute(text: &str) -> Result<(String, String), String> {
    match line(text)?.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as in protocol_state=RCPT".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, clap::Error> {
        Command::parse_from(format!("connshaper {line}").split_whitespace())
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve() {
        let line = "-c x.toml --listen inet:[::1]:1 --listen unix:/run/p";
        let Ok(Command::Serve(serve)) = read(line) else {
            panic!("not serve");
        };
        assert_eq!(serve.file.config, Some("x.toml".into()));
        assert_eq!(serve.listen.len(), 2);
        assert_eq!(read(&format!("serve {line}")).unwrap(), Command::Serve(serve));
        assert_eq!(read("").unwrap(), Command::Serve(Serve::default()));
    }

    #[test]
    fn a_query_takes_attributes_after_the_client() {
        let Ok(Command::Query(query)) = read("query 192.0.2.1 protocol_state=RCPT a=b=c d=") else {
            panic!("not query");
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(query.client, "192.0.2.1");
        assert_eq!(query.attributes, [pair("protocol_state", "RCPT"), pair("a", "b=c"), pair("d", "")]);
    }

    #[test]
    fn a_wrong_command_line_is_refused() {
        let wrong = [
            "frobnicate",
            "--listen 127.0.0.1:10040",
            "query",
            "query 192.0.2.1 protocol_state",
            "query 192.0.2.1 =x",
            "check --listen inet:[::1]:1",
            "-c x.toml check",
            "convert",
        ];
        for line in wrong {
            assert!(read(line).unwrap_err().use_stderr(), "{line}");
        }
    }

    #[test]
    fn a_wrong_address_is_told_how_to_write_it() {
        let error = read("--listen 127.0.0.1:10040").unwrap_err().to_string();
        assert!(error.contains("write inet:HOST:PORT or unix:/PATH"), "{error}");
    }
}
