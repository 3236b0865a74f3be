//! What is over its limit asks memcached seldom, and is counted all the same.

mod support;

use std::sync::atomic::Ordering;
use std::time::Duration;

use connshaper::clock::Now;
use connshaper::config::OnStoreFailure;
use connshaper::policy::limit::Ban;
use connshaper::policy::per::Part;
use connshaper::policy::{Limit, Purpose};
use support::{Gate, Host, PATIENCE, Site, eventually};

const KEY: &str = "c:198.51.100.1";

fn client() -> Part {
    Part::client([198, 51, 100, 1].into(), 32, 64)
}

fn limit() -> Limit {
    Limit { exptime: 600, ..Limit::top("c:".to_owned()) }
}

fn at(milliseconds: u64) -> Now {
    Now::simulated(milliseconds)
}

/// A host of a site that remembers for two seconds, and the site's gate.
fn host(site: &mut Site) -> (Host, Gate) {
    let gate = Gate::to(&site.memcached[0].server());
    site.servers = vec![gate.server()];
    (site.host_that_remembers(Duration::from_secs(2), OnStoreFailure::Local, PATIENCE), gate)
}

#[tokio::test]
async fn a_flood_asks_once_per_over_memory_and_is_counted_whole() {
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
    // Nobody else is concerned.
    let other = Part::client([198, 51, 100, 2].into(), 32, 64);
    for count in 1..=10 {
        assert_eq!(host.hit(&limit, &other, 1, at(12_000)).await.count, count);
    }
    assert_eq!(gate.commands() - before, 6 + 10);
}

#[tokio::test]
async fn a_reset_on_another_host_works_within_that_time_whatever_came_meanwhile() {
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
async fn hits_that_are_not_to_stay_counted_are_not_added() {
    let mut site = Site::one_memcached();
    let (host, gate) = host(&mut site);
    let limit = Limit { count_refused: false, ..limit() };
    let refund =
        |amount| connshaper::policy::Refund { limit: &limit, part: client(), purpose: Purpose::Window, amount };
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
async fn a_banned_client_is_spared_also_below_its_limit_and_a_ban_lifted_elsewhere_ends_here() {
    let mut site = Site::one_memcached();
    let (host, gate) = host(&mut site);
    let limit = Limit { ban: Some(Ban { time: 600, threshold: 1, max: 600 }), ..limit() };
    host.violated(&limit, &client(), at(0));
    host.settled().await;
    let asked = [(Purpose::Window, 1), (Purpose::Ban, 0)];
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

#[tokio::test]
async fn without_over_memory_and_for_sliding_windows_every_hit_asks() {
    let mut site = Site::one_memcached();
    let (remembers, gate) = host(&mut site);
    let forgets = site.host();
    let limit = limit();
    for _ in 0..3 {
        forgets.hit(&limit, &client(), 11, at(0)).await;
        remembers.count(&limit, &client(), &[(Purpose::Slot(1), 11)], at(0)).await;
    }
    assert_eq!(site.value(KEY).as_deref(), Some("33"));
    assert_eq!(site.value("c:198.51.100.1!1").as_deref(), Some("33"));
    // Both asked what is spoken here, and how the server is.
    assert_eq!(gate.commands(), 6 + 4);
}
