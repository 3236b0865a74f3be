//! The null policy server: answers `DUNNO` at the blank line and looks at nothing else.
//!
//! What every other server is compared with: one thread, level-triggered epoll,
//! one read and one write per request, no allocation once a connection is open.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::request::DUNNO;

/// The listener's name in epoll; connections are named by numbers from 0.
const LISTENER: u64 = u64::MAX;

/// Serves until it is killed, or the benchmark ends. `busy`: how long it keeps the processor before each answer.
pub fn serve(path: &Path, busy: Duration) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    // A null server before this one may have left its socket.
    let _ = fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    // Postfix is another user.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut server = Server { epoll, connections: Vec::new(), free: Vec::new(), input: [0; 4096], busy };
    let mut events = [EpollEvent::empty(); 512];
    loop {
        let ready = server.epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            match event.data() {
                LISTENER => server.accept(&listener)?,
                number => server.answer(number as usize)?,
            }
        }
    }
}

/// Answers each request on standard input, until that ends.
pub fn child() -> io::Result<()> {
    let (mut input, mut last) = ([0; 4096], 0);
    loop {
        let read = io::stdin().read(&mut input)?;
        if read == 0 {
            return Ok(());
        }
        let before = if read > 1 { input[read - 2] } else { last };
        last = input[read - 1];
        if before == b'\n' && last == b'\n' {
            let mut output = io::stdout();
            output.write_all(DUNNO)?;
            output.flush()?;
        }
    }
}

struct Server {
    epoll: Epoll,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Made once: to clear it for each read would cost a twentieth of a request.
    input: [u8; 4096],
    busy: Duration,
}

struct Connection {
    stream: UnixStream,
    /// The last byte read, should a read end between the two newlines.
    last: u8,
}

impl Server {
    fn accept(&mut self, listener: &UnixListener) -> io::Result<()> {
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            self.connections[number] = Some(Connection { stream, last: 0 });
        }
        Ok(())
    }

    fn answer(&mut self, number: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[number] else {
            return Ok(());
        };
        let input = &mut self.input;
        let read = match connection.stream.read(input) {
            Ok(0) | Err(_) => {
                // Closing it takes it out of epoll.
                self.connections[number] = None;
                self.free.push(number);
                return Ok(());
            }
            Ok(read) => read,
        };
        let before = if read > 1 { input[read - 2] } else { connection.last };
        connection.last = input[read - 1];
        if before == b'\n' && connection.last == b'\n' {
            if !self.busy.is_zero() {
                let end = Instant::now() + self.busy;
                while Instant::now() < end {}
            }
            connection.stream.write_all(DUNNO)?;
        }
        Ok(())
    }
}
