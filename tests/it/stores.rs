//! Counting on every store: connection_shaper's semantics as a table of cases, and
//! the keys in memcached, with real servers and clients.

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use memcache::exp::{Memcache, Ttl};

use crate::support::redis::{RIGHTS, RIGHTS_IN_CLUSTER, RIGHTS_WITHOUT_EVAL};
use crate::support::{Daemon, Memcached, Policy, Proxy, Redis, RedisCluster, STORES, Site, until};

/// Further ways to reach the stores, and to be let in.
const FURTHER: [fn() -> Site; 9] = [
    || Site::memcached("memcached on a unix socket", Memcached::start_on_unix_socket()),
    || Site::memcached("memcached with a login", Memcached::start_with_login()),
    || Site::memcached("memcached over TLS", Memcached::start_with_tls()),
    redis_on_unix_socket,
    || Site::redis("redis with a user that may do little", Redis::with_rights(RIGHTS)),
    || Site::redis("redis over TLS", Redis::start_with_tls()),
    || Site::redis_cluster("a cluster of three redis", RedisCluster::start()),
    || Site::redis_cluster("a cluster with a user that may do little", RedisCluster::with_rights(RIGHTS)),
    || Site::redis_cluster("a cluster without scripts", RedisCluster::with_rights(RIGHTS_WITHOUT_EVAL)),
];

fn redis_on_unix_socket() -> Site {
    let redis = Redis::start();
    let config = redis.config_of_socket();
    let mut site = Site::redis("redis on a unix socket", redis);
    site.config = config;
    site
}

/// A daemon that counts there.
fn daemon(site: &Site, rules: &str) -> Daemon {
    Daemon::start(&format!("whitelist = []\n{}{}{rules}", site.config, patient(site)))
}

/// These tests are not about deadlines, and the machine may be busy.
fn patient(site: &Site) -> &'static str {
    if site.is_shared() { "store_timeout = \"5s\"\n" } else { "" }
}

/// Runs a test on every store at once, each with a name for the message of a failure.
fn on_every_store(test: impl Fn(&str, &Site) + Sync) {
    thread::scope(|scope| {
        for site in STORES.iter().chain(&FURTHER) {
            let test = &test;
            scope.spawn(move || {
                let site = site();
                test(site.name, &site);
            });
        }
    });
}

#[test]
fn the_manual_lists_the_rights_that_these_tests_use() {
    let manual = include_str!("../../man/connshaper.toml.5");
    let (_, section) = manual.split_once("ACL SETUSER connshaper").expect("an example of a user");
    let (example, rest) = section.split_once(".Ed").unwrap();
    let listed = |text: &str| text.split_whitespace().filter(|word| word.starts_with('+')).map(str::to_owned).collect();
    let (manuals, ours): (Vec<String>, Vec<String>) = (listed(example), listed(RIGHTS));
    assert_eq!(manuals, ours);
    let (below, _) = rest.split_once(".Ss ").unwrap();
    let (in_cluster, without_scripts) = below.split_once("Where scripts are not allowed").unwrap();
    assert_eq!(listed(in_cluster), listed(RIGHTS_IN_CLUSTER));
    assert_eq!(listed(without_scripts), ["+mget", "+eval", "+evalsha"], "what replaces what");
    let scripts_alone =
        ["+eval", "+evalsha", "+zadd", "+zrem", "+zscore", "+zrange", "+zrangebyscore", "+zremrangebyscore", "+time"];
    let mut plain: Vec<String> = ours.into_iter().filter(|word| !scripts_alone.contains(&&word[..])).collect();
    let mut used: Vec<String> = listed(RIGHTS_WITHOUT_EVAL);
    plain.push("+mget".to_owned());
    plain.sort();
    used.sort();
    assert_eq!(plain, used);
}

const PASS: &str = "DUNNO";

/// The verdicts on connections of these clients, in turn: `.` passes, `x` is refused.
fn verdicts(daemon: &Daemon, clients: &[&str]) -> String {
    // Every connection is a session of its own, so it has a port of its own.
    static PORT: AtomicU16 = AtomicU16::new(1024);
    let mut policy = Policy::connect(daemon.endpoint());
    let verdict = |client: &&str| match policy.connected(client, PORT.fetch_add(1, Ordering::Relaxed)).as_str() {
        PASS => '.',
        _ => 'x',
    };
    clients.iter().map(verdict).collect()
}

