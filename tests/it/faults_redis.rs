//! A Redis that fails, in every way it can: Postfix notices nothing.
//!
//! The table of `faults_store`, with lines of its own for what only Redis can do.

use std::cell::RefCell;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::faults_store::{
    NOISE, RECOVERY, SLOWER_THAN, STORE_TIMEOUT, conclude, in_time_and_right, outage, stays_down_while_slow,
};
use crate::support::load::{RULES, Row, under_load};
use crate::support::redis::RIGHTS;
use crate::support::{
    Daemon, Dir, Fault, Gate, Namespace, Policy, Redis, RedisCluster, Sentinel, request, statistic, until,
};

fn daemon(store: &str) -> Daemon {
    Daemon::start(&format!("{RULES}{store}"))
}

/// A Redis behind a gate, and a daemon that asks it there.
fn gated(more: &str) -> (Redis, Gate, Daemon) {
    let redis = Redis::start();
    let gate = Gate::to(&redis.address().to_string());
    let daemon = daemon(&format!("redis_server = \"redis://{}\"\n{more}", gate.server()));
    (redis, gate, daemon)
}

/// The one line that names why the store is down: the first, or a later one where the first says that it went away.
fn names(daemon: &Daemon, cause: &str) -> String {
    let found = || daemon.lines().with("_DOWN ").into_iter().filter(|line| line.contains(cause)).collect::<Vec<_>>();
    let line = until(cause, || found().pop());
    assert_eq!(found().len(), 1, "{}", daemon.lines());
    line
}

/// The count of a client that the load has again and again.
const BUSY: &str = "connshaper:10.0.200.0";

#[test]
fn a_killed_redis_delays_no_answer() {
    let redis = RefCell::new(Redis::start());
    let daemon = daemon(&redis.borrow().config());
    let seen = outage(&daemon, || redis.borrow_mut().kill(), || redis.borrow_mut().start_again());
    conclude("redis killed", &daemon, &seen);
}

#[test]
fn a_frozen_redis_delays_no_answer() {
    let redis = Redis::start();
    let daemon = daemon(&redis.config());
    let seen = outage(&daemon, || redis.freeze(), || redis.thaw());
    conclude("redis frozen", &daemon, &seen);
}

#[test]
fn a_redis_that_is_not_there_at_the_start_delays_no_answer() {
    let mut redis = Redis::start();
    redis.kill();
    let daemon = daemon(&redis.config());
    let seen = outage(&daemon, || {}, || redis.start_again());
    conclude("redis refused", &daemon, &seen);
}

#[test]
fn a_redis_whose_packets_are_lost_delays_no_answer() {
    let [near, far] = Namespace::pair();
    let redis = Redis::start_within(&far);
    let dir = Dir::new();
    let endpoint = format!("unix:{}", dir.join("policy").display());
    let daemon = Daemon::start_at_after(&endpoint, &near.enter(), &format!("{RULES}{}", redis.config()));
    let lose = || far.run("ip route add blackhole 10.9.8.1/32");
    let seen = outage(&daemon, lose, || far.run("ip route del blackhole 10.9.8.1/32"));
    conclude("redis black-holed", &daemon, &seen);
    until("a count after that", || redis.value(BUSY));
}

#[test]
fn a_redis_slower_than_store_timeout_delays_no_answer_and_mixes_up_none() {
    let (_redis, gate, daemon) = gated("");
    let seen = outage(&daemon, || gate.set(Fault::Slow(Duration::from_millis(300))), || gate.set(Fault::None));
    conclude("redis slow, 300 ms", &daemon, &seen);
}

#[test]
fn a_redis_that_stays_slow_goes_down_once() {
    let (_redis, gate, daemon) = gated(SLOWER_THAN);
    stays_down_while_slow(&daemon, &gate);
}

