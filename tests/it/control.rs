//! The control commands of an administrator, on a running daemon.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::redis::RIGHTS;
use crate::support::{self, Daemon, Memcached, PATIENCE, Policy, Redis, RedisCluster, ask, command, say, until};

/// A daemon with a control socket.
struct Host {
    daemon: Daemon,
    socket: PathBuf,
    _dir: support::Dir,
}

/// The output and exit code of a command.
struct Said {
    text: String,
    code: i32,
}

impl Host {
    fn start(config: &str) -> Self {
        let dir = support::Dir::new();
        let socket = dir.join("control");
        let daemon = Daemon::start(&format!("control_socket = {:?}\n{config}", socket.to_str().unwrap()));
        Self { daemon, socket, _dir: dir }
    }

    /// Runs a command of the program.
    fn say(&self, words: &str) -> Said {
        let (text, code) = say(&self.socket, words.split(' '));
        Said { text, code }
    }

    /// Runs a command with `--json`, which must succeed, and returns its answer.
    fn ask(&self, words: &str) -> Value {
        ask(&self.socket, words.split(' '))
    }

    fn connected(&self, client: &str, port: u16) -> String {
        Policy::connect(self.daemon.endpoint()).connected(client, port)
    }

    /// Lets a client connect a number of times.
    fn connect_often(&self, client: &str, times: u16) -> String {
        (0..times).fold(String::new(), |_, time| self.connected(client, 2000 + time))
    }
}

fn passes(answer: &str) -> bool {
    answer == "DUNNO"
}

#[test]
fn explain_show_and_reset_find_and_clear_a_refusal() {
    let host = Host::start("threshold = 2");
    let mut session = Policy::connect(host.daemon.endpoint());
    host.connect_often("198.51.100.7", 2);
    assert!(!passes(&session.connected("198.51.100.7", 4711)));

    let explained = host.say("explain 198.51.100.7").text;
    assert!(explained.contains("limit connections over: 4 of 2 for 198.51.100.7"), "{explained}");
    assert!(explained.contains("because it is over at limit connections: 4 of 2"), "{explained}");
    let shown = host.say("show 198.51.100.7").text;
    assert!(shown.contains("connections  198.51.100.7      3   2"), "{shown}");
    let reset = host.say("reset 198.51.100.7");
    assert_eq!(reset.code, 0, "{}", reset.text);

    // The refused session continues and is not counted again.
    let later = ["protocol_state=RCPT", "client_address=198.51.100.7", "client_port=4711", "instance=1.2.3.0"];
    assert!(passes(&session.ask(&[&later[..], &["server_address=192.0.2.25", "server_port=25"]].concat())));
    assert_eq!(host.ask("show 198.51.100.7")["counters"][0]["count"], 0);
    assert!(passes(&host.connected("198.51.100.7", 9)));
    let line = host.daemon.lines().wait_for("CONTROL ");
    assert!(line.starts_with("CONTROL user=root command=reset target=198.51.100.7 "), "{line}");
}

#[test]
fn a_reset_of_a_key_clears_only_refusals_for_that_key() {
    let host = Host::start(
        "threshold = 100\n[limit.logins]\nper = \"sasl_username\"\nthreshold = 1\n\
         [limit.senders]\nper = \"sender\"\ncount = \"recipients\"\nthreshold = 1\n",
    );
    // Each has its own session, which is queried again later.
    let session = |port: u16, login: &str, sender: &str| {
        let mut session = Policy::connect(host.daemon.endpoint());
        let port = format!("client_port={port}");
        let (login, sender) = (format!("sasl_username={login}"), format!("sender={sender}"));
        move |recipient: &str| {
            let recipient = format!("recipient={recipient}@example.net");
            let (state, client) = ("protocol_state=RCPT", "client_address=198.51.100.7");
            passes(&session.ask(&[state, client, "instance=1.2.3.0", &port, &login, &sender, &recipient]))
        }
    };
    assert!(session(1, "joe", "")("a") && session(2, "ann", "")("a") && session(3, "", "list@example.org")("a"));
    let mut joe = session(4, "Joe", "");
    let mut ann = session(5, "ann", "");
    let mut list = session(6, "", "list@example.org");
    assert_eq!([joe("a"), ann("a"), list("b")], [false; 3]);

    assert_eq!(host.ask("reset sasl_username=joe")["sessions"], 1);
    assert_eq!([joe("a"), joe("b"), ann("a"), list("b")], [true, true, false, false]);
    assert_eq!(host.ask("reset sender=list@example.org")["sessions"], 1);
    assert_eq!([ann("a"), list("b")], [false, true]);
    // Continued sessions are not counted again; a recipient that was not refused before is counted.
    assert_eq!(host.ask("show sasl_username=joe")["counters"][0]["count"], 0);
    assert_eq!([list("c"), list("d")], [true, false]);
}

#[test]
fn explain_show_and_check_hit_count_nothing() {
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"", memcached.server())] {
        let host = Host::start(&format!("threshold = 2\n{store}"));
        host.connect_often("198.51.100.7", 2);
        for _ in 0..5 {
            let verdict = &host.ask("explain 198.51.100.7")["verdict"];
            assert_eq!((&verdict["verdict"], &verdict["count"]), (&json!("refuse"), &json!(3)));
            let counter = &host.ask("show 198.51.100.7")["counters"][0];
            assert_eq!((&counter["count"], &counter["over"]), (&json!(2), &json!(false)));
            assert_eq!(host.say("check-hit connections 198.51.100.7").code, 1);
        }
        assert_eq!(host.ask("explain 203.0.113.9")["verdict"]["verdict"], "pass");
        assert_eq!(host.ask("status")["since_start"]["queries"], 2);
    }
}

