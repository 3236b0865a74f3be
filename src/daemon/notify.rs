//! Notifies systemd: ready, reloading, stopping, watchdog.
//!
//! The socket of a service manager that does not read blocks, so a thread of its own
//! writes to it and nothing else waits for that. Without NOTIFY_SOCKET each call does
//! nothing. An error means that the socket cannot be reached; the daemon goes on, and
//! logs it.

use std::io;
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::net::signals::block_signals;

/// Messages that wait for the thread. More than these are not worth keeping: they are old news.
const WAITING: usize = 16;

enum NotifyMessage {
    Ready,
    Reloading,
    Stopping,
    Status(String),
    Watchdog,
    /// Is answered when everything before it was sent.
    Flush(SyncSender<()>),
}

static THREAD: LazyLock<Option<SyncSender<NotifyMessage>>> = LazyLock::new(|| {
    std::env::var_os("NOTIFY_SOCKET")?;
    let (sender, receiver) = sync_channel(WAITING);
    thread::Builder::new().name("notify".into()).stack_size(64 * 1024).spawn(move || tell_all(&receiver)).ok()?;
    Some(sender)
});

fn tell_all(messages: &Receiver<NotifyMessage>) {
    block_signals();
    for message in messages {
        // Without a connection to systemd there is no way to report the failure to it.
        let _ = match &message {
            NotifyMessage::Ready => sd_notify::notify(&[NotifyState::Ready]),
            // With Type=notify-reload the time tells this reload from an earlier one.
            NotifyMessage::Reloading => {
                NotifyState::monotonic_usec_now().and_then(|time| sd_notify::notify(&[NotifyState::Reloading, time]))
            }
            NotifyMessage::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
            NotifyMessage::Status(line) => sd_notify::notify(&[NotifyState::Status(line)]),
            NotifyMessage::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
            NotifyMessage::Flush(done) => done.send(()).map_err(io::Error::other),
        };
    }
}

fn tell(message: NotifyMessage) -> io::Result<()> {
    let Some(thread) = THREAD.as_ref() else {
        return Ok(());
    };
    thread.try_send(message).map_err(|_| io::Error::other("the service manager does not read what it is told"))
}

/// The service answers requests, after its start or after a reload.
pub fn ready() -> io::Result<()> {
    tell(NotifyMessage::Ready)
}

/// A reload begins; `ready` ends it.
pub fn reloading() -> io::Result<()> {
    tell(NotifyMessage::Reloading)
}

/// The orderly end begins.
pub fn stopping() -> io::Result<()> {
    tell(NotifyMessage::Stopping)
}

/// One line for `systemctl status`.
pub fn status(text: &str) -> io::Result<()> {
    // A newline would begin another message.
    tell(NotifyMessage::Status(text.replace(char::is_control, " ")))
}

/// Waits until everything was told, at most for `patience`. For the end of the process; blocks its thread.
pub fn flush(patience: Duration) {
    let (done, told) = sync_channel(1);
    if THREAD.is_some() && tell(NotifyMessage::Flush(done)).is_ok() {
        let _ = told.recv_timeout(patience);
    }
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
        // An error needs no handling: systemd acts if it hears nothing.
        let _ = tell(NotifyMessage::Watchdog);
    }
}
