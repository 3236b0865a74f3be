//! Dovecot as the SASL server of a Postfix: any login is valid, with one password.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::lines::show_if_panicking;
use super::{Dir, Lines, Process, until};

/// The password of every login.
pub const PASSWORD: &str = "secret";

/// A running Dovecot that serves nothing but authentication.
pub struct Dovecot {
    // Ended first when this is dropped, and only then is its directory removed.
    _process: Process,
    lines: Lines,
    dir: Dir,
}

impl Dovecot {
    /// Starts one and waits until it is ready.
    pub fn start() -> Self {
        let dir = Dir::new();
        let config = dir.write("dovecot.conf", &configuration(dir.path()));
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
        Self { _process: process, lines, dir }
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
