//! Operations of one request, on every store: hits of any amount, reads, refunds
//! and coalesced hits; in one round trip, and while memcached is down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use connshaper::config::OnStoreFailure;
use connshaper::net::clock::Now;
use connshaper::policy::key::KeyPart;
use connshaper::policy::limit::{Ban, CounterLimitId, Window};
use connshaper::policy::{CounterKind, CounterValue, Limit, Refund, sliding_window};

use crate::support::{Memcached, Proxy, Relay, Site, default_limit, on_every_store};

const WINDOW: CounterKind = CounterKind::FixedWindow;

fn client(host: u8) -> KeyPart {
    KeyPart::client([198, 51, 100, host].into(), 32, 64)
}

fn limit() -> Limit {
    default_limit("c:")
}

fn at(milliseconds: u64) -> Now {
    Now::simulated(milliseconds)
}

fn refund<'p>(limit: &'p Limit, part: &KeyPart, amount: u32) -> Refund<'p> {
    Refund { limit, part: part.clone(), kind: WINDOW, amount }
}

#[test]
fn amounts_are_added_and_reads_create_nothing() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        let hits = [(3, 3), (5, 8), (0, 8), (1 << 30, (1 << 30) + 8), (1, (1 << 30) + 9)];
        for (amount, count) in hits {
            let hit = host.hit(&limit, &client(1), amount, at(0)).await;
            assert_eq!((hit.count, hit.added), (count, amount));
        }
        for purpose in
            [WINDOW, CounterKind::Slot(7), CounterKind::Violations, CounterKind::ActiveBan, CounterKind::BanCount]
        {
            let nothing = CounterValue { count: 0, left: 0, added: 0 };
            assert_eq!(host.read(&limit, &client(2), purpose, at(0)).await, nothing);
        }
        assert_eq!(host.store.table().len(), 1);
        assert_eq!(site.value("c:198.51.100.2"), None);
        assert_eq!(site.value("c:198.51.100.2!ban"), None);
        // The first hit has count 1.
        assert_eq!(host.hit(&limit, &client(2), 1, at(0)).await.count, 1);
    });
}

#[test]
fn each_operation_of_a_request_gets_its_own_answer() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        for number in 1..=20 {
            let asked = (1..=20).map(|slot| (CounterKind::Slot(slot), if slot == number { number as u32 } else { 0 }));
            host.count(&limit, &client(1), &asked.collect::<Vec<_>>(), at(0)).await;
        }
        let asked: Vec<_> = (0..=21).map(|slot| (CounterKind::Slot(slot), 0)).collect();
        let answers = host.count(&limit, &client(1), &asked, at(0)).await;
        let counts: Vec<_> = answers.into_iter().map(|hit| hit.unwrap().count).collect();
        assert_eq!(counts, (0..=20).chain([0]).collect::<Vec<_>>());
    });
}

#[test]
fn a_refund_never_creates_a_counter_and_stops_at_zero() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), limit());
        let taken = async |amount| {
            host.store.take_back(&refund(&limit, &client(1), amount), at(0));
            host.hit(&limit, &client(1), 0, at(0)).await.count
        };
        host.hit(&limit, &client(1), 10, at(0)).await;
        // The decimal number changes from two digits to one and back.
        assert_eq!(taken(3).await, 7);
        assert_eq!(host.hit(&limit, &client(1), 4, at(0)).await.count, 11);
        assert_eq!(taken(100).await, 0);
        assert_eq!(host.hit(&limit, &client(1), 1, at(0)).await.count, 1);

        host.store.take_back(&refund(&limit, &client(2), 1), at(0));
        assert_eq!(host.hit(&limit, &client(2), 0, at(0)).await.count, 0);
        assert_eq!(site.value("c:198.51.100.2"), None);
        assert_eq!(host.store.table().len(), 1);
    });
}

