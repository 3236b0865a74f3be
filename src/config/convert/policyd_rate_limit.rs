//! policyd-rate-limit: its YAML file.

use std::collections::BTreeMap;
use std::time::Duration;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};
use toml::Value as Toml;

use super::ConvertError;
use super::draft::{Draft, LimitDraft};
use crate::config::units::spell;

pub(super) fn is_it(text: &str) -> bool {
    let marks = ["limits:", "limits_by_id:", "limit_by_sasl:", "limit_by_sender:", "limit_by_ip:"];
    text.lines().any(|line| marks.iter().any(|mark| line.starts_with(mark)))
}

/// A value of the file, with its line.
struct YamlSetting<'y> {
    line: usize,
    value: &'y MarkedYaml<'y>,
}

impl YamlSetting<'_> {
    fn is_true(&self) -> bool {
        matches!(&self.value.data, YamlData::Value(Scalar::Boolean(true)))
    }

    fn word(&self) -> String {
        word(self.value)
    }
}

fn word(value: &MarkedYaml) -> String {
    match &value.data {
        YamlData::Value(Scalar::String(text)) => text.to_string(),
        YamlData::Value(Scalar::Integer(number)) => number.to_string(),
        YamlData::Value(Scalar::Boolean(value)) => value.to_string(),
        YamlData::Value(Scalar::FloatingPoint(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn items<'y>(value: &'y MarkedYaml<'y>) -> Vec<&'y MarkedYaml<'y>> {
    match &value.data {
        YamlData::Sequence(items) => items.iter().collect(),
        _ => Vec::new(),
    }
}

pub(super) fn read(text: &str, draft: &mut Draft) -> Result<(), ConvertError> {
    let documents = MarkedYaml::load_from_str(text).map_err(|error| {
        (error.marker().line(), format!("this is not YAML: {}", error.info()), "correct it".to_owned())
    })?;
    let mut settings: BTreeMap<String, YamlSetting> = BTreeMap::new();
    if let Some(YamlData::Mapping(map)) = documents.first().map(|document| &document.data) {
        settings =
            map.iter().map(|(name, value)| (word(name), YamlSetting { line: name.span.start.line(), value })).collect();
    }
    let by = |name: &str, default: bool| settings.get(name).map_or(default, YamlSetting::is_true);
    let (sasl, sender, ip) = (by("limit_by_sasl", true), by("limit_by_sender", false), by("limit_by_ip", false));
    let networks: Vec<Toml> = settings
        .get("limited_networks")
        .map(|nets| items(nets.value).into_iter().map(|net| word(net).into()).collect())
        .unwrap_or_default();
    let ip = ip && !networks.is_empty();
    let mut identities: Vec<Identity> = Vec::new();
    if sasl {
        identities.push(Identity::new("login", "sasl_username", "sasl_username", [("sasl_username", true.into())]));
    }
    if sender {
        let first = sasl.then_some(("sasl_username", Toml::from(false)));
        identities.push(Identity::new(
            "sender",
            "sender",
            "sender",
            first.into_iter().chain([("sender", true.into())]),
        ));
    }
    if ip {
        let before = [("sasl_username", sasl), ("sender", sender)].into_iter();
        let before = before.filter(|(_, is)| *is).map(|(name, _)| (name, Toml::from(false)));
        let networks = [("client_address", Toml::Array(networks))];
        identities.push(Identity::new("client", "client", "client_address", before.chain(networks)));
    }
    for (name, on) in
        [("limit_by_sasl", sasl), ("limit_by_sender", sender), ("limit_by_ip", ip), ("limited_networks", ip)]
    {
        if let Some(setting) = settings.get(name) {
            draft.carried(
                setting.line,
                format!("{name}: {}", if on { "limits count by it" } else { "no limit counts by it" }),
            );
        }
    }
    let answer = settings.get("fail_action").map(YamlSetting::word);
    let limits = settings.get("limits").map(|setting| (setting.line, pairs(setting.value)));
    let (line, general) = limits.map_or((None, vec![(10, 60), (150, 86_400)]), |(line, pairs)| (Some(line), pairs));
    let own = own_limits(settings.get("limits_by_id"));
    for identity in &identities {
        for (number, seconds) in &general {
            let unless: Vec<Toml> =
                own.iter().filter(|own| identity.is_of(&own.id)).map(|own| own.id.clone().into()).collect();
            let mut limit = identity.limit(line, &identity.name, *number, *seconds, answer.as_deref());
            if !unless.is_empty() {
                limit.set("unless", table([(identity.attribute, Toml::Array(unless))]));
            }
            draft.limit(limit);
        }
    }
    for (number, seconds) in &general {
        draft.carried(line, format!("limits: {number} in {}", spell(Duration::from_secs(*seconds))));
    }
    draft.differs(line, "limits: it counts requests at RCPT TO, which are recipients, so do these limits");
    for own in &own {
        for identity in identities.iter().filter(|identity| identity.is_of(&own.id)) {
            for (number, seconds) in &own.limits {
                let mut limit = identity.limit(Some(own.line), &own.id, *number, *seconds, answer.as_deref());
                let mut wanted = identity.wanted.clone();
                wanted.insert(identity.attribute.to_owned(), own.id.clone().into());
                limit.set("match", Toml::Table(wanted));
                draft.limit(limit);
            }
        }
        draft.carried(own.line, format!("limits_by_id: {}", own.id));
    }
    if draft.has_limits() {
        draft.exempt_nobody(None, "policyd-rate-limit exempted no client.");
    } else {
        draft.missing(None, "it has no limit: limit_by_sasl, limit_by_sender and limit_by_ip are off");
    }
    rest(&settings, draft);
    Ok(())
}

/// The identity that a limit counts by.
struct Identity {
    name: String,
    per: &'static str,
    attribute: &'static str,
    wanted: toml::Table,
}

impl Identity {
    fn new(
        name: &str,
        per: &'static str,
        attribute: &'static str,
        wanted: impl IntoIterator<Item = (&'static str, Toml)>,
    ) -> Self {
        let wanted = wanted.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { name: name.to_owned(), per, attribute, wanted }
    }

    /// Whether a name of `limits_by_id` can be one of these.
    fn is_of(&self, id: &str) -> bool {
        let address = id.parse::<std::net::IpAddr>().is_ok();
        match self.attribute {
            "client_address" => address,
            "sender" => id.contains('@'),
            _ => !address,
        }
    }

    fn limit(&self, line: Option<usize>, name: &str, number: i64, seconds: u64, answer: Option<&str>) -> LimitDraft {
        let mut limit = LimitDraft::new(line, format!("{name}_{}", spell(Duration::from_secs(seconds))), "");
        limit.set("threshold", number).set("exptime", seconds as i64).set("window", "sliding");
        limit.set("count", "recipients").set("per", self.per).set("match", Toml::Table(self.wanted.clone()));
        // policyd-rate-limit recorded only what it let pass.
        limit.set("count_refused", false);
        if self.per == "client" {
            limit.set("ipv6_prefix_length", 128);
        }
        if let Some(answer) = answer {
            limit.set("action", answer);
        }
        limit
    }
}

fn table<const N: usize>(pairs: [(&str, Toml); N]) -> Toml {
    Toml::Table(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

struct OwnLimits {
    line: usize,
    id: String,
    limits: Vec<(i64, u64)>,
}

fn own_limits(setting: Option<&YamlSetting>) -> Vec<OwnLimits> {
    let Some(YamlData::Mapping(map)) = setting.map(|setting| &setting.value.data) else { return Vec::new() };
    let own = |(id, limits): (&MarkedYaml, &MarkedYaml)| OwnLimits {
        line: id.span.start.line(),
        id: word(id),
        limits: pairs(limits),
    };
    map.iter().map(own).collect()
}

/// `[[10, 60], [150, 86400]]`.
fn pairs(value: &MarkedYaml) -> Vec<(i64, u64)> {
    let number = |value: Option<&&MarkedYaml>| word(value?).parse::<i64>().ok();
    let pair = |item: &MarkedYaml| {
        let items = items(item);
        Some((number(items.first())?, u64::try_from(number(items.get(1))?).ok()?))
    };
    items(value).into_iter().filter_map(pair).collect()
}

/// Settings that are not limits.
fn rest(settings: &BTreeMap<String, YamlSetting>, draft: &mut Draft) {
    let used = ["limits", "limits_by_id", "limit_by_sasl", "limit_by_sender", "limit_by_ip", "limited_networks"];
    for (name, setting) in settings.iter().filter(|(name, _)| !used.contains(&name.as_str())) {
        let (line, value) = (setting.line, setting.word());
        match name.as_str() {
            "SOCKET" => socket(setting, draft),
            "socket_permission" => {
                let mode = format!("{:0>4}", value.trim_start_matches('0'));
                let text = format!("socket_permission: socket_mode = \"{mode}\"");
                draft.carry(line, "socket_mode", mode, text);
            }
            "fail_action" => draft.carried(line, format!("fail_action: action = {value:?}")),
            "success_action" if value.eq_ignore_ascii_case("dunno") => draft.carried(line, "success_action dunno"),
            "success_action" => draft.missing(line, format!("success_action {value}: who passes is answered DUNNO")),
            "db_error_action" => draft.missing(
                line,
                "db_error_action: counts are in the daemon's memory; with memcached_server see on_store_failure",
            ),
            "backend" | "mysql_config" | "sqlite_config" | "pgsql_config" => {
                draft.missing(
                    line,
                    format!("{name}: counts are in the daemon's memory; see state_file and memcached_server"),
                );
            }
            "user" | "group" => draft.missing(line, format!("{name}: the service manager starts it as connshaper")),
            "pidfile" => draft.missing(line, "pidfile: it stays in the foreground of its service manager"),
            "delay_to_close" => draft.missing(line, "delay_to_close: Postfix closes its connections"),
            "debug" => draft.missing(line, "debug: log_level = \"debug\" logs every verdict"),
            _ if name.starts_with("report") || name.starts_with("smtp_") => {
                draft.missing(line, format!("{name}: see the log, metrics_listen and alert_command"));
            }
            _ => draft.missing(line, name.as_str()),
        }
    }
    if let Some(setting) = settings.get("socket_permission").filter(|_| !settings.contains_key("SOCKET")) {
        draft.missing(setting.line, "socket_permission: no SOCKET is named");
    }
}

fn socket(setting: &YamlSetting, draft: &mut Draft) {
    let line = setting.line;
    let listen = match items(setting.value)[..] {
        [host, port] if word(host).contains(':') => format!("inet:[{}]:{}", word(host), word(port)),
        [host, port] => format!("inet:{}:{}", word(host), word(port)),
        _ => format!("unix:{}", setting.word()),
    };
    let text = format!("SOCKET: listen = {listen:?}");
    draft.carry(line, "listen", listen, text);
    draft.differs(line, "SOCKET: a socket that systemd passes is used instead");
}
