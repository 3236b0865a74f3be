//! Limits, netblocks and lists as administrators write them.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use connshaper::cli::check;
use connshaper::config::{Config, ConfigError, KEYS, Loaded};
use connshaper::net::clock::Now;
use connshaper::net::netblock::NetblockTable;
use connshaper::policy::action::Values;
use connshaper::policy::attribute::Attribute;
use connshaper::policy::calendar::{LocalCalendar, Period};
use connshaper::policy::conditions::{Condition, Pattern, Test};
use connshaper::policy::door::Door;
use connshaper::policy::key::KeyPart;
use connshaper::policy::key::MAX_STORE_KEY;
use connshaper::policy::key_escape::escaped;
use connshaper::policy::key_field::KeyField;
use connshaper::policy::limit::{Ban, CountKind, Delay, Window};
use connshaper::policy::limit::{Rate, RatePer};
use connshaper::policy::lists::ListEntry;
use connshaper::policy::{CounterKind, Key, Limit, limit};

use jiff::tz::TimeZone;
use proptest::prelude::*;
use strum::VariantArray;

use crate::support::{Dir, default_limit, mmdb};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("connshaper.toml"), text)
}

fn right(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// What `connshaper check --json` prints.
fn checked(text: &str) -> serde_json::Value {
    serde_json::from_str(&check::to_json(&Loaded::parse(Path::new("connshaper.toml"), text))).unwrap()
}

/// The limit `x` of a file.
fn limit(keys: &str) -> Limit {
    let config = right(&format!("[limit.x]\nthreshold = 5\n{keys}\n"));
    config.policy.limits.into_iter().nth(1).unwrap()
}

// Limits.

#[test]
fn limits_keep_the_order_of_the_file() {
    let config = right(
        "[limit.b]\nthreshold = 1\n[limit.c.match]\nstress = true\n[limit.a]\nthreshold = 2\n[limit.c]\nthreshold = 3\n",
    );
    let names: Vec<&str> = config.policy.limits.iter().map(|limit| &*limit.name).collect();
    // The position of a limit is that of its own header, even if a subtable comes earlier.
    assert_eq!(names, [limit::TOP, "b", "a", "c"]);
}

#[test]
fn max_delay_leaves_time_for_the_store() {
    let wait = |max: &str, store: &str| {
        parse(&format!("initial_delay = 1\nmax_delay = \"{max}\"\nstore_timeout = \"{store}\""))
    };
    for (longest, store) in [("8s", "100ms"), ("8s", "1s"), ("4s", "5s")] {
        assert!(wait(longest, store).is_ok(), "{longest} {store}");
        let longer = wait(&format!("{longest}1ms"), store).unwrap_err().to_string();
        assert!(longer.contains(&format!("write at most {longest};")), "{longer}");
    }
}

#[test]
fn a_named_limit_inherits_some_keys_of_the_top_level() {
    let text = r#"
        exptime = 90
        threshold = 7
        window = "sliding"
        count = "requests"
        per = []
        match = { server_port = 25 }
        unless = { server_port = 587 }
        ipv4_prefix_length = 24
        ipv6_prefix_length = 48
        netblocks = { "192.0.2.0/24" = 9 }
        coalesce = "5ms"
        count_refused = false
        initial_delay = 1
        max_delay = "3s"
        max_concurrent = 5
        ban_time = 60
        ban_threshold = 2
        ban_max = 600
        forget_after = 700
        action = "REJECT"
        text = "Enough"
        enhanced_status_code = "4.7.9"
        stress_threshold = 3
        stress_action = "421"
        [limit.x]
        threshold = 100
    "#;
    let [top, named] = <[Limit; 2]>::try_from(right(text).policy.limits).unwrap();
    assert_eq!((top.exptime, top.threshold, top.window, top.counts), (90, 7, Window::Sliding, CountKind::Requests));
    assert!(top.per.0.is_empty());
    assert_eq!((top.coalesce, top.count_refused, top.forget_after), (5, false, 700));
    let second = Duration::from_secs(1);
    assert_eq!(top.delay, Some(Delay { initial: second, max: 3 * second, max_concurrent: 5 }));
    assert_eq!(top.ban, Some(Ban { time: 60, threshold: 2, max: 600 }));
    assert_eq!(top.stress_threshold, Some(3));
    let expected = Limit {
        name: "x".into(),
        key_prefix: "connshaper:x/".into(),
        exptime: 90,
        threshold: 100,
        ipv4_prefix_length: 24,
        ipv6_prefix_length: 48,
        forget_after: 90,
        action: top.action,
        stress_action: top.stress_action,
        ..default_limit("")
    };
    assert_eq!(named, expected);
}

#[test]
fn every_key_of_a_limit_takes_effect() {
    let limit = limit(
        r#"
        exptime = "1d"
        window = "sliding"
        count = "messages"
        per = ["sasl_username", "sender_domain"]
        ipv4_prefix_length = 16
        ipv6_prefix_length = 32
        coalesce = "1s500ms"
        count_refused = false
        initial_delay = "100ms"
        ban_time = "10m"
        ban_max = "2d"
        stress_threshold = 2
        "#,
    );
    assert_eq!((limit.exptime, limit.window, limit.counts), (86_400, Window::Sliding, CountKind::Messages));
    assert_eq!(limit.per.0.as_slice(), [KeyField::WORDS[3].1, KeyField::WORDS[5].1]);
    assert_eq!((limit.ipv4_prefix_length, limit.ipv6_prefix_length), (16, 32));
    assert_eq!((limit.coalesce, limit.count_refused), (1500, false));
    let delay = Delay { initial: Duration::from_millis(100), max: Duration::from_secs(5), max_concurrent: 3 };
    assert_eq!(limit.delay, Some(delay));
    assert_eq!(limit.ban, Some(Ban { time: 600, threshold: 1, max: 172_800 }));
    assert_eq!((limit.forget_after, limit.stress_threshold), (172_800, Some(2)));
}

#[test]
fn without_ban_max_every_ban_is_as_long_as_the_first() {
    assert_eq!(limit("ban_time = 600").ban, Some(Ban { time: 600, threshold: 1, max: 600 }));
    assert_eq!(limit("ban_time = 600").forget_after, 600);
    assert_eq!(limit("ban_time = 10").forget_after, 60);
}

#[test]
fn bytes_are_kept_in_kib_rounded_up() {
    let threshold = |said: &str| {
        let config =
            right(&format!("[limit.x]\ncount = \"bytes\"\nthreshold = {said}\nnetblocks = {{ \"::1\" = {said} }}"));
        let limit = &config.policy.limits[1];
        let (_, rate) = limit.netblocks.lookup("::1".parse().unwrap()).unwrap();
        assert_eq!(rate.as_ref().unwrap().threshold, limit.threshold);
        limit.threshold
    };
    for (said, kib) in [("1", 1), ("1025", 2), ("\"100MB\"", 97_657), ("\"1GiB\"", 1 << 20)] {
        assert_eq!(threshold(said), kib, "{said}");
    }
}

#[test]
fn log_only_limits_have_counter_keys_of_their_own() {
    let prefixes = |text: &str| -> Vec<(String, bool)> {
        right(text).policy.limits.into_iter().map(|limit| (limit.key_prefix, limit.log_only)).collect()
    };
    let own = prefixes("key_prefix = \"mx:\"\nmemcached_server = \"mc\"\n[limit.x]\nthreshold = 1\nlog_only = true");
    assert_eq!(own, [("mx:".into(), false), ("mx:log_only!x/".into(), true)]);
    let all = prefixes("log_only = true\n[limit.x]\nthreshold = 1");
    assert_eq!(all, [("connshaper:log_only!".into(), true), ("connshaper:log_only!x/".into(), true)]);
    assert!(right("log_only = true").policy.log_only);
}

#[test]
fn the_default_text_names_what_exceeded_the_limit() {
    let told = |keys: &str| {
        let object = checked(&format!("{keys}\n[limit.x]\nthreshold = 1\ncount = \"messages\""));
        object["limits"][1]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(told(""), "Too many messages from {client}, try again in {left} seconds");
    assert_eq!(told("text = \"Slow down\""), "Slow down");
    let per = |per: &str| {
        let object = checked(&format!("[limit.x]\nthreshold = 1\ncount = \"recipients\"\nper = {per}"));
        object["limits"][1]["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(per("\"sasl_username\""), "Too many recipients from {key}, try again in {left} seconds");
    assert_eq!(per("\"recipient_domain\""), "Too many recipients for {key}, try again in {left} seconds");
}

#[test]
fn conditions_are_presence_text_sets_netblocks_and_regular_expressions() {
    let limit = limit(
        r#"
        match = { sasl_username = true, policy_context = false, server_port = [25, "2525"], client_address = ["192.0.2.1/24", '/^10\./'] }
        unless.client_name = "Mail.example.org"
        "#,
    );
    let test = |attribute| {
        let mut all = limit.conditions.all.iter();
        &all.find(|condition| condition.attribute == attribute).unwrap().test
    };
    assert_eq!(*test(Attribute::SaslUsername), Test::Present);
    assert_eq!(*test(Attribute::PolicyContext), Test::Absent);
    assert_eq!(
        *test(Attribute::ServerPort),
        Test::AnyOf(vec![Pattern::Text("25".into()), Pattern::Text("2525".into())])
    );
    let Test::AnyOf(patterns) = test(Attribute::ClientAddress) else { panic!("{limit:?}") };
    assert_eq!(patterns[0], Pattern::Netblock("192.0.2.0/24".parse().unwrap()));
    assert!(matches!(&patterns[1], Pattern::Regex(regex) if regex.as_str() == r"^10\."));
    let name = Test::AnyOf(vec![Pattern::Text("Mail.example.org".into())]);
    assert_eq!(limit.conditions.none, [Condition { attribute: Attribute::ClientName, test: name }]);
}

#[test]
fn a_regular_expression_takes_bounded_memory() {
    let error = parse("match = { sender = '/(a{1000}){1000}/' }").unwrap_err();
    assert!(error.summary().contains("is not a valid regular expression"), "{error}");
    assert!(error.summary().starts_with("connshaper.toml:1:20: "), "{error}");
}

// Netblocks and lists.

fn decides<'l>(set: &'l NetblockTable<ListEntry>, client: &str) -> Option<&'l ListEntry> {
    set.lookup(client.parse::<IpAddr>().unwrap()).map(|(_, entry)| entry)
}