#[test]
fn explain_names_the_list_and_why_a_limit_does_not_apply() {
    let host = Host::start(
        "threshold = 5\nwhitelist = [\"127.0.0.0/8\", \".example.com\"]\n\
         blacklist = [\"203.0.113.0/24\", \"/^dyn/\"]\n[netblocks]\n\"198.51.100.0/24\" = 1\n\
         [limit.logins]\nper = \"sasl_username\"\nthreshold = 3\nmatch = { sasl_method = \"LOGIN\" }\n\
         [limit.mails]\ncount = \"messages\"\nthreshold = 3\n",
    );
    let said = |words: &str| host.say(&format!("explain {words}")).text;
    assert!(said("127.0.0.1").contains("on the whitelist (127.0.0.0/8)"));
    assert!(said("203.0.113.9").contains("on the blacklist (203.0.113.0/24)"));
    assert!(said("192.0.2.9 client_name=mx.example.com").contains("on the whitelist (.example.com)"));
    assert!(said("203.0.113.9 client_name=mx.example.com").contains("on the whitelist (.example.com)"));
    assert!(said("192.0.2.9 client_name=dyn-1.example.net").contains("on the blacklist (/^dyn/)"));
    assert!(said("192.0.2.9 reverse_client_name=mx.example.com").contains("lists          none"));
    let rate = said("198.51.100.7");
    assert!(rate.contains("threshold 1 (198.51.100.0/24)") && rate.contains("1 of 1 for 198.51.100.7"), "{rate}");
    assert!(rate.contains("limit logins    not asked: the request has no sasl_username"), "{rate}");
    assert!(rate.contains("limit mails     not asked: not counted at this protocol state"), "{rate}");
    let logged_in = said("192.0.2.9 sasl_username=joe sasl_method=PLAIN protocol_state=RCPT instance=1.2.3.0");
    assert!(logged_in.contains("not asked: its condition on sasl_method does not hold"), "{logged_in}");
    assert!(logged_in.contains("limit mails     within: 1 of 3 for 192.0.2.9"), "{logged_in}");
    assert!(said("unknown").contains("it cannot be counted"));
}

#[test]
fn a_ban_of_a_prefix_holds_until_unban_except_for_the_whitelist() {
    let host = Host::start("whitelist = [\"198.51.100.25\"]");
    let mut inside = Policy::connect(host.daemon.endpoint());
    let mut message = |instance: &str| {
        let request = ["protocol_state=RCPT", "client_address=198.51.100.8", "client_port=1"];
        passes(&inside.ask(&[&request[..], &["server_address=192.0.2.25", "server_port=25", instance]].concat()))
    };
    assert!(message("instance=1.2.3.0"));
    host.ask("ban 198.51.100.0/24 for 2h");
    assert!(message("instance=1.2.3.0"), "a message goes on");
    assert!(!message("instance=1.2.4.1"), "the next one of the same session is refused");
    assert!(host.connected("198.51.100.7", 1).ends_with("Access denied for 198.51.100.7"));
    assert!(passes(&host.connected("198.51.100.25", 1)));
    assert!(passes(&host.connected("203.0.113.1", 1)));
    let line = host.daemon.lines().wait_for("REFUSED ");
    assert!(line.contains(" key=198.51.100.0/24 limit=blacklist reason=banned "), "{line}");

    host.ask("allow 198.51.100.7 for 10m");
    assert!(passes(&host.connected("198.51.100.7", 2)));
    assert_eq!(host.ask("explain 198.51.100.7")["verdict"]["reason"], "allowed");
    host.ask("allow 198.51.0.0/16 for 10m");
    let disallow = host.ask("disallow 198.51.100.7");
    assert_eq!((&disallow["lifted"], &disallow["done"]), (&1.into(), &"198.51.100.7 is no longer allowed".into()));
    assert!(disallow["notes"][0].as_str().unwrap().starts_with("198.51.0.0/16 is allowed by root"), "{disallow}");
    assert!(!passes(&host.connected("198.51.100.7", 3)));
    let remedies = &host.ask("explain 198.51.100.7")["verdict"]["remedies"];
    assert_eq!(
        *remedies,
        serde_json::json!(["connshaper unban 198.51.100.0/24", "connshaper allow 198.51.100.7 for 2h"])
    );
    assert_eq!(host.ask("disallow 198.51.0.0/16")["lifted"], 1);
    let unban = host.ask("unban 198.51.100.9");
    assert!(unban["notes"][0].as_str().unwrap().starts_with("198.51.100.0/24 is banned by root"), "{unban}");
    assert!(!passes(&host.connected("198.51.100.9", 1)));
    assert_eq!(host.ask("unban 198.51.100.0/24")["lifted"], 1);
    assert!(passes(&host.connected("198.51.100.9", 2)));
    assert!(host.ask("ban 198.51.100.25")["notes"][0].as_str().unwrap().contains("is on the whitelist"));
}

#[test]
fn an_override_survives_a_reload_and_expires() {
    let host = Host::start("");
    host.ask("ban 198.51.100.7 for 1h");
    host.ask("ban 198.51.100.8 for 1s");
    assert_eq!(host.ask("reload")["done"], "the configuration is in force");
    assert!(!passes(&host.connected("198.51.100.7", 1)));
    until("the end of a ban of one second", || passes(&host.connected("198.51.100.8", 1)).then_some(()));
    until("a list without it", || (host.ask("status")["administrator_bans"] == 1).then_some(()));
}

