//! The window of a limit and its length, and the time zone of those that follow the calendar.

use jiff::tz::TimeZone;
use toml::de::DeValue;

use super::super::diagnostics::quoted;
use super::super::settings::TableSettings;
use super::super::units::spell;
use super::limit::{Program, seconds};
use crate::policy::calendar::{LocalCalendar, Period};
use crate::policy::limit::Window;

/// The window, and its length in seconds.
pub(super) fn read(s: &TableSettings, program: &Program) -> (Window, u32) {
    let exptime = seconds(s.get("exptime"));
    let month = month(s);
    let window = match s.choice("window", &Window::WORDS.map(|word| (word, word))) {
        "calendar" => {
            let zone = program.zone.clone();
            let period = period(s, exptime, month.is_some()).unwrap_or(Period::Day);
            return (Window::Calendar(LocalCalendar::new(period, zone)), period.seconds());
        }
        "sliding" if program.slides_exactly => Window::Exact,
        "sliding" => Window::Sliding,
        _ => Window::Fixed,
    };
    if let Some(month) = month {
        let problem =
            format!("{} cannot be {} where `window` is \"{}\"", s.named("exptime"), quoted(month), window.word());
        s.error::<()>("exptime", problem, "write `window = \"calendar\"` as well, or a length in days, as in \"30d\"");
    }
    (window, exptime)
}

/// The text of `exptime`, if it is a month, which has no fixed length.
fn month<'t>(s: &TableSettings<'t, '_>) -> Option<&'t str> {
    let DeValue::String(text) = s.toml("exptime")?.get_ref() else { return None };
    let word = text.trim().strip_prefix('1')?.trim_start();
    ["month", "months", "M"].contains(&word).then_some(text)
}

/// The period of the calendar that `exptime` stands for.
fn period(s: &TableSettings, exptime: u32, is_month: bool) -> Option<Period> {
    if is_month {
        return Some(Period::Month);
    }
    let known = [Period::Hour, Period::Day, Period::Week].into_iter().find(|period| period.seconds() == exptime);
    known.or_else(|| {
        let length = spell(std::time::Duration::from_secs(exptime.into()));
        let problem = format!(
            "{} is {length}, and a window of the calendar is an hour, a day, a week or a month",
            s.named("exptime")
        );
        s.error("exptime", problem, "write \"1h\", \"1d\", \"1w\" or \"1 month\"")
    })
}

/// The time zone of the host; as for every program that is UTC where none is set.
pub(super) fn system() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// The time zone of the configuration.
pub(super) fn zone(s: &TableSettings) -> Option<TimeZone> {
    let name: String = s.get::<Option<String>>("time_zone")?;
    TimeZone::get(&name).ok().or_else(|| {
        let problem = format!("there is no time zone {}", quoted(&name));
        let remedy = "write a name of /usr/share/zoneinfo, as in \"Europe/Berlin\"; \
                      if it has none, install the package tzdata";
        s.error("time_zone", problem, remedy)
    })
}