#[test]
fn every_store_counts_as_connection_shaper_did() {
    let (a, b) = ("198.51.100.1", "198.51.100.2");
    let (v6, same_64, other_64) = ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1");
    let cases: &[(&str, &str, &[&str], &str)] = &[
        ("the hit after the threshold is over", "threshold = 3", &[a, a, a, a, a], "...xx"),
        ("ten are allowed by default", "", &[a; 12], "..........xx"),
        ("clients are counted apart", "threshold = 1", &[a, b, a, b], "..xx"),
        ("an IPv6 client is its /64", "threshold = 1", &[v6, same_64, other_64], ".x."),
        (
            "prefix lengths are configurable",
            "threshold = 1\nipv4_prefix_length = 24\nipv6_prefix_length = 128",
            &[a, b, v6, same_64],
            ".x..",
        ),
        ("mapped addresses are IPv4", "threshold = 1", &[a, "::ffff:198.51.100.1"], ".x"),
        (
            "a whitelisted client is not counted",
            "threshold = 1\nwhitelist = [\"198.51.100.1\"]",
            &[a, a, a, b, b],
            "....x",
        ),
    ];
    on_every_store(|store, site| {
        for (number, (claim, rules, clients, expected)) in cases.iter().enumerate() {
            // Cases share a memcached, so each has keys of its own.
            let whitelist = if rules.contains("whitelist") { "" } else { "whitelist = []\n" };
            let config =
                format!("{whitelist}{}{}key_prefix = \"case{number}:\"\n{rules}\n", site.config, patient(site));
            let daemon = Daemon::start(&config);
            assert_eq!(verdicts(&daemon, clients), *expected, "{claim}, on {store}");
        }
    });
}

#[test]
fn a_window_ends_by_itself_and_hits_do_not_extend_it() {
    on_every_store(|store, site| {
        let daemon = daemon(site, "threshold = 1\nexptime = 2\n");
        let mut policy = Policy::connect(daemon.endpoint());
        assert_eq!(policy.connected("198.51.100.1", 1), PASS, "on {store}");
        let mut refused = 0;
        until("the end of a window of two seconds", || {
            refused += 1;
            (policy.connected("198.51.100.1", 1 + refused) == PASS).then_some(())
        });
        assert!(refused > 1, "refused {refused} times within the window, on {store}");
    });
}

#[test]
fn a_window_in_memory_ends_at_exptime() {
    let daemon = daemon(&Site::memory(), "threshold = 1\nexptime = 1\n");
    let mut policy = Policy::connect(daemon.endpoint());
    let mut hit = |client: usize, port| policy.connected(&format!("198.51.100.{client}"), port);
    // The windows begin at different parts of a second. The daemon has read its clock before it answers.
    let answered: Vec<Instant> = (0..5)
        .map(|client| {
            thread::sleep(Duration::from_millis(200));
            assert_eq!(hit(client, 1), PASS);
            Instant::now()
        })
        .collect();
    for (client, answered) in answered.iter().enumerate() {
        thread::sleep((*answered + Duration::from_secs(1)).saturating_duration_since(Instant::now()));
        assert_eq!(hit(client, 2), PASS, "client {client}");
    }
}

#[test]
fn two_daemons_with_one_store_count_a_client_together() {
    let redis = [Site::redis("redis", Redis::start()), Site::redis_cluster("a cluster", RedisCluster::start())];
    let others = [Site::one_memcached(), Site::proxied(), Site::sqlite()];
    for site in others.into_iter().chain(redis) {
        let daemons = [daemon(&site, "threshold = 3\n"), daemon(&site, "threshold = 3\n")];
        let alternately: String = (0..6).map(|turn| verdicts(&daemons[turn % 2], &["198.51.100.1"])).collect();
        assert_eq!(alternately, "...xxx");
    }
}

