//! Configuration files as administrators write them, right and wrong.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use connshaper::cli::check;
use connshaper::config::{Config, ConfigError, Form, KEYS, Loaded, LogTarget, OnStoreFailure, ValueKind, convert};
use connshaper::observe::log::Severity;
use connshaper::store::STORES;
use connshaper::store::memcached::MemcachedConfig;
use connshaper::store::shared::kind::StoreKind;
use proptest::prelude::*;
use serde_json::Value;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("connshaper.toml"), text)
}

fn right(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn loaded(text: &str) -> Loaded {
    Loaded::parse(Path::new("connshaper.toml"), text).unwrap_or_else(|error| panic!("{error}"))
}

/// What `connshaper check --json` prints.
fn checked(text: &str) -> Value {
    serde_json::from_str(&check::to_json(&Loaded::parse(Path::new("connshaper.toml"), text))).unwrap()
}

fn warnings(text: &str) -> Vec<String> {
    right(text).warnings.iter().map(ToString::to_string).collect()
}

/// The effective configuration, without the name of the file.
fn in_force(config: &Config) -> Config {
    let mut config = config.clone();
    config.path = None;
    config.form = Form::BuiltIn;
    config.warnings = Vec::new();
    config
}

// The TOML form.

#[test]
fn an_empty_file_is_the_defaults() {
    for text in ["", "\n\n", "# nothing\n", "\u{feff}", "\r\n"] {
        assert_eq!(in_force(&right(text)), in_force(&Config::default()), "{text:?}");
    }
}

#[test]
fn every_key_of_the_configuration_takes_effect() {
    let config = right(
        r#"
        exptime = "1h30m"
        threshold = 20
        whitelist = ["192.0.2.1", "::ffff:198.51.100.0/120"]
        memcached_server = ["mc1", "mc2:11300", "2001:db8::1", "/run/memcached.sock"]
        memcached_port = 11212
        store_timeout = 1
        on_store_failure = "defer"
        key_prefix = "mx:"
        ipv4_prefix_length = 24
        ipv6_prefix_length = 48
        max_clients = 5000
        max_connections = 100
        listen = ["inet:[::1]:10040", "unix:/run/connshaper/policy"]
        socket_mode = "0666"
        socket_owner = "postfix"
        socket_group = "mail"
        log = "syslog"
        log_level = "debug"
        syslog_socket = "/run/log"
        log_interval = "1m"
        log_rate = 7
        statistics_interval = 0
        "#,
    );
    let texts = |items: &[connshaper::net::address::Address]| -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    };
    assert_eq!(config.form, Form::Toml);
    assert_eq!(config.top().exptime, 5400);
    assert_eq!(config.top().threshold, 20);
    let nets: Vec<String> = config.whitelist().map(ToString::to_string).collect();
    assert_eq!(nets, ["192.0.2.1/32", "198.51.100.0/24"]);
    assert_eq!(
        texts(&memcached(&config).servers),
        ["inet:mc1:11212", "inet:mc2:11300", "inet:[2001:db8::1]:11212", "unix:/run/memcached.sock"]
    );
    assert_eq!(config.store.timeout, Duration::from_secs(1));
    assert_eq!(config.store.on_failure, Some(OnStoreFailure::Defer));
    assert_eq!(config.store.key_prefix, "mx:");
    assert_eq!(config.top().key_prefix, "mx:");
    assert_eq!((config.top().ipv4_prefix_length, config.top().ipv6_prefix_length), (24, 48));
    assert_eq!((config.store.max_clients, config.max_connections), (5000, 100));
    assert_eq!(texts(&config.listen), ["inet:[::1]:10040", "unix:/run/connshaper/policy"]);
    assert_eq!(config.socket.mode, 0o666);
    assert_eq!(config.socket.owner.as_deref(), Some("postfix"));
    assert_eq!(config.socket.group.as_deref(), Some("mail"));
    assert!(matches!(&config.log.target, LogTarget::Syslog { socket, .. } if socket == "/run/log"));
    assert_eq!(config.log.level, Severity::Debug);
    assert_eq!(config.log.interval, Duration::from_secs(60));
    assert_eq!(config.log.rate, 7);
    assert_eq!(config.log.statistics_interval, Duration::ZERO);
    let odd: Vec<_> = config.warnings.iter().map(|warning| &warning.text).collect();
    assert_eq!(odd, ["`max_clients` has no effect: memcached counts, and nothing counts while it is down"]);
}