#[test]
fn overrides_and_resets_reach_all_hosts_of_a_shared_memcached() {
    let memcached = Memcached::start();
    overrides_and_resets_reach_all_hosts(&memcached.config());
}

#[test]
fn overrides_and_resets_reach_all_hosts_of_a_memcached_with_a_login_and_of_one_with_tls() {
    let memcached = Memcached::start_with_login();
    overrides_and_resets_reach_all_hosts(&memcached.config());
    let memcached = Memcached::start_with_tls();
    overrides_and_resets_reach_all_hosts(&memcached.config());
}

#[test]
fn overrides_and_resets_reach_all_hosts_of_a_shared_redis() {
    let redis = Redis::with_rights(RIGHTS);
    overrides_and_resets_reach_all_hosts(&redis.config());
    let redis = Redis::start_with_tls();
    overrides_and_resets_reach_all_hosts(&redis.config());
}

#[test]
fn overrides_and_resets_reach_all_hosts_of_a_cluster() {
    let cluster = RedisCluster::with_rights(RIGHTS);
    overrides_and_resets_reach_all_hosts(&cluster.config());
}

fn overrides_and_resets_reach_all_hosts(store: &str) {
    let logins = "[limit.logins]\nper = \"sasl_username\"\nthreshold = 1";
    let config = format!("threshold = 1\nstore_timeout = \"5s\"\n{store}{logins}");
    let (one, other) = (Host::start(&config), Host::start(&config));
    one.ask("ban 203.0.113.0/24 for 1h");
    let mut port = 1000..;
    until("a ban on the other host", || {
        other.connected("203.0.113.9", port.next().unwrap()).contains("Access denied").then_some(())
    });
    other.ask("unban 203.0.113.0/24");
    until("its end on the first", || passes(&one.connected("203.0.113.10", port.next().unwrap())).then_some(()));
    one.ask("allow 203.0.113.7 for 1h");
    until("an allowance on the other host", || (other.ask("status")["allowances"] == 1).then_some(()));
    assert!((0..3).all(|_| passes(&other.connected("203.0.113.7", port.next().unwrap()))));
    other.ask("disallow 203.0.113.7");
    until("its end on the first", || (one.ask("status")["allowances"] == 0).then_some(()));
    assert!(passes(&one.connected("203.0.113.7", port.next().unwrap())));
    assert!(!passes(&one.connected("203.0.113.7", port.next().unwrap())));

    // A reset on the first host clears a refusal of the other.
    other.connect_often("198.51.100.7", 1);
    let mut session = Policy::connect(other.daemon.endpoint());
    assert!(!passes(&session.connected("198.51.100.7", 4711)));
    one.ask("reset 198.51.100.7");
    let later = ["protocol_state=RCPT", "client_address=198.51.100.7", "client_port=4711", "instance=1.2.3.0"];
    let later = [&later[..], &["server_address=192.0.2.25", "server_port=25"]].concat();
    until("a session that is no longer refused", || passes(&session.ask(&later)).then_some(()));
    // The count is zero on all hosts.
    assert_eq!(other.ask("show 198.51.100.7")["counters"][0]["count"], 0);

    // The same with a key that is not an address.
    let mail = |client: &'static str| {
        let mut session = Policy::connect(other.daemon.endpoint());
        move || {
            let (state, login) = ("protocol_state=RCPT", "sasl_username=joe");
            passes(&session.ask(&[state, client, "client_port=1", "instance=1.2.3.0", login]))
        }
    };
    assert!(mail("client_address=192.0.2.7")());
    let mut refused = mail("client_address=192.0.2.8");
    assert!(!refused());
    one.ask("reset sasl_username=joe");
    until("a login whose session is no longer refused", || refused().then_some(()));
    assert_eq!(other.ask("show sasl_username=joe")["counters"][0]["count"], 0);

    // A prefix has the clients that the first host has seen.
    for client in ["192.0.2.70", "192.0.2.71", "198.18.0.1"] {
        assert!(passes(&one.connected(client, port.next().unwrap())));
        assert!(!passes(&other.connected(client, port.next().unwrap())));
    }
    one.ask("reset 192.0.2.64/26");
    for client in ["192.0.2.70", "192.0.2.71"] {
        until("a client that begins anew", || passes(&other.connected(client, port.next().unwrap())).then_some(()));
    }
    assert!(!passes(&other.connected("198.18.0.1", port.next().unwrap())));
}

#[test]
fn status_reports_the_breaker_of_each_server() {
    let (mut one, other) = (Memcached::start(), Memcached::start());
    let host = Host::start(&format!("memcached_server = [\"{}\", \"{}\"]", one.server(), other.server()));
    let text = host.say("status").text;
    assert!(text.contains(&format!("inet:{}, breaker closed\n", one.server())), "{text}");
    one.kill();
    let servers = until("a server that is down", || {
        let servers = host.ask("status")["store"]["servers"].clone();
        (servers[0]["down"] == true).then_some(servers)
    });
    assert!(servers[0]["breaker"] != "closed" && servers[0]["down_seconds"].is_u64(), "{servers}");
    let server = format!("inet:{}", other.server());
    assert_eq!(servers[1], json!({ "server": server, "down": false, "breaker": "closed", "down_seconds": null }));
    let text = host.say("status").text;
    let says = |state: &str| text.contains(&format!("inet:{}, breaker {state}, down for ", one.server()));
    assert!(
        text.contains("memcached, down, chosen by memcached_server\n") && (says("open") || says("half-open")),
        "{text}"
    );
}

