//! Steps of the system clock: windows end as they should and no client is refused wrongly.

use connshaper::net::clock::Now;
use connshaper::policy::key::KeyPart;
use connshaper::policy::limit::Window;
use connshaper::policy::{CounterKind, Limit, sliding_window};
use proptest::prelude::*;
use tokio::runtime::Builder;

use crate::support::{Site, default_limit};

/// A moment after the system clock was set by `step` milliseconds.
fn at(monotonic: u64, step: i64) -> Now {
    Now { monotonic, unix_ms: 1_700_000_000_000_u64.wrapping_add(monotonic).wrapping_add_signed(step) }
}

fn client() -> KeyPart {
    KeyPart::client([198, 51, 100, 1].into(), 32, 64)
}

const HOUR: i64 = 3_600_000;

#[tokio::test]
async fn a_fixed_window_is_independent_of_the_system_clock() {
    let (host, limit) = (Site::memory().host(), Limit { exptime: 60, ..default_limit("") });
    let story = [(0, 0, 1), (1000, HOUR, 2), (2000, -HOUR, 3), (59_000, 1000 * HOUR, 4), (60_100, -HOUR, 1)];
    for (monotonic, step, count) in story {
        assert_eq!(host.hit(&limit, &client(), 1, at(monotonic, step)).await.count, count, "at {monotonic} ms");
    }
}

#[tokio::test]
async fn a_key_of_over_thirty_days_expires_right_with_a_clock_an_hour_off() {
    const DAY: u32 = 86_400;
    let site = Site::one_memcached();
    let (host, limit) = (site.host(), Limit { exptime: 31 * DAY, ..default_limit("") });
    for (number, step) in (1..).zip([-HOUR, HOUR]) {
        let client = KeyPart::client([198, 51, 100, number].into(), 32, 64);
        let now = Now::read();
        let stepped = Now { unix_ms: now.unix_ms.wrapping_add_signed(step), ..now };
        for count in 1..=2 {
            assert_eq!(host.hit(&limit, &client, 1, stepped).await.count, count);
        }
        let left = i64::from(site.seconds_left(&format!("198.51.100.{number}")).unwrap());
        let expected = i64::from(31 * DAY) + step / 1000;
        assert!((expected - 3..=expected + 3).contains(&left), "{left} s left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_sliding_window_never_counts_expired_hits(
        hits in prop::collection::vec((0_u64..3000, prop_oneof![3 => Just(0), 1 => -HOUR..HOUR, 1 => -2000_i64..2000]), 1..100),
    ) {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let host = runtime.block_on(async { Site::memory().host() });
        let limit = Limit { exptime: 10, window: Window::Sliding, ..default_limit("") };
        let (mut monotonic, mut made) = (0, Vec::new());
        for (pause, step) in hits {
            monotonic += pause;
            let now = at(monotonic, step);
            let newest = sliding_window::slot(limit.exptime, now.unix_ms);
            let asked: Vec<_> = (0..=sliding_window::OLDER).map(|age| (CounterKind::Slot(newest - age), u32::from(age == 0))).collect();
            let answers = runtime.block_on(host.count(&limit, &client(), &asked, now));
            let count: u32 = answers.into_iter().map(|hit| hit.unwrap().count).sum();
            made.push(monotonic);
            let kept = u64::from(sliding_window::lifetime(limit.exptime)) * 1000;
            let within = made.iter().filter(|then| **then + kept > monotonic).count();
            prop_assert!(count as usize <= within, "{count} counted of {within} hits");
            prop_assert!(count >= 1);
        }
    }
}