/// The settings of memcached, where the configuration chooses that.
fn memcached(config: &Config) -> &MemcachedConfig {
    let shared: &dyn Any = config.store.shared.as_deref().expect("a shared store");
    shared.downcast_ref().unwrap_or_else(|| panic!("{:?}", config.store))
}

#[test]
fn valid_but_pointless_settings_are_warned_of() {
    let cases = [
        (
            "memcached_port = 11212",
            "1:1: `memcached_port` has no effect without `memcached_server`: \
             counts are kept in this process",
        ),
        (
            "memcached_server = \"mc1:1\"\nmemcached_port = 11212",
            "2:1: `memcached_port` has no effect: every server has a port of its own or none",
        ),
        (
            "memcached_server = \"mc1:1\"\nstate_file = \"/var/lib/connshaper/state\"",
            "2:1: `state_file` has no effect: counts are kept in memcached",
        ),
        ("state_interval = \"1m\"", "1:1: `state_interval` has no effect: no counts are kept in a file"),
        ("memcached_server = [\"mc1\", \"mc1:11211\"]", "1:28: inet:mc1:11211 is named twice"),
        ("socket_mode = \"0666\"", "1:1: `socket_mode` has no effect: `listen` has no unix socket"),
        (
            "recipient_delimiter = \"+\"",
            "1:1: `recipient_delimiter` has no effect: no limit is about senders, recipients or logins",
        ),
        (
            "canonical_senders = true\n[limit.users]\nthreshold = 5\ncount = \"messages\"\nper = \"sasl_username\"",
            "1:1: `canonical_senders` has no effect: no limit is about senders or recipients",
        ),
        (
            "threshold = 1000000\nexptime = 1",
            "1:1: `threshold` will never be reached: no client connects that often in `exptime`",
        ),
        ("whitelist = [\n\"10.1.0.0/16\",\n\"10.0.0.0/8\"]", "2:1: 10.1.0.0/16 is covered by 10.0.0.0/8 in line 3"),
        ("whitelist = [\"192.0.2.1/24\"]", "1:14: `192.0.2.1/24` has host bits set, taken as 192.0.2.0/24"),
        ("whitelist = [\"::/0\"]", "1:14: ::/0 exempts every IPv6 client"),
        ("listen = \"inet:127.0.0.1:0\"", "1:10: port 0 is any free port, which Postfix cannot know"),
        (
            "action = \"WARN slow down\"\ntext = \"Slow down\"",
            "2:1: `text` has no effect: `action` has a text of its own",
        ),
    ];
    for (text, warning) in cases {
        assert_eq!(warnings(text), [format!("connshaper.toml:{warning}")], "{text}");
    }
}

#[test]
fn state_file_turns_on_saving_of_counts() {
    assert_eq!(right("").state.file, None);
    let state = right("state_file = \"/var/lib/connshaper/state\"\nstate_interval = 0").state;
    assert_eq!((state.file, state.interval), (Some("/var/lib/connshaper/state".into()), Duration::ZERO));
}

#[test]
fn every_setting_has_its_line_number() {
    let loaded = loaded("# the limit\nthreshold = 3\nwhitelist = [\"192.0.2.1/24\"]\n");
    let report = check::report(&loaded, connshaper::observe::terminal::Paint(false));
    let row = |key: &str| {
        let row = report.lines().find(|line| line.trim_start().starts_with(key)).unwrap();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("threshold"), "threshold 3 line 2");
    assert_eq!(row("whitelist "), "whitelist [\"192.0.2.0/24\"] line 3");
    assert_eq!(row("exptime"), "exptime 60 default");
    assert_eq!(row("memcached_server"), "memcached_server - default");
}

#[test]
fn check_describes_the_limit_in_a_sentence() {
    let limit = |text: &str| {
        let object = checked(text);
        object["summary"][0].as_str().unwrap().to_owned()
    };
    assert_eq!(
        limit(""),
        "A client (IPv4 /32, IPv6 /64) may connect 10 times in 60 seconds; \
         the next is answered DEFER_IF_PERMIT."
    );
    assert_eq!(
        limit("exptime = \"1h30m\"\nthreshold = 1\nipv6_prefix_length = 48"),
        "A client (IPv4 /32, IPv6 /48) may connect once in 1 hour 30 minutes; \
         the next is answered DEFER_IF_PERMIT."
    );
}

