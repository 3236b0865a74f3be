use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::snapshot::section::{decode, encode};
use crate::store::local::shard::Shard;

const MINUTE: u64 = 60_000;

/// Clients of all widths in turn.
fn counter_id(number: u32) -> CounterId {
    match number % 4 {
        0 | 1 => ipv4(number),
        2 => CounterId::client(CounterLimitId(0), Ipv6Addr::from_bits(u128::from(number) << 64).into(), 64),
        _ => CounterId::text(CounterLimitId(0), number.into()),
    }
}

fn ipv4(number: u32) -> CounterId {
    CounterId::client(CounterLimitId(0), Ipv4Addr::from_bits(number).into(), 32)
}

fn slots(table: &Table) -> usize {
    table.narrow.buckets() + table.middle.buckets() + table.wide.buckets()
}

#[derive(Clone, Debug)]
enum Step {
    Hit { id: u32, amount: u32, exptime_ms: u64 },
    Renew { id: u32, amount: u32, exptime_ms: u64 },
    Add { id: u32, count: u32, exptime_ms: u64 },
    Observe { id: u32, count: u32, left_ms: u64 },
    TakeBack { id: u32, amount: u32 },
    Forget { id: u32 },
    Clear,
    Wait { ms: u64 },
    Sweep { budget: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..40u32;
    let amount = prop_oneof![9 => 1..5u32, 1 => Just(u32::MAX)];
    prop_oneof![
        200 => (who.clone(), amount.clone(), 1..5000u64)
            .prop_map(|(id, amount, exptime_ms)| Step::Hit { id, amount, exptime_ms }),
        50 => (who.clone(), amount.clone(), 1..5000u64)
            .prop_map(|(id, amount, exptime_ms)| Step::Renew { id, amount, exptime_ms }),
        50 => (who.clone(), amount.clone(), 1..5000u64)
            .prop_map(|(id, count, exptime_ms)| Step::Add { id, count, exptime_ms }),
        50 => (who.clone(), amount.clone(), 0..5000u64)
            .prop_map(|(id, count, left_ms)| Step::Observe { id, count, left_ms }),
        20 => (who.clone(), amount).prop_map(|(id, amount)| Step::TakeBack { id, amount }),
        20 => who.prop_map(|id| Step::Forget { id }),
        1 => Just(Step::Clear),
        50 => (0..1500u64).prop_map(|ms| Step::Wait { ms }),
        20 => (0..5000usize).prop_map(|budget| Step::Sweep { budget }),
    ]
}

/// The table said plainly: counts and ends in milliseconds.
#[derive(Default)]
struct Model {
    entries: HashMap<u32, (u32, u64)>,
    now: u64,
}

impl Model {
    fn live(&self, id: u32) -> Option<(u32, u64)> {
        self.entries.get(&id).copied().filter(|(_, end)| self.now < *end)
    }

    fn set(&mut self, id: u32, count: u32, end: u64) {
        self.entries.insert(id, (count.min(Entry::MAX_COUNT), end));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Hit { id, amount, exptime_ms } => {
                let (count, end) = self.live(id).unwrap_or((0, self.now + exptime_ms));
                self.set(id, count.saturating_add(amount), end);
            }
            Step::Renew { id, amount, exptime_ms } => {
                let count = self.live(id).map_or(0, |(count, _)| count);
                self.set(id, count.saturating_add(amount), self.now + exptime_ms);
            }
            Step::Add { id, count, exptime_ms } => {
                if self.live(id).is_none() {
                    self.set(id, count, self.now + exptime_ms);
                }
            }
            Step::Observe { id, count, left_ms } if left_ms > 0 => {
                self.set(id, count, self.now + left_ms);
            }
            Step::Observe { id, .. } | Step::Forget { id } => {
                self.entries.remove(&id);
            }
            Step::TakeBack { id, amount } => {
                if let Some((count, end)) = self.live(id) {
                    self.set(id, count.saturating_sub(amount), end);
                }
            }
            Step::Clear => self.entries.clear(),
            Step::Wait { ms } => self.now += ms,
            Step::Sweep { .. } => {}
        }
    }
}

