//! The command line: the subcommands and their arguments.

pub mod check;
pub mod doctor;
pub mod top;

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, CommandFactory, Parser, Subcommand};
use strum::VariantNames;

use crate::config::Config;
use crate::config::convert::Kind;
use crate::control::client::{ConfigArgs, DaemonArgs};
use crate::control::commands::ControlSubcommand;
use crate::control::overriding::ONE_HOUR;
use crate::maillog::{advise, replay};
use crate::net::address::Address;
use crate::observe::terminal::print;
use crate::policy::key_field::KeyField;
use crate::postfix::query;
use crate::sysexits;

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve Postfix in the foreground (also without any command)
    Serve(Serve),
    /// Serve one policy connection on standard input and output
    #[command(after_help = INETD_NOTES)]
    Inetd(ConfigArgs),
    /// Validate the configuration and print what is in force
    #[command(after_help = CHECK_NOTES)]
    Check(Check),
    /// Ask a running daemon as Postfix would, and print its action
    #[command(after_help = QUERY_NOTES)]
    Query(Query),
    #[command(flatten)]
    Control(ControlSubcommand),
    /// Check how Postfix, the daemon and the store fit together
    #[command(after_help = DOCTOR_NOTES)]
    Doctor(DaemonArgs),
    /// Print what a shell needs to complete commands and options
    #[command(after_help = COMPLETIONS_NOTES)]
    Completions(Completions),
    /// Print a configuration file of another rate limiter as TOML
    #[command(after_help = CONVERT_NOTES)]
    Convert(Convert),
    /// Choose threshold and exptime from Postfix's own logs
    #[command(after_help = ADVISE_NOTES)]
    Advise(Box<advise::options::AdviseOptions>),
    /// Ask a running daemon about the sessions of Postfix's logs
    #[command(after_help = REPLAY_NOTES)]
    Replay(Box<replay::options::ReplayOptions>),
}

/// Options of `serve`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct Serve {
    /// The configuration file.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// Listen here instead of where the file says, e.g. inet:127.0.0.1:10040 or
    /// unix:/var/spool/postfix/private/connshaper; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Address>,
}

/// Options of `check`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Check {
    /// The configuration file.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Options of `query`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Query {
    /// The configuration file, which tells where the daemon listens.
    #[command(flatten)]
    pub file: ConfigArgs,
    /// Ask here, instead of where the configuration or the systemd unit listens
    #[arg(long, value_name = "ADDR")]
    pub to: Option<Address>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// The client's address
    #[arg(value_parser = query::value)]
    pub client: String,
    /// Further attributes of the request, or others for those that are sent anyway
    #[arg(value_name = "NAME=VALUE", value_parser = query::attribute)]
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
    /// Whose file it is; without this its content tells
    #[arg(long, value_name = "KIND", value_parser = kind_parser())]
    pub from: Option<Kind>,
    /// The file; - is standard input
    #[arg(value_name = "OLD")]
    pub old: PathBuf,
}

fn kind_parser() -> impl TypedValueParser<Value = Kind> {
    PossibleValuesParser::new(Kind::VARIANTS).map(|word| word.parse().expect("it is one of them"))
}

/// Commands whose target may be two words: `reset login joe@example.org`.
const OF_TARGETS: [&str; 7] = ["show", "explain", "reset", "ban", "unban", "allow", "disallow"];

/// Makes one word of the two that name a target, and puts in the usual duration where only a reason is given.
fn join_targets(mut words: Vec<OsString>) -> Vec<OsString> {
    let command = words.iter().skip(1).position(|word| word.to_str().is_some_and(|word| OF_TARGETS.contains(&word)));
    let Some(command) = command.map(|at| at + 1) else { return words };
    let is_word = |word: &OsString| word.to_str().and_then(KeyField::of_word).is_some();
    // Options whose value follows as a word of its own.
    const WITH_VALUE: [&str; 6] = ["-c", "--config", "--socket", "--door", "--over", "--most"];
    let takes_value = |word: &OsString| word.to_str().is_some_and(|word| WITH_VALUE.contains(&word));
    for at in command + 1..words.len().saturating_sub(1) {
        if is_word(&words[at]) && !takes_value(&words[at - 1]) {
            let value = words.remove(at + 1);
            words[at].push("=");
            words[at].push(value);
            break;
        }
    }
    if let Some(at) = words[command..].iter().position(|word| word == "because").map(|at| command + at)
        && !words[command..at].iter().any(|word| word == "for")
    {
        words.splice(at..at, [OsString::from("for"), ONE_HOUR.to_string().into()]);
    }
    words
}