#[test]
fn a_netblock_has_a_rate_or_a_list() {
    let config = right(
        r#"
        blacklist = ["203.0.113.0/24"]
        [netblocks]
        "192.0.2.0/24" = 100
        "192.0.2.1" = "whitelist"
        "192.0.2.2" = 0
        "192.0.2.3" = { threshold = "blacklist", reason = "spam" }
        "198.51.100.0/24" = { threshold = 50, per = "netblock" }
        "2001:db8::/32" = { threshold = 70, per = "farm" }
        "203.0.113.7" = -1
        "#,
    );
    let set: NetblockTable<ListEntry> = config.policy.lists.netblocks.iter().copied().collect();
    let rate = |client: &str| match decides(&set, client) {
        Some(ListEntry::Rate(place)) => config.policy.lists.rates[place.index()].clone(),
        other => panic!("{client}: {other:?}"),
    };
    assert_eq!(rate("192.0.2.9"), Rate { threshold: 100, per: RatePer::Ip });
    assert_eq!(rate("198.51.100.9"), Rate { threshold: 50, per: RatePer::Netblock });
    assert_eq!(rate("2001:db8::9"), Rate { threshold: 70, per: RatePer::Group("farm".into()) });
    for client in ["192.0.2.1", "203.0.113.7", "127.0.0.1", "::1"] {
        assert_eq!(decides(&set, client), Some(&ListEntry::Whitelist), "{client}");
    }
    for client in ["192.0.2.2", "203.0.113.8"] {
        assert_eq!(decides(&set, client), Some(&ListEntry::Blacklist(None)), "{client}");
    }
    let Some(ListEntry::Blacklist(Some(place))) = decides(&set, "192.0.2.3") else {
        panic!("{:?}", config.policy.lists)
    };
    assert_eq!(&*config.policy.lists.reasons[place.index()], "spam");
    assert_eq!(decides(&set, "8.8.8.8"), None);
}