#[test]
fn a_refund_does_not_move_the_end_of_the_window() {
    on_every_store(async |site: &Site| {
        let (host, limit) = (site.host(), Limit { exptime: 600, ..limit() });
        host.hit(&limit, &client(1), 5, at(0)).await;
        host.store.take_back(&refund(&limit, &client(1), 1), at(100_000));
        let left = host.hit(&limit, &client(1), 0, at(100_000)).await.left;
        match site.is_shared() {
            // The clock of memcached advances in real time.
            true => assert!((500..=600).contains(&left), "{left}"),
            false => assert_eq!(left, 500),
        }
        assert!(site.seconds_left("c:198.51.100.1").is_none_or(|left| (590..=600).contains(&left)));
    });
}

#[test]
fn a_sliding_window_counts_what_its_slots_hold() {
    on_every_store(async |site: &Site| {
        let host = site.host();
        let limit = Limit { exptime: 10, window: Window::Sliding, ..limit() };
        let (mut moment, mut hits) = (0, Vec::new());
        for number in 0..60 {
            moment += number * 7919 % 2500;
            let newest = sliding_window::slot(limit.exptime, at(moment).unix_ms);
            hits.push(newest);
            let slots = (0..=sliding_window::OLDER).map(|age| (CounterKind::Slot(newest - age), u32::from(age == 0)));
            let slots: Vec<_> = slots.collect();
            let answers = host.count(&limit, &client(1), &slots, at(moment)).await;
            let count: u32 = answers.into_iter().map(|hit| hit.unwrap().count).sum();
            let expected = hits.iter().filter(|slot| **slot + sliding_window::OLDER >= newest).count();
            assert_eq!(count as usize, expected, "after {number} hits, at {moment} ms");
        }
    });
}

#[test]
fn hits_within_coalesce_of_the_last_counted_hit_are_not_counted() {
    on_every_store(async |site: &Site| {
        let host = site.host();
        let limit = Limit { coalesce: 500, ..limit() };
        let story = [(0, 1, 1), (1, 1, 0), (499, 1, 0), (500, 2, 1), (900, 2, 0), (1000, 3, 1), (5000, 4, 1)];
        for (moment, count, added) in story {
            let hit = host.hit(&limit, &client(1), 1, at(moment)).await;
            assert_eq!((hit.count, hit.added), (count, added), "at {moment} ms");
        }
        // Other counters are unaffected: of another client, another limit, and a limit that does not coalesce.
        assert_eq!(host.hit(&limit, &client(2), 1, at(5000)).await.added, 1);
        let named = |name: &str, id| Limit {
            id: CounterLimitId(id),
            name: name.to_owned(),
            key_prefix: format!("{name}/"),
            ..limit.clone()
        };
        let other = named("other", 1);
        assert_eq!(host.hit(&other, &client(1), 1, at(5000)).await.added, 1);
        let all = Limit { coalesce: 0, ..named("all", 2) };
        for count in 1..=3 {
            assert_eq!(host.hit(&all, &client(1), 1, at(5000)).await.count, count);
        }
    });
}

#[test]
fn coalescing_treats_the_slots_of_a_sliding_window_as_one_key() {
    on_every_store(async |site: &Site| {
        let host = site.host();
        let limit = Limit { coalesce: 500, exptime: 10, window: Window::Sliding, ..limit() };
        let added =
            async |slot, moment| host.count(&limit, &client(1), &[(CounterKind::Slot(slot), 1)], at(moment)).await;
        assert_eq!(added(1, 900).await[0].unwrap().added, 1);
        assert_eq!(added(2, 1100).await[0], Some(CounterValue { count: 0, left: 0, added: 0 }));
        assert_eq!(added(2, 1400).await[0].unwrap().added, 1);
    });
}

/// All operations of one request on a sliding window with bans and delays.
fn everything() -> Vec<(CounterKind, u32)> {
    let slots = (0..=sliding_window::OLDER).map(|age| (CounterKind::Slot(100 - age), u32::from(age == 0)));
    slots.chain([(CounterKind::ActiveBan, 0), (CounterKind::Violations, 0)]).collect()
}

