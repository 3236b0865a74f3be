//! `connshaper convert`: files of other rate limiters, among them the sample configurations of their Debian packages.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use connshaper::config::Config;
use connshaper::config::convert::{Conversion, Kind, RemarkKind, convert, convert_bytes};
use connshaper::net::netblock::NetblockTable;
use connshaper::policy::limit::{CountKind, Limit, Window};
use connshaper::policy::lists::ListEntry;

use crate::support::{Dir, command};

/// The conversion of a text, whose kind is guessed, and what it means.
#[track_caller]
fn converted(text: &str) -> (Conversion, Config) {
    read(Path::new("old"), convert_bytes(Path::new("old"), text.as_bytes(), None))
}

/// The same of a file that `tests/run` has unpacked.
#[track_caller]
fn of_package(file: &str) -> (Conversion, Config) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(file);
    assert!(path.exists(), "{}: tests/run unpacks it", path.display());
    let conversion = convert(&path, None);
    read(&path, conversion)
}

#[track_caller]
fn read(path: &Path, conversion: Result<Conversion, connshaper::config::ConfigError>) -> (Conversion, Config) {
    let conversion = conversion.unwrap_or_else(|error| panic!("{error}"));
    let config = Config::parse(path, &conversion.toml).unwrap_or_else(|error| panic!("{error}\n{}", conversion.toml));
    (conversion, config)
}

/// What is said of a line.
fn said(conversion: &Conversion, line: impl Into<Option<usize>>, outcome: RemarkKind) -> String {
    let line = line.into();
    let remarks = conversion.remarks.iter().filter(|remark| remark.line == line && remark.outcome == outcome);
    remarks.map(|remark| remark.text.clone()).collect::<Vec<_>>().join("\n")
}

fn limit<'c>(config: &'c Config, name: &str) -> &'c Limit {
    config.policy.limits.iter().find(|limit| limit.name == name).unwrap_or_else(|| panic!("no limit {name}"))
}

fn listed(config: &Config, client: &str) -> Option<ListEntry> {
    let table: NetblockTable<ListEntry> = config.policy.lists.netblocks.iter().cloned().collect();
    table.lookup(client.parse().unwrap()).map(|(_, entry)| *entry)
}

#[test]
fn connection_shaper() {
    let (conversion, config) = converted("# qpsmtpd\nthreshold 7\nwhitelist 10.0.0\ncolour red\n");
    assert_eq!((conversion.kind, config.top().threshold), (Kind::ConnectionShaper, 7));
    assert_eq!(said(&conversion, 2, RemarkKind::Carried), "threshold = 7");
    assert!(said(&conversion, 4, RemarkKind::Missing).contains("`colour` is ignored"), "{:?}", conversion.remarks);
    assert!(
        said(&conversion, None, RemarkKind::Carried).contains("on_store_failure = \"dunno\": connection_shaper let")
    );
    assert_eq!(converted("# all at its default\n").0.kind, Kind::ConnectionShaper);
}

#[test]
fn perlbal_throttle() {
    let dir = Dir::new();
    let whitelist = dir.write("whitelist", "192.0.2.0/24\n");
    let text = format!(
        "LOAD Throttle\nCREATE SERVICE web\n  SET role = reverse_proxy\n  SET throttle_threshold_seconds = 3\n\
           SET web.initial_delay = 10\n  SET web max_delay = 600\n  SET max_concurrent 4\n  SET ban_threshold = 4\n\
           SET ban_expiration = 180\n  SET whitelist_file = {}\n  SET path_regex = ^/webapp/\n\
           SET log_events = ban,throttled\n  SET memcached_servers = 10.0.2.1:11211,10.0.2.2:11211\n\
           SET instance_name = mywebapp\nENABLE web\n",
        whitelist.display()
    );
    let (conversion, config) = converted(&text);
    assert_eq!(conversion.kind, Kind::Perlbal);
    let top = config.top();
    assert_eq!((top.threshold, top.exptime, &top.window), (1, 3, &Window::Sliding));
    let delay = top.delay.unwrap();
    assert_eq!((delay.initial.as_secs(), delay.max.as_secs(), delay.max_concurrent), (10, 60, 4));
    let ban = top.ban.unwrap();
    assert_eq!((ban.threshold, ban.time), (4, 180));
    assert_eq!(listed(&config, "192.0.2.7"), Some(ListEntry::Whitelist));
    assert_eq!(listed(&config, "127.0.0.1"), None, "Perlbal exempts no loopback");
    assert!(said(&conversion, 6, RemarkKind::Differs).contains("max_delay = 60, not 600"), "{:#?}", conversion.remarks);
    assert!(said(&conversion, 11, RemarkKind::Missing).starts_with("path_regex: a mail has neither"));
    assert!(said(&conversion, None, RemarkKind::Missing).contains("1 other SET lines"));
    assert!(conversion.toml.contains("log_events = [\"ban\", \"over\", \"delayed\"]"), "{}", conversion.toml);
    assert!(conversion.toml.contains("key_prefix = \"mywebapp:\""), "{}", conversion.toml);
}