#[test]
fn the_netblocks_of_a_limit_apply_to_that_limit_only() {
    let config = right("[limit.x]\nthreshold = 1\n[limit.x.netblocks]\n\"192.0.2.0/24\" = 5\n\"192.0.2.1\" = -1\n");
    assert_eq!(config.policy.lists.netblocks.len(), Config::default().policy.lists.netblocks.len());
    let set = &config.policy.limits[1].netblocks;
    let said = |client: &str| set.lookup(client.parse().unwrap()).map(|(_, rate)| rate.clone());
    assert_eq!(said("192.0.2.2"), Some(Some(Rate { threshold: 5, per: RatePer::Ip })));
    assert_eq!(said("192.0.2.1"), Some(None));
    assert_eq!(said("192.0.3.1"), None);
}

#[test]
fn an_explicit_entry_overrides_the_default_whitelist() {
    let config = right("blacklist = [\"127.0.0.0/8\"]");
    let set: NetblockTable<ListEntry> = config.policy.lists.netblocks.iter().copied().collect();
    assert_eq!(decides(&set, "127.0.0.1"), Some(&ListEntry::Blacklist(None)));
}

#[test]
fn blacklist_action_refuses_delays_or_gives_an_action() {
    let words = |text: &str| {
        let blacklist = right(text).policy.blacklist;
        let mut told = bytes::BytesMut::new();
        let client = "192.0.2.1".parse().unwrap();
        let (key, request) = (&KeyPart::client(client, 32, 64), None);
        let (limit, note) = ("blacklist", None);
        let values = Values { client, limit, count: 0, threshold: 0, left: 0, key, request, note, now: 0 };
        blacklist.action.write(&values, &mut told);
        (String::from_utf8(told.to_vec()).unwrap(), blacklist.delay, blacklist.max_concurrent)
    };
    let usual = "DEFER_IF_PERMIT 4.7.0 Access denied for 192.0.2.1".to_owned();
    assert_eq!(words(""), (usual.clone(), None, 3));
    let delay = "blacklist_action = \"delay\"\nmax_delay = \"8s\"\nmax_concurrent = 1";
    assert_eq!(words(delay), (usual, Some(Duration::from_secs(8)), 1));
    let own = "action = \"421\"\nblacklist_action = \"REJECT\"\nblacklist_text = \"Go away\"";
    assert_eq!(words(own).0, "REJECT 5.7.0 Go away");
    assert_eq!(words("action = \"421\"").0, "421 4.7.0 Access denied for 192.0.2.1");
}