#[test]
fn a_ban_set_while_memcached_is_down_is_local_and_is_shared_later() {
    let mut memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"", memcached.server());
    let (one, other) = (Host::start(&config), Host::start(&config));
    memcached.kill();
    let answer = one.ask("ban 203.0.113.0/24 for 1h");
    assert!(answer["notes"][0].as_str().unwrap().starts_with("memcached could not be updated"), "{answer}");
    assert!(!passes(&one.connected("203.0.113.9", 1)));
    assert!(passes(&other.connected("203.0.113.9", 1)));
    memcached.start_again();
    let mut port = 1000..;
    until("a ban on the other host", || {
        other.connected("203.0.113.9", port.next().unwrap()).contains("Access denied").then_some(())
    });
}

#[test]
fn hit_check_hit_and_revoke_report_by_exit_code() {
    let host = Host::start("[limit.logins]\nper = \"sasl_username\"\nthreshold = 2\nban_time = \"5m\"");
    let code = |words: &str| host.say(words).code;
    assert_eq!([code("check-hit logins joe"), code("hit logins joe"), code("hit logins Joe")], [0, 0, 0]);
    assert_eq!(code("check-hit logins joe"), 1);
    assert_eq!(host.ask("revoke logins joe")["count"], 1);
    assert_eq!(code("check-hit logins joe"), 0);
    assert_eq!([code("hit logins joe --amount 5"), code("hit logins joe")], [1, 1]);
    let shown = host.ask("show sasl_username=joe");
    assert_eq!(shown["counters"][0]["banned"], 300, "{shown:#}");
    assert_eq!(host.ask("unban sasl_username=joe")["lifted"], 1);
    host.ask("reset sasl_username=joe");
    assert_eq!(code("check-hit logins joe"), 0);
    assert_eq!([code("hit nothing joe"), code("hit connections joe")], [64, 64]);
}

#[test]
fn the_reload_command_reports_the_result() {
    let host = Host::start("");
    let config = host.daemon.config();
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{before}\ntreshold = 3\n")).unwrap();
    let said = host.say("reload");
    assert_eq!(said.code, 78, "{}", said.text);
    assert!(said.text.contains("unknown key `treshold`"), "{}", said.text);
    assert!(host.say("status").text.contains("the last reload failed"));
    std::fs::write(&config, format!("{before}\nthreshold = 1\nmax_connections = 5\n")).unwrap();
    let answer = host.ask("reload");
    assert_eq!(answer["notes"], json!(["max_connections takes effect at the next start"]));
    assert!(!host.say("status").text.contains("the last reload failed"));
    assert!(!passes(&host.connect_often("198.51.100.7", 2)));
}

#[test]
fn show_and_reset_work_on_all_clients_of_a_prefix() {
    let host = Host::start("");
    for (client, times) in [("198.51.100.1", 1), ("198.51.100.2", 3), ("203.0.113.1", 2), ("2001:db8::1", 1)] {
        host.connect_often(client, times);
    }
    let keys = |prefix: &str| -> Vec<String> {
        let answer = host.ask(&format!("show {prefix}"));
        let counters = answer["counters"].as_array().unwrap().clone();
        counters.iter().map(|counter| format!("{} {}", counter["key"].as_str().unwrap(), counter["count"])).collect()
    };
    assert_eq!(keys("198.51.100.0/24"), ["198.51.100.2 3", "198.51.100.1 1"]);
    assert_eq!(keys("2001:db8::/32"), ["2001:db8::/64 1"]);
    host.ask("reset 198.51.100.0/24");
    assert_eq!(keys("0.0.0.0/0"), ["203.0.113.1 2"]);
}

#[test]
fn the_control_socket_has_the_configured_mode_and_is_removed_at_exit() {
    let mut host = Host::start("");
    let mode = |host: &Host| std::fs::metadata(&host.socket).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&host), 0o600);
    host.daemon.stop();
    assert!(!host.socket.exists());
    let said = host.say("status");
    assert_eq!(said.code, 69);
    assert!(said.text.contains("is the daemon running"), "{}", said.text);
    let open = Host::start("control_group = \"daemon\"");
    assert_eq!(mode(&open), 0o660);
    let group = nix::unistd::Group::from_name("daemon").unwrap().unwrap().gid.as_raw();
    assert_eq!(std::fs::metadata(&open.socket).unwrap().gid(), group);
}

#[test]
fn the_control_socket_is_in_systemds_runtime_directory_by_default() {
    let dir = support::Dir::new();
    let preparation = format!("export RUNTIME_DIRECTORY={}", dir.path().display());
    let _daemon = Daemon::start_after(&preparation, "");
    let output = command().arg("status").arg("--socket").arg(dir.join("control")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn invalid_control_input_is_answered_or_closed_and_harms_nothing() {
    let host = Host::start("");
    let speak = |bytes: &[u8]| -> (Value, bool) {
        let mut stream = BufReader::new(UnixStream::connect(&host.socket).unwrap());
        stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        // The daemon may close the connection before everything is sent.
        let _ = stream.get_mut().write_all(bytes);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let closed = bytes.len() > 65_536 && matches!(stream.read(&mut [0]), Ok(0) | Err(_));
        (serde_json::from_str(&line).unwrap(), closed)
    };
    for wrong in ["\n", "hello\n", "{}\n", "{\"v\":2,\"command\":\"status\"}\n", "{\"v\":1,\"command\":\"dance\"}\n"] {
        let (answer, _) = speak(wrong.as_bytes());
        assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!(64)), "{wrong:?}");
    }
    let wrong = [
        json!({ "command": "ban", "target": "198.51.100.0/24", "seconds": 0 }),
        json!({ "command": "ban", "target": "all", "seconds": 10 }),
        json!({ "command": "show", "target": "all of them" }),
        json!({ "command": "explain", "client": "192.0.2.1\nx", "attributes": {} }),
        json!({ "command": "explain", "client": "192.0.2.1", "attributes": { "sender": "a\nb" } }),
        json!({ "command": "hit", "limit": "connections", "key": "192.0.2.1", "amount": -1 }),
    ];
    for mut request in wrong {
        request["v"] = 1.into();
        let (answer, _) = speak(format!("{request}\n").as_bytes());
        assert_eq!(answer["ok"], false, "{request}: {answer}");
    }
    let (answer, closed) = speak(&[b'x'; 70_000]);
    assert!(closed && answer["error"].as_str().unwrap().contains("at most 65536 bytes"), "{answer}");
}

