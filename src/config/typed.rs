//! Types the values of a file by the kinds of their keys, and notes those that are of another.

use std::time::Duration;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeValue;

use super::diagnostics::quoted;
use super::keys::{ConfigKey, ValueKind};
use super::settings::{TableSettings, Value, integer, with_article};
use super::source::Span;
use super::{name, netblock, syntax, units};

impl<'t, 's> TableSettings<'t, 's> {
    pub(super) fn typed(&self, key: &ConfigKey, toml: &'t Spanned<DeValue<'s>>) -> Option<Value<'t, 's>> {
        if let DeValue::String(text) = toml.get_ref() {
            self.refuse_variables(key, text, &toml.span())?;
        }
        match (key.kind, toml.get_ref()) {
            (ValueKind::Integer(min, max), DeValue::Integer(_)) => match integer(toml.get_ref()) {
                Some(number) if (min..=max).contains(&number) => Some(Value::Integer(number)),
                _ => self.out_of_bounds(key, toml, format!("write a number from {min} to {max}")),
            },
            (ValueKind::Seconds(min, max), _) => self.duration(key, toml, min, max, Duration::from_secs(1)),
            (ValueKind::Milliseconds(min, max), _) => self.duration(key, toml, min, max, Duration::from_millis(1)),
            (ValueKind::Boolean, DeValue::Boolean(value)) => Some(Value::Boolean(*value)),
            (ValueKind::String, DeValue::String(text)) => Some(Value::String(text.to_string())),
            (ValueKind::Word(words), DeValue::String(text)) => match words.contains(&&**text) {
                true => Some(Value::String(text.to_string())),
                false => self.refuse_word(key.name, text, words.iter()),
            },
            (ValueKind::Table, DeValue::Table(table)) => Some(Value::Table(table)),
            (ValueKind::Threshold, _) => Some(Value::Threshold),
            (ValueKind::StringOrList | ValueKind::OneOrMore, DeValue::String(text)) => {
                Some(Value::Strings(vec![(text.to_string(), toml.span())]))
            }
            (ValueKind::OneOrMore, DeValue::Array(list)) if list.is_empty() => {
                let problem = format!("{} is an empty list", self.named(key.name));
                self.diagnostics.error(&toml.span(), problem, "name at least one, or remove the key")
            }
            (ValueKind::Strings | ValueKind::StringOrList | ValueKind::OneOrMore, DeValue::Array(list)) => {
                self.list(key, list, |text, span| Some((text.to_owned(), span.clone()))).map(Value::Strings)
            }
            (ValueKind::Netblocks, DeValue::Array(list)) => self
                .list(key, list, |text, span| Some((self.netblock(text, span)?, span.clone())))
                .map(Value::Netblocks),
            (ValueKind::Clients, DeValue::Array(list)) => {
                let mut names = Vec::new();
                let netblocks = self.list(key, list, |text, span| match name::parse(text) {
                    Some(name) if netblock::parse(text).is_err() => {
                        names.extend(self.diagnostics.noted(span, name).map(|name| (name, span.clone())));
                        None
                    }
                    _ => Some((self.netblock_or(name::WRITE, text, span)?, span.clone())),
                });
                Some(Value::Clients(netblocks?, names))
            }
            (ValueKind::Strings | ValueKind::Netblocks | ValueKind::Clients, DeValue::String(text)) => {
                let items: Vec<_> =
                    text.split(',').map(|item| format!("\"{}\"", item.trim().escape_default())).collect();
                let problem = format!("{} is a list, not one string", self.named(key.name));
                self.diagnostics.error(&toml.span(), problem, format!("write `{} = [{}]`", key.name, items.join(", ")))
            }
            _ => self.wrong_type(key, toml),
        }
    }