#[test]
fn valid_but_pointless_settings_are_warned_of() {
    let cases = [
        ("max_delay = 3", "1:1: `max_delay` has no effect without `initial_delay`: no session is delayed"),
        ("max_concurrent = 3", "1:1: `max_concurrent` has no effect without `initial_delay`: no session is delayed"),
        ("max_delayed = 3", "1:1: `max_delayed` has no effect: no session is delayed"),
        ("ban_max = 3", "1:1: `ban_max` has no effect without `ban_time`: no client is banned"),
        ("ban_threshold = 3", "1:1: `ban_threshold` has no effect without `ban_time`: no client is banned"),
        (
            "forget_after = 3",
            "1:1: `forget_after` has no effect without `initial_delay` or `ban_time`: nothing is remembered",
        ),
        ("stress_threshold = 11", "1:1: `stress_threshold` has no effect: `threshold` is lower"),
        (
            "per = \"sender_domain\"",
            "1:1: `per` looks at the first sender or recipient of a connection only: \
             set `count` to \"messages\" or \"recipients\" to have all of them counted",
        ),
        (
            "per = \"helo_name\"\nipv4_prefix_length = 24",
            "2:1: `ipv4_prefix_length` has no effect: `per` does not have the client",
        ),
        (
            "per = []\nnetblocks = { \"::1\" = { threshold = 3, per = \"farm\" } }",
            "2:15: `per` has no effect: that of the limit does not have the client",
        ),
        (
            "match = { protocol_state = \"RCTP\" }",
            "1:1: `match` names a `protocol_state` that there is not: the states are \
             CONNECT, EHLO, HELO, MAIL, RCPT, DATA, END-OF-MESSAGE, VRFY, ETRN, XCLIENT",
        ),
        (
            "count = \"bytes\"\nmatch = { protocol_state = \"DATA\" }",
            "2:1: `match` is never fulfilled where bytes are known: that is at END-OF-MESSAGE",
        ),
        (
            "match = { sender = true }\nunless = { sender = true }",
            "2:1: `unless` has a condition that is in `match` too, so the limit is about nothing",
        ),
        (
            "match = { sender = \"/joe\" }",
            "1:20: `/joe` is compared as it stands: a regular expression also ends with `/`",
        ),
        ("list_check_interval = 3", "1:1: `list_check_interval` has no effect without a list file or a database"),
        ("blacklist_text = \"x\"", "1:1: `blacklist_text` has no effect: the blacklist is empty"),
        (
            "blacklist = [\"::1\"]\nblacklist_action = \"REJECT x\"\nblacklist_text = \"x\"",
            "3:1: `blacklist_text` has no effect: `blacklist_action` has a text of its own",
        ),
        ("blacklist = [\"0.0.0.0/0\"]", "1:14: 0.0.0.0/0 refuses every IPv4 client"),
        (
            "whitelist = [\"192.0.2.1\"]\nblacklist = [\"192.0.2.1\"]",
            "1:14: 192.0.2.1/32 is on whitelist and blacklist, see line 2: it passes",
        ),
        ("whitelist = [\"192.0.2.1\"]\n[netblocks]\n\"192.0.2.1\" = -1", "1:14: 192.0.2.1/32 stands in line 3 too"),
        ("[limit.x]\nthreshold = 10", "1:8: limit `x` says the same as `connections`, so it has no effect"),
        (
            "[limit.x]\nthreshold = 3\nmax_delay = 3",
            "3:1: `max_delay` of limit `x` has no effect without `initial_delay`: no session is delayed",
        ),
    ];
    for (text, warning) in cases {
        let warnings: Vec<String> = right(text).warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, [format!("connshaper.toml:{warning}")], "{text}");
    }
    let sensible = [
        "blacklist = [\"::1\"]\nblacklist_action = \"delay\"\nmax_delay = 3\nmax_concurrent = 2\nmax_delayed = 4",
        "[netblocks]\n\"192.0.2.0/24\" = 5\n[limit.x]\nthreshold = 10",
        "action = \"421 x\"\ntext = \"y\"\n[limit.x]\nthreshold = 3\naction = \"REJECT\"",
        "count = \"messages\"\nper = [\"sender\", \"client\"]",
        "log_only = true\ncount_refused = false",
        "match = { protocol_state = \"XCLIENT\" }",
    ];
    for text in sensible {
        assert_eq!(right(text).warnings, [], "{text}");
    }
}

