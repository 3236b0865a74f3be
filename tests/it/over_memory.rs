//! A key over its limit queries memcached rarely, and all its hits are counted.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use connshaper::config::OnStoreFailure;
use connshaper::net::clock::Now;
use connshaper::policy::key::KeyPart;
use connshaper::policy::limit::{Ban, Delay};
use connshaper::policy::{CounterKind, Limit};
use connshaper::store::shared::rank::score;

use crate::support::{Gate, Host, PATIENCE, Site, default_limit, eventually};

const KEY: &str = "c:198.51.100.1";

const VIOLATIONS: &str = "c:198.51.100.1!violations";

fn client() -> KeyPart {
    KeyPart::client([198, 51, 100, 1].into(), 32, 64)
}

fn limit() -> Limit {
    Limit { exptime: 600, ..default_limit("c:") }
}

fn at(milliseconds: u64) -> Now {
    Now::simulated(milliseconds)
}

/// A host with `over_memory` of two seconds, and the gate before its server.
fn host(site: &mut Site) -> (Host, Gate) {
    let gate = Gate::to(&site.memcached[0].server());
    *site = std::mem::take(site).behind(&[gate.server()]);
    (site.host_that_remembers(Duration::from_secs(2), OnStoreFailure::Local, PATIENCE), gate)
}

#[tokio::test]
async fn a_flood_queries_once_per_over_memory_and_every_hit_is_counted() {
    let mut site = Site::one_memcached();
    let (host, gate) = host(&mut site);
    let limit = limit();
    for count in 1..=11 {
        assert_eq!(host.hit(&limit, &client(), 1, at(0)).await.count, count);
    }
    let before = gate.commands();
    for hit in 1..=10_000_u32 {
        assert_eq!(host.hit(&limit, &client(), 1, at(u64::from(hit))).await.count, 11 + hit);
    }
    assert_eq!(gate.commands() - before, 5, "one in two seconds of ten");
    assert_eq!(host.hit(&limit, &client(), 1, at(12_000)).await.count, 10_012);
    assert_eq!(site.value(KEY).as_deref(), Some("10012"));
    assert_eq!(host.statistics.over_memory.load(Ordering::Relaxed), 9_995);
    // Other clients are unaffected.
    let other = KeyPart::client([198, 51, 100, 2].into(), 32, 64);
    for count in 1..=10 {
        assert_eq!(host.hit(&limit, &other, 1, at(12_000)).await.count, count);
    }
    assert_eq!(gate.commands() - before, 6 + 10);
}

#[tokio::test]
async fn a_flood_asks_as_seldom_while_a_server_of_other_keys_is_away() {
    let site = Site::one_memcached();
    let gate = Gate::to(&site.memcached[0].server());
    // Nothing listens on port 1.
    let site = site.behind(&[gate.server(), "127.0.0.1:1".to_owned()]);
    let host = site.host_that_remembers(Duration::from_secs(2), OnStoreFailure::Local, PATIENCE);
    host.line("STORE_DOWN").await;
    // Both keys of the client are on the server that is up.
    let is_at_gate = |address: &[u8; 4]| {
        let client = IpAddr::from(*address);
        [format!("c:{client}"), format!("c:{client}!violations")].iter().all(|key| {
            let score = |server: &str| score(&format!("inet:{server}"), key.as_bytes());
            score(&gate.server()) > score("127.0.0.1:1")
        })
    };
    let address = (1..).map(|last| [198, 51, 100, last]).find(is_at_gate).unwrap();
    let (limit, client) = (delaying(), KeyPart::client(address.into(), 32, 64));
    assert_eq!(host.hit(&limit, &client, 11, at(0)).await.count, 11);
    host.violated(&limit, &client, at(0));
    host.wait_for_background().await;
    let before = gate.commands();
    for hit in 1..=1500_u32 {
        let now = at(2 * u64::from(hit));
        assert_eq!(host.hit(&limit, &client, 1, now).await.count, 11 + hit);
        host.violated(&limit, &client, now);
        host.wait_for_background().await;
    }
    assert_eq!(gate.commands() - before, 3, "one increment, and one violation with its expiry");
}