#[test]
fn a_slow_redis_within_store_timeout_counts_everything() {
    let (_redis, gate, daemon) = gated("store_timeout = \"1s\"\n");
    let (seen, ()) = under_load(&daemon, |progress| {
        gate.set(Fault::Slow(Duration::from_millis(40)));
        progress.wait_for(400);
    });
    Row { fault: "redis slow, 40 ms of 1 s", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    assert_eq!((seen.refused_wrongly(), seen.passed_wrongly()), (0, 0));
    assert!(daemon.lines().with("STORE_DOWN").is_empty());
}

#[test]
fn a_request_does_not_wait_for_the_answers_to_others() {
    let (redis, gate, daemon) = gated("store_timeout = \"5s\"\n");
    let counted = |client: &str| redis.value(&format!("connshaper:{client}")).as_deref() == Some("1");
    let mut policies = [(); 3].map(|()| Policy::connect(daemon.endpoint()));
    assert_eq!(policies[0].connected("198.51.100.9", 1), "DUNNO");
    until("a connection", || counted("198.51.100.9").then_some(()));
    gate.set(Fault::Held);
    for (number, policy) in policies.iter_mut().enumerate() {
        let client = format!("198.51.100.{number}");
        policy.send(request(&[&format!("client_address={client}"), "protocol_state=CONNECT"]));
        until("a count", || counted(&client).then_some(()));
    }
    gate.set(Fault::None);
    for policy in &mut policies {
        assert_eq!(policy.answer().as_deref(), Some("action=DUNNO"));
    }
}

#[test]
fn a_half_closed_connection_to_redis_delays_no_answer() {
    let (_redis, gate, daemon) = gated("");
    let seen = outage(&daemon, || gate.set(Fault::HalfClosed), || gate.set(Fault::None));
    conclude("redis half-closed", &daemon, &seen);
}

#[test]
fn a_redis_with_invalid_answers_delays_no_answer() {
    for nonsense in ["HTTP/1.1 400 Bad Request\r\n\r\n", ":4\r\n", "*1\r\n$3\r\n123\r\n", "*1\r\n$-1\r\n"] {
        let (_redis, gate, daemon) = gated("");
        let seen = outage(&daemon, || gate.set(Fault::Nonsense(nonsense)), || gate.set(Fault::None));
        conclude("redis nonsense", &daemon, &seen);
    }
}

#[test]
fn a_redis_that_is_started_again_delays_no_answer() {
    let redis = RefCell::new(Redis::start());
    let daemon = daemon(&redis.borrow().config());
    let (seen, recovery) = under_load(&daemon, |progress| {
        // Its statistics are looked at every five seconds.
        let begun = Instant::now();
        until("a look that saw keys", || (begun.elapsed() > Duration::from_secs(6)).then_some(()));
        let ups = daemon.lines().with("STORE_UP").len();
        redis.borrow_mut().kill();
        redis.borrow_mut().start_again();
        let back = Instant::now();
        daemon.lines().wait_for_more("STORE_UP", ups);
        let recovery = back.elapsed();
        until("a count after the restart", || redis.borrow().value(BUSY));
        progress.wait_for(800);
        recovery
    });
    Row { fault: "redis restarted", seen: &seen, p99: None, recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right("redis restarted", &seen);
    let line = daemon.lines().wait_for("STORE_FLUSHED ");
    assert!(line.contains(" cause=\"it was started again\" "), "{line}");
    assert!(recovery < RECOVERY, "{recovery:?}");
}

#[test]
fn a_flush_of_redis_restarts_counts_and_refuses_no_client() {
    let redis = Redis::start();
    let daemon = daemon(&redis.config());
    let (seen, ()) = under_load(&daemon, |progress| {
        until("a client that is over", || (redis.value(BUSY)?.parse::<u32>().ok()? > 10).then_some(()));
        assert_eq!(redis.say(&["FLUSHALL"]), "OK");
        progress.wait_for(2000);
        let line = daemon.lines().wait_for("STORE_FLUSHED ");
        assert!(line.contains(" cause=FLUSHALL "), "{line}");
    });
    Row { fault: "redis flushed", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("redis flushed", &seen);
    assert!(daemon.lines().with("STORE_DOWN").is_empty(), "{}", daemon.lines());
}

#[test]
fn evictions_of_a_redis_short_of_memory_are_logged() {
    let redis = Redis::start_with(&["--maxmemory-policy", "allkeys-random", "--enable-debug-command", "yes"]);
    assert_eq!(redis.say(&["DEBUG", "POPULATE", "20000"]), "OK");
    let mut daemon = daemon(&redis.config());
    let (seen, ()) = under_load(&daemon, |progress| {
        until("a daemon that knows this server", || {
            redis.say(&["INFO", "commandstats"]).contains("cmdstat_info").then_some(())
        });
        let memory = redis.statistic("used_memory") - 500_000;
        assert_eq!(redis.say(&["CONFIG", "SET", "maxmemory", &memory.to_string()]), "OK");
        daemon.lines().wait_for("STORE_EVICTS ");
        progress.wait_for(800);
    });
    Row { fault: "redis short of memory", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("redis short of memory", &seen);
    daemon.stop();
    assert!(statistic(&daemon, "store_evictions").unwrap() > 0);
    assert_eq!(daemon.lines().with("STORE_EVICTS").len(), 1, "{}", daemon.lines());
}

#[test]
fn a_redis_that_loads_its_data_delays_no_answer() {
    let redis =
        Redis::start_with(&["--enable-debug-command", "yes", "--loading-process-events-interval-bytes", "1024"]);
    assert_eq!(redis.say(&["DEBUG", "POPULATE", "100000"]), "OK");
    let daemon = daemon(&redis.config());
    thread::scope(|scope| {
        let load = || {
            // In microseconds, for each key.
            assert_eq!(redis.say(&["CONFIG", "SET", "key-load-delay", "1000"]), "OK");
            scope.spawn(|| assert_eq!(redis.say(&["DEBUG", "RELOAD"]), "OK"));
            names(&daemon, "LOADING");
        };
        let seen = outage(&daemon, load, || assert_eq!(redis.say(&["CONFIG", "SET", "key-load-delay", "0"]), "OK"));
        conclude("redis loading", &daemon, &seen);
    });
}

#[test]
fn a_redis_that_cannot_save_delays_no_answer() {
    let redis = Redis::start();
    let daemon = daemon(&redis.config());
    // Its file cannot take the place of a directory.
    fs::create_dir(redis.dir().join("dump.rdb")).unwrap();
    let spoil = || {
        assert_eq!(redis.say(&["CONFIG", "SET", "save", "3600 1"]), "OK");
        redis.say(&["BGSAVE"]);
        until("a snapshot that failed", || {
            redis.say(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err").then_some(())
        });
    };
    let seen = outage(&daemon, spoil, || assert_eq!(redis.say(&["CONFIG", "SET", "save", ""]), "OK"));
    conclude("redis cannot save", &daemon, &seen);
    names(&daemon, "MISCONF");
}

#[test]
fn a_redis_that_gets_a_password_delays_no_answer() {
    let redis = Redis::start();
    let daemon = daemon(&redis.config());
    let close = || {
        // Connections that are there already go on.
        assert_eq!(redis.say(&["CONFIG", "SET", "requirepass", "secret"]), "OK");
        redis.say(&["--no-auth-warning", "-a", "secret", "CLIENT", "KILL", "TYPE", "normal"]);
        names(&daemon, "NOAUTH");
    };
    let open =
        || assert_eq!(redis.say(&["--no-auth-warning", "-a", "secret", "CONFIG", "SET", "requirepass", ""]), "OK");
    let seen = outage(&daemon, close, open);
    conclude("redis wants a password", &daemon, &seen);
}

#[test]
fn a_redis_whose_password_changes_delays_no_answer() {
    let redis = Redis::start();
    assert_eq!(redis.say(&["CONFIG", "SET", "requirepass", "old"]), "OK");
    let file = redis.dir().write("password", "old\n");
    let daemon = daemon(&format!("{}redis_password_file = \"{}\"\n", redis.config(), file.display()));
    let change = || {
        assert_eq!(redis.say(&["--no-auth-warning", "-a", "old", "CONFIG", "SET", "requirepass", "new"]), "OK");
        redis.say(&["--no-auth-warning", "-a", "new", "CLIENT", "KILL", "TYPE", "normal"]);
        let line = names(&daemon, "refuses the login");
        assert!(!line.contains("old"), "{line}");
    };
    let seen = outage(&daemon, change, || drop(redis.dir().write("password", "new\n")));
    conclude("redis password changed", &daemon, &seen);
}

#[test]
fn a_user_who_may_no_longer_run_scripts_counts_by_plain_commands() {
    let redis = Redis::with_rights(&format!("{RIGHTS} +mget +acl"));
    let daemon = daemon(&redis.config());
    let (seen, ()) = under_load(&daemon, |progress| {
        assert_eq!(redis.say(&["ACL", "SETUSER", "counter", "-eval", "-evalsha"]), "OK");
        daemon.lines().wait_for("STORE_UP");
        let before: u32 = until("a count", || redis.value(BUSY)).parse().unwrap();
        until("further counts", || (redis.value(BUSY)?.parse::<u32>().ok()? > before).then_some(()));
        progress.wait_for(800);
    });
    Row { fault: "redis without scripts", seen: &seen, p99: None, recovery: None, log: daemon.lines() }.print();
    in_time_and_right("redis without scripts", &seen);
    let down = daemon.lines().with("STORE_DOWN");
    assert!(down.len() == 1 && down[0].contains("evalsha"), "{}", daemon.lines());
}

#[test]
fn a_redis_that_becomes_a_replica_delays_no_answer() {
    let (redis, master) = (Redis::start(), Redis::start());
    let daemon = daemon(&redis.config());
    let port = master.port().to_string();
    let follow = || assert_eq!(redis.say(&["REPLICAOF", "127.0.0.1", &port]), "OK");
    let seen = outage(&daemon, follow, || assert_eq!(redis.say(&["REPLICAOF", "NO", "ONE"]), "OK"));
    conclude("redis read-only", &daemon, &seen);
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("READONLY") || line.contains("LOADING") || line.contains("MASTERDOWN"), "{line}");
}

#[test]
fn a_redis_that_forgets_its_scripts_is_told_again() {
    let redis = Redis::start();
    let daemon = daemon(&redis.config());
    let (seen, ()) = under_load(&daemon, |progress| {
        assert_eq!(redis.say(&["SCRIPT", "FLUSH"]), "OK");
        progress.wait_for(1600);
    });
    in_time_and_right("redis without scripts", &seen);
    assert!(daemon.lines().with("STORE_").is_empty(), "{}", daemon.lines());
}

#[test]
fn a_failover_of_sentinel_is_followed_under_load() {
    let sentinel = RefCell::new(Sentinel::start());
    let daemon = daemon(&sentinel.borrow().config());
    assert_eq!(sentinel.borrow().replica.value("connshaper:10.0.0.0"), None);
    let begun = daemon.lines().with("STORE_UP").len();
    let (seen, recovery) = under_load(&daemon, |progress| {
        sentinel.borrow_mut().master.kill();
        let dead = Instant::now();
        daemon.lines().wait_for_more("STORE_UP", begun);
        let recovery = dead.elapsed();
        progress.wait_for(800);
        recovery
    });
    Row { fault: "redis failover", seen: &seen, p99: None, recovery: Some(recovery), log: daemon.lines() }.print();
    in_time_and_right("redis failover", &seen);
    // The replica has all counts.
    assert!(daemon.lines().with("STORE_FLUSHED").is_empty(), "{}", daemon.lines());
    let replica = &sentinel.borrow().replica;
    assert!(replica.say(&["INFO", "replication"]).contains("role:master"));
    // It counts there now.
    let before = replica.statistic("total_commands_processed");
    Policy::connect(daemon.endpoint()).connected("203.0.113.1", 1);
    until("a count at the new master", || replica.value("connshaper:203.0.113.1"));
    assert!(replica.statistic("total_commands_processed") > before);
}

#[test]
fn of_a_cluster_only_the_keys_of_a_dead_node_are_counted_locally() {
    let mut cluster = RedisCluster::start();
    let patient = format!("store_timeout = \"1s\"\n{}", cluster.config());
    let hosts = [daemon(&patient), daemon(&patient)];
    let clients: Vec<String> = (0..60).map(|number| format!("203.0.113.{number}")).collect();
    let ask = |host: &Daemon, client: &str, port: u16| {
        let asked = Instant::now();
        let answer = Policy::connect(host.endpoint()).connected(client, port);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        assert!(answer.starts_with("DUNNO") || answer.starts_with("DEFER_IF_PERMIT"), "{answer}");
        answer == "DUNNO"
    };
    // Five hits on each host are the ten of the threshold.
    for turn in 0..5 {
        for client in &clients {
            assert!(hosts.iter().all(|host| ask(host, client, 100 + turn)), "{client}");
        }
    }
    let held = |client: &String| cluster.value(&format!("{{connshaper:{client}}}"));
    assert!(
        clients.iter().all(|client| held(client).as_deref() == Some("10")),
        "{:?}",
        clients.iter().map(held).collect::<Vec<_>>()
    );
    let of_first: Vec<bool> = clients
        .iter()
        .map(|client| cluster.nodes[0].value(&format!("{{connshaper:{client}}}")).is_some_and(|value| value == "10"))
        .collect();
    assert!(of_first.contains(&true) && of_first.contains(&false));
    cluster.nodes[0].kill();
    for (host, daemon) in hosts.iter().enumerate() {
        // Those that are over stay over wherever they are counted, and no request is left without an answer.
        for client in &clients {
            let _ = ask(daemon, client, 200 + host as u16);
        }
        daemon.lines().wait_for("STORE_DOWN");
    }
    for (client, first) in clients.iter().zip(&of_first) {
        if !first {
            assert!(hosts.iter().all(|host| !ask(host, client, 300)), "{client} is over on a node that is up");
        }
    }
    for daemon in &hosts {
        let down = daemon.lines().with("STORE_DOWN");
        let port = cluster.nodes[0].port().to_string();
        assert!(down.iter().all(|line| line.contains(&port)), "{down:?}");
    }
}

#[test]
fn a_cluster_that_moves_slots_counts_on() {
    let cluster = RedisCluster::with_rights(RIGHTS);
    let host = daemon(&cluster.config());
    let client = "203.0.113.7";
    let key = format!("{{connshaper:{client}}}");
    let mut policy = Policy::connect(host.endpoint());
    for port in 1..=5 {
        assert_eq!(policy.connected(client, port), "DUNNO");
    }
    let slot = cluster.nodes[0].say(&["CLUSTER", "KEYSLOT", &key]);
    let id = |node: usize| cluster.nodes[node].say(&["CLUSTER", "MYID"]);
    let from = (0..3).find(|node| cluster.nodes[*node].value(&key).is_some_and(|value| value == "5")).unwrap();
    let to = (from + 1) % 3;
    assert_eq!(cluster.nodes[to].say(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]), "OK");
    assert_eq!(cluster.nodes[from].say(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]), "OK");
    assert_eq!(policy.connected(client, 6), "DUNNO", "while it moves");
    let port = cluster.nodes[to].port().to_string();
    assert_eq!(cluster.nodes[from].say(&["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"]), "OK");
    assert_eq!(policy.connected(client, 7), "DUNNO", "after the key, before the slot");
    for node in [to, from] {
        assert_eq!(cluster.nodes[node].say(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]), "OK");
    }
    for port in 8..=10 {
        assert_eq!(policy.connected(client, port), "DUNNO");
    }
    assert!(policy.connected(client, 11).starts_with("DEFER_IF_PERMIT"));
    until("all hits at the new node", || (cluster.nodes[to].value(&key).as_deref() == Some("11")).then_some(()));
    assert!(host.lines().with("STORE_DOWN").is_empty(), "{}", host.lines());
}

/// What an administrator does to a Redis, and what the log says of it.
type Mistake = (&'static str, fn(&Redis), fn(&Redis), &'static str, &'static str);

#[test]
fn what_redis_refuses_is_answered_in_time_named_once_and_recovered_from() {
    let mistakes: [Mistake; 4] = [
        (
            "another type",
            |redis| drop(redis.say(&["RPUSH", "connshaper:198.51.100.1", "x"])),
            |redis| drop(redis.say(&["DEL", "connshaper:198.51.100.1"])),
            "STORE_ERROR",
            "not a number",
        ),
        (
            "not a number",
            |redis| drop(redis.say(&["SET", "connshaper:198.51.100.1", "hello", "EX", "60"])),
            |redis| drop(redis.say(&["DEL", "connshaper:198.51.100.1"])),
            "STORE_ERROR",
            "not a number",
        ),
        (
            "no memory",
            |redis| drop(redis.say(&["CONFIG", "SET", "maxmemory", "1"])),
            |redis| drop(redis.say(&["CONFIG", "SET", "maxmemory", "0"])),
            "STORE_ERROR",
            "OOM",
        ),
        (
            "too few replicas",
            |redis| drop(redis.say(&["CONFIG", "SET", "min-replicas-to-write", "1"])),
            |redis| drop(redis.say(&["CONFIG", "SET", "min-replicas-to-write", "0"])),
            "STORE_DOWN",
            "NOREPLICAS",
        ),
    ];
    for (name, make, mend, keyword, cause) in mistakes {
        let redis = Redis::start();
        let daemon = Daemon::start(&format!("whitelist = []\nthreshold = 2\n{}", redis.config()));
        let mut policy = Policy::connect(daemon.endpoint());
        assert_eq!(policy.connected("203.0.113.1", 1), "DUNNO", "{name}");
        make(&redis);
        let mut ask = |port| {
            let asked = Instant::now();
            let passes = policy.connected("198.51.100.1", port) == "DUNNO";
            assert!(asked.elapsed() < STORE_TIMEOUT + NOISE, "{name}: {:?}", asked.elapsed());
            passes
        };
        assert_eq!([1, 2, 3, 4].map(&mut ask), [true, true, false, false], "{name}");
        let line = daemon.lines().wait_for(keyword);
        assert!(line.contains(cause), "{name}: {line}");
        assert_eq!(daemon.lines().with(keyword).len(), 1, "{name}: {}", daemon.lines());
        mend(&redis);
        let mut port = 10;
        until("a count in Redis again", || {
            port += 1;
            policy.connected("198.51.100.9", port);
            redis.value("connshaper:198.51.100.9")
        });
    }
}

#[test]
fn a_wrong_password_is_named_and_a_new_one_is_read_at_the_next_connection() {
    let redis = Redis::start();
    assert_eq!(redis.say(&["CONFIG", "SET", "requirepass", "right"]), "OK");
    let file = redis.dir().write("password", "wrong\n");
    let config = format!("{}redis_password_file = \"{}\"\n", redis.config(), file.display());
    let daemon = Daemon::start(&format!("whitelist = []\n{config}"));
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    let line = daemon.lines().wait_for("STORE_DOWN");
    assert!(line.contains("refuses the login") && !line.contains("wrong"), "{line}");
    redis.dir().write("password", "right\n");
    daemon.lines().wait_for("STORE_UP");
    assert_eq!(daemon.lines().with("STORE_DOWN").len(), 1);
    assert_eq!(policy.connected("198.51.100.2", 2), "DUNNO");
    let count = || redis.say(&["--no-auth-warning", "-a", "right", "GET", "connshaper:198.51.100.2"]);
    assert_eq!(count(), "1");
}

#[test]
fn a_key_without_an_expiry_is_given_one_in_redis_too() {
    for redis in [Redis::start(), Redis::with_rights(crate::support::redis::RIGHTS_WITHOUT_EVAL)] {
        redis.say(&["SET", "connshaper:198.51.100.1", "7"]);
        let daemon = Daemon::start(&format!("whitelist = []\n{}", redis.config()));
        assert_eq!(Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1), "DUNNO");
        until("a count", || (redis.value("connshaper:198.51.100.1").as_deref() == Some("8")).then_some(()));
        // The user may not ask for TTL, but for PTTL.
        until("an expiry", || (redis.say(&["PTTL", "connshaper:198.51.100.1"]).parse::<i64>().ok()? > 0).then_some(()));
    }
}

#[test]
fn a_hit_of_a_window_that_a_daemon_knows_is_one_command_of_redis() {
    let redis = Redis::start();
    let config = format!("whitelist = []\nthreshold = 3\nexptime = 600\nover_memory = 0\n{}", redis.config());
    let calls = || {
        let statistics = redis.say(&["INFO", "commandstats"]);
        ["set", "incrby", "pttl", "pexpire"].map(|command| {
            let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
            line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
        })
    };
    let mut asked = 0;
    let mut costs = |policy: &mut Policy, answer: &str, left: i64| {
        asked += 1;
        let before: [u32; 4] = calls();
        assert!(policy.connected("198.51.100.1", asked).starts_with(answer));
        let after = calls();
        // The window is that of the first hit.
        assert!(redis.say(&["PTTL", "connshaper:198.51.100.1"]).parse::<i64>().unwrap() <= left);
        assert_eq!(redis.value("connshaper:198.51.100.1"), Some(asked.to_string()));
        [0, 1, 2, 3].map(|command| after[command] - before[command])
    };
    let (one, other) = (Daemon::start(&config), Daemon::start(&config));
    let (mut one, mut other) = (Policy::connect(one.endpoint()), Policy::connect(other.endpoint()));
    assert_eq!(costs(&mut one, "DUNNO", 600_000), [1, 0, 0, 0], "the first hit");
    redis.say(&["PEXPIRE", "connshaper:198.51.100.1", "300000"]);
    assert_eq!(costs(&mut other, "DUNNO", 300_000), [1, 1, 1, 0], "a daemon that does not know it");
    assert_eq!(costs(&mut other, "DUNNO", 300_000), [0, 1, 0, 0], "a daemon that does");
    assert_eq!(costs(&mut one, "DEFER_IF_PERMIT", 300_000), [0, 1, 0, 0], "others have counted since");
    assert_eq!(costs(&mut one, "DEFER_IF_PERMIT", 300_000), [1, 1, 1, 0], "over the threshold it asks for the end");
}

#[test]
fn a_sliding_window_in_redis_is_exact_and_its_memory_bounded() {
    let redis = Redis::start();
    let rules =
        "whitelist = []\nthreshold = 3\nexptime = 2\nwindow = \"sliding\"\nover_memory = 0\ncount_refused = false\n";
    let daemon = Daemon::start(&format!("{rules}store_timeout = \"5s\"\n{}", redis.config()));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut passed: Vec<Instant> = Vec::new();
    let start = Instant::now();
    let mut port = 0;
    while start.elapsed() < Duration::from_secs(7) {
        port += 1;
        let asked = Instant::now();
        if policy.connected("198.51.100.1", port) == "DUNNO" {
            passed.push(asked);
        }
        thread::sleep(Duration::from_millis(if passed.len().is_multiple_of(3) { 600 } else { 40 }));
    }
    // No span of the window has more than three; the clock of this test and Redis' rounding differ by milliseconds.
    for four in passed.windows(4) {
        assert!(four[3] - four[0] > Duration::from_millis(1990), "{:?}", four[3] - four[0]);
    }
    assert!(passed.len() >= 6, "{}", passed.len());
    let entries: u64 = redis.say(&["ZCARD", "connshaper:198.51.100.1!hits"]).parse().unwrap();
    assert!(entries <= 5, "{entries}");
}

#[test]
fn refused_hits_are_taken_back_from_a_sliding_window_in_redis() {
    let redis = Redis::start();
    let rules = "whitelist = []\nthreshold = 2\nexptime = \"1h\"\nwindow = \"sliding\"\ncount_refused = false\n\
                 [limit.other]\nthreshold = 1\nexptime = \"1h\"\n";
    let config = redis.config();
    let daemon = Daemon::start(&format!("store_timeout = \"5s\"\n{config}{rules}"));
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    for port in 2..6 {
        assert!(policy.connected("198.51.100.1", port).starts_with("DEFER_IF_PERMIT"));
    }
    // The other limit refused, so only the first hit is left in the window.
    until("one hit that is left", || {
        (redis.say(&["ZSCORE", "connshaper:198.51.100.1!hits", "sum"]) == "-2").then_some(())
    });
}