// The examples.

#[test]
fn every_example_is_valid_and_explained_in_the_manual() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let manual = std::fs::read_to_string(root.join("man/connshaper.toml.5")).unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("conf/examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(manual.contains(&format!("\n.It Pa {name}\n")), "the manual says nothing of {name}");
        if path.extension().is_some() {
            let config = Config::load(Some(&path)).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(config.warnings, [], "{name}");
            names.push(name);
        }
    }
    let smtp = ["busy-mx", "cgi-ratelimit", "connection_shaper", "mod-ip-count", "perlbal-throttle", "plack-greylist"];
    let others = ["web-cgi-ratelimit", "web-mod-ip-count", "web-perlbal-throttle", "web-plack-greylist"];
    let servers = ["submission", "dovecot", "nginx", "redis"];
    let known = smtp.iter().chain(&others).chain(&servers).map(|name| format!("{name}.toml"));
    assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), known.collect());
}

#[test]
fn the_connection_shaper_example_equals_the_original_file() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/connection_shaper.toml");
    let ours = Config::load(Some(&path)).unwrap();
    let theirs = right(
        "exptime 60\nthreshold 10\nmemcached_port 11211\nmemcached_server memcached.example.com\n\
         whitelist 192.168.1., 192.168.2., 10.0.0\n",
    );
    assert_eq!(
        (ours.policy.limits, ours.policy.lists, ours.store),
        (theirs.policy.limits, theirs.policy.lists, theirs.store)
    );
}

// Reading.

#[test]
fn only_keys_of_a_limit_are_accepted_in_its_table() {
    for key in KEYS.iter() {
        let error = parse(&format!("[limit.x]\nthreshold = 1\n{} = 1979-05-27", key.name)).unwrap_err().to_string();
        assert_eq!(error.contains("is not a key of limit `x`"), !key.is_of_limit(), "{error}");
    }
}

#[test]
fn there_may_be_a_hundred_limits() {
    let limits = |number| (0..number).map(|n| format!("[limit.l{n}]\nthreshold = {}\n", n + 1)).collect::<String>();
    assert_eq!(right(&limits(100)).policy.limits.len(), 101);
    assert!(parse(&limits(101)).unwrap_err().summary().contains("more than 100 limits"));
}

#[test]
fn json_output_names_limits_as_the_configuration_does() {
    let text = "exptime = 90\n[limit.x]\nthreshold = 5\nper = [\"client\", \"sender\"]\nmatch = { server_port = 25 }";
    let object = checked(text);
    let limits = object["limits"].as_array().unwrap();
    assert_eq!(limits[0]["name"], limit::TOP);
    assert_eq!(limits[0]["threshold"], 10);
    assert_eq!(limits[1]["name"], "x");
    assert_eq!(limits[1]["exptime"], 90);
    assert_eq!(limits[1]["per"], serde_json::json!(["client", "sender"]));
    assert_eq!(limits[1]["match"], serde_json::json!({ "server_port": 25 }));
    let keys: Vec<&str> = KEYS.iter().filter(|key| key.is_of_limit()).map(|key| key.name).collect();
    for key in keys {
        assert!(limits[1].get(key).is_some(), "{key}");
    }
}