#[tokio::test]
async fn all_operations_of_a_request_are_one_round_trip() {
    let (memcached, proxied) = (Memcached::start(), Memcached::start());
    let proxy = Proxy::before(&proxied);
    for server in [memcached.server(), proxy.server()] {
        let relay = Relay::to(&format!("inet:{server}"));
        let site = Site::memory().behind(&[relay.endpoint().strip_prefix("inet:").unwrap().to_owned()]);
        let (host, limit) = (site.host(), limit());
        // Connects, and finds out which commands the server knows.
        host.hit(&limit, &client(9), 1, at(0)).await;
        for request in 1..=5 {
            let before = relay.writes();
            let answers = host.count(&limit, &client(1), &everything(), at(0)).await;
            assert_eq!(answers[0].unwrap().count, request);
            // A second round trip would show as a second write, after the answers to the first.
            assert_eq!(relay.writes() - before, 1, "on {}", site.name);
        }
    }
}

#[tokio::test]
async fn without_meta_commands_hits_do_not_move_the_known_end_of_a_window() {
    let site = Site::proxied();
    let (host, limit) = (site.host(), Limit { exptime: 600, ..limit() });
    for count in 0..100 {
        let hit = host.hit(&limit, &client(1), 1, at(count * 101)).await;
        // An estimate in whole seconds.
        let left = 600 - count * 101 / 1000;
        assert!((left - 1..=left).contains(&hit.left.into()), "{hit:?} at {} ms", count * 101);
    }
}

#[tokio::test]
async fn counts_read_before_an_outage_are_used_during_it() {
    for mut site in [Site::one_memcached(), Site::proxied()] {
        let limit = Limit { ban: Some(Ban { time: 60, threshold: 1, max: 60 }), ..limit() };
        let (host, other) = (site.host_with(OnStoreFailure::Local, Duration::from_secs(1)), site.host());
        other.count(&limit, &client(1), &[(CounterKind::Slot(1), 7)], at(0)).await;
        other.violated(&limit, &client(1), at(0));
        other.wait_for_background().await;
        let asked = [(CounterKind::Slot(1), 0), (CounterKind::ActiveBan, 0), (WINDOW, 1)];
        let told = host.count(&limit, &client(1), &asked, at(0)).await;
        assert_eq!(told.iter().map(|hit| hit.unwrap().count).collect::<Vec<_>>(), [7, 1, 1]);
        // The longest possible time, where the protocol does not report it.
        assert!((55..=60).contains(&told[1].unwrap().left), "{told:?}");

        site.memcached[0].kill();
        let without = host.statistics.store_bypassed.load(Ordering::Relaxed);
        let known = host.count(&limit, &client(1), &asked, at(0)).await;
        assert_eq!(known.iter().map(|hit| hit.unwrap().count).collect::<Vec<_>>(), [7, 1, 2], "on {}", site.name);
        // One request of three operations.
        assert_eq!(host.statistics.store_bypassed.load(Ordering::Relaxed) - without, 1);
    }
}

#[tokio::test]
async fn without_local_counting_a_server_that_is_down_gives_no_answer() {
    for on_failure in [OnStoreFailure::Dunno, OnStoreFailure::Defer] {
        let mut site = Site::one_memcached();
        let (host, limit) = (site.host_with(on_failure, Duration::from_secs(1)), limit());
        host.hit(&limit, &client(1), 1, at(0)).await;
        site.memcached[0].kill();
        host.line("STORE_DOWN").await;
        assert_eq!(host.count(&limit, &client(1), &everything(), at(0)).await, vec![None; everything().len()]);
    }
}

#[tokio::test]
async fn the_breaker_opens_after_three_requests_however_many_operations_each_has() {
    let site = Site::one_memcached();
    let host = site.host_with(OnStoreFailure::Local, Duration::from_millis(300));
    let limit = limit();
    for _ in 0..100 {
        host.hit(&limit, &client(1), 1, at(0)).await;
        if site.value("c:198.51.100.1").is_some() {
            break;
        }
    }
    site.memcached[0].freeze();
    for request in 1..=3 {
        assert!(host.lines("STORE_DOWN").is_empty(), "after {} requests", request - 1);
        host.count(&limit, &client(1), &everything(), at(0)).await;
    }
    host.line("STORE_DOWN").await;
    site.memcached[0].thaw();
    let told = host.line("STORE_UP").await;
    assert!(told.contains("decisions=3"), "{told}");
}
