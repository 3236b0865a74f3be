//! Floods and misbehaving peers: each is bounded, and reported.
//!
//! ```text
//! cargo test --test it -- faults_flood:: --nocapture              # 400,000 clients
//! cargo test --release --test it -- faults_flood:: --nocapture    # ten million
//! cargo test --release --test it -- faults_flood:: --nocapture --ignored    # the same through the daemon: some minutes
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use connshaper::policy::key::KeyPart;
use connshaper::policy::{CounterKind, Key, Limit};
use connshaper::store::local::Table;

use crate::support::{
    self, Daemon, Dir, Gate, Memcached, Policy, default_limit, must_pass, own_process, request, resident, role,
    statistic, until,
};

#[test]
fn a_flood_of_one_client_costs_memcached_next_to_nothing() {
    const CONNECTIONS: usize = 8;
    const SESSIONS: usize = 3000;
    let memcached = Memcached::start();
    let gate = Gate::to(&memcached.server());
    let mut daemon = Daemon::start(&format!(
        "whitelist = []\nexptime = \"10m\"\nstore_timeout = \"5s\"\nmemcached_server = {:?}\n",
        gate.server()
    ));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for connection in 0..CONNECTIONS {
            let endpoint = daemon.endpoint();
            scope.spawn(move || {
                let mut policy = Policy::connect(endpoint);
                for session in 0..SESSIONS {
                    policy.connected("198.51.100.1", 1 + (connection * SESSIONS + session) as u16);
                }
            });
        }
    });
    let took = start.elapsed();
    // Queries up to the limit, and those under way then; after that one in two seconds. Plus requests for `stats`.
    // Twice that, for while answers are slow more are under way.
    let most = 2 * (11 + CONNECTIONS + took.as_secs() as usize / 2 + 2 + 2);
    assert!(gate.commands() <= most, "{} commands in {took:?}", gate.commands());
    println!("flood of one client: {} sessions in {took:.1?}, {} commands", CONNECTIONS * SESSIONS, gate.commands());
    // The next query adds the cached hits, so that other hosts see the flood.
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 0;
    until("a count of all", || {
        port += 1;
        policy.connected("198.51.100.1", 30_000 + port);
        let counted: usize = memcached.value("connshaper:198.51.100.1")?.trim().parse().unwrap();
        (counted >= CONNECTIONS * SESSIONS).then_some(())
    });
    daemon.stop();
    assert!(statistic(&daemon, "over_memory").unwrap() as usize > CONNECTIONS * SESSIONS - most);
}

#[test]
fn peers_that_send_slowly_or_do_not_read_delay_no_other() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let endpoint = format!("unix:{}", path.display());
    let _daemon = Daemon::start_at(&endpoint, "whitelist = []\nthreshold = 1000000\n");
    let question = request(&["protocol_state=CONNECT", "client_address=198.51.100.9", "client_port=1"]);
    // These peers send until the socket is full, and read nothing.
    let deaf: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_nonblocking(true).unwrap();
            while stream.write(question.repeat(100).as_bytes()).is_ok() {}
            stream
        })
        .collect();
    let mut slow: Vec<_> = (0..200).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut policy = Policy::connect(&endpoint);
    let (mut longest, mut ports) = (Duration::ZERO, 1..);
    for byte in &question.as_bytes()[..10] {
        for stream in &mut slow {
            stream.write_all(&[*byte]).unwrap();
        }
        for port in ports.by_ref().take(200) {
            let asked = Instant::now();
            assert_eq!(policy.connected("198.51.100.1", port), "DUNNO");
            longest = longest.max(asked.elapsed());
        }
    }
    println!("{} slow senders, {} who do not read: longest answer {longest:?}", slow.len(), deaf.len());
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // A slow sender gets its answer once its request is complete.
    let stream = &mut slow[0];
    stream.write_all(&question.as_bytes()[10..]).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut answer = [0; 14];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"action=DUNNO\n\n");
}

/// Counts clients in a table as the daemon does.
fn count(table: &Table, limit: &Limit, client: IpAddr, now: u64) {
    let part = KeyPart::client(client, 32, 64);
    let id = table.counter_id(Key { limit, part: &part, kind: CounterKind::FixedWindow });
    table.hit(id, 1, 3_600_000, limit.threshold, now);
}

