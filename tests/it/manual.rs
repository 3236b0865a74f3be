//! The manual pages, the sample configuration and the program agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use connshaper::config::{KEYS, KeyScope, condition_attributes};
use connshaper::policy::door::Door;
use connshaper::policy::key_field::KeyField;

const PROGRAM: &str = env!("CARGO_BIN_EXE_connshaper");
const PAGES: [&str; 2] = ["connshaper.8", "connshaper.toml.5"];

#[test]
fn the_manual_explains_every_key_and_no_other() {
    assert_eq!(names(&manual()), parser_keys());
}

#[test]
fn the_sample_has_every_key_and_no_other() {
    assert_eq!(names(&sample()), parser_keys());
}

#[test]
fn the_manual_states_the_defaults() {
    let manual = manual();
    for key in KEYS.iter() {
        let stated = manual[key.name].as_deref();
        assert_eq!(stated.map(value), key.default.map(value), "default of {} in the manual", key.name);
    }
}

#[test]
fn the_manual_says_which_keys_a_limit_may_have() {
    let sections = section("LIMITS") + &section("OVER THE LIMIT");
    let entries = sections.split("\n.It Cm ").skip(1).map(|entry| entry.split_once('\n').unwrap());
    let of_limits = entries.filter(|(key, text)| *key != "limit" && !text.contains("Only at the top level."));
    let of_limits: BTreeSet<&str> = of_limits.map(|(key, _)| key).collect();
    assert_eq!(of_limits, KEYS.iter().filter(|key| key.is_of_limit()).map(|key| key.name).collect());
}

#[test]
fn the_manual_says_which_keys_a_limit_takes_from_the_top_level() {
    let limits = section("LIMITS");
    let (_, rest) = limits.split_once("Where it does not set\n").unwrap();
    let (list, _) = rest.split_once("the top level's value is in force").unwrap();
    let inherited: BTreeSet<&str> =
        list.lines().filter_map(|line| line.strip_prefix(".Cm ")).map(word_of_key).collect();
    let expected = KEYS.iter().filter(|key| key.scope == KeyScope::Inherited);
    assert_eq!(inherited, expected.map(|key| key.name).collect());
}

#[test]
fn the_manual_explains_the_words_of_per_and_no_other() {
    let limits = section("LIMITS");
    let (_, rest) = limits.split_once(".It Cm per\n").unwrap();
    let (list, _) = rest.split_once(".It Cm").unwrap();
    let words: BTreeSet<&str> = list.lines().filter_map(|line| line.strip_prefix(".It Li ")).collect();
    assert_eq!(words, KeyField::WORDS.iter().map(|(word, _)| *word).collect());
}

#[test]
fn the_manual_lists_the_attributes_of_conditions_and_no_other() {
    let limits = section("LIMITS");
    let (_, list) = limits.split_once("These are the attributes").unwrap();
    let lines = list.lines().filter_map(|line| line.strip_prefix(".It Li "));
    let attributes: BTreeSet<&str> = lines.flat_map(|line| line.split(" , ")).collect();
    let known = Door::ALL.into_iter().flat_map(condition_attributes);
    assert_eq!(attributes, known.map(|attribute| attribute.name()).collect());
}

#[test]
fn the_sample_shows_the_defaults() {
    let sample = sample();
    for key in KEYS.iter() {
        // A key without a default has an example in the sample.
        let Some(default) = key.default else { continue };
        let shown = sample[key.name].as_deref().unwrap();
        assert_eq!(value(shown), value(default), "default of {} in the sample", key.name);
    }
}

#[test]
fn the_sample_changes_nothing_until_something_is_uncommented() {
    let text = read("conf/connshaper.toml");
    let set: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert!(set.is_empty(), "{set:?}");
}

