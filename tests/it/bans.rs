//! Violations and bans on every store: a ban begins once, is longer each time, and is
//! forgotten after a time without violations; and the log lines about them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use connshaper::config::OnStoreFailure;
use connshaper::net::clock::Now;
use connshaper::policy::key::KeyPart;
use connshaper::policy::limit::{Ban, CounterLimitId};
use connshaper::policy::{CounterKind, Limit};

use crate::support::{Host, Site, default_limit, eventually, on_each, on_every_store};

fn client() -> KeyPart {
    KeyPart::client([198, 51, 100, 1].into(), 32, 64)
}

/// A limit that bans after two violations: for a minute, doubled up to three minutes.
fn limit() -> Limit {
    let ban = Some(Ban { time: 60, threshold: 2, max: 180 });
    Limit { ban, forget_after: 600, ..default_limit("c:") }
}

fn at(seconds: u64) -> Now {
    Now::simulated(seconds * 1000)
}

/// Reports violations and waits until the store has handled them.
async fn violate(host: &Host, limit: &Limit, times: u32, now: Now) {
    for _ in 0..times {
        host.violated(limit, &client(), now);
        host.wait_for_background().await;
    }
}

#[test]
fn a_ban_begins_at_ban_threshold_violations() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        violate(&host, &limit, 1, at(0)).await;
        assert_eq!(host.read(&limit, &client(), CounterKind::Violations, at(0)).await.count, 1);
        assert_eq!(host.read(&limit, &client(), CounterKind::ActiveBan, at(0)).await.count, 0);
        violate(&host, &limit, 1, at(0)).await;
        let ban = host.read(&limit, &client(), CounterKind::ActiveBan, at(0)).await;
        assert_eq!(ban.count, 1);
        assert!((58..=60).contains(&ban.left), "{ban:?}");
        // The next ban requires as many violations again.
        assert_eq!(host.read(&limit, &client(), CounterKind::Violations, at(0)).await.count, 0);
        assert_eq!(host.lines("BANNED"), ["BANNED key=198.51.100.1 limit=connections seconds=60 repetition=1"]);
        assert_eq!(host.statistics.banned.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn simultaneous_violations_on_two_hosts_start_one_ban() {
    on_every_store(async |site: &Site| {
        let hosts = match site.is_shared() {
            true => vec![site.host(), site.host()],
            false => vec![site.host()],
        };
        let limit = limit();
        for turn in 0..40 {
            hosts[turn % hosts.len()].violated(&limit, &client(), at(0));
        }
        for host in &hosts {
            host.wait_for_background().await;
        }
        let told: Vec<_> = hosts.iter().flat_map(|host| host.lines("BANNED")).collect();
        assert_eq!(told, ["BANNED key=198.51.100.1 limit=connections seconds=60 repetition=1"]);
        let banned: u64 = hosts.iter().map(|host| host.statistics.banned.load(Ordering::Relaxed)).sum();
        assert_eq!(banned, 1);
        for host in &hosts {
            assert_eq!(host.read(&limit, &client(), CounterKind::ActiveBan, at(0)).await.count, 1);
            assert_eq!(host.read(&limit, &client(), CounterKind::BanCount, at(0)).await.count, 1);
        }
    });
}

#[test]
fn bans_double_up_to_ban_max_and_hosts_share_their_number() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        let mut now = 0;
        for (repetition, seconds) in [(1, 60), (2, 120), (3, 180), (4, 180)] {
            violate(&host, &limit, 2, at(now)).await;
            let line = format!("BANNED key=198.51.100.1 limit=connections seconds={seconds} repetition={repetition}");
            assert_eq!(host.lines("BANNED").last(), Some(&line));
            let about =
                |expected: u32, left: u32| assert!((expected - 2..=expected).contains(&left), "{left} s, {line}");
            let ban = host.read(&limit, &client(), CounterKind::ActiveBan, at(now)).await;
            assert_eq!(ban.count, repetition);
            about(seconds, ban.left);
            if site.is_shared() {
                about(seconds, site.seconds_left("c:198.51.100.1!ban").unwrap());
                about(seconds + limit.forget_after, site.seconds_left("c:198.51.100.1!bans").unwrap());
                let other = site.host().read(&limit, &client(), CounterKind::ActiveBan, at(now)).await;
                assert_eq!(other.count, repetition);
                about(seconds, other.left);
                site.delete("c:198.51.100.1!ban");
            } else {
                now += u64::from(seconds);
            }
            assert_eq!(host.read(&limit, &client(), CounterKind::ActiveBan, at(now)).await.count, 0, "it has ended");
        }
    });
}