proptest! {
    #[test]
    fn a_table_counts_as_a_map_would(steps in prop::collection::vec(step(), 0..200)) {
        let table = Table::new(1000);
        let mut model = Model::default();
        for step in steps {
            let before = model.live(match step {
                Step::Add { id, .. } => id,
                _ => u32::MAX,
            });
            model.take(&step);
            let now = model.now;
            match step {
                Step::Hit { id: number, amount, exptime_ms } => {
                    let hit = table.hit(counter_id(number), amount, exptime_ms, 10, now);
                    let (count, _) = model.entries[&number];
                    prop_assert_eq!(hit.count, count);
                    prop_assert!(hit.left_ms > 0);
                }
                Step::Renew { id: number, amount, exptime_ms } => {
                    let count = table.renew(counter_id(number), amount, exptime_ms, 10, now);
                    prop_assert_eq!(count, model.entries[&number].0);
                }
                Step::Add { id: number, count, exptime_ms } => {
                    prop_assert_eq!(table.add(counter_id(number), count, exptime_ms, 10, now), before.is_none());
                }
                Step::Observe { id: number, count, left_ms } => {
                    table.observe(counter_id(number), count, left_ms, 10, now);
                }
                Step::TakeBack { id: number, amount } => table.take_back(counter_id(number), amount, now),
                Step::Forget { id: number } => table.forget(counter_id(number)),
                Step::Clear => table.clear(),
                Step::Wait { .. } => {}
                Step::Sweep { budget } => table.sweep(now, budget),
            }
            for number in 0..40 {
                let expected = model.live(number).map(|(count, end)| TableEntry { count, left_ms: end - now });
                prop_assert_eq!(table.peek(counter_id(number), now), expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_full_table_never_exceeds_its_bound(bound in 1..300usize, numbers in prop::collection::vec(0..2000u32, 0..1000)) {
        let table = Table::new(bound);
        for number in numbers {
            prop_assert_eq!(table.hit(counter_id(number), 1, MINUTE, 10, 0).left_ms, MINUTE);
            prop_assert!(table.len() <= bound);
            // The newest is never the one to go.
            prop_assert!(table.peek(counter_id(number), 0).is_some());
        }
    }
}

#[test]
fn a_window_ends_at_its_time_and_not_before() {
    let table = Table::new(1000);
    let hit = |now| table.hit(ipv4(1), 1, MINUTE, 10, now);
    assert_eq!(hit(1007), TableEntry { count: 1, left_ms: 60_000 });
    assert_eq!(hit(1008), TableEntry { count: 2, left_ms: 59_999 });
    assert_eq!(hit(61_006), TableEntry { count: 3, left_ms: 1 });
    assert_eq!(hit(61_007), TableEntry { count: 1, left_ms: 60_000 });
    assert_eq!(table.peek(ipv4(1), 121_006).map(|hit| hit.left_ms), Some(1));
    assert_eq!(table.peek(ipv4(1), 121_007), None);
}

#[test]
fn a_window_is_never_told_to_be_longer_than_exptime() {
    let table = Table::new(1000);
    let hit = |exptime, now| table.hit(ipv4(1), 1, exptime, 10, now).left_seconds();
    assert_eq!(hit(MINUTE, 1), 60);
    assert_eq!(hit(MINUTE, 2), 60);
    // The rest of a window that began under a longer exptime is told as it is.
    assert_eq!(hit(10_000, 200), 60);
}

#[test]
fn a_window_that_ends_at_another_time_is_another_window() {
    let table = Table::new(1000);
    table.hit(ipv4(1), 3, MINUTE, 10, 0);
    // The clock was set by a second.
    table.end_unless(ipv4(1), MINUTE - 11_000, 5000, 10_000);
    let known = table.peek(ipv4(1), 10_000).unwrap();
    assert_eq!((known.count, known.left_ms), (3, MINUTE - 11_000));
    // It was set by half a minute.
    table.end_unless(ipv4(1), MINUTE - 40_000, 5000, 10_000);
    assert_eq!(table.peek(ipv4(1), 10_000), None);
}

#[test]
fn of_many_threads_one_begins_a_window() {
    let table = Table::new(1000);
    let begun = thread::scope(|scope| {
        let add = || (0..500).filter(|number| table.add(counter_id(*number), 1, MINUTE, 0, 0)).count();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(add)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(begun, 500);
}

#[test]
fn counts_stop_at_their_maximum() {
    let table = Table::new(1000);
    assert_eq!(table.hit(ipv4(1), u32::MAX, MINUTE, 10, 0).count, 2_147_483_647);
    assert_eq!(table.hit(ipv4(1), 1, MINUTE, 10, 0).count, 2_147_483_647);
}

#[test]
fn an_end_beyond_the_clock_of_the_table_is_its_last_moment() {
    let table = Table::new(1000);
    let hit = table.hit(ipv4(1), 1, u64::MAX, 10, 5);
    assert_eq!(hit.left_ms, (1 << 40) - 1 - 5);
}

#[test]
fn expired_entries_make_room_first() {
    let table = Table::new(10);
    for number in 0..10 {
        table.hit(ipv4(number), 1, if number == 7 { 1000 } else { MINUTE }, 10, 0);
    }
    table.hit(ipv4(10), 1, MINUTE, 10, 1000);
    assert_eq!(table.evictions(), 0);
    assert_eq!(table.peek(ipv4(7), 1000), None);
    assert_eq!(table.len(), 10);
}

#[test]
fn then_the_nearest_end_goes_and_a_client_over_its_limit_last() {
    let table = Table::new(10);
    for number in 0..10 {
        // The lower the number, the nearer the end; the first three are over their limit.
        let amount = if number < 3 { 11 } else { 10 };
        table.hit(ipv4(number), amount, 1000 * u64::from(number + 1), 10, 0);
    }
    let expected = [3, 4, 5, 6, 7, 8, 9, 0, 1, 2];
    for (step, gone) in expected.into_iter().enumerate() {
        assert!(table.peek(ipv4(gone), 0).is_some());
        // The newcomers end last, and are over their limit.
        table.hit(ipv4(100 + step as u32), 11, MINUTE, 10, 0);
        assert!(table.peek(ipv4(gone), 0).is_none(), "{gone} is still there");
        assert_eq!(table.evictions(), step as u64 + 1);
    }
}

#[test]
fn a_flood_of_strangers_does_not_free_a_client_over_its_limit() {
    let table = Table::new(20_000);
    table.hit(ipv4(0), 11, MINUTE, 10, 0);
    for number in 1..200_000 {
        table.hit(ipv4(number), 1, MINUTE, 10, 0);
    }
    assert_eq!(table.peek(ipv4(0), 0), Some(TableEntry { count: 11, left_ms: MINUTE }));
    assert_eq!(table.len(), 20_000);
    assert_eq!(table.evictions(), 180_000);
}

#[test]
fn a_flood_of_one_family_leaves_the_other_room() {
    let table = Table::new(10_000);
    for number in 0..20_000 {
        table.hit(ipv4(number), 1, MINUTE, 10, 0);
    }
    for number in 0..10_000u32 {
        table.hit(
            CounterId::client(CounterLimitId(0), Ipv6Addr::from_bits(u128::from(number) << 64).into(), 64),
            1,
            MINUTE,
            10,
            0,
        );
    }
    let (ipv4, ipv6) = (table.narrow.len(), table.middle.len());
    assert_eq!(ipv4 + ipv6, 10_000);
    assert!(ipv6 > 5000, "{ipv6} IPv6 networks are left");
}

#[test]
fn a_lowered_bound_is_met_soon() {
    let table = Table::new(10_000);
    for number in 0..10_000 {
        table.hit(ipv4(number), 1, MINUTE, 10, 0);
    }
    table.set_max_clients(5000);
    for number in 0..2000 {
        table.hit(ipv4(number), 1, MINUTE, 10, 0);
    }
    assert!(table.len() <= 6500, "{} entries", table.len());
    table.sweep(0, 1_000_000);
    assert_eq!(table.len(), 5000);
}

/// A sweep goes round the shards once; a large shard takes several.
fn sweep_all(table: &Table, now: u64) {
    for _ in 0..10 {
        table.sweep(now, 1_000_000);
    }
}

#[test]
fn sweeping_frees_what_is_expired_and_all_memory_in_the_end() {
    let table = Table::new(1_000_000);
    for number in 0..100_000 {
        table.hit(counter_id(number), 1, if number < 50_000 { 1000 } else { MINUTE }, 10, 0);
    }
    sweep_all(&table, 999);
    assert_eq!(table.len(), 100_000);
    sweep_all(&table, 1000);
    assert_eq!(table.len(), 50_000);
    sweep_all(&table, MINUTE);
    assert_eq!(table.len(), 0);
    assert_eq!(slots(&table), 0);
}

#[test]
fn an_empty_table_is_small() {
    assert!(size_of::<Mutex<Shard<5>>>() * 3 * SHARDS <= 256 * 1024);
    let table = Table::new(usize::MAX);
    assert_eq!(slots(&table), 0);
}

#[test]
fn hits_of_many_threads_add_up() {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 200;
    const SUBJECTS: u32 = 500;
    let table = Table::new(10_000);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    for number in 0..SUBJECTS {
                        table.hit(counter_id(number), 1, MINUTE, 10, 0);
                    }
                }
            });
        }
    });
    for number in 0..SUBJECTS {
        assert_eq!(table.peek(counter_id(number), 0).unwrap().count, THREADS * ROUNDS);
    }
    assert_eq!(table.len(), SUBJECTS as usize);
}

