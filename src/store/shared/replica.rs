//! A command on its way to one server, or to two that both have the key.
//!
//! Both are asked at the same time, and both are waited for: the larger count
//! decides, with its own end, so that a server that was lost or has forgotten
//! takes nothing away. The two may have begun their windows at different times;
//! each is a window in which that much was counted.

use tokio::sync::oneshot;

use crate::store::Uncounted;
use crate::store::memcached::protocol::Answer;
use crate::store::memcached::server::Outcome;

/// One server's part. A server whose breaker is open is not waited for.
pub type Sent = Result<oneshot::Receiver<Outcome>, Uncounted>;

/// One command that is on its way. Nobody need wait for it.
#[derive(Debug)]
pub struct Waiting {
    first: Sent,
    second: Option<Sent>,
}

impl Waiting {
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
    sent?.await.unwrap_or(Err(Uncounted::Unanswered))
}

/// What two servers that have the same key say together.
fn both(first: Outcome, second: Outcome) -> Outcome {
    match (first, second) {
        (Ok(Answer::Counted(one)), Ok(Answer::Counted(other))) if other.count > one.count => second,
        (Ok(Answer::Counted(_)), _) => first,
        (_, Ok(Answer::Counted(_))) => second,
        // The higher ranks first on every host, so of several hosts one is told that it was done.
        (Ok(_), _) => first,
        (_, Ok(_)) => second,
        // It was asked, so it may have been done.
        (Err(Uncounted::Away), Err(_)) => second,
        (Err(_), Err(_)) => first,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memcached::protocol::Counted;

    fn counted(count: u32, left: u32) -> Outcome {
        Ok(Answer::Counted(Counted { count, left: Some(left), endless: false }))
    }

    #[test]
    fn the_larger_count_decides_with_its_own_end() {
        assert_eq!(both(counted(3, 50), counted(7, 10)), counted(7, 10));
        assert_eq!(both(counted(7, 10), counted(3, 50)), counted(7, 10));
        assert_eq!(both(counted(3, 50), Err(Uncounted::Away)), counted(3, 50));
        assert_eq!(both(Err(Uncounted::Unanswered), counted(3, 50)), counted(3, 50));
        // One has lost the key that is read.
        assert_eq!(both(Ok(Answer::NotDone), counted(3, 50)), counted(3, 50));
    }

    #[test]
    fn of_what_is_done_once_the_first_says_whether_it_was() {
        assert_eq!(both(Ok(Answer::Done), Ok(Answer::NotDone)), Ok(Answer::Done));
        assert_eq!(both(Ok(Answer::NotDone), Ok(Answer::Done)), Ok(Answer::NotDone));
        assert_eq!(both(Err(Uncounted::Away), Ok(Answer::Done)), Ok(Answer::Done));
    }

    #[test]
    fn that_one_was_asked_in_vain_is_said() {
        use Uncounted::{Away, Unanswered};
        for (one, other, together) in
            [(Away, Away, Away), (Away, Unanswered, Unanswered), (Unanswered, Away, Unanswered)]
        {
            assert_eq!(both(Err(one), Err(other)), Err(together));
        }
    }
}