#[test]
fn max_clients_bounds_the_table_and_clients_over_the_limit_are_kept() {
    if role().is_none() {
        // The test measures the memory of its process.
        let test = max_clients_bounds_the_table_and_clients_over_the_limit_are_kept;
        return must_pass(own_process(test, ":", "count"));
    }
    // An unoptimised build takes more than ten times as long for each.
    const CLIENTS: u32 = if cfg!(debug_assertions) { 400_000 } else { 10_000_000 };
    const MAX_CLIENTS: usize = CLIENTS as usize / 10;
    let (table, limit) = (Table::new(MAX_CLIENTS), default_limit(""));
    let known: Vec<IpAddr> = (0..1000).map(|host| Ipv4Addr::from_bits(0x0a00_0000 + host).into()).collect();
    for client in &known {
        for _ in 0..11 {
            count(&table, &limit, *client, 0);
        }
    }
    let before = resident(std::process::id());
    for client in 0..CLIENTS {
        count(&table, &limit, Ipv4Addr::from_bits(0x2000_0000 + client).into(), u64::from(client / 1000));
    }
    assert!(table.len() <= MAX_CLIENTS, "{}", table.len());
    assert!(table.evictions() >= u64::from(CLIENTS) / 10 * 9, "{}", table.evictions());
    let grown = resident(std::process::id()).saturating_sub(before) * 1024;
    println!("{CLIENTS} clients: {} held in {} KB", table.len(), grown / 1000);
    // The manual says 20 to 40 bytes for each client. Small tables that double, and the allocator, take some more.
    assert!(grown < 40 * MAX_CLIENTS as u64 + 2_000_000, "{grown} bytes");
    let kept = known.iter().filter(|client| {
        let part = KeyPart::client(**client, 32, 64);
        table
            .peek(table.counter_id(Key { limit: &limit, part: &part, kind: CounterKind::FixedWindow }), 10_000)
            .is_some()
    });
    assert_eq!(kept.count(), known.len(), "clients over the limit go last");
}

/// Lets a number of /64 networks of one /32 connect once each. None is over its limit. Returns the time of the
/// slowest answer.
fn spray(endpoint: &str, networks: u32) -> Duration {
    const CONNECTIONS: u32 = 4;
    let ask = |connection| {
        let mut policy = Policy::connect(endpoint);
        let mut longest = Duration::ZERO;
        for network in (connection..networks).step_by(CONNECTIONS as usize) {
            let client = Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(network.reverse_bits()) << 64 | 1);
            let asked = Instant::now();
            assert_eq!(policy.connected(&client.to_string(), 25), "DUNNO", "{client} is refused wrongly");
            longest = longest.max(asked.elapsed());
        }
        longest
    };
    std::thread::scope(|scope| {
        let askers: Vec<_> = (0..CONNECTIONS).map(|connection| scope.spawn(move || ask(connection))).collect();
        askers.into_iter().map(|asker| asker.join().unwrap()).max().unwrap()
    })
}

#[test]
#[ignore = "takes minutes, and wants --release"]
fn ten_million_networks_of_one_prefix_neither_fill_memory_nor_delay_answers() {
    const CLIENTS: u32 = 10_000_000;
    // `max_clients` is its default, a tenth of the clients.
    let mut daemon = Daemon::start("whitelist = []\nexptime = \"1h\"\nthreshold = 3\n");
    let before = resident(daemon.id());
    let (over, start) = (AtomicBool::new(false), Instant::now());
    let (longest, regular, refused) = std::thread::scope(|scope| {
        let regular = scope.spawn(|| {
            let mut policy = Policy::connect(daemon.endpoint());
            let mut ask = |client: &str, port| {
                let asked = Instant::now();
                (policy.connected(client, port), asked.elapsed())
            };
            (1..=3).for_each(|port| assert_eq!(ask("198.51.100.1", port).0, "DUNNO"));
            let (mut longest, mut refused) = (Duration::ZERO, 0);
            for number in 0_u32.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let port = 4 + (number % 60_000) as u16;
                // One client that stays over its limit, and new clients one after the other.
                let (answer, took) = ask("198.51.100.1", port);
                assert_ne!(answer, "DUNNO", "session {number}");
                refused += 1;
                let (answer, other) = ask(&Ipv4Addr::from_bits(0x0a00_0000 + number).to_string(), port);
                assert_eq!(answer, "DUNNO", "session {number}");
                longest = longest.max(took).max(other);
                std::thread::sleep(Duration::from_millis(1));
            }
            (longest, refused)
        });
        let longest = spray(daemon.endpoint(), CLIENTS);
        over.store(true, Ordering::Relaxed);
        let (regular, refused) = regular.join().unwrap();
        (longest, regular, refused)
    });
    let (took, memory) = (start.elapsed(), resident(daemon.id()));
    daemon.stop();
    let (clients, evictions) = (statistic(&daemon, "clients").unwrap(), statistic(&daemon, "evictions").unwrap());
    println!(
        "a sprayed /32: {CLIENTS} networks in {took:.0?}, 0 refused wrongly, longest answer {longest:.1?}, to others \
         {regular:.1?}; one over its limit refused {refused} times of {refused}; {clients} clients held, {evictions} \
         forgotten; {before} KiB resident before, {memory} after"
    );
    assert!(clients <= 1_000_000, "{clients}");
    // 40 bytes for each client, as the manual says, and 20 MB for the rest of the daemon.
    assert!(memory - before < 40_000 + 20_000, "{memory} KiB");
    assert!(longest.max(regular) < Duration::from_secs(1), "{longest:?}, {regular:?}");
    assert_eq!(daemon.lines().with("MAX_CLIENTS "), ["MAX_CLIENTS max_clients=1000000"]);
}

