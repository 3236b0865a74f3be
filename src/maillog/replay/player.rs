//! Sends each session at its time, and counts the answers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::connection::ReplayConnection;
use super::options::Speed;
use crate::maillog::advise::clients::MAX_CLIENTS;
use crate::maillog::advise::counts::Verdicts;
use crate::maillog::reading::CommandFailure;
use crate::maillog::request;
use crate::maillog::sessions::{LoggedSession, Seen, SessionSink};
use crate::maillog::text::printable;

/// The most different actions that are counted: another policy daemon may answer anything.
const MAX_ACTIONS: usize = 100;

pub struct Player {
    connection: ReplayConnection,
    speed: Speed,
    seen: Seen,
    verdicts: Option<Verdicts>,
    /// When the first session was sent, and its time in the log.
    start: Option<(Instant, i64)>,
    request: String,
    /// Why it ends early.
    failure: Option<CommandFailure>,
    answers: Answers,
}

/// What a daemon answered.
#[derive(Debug, Default)]
pub struct Answers {
    /// Sessions that were asked about.
    pub sessions: u64,
    /// Questions: one for each session, and one for each further message of it.
    pub questions: u64,
    /// Questions by the first word of the action.
    pub actions: BTreeMap<String, u64>,
    /// Clients that were refused, with their name and how often; at most a million.
    pub refused: HashMap<IpAddr, (String, u64)>,
    /// Clients that delivered mail in the log; at most a million.
    pub senders: HashSet<IpAddr>,
    /// The longest time an answer took.
    pub slowest: Duration,
    /// The most that a request came later than its time.
    pub behind: Duration,
    /// Time from the first question to the last answer.
    pub taken: Duration,
}

impl Player {
    pub fn new(connection: ReplayConnection, speed: Speed, seen: Seen, verdicts: Option<Verdicts>) -> Self {
        let (start, request, failure, answers) = (None, String::new(), None, Answers::default());
        Self { connection, speed, seen, verdicts, start, request, failure, answers }
    }

    pub fn finish(mut self) -> Result<Answers, CommandFailure> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        self.verdicts.take().map_or(Ok(()), Verdicts::finish)?;
        self.answers.taken = self.start.map_or(Duration::ZERO, |(start, _)| start.elapsed());
        Ok(self.answers)
    }

    /// Waits for the time of a session.
    fn wait(&mut self, time: i64) {
        let (start, first) = *self.start.get_or_insert_with(|| (Instant::now(), time));
        let Speed::Times(times) = self.speed else {
            return;
        };
        let due = Duration::from_secs_f64((time - first).max(0) as f64 / 1000.0 / times);
        match due.checked_sub(start.elapsed()) {
            Some(early) => thread::sleep(early),
            None => self.answers.behind = self.answers.behind.max(start.elapsed() - due),
        }
    }

    fn note(&mut self, session: &LoggedSession<'_>, action: &str) {
        let word = action.split_whitespace().next().unwrap_or_default();
        let word = printable(word.as_bytes());
        if let Some(verdicts) = &mut self.verdicts {
            verdicts.write(session, &word);
        }
        let is_refusal = !matches!(word.to_ascii_uppercase().as_str(), "DUNNO" | "OK" | "PREPEND" | "WARN" | "INFO");
        let Answers { actions, refused, .. } = &mut self.answers;
        if is_refusal && (refused.len() < MAX_CLIENTS || refused.contains_key(&session.client)) {
            let client = refused.entry(session.client).or_insert_with(|| (printable(session.name), 0));
            client.1 += 1;
        }
        if actions.len() < MAX_ACTIONS || actions.contains_key(&word) {
            *actions.entry(word).or_default() += 1;
        }
    }
}

impl SessionSink for Player {
    fn asked(&mut self, session: &LoggedSession<'_>) {
        self.answers.sessions += 1;
        self.asked_again(session);
    }

    fn asked_again(&mut self, session: &LoggedSession<'_>) {
        if self.failure.is_some() {
            return;
        }
        self.wait(session.time);
        request::write(&mut self.request, session, self.seen);
        self.answers.questions += 1;
        let asked = Instant::now();
        match self.connection.ask(&self.request) {
            Ok(action) => {
                self.answers.slowest = self.answers.slowest.max(asked.elapsed());
                self.note(session, &action);
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    fn delivered(&mut self, client: IpAddr, _accepted: i64) {
        if self.answers.senders.len() < MAX_CLIENTS {
            self.answers.senders.insert(client);
        }
    }

    fn has_enough(&self) -> bool {
        self.failure.is_some()
    }
}
