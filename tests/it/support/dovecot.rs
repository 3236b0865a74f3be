//! Dovecot as the SASL server of a Postfix, and with IMAP: any login is valid, with one password.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::lines::show_if_panicking;
use super::{Dir, Lines, PATIENCE, Port, Process, until};

/// The password of every login.
pub const PASSWORD: &str = "secret";

/// A running Dovecot that serves authentication, and IMAP if it was started so.
pub struct Dovecot {
    // Ended first when this is dropped, and only then is its directory removed.
    _process: Process,
    lines: Lines,
    imap: Option<Port>,
    dir: Dir,
}

impl Dovecot {
    /// Starts one and waits until it is ready.
    pub fn start() -> Self {
        Self::start_with(None, "")
    }

    /// One with these lines added to its configuration.
    pub fn with(lines: &str) -> Self {
        Self::start_with(None, lines)
    }

    /// One that serves IMAP too, with these lines added to its configuration.
    pub fn with_imap(lines: &str) -> Self {
        Self::start_with(Some(Port::new()), lines)
    }

    fn start_with(imap: Option<Port>, more: &str) -> Self {
        let dir = Dir::new();
        let of_imap = imap.as_ref().map(|port| imap_configuration(dir.path(), port)).unwrap_or_default();
        let config = dir.write("dovecot.conf", &format!("{}{of_imap}{more}\n", configuration(dir.path())));
        let mut command = Command::new("dovecot");
        command.arg("-F").arg("-c").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command, Signal::SIGTERM);
        let lines = Lines::of(process.pipes().stderr.take().unwrap());
        until(format_args!("a Dovecot that is ready; its log:\n{lines}"), || {
            if let Some(status) = process.ended() {
                panic!("Dovecot ended with {status} instead of starting:\n{lines}");
            }
            lines.wait_within(Duration::from_millis(100), "starting up", 0)
        });
        Self { _process: process, lines, imap, dir }
    }

    /// Its log.
    pub fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Logs in by IMAP from this address, and says whether that was let in.
    pub fn log_in(&self, from: &str, name: &str, password: &str) -> bool {
        let port = self.imap.as_ref().expect("it serves IMAP");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(from.parse().unwrap(), 0).into()).unwrap();
        socket.connect(&port.address().into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("* OK"), "{line}");
        write!(stream.get_mut(), "a LOGIN \"{name}\" \"{password}\"\r\n").unwrap();
        loop {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0, "Dovecot hung up; its log:\n{}", self.lines);
            if let Some(answer) = line.strip_prefix("a ") {
                return answer.starts_with("OK");
            }
        }
    }

    /// Lines of main.cf with which Postfix asks it about logins.
    pub fn main_cf(&self) -> String {
        format!(
            "smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\nsmtpd_sasl_path = {}\n",
            self.dir.join("auth").display()
        )
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        show_if_panicking("Dovecot", &self.lines);
    }
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "
        base_dir = {dir}/run
        state_dir = {dir}/state
        log_path = /dev/stderr
        protocols =
        ssl = no
        auth_mechanisms = plain
        disable_plaintext_auth = no
        passdb {{
          driver = static
          args = password={PASSWORD}
        }}
        userdb {{
          driver = static
          args = uid=65534 gid=65534 home=/nonexistent
        }}
        service auth {{
          unix_listener {dir}/auth {{
            mode = 0666
          }}
        }}
        "
    )
}

/// What IMAP takes beside that. Without the penalty that Dovecot itself has for wrong passwords, which takes seconds.
fn imap_configuration(dir: &Path, port: &Port) -> String {
    let mail = dir.join("mail");
    std::fs::create_dir(&mail).unwrap();
    nix::unistd::chown(&mail, Some(65_534.into()), Some(65_534.into())).unwrap();
    format!(
        "
        protocols = imap
        auth_failure_delay = 0 secs
        mail_location = maildir:{mail}/%u
        service anvil {{
          unix_listener anvil-auth-penalty {{
            mode = 0
          }}
        }}
        service imap-login {{
          inet_listener imap {{
            address = 127.0.0.1
            port = {port}
          }}
          inet_listener imaps {{
            port = 0
          }}
        }}
        ",
        mail = mail.display(),
        port = port.address().port(),
    )
}