#[test]
fn each_limit_is_described_in_a_sentence() {
    let sentence = |text: &str, place: usize| {
        let object = checked(text);
        object["summary"][place].as_str().unwrap_or_else(|| panic!("{object:#}")).to_owned()
    };
    let cases = [
        ("", "A client (IPv4 /32, IPv6 /64) may connect 5 times in 60 seconds; the next is answered DEFER_IF_PERMIT."),
        (
            "count = \"recipients\"\nper = \"sasl_username\"\nwindow = \"sliding\"\nexptime = \"1d\"\naction = \"REJECT\"",
            "Each sasl_username may name 5 recipients in any 1 day; the next is answered REJECT.",
        ),
        (
            "count = \"messages\"\nper = []\nmatch = { server_port = [25, 2525], client_name = '/^dyn/' }\nunless.stress = true",
            "All clients together where server_port is 25 or 2525 and client_name matches /^dyn/ unless stress is present \
             may send 5 messages in 60 seconds; the next is answered DEFER_IF_PERMIT.",
        ),
        (
            "count = \"messages\"\nper = \"sender\"",
            "Each sender may send 5 messages in 60 seconds; the next is answered DEFER_IF_PERMIT; what has no sender is \
             not counted.",
        ),
        (
            "count = \"messages\"\nper = [\"sender\", \"helo_name\"]\ncount_absent = true",
            "Each combination of sender and helo_name may send 5 messages in 60 seconds; the next is answered \
             DEFER_IF_PERMIT; what has no sender and no helo_name is counted together.",
        ),
        (
            "count = \"bytes\"\nper = [\"client\", \"sender\"]\nlog_only = true\nstress_threshold = \"1KiB\"",
            "Each combination of client (IPv4 /32, IPv6 /64) and sender may send 1 KiB in 60 seconds; \
             the next is answered DEFER_IF_PERMIT; while Postfix reports stress, 1 KiB are allowed; this is only logged.",
        ),
        (
            "initial_delay = \"500ms\"\nban_time = 600\nban_threshold = 2\nban_max = \"1d\"\ncoalesce = \"50ms\"\n\
             count_refused = false\nstress_action = \"421\"\nnetblocks = { \"::1\" = 3 }",
            "A client (IPv4 /32, IPv6 /64) may connect 5 times in 60 seconds; the next waits 500 milliseconds, each \
             further one twice as long up to 5 seconds, and passes; when 3 of a key wait already, it is answered \
             DEFER_IF_PERMIT; 2 violations bring a ban of 10 minutes, each further one twice as long up to \
             1 day; all is forgotten after 1 day within the limit; while Postfix reports stress, the answer is 421; what \
             comes within 50 milliseconds of another counts as one with it; what is refused does not stay counted; \
             1 netblock has a threshold of its own.",
        ),
    ];
    for (keys, expected) in cases {
        assert_eq!(sentence(&format!("[limit.x]\nthreshold = 5\n{keys}"), 1), format!("x: {expected}"), "{keys}");
    }
}

proptest! {
    #[test]
    fn no_table_makes_the_reader_panic(
        tables in prop::collection::vec((
            "(\\[limit\\.[a-z]{1,2}(\\.netblocks|\\.match|\\.unless)?\\]|\\[netblocks\\]|\\[match\\])?",
            prop::collection::vec((
                "(per|count|match|netblocks|threshold|initial_delay|ban_max|blacklist|stress_action|sender|size|\"::1/64\")",
                "(\"[^\"]{0,9}\"|\\[[^\\[]{0,9}\\]|-?[0-9]{1,12}|\\{ [a-z_]{1,12} = \"/?[^\"]{0,9}/?\" \\}|.{0,9})",
            ), 0..4),
        ), 0..4),
    ) {
        let table = |(header, keys): (String, Vec<(String, String)>)| {
            let keys: String = keys.into_iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
            format!("{header}\n{keys}")
        };
        let text: String = tables.into_iter().map(table).collect();
        match Loaded::parse(Path::new("connshaper.toml"), &text) {
            Ok(loaded) => drop(check::report(&loaded, check::Paint(false))),
            Err(error) => prop_assert!(error.to_string().contains("help: ")),
        }
    }

    #[test]
    fn a_limit_reads_back_as_it_was_written(
        threshold in 1_u32..=1_000_000_000,
        exptime in 1_u32..=31_536_000,
        coalesce in 0_u32..=10_000,
        initial in 1_u64..=5_000,
        ban_time in 1_u32..1000,
        count in 0..5_usize,
        per in prop::sample::subsequence(smtp_words(), 0..=smtp_words().len()),
    ) {
        let words: Vec<&str> = per.iter().map(|(word, _)| *word).collect();
        let counts = CountKind::VARIANTS[count];
        let word = counts.into_str();
        let unit = u64::from(counts.unit());
        let limit = limit(&format!(
            "exptime = {exptime}\ncoalesce = \"{coalesce}ms\"\ninitial_delay = \"{initial}ms\"\n\
             ban_time = {ban_time}\ncount = \"{word}\"\nper = {words:?}\nstress_threshold = {}",
            u64::from(threshold) * unit,
        ));
        prop_assert_eq!(limit.stress_threshold, Some(threshold));
        prop_assert_eq!((limit.exptime, limit.coalesce, limit.counts), (exptime, coalesce, counts));
        prop_assert_eq!(limit.delay.unwrap().initial, Duration::from_millis(initial));
        prop_assert_eq!(limit.ban.unwrap().max, ban_time);
        prop_assert!(limit.per.0.iter().eq(per.iter().map(|(_, field)| field)));
    }
}

