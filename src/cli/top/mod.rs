//! `connshaper top`: the busiest clients of a running daemon and the keys nearest to their limits, as they come.
//!
//! Asks the daemon once a second, over its control socket. `screen` draws the answer; keys are handled here.
//! Without a terminal, lines are printed instead.

pub mod screen;

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

use crate::control::Problem;
use crate::control::ban::BanArgs;
use crate::control::client::{ClientCommand, ControlClient, fail, report_json};
use crate::control::commands::{ControlCommand, ControlRequest};
use crate::control::reset::ResetArgs;
use crate::control::text::Summary;
use crate::control::top::{TopAnswer, TopArgs};
use crate::control::unban::UnbanArgs;
use crate::engine::target::Target;
use crate::observe::terminal::Paint;
use crate::sysexits;
use screen::{Screen, Sort};

/// Between two requests.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows the daemon until `q` is pressed, or prints lines until standard output is closed.
pub fn run(ClientCommand { daemon, command }: &ClientCommand<TopArgs>) -> ExitCode {
    let path = match daemon.path() {
        Ok(path) => path,
        Err(error) => return fail(&Problem { error: error.to_string(), code: sysexits::CONFIG }),
    };
    if daemon.json {
        return report_json::<TopArgs>(
            ControlClient::connect(&path).and_then(|mut client| client.ask_exactly(command.clone())),
        );
    }
    let result = match io::stdout().is_terminal() && io::stdin().is_terminal() {
        true => watch(&path, command),
        false => print_lines(&path, command),
    };
    result.err().map_or(ExitCode::SUCCESS, |problem| fail(&problem))
}

fn ask(path: &Path, command: &TopArgs) -> Result<TopAnswer, Problem> {
    ControlClient::connect(path)?.ask(command.clone())
}

/// A line a second.
fn print_lines(path: &Path, command: &TopArgs) -> Result<(), Problem> {
    loop {
        let line = command.show(&ask(path, command)?, Paint(false));
        let written = io::stdout().write_all(line.as_bytes()).and_then(|()| io::stdout().flush());
        match written {
            Ok(()) => std::thread::sleep(INTERVAL),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => {
                return Err(Problem { error: format!("standard output: {error}"), code: sysexits::IO_ERROR });
            }
        }
    }
}

/// The live screen.
fn watch(path: &Path, command: &TopArgs) -> Result<(), Problem> {
    // Fails before the screen is taken if the daemon cannot be reached at all.
    let mut screen = Screen::new(ask(path, command)?, command.limit.clone());
    let mut terminal = ratatui::try_init().map_err(unavailable)?;
    let result = live(&mut terminal, &mut screen, path, command.clients);
    ratatui::restore();
    result.map_err(unavailable)
}

fn unavailable(error: io::Error) -> Problem {
    Problem { error: error.to_string(), code: sysexits::UNAVAILABLE }
}

fn live(terminal: &mut DefaultTerminal, screen: &mut Screen, path: &Path, clients: usize) -> io::Result<()> {
    let mut asked = Instant::now();
    let mut shown = screen.limit();
    loop {
        terminal.draw(|frame| screen.draw(frame))?;
        let left = INTERVAL.saturating_sub(asked.elapsed());
        if event::poll(left)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let interrupted = key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c');
                    if interrupted || !handle_key(screen, key.code, path) {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
        let limit = screen.limit();
        if asked.elapsed() >= INTERVAL || limit != shown {
            asked = Instant::now();
            shown.clone_from(&limit);
            match ask(path, &TopArgs { limit, clients }) {
                Ok(answer) => screen.update(answer),
                // The daemon may be restarting.
                Err(problem) => screen.set_error(problem.error),
            }
        }
    }
}

/// Handles a key; `false`: quit.
fn handle_key(screen: &mut Screen, key: KeyCode, path: &Path) -> bool {
    match key {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Up | KeyCode::Char('k') => screen.select(-1),
        KeyCode::Down | KeyCode::Char('j') => screen.select(1),
        KeyCode::Tab => screen.change_view(1),
        KeyCode::BackTab => screen.change_view(-1),
        KeyCode::Char('s') => screen.sort(Sort::Share),
        KeyCode::Char('c') => screen.sort(Sort::Count),
        KeyCode::Char('l') => screen.sort(Sort::Left),
        KeyCode::Char('a') => screen.sort(Sort::Key),
        KeyCode::Char('b') => run_command(screen, path, BanArgs::from, |answer| answer.summary),
        KeyCode::Char('u') => run_command(screen, path, |target| UnbanArgs { target }, |answer| answer.summary),
        KeyCode::Char('r') => run_command(screen, path, |target| ResetArgs { target }, |answer| answer.summary),
        _ => {}
    }
    true
}

/// Has a command done about the selected client or key.
fn run_command<C>(screen: &mut Screen, path: &Path, command: fn(Target) -> C, summary: fn(C::Answer) -> Summary)
where
    C: ControlCommand + Into<ControlRequest>,
{
    let Some(target) = screen.selected().and_then(|key| key.parse().ok()) else { return };
    let result = ControlClient::connect(path).and_then(|mut client| client.ask(command(target)));
    screen.show_message(result.map_or_else(|problem| problem.error, |answer| summary(answer).done));
}
