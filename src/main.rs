//! The program: runs the command of the arguments, and returns its exit code.

// A panic where nobody reads: `observe::terminal` writes instead.
#![deny(clippy::print_stderr, clippy::print_stdout)]

use std::fmt::Display;
use std::process::ExitCode;

use connshaper::cli::{Command, Query, Serve, asked_at};
use connshaper::cli::{check, doctor, top};
use connshaper::config::{Config, convert};
use connshaper::control::commands::ControlSubcommand;
use connshaper::daemon;
use connshaper::daemon::StartError;
use connshaper::maillog::{advise, replay};
use connshaper::net::signals::block_signals;
use connshaper::observe::terminal::{escape, fail, json, print, print_error};
use connshaper::postfix::{inetd, query};
use connshaper::sysexits;
use tokio::runtime::Builder;

fn main() -> ExitCode {
    match Command::parse_or_exit_code() {
        Ok(Command::Serve(options)) => serve(options),
        Ok(Command::Inetd(file)) => run(inetd::run(file.config.as_deref()), |_| sysexits::UNAVAILABLE),
        Ok(Command::Check(options)) => check::run(options.file.config.as_deref(), options.json),
        Ok(Command::Query(options)) => ask(&options),
        Ok(Command::Control(ControlSubcommand::Top(options))) => top::run(&options),
        Ok(Command::Control(command)) => command.run(),
        Ok(Command::Doctor(options)) => {
            doctor::run(options.file.config.as_deref(), options.socket.as_deref(), options.json)
        }
        Ok(Command::Completions(options)) => print(&options.script(), 0),
        Ok(Command::Convert(options)) => match convert::convert(&options.old, options.from) {
            Ok(converted) => {
                converted.remarks.iter().for_each(|remark| print_error(&remark.to_string()));
                print(&converted.toml, 0)
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
    let code = |failure: &StartError| match failure {
        StartError::Configuration(_) => sysexits::CONFIG,
        StartError::AfterUpgrade(_) => sysexits::TEMPORARY,
        StartError::Other(_) => sysexits::UNAVAILABLE,
    };
    run(daemon::run(options.file.config, options.listen), code)
}

fn ask(options: &Query) -> ExitCode {
    #[derive(serde::Serialize)]
    struct QueryAnswer {
        action: String,
    }
    let address = match &options.to {
        Some(address) => address.clone(),
        None => match Config::load(options.file.config.as_deref()) {
            Ok(config) => asked_at(&config).swap_remove(0),
            Err(error) => return fail(sysexits::CONFIG, &error),
        },
    };
    match query::ask(&address, &options.client, &options.attributes) {
        Ok(action) if options.json => print(&json(&QueryAnswer { action }), 0),
        Ok(action) => print(&(escape(&action) + "\n"), 0),
        Err(error) => fail(sysexits::UNAVAILABLE, &format!("{address}: {error}")),
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