#[test]
fn mod_ip_count() {
    let (conversion, config) = converted(
        "<IfModule mod_ip_count.c>\nMemCacheMaxRequests 3\nMemCacheMaxTime 60\nMemCacheBlockTime 300\n\
         Latency 500000\nHttpResponse 503\nUriList \".js index\"\nMemCacheServers \"localhost:11211 localhost:11210\"\n\
         MemCacheAllow \"127.0.0.1 env=bar\"\n</IfModule>\n",
    );
    assert_eq!(conversion.kind, Kind::ModIpCount);
    let top = config.top();
    assert_eq!((top.threshold, top.exptime, &top.window, top.coalesce), (3, 60, &Window::Sliding, 500));
    assert_eq!(top.ban.unwrap().time, 300);
    assert_eq!(listed(&config, "127.0.0.1"), Some(ListEntry::Whitelist));
    assert!(said(&conversion, 7, RemarkKind::Missing).starts_with("UriList"), "{:#?}", conversion.remarks);
    assert!(said(&conversion, 9, RemarkKind::Missing).starts_with("MemCacheAllow env=bar"));
    assert!(said(&conversion, 6, RemarkKind::Differs).starts_with("HttpResponse 503"));
}

#[test]
fn plack_greylist() {
    let (conversion, config) = converted(
        r#"{
  "default_rate": 250,
  "retry_after": 61,
  "greylist": {
    "192.168.0.0/24": "whitelist",
    "172.16.1.0/25": [100, "netblock"],
    "13.96.0.0/13": "5 msft",
    "13.104.0.0/14": "5 msft",
    "13.64.0.0/11": 0,
    "example.org": 7
  }
}"#,
    );
    assert_eq!(conversion.kind, Kind::Greylist);
    assert_eq!((config.top().threshold, config.top().exptime), (250, 60));
    assert_eq!(listed(&config, "192.168.0.1"), Some(ListEntry::Whitelist));
    assert!(matches!(listed(&config, "13.64.0.1"), Some(ListEntry::Blacklist(_))));
    assert_eq!(said(&conversion, 6, RemarkKind::Carried), "172.16.1.0/25: 100 netblock");
    assert!(
        said(&conversion, 10, RemarkKind::Missing).contains("not an address or netblock"),
        "{:#?}",
        conversion.remarks
    );
    // Without a default rate whoever is not named is not limited.
    let (_, config) = converted(r#"{ "192.0.2.0/24": 5 }"#);
    assert_eq!(listed(&config, "198.51.100.1"), Some(ListEntry::Whitelist));
    assert_ne!(listed(&config, "192.0.2.1"), Some(ListEntry::Whitelist));
}

#[test]
fn cgi_ratelimit() {
    let (conversion, config) = converted(
        r#"{
  "protected_modes": { "send": { "timeframe": "10m", "max_hits": 5 } },
  "protected_actions": {
    "failed_login": { "timeframe": "10s", "max_hits": 2 },
    "odd": { "timeframe": "10 fortnights", "max_hits": 2 }
  },
  "violation_mode": "too_fast_buddy"
}"#,
    );
    assert_eq!(conversion.kind, Kind::RateLimit);
    assert_eq!((config.top().threshold, config.top().exptime, config.top().counts), (5, 600, CountKind::Requests));
    let action = limit(&config, "failed_login_by_address");
    assert_eq!((action.threshold, action.exptime, &action.window), (2, 10, &Window::Sliding));
    assert!(said(&conversion, 5, RemarkKind::Missing).starts_with("odd: "), "{:#?}", conversion.remarks);
    assert!(said(&conversion, 7, RemarkKind::Differs).starts_with("violation_mode"));
}

