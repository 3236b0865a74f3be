//! Several hosts with one memcached share counts and bans.

use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use crate::support::{Daemon, Memcached, Policy};

#[test]
fn hosts_with_one_memcached_count_exactly_and_refuse_at_the_same_moment() {
    const HOSTS: usize = 3;
    const CONNECTIONS: usize = 64;
    const KEYS: usize = 16;
    const ROUNDS: usize = 8;
    const THRESHOLD: usize = 50;
    let memcached = Memcached::start_with(&["-c", "256"]);
    let rules =
        format!("whitelist = []\nthreshold = {THRESHOLD}\nexptime = \"1h\"\nstore_timeout = \"5s\"\nover_memory = 0\n");
    let rules = format!("{rules}memcached_server = {:?}\n", memcached.server());
    let hosts: Vec<_> = (0..HOSTS).map(|_| Daemon::start(&rules)).collect();
    let start = Instant::now();
    let passed = Mutex::new([0; KEYS]);
    thread::scope(|scope| {
        for connection in 0..HOSTS * CONNECTIONS {
            let (host, passed) = (&hosts[connection % HOSTS], &passed);
            scope.spawn(move || {
                let mut policy = Policy::connect(host.endpoint());
                for round in 0..ROUNDS {
                    for key in (0..KEYS).map(|key| (key + connection) % KEYS) {
                        let port = 1 + connection * ROUNDS + round;
                        let passes = policy.connected(&format!("198.51.100.{key}"), port as u16) == "DUNNO";
                        passed.lock().unwrap()[key] += usize::from(passes);
                    }
                }
            });
        }
    });
    let each = HOSTS * CONNECTIONS * ROUNDS;
    for (key, passed) in passed.into_inner().unwrap().into_iter().enumerate() {
        let counted = memcached.value(&format!("connshaper:198.51.100.{key}"));
        assert_eq!(counted, Some(each.to_string()), "hits of key {key}");
        // All hosts together let no more pass than one host alone.
        assert_eq!(passed, THRESHOLD, "sessions of key {key} that passed");
    }
    println!("{HOSTS} hosts, {} connections: {} requests in {:?}", HOSTS * CONNECTIONS, each * KEYS, start.elapsed());
}

#[test]
fn a_ban_on_one_host_is_a_ban_on_all() {
    let memcached = Memcached::start();
    let rules = "whitelist = []\nthreshold = 1\nban_time = \"10m\"\nstore_timeout = \"5s\"\n";
    let rules = format!("{rules}memcached_server = {:?}\n", memcached.server());
    let hosts = [(); 3].map(|()| Daemon::start(&rules));
    let mut policies = hosts.each_ref().map(|host| Policy::connect(host.endpoint()));
    assert_eq!(policies[0].connected("198.51.100.1", 1), "DUNNO");
    assert_ne!(policies[0].connected("198.51.100.1", 2), "DUNNO");
    hosts[0].lines().wait_for("BANNED ");
    // The window has ended, the ban has not.
    assert_eq!(memcached.say("delete connshaper:198.51.100.1"), "DELETED");
    for (port, (policy, host)) in (3..).zip(policies.iter_mut().zip(&hosts).skip(1)) {
        assert_ne!(policy.connected("198.51.100.1", port), "DUNNO");
        let line = host.lines().wait_for("REFUSED ");
        assert!(line.contains("reason=banned"), "{line}");
        memcached.say("delete connshaper:198.51.100.1");
    }
}