#[tokio::test]
async fn with_two_replicas_a_flood_asks_as_seldom_while_one_of_them_is_away() {
    let site = Site::one_memcached();
    let gate = Gate::to(&site.memcached[0].server());
    let mut site = site.behind(&[gate.server(), "127.0.0.1:1".to_owned()]);
    site.config += "replicas = 2\n";
    let host = site.host_that_remembers(Duration::from_secs(2), OnStoreFailure::Local, PATIENCE);
    host.line("STORE_DOWN").await;
    assert_eq!(host.hit(&limit(), &client(), 11, at(0)).await.count, 11);
    let before = gate.commands();
    for hit in 1..=1500_u32 {
        assert_eq!(host.hit(&limit(), &client(), 1, at(2 * u64::from(hit))).await.count, 11 + hit);
    }
    assert_eq!(gate.commands() - before, 1);
}

#[tokio::test]
async fn a_reset_on_another_host_takes_effect_within_over_memory() {
    let mut site = Site::one_memcached();
    let (host, _gate) = host(&mut site);
    let limit = limit();
    host.hit(&limit, &client(), 11, at(0)).await;
    site.delete(KEY);
    for _ in 0..1000 {
        assert!(host.hit(&limit, &client(), 1, at(1999)).await.count > 10);
    }
    for count in 1..=10 {
        assert_eq!(host.hit(&limit, &client(), 1, at(2000)).await.count, count);
    }
    eventually("what was kept before the reset, taken back", || (site.value(KEY)? == "10").then_some(())).await;
}

#[tokio::test]
async fn with_count_refused_false_cached_hits_are_not_added() {
    let mut site = Site::one_memcached();
    let (host, gate) = host(&mut site);
    let limit = Limit { count_refused: false, ..limit() };
    let refund =
        |amount| connshaper::policy::Refund { limit: &limit, part: client(), kind: CounterKind::FixedWindow, amount };
    assert_eq!(host.hit(&limit, &client(), 11, at(0)).await.added, 11);
    host.store.take_back(&refund(1), at(0));
    eventually("ten", || (site.value(KEY)? == "10").then_some(())).await;
    let before = gate.commands();
    for _ in 0..100 {
        let hit = host.hit(&limit, &client(), 1, at(1)).await;
        assert_eq!((hit.count, hit.added), (11, 0));
    }
    assert_eq!(gate.commands(), before);
    assert_eq!(host.hit(&limit, &client(), 1, at(2000)).await.count, 11);
    assert_eq!(site.value(KEY).as_deref(), Some("11"));
}

#[tokio::test]
async fn a_ban_is_cached_below_the_limit_and_ends_when_lifted_elsewhere() {
    let mut site = Site::one_memcached();
    let (host, gate) = host(&mut site);
    let limit = Limit { ban: Some(Ban { time: 600, threshold: 1, max: 600 }), ..limit() };
    host.violated(&limit, &client(), at(0));
    host.wait_for_background().await;
    let asked = [(CounterKind::FixedWindow, 1), (CounterKind::ActiveBan, 0)];
    let ask = async |moment| host.count(&limit, &client(), &asked, at(moment)).await.into_iter().map(Option::unwrap);
    let first: Vec<_> = ask(0).await.collect();
    assert_eq!(first.iter().map(|hit| hit.count).collect::<Vec<_>>(), [1, 1]);
    let before = gate.commands();
    for moment in 1..1000 {
        let hits: Vec<_> = ask(moment).await.collect();
        assert_eq!(hits.iter().map(|hit| hit.count).collect::<Vec<_>>(), [1 + moment as u32, 1]);
    }
    assert_eq!(gate.commands(), before);
    site.delete("c:198.51.100.1!ban");
    let lifted: Vec<_> = ask(2000).await.collect();
    assert_eq!(lifted.iter().map(|hit| hit.count).collect::<Vec<_>>(), [1001, 0]);
}