#[test]
fn check_says_from_which_limits_the_whitelist_exempts() {
    let last = |text: &str| checked(text)["summary"].as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
    assert_eq!(last(""), "The whitelist (2 netblocks) exempts clients from connections.");
    let users = "[limit.users]\nthreshold = 5\ncount = \"messages\"\nper = \"sasl_username\"\n";
    let exempting = format!("{users}whitelist_exempts = true");
    for (text, expected) in [
        (users.to_owned(), "The whitelist (2 netblocks) exempts clients from connections, not from users."),
        (exempting, "The whitelist (2 netblocks) exempts clients from connections and users."),
        (
            format!("whitelist_exempts = false\n{users}"),
            "The whitelist (2 netblocks) exempts clients from the blacklist only.",
        ),
        (format!("whitelist = []\n{users}"), "The whitelist is empty: no client is exempt."),
        (
            "whitelist = [\"::1\", \".example.com\", \"/^mx/\"]\n".to_owned(),
            "The whitelist (1 netblock and 2 names) exempts clients from connections.",
        ),
        ("whitelist = [\".example.com\"]\n".to_owned(), "The whitelist (1 name) exempts clients from connections."),
    ] {
        assert_eq!(last(&text), expected);
    }
}

#[test]
fn check_json_has_the_same_settings() {
    let object = checked("threshold = 3\nmemcached_port = 3\n");
    assert_eq!(object["ok"], true);
    assert_eq!(object["form"], "toml");
    assert_eq!(object["settings"].as_array().unwrap().len(), KEYS.len());
    assert_eq!(object["settings"][1]["key"], "threshold");
    assert_eq!(object["settings"][1]["value"], 3);
    assert_eq!(object["settings"][1]["line"], 1);
    assert_eq!(object["warnings"][0]["line"], 2);
    assert!(object["notes"][0].as_str().unwrap().contains("inetd"));
    let object = checked("\nlimitt = 3\n");
    assert_eq!(object["ok"], false);
    assert_eq!(object["errors"][0]["line"], 2);
    assert_eq!(object["errors"][0]["problem"], "unknown key `limitt`");
}

// Modes of operation.

#[test]
fn inetd_mode_requires_a_shared_store() {
    let inetd = |text: &str| right(text).for_inetd();
    assert!(inetd("").unwrap_err().contains("set memcached_server"));
    let local = "memcached_server = \"mc\"\non_store_failure = \"local\"";
    assert!(inetd(local).unwrap_err().contains("set on_store_failure"));
    let config = inetd("memcached_server = \"mc\"\nsyslog_socket = \"/run/log\"").unwrap();
    assert_eq!(config.policy.on_store_failure, OnStoreFailure::Dunno);
    assert!(matches!(&config.log.target, LogTarget::Syslog { socket, .. } if socket == "/run/log"));
    let daemon = right("memcached_server = \"mc\"");
    assert_eq!(daemon.policy.on_store_failure, OnStoreFailure::Local);
}

// The original's form.

const DOCUMENTED: &str = "\
exptime 60
threshold 10
memcached_port 11211
memcached_server memcached.example.com
whitelist 192.168.1., 192.168.2., 10.0.0
";

#[test]
fn the_original_documentations_example_keeps_its_meaning() {
    let config = right(DOCUMENTED);
    assert_eq!(config.form, Form::ConnectionShaper);
    assert_eq!(config.top().exptime, 60);
    assert_eq!(config.top().threshold, 10);
    assert_eq!(memcached(&config).servers[0].to_string(), "inet:memcached.example.com:11211");
    let nets: Vec<String> = config.whitelist().map(ToString::to_string).collect();
    assert_eq!(nets, ["192.168.1.0/24", "192.168.2.0/24", "10.0.0.0/24"]);
    assert_eq!((&*config.store.key_prefix, &*config.top().key_prefix), ("", ""));
    assert_eq!((config.top().ipv4_prefix_length, config.top().ipv6_prefix_length), (32, 128));
    assert_eq!(config.store.on_failure, Some(OnStoreFailure::Dunno));
    assert_eq!(config.warnings, []);
}