#[test]
fn max_clients_bounds_a_flood_from_one_prefix_and_is_logged() {
    const CLIENTS: u32 = 60_000;
    let mut daemon = Daemon::start("whitelist = []\nmax_clients = 10000\nexptime = \"1h\"\nthreshold = 3\n");
    let mut regular = Policy::connect(daemon.endpoint());
    for port in 1..=4 {
        regular.connected("198.51.100.1", port);
    }
    spray(daemon.endpoint(), CLIENTS);
    // A client that was over before the flood is still refused.
    assert_ne!(regular.connected("198.51.100.1", 5), "DUNNO");
    daemon.lines().wait_for("MAX_CLIENTS ");
    let memory = resident(daemon.id());
    daemon.stop();
    assert!(statistic(&daemon, "clients").unwrap() <= 10_000);
    assert!(statistic(&daemon, "evictions").unwrap() >= u64::from(CLIENTS) - 10_001);
    let told = daemon.lines().with("MAX_CLIENTS ");
    assert_eq!(told, ["MAX_CLIENTS max_clients=10000"]);
    println!("a sprayed /32: {CLIENTS} networks, {memory} KiB resident");
}

#[test]
fn log_rate_bounds_lines_and_suppressed_ones_are_counted() {
    let mut daemon = Daemon::start("whitelist = []\nthreshold = 1\nlog_rate = 10\n");
    let start = Instant::now();
    let clients: u64 = 3000;
    let mut policy = Policy::connect(daemon.endpoint());
    for client in 0..clients {
        let address = format!("198.51.{}.{}", client / 250, client % 250);
        assert_eq!(policy.connected(&address, 1), "DUNNO");
        assert_ne!(policy.connected(&address, 2), "DUNNO");
    }
    let took = start.elapsed();
    daemon.stop();
    let written = daemon.lines().with("REFUSED ").len() as u64;
    assert!(written <= 10 * (took.as_secs() + 2), "{written} lines in {took:?}");
    assert_eq!(statistic(&daemon, "refused"), Some(clients));
    assert_eq!(statistic(&daemon, "suppressed_lines"), Some(clients - written));
}

#[test]
fn a_full_disk_under_the_log_loses_lines_only() {
    let dir = Dir::new();
    let endpoint = format!("unix:{}", dir.join("policy").display());
    // Every write to /dev/full fails with ENOSPC.
    let redirect = "exec 2>/dev/full";
    let daemon = Daemon::start_at_after(&endpoint, redirect, "whitelist = []\nthreshold = 1\nlog_rate = 100000\n");
    let mut policy = Policy::connect(&endpoint);
    let (mut longest, start) = (Duration::ZERO, Instant::now());
    for client in 0..1000 {
        for port in 1..=2 {
            let asked = Instant::now();
            let answer = policy.connected(&format!("198.51.{}.{}", client / 250, client % 250), port);
            assert_eq!(answer == "DUNNO", port == 1);
            longest = longest.max(asked.elapsed());
        }
    }
    println!("full disk behind the log: 2000 requests in {:.1?}, longest answer {longest:?}", start.elapsed());
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    drop(daemon);
}
