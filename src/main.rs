//! The program: arguments to command, and the one place that exits.

use std::fmt::Display;
use std::process::ExitCode;

use connshaper::cli::{Command, Query, Serve, exit};
use connshaper::config::{Config, convert};
use connshaper::{advise, check, daemon, inetd, query, replay, signals};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    match Command::parse_or_exit_code() {
        Ok(Command::Serve(options)) => serve(options),
        Ok(Command::Inetd(file)) => run(inetd::run(file.config.as_deref())),
        Ok(Command::Check(options)) => check::run(options.file.config.as_deref(), options.json),
        Ok(Command::Query(options)) => ask(&options),
        Ok(Command::Convert(options)) => match Config::load_original(&options.old) {
            Ok(config) => {
                config.warnings.iter().for_each(|warning| eprintln!("connshaper: {warning}"));
                print!("{}", convert::to_toml(&config));
                ExitCode::SUCCESS
            }
            Err(error) if error.is_unreadable() => fail(exit::NO_INPUT, &error),
            Err(error) => fail(exit::CONFIG, &error),
        },
        Ok(Command::Advise(options)) => advise::run(&options),
        Ok(Command::Replay(options)) => replay::run(&options),
        Err(code) => code,
    }
}

fn serve(options: Serve) -> ExitCode {
    let path = options.file.config;
    let mut config = match Config::load(path.as_deref()) {
        Ok(config) => config,
        Err(error) => return fail(exit::CONFIG, &error),
    };
    let listen_is_fixed = !options.listen.is_empty();
    if listen_is_fixed {
        config.listen = options.listen;
    }
    run(daemon::run(config, path, listen_is_fixed))
}

fn ask(options: &Query) -> ExitCode {
    let address = match &options.to {
        Some(address) => address.clone(),
        None => match Config::load(options.file.config.as_deref()) {
            Ok(config) => config.listen[0].clone(),
            Err(error) => return fail(exit::CONFIG, &error),
        },
    };
    match query::ask(&address, &options.client, &options.attributes) {
        Ok(action) if options.json => println!("{}", serde_json::json!({ "action": action })),
        Ok(action) => println!("{action}"),
        Err(error) => return fail(exit::UNAVAILABLE, &format!("{address}: {error}")),
    }
    ExitCode::SUCCESS
}

/// One thread: a request is a few microseconds of work, less than waking another thread costs.
fn run<E: Display>(program: impl Future<Output = Result<(), E>>) -> ExitCode {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_start(signals::leave_to_main)
        .build()
        .expect("a process can have a thread and an epoll");
    let result = runtime.block_on(program);
    // Not waiting for a resolver or a file system that may never answer.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(exit::UNAVAILABLE, &error),
    }
}

fn fail(code: u8, error: &dyn Display) -> ExitCode {
    eprintln!("connshaper: {error}");
    ExitCode::from(code)
}
