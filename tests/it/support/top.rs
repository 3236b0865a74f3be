//! `connshaper top` as it looks in a terminal.

use std::fmt::{self, Display, Formatter};
use std::io::{Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::until;

/// `connshaper top` in a terminal of 24 lines with 80 columns, which script(1) provides.
pub struct Top {
    child: Child,
    terminal: Arc<Mutex<vt100::Parser>>,
    reader: JoinHandle<()>,
}

impl Display for Top {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.lines().iter().try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

impl Top {
    /// Starts it with this view of the daemon at a control socket.
    pub fn start(socket: &Path, limit: &str) -> Self {
        let (program, socket) = (env!("CARGO_BIN_EXE_connshaper"), socket.display());
        let top = format!("stty rows 24 cols 80; exec {program} top {limit} --socket {socket}");
        let mut script = Command::new("script");
        script.args(["-qec", &top, "/dev/null"]).env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().unwrap_or_else(|error| panic!("cannot run script(1): {error}"));
        let [rows, columns] = [24, 80].map(|size| NonZero::new(size).unwrap());
        let terminal = Arc::new(Mutex::new(vt100::Parser::new(rows, columns, 0)));
        let (mut output, drawn) = (child.stdout.take().unwrap(), terminal.clone());
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = output.read(&mut bytes) {
                drawn.lock().unwrap().process(&bytes[..read]);
            }
        });
        Self { child, terminal, reader }
    }

    /// Types these keys.
    pub fn press(&mut self, keys: &str) {
        self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has this title and the lines below its heading are as they should be.
    pub fn shows(&self, title: &str, holds: impl Fn(&[String]) -> bool) {
        let is_shown = || {
            let lines = self.lines();
            let at = lines.iter().position(|line| line.contains(title))?;
            lines.get(at + 2..).filter(|rows| holds(rows)).map(drop)
        };
        until(format_args!("{title:?} with its rows; the screen:\n{self}"), is_shown);
    }

    /// The lines of the screen.
    pub fn lines(&self) -> Vec<String> {
        self.terminal.lock().unwrap().screen().rows(0, 80).collect()
    }

    /// Ends it by its key.
    pub fn quit(mut self) {
        self.press("q");
        assert!(self.child.wait().unwrap().success());
        self.reader.join().unwrap();
    }
}
