//! What is counted while the logs are read.

use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

use super::accounts::{Accounts, SentMessage};
use super::clients::{ClientTable, MAX_CLIENTS, Mask};
use super::judge::{Judge, Judgement};
use super::parts::Parts;
use super::timeline::Timeline;
use super::window::Moment;
use crate::maillog::reading::CommandFailure;
use crate::maillog::sessions::{AcceptedMessage, LoggedSession, SessionSink};
use crate::maillog::text::{cannot_write, time};
use crate::sysexits;

/// The sessions and messages of the logs, counted for all candidates, and the configuration that is tried.
pub struct Counts {
    /// Clients of an address family whose mask keeps the whole address.
    plain: ClientTable,
    /// Clients of the other family, masked.
    masked: ClientTable,
    /// The same clients by their whole addresses.
    unmasked: ClientTable,
    mask: Mask,
    /// What users send.
    pub accounts: Accounts,
    /// The parts of the log on which a recommendation is tested.
    pub parts: Parts,
    /// Sessions over time.
    pub timeline: Timeline,
    /// The configuration given with `--config`.
    pub trial: Option<ConfigTrial>,
    /// The first and the last time a client was asked about, in milliseconds since the epoch.
    pub span: Option<(i64, i64)>,
}

/// A configuration that judges every session, and its verdicts.
pub struct ConfigTrial {
    judge: Judge,
    /// Questions by action and reason: one for each session, and one for each further message of it.
    pub verdicts: HashMap<(String, String), u64>,
    /// Refused clients and how often; at most as many as a table keeps.
    pub refused: HashMap<IpAddr, u64>,
    /// Refusals of further clients.
    pub unlisted: u64,
    output: Option<Verdicts>,
}

/// A file with a verdict in each line.
pub struct Verdicts {
    path: PathBuf,
    output: BufWriter<std::fs::File>,
    zone: TimeZone,
    error: Option<io::Error>,
}

/// Whether addresses of one network count together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grouping {
    /// As the masks say.
    Masked,
    /// Every address for itself.
    Whole,
}

impl Counts {
    /// `lengths` of windows are in seconds.
    pub fn new(mask: Mask, lengths: &[u32], trial: Option<ConfigTrial>) -> Self {
        let table = |mask| ClientTable::new(mask, lengths, MAX_CLIENTS);
        Self {
            plain: table(mask),
            masked: table(mask),
            unmasked: table(Mask::NONE),
            mask,
            accounts: Accounts::new(lengths),
            parts: Parts::default(),
            timeline: Timeline::new(lengths.len()),
            trial,
            span: None,
        }
    }

    /// The clients, in two tables that have none in common.
    pub fn tables(&self, grouping: Grouping) -> [&ClientTable; 2] {
        match grouping {
            Grouping::Masked => [&self.plain, &self.masked],
            Grouping::Whole => [&self.plain, &self.unmasked],
        }
    }

    fn part(&mut self, time: i64) -> usize {
        let Self { plain, masked, unmasked, accounts, .. } = self;
        self.parts.part(time, || {
            [&mut *plain, masked, unmasked].into_iter().for_each(ClientTable::join_parts);
            accounts.join_parts();
        })
    }

    fn is_masked(&self, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(_) => self.mask.ipv4_prefix_length < 32,
            IpAddr::V6(_) => self.mask.ipv6_prefix_length < 128,
        }
    }
}

impl SessionSink for Counts {
    fn asked(&mut self, session: &LoggedSession<'_>) {
        if let Some(trial) = &mut self.trial
            && trial.take(session).is_exempt
        {
            return;
        }
        let LoggedSession { time, has_fraction, client, name, .. } = *session;
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
        let (moment, part) = (Moment::new(time, has_fraction), self.part(time));
        let is_masked = self.is_masked(client);
        let table = if is_masked { &mut self.masked } else { &mut self.plain };
        table.count(moment, part, client, name, |length, number| self.timeline.count(time, length, number));
        if is_masked {
            self.unmasked.count(moment, part, client, name, |_, _| {});
        }
    }

    fn accepted(&mut self, message: &AcceptedMessage<'_>) {
        let AcceptedMessage { time, has_fraction, client, login, sender, recipients, is_submission } = *message;
        if login.is_empty() && !is_submission {
            return;
        }
        let part = self.part(time);
        let moment = Moment::new(time, has_fraction);
        self.accounts.count(moment, part, login, sender, SentMessage { client, recipients });
    }

    fn asked_again(&mut self, session: &LoggedSession<'_>) {
        if let Some(trial) = &mut self.trial {
            trial.take(session);
        }
    }

    fn delivered(&mut self, client: IpAddr, accepted: i64) {
        let part = self.part(accepted);
        if self.is_masked(client) {
            self.masked.deliver(client, part);
            self.unmasked.deliver(client, part);
        } else {
            self.plain.deliver(client, part);
        }
    }
}

impl ConfigTrial {
    pub fn new(judge: Judge, output: Option<Verdicts>) -> Self {
        Self { judge, verdicts: HashMap::new(), refused: HashMap::new(), unlisted: 0, output }
    }

    /// Ends the file of verdicts.
    pub fn finish(&mut self) -> Result<(), CommandFailure> {
        self.output.take().map_or(Ok(()), Verdicts::finish)
    }

    /// Judges a session, or a further message of it, and counts the verdict.
    fn take(&mut self, session: &LoggedSession<'_>) -> Judgement {
        let judgement = self.judge.ask(session);
        if let Some(output) = &mut self.output {
            output.write(session, &judgement.action);
        }
        if judgement.is_refusal {
            if self.refused.len() < MAX_CLIENTS || self.refused.contains_key(&session.client) {
                *self.refused.entry(session.client).or_default() += 1;
            } else {
                self.unlisted += 1;
            }
        }
        *self.verdicts.entry((judgement.action.clone(), judgement.reason.clone())).or_default() += 1;
        judgement
    }
}

impl Verdicts {
    pub fn create(path: &Path, zone: &TimeZone) -> Result<Self, CommandFailure> {
        let file = std::fs::File::create(path).map_err(|error| failure(path, &error))?;
        Ok(Self { path: path.to_owned(), output: BufWriter::new(file), zone: zone.clone(), error: None })
    }

    /// Writes one line: time, client, first word of the action.
    pub fn write(&mut self, session: &LoggedSession<'_>, action: &str) {
        let written = writeln!(self.output, "{} {} {action}", time(session.time, &self.zone), session.client);
        if let (Err(error), None) = (written, &self.error) {
            self.error = Some(error);
        }
    }

    /// Flushes, and tells of the first error in writing.
    pub fn finish(mut self) -> Result<(), CommandFailure> {
        let flushed = self.output.flush();
        self.error.map_or(flushed, Err).map_err(|error| failure(&self.path, &error))
    }
}

fn failure(path: &Path, error: &io::Error) -> CommandFailure {
    (sysexits::CANNOT_CREATE, cannot_write(path, error))
}
