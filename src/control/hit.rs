//! `connshaper hit LIMIT KEY`: counts something that happened outside of Postfix, a failed login of a web form.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::{ControlCommand, Logged, Record};
use super::text::{cell, lasting};
use super::{Control, Problem};
use crate::engine::counting::{checks_of, count};
use crate::engine::decide::apply;
use crate::engine::target::TargetCounter;
use crate::net::clock::Now;
use crate::observe::log::LogRecord;
use crate::observe::terminal::Paint;
use crate::policy::{CounterValue, Decision, Policy, Reason, SessionRecord};

/// The most that one command counts.
const MAX_AMOUNT: u32 = 1_000_000;

/// Count something that happened outside of Postfix
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Example, in a script after a failed login:
  connshaper hit logins joe || echo 'too many'

Exit codes: 0 counted and within the limit, 1 counted and over, 64 there is no such
limit, 69 no daemon answers.")]
pub struct HitArgs {
    #[command(flatten)]
    #[serde(flatten)]
    pub counter: CounterArgs,
}

// No doc comment: the help text is that of the command.
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
pub struct CounterArgs {
    /// How many hits, by default one
    #[arg(long, value_name = "NUMBER", default_value_t = 1, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_AMOUNT)))]
    #[serde(default = "one")]
    pub amount: u32,
    /// The limit's name; connections is the one at the top level
    pub limit: String,
    /// What is counted: an address, the value of the one attribute of the limit's keys, or all of a key as the
    /// log shows it
    pub key: String,
}

fn one() -> u32 {
    1
}

impl CounterArgs {
    /// The limit and the key that are named.
    pub(super) fn target_counter<'p>(&self, policy: &'p Policy) -> Result<TargetCounter<'p>, Problem> {
        if !(1..=MAX_AMOUNT).contains(&self.amount) {
            return Err(Problem::usage(format!("the amount must be between 1 and {MAX_AMOUNT}")));
        }
        policy.counter_by_text(&self.limit, &self.key).map_err(Problem::usage)
    }

    pub(super) fn describe(&self, line: &mut LogRecord) {
        line.field("limit", &self.limit).field("key", &self.key);
    }
}

/// The state of a counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountStatus {
    pub limit: String,
    pub key: String,
    /// None: the store is down.
    pub count: Option<u32>,
    /// Seconds until the window ends.
    pub left: Option<u32>,
    pub threshold: u32,
    pub over: bool,
    pub banned: bool,
    pub log_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HitAnswer {
    #[serde(flatten)]
    pub status: CountStatus,
    pub done: String,
}

impl ControlCommand for HitArgs {
    type Answer = HitAnswer;

    /// A limit bans for such hits as for any other.
    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<HitAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let counted = self.counter.target_counter(&rules.policy)?;
        let checks = checks_of(counted.clone(), self.counter.amount);
        let readings = count(&rules.store, &checks, now).await;
        let found = checks.checks[0].reading(&readings, now);
        let mut record = SessionRecord::admitted();
        let mut decision = rules.policy.judge(&checks, &readings, &record, now);
        // No answer is delayed here; a delay counts as over.
        decision.settle(true, &mut record);
        apply(&control.service, &rules, &decision, None, now);
        let number = match found.hit {
            Some(hit) => format!("{} of {}", hit.count, counted.threshold),
            None => format!("not counted: {} is down", rules.store.name()),
        };
        let done = format!("{} {}: {number}", counted.limit.name, counted.part);
        Ok(HitAnswer { status: CountStatus::of(&counted, &decision, found.hit), done })
    }

    fn show(&self, answer: &HitAnswer, paint: Paint) -> String {
        answer.status.show("", paint)
    }

    /// Tells a script: 0 within, 1 over.
    fn exit_code(answer: &HitAnswer) -> u8 {
        u8::from(answer.status.over)
    }

    fn logged() -> Logged<Self> {
        Logged::Limited(Record {
            arguments: |command, line| command.counter.describe(line),
            done: |answer| &answer.done,
        })
    }
}

impl CountStatus {
    pub(super) fn of(counted: &TargetCounter<'_>, decision: &Decision<'_>, hit: Option<CounterValue>) -> Self {
        let refusal = decision.verdict.refusal().or_else(|| decision.would_refuse().next());
        Self {
            limit: counted.limit.name.clone(),
            key: counted.part.to_string(),
            count: hit.map(|hit| hit.count),
            left: hit.map(|hit| hit.left),
            threshold: counted.threshold,
            over: refusal.is_some(),
            banned: refusal.is_some_and(|refusal| refusal.reason == Reason::Banned),
            log_only: counted.limit.log_only,
        }
    }

    /// `before` stands before the state.
    pub(super) fn show(&self, before: &str, paint: Paint) -> String {
        let state = match (self.banned, self.over) {
            (true, _) => paint.bad("banned"),
            (_, true) => paint.bad("over"),
            _ => paint.good("within"),
        };
        let Self { limit, key, threshold, .. } = self;
        let left = lasting(self.left.unwrap_or(0));
        format!("{limit} {key}: {before}{state}, {} of {threshold}, {left} left\n", cell(self.count))
    }
}