#[tokio::test]
async fn violations_and_bans_are_forgotten_after_forget_after() {
    let site = Site::memory();
    let (host, limit) = (site.host(), limit());
    violate(&host, &limit, 1, at(0)).await;
    violate(&host, &limit, 1, at(601)).await;
    assert!(host.lines("BANNED").is_empty(), "the first was forgotten after 600 s");
    violate(&host, &limit, 1, at(1200)).await;
    assert_eq!(host.lines("BANNED").len(), 1);
    // A ban of 60 s from 1200 on is remembered until 1860; one of 120 s from 1850 on until 2570.
    violate(&host, &limit, 2, at(1850)).await;
    assert!(host.lines("BANNED")[1].ends_with("seconds=120 repetition=2"));
    violate(&host, &limit, 2, at(2571)).await;
    assert!(host.lines("BANNED")[2].ends_with("seconds=60 repetition=1"));

    let patient = Limit { ban: Some(Ban { time: 60, threshold: 3, max: 60 }), id: CounterLimitId(1), ..limit };
    for moment in [0, 500, 1000] {
        violate(&host, &patient, 1, at(moment)).await;
    }
    assert_eq!(host.lines("BANNED").len(), 4, "each violation keeps those before it");
}

#[test]
fn ban_keys_expire_in_memcached() {
    on_each(&[Site::one_memcached, Site::proxied], async |site: &Site| {
        let (host, limit) = (site.host(), Limit { forget_after: 1, ..limit() });
        let limit = Limit { ban: Some(Ban { time: 1, threshold: 1, max: 60 }), ..limit };
        violate(&host, &limit, 1, at(0)).await;
        for key in ["c:198.51.100.1!ban", "c:198.51.100.1!bans"] {
            eventually("the end of a key", || site.value(key).is_none().then_some(())).await;
        }
        violate(&host, &limit, 1, at(0)).await;
        let line = "BANNED key=198.51.100.1 limit=connections seconds=1 repetition=1";
        assert_eq!(host.lines("BANNED"), [line; 2], "on {}", site.name);
    });
}

#[test]
fn every_violation_renews_the_expiry_even_when_the_number_gains_a_digit() {
    on_each(&[Site::one_memcached, Site::proxied], async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        let limit = Limit { ban: Some(Ban { time: 60, threshold: 100, max: 60 }), ..limit };
        violate(&host, &limit, 9, at(0)).await;
        let left = || site.seconds_left("c:198.51.100.1!violations").unwrap();
        eventually("a second or two", || (left() <= 598).then_some(())).await;
        violate(&host, &limit, 1, at(0)).await;
        assert_eq!(site.value("c:198.51.100.1!violations").as_deref(), Some("10"));
        assert!(left() > 598, "{} s on {}", left(), site.name);
    });
}

#[test]
fn a_ban_may_be_longer_than_thirty_days() {
    on_every_store(async |site: &Site| {
        const DAYS: u32 = 86_400;
        let ban = Some(Ban { time: 40 * DAYS, threshold: 1, max: 100 * DAYS });
        let (host, limit) = (site.host(), Limit { ban, forget_after: 100 * DAYS, ..limit() });
        for seconds in [40 * DAYS, 80 * DAYS] {
            let now = Now::read();
            violate(&host, &limit, 1, now).await;
            let left = host.read(&limit, &client(), CounterKind::ActiveBan, now).await.left;
            assert!((seconds - 3..=seconds + 1).contains(&left), "{left}");
            if site.is_shared() {
                let left = site.seconds_left("c:198.51.100.1!bans").unwrap();
                let known_for = seconds + 100 * DAYS;
                assert!((known_for - 3..=known_for + 1).contains(&left), "{left}");
                site.delete("c:198.51.100.1!ban");
            } else {
                // The simulated clock of the memory store does not advance to the end of the first ban.
                break;
            }
        }
    });
}

#[test]
fn a_log_only_limit_logs_would_ban() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), Limit { log_only: true, ..limit() });
        violate(&host, &limit, 2, at(0)).await;
        assert_eq!(host.lines("WOULD_BAN"), ["WOULD_BAN key=198.51.100.1 limit=connections seconds=60 repetition=1"]);
        assert!(host.lines("BANNED").is_empty());
        assert_eq!(host.statistics.banned.load(Ordering::Relaxed), 0);
        assert_eq!(host.read(&limit, &client(), CounterKind::ActiveBan, at(0)).await.count, 1);
    });
}

#[test]
fn a_limit_without_bans_stores_violations_only() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), Limit { ban: None, ..limit() });
        violate(&host, &limit, 5, at(0)).await;
        assert_eq!(host.read(&limit, &client(), CounterKind::Violations, at(0)).await.count, 5);
        assert_eq!(host.read(&limit, &client(), CounterKind::ActiveBan, at(0)).await.count, 0);
        assert!(host.lines("BANNED").is_empty());
    });
}

#[tokio::test]
async fn a_violation_while_memcached_is_down_starts_a_local_ban() {
    let mut site = Site::one_memcached();
    let (host, limit) = (site.host_with(OnStoreFailure::Local, Duration::from_secs(1)), limit());
    host.hit(&limit, &client(), 1, at(0)).await;
    site.memcached[0].kill();
    host.line("STORE_DOWN").await;
    violate(&host, &limit, 5, at(0)).await;
    assert_eq!(host.lines("BANNED"), ["BANNED key=198.51.100.1 limit=connections seconds=60 repetition=1"]);
    let ban = host.read(&limit, &client(), CounterKind::ActiveBan, at(20)).await;
    assert_eq!((ban.count, ban.left), (1, 40));
}
