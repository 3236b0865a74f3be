//! `connshaper report`: what the limits have counted today or yesterday, who sent most, and who went over.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::commands::ControlCommand;
use super::show::with_door;
use super::text::{cell, csv_text, table, time};
use super::{Control, Problem};
use crate::engine::daily::{DayOfLimit, DayTable};
use crate::engine::top_keys::{KeySum, MAX_KEYS};
use crate::net::clock::Now;
use crate::observe::terminal::Paint;
use crate::policy::Limit;
use crate::policy::key::KeyPart;

/// The word for the day before.
const YESTERDAY: &str = "yesterday";

/// Show a day's summary: for each limit who sent most, who went over, and the sums
#[derive(Clone, Debug, PartialEq, Eq, Args, Serialize, Deserialize)]
#[command(after_help = "\
Examples:
  connshaper report
  connshaper report yesterday --limit daily --most 50
  connshaper report yesterday --csv

It has the numbers of this daemon alone. Clients are listed if they went over.")]
pub struct ReportArgs {
    /// today or yesterday, from midnight on
    #[arg(value_name = "DAY", default_value = "today", value_parser = ["today", YESTERDAY])]
    pub day: String,
    /// Of one limit
    #[arg(long, value_name = "LIMIT")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// Keys to list of each limit: so many of those who sent most, and of those who went over
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    pub most: usize,
    /// Print comma-separated values
    #[arg(long, conflicts_with = "json")]
    #[serde(skip)]
    pub csv: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportAnswer {
    /// The date in the time zone of the daemon; none if it was not running then.
    pub date: Option<String>,
    pub begins: Option<String>,
    pub ends: Option<String>,
    /// When the counting began, if that was later.
    pub counted_from: Option<String>,
    pub limits: Vec<ReportedLimit>,
}

/// The sums of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedLimit {
    pub limit: String,
    /// The door of its requests.
    pub door: String,
    /// The kind of count.
    pub counts: String,
    pub log_only: bool,
    /// The sum of all keys that was let pass.
    pub count: u64,
    /// Times that it was exceeded.
    pub over: u64,
    pub keys: Vec<ReportedKey>,
    /// Keys that are known beside them.
    pub more: usize,
}

/// One key of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReportedKey {
    pub key: String,
    /// The sum that was let pass; none for a client, and for a key that is not among those with the most.
    pub count: Option<u64>,
    /// By how much that may be too large.
    pub excess: u64,
    /// Times that it was over.
    pub over: u64,
    /// When it went over first.
    pub over_since: Option<String>,
}

impl ControlCommand for ReportArgs {
    type Answer = ReportAnswer;

    async fn run(&self, control: &Control, _: &str, now: Now) -> Result<ReportAnswer, Problem> {
        let rules = control.service.rules.load_full();
        let asked: Vec<&Limit> = match &self.limit {
            Some(name) => vec![rules.policy.limit_named(name).map_err(Problem::usage)?],
            None => rules.policy.limits().iter().collect(),
        };
        Ok(control.service.daily.with(now, |days, calendar| {
            let day = if self.day == YESTERDAY { &days.yesterday } else { &days.today };
            let is_there = day.ends > 0;
            let of = |limit: &&Limit| ReportedLimit::of(limit, day, self.most.min(MAX_KEYS));
            ReportAnswer {
                date: is_there.then(|| calendar.date(day.begins)),
                begins: time(day.begins).filter(|_| is_there),
                ends: time(day.ends).filter(|_| is_there),
                counted_from: time(day.counted_from).filter(|_| day.counted_from > day.begins),
                limits: asked.iter().map(of).collect(),
            }
        }))
    }

    fn needs_daemon() -> bool {
        true
    }