#[test]
fn postfwd_sample() {
    let (conversion, config) = of_package("usr/share/doc/postfwd/examples/postfwd.cf.sample");
    assert_eq!(conversion.kind, Kind::Postfwd);
    // A rule that depends on what only postfwd knows refuses nobody.
    let (enforced, logged) = (config.top(), limit(&config, "rate_001"));
    assert_eq!((enforced.threshold, enforced.exptime, enforced.counts), (1, 300, CountKind::Requests));
    assert!(logged.log_only && !enforced.log_only);
    assert!(!enforced.count_refused);
    assert_eq!(enforced.conditions.all.len(), 1, "{}", conversion.toml);
    assert_eq!(enforced.conditions.none.len(), 4, "{}", conversion.toml);
    assert_eq!(enforced.action.keyword(), "450");
    assert!(said(&conversion, 150, RemarkKind::Missing).contains("hit_dnsbls>=1; so the limit is log_only"));
}

#[test]
fn postfwd_rules_of_its_manual() {
    let (conversion, config) = converted(
        "id=SIZE01 ;  protocol_state==END-OF-MESSAGE ;  client_address!=10.1.1.1\n\
         \taction=size(client_address/1572864/3600/450 4.7.1 sorry, max 1.5mb per hour)\n\
         id=R001; action=rcpt(sender/500/3600/REJECT limit of 500 [$$ratecount] for sender $$sender exceeded)\n\
         id=R002; action=rate(ccert_subject/1/60/450 no)\n\
         id=R003; action=rate(sender/3/60/wait(3))\n",
    );
    let size = config.top();
    assert_eq!((size.counts, size.threshold, size.exptime), (CountKind::Bytes, 1536, 3600));
    assert_eq!(size.conditions.none.len(), 1);
    let rcpt = limit(&config, "r001");
    assert_eq!((rcpt.counts, rcpt.threshold, rcpt.action.keyword()), (CountKind::Recipients, 500, "REJECT"));
    assert!(
        conversion.toml.contains("REJECT limit of 500 [{count}] for sender (sender) exceeded"),
        "{}",
        conversion.toml
    );
    assert!(said(&conversion, 4, RemarkKind::Missing).starts_with("R002: a counter per ccert_subject"));
    assert!(said(&conversion, 5, RemarkKind::Missing).contains("an action of postfwd"));
}

#[test]
fn policyd_rate_limit_sample() {
    let (conversion, config) = of_package("etc/policyd-rate-limit.yaml");
    assert_eq!(conversion.kind, Kind::PolicydRateLimit);
    let limits: Vec<_> = config.policy.limits.iter().map(|limit| (limit.threshold, limit.exptime)).collect();
    assert_eq!(limits, [(10, 60), (150, 86_400)]);
    let top = config.top();
    assert_eq!((top.counts, &top.window, top.count_refused), (CountKind::Recipients, &Window::Sliding, false));
    assert_eq!(config.listen[0].to_string(), "unix:/var/spool/postfix/ratelimit/policy");
    assert_eq!(said(&conversion, 38, RemarkKind::Carried), "socket_permission: socket_mode = \"0666\"");
    assert!(said(&conversion, 32, RemarkKind::Missing).starts_with("backend: "), "{:#?}", conversion.remarks);
}

#[test]
fn policyd_rate_limit_of_everyone_and_of_single_names() {
    let (_, config) = converted(
        "limits: [[10, 60]]\nlimits_by_id:\n  foo: []\n  bar@example.org:\n    - [1000, 86400]\n  192.0.2.7: []\n\
         limit_by_sender: True\nlimit_by_ip: True\nlimited_networks: [\"192.0.2.0/24\"]\n",
    );
    let limits: Vec<_> = config
        .policy
        .limits
        .iter()
        .map(|limit| (limit.name.as_str(), limit.threshold, limit.conditions.none.len()))
        .collect();
    let expected = [
        ("connections", 10, 1),
        ("sender_1m", 10, 1),
        ("client_1m", 10, 1),
        ("bar_example_org_1d", 1000, 0),
        ("bar_example_org_1d_2", 1000, 0),
    ];
    assert_eq!(limits, expected);
}

