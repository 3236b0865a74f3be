//! The tables `[limit.NAME]`, in the order in which they stand in the file.

use toml::de::DeValue;

use super::super::LimitSettings;
use super::super::settings::{Settings, a};
use super::super::source::Span;
use super::limit::{self, Surroundings};
use crate::config::diagnostics::quoted;
use crate::config::lint as sense;
use crate::config::resolve::effective as in_force;
use crate::policy::{self, Limit};

/// More than this nobody can judge a request by, nor read.
const MOST: usize = 100;

/// Limits that have names.
#[derive(Default)]
pub(super) struct Named {
    pub limits: Vec<Limit>,
    pub settings: Vec<LimitSettings>,
    /// Where their names stand.
    pub places: Vec<Span>,
}

/// Reads them. `around` is what the top level says, of which `s` are the keys.
pub(super) fn read(s: &Settings, around: &Surroundings) -> Named {
    let mut named = Named::default();
    for entry in s.table("limit") {
        let DeValue::Table(table) = entry.value.get_ref() else {
            let problem = format!("{} is {}, not a limit", quoted(entry.name), a(entry.value.get_ref().type_str()));
            let remedy = "a limit has a name: write `[limit.NAME]` above its keys";
            s.diagnostics.error::<()>(&entry.span, problem, remedy);
            continue;
        };
        if let Err((problem, remedy)) = name(entry.name) {
            s.diagnostics.error::<()>(&entry.span, problem, remedy);
            continue;
        }
        if named.limits.len() == MOST {
            let remedy = "one limit can cover many clients: see `per` and `netblocks`";
            s.diagnostics.error::<()>(&entry.span, format!("more than {MOST} limits"), remedy);
            break;
        }
        let own = Settings::of_limit(s.diagnostics, entry.name, table);
        let around = Surroundings { name: entry.name.to_owned(), span: entry.span.clone(), ..around.clone() };
        let limit = limit::read(&own, &around);
        sense::examine_limit(&limit, &own);
        named.settings.push(in_force::of_limit(&own, s, entry.name));
        named.limits.push(limit);
        named.places.push(entry.span);
    }
    named
}

/// Whether a limit can be called that. `Err`: problem and remedy.
fn name(name: &str) -> Result<(), (String, &'static str)> {
    if [policy::limit::TOP, policy::BLACKLIST].contains(&name) {
        let problem = format!("`{name}` is no name for a limit: logs have it for something else");
        return Err((problem, "write another name, or the keys at the top level, which is the limit `connections`"));
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match name.len() {
        1..=policy::limit::MAX_NAME if name.bytes().all(good) => Ok(()),
        _ => {
            let remedy = "write 1 to 32 letters, digits, `_` and `-`, as in `[limit.daily]`";
            Err((format!("{} is no name for a limit", quoted(name)), remedy))
        }
    }
}
