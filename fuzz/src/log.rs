//! Lines of a log: the same whatever line is before them, and never in the past of that.

use connshaper::maillog::lines::blocks;
use connshaper::maillog::lines::calendar::Calendar;
use connshaper::maillog::lines::event::{Event, EventKind, LineKind, NameSpan, Reader};
use connshaper::maillog::lines::line::Line;
use jiff::tz::TimeZone;

/// When the log was written: in the year 2026.
const WRITTEN: i64 = 1_790_000_000;

/// The longest name that is kept.
const MAX_NAME: usize = 512;

/// Reads a log as `connshaper advise` does.
pub fn run(data: &[u8]) {
    let (mut reader, mut head, mut calendar) = (Reader::new(&[]), None, None);
    let mut last = i64::MIN;
    let (mut events, mut names) = (Vec::new(), Vec::new());
    for line in data.split(|byte| *byte == b'\n') {
        let after_others = Line::parse_after(&mut head, line);
        assert_eq!(after_others, Line::parse_after(&mut None, line));
        events.clear();
        let kind = blocks::parse(line, |line| reader.read(line, &mut events, &mut names));
        let [event] = events[..] else {
            assert_ne!(kind, Some(LineKind::Event));
            continue;
        };
        if let Some(place) = name(&event) {
            let name = &names[place.start as usize..][..usize::from(place.length)];
            assert!(name.len() <= MAX_NAME && (name.is_empty() || is_within(name, line)), "{name:?}");
        }
        let calendar = calendar.get_or_insert_with(|| Calendar::new(TimeZone::UTC, event.stamp, None, WRITTEN));
        let time = calendar.time(event.stamp);
        assert!(time >= last, "{last}, then {time}");
        last = time;
    }
}

fn name(event: &Event) -> Option<NameSpan> {
    match event.kind {
        EventKind::Connect { who, .. } | EventKind::Recipient { who, .. } | EventKind::FromFilter { who, .. } => {
            Some(who.name)
        }
        EventKind::Disconnect { name, .. } => Some(name),
        _ => None,
    }
}

/// Whether a line says this. An entry of the journal may say it with escapes.
fn is_within(name: &[u8], line: &[u8]) -> bool {
    line.starts_with(b"{") || line.windows(name.len()).any(|text| text.eq_ignore_ascii_case(name))
}