/// The words of `per` that Postfix's door has.
fn smtp_words() -> Vec<(&'static str, KeyField)> {
    // Those of origins need databases.
    let is_known = |field: KeyField| field == KeyField::Client || !field.is_of_address();
    KeyField::WORDS.into_iter().filter(|(_, field)| field.is_at(Door::Smtp) && is_known(*field)).collect()
}

// Keys in a shared store.

/// A key as a shared store names it.
fn key_text(limit: &Limit, part: &KeyPart, kind: CounterKind) -> String {
    let mut text = String::new();
    Key { limit, part, kind }.write(&mut text).unwrap();
    text
}

#[test]
fn the_top_level_shares_no_counter_with_a_limit_named_after_what_it_counts() {
    for count in ["messages", "recipients", "bytes", "requests"] {
        let config = right(&format!("count = \"{count}\"\nthreshold = 3\n[limit.{count}]\nthreshold = 3\n"));
        let client = KeyPart::client([192, 0, 2, 1].into(), 32, 64);
        let keys: BTreeSet<_> =
            config.policy.limits.iter().map(|limit| key_text(limit, &client, CounterKind::FixedWindow)).collect();
        assert_eq!(keys.len(), 2, "{keys:?}");
    }
}

#[test]
fn the_keys_of_connection_shaper_are_bare_addresses() {
    let original = parse("exptime 60\n").unwrap();
    let toml = right("key_prefix = \"\"\nipv6_prefix_length = 128\n");
    for limit in [&original.policy.limits[0], &toml.policy.limits[0]] {
        for client in ["192.0.2.1", "2001:db8::1"] {
            let part = KeyPart::client(client.parse().unwrap(), limit.ipv4_prefix_length, limit.ipv6_prefix_length);
            assert_eq!(key_text(limit, &part, CounterKind::FixedWindow), client);
        }
    }
}

#[test]
fn the_names_of_groups_make_no_difference_between_upper_and_lower_case() {
    let problem = parse(
        "[netblocks]\n\"192.0.2.0/24\" = { threshold = 1, per = \"Dial\" }\n\
         \"198.51.100.0/24\" = { threshold = 2, per = \"dial\" }\n",
    );
    assert!(problem.unwrap_err().to_string().contains("has another threshold in line 2"));
}

/// Names that look like something else in a key, and any others.
fn limit_name() -> impl Strategy<Value = String> {
    let odd = [
        "messages",
        "recipients",
        "bytes",
        "requests",
        "log_only",
        "group",
        "client",
        "sender",
        "all",
        "violations",
        "ban",
        "bans",
        "192",
        "2001",
        "abcd",
        "fe80",
        "0",
        "Messages",
    ];
    prop_oneof![
        prop::sample::select(odd.to_vec()).prop_map(str::to_owned),
        "[A-Za-z0-9_-]{1,32}".prop_filter("taken", |name| ![limit::TOP, "blacklist"].contains(&name.as_str())),
    ]
}

/// The keys of one limit at a door, without its name.
fn limit_keys(door: Door) -> impl Strategy<Value = String> {
    let counts = CountKind::VARIANTS.iter().filter(move |counts| counts.is_at(door));
    let counts: Vec<_> = counts.map(|counts| counts.into_str()).collect();
    let fields = KeyField::WORDS.iter().filter(move |(_, field)| field.is_at(door));
    let fields: Vec<_> = fields.map(|(word, _)| *word).collect();
    let with = (
        prop::sample::select(counts),
        prop::sample::subsequence(fields, 0..=2),
        any::<bool>(),
        prop::sample::select(Window::WORDS.to_vec()),
    );
    with.prop_map(move |(count, per, log_only, window)| {
        let window = if count == "clients" { "fixed" } else { window };
        let exptime = if window == "calendar" { "1d" } else { "1m" };
        let door = if door == Door::Smtp { String::new() } else { format!("door = \"{}\"\n", door.into_str()) };
        format!(
            "threshold = 3\ncount = \"{count}\"\nper = {per:?}\nlog_only = {log_only}\nwindow = \"{window}\"\n\
             exptime = \"{exptime}\"\n{door}"
        )
    })
}