#[test]
fn postgrey_whitelists() {
    let (conversion, config) = of_package("usr/share/postgrey/whitelist_clients");
    assert_eq!(conversion.kind, Kind::Postgrey);
    assert_eq!(listed(&config, "195.235.39.200"), Some(ListEntry::Whitelist));
    assert_eq!(listed(&config, "2a01:4180:4051:800::1"), Some(ListEntry::Whitelist));
    assert!(conversion.toml.contains("    \".debian.org\",\n"), "{}", conversion.toml);
    assert!(config.policy.lists.names.len() > 100, "{}", conversion.toml);
    assert!(conversion.remarks.iter().all(|remark| remark.outcome != RemarkKind::Missing), "{:#?}", conversion.remarks);
    let (conversion, config) = of_package("usr/share/postgrey/whitelist_recipients");
    assert_eq!(config.top().conditions.none.len(), 1);
    assert_eq!(said(&conversion, 6, RemarkKind::Carried), "unless.recipient has postmaster@");
    // What Perl's regular expressions have and ours do not.
    let (conversion, _) = converted("/^(?!mail)[.]example$/\nexample.org\n");
    assert!(said(&conversion, 1, RemarkKind::Missing).contains("look-around"), "{:#?}", conversion.remarks);
}

#[test]
fn anvil_settings_of_main_cf() {
    let (conversion, config) = converted(
        "compatibility_level = 3.6\nmynetworks = 127.0.0.0/8\nanvil_rate_time_unit = 5m\n\
         smtpd_client_connection_rate_limit = 30\nsmtpd_client_connection_count_limit = 10\n\
         smtpd_client_message_rate_limit = 0\nsmtpd_client_recipient_rate_limit = 200\n\
         smtpd_client_event_limit_exceptions = $mynetworks,\n  192.0.2.0/24 [2001:db8::]/32 .example.org hash:/etc/postfix/x\n",
    );
    assert_eq!(conversion.kind, Kind::Anvil);
    assert_eq!((config.top().threshold, config.top().exptime), (30, 300));
    let recipients = limit(&config, "recipients");
    assert_eq!((recipients.threshold, recipients.exptime, recipients.counts), (200, 300, CountKind::Recipients));
    for client in ["127.0.0.1", "192.0.2.1", "2001:db8::1"] {
        assert_eq!(listed(&config, client), Some(ListEntry::Whitelist), "{client}");
    }
    assert!(said(&conversion, 5, RemarkKind::Missing).contains("leave it in main.cf"), "{:#?}", conversion.remarks);
    assert!(
        said(&conversion, 8, RemarkKind::Carried).ends_with("whitelist has .example.org"),
        "{:#?}",
        conversion.remarks
    );
    assert!(said(&conversion, 8, RemarkKind::Missing).starts_with("hash:/etc/postfix/x: "));
    assert!(said(&conversion, 4, RemarkKind::Differs).contains("set it to 0 in main.cf"));
}

#[test]
fn the_command_reads_standard_input_and_says_on_standard_error_what_became_of_each_line() {
    let run = |arguments: &[&str], input: &str| {
        let mut child = command()
            .arg("convert")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, toml, remarks) = run(&["-"], "smtpd_client_connection_rate_limit = 30\n");
    assert_eq!((code, toml.contains("threshold = 30")), (0, true), "{toml}{remarks}");
    assert!(
        remarks.contains("-:1: carried over: smtpd_client_connection_rate_limit: 30 connections in 60 seconds"),
        "{remarks}"
    );
    let (code, toml, remarks) = run(&["-"], "a b c\nd = e\n");
    assert_eq!((code, toml.as_str()), (78, ""));
    assert!(remarks.contains("write --from and one of connection_shaper, perlbal"), "{remarks}");
    let (code, _, remarks) = run(&["--from", "greylist", "-"], "{\n\"a\": }\n");
    assert!(code == 78 && remarks.contains("-:2:1: this is not JSON"), "{remarks}");
    assert_eq!(run(&["/nonexistent"], "").0, 66);
    assert_eq!(run(&["--from", "fax", "-"], "").0, 64);
    let dir = Dir::new();
    let ours = dir.write("ours.toml", "threshold = 3\n");
    assert_eq!(run(&[ours.to_str().unwrap()], "").0, 78);
    fs::remove_file(ours).unwrap();
}
