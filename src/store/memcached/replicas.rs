//! A command on its way to one server, or to two that both have the key.
//!
//! Both are asked at the same time, and both are waited for: the larger count
//! decides, with its own end, so that a server that was lost or has forgotten
//! takes nothing away. The two may have begun their windows at different times;
//! each is a window in which that much was counted.

use tokio::sync::oneshot;

use crate::store::StoreError;
use crate::store::memcached::protocol::Response;
use crate::store::memcached::server::Outcome;

/// One server's part. A server whose breaker is open is not waited for.
pub type Sent = Result<oneshot::Receiver<Outcome>, StoreError>;

/// One command that is on its way. Nobody need wait for it.
#[derive(Debug)]
pub struct ReplicaWait {
    first: Sent,
    second: Option<Sent>,
}

impl ReplicaWait {
    /// Sent to the server that ranks highest, and to the next if that has the key too.
    pub fn new(first: Sent, second: Option<Sent>) -> Self {
        Self { first, second }
    }

    /// Waits for the answer, at most `store_timeout`.
    pub async fn outcome(self) -> Outcome {
        let first = outcome(self.first).await;
        match self.second {
            None => first,
            Some(second) => both(first, outcome(second).await),
        }
    }
}

async fn outcome(sent: Sent) -> Outcome {
    sent?.await.unwrap_or(Err(StoreError::TimedOut))
}

/// What two servers that have the same key say together.
fn both(first: Outcome, second: Outcome) -> Outcome {
    match (first, second) {
        (Ok(Response::Counted(one)), Ok(Response::Counted(other))) if other.count > one.count => second,
        (Ok(Response::Counted(_)), _) => first,
        (_, Ok(Response::Counted(_))) => second,
        // The higher ranks first on every host, so of several hosts one is told that it was done.
        (Ok(_), _) => first,
        (_, Ok(_)) => second,
        // It was asked, so it may have been done.
        (Err(StoreError::Unavailable), Err(_)) => second,
        (Err(_), Err(_)) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memcached::protocol::Counted;

    fn counted(count: u32, left: u32) -> Outcome {
        Ok(Response::Counted(Counted { count, left: Some(left), endless: false }))
    }

    #[test]
    fn the_larger_count_decides_with_its_own_end() {
        assert_eq!(both(counted(3, 50), counted(7, 10)), counted(7, 10));
        assert_eq!(both(counted(7, 10), counted(3, 50)), counted(7, 10));
        assert_eq!(both(counted(3, 50), Err(StoreError::Unavailable)), counted(3, 50));
        assert_eq!(both(Err(StoreError::TimedOut), counted(3, 50)), counted(3, 50));
        // One has lost the key that is read.
        assert_eq!(both(Ok(Response::NotDone), counted(3, 50)), counted(3, 50));
    }

    #[test]
    fn of_what_is_done_once_the_first_says_whether_it_was() {
        assert_eq!(both(Ok(Response::Done), Ok(Response::NotDone)), Ok(Response::Done));
        assert_eq!(both(Ok(Response::NotDone), Ok(Response::Done)), Ok(Response::NotDone));
        assert_eq!(both(Err(StoreError::Unavailable), Ok(Response::Done)), Ok(Response::Done));
    }

    #[test]
    fn that_one_was_asked_in_vain_is_said() {
        use StoreError::{TimedOut, Unavailable};
        for (one, other, together) in [
            (Unavailable, Unavailable, Unavailable),
            (Unavailable, TimedOut, TimedOut),
            (TimedOut, Unavailable, TimedOut),
        ] {
            assert_eq!(both(Err(one), Err(other)), Err(together));
        }
    }
}