#[test]
fn in_the_original_form_an_empty_or_zero_value_is_the_default() {
    for text in ["exptime 0\n", "exptime\nthreshold  \n", "threshold 0 \r\nmemcached_server 0\n"] {
        let config = right(text);
        assert_eq!(config.form, Form::ConnectionShaper, "{text:?}");
        assert_eq!((config.top().exptime, config.top().threshold), (60, 10));
        assert_eq!(memcached(&config).servers[0].to_string(), "inet:localhost:11211");
        assert_eq!(config.whitelist().count(), 0);
    }
}

#[test]
fn the_form_of_a_file_is_recognised_by_its_content() {
    let original = ["exptime 60", "# x = 1\n\n\tthreshold\t5", "colour blue", "whitelist"];
    let toml = ["exptime = 60", "exptime=60", "", "# exptime 60", "threshold=  1 # exptime 60"];
    for text in original {
        assert_eq!(right(text).form, Form::ConnectionShaper, "{text:?}");
    }
    for text in toml {
        assert_eq!(right(text).form, Form::Toml, "{text:?}");
    }
}

#[test]
fn the_original_form_warns_of_ignored_and_reinterpreted_settings() {
    let text = "threshold 5\nthreshold 6\ncolour blue\nlisten inet:127.0.0.1:1\n\
                whitelist 10.0.0.0/8, , 10.1.\nexptime 2592001\n";
    let seen = [
        "1:1: `threshold` is set again below, the last one counts",
        "3:1: `colour` is ignored: connection_shaper did not know it either",
        "4:1: `listen` is ignored: it needs the TOML form, which `connshaper convert` prints",
        "5:11: connection_shaper never matched 10.0.0.0/8; taken as 10.0.0.0/8",
        "5:23: an empty entry is ignored",
        "5:25: 10.1.0.0/16 is covered by 10.0.0.0/8 in line 5",
        "6:9: connection_shaper never counted with an exptime above 30 days, for memcached takes \
         it as a date; here it is what it says",
    ];
    assert_eq!(warnings(text), seen.map(|warning| format!("connshaper.toml:{warning}")));
    assert_eq!(right(text).top().threshold, 6);
}

#[test]
fn the_original_form_accepts_latin_1_in_comments() {
    let text = b"# gr\xfc\xdfe\nthreshold 5\n";
    let config = Config::parse(Path::new("connection_shaper"), text).unwrap();
    assert_eq!(config.top().threshold, 5);
}

#[test]
fn a_converted_file_means_the_same() {
    let originals = [
        DOCUMENTED,
        "exptime\n",
        "threshold 5\nwhitelist\n",
        "exptime 90\nwhitelist 2001:db8:, ::1, ::ffff:192.0.2.1, 10,\nmemcached_server ::1\n",
        "memcached_server /run/memcached.sock\nmemcached_port 1\n",
        "memcached_server mc.example.com:11300\n",
    ];
    for original in originals {
        let loaded = loaded(original);
        let toml = convert::to_toml(&loaded);
        let converted = right(&toml);
        assert_eq!(converted.form, Form::Toml);
        assert_eq!(in_force(&converted), in_force(&loaded.config), "{toml}");
    }
}

// Files.

#[test]
fn a_file_given_by_option_must_exist_but_the_default_file_need_not() {
    let absent = Path::new("/nonexistent/connshaper.toml");
    assert_eq!(Config::load_if_there(absent).unwrap(), Config::default());
    let error = Config::load(Some(absent)).unwrap_err();
    assert!(error.is_unreadable());
    assert!(error.to_string().contains("name a file that exists"), "{error}");
}

#[test]
fn a_directory_or_a_huge_file_is_rejected() {
    let directory = tempfile::tempdir().unwrap();
    let error = Config::load(Some(directory.path())).unwrap_err();
    assert!(error.to_string().contains("name the file in it"), "{error}");
    let huge = directory.path().join("huge");
    fs::File::create(&huge).unwrap().set_len(65 << 20).unwrap();
    let error = Config::load(Some(&huge)).unwrap_err();
    assert!(error.to_string().contains("larger than 64 MiB"), "{error}");
}

#[test]
fn nesting_depth_and_reported_mistakes_are_bounded() {
    let deep = [
        "[".repeat(100_000),
        format!("x = {}", "[".repeat(100_000)),
        format!("x = {}", "{a=".repeat(100_000)),
        format!("{}a = 1", "a.".repeat(100_000)),
    ];
    for text in deep {
        parse(&text).unwrap_err();
    }
    let error = parse(&"= 3\n".repeat(10_000)).unwrap_err();
    assert_eq!(error.diagnostics.len() + error.more, 10_000);
    assert!(error.diagnostics.len() < 100);
    assert!(warnings(&"colour blue\n".repeat(10_000)).len() < 100);
}

