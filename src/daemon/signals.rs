//! The signals that the daemon handles, and what they ask for.
//!
//! Only the main thread handles them: all other threads block them. While the main
//! thread blocks them too, as over execve(2), a signal waits in the kernel. So none
//! is lost on a thread that ends with this program.

use std::io;
use std::task::{Context, Waker};

use nix::sys::signal::{SigSet, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::yield_now;

use crate::net::signals::HANDLED;

/// The action that a signal asks for.
pub enum SignalAction {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR2.
    Upgrade,
}

/// Signals that wait until they are asked for.
#[derive(Debug)]
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    user2: Signal,
}

impl Signals {
    /// From here on a signal waits until it is asked for. Those that came during an upgrade come now.
    pub fn listen() -> io::Result<Self> {
        let signals = Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user2: signal(SignalKind::user_defined2())?,
        };
        signals.unblock()?;
        Ok(signals)
    }

    /// From here on signals wait in the kernel. Those that came before and were not asked for do so as well.
    pub async fn block(&mut self) -> io::Result<()> {
        HANDLED.into_iter().collect::<SigSet>().thread_block()?;
        self.put_back().await
    }

    /// Has signals that came and were not asked for wait in the kernel too. A thread that was just being made when this
    /// one blocked them may have taken another one.
    pub async fn put_back(&mut self) -> io::Result<()> {
        // One that has just come has woken the runtime and is told in its next turn.
        yield_now().await;
        yield_now().await;
        let mut context = Context::from_waker(Waker::noop());
        let streams = [&mut self.hangup, &mut self.terminate, &mut self.interrupt, &mut self.user2];
        for (stream, number) in streams.into_iter().zip(HANDLED) {
            if stream.poll_recv(&mut context).is_ready() {
                kill(Pid::this(), number)?;
            }
        }
        Ok(())
    }

    /// Lets signals come again.
    pub fn unblock(&self) -> io::Result<()> {
        HANDLED.into_iter().collect::<SigSet>().thread_unblock().map_err(io::Error::from)
    }

    /// The next order.
    pub async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.user2.recv() => SignalAction::Upgrade,
        }
    }

    /// The result of `work`; `None`: a signal to stop came first.
    pub async fn stop_or<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            _ = self.terminate.recv() => None,
            _ = self.interrupt.recv() => None,
            done = work => Some(done),
        }
    }
}