/// The same at any door.
fn keys_at_any_door() -> impl Strategy<Value = String> {
    prop_oneof![limit_keys(Door::Smtp), limit_keys(Door::Login), limit_keys(Door::Web)]
}

/// Parts that a limit may make of clients, netblocks and groups, and of what a client says.
fn parts(limit: &Limit, said: &[String]) -> Vec<KeyPart> {
    let mut parts = vec![KeyPart::group("dial"), KeyPart::group("abcd")];
    for address in ["192.0.2.1", "2001:db8::1", "abcd::", "fe80::1", "::"] {
        for (v4, v6) in [(32, 128), (24, 64), (limit.ipv4_prefix_length, limit.ipv6_prefix_length)] {
            parts.push(KeyPart::client(address.parse().unwrap(), v4, v6));
        }
    }
    let fields = KeyField::WORDS.iter();
    parts.extend(
        fields.flat_map(|(_, field)| {
            said.iter().map(|value| KeyPart::of_pairs([(field.word(), escaped(value).as_str())]))
        }),
    );
    parts
}

proptest! {
    #[test]
    fn no_two_counters_of_a_configuration_share_a_key_and_memcached_takes_every_one(
        prefix in "[!-~]{0,100}",
        store in prop::sample::select(vec!["", "memcached_server = \"mc\"", "redis_server = \"redis://redis\""]),
        top in limit_keys(Door::Smtp),
        named in prop::collection::hash_map(limit_name(), keys_at_any_door(), 0..5),
        said in prop::collection::vec("[a-z/!:=,#%é]{1,60}", 1..3),
    ) {
        // A variable of the environment is an error.
        let prefix = prefix.replace('$', "").replace('\\', "\\\\").replace('"', "\\\"");
        let dir = Dir::new();
        let (asn, country) = (dir.join("asn.mmdb"), dir.join("country.mmdb"));
        let network = "192.0.2.0/24".parse().unwrap();
        fs::write(&asn, mmdb::mmdb("GeoLite2-ASN", &[(network, mmdb::asn(64500, "Example"))])).unwrap();
        fs::write(&country, mmdb::mmdb("GeoLite2-Country", &[(network, mmdb::country("ZZ"))])).unwrap();
        let databases = format!("asn_database = {asn:?}\ncountry_database = {country:?}");
        let mut text = format!("key_prefix = \"{prefix}\"\n{store}\n{databases}\n{top}");
        for (name, keys) in &named {
            text += &format!("[limit.{name}]\n{keys}");
        }
        let config = right(&text);
        let window = |period, unix: u64| {
            let calendar = LocalCalendar::new(period, TimeZone::UTC);
            CounterKind::Calendar(calendar.window(Now { monotonic: 0, unix_ms: unix * 1000 }))
        };
        // The first two begin at the same moment, and the last ends with the year 9999.
        let first_of_march = 1_772_323_200;
        let windows = [
            window(Period::Day, first_of_march),
            window(Period::Month, first_of_march),
            window(Period::Month, 253_402_000_000),
        ];
        let kinds = [
            CounterKind::FixedWindow,
            CounterKind::Slot(0),
            CounterKind::Slot(0xba),
            CounterKind::Slot(u64::MAX),
            CounterKind::ExactWindow,
            CounterKind::Violations,
            CounterKind::ActiveBan,
            CounterKind::BanCount,
            CounterKind::Member(0xba),
            CounterKind::Member(u64::MAX),
            CounterKind::Retimed,
        ];
        let kinds = kinds.into_iter().chain(windows);
        let mut counters = HashMap::new();
        for limit in &config.policy.limits {
            for part in parts(limit, &said) {
                for kind in kinds.clone() {
                    let key = key_text(limit, &part, kind);
                    prop_assert!(key.len() <= MAX_STORE_KEY && key.bytes().all(|byte| byte.is_ascii_graphic()), "{key}");
                    let counter = (limit.name.clone(), part.clone(), format!("{kind:?}"));
                    let other = counters.insert(key.clone(), counter.clone());
                    prop_assert!(other.as_ref().is_none_or(|other| *other == counter), "{key}: {other:?} {counter:?}");
                }
            }
        }
    }
}