#[test]
fn an_error_summary_fits_on_one_log_line() {
    let error = parse("limitt = 3\nthreshold = 0\n").unwrap_err();
    assert_eq!(error.summary(), "connshaper.toml:1:1: unknown key `limitt` (and 1 more)");
}

/// The expected message for each file of tests/bad-config is in NAME.txt beside
/// it. With BLESS set, the test writes these files instead: read the diff then.
#[test]
fn every_bad_file_gets_the_expected_message() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-config");
    let entries = fs::read_dir(&directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension != "txt"));
    files.sort();
    assert!(files.len() >= 20, "where are the bad files?");
    let mut differences = String::new();
    for path in files {
        let name = Path::new(path.file_name().unwrap());
        let message = match Config::parse(name, fs::read(&path).unwrap()) {
            Ok(_) => "this file is taken as right".to_owned(),
            Err(error) => error.to_string(),
        };
        let beside = path.with_extension(format!("{}.txt", path.extension().unwrap().display()));
        if std::env::var_os("BLESS").is_some() {
            fs::write(&beside, format!("{message}\n")).unwrap();
        }
        let expected = fs::read_to_string(&beside).unwrap_or_default();
        if expected.trim_end() != message {
            differences += &format!("{}\nexpected:\n{expected}\ngot:\n{message}\n", name.display());
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

// The table of keys and the sample.

fn sample() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/connshaper.toml")).unwrap()
}

/// The sample's settings: lines of `#key = value`, with no blank after the `#`.
fn sample_settings() -> Vec<(String, String)> {
    let sample = sample();
    let pair = |line: &str| {
        let (key, value) = line.strip_prefix('#')?.split_once(" = ")?;
        (!key.starts_with([' ', '#'])).then(|| (key.to_owned(), value.to_owned()))
    };
    // The example of a named limit repeats some keys.
    let (sample, _) = sample.split_once("\n#[limit.").unwrap();
    sample.lines().filter_map(pair).collect()
}

/// Keys that are absent by default; the sample has an example of each.
fn absent() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter(|key| key.default.is_none()).map(|key| key.name)
}

#[test]
fn the_sample_equals_the_defaults_commented_out_or_not() {
    assert_eq!(in_force(&right(&sample())), in_force(&Config::default()));
    let lines = sample_settings().into_iter().filter(|(key, _)| !absent().any(|absent| absent == key));
    let text: String = lines.map(|(key, value)| format!("{key} = {value}\n")).collect();
    let mut config = in_force(&right(&text));
    assert_eq!(config.store.on_failure.take(), Some(OnStoreFailure::Local));
    assert_eq!(config, in_force(&Config::default()));
    // The whole sample without the keys that name files, which do not exist, or logins, and with one store.
    let sample = sample();
    let lines = sample.lines().filter_map(|line| line.strip_prefix('#'));
    let names_what_is_not_there =
        |line: &str| ["list_file =", "token_file =", "thresholds", "_database ="].iter().any(|key| line.contains(key));
    let lines = lines.filter(|line| !line.starts_with([' ', '#']) && !names_what_is_not_there(line));
    let other_stores: Vec<String> = STORES[1..].iter().map(|store| format!("{} =", store.key())).collect();
    let settings = lines.filter(|line| !other_stores.iter().any(|key| line.starts_with(key)));
    let config = right(&settings.map(|line| format!("{line}\n")).collect::<String>());
    assert_eq!(config.policy.limits.len(), 2);
}

#[test]
fn the_sample_has_every_key_at_its_default() {
    let sample = sample_settings();
    let in_sample: BTreeSet<&str> = sample.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(in_sample.len(), sample.len(), "a key stands twice in the sample");
    assert_eq!(in_sample, KEYS.iter().map(|key| key.name).filter(|key| *key != "limit").collect());
    for (name, value) in &sample {
        let key = KEYS.iter().find(|key| key.name == name).unwrap();
        assert!(key.default.is_none_or(|default| default == value), "{name}");
    }
}

