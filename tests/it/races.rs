//! Two policy connections query the same SMTP session at the same time: one counts it, the other gets the result.
//!
//! The daemon has one thread, but the session table does not rely on that. Here
//! every policy connection has a thread of its own, and they race.

use std::future::poll_fn;
use std::pin::pin;
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
    let [counted, told, waited, lost] = [(); 4].map(|()| AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..SEATS {
            scope.spawn(|| {
                let mut judged = SessionRecord::default();
                judged.delayed = true;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                let mut handle = sessions.attach(None);
                for session in 1..=SESSIONS {
                    let now = Now::simulated(u64::from(session) * 10_000);
                    let request = recipient(session);
                    barrier.wait();
                    // A panic here would leave the others at the barrier.
                    let patience = Duration::from_secs(if lost.load(Ordering::Relaxed) == 0 { 10 } else { 0 });
                    let mut has_waited = false;
                    let guard = runtime.block_on(async {
                        let mut lookup = pin!(handle.lookup([192, 0, 2, 1].into(), &request, now));
                        let polled = poll_fn(|context| {
                            let polled = lookup.as_mut().poll(context);
                            has_waited |= polled.is_pending();
                            polled
                        });
                        timeout(patience, polled).await
                    });
                    let sum = match guard {
                        Ok(guard) if guard.lookup.new => {
                            let count = guard.unlock_to_count();
                            thread::yield_now();
                            *count.finish().record() = judged.clone();
                            &counted
                        }
                        Ok(mut guard) => {
                            waited.fetch_add(usize::from(has_waited), Ordering::Relaxed);
                            if guard.record().delayed { &told } else { &lost }
                        }
                        Err(_) => &lost,
                    };
                    sum.fetch_add(1, Ordering::Relaxed);
                    barrier.wait();
                }
            });
        }
    });
    assert_eq!(lost.into_inner(), 0, "a connection did not get the result");
    assert_eq!(counted.into_inner(), usize::from(SESSIONS));
    assert_eq!(told.into_inner(), (SEATS - 1) * usize::from(SESSIONS));
    assert!(waited.into_inner() > 0, "no connection ever had to wait");
}

/// The first recipient of a session that two restriction lists ask about.
fn recipient(session: u16) -> Request<'static> {
    let text = format!(
        "request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.1\nclient_port={session}\n\
         server_address=192.0.2.25\nserver_port=25\ninstance={session:x}.10.0.0\n\n"
    );
    RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap()
}
