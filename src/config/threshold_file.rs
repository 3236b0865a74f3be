//! A file of thresholds: a line for each key, `KEY THRESHOLD # reason`.
//!
//! A file may have a million lines: equal reasons are kept once.

use super::diagnostics::{Diagnostics, quoted};
use super::list_file::Reasons;
use super::source::{ConfigText, Span};
use super::threshold_key;
use crate::policy::key_field::KeyField;
use crate::policy::limit::CountKind;
use crate::policy::spelling::Spellings;
use crate::policy::thresholds::{ThresholdList, ThresholdListBuilder};

/// The form of a line, for remedies.
const WRITE: &str = "write a line as in `alice@example.com 1000 # reason`";

/// Reads the thresholds of a limit that counts this, and gives them to values of this part of its keys.
pub(super) fn read<'s>(
    source: &'s ConfigText,
    field: KeyField,
    counts: CountKind,
    spellings: &Spellings,
) -> (ThresholdList, Diagnostics<'s>) {
    let diagnostics = Diagnostics::new(source);
    let (mut builder, mut reasons) = (ThresholdListBuilder::default(), Reasons::new(Vec::new()));
    let (mut number, mut start) = (0, 0);
    for line in source.text.split('\n') {
        number += 1;
        let (values, comment) = without_comment(line);
        let span = |word: &str| {
            let at = start + (word.as_ptr() as usize - line.as_ptr() as usize);
            at..at + word.len()
        };
        let mut words = values.split_ascii_whitespace();
        if let Some(key) = words.next() {
            let threshold = threshold(&diagnostics, key, &mut words, counts, span);
            let key = diagnostics.noted(&span(key), threshold_key::key(field, key, spellings));
            if let (Some(key), Some(threshold)) = (key, threshold) {
                let reason = reasons.place(comment).map(|place| place.index() as u32);
                builder.add(&key, threshold, number, reason);
            }
        }
        start += line.len() + 1;
    }
    let list = builder.finish(&source.path.to_string_lossy(), reasons.finish(), |key, line, first| {
        // To find the line the text is read again from its beginning.
        if !diagnostics.is_full() {
            let text = format!("\"{key}\" has another threshold in line {first}, which counts");
            diagnostics.warn(&line_span(&source.text, line), text);
        }
    });
    if list.is_empty() {
        diagnostics.warn(&(0..0), "there is no threshold in this file");
    }
    (list, diagnostics)
}

fn threshold<'l>(
    diagnostics: &Diagnostics<'_>,
    key: &'l str,
    words: &mut impl Iterator<Item = &'l str>,
    counts: CountKind,
    span: impl Fn(&str) -> Span,
) -> Option<u32> {
    let Some(text) = words.next() else {
        let problem = format!("there is no threshold beside {}", quoted(key));
        return diagnostics.error(&span(key), problem, WRITE);
    };
    if let Some(more) = words.next() {
        let problem = format!("{} stands behind the threshold", quoted(more));
        return diagnostics.error(&span(more), problem, WRITE);
    }
    diagnostics.noted(&span(text), threshold_key::number(text, counts))
}

/// A line without its comment, which begins with `#` after a blank, and the comment.
pub(super) fn without_comment(line: &str) -> (&str, &str) {
    let bytes = line.as_bytes();
    let begins = |at: &usize| *at == 0 || bytes[at - 1].is_ascii_whitespace();
    match memchr::memchr_iter(b'#', bytes).find(begins) {
        Some(at) => (&line[..at], line[at + 1..].trim()),
        None => (line, ""),
    }
}

/// The span of a line, which is counted from 1.
pub(super) fn line_span(text: &str, line: u32) -> Span {
    let before = line.saturating_sub(2) as usize;
    let start = match line {
        0 | 1 => 0,
        _ => memchr::memchr_iter(b'\n', text.as_bytes()).nth(before).map_or(0, |end| end + 1),
    };
    start..start + text[start..].find(|c: char| c.is_whitespace()).unwrap_or(text.len() - start)
}