#[test]
fn no_number_of_idle_control_connections_keeps_an_administrator_out() {
    let host = Host::start("");
    let connect = || BufReader::new(UnixStream::connect(&host.socket).unwrap());
    let ask = |stream: &mut BufReader<UnixStream>| {
        let mut line = String::new();
        stream
            .get_mut()
            .write_all(b"{\"v\":1,\"command\":\"status\"}\n")
            .and_then(|()| stream.read_line(&mut line))
            .ok();
        line.contains("\"ok\":true")
    };
    let start = Instant::now();
    let mut busy = connect();
    let mut idle = Vec::new();
    for _ in 0..5 {
        // Some have sent half of a command.
        idle.extend((0..10).map(|number| {
            let mut stream = connect();
            stream.get_mut().write_all(&b"{\"v\":1,\"comm"[..number]).unwrap();
            stream
        }));
        // Its last command is newer than the connections of the others.
        assert!(ask(&mut busy));
        assert_eq!(host.ask("status")["policy_connections"], 0);
    }
    // Idle connections are closed after 30 seconds: nobody waited for that.
    assert!(start.elapsed() < Duration::from_secs(25), "{:?}", start.elapsed());
    let first = &mut idle[0];
    first.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "the oldest is closed");
}

#[test]
fn a_name_service_that_hangs_delays_no_answer_and_not_the_watchdog() {
    let dir = support::Dir::new();
    // nscd is asked first, by every program that uses the C library.
    let nscd = UnixListener::bind(dir.join("socket")).unwrap();
    let enter = format!("mount -t tmpfs none /run && ln -s {} /run/nscd", dir.path().display());
    let enter = format!("exec unshare --mount sh -c '{enter} && exec \"$0\" \"$@\"' \"$0\" \"$@\"");
    let control = dir.join("control");
    let daemon = Daemon::start_after(
        &format!("export WATCHDOG_USEC=100000 && {{ {enter}; }}"),
        &format!("control_socket = {control:?}\n"),
    );
    let mut policy = Policy::connect(daemon.endpoint());
    let mut status = command().arg("status").arg("--socket").arg(&control).stdout(Stdio::piped()).spawn().unwrap();
    let (mut lookup, _) = nscd.accept().unwrap();
    lookup.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(lookup.read(&mut [0; 256]).unwrap() > 0, "a question to nscd");
    let fed = daemon.told().with("WATCHDOG=1").len();
    for port in 1..=5 {
        assert!(passes(&policy.connected("198.51.100.7", port)));
    }
    daemon.told().wait_for_more("WATCHDOG=1", fed + 2);
    // The C library closes the connection when it gives up.
    lookup.set_nonblocking(true).unwrap();
    let waits = lookup.read(&mut [0; 256]).map_err(|error| error.kind());
    assert_eq!(waits, Err(ErrorKind::WouldBlock), "the lookup is still under way");
    // The command is done without the name.
    assert!(status.wait().unwrap().success());
}

#[test]
fn overrides_survive_an_upgrade_and_a_restart_with_a_state_file() {
    let dir = support::Dir::new();
    let mut host = Host::start(&format!("state_file = {:?}", dir.join("state")));
    host.ask("ban 203.0.113.0/24 for 1h");
    let refused = host.connected("203.0.113.7", 1);
    assert!(refused.starts_with("DEFER_IF_PERMIT"), "{refused}");
    let upgraded = host.daemon.upgrade();
    assert!(upgraded.starts_with("UPGRADED "), "{upgraded}");
    assert_eq!(host.connected("203.0.113.7", 2), refused);
    // The control socket exists again, too.
    until("an answer", || (host.say("status").code == 0).then_some(()));
    host.daemon.stop();
    host.daemon.start_again();
    assert_eq!(host.connected("203.0.113.7", 3), refused);
    assert!(host.daemon.lines().with("UPGRADE_INCOMPLETE").is_empty(), "{}", host.daemon.lines());
}