#[test]
fn many_threads_keep_the_bound() {
    const THREADS: u32 = 4;
    let table = Table::new(1000);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let table = &table;
            scope.spawn(move || {
                for number in 0..20_000 {
                    table.hit(counter_id(number * THREADS + thread), 1, MINUTE, 10, 0);
                }
            });
        }
    });
    assert!((1000..=1004).contains(&table.len()), "{} entries", table.len());
}

/// A table with the same counts, made at `now` of what `table` keeps.
fn copy(table: &Table, max_clients: usize, now: u64) -> Table {
    let copy = Table::with_secret(max_clients, table.secret());
    let mut counts = Vec::new();
    (0..Table::SHARDS).for_each(|shard| table.copy_shard(shard, now, &mut counts));
    counts.iter().for_each(|kept| copy.insert_restored(kept, now));
    copy
}

#[test]
fn a_table_made_of_what_another_keeps_has_its_counts_and_ends() {
    let table = Table::new(10_000);
    for number in 0..1000 {
        table.hit(counter_id(number), 1 + number % 5, u64::from(number + 1) * 100, 3, 0);
    }
    let now = 50_050;
    let copy = copy(&table, 10_000, now);
    assert_eq!(copy.len(), 500, "those that are over stay behind");
    for number in 0..1000 {
        assert_eq!(copy.peek(counter_id(number), now), table.peek(counter_id(number), now), "{number}");
    }
}

