//! SIGUSR2: the program that the program file has now, usually a newer one, takes the place of this one.

use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Daemon;
use crate::daemon::handover::{exec, preflight, send};
use crate::daemon::notify;
use crate::daemon::signals::Signals;
use crate::http::server::HttpServer;
use crate::listener::Listener;
use crate::net::clock::Now;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;
use crate::observe::log::Severity;
use crate::postfix::connection::PolicyConnection;

/// How much longer than `store_timeout` requests may take that are under way.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long the log and systemd may take for what was said before. Everyone waits meanwhile.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// The tasks that accept connections.
pub(super) type Accepting = Vec<JoinHandle<Listener>>;

impl Daemon {
    /// Hands over to the program file, and comes back only if that does not work: then nothing has happened.
    /// `None`: we were told to stop before.
    pub(super) async fn upgrade(&mut self, accepting: &mut Accepting, signals: &mut Signals) -> Option<()> {
        self.tell(notify::reloading());
        let error = match signals.stop_or(preflight::run(&self.program, self.path.as_deref())).await? {
            // No command of ours may be a child of the other program, which does not know it. Requests go on meanwhile.
            Ok(_) => match signals.stop_or(self.log.pause_commands()).await? {
                true => self.hand_over(accepting, signals).await,
                false => "a command that is run for an event does not end".to_owned(),
            },
            Err(error) => error,
        };
        self.log.resume_commands();
        self.log.line(Severity::Err, "UPGRADE_FAILED", |line| {
            line.field("program", self.program.display()).field("error", error);
        });
        self.tell(notify::ready());
        Some(())
    }

    /// Puts everything down, calls the other program, and takes it all up again if that fails. Says why it did.
    async fn hand_over(&mut self, accepting: &mut Accepting, signals: &mut Signals) -> String {
        let begun = Now::read();
        self.suspended.open();
        self.stop.hand_over();
        self.connections.close();
        let patience = self.config.store.timeout + LAST_ANSWERS;
        // First, because a task that is just accepting may make another connection.
        let mut listeners = Vec::new();
        for accepting in accepting.drain(..) {
            listeners.extend(accepting.await.ok());
        }
        let answered = timeout(patience, self.connections.wait()).await;
        let mut suspended = self.suspended.empty();
        if let Some(http) = &mut self.http {
            http.pause().await;
        }
        let error = match answered {
            Ok(()) => self.call(&listeners, &suspended, begun, signals, patience).await.to_string(),
            Err(_) => "requests that are under way take too long".to_owned(),
        };
        self.resume_http();
        self.stop = Shutdown::default();
        self.connections.reopen();
        suspended.extend(self.suspended.give_up(self.stop.clone()));
        suspended.into_iter().for_each(|suspended| self.acceptor().serve(suspended));
        accepting.extend(listeners.into_iter().map(|listener| tokio::spawn(self.acceptor().accept(listener))));
        error
    }

    fn resume_http(&mut self) {
        if let Some(Err(error)) = self.http.as_mut().map(HttpServer::resume) {
            self.log.line(Severity::Err, "HTTP_FAILED", |line| {
                line.field("error", error);
            });
        }
    }

    async fn call(
        &self,
        listeners: &[Listener],
        suspended: &[PolicyConnection<Stream>],
        begun: Now,
        signals: &mut Signals,
        patience: Duration,
    ) -> io::Error {
        // Background operations are still on their way to the store.
        let _ = timeout(patience, self.service.rules.load().store.wait_for_background()).await;
        self.log.flush(LAST_WORDS);
        notify::flush(LAST_WORDS);
        let http: Vec<_> = self.http.iter().flat_map(HttpServer::doors).collect();
        let call = async {
            signals.block().await?;
            let carrier = send::load(&self.service, self.listening.asked(), listeners, &http, suspended, begun)?;
            signals.put_back().await?;
            exec::call(&self.program, &carrier)
        };
        let Err(error) = call.await;
        signals.unblock().err().unwrap_or(error)
    }
}
