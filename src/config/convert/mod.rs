//! Files of other programs that limit rates, as TOML.
//!
//! Each program has a file here, which says line by line what of its settings is carried over, what differs and
//! what has no counterpart. `draft` writes the TOML and sees to it that it is valid.

mod anvil;
mod connection_shaper;
mod draft;
mod greylist;
mod mod_ip_count;
mod perlbal;
mod policyd_rate_limit;
mod postfwd;
mod postgrey;
mod ratelimit;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use strum::{EnumString, IntoStaticStr, VariantNames};

use super::diagnostics::{ConfigError, Diagnostics};
use super::legacy;
use super::source::{self, ConfigText};

pub use connection_shaper::to_toml;
use draft::Draft;

/// The program that a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantNames)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Kind {
    ConnectionShaper,
    Perlbal,
    ModIpCount,
    Greylist,
    #[strum(serialize = "ratelimit")]
    RateLimit,
    Postfwd,
    #[strum(serialize = "policyd-rate-limit")]
    PolicydRateLimit,
    Postgrey,
    Anvil,
}

impl Kind {
    /// The kind of a file, by its content.
    fn guess(text: &str) -> Option<Self> {
        // A file of nothing but comments is one of the plugin too, with all at its defaults.
        if legacy::is_original(text) {
            return Some(Self::ConnectionShaper);
        }
        READERS.iter().find(|(_, is_it, _)| is_it(text)).map(|(kind, ..)| *kind)
    }
}

/// Whether a text is a file of a program.
type IsIt = fn(&str) -> bool;

/// Reads the file of a program.
type ConvertReader = fn(&str, &mut Draft) -> Result<(), ConvertError>;

/// The readers of all kinds but connection_shaper's own. Those with the plainest marks are tried first; a list of words
/// could be anything.
const READERS: [(Kind, IsIt, ConvertReader); 8] = [
    (Kind::RateLimit, ratelimit::is_it, ratelimit::read),
    (Kind::Greylist, greylist::is_it, greylist::read),
    (Kind::Perlbal, perlbal::is_it, perlbal::read),
    (Kind::ModIpCount, mod_ip_count::is_it, mod_ip_count::read),
    (Kind::Postfwd, postfwd::is_it, postfwd::read),
    (Kind::PolicydRateLimit, policyd_rate_limit::is_it, policyd_rate_limit::read),
    (Kind::Anvil, anvil::is_it, anvil::read),
    (Kind::Postgrey, postgrey::is_it, postgrey::read),
];

/// A converted file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    pub kind: Kind,
    pub toml: String,
    /// In the order of the file; those about the whole of it come last.
    pub remarks: Vec<Remark>,
}

/// A note about a line: how it was converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub path: PathBuf,
    /// `None`: it is about the whole file.
    pub line: Option<usize>,
    pub outcome: RemarkKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemarkKind {
    Carried,
    Differs,
    Missing,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            RemarkKind::Carried => "carried over",
            RemarkKind::Differs => "differs",
            RemarkKind::Missing => "no counterpart",
        };
        match self.line {
            Some(line) => write!(f, "{}:{line}: {outcome}: {}", self.path.display(), self.text),
            None => write!(f, "{}: {outcome}: {}", self.path.display(), self.text),
        }
    }
}

/// Reads a file, `-` for standard input, and converts it. `from`: whose it is; else its content tells.
pub fn convert(path: &Path, from: Option<Kind>) -> Result<Conversion, ConfigError> {
    let source = source::read_or_stdin(path).map_err(|error| error.at(path))?;
    convert_text(path, &source, from)
}

/// The same for the content of a file.
pub fn convert_bytes(path: &Path, content: &[u8], from: Option<Kind>) -> Result<Conversion, ConfigError> {
    convert_text(path, &ConfigText::new(path, content), from)
}

fn convert_text(path: &Path, source: &ConfigText, from: Option<Kind>) -> Result<Conversion, ConfigError> {
    let text = &source.text;
    let Some(kind) = from.or_else(|| Kind::guess(text)) else {
        let problem = "the content does not tell which program the file is of";
        let words = Kind::VARIANTS.join(", ");
        return Err(refused(source, (1, problem.to_owned(), format!("write --from and one of {words}"))));
    };
    let Some((.., read)) = READERS.iter().find(|(known, ..)| *known == kind) else {
        return connection_shaper::convert(path, source);
    };
    let mut draft = Draft::new(path, kind);
    read(text, &mut draft).map_err(|why| refused(source, why))?;
    draft.finish()
}

/// Why a file cannot be converted at all: line, problem and remedy.
type ConvertError = (usize, String, String);

fn refused(source: &ConfigText, (line, problem, remedy): ConvertError) -> ConfigError {
    let before: usize = source.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    let diagnostics = Diagnostics::new(source);
    diagnostics.error::<()>(&(before..before), problem, remedy);
    diagnostics.finish().expect_err("there is an error")
}

/// Line and value of each setting of a file, by its name. The last one of a name counts.
struct FileSettings(BTreeMap<String, (usize, String)>);

impl FileSettings {
    fn find(&self, name: &str) -> Option<(usize, &str)> {
        self.0.get(name).map(|(line, value)| (*line, value.as_str()))
    }

    /// A whole number, with its line if it is set.
    fn number(&self, name: &str, default: u32) -> Result<(Option<usize>, u32), ConvertError> {
        let Some((line, value)) = self.find(name) else { return Ok((None, default)) };
        let wrong = |_| (line, format!("{name} is not a whole number"), "write one".to_owned());
        Ok((Some(line), value.parse().map_err(wrong)?))
    }
}

/// The lines that are neither empty nor comments, without blanks around them, with their numbers from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> + Clone {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
    lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The first line that has this name of a JSON object in quotes.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let quoted = serde_json::Value::from(name).to_string();
    text.lines().position(|line| line.contains(&quoted)).map(|index| index + 1)
}
