//! Two mail hosts, each a real Postfix with its own daemon, that count on one Redis cluster.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{Daemon, Postfix, RedisCluster, until};

const THRESHOLD: usize = 4;

/// Clients that connect again and again until they are refused at both hosts, while a node is killed.
const BUSY: std::ops::Range<u8> = 2..26;

/// Clients that are over their limit before that.
const OVER: std::ops::Range<u8> = 50..62;

/// A host: Postfix with its daemon.
struct Mx {
    daemon: Daemon,
    postfix: Postfix,
}

impl Mx {
    fn start(cluster: &RedisCluster) -> Self {
        let rules = format!("whitelist = []\nthreshold = {THRESHOLD}\nexptime = \"1h\"\nstore_timeout = \"1s\"\n");
        let daemon = Daemon::start(&format!("{rules}{}", cluster.config()));
        let postfix = Postfix::start(&format!(
            "smtpd_client_restrictions = check_policy_service {}\nsmtpd_policy_service_timeout = 5s\n",
            daemon.endpoint()
        ));
        Self { daemon, postfix }
    }

    /// One session; whether its recipient was accepted. Any other answer than that or a refusal of ours is none.
    fn accepts(&self, client: u8) -> bool {
        let mut smtp = self.postfix.client(&format!("127.0.0.{client}"));
        smtp.ehlo().expect(250);
        smtp.mail().expect(250);
        let reply = smtp.rcpt();
        let refused = reply.code == 450 && reply.text.contains("Too many connections");
        assert!(reply.code == 250 || refused, "127.0.0.{client}: {reply:?}");
        smtp.quit();
        reply.code == 250
    }
}

fn key(client: u8) -> String {
    format!("{{connshaper:127.0.0.{client}}}")
}

#[test]
fn two_hosts_count_together_on_a_cluster_while_a_node_is_killed() {
    let mut cluster = RedisCluster::start();
    let hosts = [Mx::start(&cluster), Mx::start(&cluster)];
    // Each host knows all nodes when it has counted on them.
    for client in OVER {
        let accepted: Vec<bool> = (0..THRESHOLD + 2).map(|turn| hosts[turn % 2].accepts(client)).collect();
        assert_eq!(accepted, [true, true, true, true, false, false], "127.0.0.{client}");
        assert_eq!(cluster.value(&key(client)).as_deref(), Some("6"), "127.0.0.{client}");
    }
    let of_dead = |client: u8| cluster.nodes[0].owns(&key(client));
    let dead: BTreeMap<u8, bool> = BUSY.chain(OVER).map(|client| (client, of_dead(client))).collect();
    for clients in [BUSY, OVER] {
        let lost = clients.clone().filter(|client| dead[client]).count();
        assert!(0 < lost && lost < clients.len(), "{lost} of {clients:?} are on the node");
    }

    // One session of each at each host, and the node dies while the others are under way.
    let is_dead = AtomicBool::new(false);
    let passed: BTreeMap<u8, [usize; 2]> = thread::scope(|scope| {
        let ask = |client: u8| {
            let (hosts, is_dead) = (&hosts, &is_dead);
            scope.spawn(move || {
                let mut passed = [0; 2];
                let mut refused_after = [0; 2];
                for turn in 0.. {
                    let host = turn % 2;
                    let late = is_dead.load(Ordering::SeqCst);
                    match hosts[host].accepts(client) {
                        true => passed[host] += 1,
                        false => refused_after[host] += usize::from(late),
                    }
                    if refused_after.iter().all(|refused| *refused >= 2) {
                        break;
                    }
                }
                (client, passed)
            })
        };
        let asking: Vec<_> = BUSY.map(ask).collect();
        until("a count of a client", || BUSY.into_iter().find_map(|client| cluster.value(&key(client))));
        cluster.nodes[0].kill();
        is_dead.store(true, Ordering::SeqCst);
        asking.into_iter().map(|asker| asker.join().expect("sessions that are all answered")).collect()
    });
    for (client, passed) in passed {
        let all: usize = passed.iter().sum();
        match dead[&client] {
            false => assert_eq!(all, THRESHOLD, "127.0.0.{client} passed {passed:?}, on nodes that are up"),
            // Each host counts on from what it saw last.
            true => assert!(
                all >= THRESHOLD && passed.iter().all(|passed| *passed <= THRESHOLD),
                "127.0.0.{client} passed {passed:?}, on the node that was killed"
            ),
        }
    }
    for host in &hosts {
        host.daemon.lines().wait_for("STORE_DOWN");
        assert!(OVER.into_iter().all(|client| !host.accepts(client)), "over stays over, on whatever node");
    }

    // It comes back, empty, and is counted on by both again.
    cluster.nodes[0].start_again();
    for host in &hosts {
        host.daemon.lines().wait_for("STORE_UP");
    }
    let fresh = (100..200).find(|client| cluster.nodes[0].owns(&key(*client))).expect("a client of that node");
    let accepted: Vec<bool> = (0..THRESHOLD + 1).map(|turn| hosts[turn % 2].accepts(fresh)).collect();
    assert_eq!(accepted, [true, true, true, true, false]);
    assert_eq!(cluster.value(&key(fresh)).as_deref(), Some("5"));
    for host in &hosts {
        // Postfix warns of a policy server that does not answer in time, or hangs up.
        assert_eq!(host.postfix.lines().with(" warning: "), Vec::<String>::new());
        assert_eq!(host.daemon.lines().with("STORE_DOWN").len(), 1, "{}", host.daemon.lines());
    }
}
