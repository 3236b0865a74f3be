//! `connshaper top`: the busiest clients of a running daemon, as they come.
//!
//! Asks the daemon once a second, over its control socket. `screen` draws what it said; what keys do is here.
//! Where nobody watches on a terminal, lines are printed instead.

pub mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde_json::{Value, json};

use crate::control::Problem;
use crate::control::client::Client;
use crate::sysexits;
use screen::{Screen, Sort};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// Clients asked for: more than any terminal has lines.
const CLIENTS: u64 = 200;

/// Shows the daemon behind a control socket until `q` is pressed, or prints lines until nobody reads them.
pub fn run(path: &Path, json: bool) -> ExitCode {
    let result = match (json, io::stdout().is_terminal() && io::stdin().is_terminal()) {
        (true, _) => ask(path).map(|answer| {
            // Nobody is left to tell when standard output is closed.
            let _ = writeln!(io::stdout(), "{answer:#}");
        }),
        (false, true) => watch(path),
        (false, false) => print(path),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("connshaper: {}", problem.error);
            ExitCode::from(problem.code)
        }
    }
}

fn ask(path: &Path) -> Result<Value, Problem> {
    Client::connect(path)?.ask("top", &json!({ "clients": CLIENTS }))
}

/// A line a second.
fn print(path: &Path) -> Result<(), Problem> {
    loop {
        let answer = ask(path)?;
        if writeln!(io::stdout(), "{}", screen::line(&answer)).is_err() {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// The live screen.
fn watch(path: &Path) -> Result<(), Problem> {
    // A daemon that cannot be asked at all is told before the screen is taken.
    let mut screen = Screen::new(ask(path)?);
    let mut terminal = ratatui::try_init().map_err(trouble)?;
    let result = live(&mut terminal, &mut screen, path);
    ratatui::restore();
    result.map_err(trouble)
}

fn trouble(error: io::Error) -> Problem {
    Problem { error: error.to_string(), code: sysexits::UNAVAILABLE }
}

fn live(terminal: &mut DefaultTerminal, screen: &mut Screen, path: &Path) -> io::Result<()> {
    let mut asked = Instant::now();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        let left = INTERVAL.saturating_sub(asked.elapsed());
        if event::poll(left)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    if interrupted || !heed(screen, key.code, path) {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        if asked.elapsed() >= INTERVAL {
            asked = Instant::now();
            match ask(path) {
                Ok(answer) => screen.heard(answer),
                // It may be on its way back.
                Err(problem) => screen.lost(problem.error),
            }
        }
    }
}

/// Does what a key asks for, and says whether to go on.
fn heed(screen: &mut Screen, key: KeyCode, path: &Path) -> bool {
    match key {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Up | KeyCode::Char('k') => screen.select(-1),
        KeyCode::Down | KeyCode::Char('j') => screen.select(1),
        KeyCode::Char('c') => screen.sort(Sort::Count),
        KeyCode::Char('l') => screen.sort(Sort::Left),
        KeyCode::Char('a') => screen.sort(Sort::Key),
        KeyCode::Char('b') => order(screen, path, "ban", Some(3600)),
        KeyCode::Char('u') => order(screen, path, "unban", None),
        KeyCode::Char('r') => order(screen, path, "reset", None),
        _ => {}
    }
    true
}

/// Has a command done about the selected client.
fn order(screen: &mut Screen, path: &Path, command: &str, seconds: Option<u64>) {
    let Some(target) = screen.selected() else { return };
    let mut arguments = json!({ "target": target });
    if let Some(seconds) = seconds {
        arguments["seconds"] = seconds.into();
    }
    let said = match Client::connect(path).and_then(|mut client| client.ask(command, &arguments)) {
        Ok(answer) => answer["done"].as_str().unwrap_or("done").to_owned(),
        Err(problem) => problem.error,
    };
    screen.say(said);
}