    fn duration(
        &self,
        key: &ConfigKey,
        toml: &Spanned<DeValue>,
        min: u64,
        max: u64,
        unit: Duration,
    ) -> Option<Value<'t, 's>> {
        let error = |problem, remedy: &str| self.diagnostics.error(&toml.span(), problem, remedy);
        let read = match toml.get_ref() {
            number @ DeValue::Integer(_) => integer(number).map_or(Duration::MAX, Duration::from_secs),
            DeValue::String(text) => match units::duration(text) {
                Ok(duration) => duration,
                Err(remedy) => return error(format!("{} is not a valid duration", quoted(text)), &remedy),
            },
            DeValue::Float(_) => {
                let problem = format!("{} is a duration, not a fraction", self.named(key.name));
                return error(problem, units::EXAMPLES);
            }
            _ => return self.wrong_type(key, toml),
        };
        let (min, max) = (unit * min as u32, unit * max as u32);
        if !(min..=max).contains(&read) {
            let remedy = format!("write a duration from {} to {}", units::spell(min), units::spell(max));
            return self.out_of_bounds(key, toml, remedy);
        }
        if read.as_nanos() % unit.as_nanos() != 0 {
            let unit = if unit.as_secs() == 0 { "milliseconds" } else { "seconds" };
            return error(format!("{} is not a whole number of {unit}", self.named(key.name)), "round it");
        }
        Some(Value::Duration(read))
    }

    /// Reads the strings of a list. `None` when one of the entries is none; what `read` refuses is left out.
    fn list<T>(
        &self,
        key: &ConfigKey,
        list: &[Spanned<DeValue>],
        mut read: impl FnMut(&str, &Span) -> Option<T>,
    ) -> Option<Vec<T>> {
        let (mut entries, mut complete) = (Vec::new(), true);
        for entry in list {
            if let DeValue::String(text) = entry.get_ref() {
                if self.refuse_variables(key, text, &entry.span()).is_none() {
                    continue;
                }
                entries.extend(read(text, &entry.span()));
                continue;
            }
            let found = with_article(entry.get_ref().type_str());
            let problem = format!("{} is a list of strings, this is {found}", self.named(key.name));
            self.diagnostics.error::<()>(&entry.span(), problem, "put it in quotes");
            complete = false;
        }
        complete.then_some(entries)
    }

    /// A value that somebody expects to be replaced. Texts for clients, and regular expressions, may have a `$`.
    fn refuse_variables(&self, key: &ConfigKey, text: &str, span: &Span) -> Option<()> {
        let is_free =
            key.name.ends_with("text") || key.name.ends_with("action") || text.starts_with('/') && text.ends_with('/');
        if is_free || !syntax::has_variable(text) {
            return Some(());
        }
        let problem = format!("{} has {}: {}", self.named(key.name), quoted(text), syntax::NO_VARIABLES);
        self.diagnostics.error(span, problem, syntax::WRITE_VALUE)
    }

    /// An address or a netblock. Host bits are warned of.
    pub fn netblock(&self, text: &str, span: &Span) -> Option<IpNet> {
        self.netblock_or(netblock::WRITE, text, span)
    }

    /// The same; `others` is what to write of it and of what may stand there else.
    fn netblock_or(&self, others: &str, text: &str, span: &Span) -> Option<IpNet> {
        let read = netblock::parse(text).map_err(|(problem, remedy)| {
            let remedy = if remedy == netblock::WRITE { others.to_owned() } else { remedy };
            (format!("{}: {problem}", quoted(text)), remedy)
        });
        let block = self.diagnostics.noted(span, read)?;
        if block.host_bits {
            self.diagnostics.warn(span, format!("{} has host bits set, taken as {}", quoted(text), block.net));
        }
        Some(block.net)
    }

    fn out_of_bounds<T>(&self, key: &ConfigKey, toml: &Spanned<DeValue>, remedy: String) -> Option<T> {
        self.diagnostics.error(&toml.span(), format!("{} is out of bounds", self.named(key.name)), remedy)
    }

    fn wrong_type<T>(&self, key: &ConfigKey, toml: &Spanned<DeValue>) -> Option<T> {
        let found = with_article(toml.get_ref().type_str());
        let problem = format!("{} is {}, not {found}", self.named(key.name), key.kind.words());
        let remedy = match (key.default, key.kind) {
            (Some(default), _) => format!("write it as in `{} = {default}`", key.name),
            (None, ValueKind::Table) => "connshaper.toml(5) has examples".to_owned(),
            (None, _) => format!("write it as in `{} = \"...\"`", key.name),
        };
        self.diagnostics.error(&toml.span(), problem, remedy)
    }
}
