//! Logins, senders and domains as administrators name them: what is logged of them, and what commands do about them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};

use crate::support::{Daemon, Dir, Memcached, Policy, Top, ask, command, say, until};

/// A daemon with a control socket.
pub struct Host {
    pub daemon: Daemon,
    socket: PathBuf,
    _dir: Dir,
}

/// Limits by login, by sender, and by a login and the domain it sends from.
const LIMITS: &str = "
    [limit.users]
    threshold = 2
    count = \"recipients\"
    per = \"sasl_username\"
    match = { sasl_username = true }
    [limit.senders]
    threshold = 2
    count = \"recipients\"
    per = \"sender\"
    [limit.pairs]
    threshold = 2
    count = \"messages\"
    per = [\"sasl_username\", \"sender_domain\"]
    match = { sasl_username = true }
    ";

/// Every session has a port of its own.
static PORTS: AtomicU16 = AtomicU16::new(0);

impl Host {
    pub fn start(config: &str) -> Self {
        let dir = Dir::new();
        let socket = dir.join("control");
        let daemon =
            Daemon::start(&format!("control_socket = {:?}\nthreshold = 1000\n{config}", socket.to_str().unwrap()));
        Self { daemon, socket, _dir: dir }
    }

    /// Runs a command of the program; returns its output and exit code.
    pub fn say(&self, words: &[&str]) -> (String, i32) {
        say(&self.socket, words)
    }

    /// Runs a command with `--json`, which must succeed, and returns its answer.
    pub fn ask(&self, words: &[&str]) -> Value {
        ask(&self.socket, words)
    }

    /// Messages of a login with one recipient each, each in a session of its own: the answer to the last.
    pub fn mails(&self, login: &str, sender: &str, number: u32) -> String {
        let mut answer = String::new();
        for message in 0..number {
            let port = format!("client_port={}", 2000 + PORTS.fetch_add(1, Ordering::Relaxed));
            let (login, sender) = (format!("sasl_username={login}"), format!("sender={sender}"));
            let (state, client) = ("protocol_state=RCPT", "client_address=198.51.100.7");
            let mut session = Policy::connect(self.daemon.endpoint());
            let instance = format!("instance=1.{message}.0");
            answer = session.ask(&[state, client, &port, &login, &sender, &instance, "recipient=a@example.net"]);
        }
        answer
    }
}

#[test]
fn a_long_key_is_named_in_clear_by_log_answer_and_commands() {
    let sender = format!("Joe.{}@{}.example.com", "x".repeat(58), "d".repeat(60));
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"", memcached.server())] {
        let host = Host::start(&format!("{store}{LIMITS}"));
        let answer = host.mails("", &sender, 3);
        let told = "DEFER_IF_PERMIT 4.7.0 Too many recipients from sender joe.xxxxxxx";
        assert!(answer.starts_with(told) && answer.contains("...,"), "{answer}");
        let line = host.daemon.lines().wait_for("REFUSED ");
        let key = format!("sender={}", sender.to_lowercase());
        assert!(line.contains(&format!(" key=\"{key}\" limit=senders ")), "{line}");
        for target in [vec!["sender", &sender], vec![key.as_str()]] {
            let shown = host.ask(&[&["show"], &target[..]].concat());
            let counter = &shown["counters"][0];
            assert_eq!((&counter["key"], &counter["count"]), (&json!(key), &json!(3)), "{shown:#}");
        }
        assert_eq!(host.ask(&["reset", &key])["keys"], 1);
        assert_eq!(host.mails("", &sender, 1), "DUNNO");
    }
}

#[test]
fn texts_name_what_the_limit_counts_by() {
    let text = "text = \"<{sasl_username}> {sender} until {until}\"";
    let host = Host::start(&LIMITS.replace("[limit.pairs]", &format!("{text}\n[limit.pairs]")));
    let over = host.mails("Joe@example.com", "x@example.org", 3);
    assert!(over.starts_with("DEFER_IF_PERMIT 4.7.0 Too many recipients from login joe@example.com, try "), "{over}");
    let over = host.mails("", "y@example.org", 3);
    let told = over.strip_prefix("DEFER_IF_PERMIT 4.7.0 <> y@example.org until 20");
    assert!(told.is_some_and(|told| told.ends_with(" UTC")), "{over}");
    let (explained, _) =
        host.say(&["explain", "192.0.2.1", "sender=y@example.org", "protocol_state=RCPT", "instance=1.2.0"]);
    assert!(explained.contains("<> y@example.org until 20"), "{explained}");
}

