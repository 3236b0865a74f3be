//! Several memcached servers: with two replicas the loss of one server loses no count; without replicas
//! its keys move to another server or not, as configured.
//!
//! ```text
//! cargo test --test it -- faults_replicas:: --nocapture
//! ```

use std::time::{Duration, Instant};

use crate::support::load::{RULES, Row, Seen, under_load};
use crate::support::{Daemon, Memcached, Policy, until};

/// The longest answer: `store_timeout`, and what a busy machine adds.
const LONGEST: Duration = Duration::from_millis(1100);

fn daemon(servers: &[Memcached], rules: &str) -> Daemon {
    let servers: Vec<_> = servers.iter().map(Memcached::server).collect();
    Daemon::start(&format!("{RULES}memcached_server = {servers:?}\n{rules}"))
}

#[track_caller]
fn conclude(fault: &str, daemon: &Daemon, seen: &Seen, recovery: Option<Duration>) {
    Row { fault, seen, p99: None, recovery, log: daemon.lines() }.print();
    assert!(seen.longest() < LONGEST, "{fault}: an answer took {:?}", seen.longest());
    assert_eq!((seen.refused_wrongly(), seen.passed_wrongly()), (0, 0), "{fault}: wrong verdicts");
}

#[test]
fn with_two_replicas_the_loss_of_one_server_loses_no_count() {
    let mut servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let daemon = daemon(&servers, "replicas = 2\n");
    let (seen, recovery) = under_load(&daemon, |progress| {
        servers[0].kill();
        daemon.lines().wait_for("STORE_DOWN");
        progress.wait_for(2000);
        servers[0].start_again();
        let back = Instant::now();
        daemon.lines().wait_for("STORE_UP");
        let recovery = back.elapsed();
        progress.wait_for(2000);
        recovery
    });
    conclude("one of three killed", &daemon, &seen, Some(recovery));
}

#[test]
fn with_two_replicas_a_frozen_server_loses_no_count() {
    let servers = [Memcached::start(), Memcached::start()];
    let daemon = daemon(&servers, "replicas = 2\n");
    let (seen, recovery) = under_load(&daemon, |progress| {
        servers[1].freeze();
        daemon.lines().wait_for("STORE_DOWN");
        progress.wait_for(2000);
        servers[1].thaw();
        let back = Instant::now();
        daemon.lines().wait_for("STORE_UP");
        let recovery = back.elapsed();
        progress.wait_for(2000);
        recovery
    });
    conclude("one of two frozen", &daemon, &seen, Some(recovery));
}

#[test]
fn with_two_replicas_the_flush_of_one_loses_no_count() {
    let servers = [Memcached::start(), Memcached::start()];
    let daemon = daemon(&servers, "replicas = 2\n");
    let (seen, ()) = under_load(&daemon, |progress| {
        servers[0].say("flush_all");
        progress.wait_for(2000);
    });
    conclude("one of two flushed", &daemon, &seen, None);
}

#[test]
fn bans_and_refunds_reach_every_replica() {
    let mut servers = [Memcached::start(), Memcached::start()];
    let rules = "replicas = 2\nban_time = \"10m\"\ncount_refused = false\nstore_timeout = \"5s\"\n";
    let daemon = daemon(&servers, rules);
    let mut policy = Policy::connect(daemon.endpoint());
    for port in 1..=10 {
        assert_eq!(policy.connected("198.51.100.1", port), "DUNNO");
    }
    assert_ne!(policy.connected("198.51.100.1", 11), "DUNNO");
    daemon.lines().wait_for("BANNED ");
    for server in &servers {
        until("the eleventh hit taken back", || {
            (server.value("connshaper:198.51.100.1")?.trim() == "10").then_some(())
        });
        until("a ban", || server.value("connshaper:198.51.100.1!ban"));
    }
    servers[0].kill();
    daemon.lines().wait_for("STORE_DOWN");
    assert_ne!(policy.connected("198.51.100.1", 12), "DUNNO");
    daemon.lines().wait_for("BANNED ");
    assert_eq!(daemon.lines().with("BANNED ").len(), 1, "{}", daemon.lines());
}

/// Lets clients connect once each, and returns which of them each server has counted.
fn counted(policy: &mut Policy, servers: &[Memcached], net: u8) -> Vec<Vec<bool>> {
    let clients: Vec<_> = (1..=30).map(|host| format!("198.51.{net}.{host}")).collect();
    for (client, port) in clients.iter().zip(1..) {
        assert_eq!(policy.connected(client, port), "DUNNO");
    }
    let has = |server: &Memcached, client: &String| server.value(&format!("connshaper:{client}")).is_some();
    servers.iter().map(|server| clients.iter().map(|client| has(server, client)).collect()).collect()
}

#[test]
fn with_failover_the_keys_of_a_server_that_is_down_move_to_the_next_and_back() {
    let mut servers = vec![Memcached::start(), Memcached::start(), Memcached::start()];
    let daemon = daemon(&servers, "failover = true\nstore_timeout = \"5s\"\n");
    let mut policy = Policy::connect(daemon.endpoint());
    let before = counted(&mut policy, &servers, 1);
    let mut lost = servers.remove(0);
    lost.kill();
    daemon.lines().wait_for("STORE_DOWN");
    let meanwhile = counted(&mut policy, &servers, 1);
    let (mut moved, mut stayed) = ([0, 0], 0);
    for client in 0..30 {
        if before[0][client] {
            moved[0] += usize::from(meanwhile[0][client]);
            moved[1] += usize::from(meanwhile[1][client]);
            assert!(meanwhile[0][client] != meanwhile[1][client], "a key goes to one server");
        } else {
            assert_eq!([before[1][client], before[2][client]], [meanwhile[0][client], meanwhile[1][client]]);
            stayed += 1;
        }
    }
    assert!(moved[0] > 0 && moved[1] > 0 && stayed > 0, "{moved:?} {stayed}");
    lost.start_again();
    daemon.lines().wait_for("STORE_UP");
    let after = counted(&mut policy, std::slice::from_ref(&lost), 1);
    assert_eq!(after[0], before[0]);
}

#[test]
fn without_failover_the_keys_of_a_server_that_is_down_are_counted_locally() {
    let mut servers = vec![Memcached::start(), Memcached::start()];
    let daemon = daemon(&servers, "store_timeout = \"5s\"\n");
    let mut policy = Policy::connect(daemon.endpoint());
    let before = counted(&mut policy, &servers, 2);
    let mut lost = servers.remove(0);
    lost.kill();
    daemon.lines().wait_for("STORE_DOWN");
    assert_eq!(counted(&mut policy, &servers, 2)[0], before[1]);
}
