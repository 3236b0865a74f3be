//! The goals, and whether they were reached.

use std::fmt;

use super::{Report, header, mebibytes, row};
use crate::path::Sample;
use crate::spread::Spread;

/// Most goals are about this many policy connections.
const CONNECTIONS: usize = 64;

const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// A bound, as it is written in the table.
enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn is_met(&self, figure: f64) -> bool {
        match self {
            Self::AtLeast(bound) => figure >= *bound,
            Self::AtMost(bound) => figure <= *bound,
        }
    }
}

impl Report {
    /// A row for each goal: what it is, what was reached, and whether that is enough.
    pub(super) fn goals(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        header(f, &["figure", "goal", "measured", "reached"])?;
        let ratio = |server: &'static str, figure: fn(&Sample) -> f64| {
            let spread = self.ratio(|sample| sample.server == server && sample.connections == CONNECTIONS, figure);
            spread.map(|spread| (spread.median, spread.to_string()))
        };
        let trips = |server: &str| {
            let trips =
                self.samples.iter().filter(|sample| sample.server == server && sample.connections == CONNECTIONS);
            let trips = trips.filter_map(|sample| Some(sample.shared.as_ref()?.round_trips));
            Spread::of(trips).map(|spread| (spread.median, format!("{spread:.3}")))
        };
        let most = self.clients.iter().map(|memory| memory.clients).max();
        let memory = |family| {
            let memory = self.clients.iter().find(|memory| memory.family == family && Some(memory.clients) == most)?;
            let text = format!("{:.1} at {} million", memory.each(), memory.clients / 1_000_000);
            Some((memory.each(), text))
        };
        let prefixes = self.prefixes.as_ref();
        let start = self.start.as_ref();
        let mail = self.mail.as_ref();
        let child = self.child.as_ref();

        use Goal::{AtLeast, AtMost};
        let mut line = |figure: &str, goal: &str, bound: Goal, measured: Option<(f64, String)>| {
            let reached = measured.as_ref().map_or("-", |(value, _)| if bound.is_met(*value) { "yes" } else { "no" });
            let measured = measured.map_or("not measured".to_owned(), |(_, text)| text);
            row(f, &[figure.to_owned(), goal.to_owned(), measured, reached.to_owned()])
        };
        line(
            "memory store, requests/s against null, 64 connections",
            ">= 0.90",
            AtLeast(0.9),
            ratio("memory", Sample::rate),
        )?;
        line("memory store, server CPU per request against null", "<= 1.5", AtMost(1.5), ratio("memory", Sample::cpu))?;
        line(
            "memcached store, requests/s against null, 64 connections",
            ">= 0.50",
            AtLeast(0.5),
            ratio("memcached", Sample::rate),
        )?;
        line("memcached round trips per request, 64 connections", "<= 0.125", AtMost(0.125), trips("memcached"))?;
        line(
            "Redis store, requests/s against null, 64 connections",
            ">= 0.40",
            AtLeast(0.4),
            ratio("redis", Sample::rate),
        )?;
        line("Redis round trips per request, 64 connections", "<= 0.125", AtMost(0.125), trips("redis"))?;
        let rates = self.samples.iter().filter(|sample| sample.server == "sqlite" && sample.connections == CONNECTIONS);
        let rates = Spread::of(rates.map(|sample| sample.rate() * (1.0 - sample.refused)));
        line(
            "SQLite store, hits/s, 64 connections",
            ">= 15,000",
            AtLeast(15_000.0),
            rates.map(|spread| (spread.median, format!("{spread:.0}"))),
        )?;
        line("memory store, p99 against null's, 64 connections", "<= 1.3", AtMost(1.3), ratio("memory", Sample::p99))?;
        line("bytes of RSS per IPv4 client", "<= 40", AtMost(40.0), memory("IPv4"))?;
        line("bytes of RSS per IPv6 client", "<= 40", AtMost(40.0), memory("IPv6"))?;
        line(
            "a million prefixes: load",
            "<= 1 s",
            AtMost(1.0),
            prefixes.map(|p| (p.load, format!("{:.2} s", p.load))),
        )?;
        line(
            "a million prefixes: CPU per request against none",
            "<= 1.05",
            AtMost(1.05),
            prefixes.map(|p| (p.cost.median, p.cost.to_string())),
        )?;
        line(
            "real Postfix, mails/s against null",
            ">= 0.97",
            AtLeast(0.97),
            mail.map(|mail| (mail.ratio.median, format!("{:.3}", mail.ratio))),
        )?;
        line(
            "exec to first answer",
            "<= 30 ms",
            AtMost(30.0),
            start.map(|start| (start.milliseconds.median, format!("{:.1} ms", start.milliseconds))),
        )?;
        line(
            "inetd with a SQLite file, exec to first answer, more than a program that answers at once",
            "<= 5 ms",
            AtMost(5.0),
            child.map(|child| (child.more(), format!("{:.2} ms of {:.2} ms", child.more(), child.sqlite))),
        )?;
        line(
            "RSS at rest",
            "<= 8 MiB",
            AtMost(8.0),
            start.map(|start| (start.rss as f64 / MEBIBYTE, mebibytes(start.rss) + " MiB")),
        )
    }
}