#[test]
fn a_value_of_the_wrong_kind_names_its_key() {
    for key in KEYS.iter() {
        let error = parse(&format!("{} = 1979-05-27", key.name)).unwrap_err();
        assert!(error.summary().contains(key.name), "{error}");
    }
}

/// Keys on which others depend, so that those have an effect.
const NEEDED: [(&str, &str); 5] = [
    ("initial_delay", "1"),
    ("ban_time", "60"),
    ("control_socket", "\"/run/connshaper/control\""),
    ("alert_command", "\"/bin/true\""),
    ("blacklist_action", "\"refuse\""),
];

#[test]
fn every_key_of_the_table_has_an_effect() {
    let sample = sample_settings();
    let text = |key: &str, value: Option<&str>| -> String {
        // One store is chosen, as in the sample: that of the key, else the first.
        let has_key = |store: &&&StoreKind| store.keys.iter().any(|own| own.name == key);
        let chosen = STORES.iter().find(has_key).unwrap_or(&STORES[0]).key();
        let place = &*sample.iter().find(|(name, _)| name == chosen).unwrap().1;
        let needed = NEEDED.into_iter().chain([(chosen, place)]).filter(|(needed, _)| *needed != key);
        let needed = needed.map(|(key, value)| format!("{key} = {value}\n"));
        needed.chain(value.map(|value| format!("{key} = {value}\n"))).collect()
    };
    for key in KEYS.iter() {
        let without = in_force(&right(&text(key.name, None)));
        // One of the bounds is not the default.
        let values = match key.kind {
            ValueKind::Integer(least, most) => vec![least.to_string(), most.to_string()],
            ValueKind::Seconds(least, most) => vec![format!("\"{least}s\""), format!("\"{most}s\"")],
            ValueKind::Milliseconds(least, most) => vec![format!("\"{least}ms\""), format!("\"{most}ms\"")],
            ValueKind::Boolean => vec!["true".into(), "false".into()],
            ValueKind::String => vec!["\"x\"".into()],
            ValueKind::Word(words) => words.iter().map(|word| format!("{word:?}")).collect(),
            ValueKind::Strings | ValueKind::StringOrList | ValueKind::OneOrMore => vec!["[\"x y\"]".into()],
            ValueKind::Netblocks => vec!["[\"192.0.2.0/24\"]".into()],
            ValueKind::Clients => vec!["[\"192.0.2.0/24\", \".example.com\"]".into()],
            ValueKind::Threshold => vec!["7".into()],
            ValueKind::Table if key.name == "limit" => vec!["{ x = { threshold = 3 } }".into()],
            ValueKind::Table if key.name == "netblocks" => vec!["{ \"192.0.2.0/24\" = 3 }".into()],
            ValueKind::Table => vec!["{ sender = true }".into()],
        };
        // A value of the right kind that is refused was read as well.
        let has_effect =
            |value: &String| !matches!(parse(&text(key.name, Some(value))), Ok(config) if in_force(&config) == without);
        assert!(values.iter().any(has_effect), "{} has no effect: {values:?}", key.name);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
        if let Err(error) = Config::parse(Path::new("x"), &bytes) {
            let _ = error.to_string();
        }
    }

    #[test]
    fn any_converted_file_means_the_same(
        exptime in 0_u32..=31_536_000,
        threshold in 0_u32..=1_000_000_000,
        server in "|[a-z]{1,9}|[0-9a-f]{1,4}::[0-9]{1,3}|/run/[a-z]{1,9}",
        whitelist in prop::collection::vec("[1-9][0-9]?(\\.[1-9][0-9]?){0,3}|[1-9a-f]{1,4}:[1-9a-f]{1,4}:?", 0..30),
    ) {
        let original = format!(
            "exptime {exptime}\nthreshold {threshold}\nmemcached_server {server}\nwhitelist {}\n",
            whitelist.join(", ")
        );
        let loaded = loaded(&original);
        prop_assert_eq!(in_force(&right(&convert::to_toml(&loaded))), in_force(&loaded.config));
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        lines in prop::collection::vec(("(exptime|whitelist|listen|text|x)?", "[ =]{0,3}", ".*"), 0..5),
        bom: bool,
    ) {
        let lines = lines.into_iter().map(|(key, gap, value)| format!("{key}{gap}{value}\n"));
        let text = if bom { "\u{feff}" } else { "" }.to_owned() + &lines.collect::<String>();
        if let Err(error) = parse(&text) {
            let _ = error.to_string();
        }
    }
}