/// The socket of the shipped unit, which systemd passes to the daemon in place of `listen`.
pub const UNIT_SOCKET: &str = "/var/spool/postfix/private/connshaper";

/// The addresses of a daemon with this configuration: those it listens at, or the unit's socket if `listen` is not set.
pub fn asked_at(config: &Config) -> Vec<Address> {
    let unit = Path::new(UNIT_SOCKET);
    match unit.exists() && config.listen == Config::default().listen {
        true => vec![Address::Unix(unit.to_owned())],
        false => config.listen.clone(),
    }
}

impl Command {
    /// Reads the command line of this process. With `--help`, `--version` or a wrong command line the text is printed,
    /// and the error is the exit code.
    pub fn parse_or_exit_code() -> Result<Self, ExitCode> {
        Self::parse_from(std::env::args_os()).map_err(|error| {
            if error.use_stderr() {
                // Standard error may be closed; the exit code says the same.
                let _ = error.print();
                return ExitCode::from(sysexits::USAGE);
            }
            let text = error.render();
            match io::stdout().is_terminal() {
                true => print(&text.ansi().to_string(), 0),
                false => print(&text.to_string(), 0),
            }
        })
    }

    /// Reads a command line, whose first word is the program's name.
    pub fn parse_from<I>(words: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator,
        I::Item: Into<OsString>,
    {
        let cli = Cli::try_parse_from(join_targets(words.into_iter().map(Into::into).collect()))?;
        Ok(cli.command.unwrap_or(Self::Serve(cli.serve)))
    }
}

/// Limits how often an SMTP client may connect.
///
/// connshaper is a Postfix policy daemon: Postfix asks it about every client,
/// and it answers DUNNO while the client is within its limit and
/// DEFER_IF_PERMIT once it is over.
#[derive(Parser)]
#[command(name = "connshaper", version, long_version = VERSION, after_help = NOTES)]
#[command(args_conflicts_with_subcommands = true, subcommand_value_name = "COMMAND")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

/// `-V` says the first line alone.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    "\ncommit: ",
    env!("BUILD_COMMIT"),
    "\nfeatures: ",
    env!("BUILD_FEATURES"),
    "\ntarget: ",
    env!("BUILD_TARGET"),
);

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
For inetd, xinetd and Postfix spawn(8). Counts must be in a shared store:
every connection has a process of its own. Whatever is wrong is logged to syslog and
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

const DOCTOR_NOTES: &str = "\
Run it on the mail host, as root. It asks postconf, the daemon and the store, counts
nothing and changes nothing.
Exit codes: 0 nothing is wrong, 1 something is, 64 wrong command line.";

const COMPLETIONS_NOTES: &str = "\
Examples:
  connshaper completions bash > /etc/bash_completion.d/connshaper
  connshaper completions zsh > /usr/local/share/zsh/site-functions/_connshaper
  connshaper completions fish > /etc/fish/completions/connshaper.fish";

const CONVERT_NOTES: &str = "\
Examples:
  connshaper convert /etc/qpsmtpd/connection_shaper > connshaper.toml
  connshaper convert /etc/postfix/main.cf > connshaper.toml
  connshaper convert --from postfwd /etc/postfix/postfwd.cf > connshaper.toml

Standard error says of every line whether it is carried over, differs or has no
counterpart. The output is valid: `connshaper check` takes it.
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
    fn every_command_is_described_in_words_of_its_own() {
        let mut described = std::collections::HashMap::new();
        for command in Cli::command().get_subcommands() {
            let about = command.get_about().unwrap_or_else(|| panic!("{command}")).to_string();
            if let Some(other) = described.insert(about.clone(), command.get_name().to_owned()) {
                panic!("{other} and {command}: {about}");
            }
        }
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
    fn a_target_may_be_two_words() {
        for (line, same) in [
            ("reset login joe@example.org", "reset login=joe@example.org"),
            ("show --json sender a=b@example.org", "show --json sender=a=b@example.org"),
            ("unban 192.0.2.1", "unban 192.0.2.1"),
            ("ban login joe@example.org because stolen", "ban login=joe@example.org for 1h because stolen"),
        ] {
            assert_eq!(read(line).unwrap(), read(same).unwrap());
        }
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