#[test]
fn the_examples_are_valid() {
    let page = read("man/connshaper.toml.5");
    let literal = page.split(".Bd -literal -offset indent\n").skip(1).map(|rest| rest.split(".Ed\n").next().unwrap());
    let readme = read("README.md");
    let toml = readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    // Other tests cover the lines for main.cf.
    let examples: Vec<_> = literal.chain(toml).filter(|example| !example.starts_with("smtpd_")).collect();
    assert_eq!(examples.len(), 16, "{examples:#?}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("connshaper.toml");
    for example in examples {
        fs::write(&file, example).unwrap();
        let check = Command::new(PROGRAM).args(["check", "-c"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&check.stdout) + String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success() && !said.contains("warning:"), "{example}\n{said}");
    }
}

#[test]
fn the_manual_explains_the_programs_commands_and_no_other() {
    let page = read("man/connshaper.8");
    let (_, section) = page.split_once(".Ss Commands\n").unwrap();
    let (section, _) = section.split_once("\n.Ss ").unwrap();
    let explained = section.lines().filter_map(|line| line.strip_prefix(".It Ic ")).map(str::to_owned);
    assert_eq!(explained.collect::<BTreeSet<_>>(), commands());
}

#[test]
fn the_manual_explains_the_programs_options_and_no_other() {
    let mut options = long_options(&help(&[]));
    for command in commands() {
        options.extend(long_options(&help(&[&command])));
    }
    let page = read("man/connshaper.8");
    let explained = page.split("Fl Fl ").skip(1).map(|rest| word(rest).to_owned());
    assert_eq!(explained.collect::<BTreeSet<_>>(), options);
}

#[test]
fn the_manual_explains_the_log_lines_and_no_other() {
    let page = read("man/connshaper.8");
    let entries = page.lines().filter_map(|line| line.strip_prefix(".It Li "));
    let words = entries.flat_map(|entry| entry.split(" , ")).filter(|word| is_keyword(word)).map(str::to_owned);
    assert_eq!(words.collect::<BTreeSet<_>>(), keywords(&path("src")));
}

#[test]
fn mandoc_reports_no_problem_in_the_manual() {
    let output = Command::new("mandoc")
        .args(["-T", "lint"])
        .args(PAGES)
        .current_dir(path("man"))
        .output()
        .unwrap_or_else(|error| panic!("cannot run mandoc (is it installed?): {error}"));
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

/// The text of a section of connshaper.toml(5).
fn section(name: &str) -> String {
    let page = read("man/connshaper.toml.5");
    let (_, rest) = page.split_once(&format!("\n.Sh {name}\n")).unwrap_or_else(|| panic!("no section {name}"));
    rest.split_once("\n.Sh ").map_or(rest, |(section, _)| section).to_owned()
}

fn word_of_key(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

/// Keys with the text of their defaults.
type Keys = BTreeMap<String, Option<String>>;

fn parser_keys() -> BTreeSet<String> {
    KEYS.iter().map(|key| key.name.to_owned()).collect()
}

fn names(keys: &Keys) -> BTreeSet<String> {
    keys.keys().cloned().collect()
}

/// Keys of the manual: `.It Cm KEY`, then a line that ends in "default" and `.Ql VALUE`, or "no default".
fn manual() -> Keys {
    let page = read("man/connshaper.toml.5");
    let entries = page.split("\n.It Cm ").skip(1).map(|entry| {
        let (key, rest) = entry.split_once('\n').unwrap();
        let mut lines = rest.lines();
        let first = lines.next().unwrap();
        let default = if first.contains("no default") {
            None
        } else {
            assert!(first.ends_with(" default"), "no default stated for {key}: {first}");
            Some(quoted(lines.next().unwrap()))
        };
        (key.to_owned(), default)
    });
    let keys: Vec<_> = entries.collect();
    let count = keys.len();
    let keys: Keys = keys.into_iter().collect();
    assert_eq!(keys.len(), count, "a key is explained twice");
    keys
}

/// What `.Ql` of mdoc puts in quotes.
fn quoted(line: &str) -> String {
    let text = line.strip_prefix(".Ql ").unwrap_or_else(|| panic!("{line:?} is no .Ql line"));
    // Punctuation that stands alone at the end is outside of the quotes.
    let text = text.strip_suffix(" ,").or_else(|| text.strip_suffix(" .")).unwrap_or(text);
    text.replace(r"\(dq", "\"")
}

/// Keys of the sample: lines that become TOML without their `#`.
fn sample() -> Keys {
    let text = read("conf/connshaper.toml");
    // The example of a named limit repeats some keys.
    let (text, _) = text.split_once("\n#[limit.").unwrap();
    let keys = text.lines().filter_map(|line| {
        let (key, value) = line.strip_prefix('#')?.trim_start().split_once(" = ")?;
        let is_key = !key.is_empty() && key.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        is_key.then(|| (key.to_owned(), Some(value.to_owned())))
    });
    // One example shows that there can be named limits.
    keys.chain([("limit".to_owned(), None)]).collect()
}

/// A value as TOML understands it.
fn value(text: &str) -> toml::Value {
    let table: toml::Table = format!("value = {text}").parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    table["value"].clone()
}

fn commands() -> BTreeSet<String> {
    let help = help(&[]);
    let (_, list) = help.split_once("\nCommands:\n").unwrap_or_else(|| panic!("no list of commands in:\n{help}"));
    let list = list.lines().take_while(|line| !line.is_empty());
    // A continuation line is indented further.
    let lines = list.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    lines.map(|line| word(line).to_owned()).filter(|command| command != "help").collect()
}

fn long_options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    lines.filter_map(|line| line.split_once("--")).map(|(_, option)| word(option).to_owned()).collect()
}

/// The keywords of log lines in the source: each follows a severity, the log, or `LogRecord::new(`.
fn keywords(place: &Path) -> BTreeSet<String> {
    if place.is_dir() {
        return fs::read_dir(place).unwrap().flat_map(|entry| keywords(&entry.unwrap().path())).collect();
    }
    let source = fs::read_to_string(place).unwrap();
    let (code, _) = source.split_once("#[cfg(test)]").unwrap_or((&source, ""));
    let after_severity = code.split("Severity::").skip(1);
    let words = after_severity.filter_map(|text| {
        let rest = text.trim_start_matches(char::is_alphanumeric).strip_prefix(',')?;
        rest.trim_start().strip_prefix('"')?.split('"').next()
    });
    let after = |text| code.split(text).skip(1).filter_map(|rest| rest.split('"').next());
    words
        .chain(after("log, \""))
        .chain(after("LogRecord::new(\""))
        .chain(after("self.end(\""))
        .filter(|word| is_keyword(word))
        .map(str::to_owned)
        .collect()
}

fn is_keyword(word: &str) -> bool {
    word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

fn help(command: &[&str]) -> String {
    let output = Command::new(PROGRAM).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "connshaper {command:?} --help: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// Letters and hyphens at the beginning.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    &text[..end.unwrap_or(text.len())]
}

fn read(name: &str) -> String {
    let path = path(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
