//! What systemd is told: that we are ready, reload, stop, and live.
//!
//! Each call does nothing where no service manager asked to be told. An error
//! means that it asked and could not be reached; the daemon goes on, and logs it.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;

/// The service answers requests, after its start or after a reload.
pub fn ready() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Ready])
}

/// A reload begins; `ready` ends it.
pub fn reloading() -> io::Result<()> {
    // With Type=notify-reload the time tells this reload from an earlier one.
    sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
}

/// The orderly end begins.
pub fn stopping() -> io::Result<()> {
    sd_notify::notify(&[NotifyState::Stopping])
}

/// One line for `systemctl status`.
pub fn status(text: &str) -> io::Result<()> {
    // A newline would begin another message.
    let line = text.replace(char::is_control, " ");
    sd_notify::notify(&[NotifyState::Status(&line)])
}

/// Tells the watchdog, for ever, that this runtime still runs its tasks.
/// Twice as often as it asked for, so that one late turn does not end us.
pub async fn feed_watchdog() {
    let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) else {
        return std::future::pending().await;
    };
    let mut turns = tokio::time::interval((interval / 2).max(Duration::from_millis(1)));
    loop {
        turns.tick().await;
        // A watchdog that cannot be told acts by itself.
        let _ = sd_notify::notify(&[NotifyState::Watchdog]);
    }
}
