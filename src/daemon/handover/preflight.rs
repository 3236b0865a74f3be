//! Tests whether a program can be upgraded to: runs it as a child, before anything is given up.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::daemon::handover::transport::VARIABLE;

/// Long lists of a large site take seconds to read; a program that hangs is none to change to.
const PATIENCE: Duration = Duration::from_secs(20);

/// Variables that a child must not inherit.
const OURS: [&str; 7] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", VARIABLE];

/// The version of the program, if it is connshaper and finds nothing wrong in the configuration. `Err` says
/// what is in the way.
pub async fn run(program: &Path, config: Option<&Path>) -> Result<String, String> {
    let output = ask(program, ["--version".as_ref()]).await?;
    let version_line = String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned);
    let version = version_line.and_then(|line| line.trim().strip_prefix("connshaper ").map(str::to_owned));
    let version = version.filter(|_| output.status.success()).ok_or_else(|| "it is not connshaper".to_owned())?;
    let option = config.map(|path| ["-c".as_ref(), path.as_os_str()]);
    let output = ask(program, ["check".as_ref()].into_iter().chain(option.into_iter().flatten())).await?;
    if output.status.success() {
        return Ok(version);
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let problem = words.lines().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(format!("it does not take the configuration: {problem}"))
}

async fn ask<'a>(program: &Path, arguments: impl IntoIterator<Item = &'a std::ffi::OsStr>) -> Result<Output, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    for name in OURS {
        command.env_remove(name);
    }
    let run = async {
        // A file system that hangs makes exec wait.
        let child = spawn_blocking(move || command.spawn()).await??;
        child.wait_with_output().await
    };
    match timeout(PATIENCE, run).await {
        Ok(output) => output.map_err(|error| format!("{}: {error}", program.display())),
        Err(_) => Err(format!("{} does not end within {} s", program.display(), PATIENCE.as_secs())),
    }
}