#[test]
fn a_smaller_table_takes_in_those_over_their_limit() {
    let table = Table::new(10_000);
    for number in 0..3000 {
        table.hit(ipv4(number), if number < 100 { 5 } else { 1 }, MINUTE, 3, 0);
    }
    let copy = copy(&table, 1000, 1);
    assert_eq!(copy.len(), 1000);
    let over = (0..100).filter(|number| copy.peek(ipv4(*number), 1).is_some_and(|hit| hit.count == 5));
    assert_eq!(over.count(), 100);
}

#[test]
fn what_is_counted_already_is_not_taken_in() {
    let (table, now) = (Table::new(1000), 5);
    table.hit(ipv4(1), 7, MINUTE, 3, now);
    table.insert_restored(&RestoredEntry { id: ipv4(1), count: 1, over: false, ends: 10 * MINUTE }, now);
    table.insert_restored(&RestoredEntry { id: ipv4(2), count: 1, over: false, ends: now }, now);
    assert_eq!(table.peek(ipv4(1), now).map(|hit| hit.count), Some(7));
    assert_eq!(table.len(), 1);
}

fn client(limit: u16, address: &str, prefix_length: u8) -> CounterId {
    CounterId::client(CounterLimitId(limit), address.parse().unwrap(), prefix_length)
}

#[test]
fn an_id_is_as_wide_as_it_has_to_be() {
    assert!(matches!(client(0, "192.0.2.1", 32), CounterId::Narrow(_)));
    assert!(matches!(client(0, "2001:db8::", 64), CounterId::Middle(_)));
    assert!(matches!(client(0, "2001:db8::1", 128), CounterId::Wide(_)));
    assert!(matches!(CounterId::text(CounterLimitId(0), 0), CounterId::Wide(_)));
}

#[test]
fn limits_families_and_prefix_lengths_are_kept_apart() {
    let ids = [
        client(0, "0.0.0.0", 32),
        client(1, "0.0.0.0", 32),
        client(256, "0.0.0.0", 32),
        client(0, "0.0.0.0", 24),
        client(0, "::", 32),
        client(0, "::", 128),
        client(0, "::1", 128),
        client(0, "::1:0:0:0", 128),
        client(0, "0.0.0.0", 32).of_ban(),
        CounterId::text(CounterLimitId(0), 0).of_ban(),
        CounterId::text(CounterLimitId(0), 0),
        CounterId::text(CounterLimitId(0), 1),
        CounterId::text(CounterLimitId(1), 1),
    ];
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[test]
fn an_id_that_was_saved_is_the_same_and_of_another_limit_differs_in_that_alone() {
    for address in ["192.0.2.1", "2001:db8::", "2001:db8::1"] {
        let id = client(7, address, 30);
        assert_eq!(decode::<CounterId>(&encode(&id)).unwrap(), id);
        assert_eq!((id.limit(), id.of_limit(CounterLimitId(513))), (CounterLimitId(7), client(513, address, 30)));
        let ban = id.of_ban();
        assert_eq!(
            (ban.limit(), ban.of_limit(CounterLimitId(513))),
            (CounterLimitId(7), client(513, address, 30).of_ban())
        );
    }
    assert!(decode::<CounterId>(&encode(&CounterId::Narrow([1, 0]))).is_err());
}