#[test]
fn concurrent_hits_are_all_counted_under_their_own_key() {
    on_every_store(|store, site| {
        let daemon = daemon(site, "threshold = 100000\n");
        let connections = 16;
        thread::scope(|scope| {
            for connection in 0..connections {
                let endpoint = daemon.endpoint();
                scope.spawn(move || {
                    let mut policy = Policy::connect(endpoint);
                    for port in 1..=50 {
                        policy.connected("198.51.100.1", connection * 100 + port);
                        policy.connected(&format!("203.0.113.{connection}"), port);
                    }
                });
            }
        });
        for memcached in &site.memcached {
            for connection in 0..connections {
                let value = memcached.value(&format!("connshaper:203.0.113.{connection}"));
                assert!(value.is_none_or(|value| value == "50"), "on {store}");
            }
        }
        let held = |memcached: &Memcached| memcached.value("connshaper:198.51.100.1");
        let total = site.memcached.iter().filter_map(held).map(|value| value.parse::<u32>().unwrap()).sum::<u32>();
        assert!(site.memcached.is_empty() || total == 16 * 50, "{total} on {store}");
        if let Some(redis) = &site.redis {
            assert_eq!(redis.value("connshaper:198.51.100.1").as_deref(), Some("800"), "on {store}");
            assert_eq!(redis.value("connshaper:203.0.113.7").as_deref(), Some("50"), "on {store}");
        }
        if let Some(cluster) = &site.cluster {
            assert_eq!(cluster.value("{connshaper:198.51.100.1}").as_deref(), Some("800"), "on {store}");
            assert_eq!(cluster.value("{connshaper:203.0.113.7}").as_deref(), Some("50"), "on {store}");
        }
        if let Some(sqlite) = &site.sqlite {
            assert_eq!(sqlite.value("connshaper:198.51.100.1").as_deref(), Some("800"));
            let others = "SELECT min(count), max(count), count(*) FROM counts WHERE key LIKE '%:203.0.113.%'";
            assert_eq!(sqlite.say(others), "50|50|16\n");
        }
    });
}

#[test]
fn a_file_in_the_original_form_uses_the_originals_keys() {
    let memcached = Memcached::start();
    let (host, port) =
        memcached.server().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    let file = format!(
        "# the plugin's own example, with another server\nexptime 60\nthreshold 3\nmemcached_port {port}\n\
         memcached_server {host}\nwhitelist 192.168.1., 192.168.2., 10.0.0\n"
    );
    let daemon = Daemon::start(&file);
    assert!(daemon.lines().wait_for("START").contains("form=connection_shaper"));
    assert_eq!(verdicts(&daemon, &["198.51.100.1"; 5]), "...xx");
    assert_eq!(verdicts(&daemon, &["192.168.1.9"; 5]), ".....");
    assert_eq!(verdicts(&daemon, &["10.0.0.200"; 5]), ".....");
    // An address that only an unanchored match would exempt is counted.
    assert_eq!(verdicts(&daemon, &["110.0.0.5"; 4]), "...x");
    // Loopback is not exempt, and IPv6 clients count as whole addresses.
    assert_eq!(verdicts(&daemon, &["127.0.0.1"; 4]), "...x");
    assert_eq!(
        verdicts(&daemon, &["2001:db8::1", "2001:db8::1", "2001:db8::1", "2001:db8::2", "2001:db8::1"]),
        "....x"
    );
    // The fifth hit was refused from the over-limit cache, and would be added with the next query.
    assert_eq!(memcached.value("198.51.100.1").as_deref(), Some("4"));
    assert_eq!(memcached.value("2001:db8::1").as_deref(), Some("4"));
}