#[test]
fn a_prefix_shows_and_unbans_limits_bans_that_outlast_their_windows() {
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"\n", memcached.server())] {
        let host = Host::start(&format!("threshold = 1\nexptime = 1\nban_time = \"1h\"\n{store}"));
        let banned = |client: &str| {
            host.connect_often(client, 2);
            until("a ban", || (host.ask(&format!("show {client}"))["counters"][0]["banned"] != 0).then_some(()));
        };
        ["198.51.100.7", "198.51.100.8", "203.0.113.1"].into_iter().for_each(banned);
        until("the end of the windows", || {
            let counters = host.ask("show 198.51.100.0/24")["counters"].clone();
            let expected: Vec<_> =
                counters.as_array().unwrap().iter().map(|one| (one["key"].clone(), one["count"] == 0)).collect();
            (expected == [(json!("198.51.100.7"), true), (json!("198.51.100.8"), true)]).then_some(())
        });
        let shown = host.say("show 198.51.100.0/24").text;
        assert!(shown.contains("banned for 1 h") || shown.contains("banned for 59 min"), "{shown}");
        let status = host.ask("status");
        assert_eq!((&status["limit_bans"], &status["administrator_bans"]), (&json!(3), &json!(0)));
        assert!(host.say("status").text.contains("bans          0 of administrators, 3 of limits\n"));
        assert_eq!(host.ask("unban 198.51.100.0/24")["lifted"], 2);
        assert_eq!(host.ask("unban 198.51.100.0/24")["lifted"], 0);
        assert!(passes(&host.connected("198.51.100.7", 9)));
        assert!(!passes(&host.connected("203.0.113.1", 9)));
        assert_eq!(host.ask("status")["limit_bans"], 1);
    }
}