/// A limit whose delay grows with each violation.
fn delaying() -> Limit {
    let delay = Delay { initial: Duration::from_millis(100), max: Duration::from_secs(5), max_concurrent: 10 };
    Limit { delay: Some(delay), forget_after: 600, ..limit() }
}

#[tokio::test]
async fn violations_of_a_flood_are_sent_once_per_over_memory_and_all_counted() {
    let mut site = Site::one_memcached();
    let (host, _gate) = host(&mut site);
    let limit = delaying();
    host.hit(&limit, &client(), 11, at(0)).await;
    host.violated(&limit, &client(), at(0));
    host.wait_for_background().await;
    let before = site.memcached[0].commands();
    for session in 1..=10_000_u32 {
        let now = at(session.into());
        let hits =
            host.count(&limit, &client(), &[(CounterKind::FixedWindow, 1), (CounterKind::Violations, 0)], now).await;
        let counts: Vec<_> = hits.into_iter().map(|hit| hit.unwrap().count).collect();
        assert_eq!(counts, [11 + session, session], "each waits longer than the one before");
        host.violated(&limit, &client(), now);
        host.wait_for_background().await;
    }
    // Five times in ten seconds: the hits, the violations so far, and the update of their number and expiry.
    let commands = site.memcached[0].commands() - before;
    println!("flood that has to wait: 10000 violations, {commands} commands to memcached");
    assert_eq!(commands, 5 * 4);
    host.violated(&limit, &client(), at(12_000));
    host.wait_for_background().await;
    assert_eq!(site.value(VIOLATIONS).as_deref(), Some("10002"));
}

#[tokio::test]
async fn violations_before_a_reset_on_another_host_are_not_added_after_it() {
    let mut site = Site::one_memcached();
    let (host, _gate) = host(&mut site);
    let limit = delaying();
    for moment in 0..100 {
        host.violated(&limit, &client(), at(moment));
        host.wait_for_background().await;
    }
    assert_eq!(site.value(VIOLATIONS).as_deref(), Some("1"));
    site.delete(VIOLATIONS);
    host.violated(&limit, &client(), at(2000));
    host.wait_for_background().await;
    eventually("what was kept, taken back", || (site.value(VIOLATIONS)? == "1").then_some(())).await;
    assert_eq!(host.read(&limit, &client(), CounterKind::Violations, at(2001)).await.count, 1);
}

#[tokio::test]
async fn violations_that_may_start_a_ban_are_sent_one_by_one() {
    let mut site = Site::one_memcached();
    let (host, _gate) = host(&mut site);
    let limit = Limit { ban: Some(Ban { time: 600, threshold: 5, max: 600 }), ..delaying() };
    for violations in 1..=5 {
        assert!(host.lines("BANNED").is_empty(), "{violations}");
        host.violated(&limit, &client(), at(violations));
        host.wait_for_background().await;
    }
    assert_eq!(host.lines("BANNED").len(), 1);
}

#[tokio::test]
async fn without_over_memory_and_for_sliding_windows_every_hit_queries_the_store() {
    let mut site = Site::one_memcached();
    let (remembers, gate) = host(&mut site);
    let forgets = site.host();
    let limit = limit();
    for _ in 0..3 {
        forgets.hit(&limit, &client(), 11, at(0)).await;
        remembers.count(&limit, &client(), &[(CounterKind::Slot(1), 11)], at(0)).await;
    }
    assert_eq!(site.value(KEY).as_deref(), Some("33"));
    assert_eq!(site.value("c:198.51.100.1!1").as_deref(), Some("33"));
    // Both connections asked for the protocol, for a trial, and for `stats`.
    assert_eq!(gate.commands(), 6 + 6);
}
