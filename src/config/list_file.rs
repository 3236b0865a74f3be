//! A list file: lines of netblocks, with a reason beside them.
//!
//! A list may have a million lines: equal reasons are kept once.

use std::collections::HashMap;

use ipnet::IpNet;

use super::list_line::{LineReader, ListLine, WrongLine};
use super::lists::ListKind;
use super::source::{ConfigText, Span};
use crate::config::diagnostics::{Diagnostics, quoted};
use crate::policy::lists::{ListEntry, ListIndex};
use crate::policy::name_patterns::NamePattern;

/// A reason is cut at this many bytes.
const LONGEST_REASON: usize = 200;

/// The content of a list file.
pub(super) struct ListContent<'s> {
    pub kind: ListKind,
    pub netblocks: Vec<(IpNet, ListEntry)>,
    pub names: Vec<(NamePattern, ListEntry)>,
    /// The offset of each in the file, which has at most 64 MiB.
    offsets: Vec<u32>,
    pub diagnostics: Diagnostics<'s>,
}

impl ListContent<'_> {
    pub fn span(&self, place: usize) -> Span {
        let start = self.offsets[place] as usize;
        let text = &self.diagnostics.source.text[start..];
        start..start + text.find(|c: char| c.is_whitespace() || "#;,\"".contains(c)).unwrap_or(text.len())
    }

    /// The effect of the list on its clients, for messages.
    pub fn does(&self) -> &'static str {
        match self.kind {
            ListKind::White => "exempts",
            ListKind::Black => "refuses",
        }
    }
}

/// The reasons of blacklist entries; equal ones are kept once.
pub(super) struct Reasons {
    list: Vec<Box<str>>,
    places: HashMap<String, ListIndex>,
}

impl Reasons {
    pub fn new(list: Vec<Box<str>>) -> Self {
        Self { list, places: HashMap::new() }
    }

    pub fn finish(self) -> Vec<Box<str>> {
        self.list
    }

    pub fn place(&mut self, text: &str) -> Option<ListIndex> {
        if let Some(place) = self.places.get(text) {
            return Some(*place);
        }
        self.list.push(reason(text)?.into());
        let place = ListIndex::new(self.list.len() - 1);
        self.places.insert(text.to_owned(), place);
        Some(place)
    }
}

/// A reason as the log shows it: printable and short. `None`: nothing is left.
pub(super) fn reason(text: &str) -> Option<String> {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut reason: String = text.trim().chars().take(LONGEST_REASON).map(printable).collect();
    reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
    (!reason.is_empty()).then_some(reason)
}

pub(super) fn read<'s>(source: &'s ConfigText, kind: ListKind, reasons: &mut Reasons) -> ListContent<'s> {
    let mut read = ListContent {
        kind,
        netblocks: Vec::new(),
        names: Vec::new(),
        offsets: Vec::new(),
        diagnostics: Diagnostics::new(source),
    };
    let (mut lines, mut start) = (LineReader::default(), 0);
    for line in source.text.split('\n') {
        let text = line.trim();
        read.line(lines.read(text), start + line.len() - line.trim_start().len(), reasons);
        start += line.len() + 1;
    }
    if read.netblocks.is_empty() && read.names.is_empty() {
        read.diagnostics.warn(&(0..0), "there is no netblock in this list");
    }
    read
}

impl ListContent<'_> {
    fn line(&mut self, line: Result<ListLine, WrongLine>, start: usize, reasons: &mut Reasons) {
        let in_file = |span: &Span| start + span.start..start + span.end;
        let ListLine { netblocks, name, beside, comment } = match line {
            Ok(line) => line,
            Err(WrongLine { span, problem, remedy }) => {
                self.diagnostics.error::<()>(&in_file(&span), problem, remedy);
                return;
            }
        };
        let first = netblocks.first().map(|found| &found.span).or(name.as_ref().map(|(_, span)| span));
        let Some(first) = first else { return };
        let entry = self.entry(&beside, &comment, &in_file(first), reasons);
        self.names.extend(name.map(|(name, _)| (name, entry)));
        for found in netblocks {
            let span = in_file(&found.span);
            if found.host_bits {
                let text = quoted(&self.diagnostics.source.text[span.clone()]);
                self.diagnostics.warn(&span, format!("{text} has host bits set, taken as {}", found.net));
            }
            self.netblocks.push((found.net, entry));
            self.offsets.push(span.start as u32);
        }
    }

    fn entry(&mut self, says: &str, comment: &str, span: &Span, reasons: &mut Reasons) -> ListEntry {
        // The file may be a table of Postfix. An action that means the opposite of the list is a mistake.
        let word = says.split_whitespace().next().unwrap_or("");
        let list = match self.kind {
            ListKind::White if refuses(word) => "whitelist",
            ListKind::Black if permits(word) => "blacklist",
            ListKind::White => return ListEntry::Whitelist,
            ListKind::Black => {
                return ListEntry::Blacklist(reasons.place(if says.is_empty() { comment } else { says }));
            }
        };
        let problem = format!("the line says {}, but this is a {list}", quoted(word));
        self.diagnostics.error::<()>(span, problem, "remove the line, or put it into the other list");
        ListEntry::Whitelist
    }
}

fn permits(word: &str) -> bool {
    ["OK", "PERMIT", "DUNNO", "RELAY"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

fn refuses(word: &str) -> bool {
    let code = matches!(word.as_bytes(), [b'4' | b'5', a, b] if a.is_ascii_digit() && b.is_ascii_digit());
    code || ["REJECT", "DEFER", "DEFER_IF_PERMIT", "DISCARD"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_short_and_printable() {
        assert_eq!(reason(" spam\tsource\u{7} ").as_deref(), Some("spam source "));
        assert_eq!(reason("  "), None);
        assert_eq!(reason(&"ä".repeat(300)).unwrap().len(), LONGEST_REASON);
    }
}
