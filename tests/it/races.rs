//! Two policy connections query the same SMTP session at the same time: one counts it, the other gets the result.
//!
//! The daemon has one thread, but the session table does not rely on that. Here
//! every policy connection has a thread of its own, and they race.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use connshaper::net::clock::Now;
use connshaper::policy::SessionRecord;
use connshaper::policy::request::Request;
use connshaper::postfix::decoder::RequestDecoder;
use connshaper::session::Sessions;
use tokio::time::timeout;
use tokio_util::codec::Decoder;

const SEATS: usize = 4;
const SESSIONS: u16 = 2000;

#[test]
fn a_connection_that_waits_for_anothers_count_gets_the_result() {
    let sessions = Sessions::new(SEATS);
    let barrier = Barrier::new(SEATS);
    let [counted, told, lost] = [(); 3].map(|()| AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..SEATS {
            scope.spawn(|| {
                let mut judged = SessionRecord::default();
                judged.delayed = true;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let mut seat = sessions.attach(None);
                for session in 1..=SESSIONS {
                    let now = Now::simulated(u64::from(session) * 10_000);
                    let request = recipient(session);
                    barrier.wait();
                    let joined = seat.lookup([192, 0, 2, 1].into(), &request, now);
                    if joined.new {
                        seat.count();
                        counted.fetch_add(1, Ordering::Relaxed);
                        thread::yield_now();
                        seat.remember(judged.clone());
                    } else if joined.counting {
                        // A panic here would leave the others at the barrier.
                        let patience = Duration::from_secs(if lost.load(Ordering::Relaxed) == 0 { 10 } else { 0 });
                        let settled = runtime.block_on(async { timeout(patience, seat.counted()).await });
                        let sum = if settled.is_ok_and(|memory| memory.delayed) { &told } else { &lost };
                        sum.fetch_add(1, Ordering::Relaxed);
                    }
                    // Between `join` and `count` another may have joined and found nothing counted: that one is not told.
                    barrier.wait();
                }
            });
        }
    });
    assert_eq!(lost.into_inner(), 0, "somebody was not told");
    assert_eq!(counted.into_inner(), usize::from(SESSIONS));
    assert!(told.into_inner() > 0, "nobody ever had to wait");
}

/// The first recipient of a session that two restriction lists ask about.
fn recipient(session: u16) -> Request {
    let text = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\nclient_port={session}\n\
         server_address=192.0.2.25\nserver_port=25\ninstance={session:x}.10.0.0\n\n"
    );
    RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap()
}