    fn show(&self, answer: &ReportAnswer, paint: Paint) -> String {
        if self.csv {
            return answer.csv();
        }
        let Some(date) = &answer.date else {
            return "nothing is known of that day: the daemon has run since a later one\n".to_owned();
        };
        let since = answer.counted_from.as_ref().map(|since| format!(", counted since {since}"));
        let heading = format!("{date}{}", since.unwrap_or_default());
        let limits = answer.limits.iter().map(|limit| limit.show(paint));
        std::iter::once(paint.bold(&heading) + "\n").chain(limits).collect()
    }
}

impl ReportAnswer {
    /// The line of a whole limit has no key.
    fn csv(&self) -> String {
        let date = self.date.as_deref().unwrap_or_default();
        let mut text = "date,limit,key,count,excess,over,over_since,log_only\r\n".to_owned();
        for ReportedLimit { limit, log_only, count, over, keys, .. } in &self.limits {
            let limit = csv_text(limit);
            text += &format!("{date},{limit},,{count},0,{over},,{log_only}\r\n");
            for ReportedKey { key, count, excess, over, over_since } in keys {
                let (key, since) = (csv_text(key), over_since.as_deref().unwrap_or_default());
                let count = count.map(|count| count.to_string()).unwrap_or_default();
                text += &format!("{date},{limit},{key},{count},{excess},{over},{since},{log_only}\r\n");
            }
        }
        text
    }
}

impl ReportedLimit {
    fn of(limit: &Limit, day: &DayTable, most: usize) -> Self {
        let nothing = DayOfLimit::default();
        let of_limit = day.of(limit.id).unwrap_or(&nothing);
        let unit = u64::from(limit.counts.unit());
        let DayOfLimit { passed, over, most: senders, exceeded } = of_limit;
        let mut listed: Vec<&KeyPart> = senders.largest(most).into_iter().map(|(part, _)| part).collect();
        let sent_most = listed.len();
        for (part, _) in exceeded.largest(most) {
            if !listed[..sent_most].contains(&part) {
                listed.push(part);
            }
        }
        let key = |part: &&KeyPart| {
            let sent = senders.get(part).filter(|sent| sent.sum > 0);
            let exceeded = exceeded.get(part);
            ReportedKey {
                key: part.to_string(),
                count: sent.map(|KeySum { sum, .. }| sum * unit),
                excess: sent.map_or(0, |KeySum { excess, .. }| excess * unit),
                over: exceeded.map_or(0, |exceeded| exceeded.sum),
                over_since: exceeded.and_then(|exceeded| time(exceeded.since)),
            }
        };
        Self {
            limit: limit.name.clone(),
            door: limit.door.into_str().to_owned(),
            counts: limit.counts.into_str().to_owned(),
            log_only: limit.log_only,
            count: passed * unit,
            over: *over,
            keys: listed.iter().map(key).collect(),
            more: senders.len().max(exceeded.len()).saturating_sub(listed.len()),
        }
    }

    fn show(&self, paint: Paint) -> String {
        let Self { limit, door, counts, log_only, count, over, keys, more } = self;
        let log_only = if *log_only { ", only logged" } else { "" };
        let name = paint.bold(&format!("limit {}", with_door(limit, door)));
        let mut text = format!("{name}: {counts} let pass: {count}, over: {over}{log_only}\n");
        if keys.is_empty() {
            return text;
        }
        let rows = keys.iter().map(|ReportedKey { key, count, excess, over, over_since }| {
            // No more than that.
            let at_most = if *excess > 0 { "<=" } else { "" };
            let over_cell = if *over > 0 { paint.bad(&over.to_string()) } else { over.to_string() };
            let count = count.map(|count| format!("{at_most}{count}"));
            vec![key.clone(), cell(count), over_cell, cell(over_since.as_ref())]
        });
        text += &table(
            &[("key", false), ("count", true), ("over", true), ("over since", false)],
            &rows.collect::<Vec<_>>(),
            paint,
        );
        if *more > 0 {
            text += &format!("  and {more} more\n");
        }
        text
    }
}
