//! Commands while no daemon runs, where counts are in a file: the same code, on the file itself.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Control;
use super::commands::ControlRequest;
use crate::config::Config;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::net::signals::block_signals;
use crate::net::users;
use crate::observe::log::Log;
use crate::policy::Policy;

/// How long the file is waited for: no client waits meanwhile.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what follows from the command may take, and then the commands that are run for events.
const FOLLOWING: Duration = Duration::from_secs(5);

/// How long the end of the process waits for the log.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Does a command as the daemon would; the answer is a line of JSON.
///
/// # Errors
///
/// When the file cannot be used, with the way out, or the log cannot be written.
pub fn run(config: &Config, request: &ControlRequest) -> io::Result<String> {
    if let Some(store) = &config.store.shared {
        store.try_file()?;
    }
    let runtime = Builder::new_current_thread().enable_all().on_thread_start(block_signals).build()?;
    let answer = runtime.block_on(answer(config.clone(), request));
    runtime.shutdown_background();
    answer
}

async fn answer(mut config: Config, request: &ControlRequest) -> io::Result<String> {
    config.store.timeout = STORE_TIMEOUT;
    // The daemon's standard error is not ours, so changes are logged as in inetd mode.
    config.log.target = config.inetd_log.clone();
    let log = Log::open(&config.log)?;
    let service = Arc::new(Service::new(config.engine(), Policy::new(&config.policy, None), log.clone()));
    // Overrides of administrators hold here too.
    service.overrides.refresh(&service, Now::read()).await;
    let store = Arc::clone(&service.rules.load().store);
    if store.state() != "up" {
        return Err(io::Error::other("it cannot be used at present: another process has locked it"));
    }
    let (reload, _) = mpsc::channel(1);
    let control = Control { service, connections: TaskTracker::new(), reload, started: Now::read() };
    let user = users::name(geteuid().as_raw()).await;
    let answer = request.run(&control, &user).await;
    let _ = timeout(FOLLOWING, store.wait_for_background()).await;
    log.finish_commands(FOLLOWING).await;
    log.flush(LAST_LINES);
    Ok(answer)
}
