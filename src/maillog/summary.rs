//! The figures of a reading: lines, and the sessions found in them. `advise` and `replay` show the same.

use std::time::Duration;

use serde_json::{Value, json};

use super::reading::Read;
use super::sessions::Seen;
use super::text::{bytes, count, number, plain};

/// What was read, in what time, and how it was understood.
pub fn lines(read: &Read, taken: Option<Duration>) -> String {
    let stats = &read.stats;
    let lines = stats.lines;
    let taken = taken.map(|taken| format!(" in {:.1} s", taken.as_secs_f64())).unwrap_or_default();
    let logs = match stats.logs.as_slice() {
        [one] => plain(one),
        many => format!("{} logs", many.len()),
    };
    let mut text = format!(
        "Read {} ({}) of {logs}{taken}.\n  {} told something, {} were other lines of Postfix, \
         {} of other programs, {} not understood.\n",
        count(lines.all, "line"),
        bytes(lines.bytes),
        number(lines.told),
        number(lines.idle),
        number(lines.foreign),
        number(lines.strange),
    );
    if stats.set_back > 0 {
        text += &format!(
            "  The clock was set back {}; the time is taken to have gone on. See --timezone.\n",
            if stats.set_back == 1 { "once".to_owned() } else { format!("{} times", number(stats.set_back)) }
        );
    }
    text
}

/// The sessions that were found, and why some do not count.
pub fn sessions(read: &Read) -> String {
    let sums = read.sums;
    let stage = match read.seen {
        Seen::Rcpt => "at RCPT TO",
        Seen::Connect => "when the client connects",
    };
    let mut text =
        format!("Postfix asks {stage}: about {} of {}.\n", number(sums.asked), count(sums.sessions, "session"));
    let left_out = [
        (sums.without_recipient, "without a recipient"),
        (sums.mynetworks, "from mynetworks"),
        (sums.filters, "of content filters that handed mail back"),
        (sums.authenticated, "after a login"),
        (sums.unknown, "without a known address"),
    ];
    let left_out: Vec<String> = left_out
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{} {why}", number(*count)))
        .collect();
    if !left_out.is_empty() {
        text += &format!("  Not asked about: {}.\n", left_out.join(", "));
    }
    if sums.authenticated_late > 0 {
        text +=
            &format!("  {} turned out to have logged in after they were counted.\n", number(sums.authenticated_late));
    }
    if sums.submission > 0 {
        text += &format!("  Of submission services: {} more.\n", number(sums.submission));
    }
    if sums.discarded > 0 {
        text += &format!(
            "  Discarded, returned by a filter, or put into quarantine: {} of theirs.\n",
            count(sums.discarded, "message")
        );
    }
    if sums.postscreen > 0 {
        let kept = sums.postscreen.saturating_sub(sums.postscreen_passed);
        text += &format!("  postscreen kept {} of {} clients from smtpd.\n", number(kept), number(sums.postscreen));
    }
    for note in &read.notes {
        text += &format!("  {note}\n");
    }
    text
}

/// The same as JSON.
pub fn json(read: &Read) -> Value {
    let Read { seen, notes, stats, sums, .. } = read;
    json!({
        "logs": stats.logs.iter().map(|name| plain(name)).collect::<Vec<_>>(),
        "troubles": stats.troubles,
        "notes": notes,
        "lines": stats.lines,
        "clock_set_back": stats.set_back,
        "seen": seen,
        "sums": sums,
    })
}

/// Adds the members of one object to those of another.
pub fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}