#[test]
fn a_reset_acts_on_every_counter_of_a_login_however_it_is_written() {
    let logins =
        ["joe@example.com", "DOMAIN\\joe", "joe doe", "jürgen@example.com", "a=b,c=d@example.com", "x;$(reboot)'y"];
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"", memcached.server())] {
        let host = Host::start(&format!("{store}{LIMITS}"));
        for login in logins {
            assert_ne!(host.mails(login, "x@example.org", 3), "DUNNO");
            let answer = host.ask(&["reset", "login", login]);
            let reset = answer["counters"].as_array().unwrap();
            let limits: Vec<_> = reset.iter().map(|one| one["limit"].as_str().unwrap()).collect();
            assert_eq!((limits, &answer["keys"]), (vec!["users", "pairs"], &json!(2)), "{answer:#}");
            assert_eq!(reset[0]["count"], 3);
            assert_eq!(host.ask(&["reset", "sender", "X@example.org"])["keys"], 1);
            assert_eq!(host.mails(login, "x@example.org", 2), "DUNNO", "{login}");
            for target in
                [format!("sasl_username={}", login.to_ascii_uppercase()), reset[0]["key"].as_str().unwrap().into()]
            {
                assert_eq!(host.ask(&["show", &target])["counters"].as_array().unwrap().len(), 2, "{target}");
            }
            assert_eq!(host.ask(&["reset", "sender_domain=@Example.org"])["keys"], 1, "the pair");
            host.ask(&["reset", "sender", "x@example.org"]);
        }
    }
}

#[test]
fn a_reset_says_what_was_there_and_what_was_not() {
    let host = Host::start(LIMITS);
    let (said, code) = host.say(&["reset", "login", "nobody@example.com"]);
    assert_eq!(code, 0);
    assert_eq!(said, "nothing was counted for sasl_username=nobody@example.com\n".replace("sasl_username", "login"));
    host.mails("joe", "bounce=joe=example.com@list.example", 3);
    let (said, _) = host.say(&["reset", "sender=bounce=joe=example.com@list.example"]);
    let key = "sender=bounce%3djoe%3dexample.com@list.example";
    assert!(said.starts_with(&format!("{key}: keys reset: 1, ")), "{said}");
    assert!(said.contains(&format!("  limit senders: {key} was at 3 of 2\n")), "{said}");
    let (said, _) = host.say(&["reset", "recipient=a@example.net"]);
    assert!(said.contains("nothing was counted for recipient=a@example.net\nnote: no limit counts by"), "{said}");
    let (said, code) = host.say(&["reset", "nobody"]);
    assert!(said.contains("sasl_username=joe@example.org") && code == 64, "{said}");
}

