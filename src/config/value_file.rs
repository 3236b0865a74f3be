//! A file of values for a condition: one on a line, with a comment behind `#`.

use super::diagnostics::{Diagnostics, quoted};
use super::netblock;
use super::resolve::conditions::{compile, text_pattern};
use super::source::ConfigText;
use super::threshold_file::without_comment;
use crate::policy::attribute::Attribute;
use crate::policy::conditions::Pattern;
use crate::policy::value_list::{MAX_SEARCHED, ValueList};

/// Reads the values that an attribute may have.
pub(super) fn read(source: &ConfigText, attribute: Attribute) -> (ValueList, Diagnostics<'_>) {
    let diagnostics = Diagnostics::new(source);
    let (mut patterns, mut searched, mut start) = (Vec::new(), 0, 0);
    for line in source.text.split('\n') {
        let (value, _) = without_comment(line);
        let text = value.trim();
        if !text.is_empty() {
            let at = start + (text.as_ptr() as usize - line.as_ptr() as usize);
            match pattern(attribute, text) {
                Ok(pattern) => {
                    searched += usize::from(matches!(pattern, Pattern::Range(..) | Pattern::Regex(_)));
                    if searched > MAX_SEARCHED {
                        let problem = format!("more than {MAX_SEARCHED} regular expressions and comparisons");
                        let remedy = "write whole values, \"@DOMAIN\" or \".DOMAIN\", of which there may be a million";
                        diagnostics.error::<()>(&(at..at + text.len()), problem, remedy);
                        break;
                    }
                    patterns.push(pattern);
                }
                Err((problem, remedy)) => {
                    let problem = format!("`{}` {problem}", attribute.name());
                    diagnostics.error::<()>(&(at..at + text.len()), problem, remedy);
                }
            }
        }
        start += line.len() + 1;
    }
    if patterns.is_empty() {
        diagnostics.warn(&(0..0), "there is no value in this file");
    }
    (ValueList::new(&source.path.to_string_lossy(), patterns), diagnostics)
}

/// Reads the value of a line. `Err`: problem and remedy.
fn pattern(attribute: Attribute, text: &str) -> Result<Pattern, (String, String)> {
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err((format!("is never {}", quoted(text)), "write it in UTF-8".to_owned()));
    }
    if let Some(expression) = text.strip_prefix('/').and_then(|text| text.strip_suffix('/')).filter(|it| !it.is_empty())
    {
        return compile(expression).map(Pattern::Regex).map_err(|reason| {
            let problem = format!("has {}, which is not a valid regular expression: {reason}", quoted(text));
            (problem, "write one in the syntax of the regex crate".to_owned())
        });
    }
    if matches!(attribute, Attribute::ClientAddress | Attribute::ServerAddress) {
        return match netblock::parse(text) {
            Ok(block) => Ok(Pattern::Netblock(block.net)),
            Err((problem, remedy)) => Err((format!("is never {}: {problem}", quoted(text)), remedy)),
        };
    }
    text_pattern(attribute, text)
}
