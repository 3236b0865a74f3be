//! Two servers that have the same key.
//!
//! Both are asked at the same time, and both are waited for: the larger count decides, with its own expiry, so that
//! a server that has lost counts takes nothing away. The two may have begun their windows at different times; each
//! is a window in which that much was counted.

use crate::store::shared::backend::{CounterReply, Outcome, StoreError};

/// The outcome of a command for both: `first` is that of the server that ranks higher.
pub fn combine(first: Outcome, second: Outcome) -> Outcome {
    use CounterReply::Count;
    match (first, second) {
        (Ok(Count { count: one, .. }), Ok(Count { count: other, .. })) if other > one => second,
        (Ok(Count { .. }), _) => first,
        (_, Ok(Count { .. })) => second,
        // Every host ranks the servers in the same order, so only one of several hosts is told that it was done.
        (Ok(_), _) => first,
        (_, Ok(_)) => second,
        // One of them was asked, so it may have been done.
        (Err(StoreError::Unavailable), Err(_)) => second,
        (Err(_), Err(_)) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(count: u32, left: u32) -> Outcome {
        Ok(CounterReply::Count { count, left: Some(left) })
    }

    #[test]
    fn the_larger_count_decides_with_its_own_end() {
        assert_eq!(combine(count(3, 50), count(7, 10)), count(7, 10));
        assert_eq!(combine(count(7, 10), count(3, 50)), count(7, 10));
        assert_eq!(combine(count(3, 50), Err(StoreError::Unavailable)), count(3, 50));
        assert_eq!(combine(Err(StoreError::NoAnswer), count(3, 50)), count(3, 50));
        // One has lost the key that is read.
        assert_eq!(combine(Ok(CounterReply::NotDone), count(3, 50)), count(3, 50));
    }

    #[test]
    fn of_what_is_done_once_the_first_says_whether_it_was() {
        use CounterReply::{Done, NotDone};
        assert_eq!(combine(Ok(Done), Ok(NotDone)), Ok(Done));
        assert_eq!(combine(Ok(NotDone), Ok(Done)), Ok(NotDone));
        assert_eq!(combine(Err(StoreError::Unavailable), Ok(Done)), Ok(Done));
    }

    #[test]
    fn a_server_that_was_asked_and_did_not_answer_decides_over_one_that_was_not_asked() {
        use StoreError::{NoAnswer, Unavailable};
        for (one, other, together) in [
            (Unavailable, Unavailable, Unavailable),
            (Unavailable, NoAnswer, NoAnswer),
            (NoAnswer, Unavailable, NoAnswer),
        ] {
            assert_eq!(combine(Err(one), Err(other)), Err(together));
        }
    }
}
