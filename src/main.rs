//! The program: arguments to command, and the one place that exits.

use std::fmt::Display;
use std::process::ExitCode;

use connshaper::cli::{Command, Connection, Query, Serve};
use connshaper::cli::{check, doctor, top};
use connshaper::config::{Config, convert};
use connshaper::control::{client, explain, hit, show, status};
use connshaper::daemon;
use connshaper::daemon::Failure;
use connshaper::maillog::{advise, replay};
use connshaper::net::signals::block_signals;
use connshaper::observe::terminal::Paint;
use connshaper::postfix::{client as query, inetd};
use connshaper::sysexits;
use serde_json::{Value, json};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    match Command::parse_or_exit_code() {
        Ok(Command::Serve(options)) => serve(options),
        Ok(Command::Inetd(file)) => run(inetd::run(file.config.as_deref()), |_| sysexits::UNAVAILABLE),
        Ok(Command::Check(options)) => check::run(options.file.config.as_deref(), options.json),
        Ok(Command::Query(options)) => ask(&options),
        Ok(Command::Status(options)) => tell(&options, ("status", json!({})), status::shown),
        Ok(Command::Doctor(options)) => {
            doctor::run(options.file.config.as_deref(), options.socket.as_deref(), options.json)
        }
        Ok(Command::Top(options)) => match options.path() {
            Ok(path) => top::run(&path, options.json),
            Err(error) => fail(sysexits::CONFIG, &error),
        },
        Ok(Command::Completions(options)) => {
            print!("{}", options.script());
            ExitCode::SUCCESS
        }
        Ok(Command::Show(options)) => tell(&options.connection, ("show", options.target()), show::shown),
        Ok(Command::Explain(options)) => tell(&options.connection, ("explain", options.request()), explain::shown),
        Ok(Command::Reset(options)) => tell(&options.connection, ("reset", options.target()), client::done),
        Ok(Command::Ban(options)) => tell(&options.about.connection, ("ban", options.word()), client::done),
        Ok(Command::Unban(options)) => tell(&options.connection, ("unban", options.target()), client::done),
        Ok(Command::Allow(options)) => tell(&options.about.connection, ("allow", options.word()), client::done),
        Ok(Command::Disallow(options)) => tell(&options.connection, ("disallow", options.target()), client::done),
        Ok(Command::Hit(options)) => over(&options.connection, ("hit", options.named())),
        Ok(Command::Revoke(options)) => tell(&options.connection, ("revoke", options.named()), client::done),
        Ok(Command::CheckHit(options)) => over(&options.connection, ("check-hit", options.named())),
        Ok(Command::Reload(options)) => tell(&options, ("reload", json!({})), client::done),
        Ok(Command::Convert(options)) => match Config::load_original(&options.old) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| eprintln!("connshaper: {warning}"));
                print!("{}", convert::to_toml(&config));
                ExitCode::SUCCESS
            }
            Err(error) if error.is_unreadable() => fail(sysexits::NO_INPUT, &error),
            Err(error) => fail(sysexits::CONFIG, &error),
        },
        Ok(Command::Advise(options)) => advise::run(&options),
        Ok(Command::Replay(options)) => replay::run(&options),
        Err(code) => code,
    }
}

fn serve(options: Serve) -> ExitCode {
    let code = |failure: &Failure| match failure {
        Failure::Configuration(_) => sysexits::CONFIG,
        Failure::Other(_) => sysexits::UNAVAILABLE,
    };
    run(daemon::run(options.file.config, options.listen), code)
}

fn ask(options: &Query) -> ExitCode {
    let address = match &options.to {
        Some(address) => address.clone(),
        None => match Config::load(options.file.config.as_deref()) {
            Ok(config) => config.listen[0].clone(),
            Err(error) => return fail(sysexits::CONFIG, &error),
        },
    };
    match query::ask(&address, &options.client, &options.attributes) {
        Ok(action) if options.json => println!("{}", serde_json::json!({ "action": action })),
        Ok(action) => println!("{action}"),
        Err(error) => return fail(sysexits::UNAVAILABLE, &format!("{address}: {error}")),
    }
    ExitCode::SUCCESS
}

/// Has the daemon do a command, and prints what came of it.
fn tell(connection: &Connection, command: (&str, Value), shown: fn(&Value, Paint) -> String) -> ExitCode {
    match connection.path() {
        Ok(path) => client::run(&path, connection.json, command, shown, |_| 0),
        Err(error) => fail(sysexits::CONFIG, &error),
    }
}

/// The same for a count, whose exit code says whether it is over.
fn over(connection: &Connection, command: (&str, Value)) -> ExitCode {
    match connection.path() {
        Ok(path) => client::run(&path, connection.json, command, hit::shown, hit::code),
        Err(error) => fail(sysexits::CONFIG, &error),
    }
}

/// One thread: a request is a few microseconds of work, less than waking another thread costs.
fn run<E: Display>(program: impl Future<Output = Result<(), E>>, code: impl Fn(&E) -> u8) -> ExitCode {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_start(block_signals)
        .build()
        .expect("a process can have a thread and an epoll");
    let result = runtime.block_on(program);
    // Not waiting for a resolver or a file system that may never answer.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(code(&error), &error),
    }
}

fn fail(code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("connshaper: {error}");
    ExitCode::from(code)
}