/// The commands of the original for one connection, `add` and `incr`, and the value after them.
fn with_the_originals_client(memcached: &Memcached, key: &str) -> String {
    let script = "my $m = Cache::Memcached::Fast->new({ servers => [$ARGV[0]] });\
                  $m->add($ARGV[1], 0, 60); my $n = $m->incr($ARGV[1]); print $n, ' ', $m->get($ARGV[1]);";
    let output =
        Command::new("perl").args(["-MCache::Memcached::Fast", "-e", script, &memcached.server(), key]).output();
    let output = output.expect("perl with Cache::Memcached::Fast");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_originals_client_and_this_program_share_keys() {
    for (memcached, proxied) in [(Memcached::start(), false), (Memcached::start(), true)] {
        let proxy = proxied.then(|| Proxy::before(&memcached));
        let server = proxy.as_ref().map_or_else(|| memcached.server(), Proxy::server);
        let (host, port) = server.rsplit_once(':').unwrap();
        let daemon = Daemon::start(&format!("threshold 3\nmemcached_server {host}\nmemcached_port {port}\n"));
        assert_eq!(verdicts(&daemon, &["198.51.100.1"; 2]), "..");
        assert_eq!(with_the_originals_client(&memcached, "198.51.100.1"), "3 3");
        assert_eq!(verdicts(&daemon, &["198.51.100.1"]), "x");
        for count in 1..=3 {
            assert_eq!(with_the_originals_client(&memcached, "198.51.100.2"), format!("{count} {count}"));
        }
        assert_eq!(verdicts(&daemon, &["198.51.100.2"]), "x");
        assert_eq!(memcached.value("198.51.100.2").as_deref(), Some("4"));
    }
}

/// Seconds until a key expires, as memcached says; -1: never.
fn seconds_left(memcached: &Memcached, key: &str) -> i64 {
    let answer = memcached.say(&format!("mg {key} t"));
    let left = answer.strip_prefix("HD t").unwrap_or_else(|| panic!("memcached said {answer:?}"));
    left.parse().unwrap()
}

#[test]
fn keys_expire_when_their_window_ends_also_beyond_thirty_days() {
    for site in [Site::one_memcached(), Site::proxied()] {
        for (exptime, seconds) in [("60", 60), ("30d", 2_592_000), ("31d", 2_678_400), ("300d", 25_920_000)] {
            let daemon = daemon(
                &site,
                &format!("threshold = 1\nexptime = \"{exptime}s\"\nkey_prefix = \"{exptime}:\"\n").replace("ds", "d"),
            );
            assert_eq!(verdicts(&daemon, &["198.51.100.1"; 2]), ".x", "exptime {exptime}");
            let left = seconds_left(&site.memcached[0], &format!("{exptime}:198.51.100.1"));
            assert!((seconds - 3..=seconds + 1).contains(&left), "exptime {exptime}: {left} seconds left");
        }
    }
}

#[test]
fn a_key_without_an_expiry_is_given_one() {
    let site = Site::one_memcached();
    let memcached = &site.memcached[0];
    memcached.say("set connshaper:198.51.100.1 0 0 1\r\n7");
    let daemon = daemon(&site, "");
    assert_eq!(verdicts(&daemon, &["198.51.100.1"]), ".");
    until("an expiry", || (seconds_left(memcached, "connshaper:198.51.100.1") > 0).then_some(()));
    assert_eq!(memcached.value("connshaper:198.51.100.1").as_deref(), Some("8"));
}

#[test]
fn a_value_that_is_not_a_number_is_logged_and_counts_are_local() {
    for site in [Site::one_memcached(), Site::proxied()] {
        site.memcached[0].say("set connshaper:198.51.100.1 0 60 5\r\nhello");
        let daemon = daemon(&site, "threshold = 2\n");
        assert_eq!(verdicts(&daemon, &["198.51.100.1"; 4]), "..xx");
        let line = daemon.lines().wait_for("STORE_ERROR");
        assert!(line.contains("key=connshaper:198.51.100.1") && line.contains("key_prefix"), "{line}");
        assert_eq!(site.memcached[0].value("connshaper:198.51.100.1").as_deref(), Some("hello"));
    }
}

#[test]
fn the_text_may_have_the_seconds_left() {
    let site = Site::one_memcached();
    site.memcached[0].say("set connshaper:198.51.100.1 0 30 2\r\n10");
    let daemon =
        daemon(&site, "text = \"{client} {limit} {count}/{threshold} {left}\"\nenhanced_status_code = \"4.2.0\"\n");
    let answer = Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1);
    let told = answer.strip_prefix("DEFER_IF_PERMIT 4.2.0 198.51.100.1 connections 11/10 ");
    let left: u32 = told.unwrap_or_else(|| panic!("{answer}")).parse().unwrap();
    assert!((28..=30).contains(&left), "{answer}");
}

#[test]
fn another_client_reads_our_counters_and_counts_with_us() {
    let memcached = Memcached::start();
    let other = Memcache::connect([memcached.server().as_str()]).unwrap();
    let site = Site::memcached("memcached", memcached);
    let daemon = daemon(&site, "threshold = 3\n");
    let (client, key) = ("198.51.100.1", "connshaper:198.51.100.1");
    assert_eq!(verdicts(&daemon, &[client; 2]), "..");
    assert_eq!(other.get::<u64>(key).unwrap(), Some(2));
    let left = other.inspect(key).unwrap().unwrap().ttl.unwrap();
    assert!((50..=60).contains(&left.as_secs()), "{left:?}");
    assert_eq!(other.incr(key, 1, Ttl::secs(60)).unwrap(), 3);
    assert_eq!(verdicts(&daemon, &[client]), "x");
    // A counter that the other client begins.
    assert_eq!(other.incr("connshaper:198.51.100.2", 3, Ttl::secs(60)).unwrap(), 3);
    assert_eq!(verdicts(&daemon, &["198.51.100.2"]), "x");
}