#[test]
fn a_thousand_resets_leave_room_for_bans_and_allowances() {
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"", memcached.server())] {
        let host = Host::start(&store);
        let mut stream = BufReader::new(UnixStream::connect(&host.socket).unwrap());
        for number in 0..1001 {
            let target = format!("198.51.{}.{}", 100 + number / 250, number % 250);
            let request = json!({ "v": 1, "command": "reset", "target": target });
            stream.get_mut().write_all(format!("{request}\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_line(&mut answer).unwrap();
            assert!(answer.contains("\"ok\":true"), "{number}: {answer}");
        }
        host.ask("ban 203.0.113.7");
        host.ask("allow 203.0.113.8 for 1h");
        assert!(!passes(&host.connected("203.0.113.7", 1)));
    }
}

#[test]
fn an_override_of_a_prefix_names_the_narrower_ones_that_are_stronger() {
    let host = Host::start("");
    host.ask("ban 198.51.100.7");
    let note = &host.ask("allow 198.51.100.0/24 for 1h")["notes"][0];
    assert_eq!(note, "198.51.100.7 in it is banned by root and stays refused: unban that");
    assert!(!passes(&host.connected("198.51.100.7", 1)));
    host.ask("allow 203.0.113.7 for 1h");
    let note = &host.ask("ban 203.0.113.0/24")["notes"][0];
    assert_eq!(note, "203.0.113.7 in it is allowed by root and passes all the same: disallow that");
    assert!(passes(&host.connected("203.0.113.7", 1)));
}

#[test]
fn a_hit_is_revoked_wherever_it_is_in_a_sliding_window() {
    let (memcached, redis, dir) = (Memcached::start(), Redis::start(), support::Dir::new());
    let stores = [
        String::new(),
        format!("memcached_server = \"{}\"\n", memcached.server()),
        format!("{}\n", redis.config()),
        format!("sqlite_file = {:?}\n", dir.join("counts.db")),
    ];
    let limit = |name: &str, window: &str| {
        format!("[limit.{name}]\nper = \"sasl_username\"\nthreshold = 5\nwindow = \"{window}\"\n")
    };
    let limits = limit("sliding", "sliding") + "exptime = 30\n" + &limit("weekly", "calendar") + "exptime = \"1w\"\n";
    let hosts = stores.map(|store| Host::start(&format!("{store}{limits}")));
    let hit = |amount: u32| {
        for (host, limit) in hosts.iter().flat_map(|host| ["sliding", "weekly"].map(|limit| (host, limit))) {
            host.ask(&format!("hit {limit} joe --amount {amount}"));
        }
    };
    hit(1);
    // A slot is 3 seconds.
    std::thread::sleep(Duration::from_millis(3200));
    hit(2);
    for (host, limit) in hosts.iter().flat_map(|host| ["sliding", "weekly"].map(|limit| (host, limit))) {
        let answer = host.ask(&format!("revoke {limit} joe --amount 3"));
        assert_eq!((&answer["revoked"], &answer["count"]), (&json!(3), &json!(0)), "{answer}");
        let said = host.say(&format!("revoke {limit} joe"));
        assert!(said.code == 1 && said.text.contains("no hit in the window, so none was taken back"), "{}", said.text);
    }
}

#[test]
fn what_is_shown_of_the_shared_list_is_escaped() {
    let memcached = Memcached::start();
    let host = Host::start(&format!("memcached_server = \"{}\"", memcached.server()));
    host.ask("ban 203.0.113.0/24 for 1h");
    let list = memcached.value("connshaper:!overrides").unwrap();
    let list = list.replace("\"by\":\"root\"", "\"by\":\"\\u001b[2J\\u009b1m\\nroot\"");
    assert_eq!(memcached.say(&format!("set connshaper:!overrides 0 0 {}\r\n{list}", list.len())), "STORED");
    let shown = until("another user", || Some(host.say("show 203.0.113.7").text).filter(|text| text.contains("[2J")));
    assert!(shown.contains(r"by \x1b[2J\xc2\x9b1m\x0aroot"), "{shown:?}");
    for words in ["unban 203.0.113.7", "show 203.0.113.7 --json", "unban 203.0.113.7 --json"] {
        let text = host.say(words).text;
        assert!(text.contains("[2J") && text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    }
}

#[test]
fn a_shared_list_that_cannot_be_read_is_reported_and_the_next_ban_repairs_it() {
    let memcached = Memcached::start();
    let config = format!("memcached_server = \"{}\"", memcached.server());
    let (one, other) = (Host::start(&config), Host::start(&config));
    one.ask("ban 203.0.113.0/24 for 1h");
    until("the ban on the other host", || (other.ask("status")["administrator_bans"] == 1).then_some(()));
    assert_eq!(memcached.say("set connshaper:!overrides 0 0 5\r\nhello"), "STORED");
    for host in [&one, &other] {
        host.daemon.lines().wait_for("OVERRIDES_UNREADABLE store=memcached error=");
        let status = host.say("status").text;
        assert!(status.contains("warning: the bans and allowances in memcached cannot be read"), "{status}");
    }
    let answer = one.ask("ban 198.51.100.7 for 1h");
    assert_eq!(answer["notes"], json!([]));
    let mut port = 1000..;
    until("the new ban on the other host", || {
        other.connected("198.51.100.7", port.next().unwrap()).contains("Access denied").then_some(())
    });
    assert!(!passes(&other.connected("203.0.113.9", 1)));
    assert_eq!(other.ask("status")["overrides_unreadable"], Value::Null);
    other.daemon.lines().wait_for("OVERRIDES_UNREADABLE");
    assert_eq!(other.daemon.lines().with("OVERRIDES_UNREADABLE").len(), 1);
}

#[test]
fn a_second_reset_within_a_second_reaches_the_other_hosts() {
    let memcached = Memcached::start();
    let config = format!("threshold = 1\nmemcached_server = \"{}\"", memcached.server());
    let (one, other) = (Host::start(&config), Host::start(&config));
    let mut session = Policy::connect(other.daemon.endpoint());
    let mut port = 1000..;
    for turn in 0..4 {
        assert!(passes(&other.connected("198.51.100.7", port.next().unwrap())));
        let port = port.next().unwrap();
        assert!(!passes(&session.connected("198.51.100.7", port)), "{turn}");
        one.ask("reset 198.51.100.7");
        let port = format!("client_port={port}");
        let later = ["protocol_state=RCPT", "client_address=198.51.100.7", &port, "instance=1.2.3.0"];
        let later = [&later[..], &["server_address=192.0.2.25", "server_port=25"]].concat();
        until("a session that is no longer refused", || passes(&session.ask(&later)).then_some(()));
    }
}

/// Every command that prints, with what it needs to print something.
#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
    let host = Host::start("threshold = 2");
    let dir = support::Dir::new();
    let old = dir.write("old", "threshold 5\n");
    let log = dir.write("mail.log", "Nov  1 00:00:01 mx postfix/smtpd[1]: connect from unknown[198.51.100.7]\n");
    let (config, socket) = (host.daemon.config().display().to_string(), host.socket.display().to_string());
    let (old, log) = (old.display().to_string(), log.display().to_string());
    let control = [
        "status",
        "status --json",
        "top",
        "top --json",
        "show 198.51.100.7",
        "show --over",
        "show --most --json",
        "show --most --csv",
        "explain 198.51.100.7",
        "report",
        "report --csv",
        "report --json",
        "reset 198.51.100.7",
        "ban 203.0.113.7",
        "unban 203.0.113.7",
        "allow 203.0.113.8 for 1m",
        "disallow 203.0.113.8",
        "hit connections 203.0.113.9",
        "check-hit connections 203.0.113.10",
        "revoke connections 203.0.113.9",
        "reload",
    ];
    let control = control.map(|words| format!("{words} --socket {socket}"));
    let endpoint = host.daemon.endpoint();
    let others = [
        "--help".to_owned(),
        "--version".to_owned(),
        "help".to_owned(),
        "completions bash".to_owned(),
        format!("check -c {config}"),
        format!("check --json -c {config}"),
        format!("convert {old}"),
        format!("query --to {endpoint} 198.51.100.7"),
        format!("query --json --to {endpoint} 198.51.100.7"),
        format!("advise {log}"),
        format!("advise --json {log}"),
        format!("advise --csv {log}"),
        format!("replay --to {endpoint} --speed 1000000 {log}"),
        format!("replay --json --to {endpoint} --speed 1000000 {log}"),
    ];
    let doctor = ["doctor", "doctor --json"].map(|words| format!("{words} -c {config} --socket {socket}"));
    // Every command is tried, apart from those that serve.
    let tried: Vec<String> = control.into_iter().chain(others).chain(doctor).collect();
    let help = String::from_utf8(command().arg("--help").output().unwrap().stdout).unwrap();
    let commands = help.lines().skip_while(|line| !line.starts_with("Commands:")).skip(1);
    let commands: Vec<&str> = commands.take_while(|line| !line.is_empty()).filter_map(first_word).collect();
    assert!(commands.len() > 15, "{help}");
    for word in commands.iter().filter(|word| !["serve", "inetd"].contains(word)) {
        assert!(tried.iter().any(|words| words.split(' ').next() == Some(word)), "{word} is not tried");
    }
    for words in tried {
        let run = |output: std::process::Stdio| command().args(words.split(' ')).stdout(output).output().unwrap();
        let full = run(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        let error = String::from_utf8_lossy(&full.stderr);
        assert_eq!(full.status.code(), Some(74), "{words}: {error}");
        assert!(error.contains("standard output: No space left on device"), "{words}: {error}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let closed = run(writer.into());
        let error = String::from_utf8_lossy(&closed.stderr);
        let unhealthy = words.starts_with("doctor").then_some(1);
        let code = closed.status.code();
        assert!(code == Some(0) || code == unhealthy, "{words}: {code:?} {error}");
        assert!(!error.contains("panicked") && !error.contains("standard output"), "{words}: {error}");
    }
}

/// The name of a command in a line of the help text, which may be a continuation of the line before.
fn first_word(line: &str) -> Option<&str> {
    let line = line.strip_prefix("  ").filter(|line| !line.starts_with(' '))?;
    line.split(' ').next()
}

#[test]
fn errors_that_nobody_can_read_leave_the_exit_code() {
    let dir = support::Dir::new();
    let wrong = dir.write("wrong.toml", "threshold = 0\n").display().to_string();
    let nothing = dir.join("nothing").display().to_string();
    let cases = [
        (format!("serve -c {wrong}"), 78),
        (format!("check -c {wrong}"), 78),
        (format!("status --socket {nothing}"), 69),
        (format!("query --to unix:{nothing} 192.0.2.1"), 69),
        (format!("convert {nothing}"), 66),
        (format!("advise {nothing}"), 66),
        (format!("replay {nothing}"), 66),
        ("reset".to_owned(), 64),
    ];
    for (words, code) in cases {
        let run = |output: std::process::Stdio| command().args(words.split(' ')).stderr(output).output().unwrap();
        let full = run(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(code), "{words}: full");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(writer.into()).status.code(), Some(code), "{words}: closed");
    }
}

#[test]
fn what_is_shown_of_a_configuration_and_its_files_is_escaped() {
    let dir = support::Dir::new();
    let list = dir.write("list\u{1b}[2J\u{9b}1m", "192.0.2.1\n");
    let values = dir.write("values", "joe\u{202e}@example.org\n\u{1b}[2J@example.org\n");
    let config = dir.write(
        "config\u{1b}[2J.toml",
        &format!(
            "whitelist_file = \"{}\"\n[limit.a]\ncount = \"messages\"\nper = \"sender\"\nthreshold = 2\n\
             match = {{ sender = [\"b\\u001b[2J\\u009b1m@example.org\"], recipient_file = {values:?} }}\n",
            list.display().to_string().replace('\u{1b}', "\\u001b").replace('\u{9b}', "\\u009b"),
        ),
    );
    let wrong = dir.write("wrong\u{1b}[2J\u{202e}.toml", "threshold = \"\\u001b[2J\u{202e}\"\n");
    let shown = |words: &[&str], file: &std::path::Path| {
        let output = command().args(words).arg(file).output().unwrap();
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat()
    };
    for text in [
        shown(&["check", "-c"], &config),
        shown(&["check", "-c"], &wrong),
        shown(&["serve", "-c"], &wrong),
        shown(&["convert"], &wrong),
        shown(&["advise", "/dev/null", "--config"], &wrong),
        shown(&["status", "--socket"], &dir.join("none\u{1b}[2J")),
    ] {
        assert!(text.contains("[2J"), "{text}");
        let obeyed = |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
        assert!(!text.contains(obeyed), "{text:?}");
    }
}

#[test]
fn the_ban_of_a_login_is_shown_and_lifted_by_its_key_and_is_in_no_prefix() {
    let memcached = Memcached::start();
    for store in [String::new(), format!("memcached_server = \"{}\"\n", memcached.server())] {
        let host = Host::start(&format!(
            "{store}[limit.login]\nper = \"sasl_username\"\nthreshold = 1\nexptime = 1\nban_time = \"1h\"\n"
        ));
        let connect = |port: u16| {
            Policy::connect(host.daemon.endpoint()).ask(&[
                "protocol_state=RCPT",
                "sasl_username=joe",
                "client_address=198.51.100.7",
                &format!("client_port={port}"),
            ])
        };
        connect(1);
        connect(2);
        let banned = || host.ask("show sasl_username=joe")["counters"][0]["banned"].as_u64().unwrap();
        until("a ban that outlasts its window", || {
            let counters = host.ask("show sasl_username=joe")["counters"].clone();
            (counters[0]["banned"] != 0 && counters[0]["count"] == 0).then_some(())
        });
        let counters = host.ask("show 198.51.100.0/24")["counters"].clone();
        assert!(counters.as_array().unwrap().iter().all(|one| one["limit"] == "connections"), "{counters}");
        assert_eq!(host.ask("unban 198.51.100.0/24")["lifted"], 0);
        assert!(banned() > 3000);
        assert_eq!(host.ask("unban sasl_username=joe")["lifted"], 1);
        assert_eq!(banned(), 0);
        assert!(passes(&connect(3)));
    }
}

#[test]
fn commands_take_the_address_of_a_client_behind_a_nat64_for_its_ipv4_address() {
    let host = Host::start("threshold = 1");
    host.connect_often("64:ff9b::198.51.100.7", 2);
    let shown = host.ask("show 64:ff9b::198.51.100.7");
    assert_eq!((&shown["target"], &shown["counters"][0]["count"]), (&json!("198.51.100.7"), &json!(2)));
    host.ask("reset 64:ff9b::198.51.100.7");
    assert!(passes(&host.connected("198.51.100.7", 1)));
    host.ask("hit connections 64:ff9b::198.51.100.9");
    assert_eq!(host.ask("show 198.51.100.9")["counters"][0]["count"], 1);
    host.ask("ban 64:ff9b::203.0.113.0/120 for 1h");
    assert!(!passes(&host.connected("203.0.113.9", 1)) && !passes(&host.connected("64:ff9b::203.0.113.9", 2)));
    assert_eq!(host.ask("unban 64:ff9b::203.0.113.0/120")["lifted"], 1);
    assert!(passes(&host.connected("203.0.113.9", 3)));
}