#[test]
fn explain_and_query_ask_as_the_next_message_of_a_login_would() {
    let bytes = "[limit.volume]\nthreshold = \"1KiB\"\ncount = \"bytes\"\nper = \"sasl_username\"\n";
    let host = Host::start(&format!("{LIMITS}{bytes}"));
    host.mails("ann@example.com", "x@example.org", 2);
    let asked = ["explain", "198.51.100.7", "sasl_username=Ann@example.com", "sender=x@example.org"];
    for words in [&asked[..], &["explain", "login", "ann@example.com", "sender=x@example.org"]] {
        let answer = host.ask(words);
        let counts: Vec<_> =
            ["users", "senders", "pairs", "volume"].map(|name| of_limit(&answer, name)["count"].clone()).into();
        assert_eq!(counts, [json!(3), json!(3), json!(3), json!(1024)], "{answer:#}");
        assert_eq!((&answer["verdict"]["verdict"], &answer["verdict"]["limit"]), (&json!("refuse"), &json!("users")));
        let remedies = answer["verdict"]["remedies"].as_array().unwrap();
        assert_eq!(remedies[0], "connshaper reset sasl_username=ann@example.com");
    }
    // It was not counted.
    assert_eq!(host.ask(&["show", "login", "ann@example.com"])["counters"][0]["count"], 2);
    let query = |login: &str| {
        let output = command().args(["query", "--to", host.daemon.endpoint(), "198.51.100.7", login]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(
        query("sasl_username=ann@example.com").starts_with("DEFER_IF_PERMIT 4.7.0 Too many recipients from login ann@")
    );
    assert_eq!(query("sasl_username=joe@example.com"), "DUNNO\n");
    // A limit on the size is judged at the end of the message.
    host.mails("big@example.com", "big@example.org", 1);
    let (mut session, login) = (Policy::connect(host.daemon.endpoint()), "sasl_username=big@example.com");
    let (client, state) = ("client_address=198.51.100.7", "protocol_state=END-OF-MESSAGE");
    session.ask(&[state, client, "client_port=9", "instance=9.9.9", login, "sender=big@example.org", "size=1000"]);
    let answer = host.ask(&["explain", login]);
    assert_eq!(
        (&answer["verdict"]["limit"], &answer["verdict"]["count"]),
        (&json!("volume"), &json!(2048)),
        "{answer:#}"
    );
}

fn of_limit<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer["limits"].as_array().unwrap().iter().find(|limit| limit["limit"] == name).unwrap()
}

#[test]
fn show_lists_the_keys_that_are_over_and_those_that_are_nearest() {
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"", memcached.server())] {
        let host = Host::start(&format!("{store}{LIMITS}"));
        assert_eq!(host.say(&["show", "--most"]).0, "this daemon has counted no key lately\n");
        assert!(host.say(&["show", "--over"]).0.starts_with("no key is over its limit"));
        for (login, number) in [("joe", 3), ("ann", 4), ("bob", 2), ("eve", 1)] {
            host.mails(login, &format!("{login}@{login}.example"), number);
        }
        let keys = |words: &[&str]| -> Vec<(String, u64)> {
            let answer = host.ask(words);
            let keys = answer["listing"]["keys"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
            keys.iter().map(|key| (key["key"].as_str().unwrap().to_owned(), key["count"].as_u64().unwrap())).collect()
        };
        let of = |login: &str, count| (format!("sasl_username={login}"), count);
        assert_eq!(keys(&["show", "--over", "users"]), [of("ann", 4), of("joe", 3)]);
        assert_eq!(keys(&["show", "--most", "users"]), [of("ann", 4), of("joe", 3), of("bob", 2), of("eve", 1)]);
        assert_eq!(keys(&["show", "--over"]).len(), 6, "two logins, two senders, two pairs");
        assert!(keys(&["show", "--most"]).contains(&("198.51.100.7".to_owned(), 10)));
        let answer = host.ask(&["show", "--over", "users"]);
        let key = &answer["listing"]["keys"][0];
        assert_eq!((&key["threshold"], &key["refused"], &key["log_only"]), (&json!(2), &json!(2), &json!(false)));
        let is_time = |time: &Value| time.as_str().is_some_and(|time| time.starts_with("20") && time.ends_with('Z'));
        assert!(is_time(&key["since"]) && is_time(&key["over_since"]), "{answer:#}");
        let (csv, _) = host.say(&["show", "--over", "pairs", "--csv"]);
        assert!(csv.starts_with("limit,key,count,threshold,since,"), "{csv}");
        assert!(csv.contains("\r\npairs,\"sasl_username=ann,sender_domain=ann.example\",4,2,20"), "{csv}");
        host.ask(&["reset", "login", "ann"]);
        assert_eq!(keys(&["show", "--over", "users"]), [of("joe", 3)]);
        let (text, _) = host.say(&["show", "--over", "users"]);
        assert!(text.contains("sasl_username=joe      3   2"), "{text}");
        let (text, code) = host.say(&["show", "--over", "user"]);
        assert!(code == 64 && text.contains("there are connections, users, senders, pairs"), "{text}");
    }
}

#[test]
fn what_webmail_on_the_whitelist_sends_is_listed_under_the_limits_that_count_it() {
    let host = Host::start(&format!(
        "whitelist = [\"198.51.100.7\"]\n{}",
        LIMITS.replacen("count = \"recipients\"", "count = \"messages\"", 1)
    ));
    host.mails("joe", "x@example.org", 3);
    let answer = host.ask(&["show", "--over"]);
    let keys = answer["listing"]["keys"].as_array().unwrap();
    let keys: Vec<_> = keys.iter().map(|key| (key["limit"].as_str().unwrap(), key["key"].as_str().unwrap())).collect();
    let expected = [
        ("users", "sasl_username=joe"),
        ("senders", "sender=x@example.org"),
        ("pairs", "sasl_username=joe,sender_domain=example.org"),
    ];
    assert!(keys.len() == 3 && expected.iter().all(|key| keys.contains(key)), "{answer:#}");
    // One key of one limit is listed with that limit's count.
    let most = host.ask(&["show", "--most", "connections"]);
    assert_eq!(most["listing"]["keys"], json!([]), "{most:#}");
}

#[test]
fn what_a_netblock_may_is_shown_of_its_clients() {
    let host = Host::start("[netblocks]\n\"198.51.100.0/24\" = 500\n");
    host.mails("joe", "x@example.org", 1);
    assert_eq!(host.ask(&["show", "--most"])["listing"]["keys"][0]["threshold"], json!(500));
    assert_eq!(host.ask(&["top"])["busiest"][0]["threshold"], json!(500));
}

#[test]
fn top_has_a_view_of_each_limit_that_names_the_accounts_over_it() {
    let host = Host::start(LIMITS);
    for (login, number) in [("joe", 3), ("ann", 5), ("zoe", 4), ("bob", 1)] {
        host.mails(&format!("{login}@example.com"), &format!("{login}@{login}.example"), number);
    }
    // Eighty clients hide them among the busiest.
    for client in 0..80 {
        for port in 3000..3006 {
            let (address, port) = (format!("client_address=203.0.113.{client}"), format!("client_port={port}"));
            let mut session = Policy::connect(host.daemon.endpoint());
            assert_eq!(session.ask(&["protocol_state=CONNECT", &address, &port]), "DUNNO");
        }
    }
    let mut top = Top::start(&host.socket, "");
    let is_of_clients = |row: &String| row.starts_with("203.0.113.") && row.contains(" connections ");
    top.shows(" busiest clients, 81 ", |rows| rows[1..10].iter().all(is_of_clients));
    top.press("\t");
    top.shows(" nearest to their limits, ", |rows| rows[0].contains("ann") && rows[0].contains(" 250%"));
    // On by way of connections to users.
    top.press("\t\t");
    let is_of = |row: &String, login: &str, share: u32| {
        row.starts_with(&format!("sasl_username={login}@example.com ")) && row.contains(&format!(" {share}% "))
    };
    let accounts = [("ann", 250), ("zoe", 200), ("joe", 150), ("bob", 50)];
    top.shows(" nearest to limit users, 4 ", |rows| {
        rows.iter().zip(accounts).all(|(row, (login, share))| is_of(row, login, share))
    });
    // The second is selected and reset, and the list is without it.
    top.press("jr");
    top.shows(" nearest to limit users, 3 ", |rows| is_of(&rows[0], "ann", 250) && is_of(&rows[1], "joe", 150));
    // Shift and tab go back.
    top.press("\x1b[Z\x1b[Z\x1b[Z");
    top.shows(" busiest clients, ", |rows| rows[1..10].iter().all(is_of_clients));
    top.quit();

    let top = Top::start(&host.socket, "pairs");
    top.shows(" nearest to limit pairs, ", |rows| rows[0].starts_with("sasl_username=ann@example.com,sender_"));
    top.quit();
    let answer = host.ask(&["top", "users"]);
    assert_eq!(
        (&answer["keys"][0]["key"], &answer["keys"][0]["count"]),
        (&json!("sasl_username=ann@example.com"), &json!(5))
    );
    let (text, code) = host.say(&["top", "user"]);
    assert!(code == 64 && text.contains("there are connections, users, senders, pairs"), "{text}");
}

#[test]
fn an_alert_names_every_account_that_goes_over_and_warns_before() {
    let dir = Dir::new();
    let out = dir.join("out");
    let script = dir.write(
        "alert",
        &format!("#!/bin/sh\nenv | grep ^CONNSHAPER_ | sort | tr '\\n' ' ' >> {0}\necho >> {0}\n", out.display()),
    );
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let limit = "[limit.users]\nthreshold = 2\nalert_threshold = 1\nalert = true\nlog_only = true\ncount = \"messages\"\n\
                 per = \"sasl_username\"";
    let host = Host::start(&format!("alert_command = {script:?}\nalert_interval = \"1h\"\n{limit}"));
    for login in ["joe@example.com", "ann@example.com", "j\u{fc}rgen@example.com"] {
        assert_eq!(host.mails(login, "x@example.org", 5), "DUNNO");
    }
    let told = until("six alerts", || {
        let text = std::fs::read_to_string(&out).unwrap_or_default();
        Some(text.lines().map(str::to_owned).collect::<Vec<_>>()).filter(|lines| lines.len() >= 6)
    });
    assert_eq!(told.len(), 6, "{told:#?}");
    let of = |event: &str, login: &str| {
        let is_it = |line: &&String| line.contains(event) && line.contains(&format!("CONNSHAPER_LOGIN={login} "));
        told.iter().find(is_it).unwrap_or_else(|| panic!("{event} {login}: {told:#?}"))
    };
    let over = of("CONNSHAPER_EVENT=OVER_LIMIT", "ann@example.com");
    for field in [
        "CLIENT=198.51.100.7",
        "COUNT=3",
        "THRESHOLD=2",
        "LIMIT=users",
        "KEY=sasl_username=ann@example.com",
        "SENDER=x@example.org",
    ] {
        assert!(over.contains(&format!("CONNSHAPER_{field} ")), "{field}: {over}");
    }
    assert!(of("CONNSHAPER_EVENT=NEAR_LIMIT", "joe@example.com").contains("CONNSHAPER_COUNT=2 "));
    of("CONNSHAPER_EVENT=OVER_LIMIT", "j\u{fc}rgen@example.com");
}
