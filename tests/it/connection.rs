//! Time limits of a policy connection. The clock is paused: it advances only while both ends wait.

use std::path::Path;
use std::time::Duration;

use connshaper::config::Config;
use connshaper::engine::service::Service;
use connshaper::listener::Peer;
use connshaper::net::shutdown::Shutdown;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::Policy;
use connshaper::postfix::connection::PolicyConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::{Instant, sleep};

use crate::support::request;

/// The time limit for the rest of a request, and for the peer to read an answer.
const LIMIT: Duration = Duration::from_secs(30);

const UNFINISHED: &str = "BAD_REQUEST peer=unix problem=\"a request that was begun 30 seconds ago is not finished\"";

fn service(rules: &str) -> Service {
    let config = Config::parse(Path::new("rules"), rules).unwrap();
    Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Info))
}

/// Serves a connection until it is closed, and tells how long that took.
async fn serve(stream: DuplexStream, service: &Service) -> Duration {
    let start = Instant::now();
    let session = service.sessions.attach(None);
    PolicyConnection::new(stream, Peer::Unix, session).serve(service, Shutdown::default()).await;
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_finished_closes_the_connection_after_thirty_seconds() {
    let (service, (mut peer, stream)) = (service(""), duplex(1024));
    peer.write_all(b"request=smtpd_access_policy\nclient_address=198.51.100.1\n").await.unwrap();
    assert_eq!(serve(stream, &service).await, LIMIT);
    assert_eq!(service.log.lines(), [UNFINISHED]);
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_byte_a_second_does_not_extend_the_time_for_a_request() {
    let (service, (mut peer, stream)) = (service(""), duplex(1024));
    let send = async {
        let mut sent = 0;
        while peer.write_all(b"a").await.is_ok() {
            sent += 1;
            sleep(Duration::from_secs(1)).await;
        }
        sent
    };
    let (lasted, sent) = tokio::join!(serve(stream, &service), send);
    assert_eq!(lasted, LIMIT);
    assert!((30..=31).contains(&sent), "{sent} bytes");
    assert_eq!(service.log.lines(), [UNFINISHED]);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_not_read_close_the_connection_after_thirty_seconds() {
    let (service, (mut peer, stream)) = (service(""), duplex(1024));
    let requests = request(&["client_address=127.0.0.1"]).repeat(1000);
    // The buffer is full as soon as the connection waits for its answers to be read.
    let send = async { peer.write_all(requests.as_bytes()).await.unwrap_err() };
    let (lasted, _) = tokio::join!(serve(stream, &service), send);
    assert_eq!(lasted, LIMIT);
    assert!(service.log.lines().is_empty(), "{:?}", service.log.lines());
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_stays_open() {
    let (service, (mut peer, stream)) = (service(""), duplex(1024));
    let question = request(&["client_address=198.51.100.1"]);
    let ask = async {
        for _ in 0..3 {
            peer.write_all(question.as_bytes()).await.unwrap();
            let mut answer = [0; 14];
            peer.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"action=DUNNO\n\n");
            sleep(24 * 3600 * Duration::from_secs(1)).await;
        }
        drop(peer);
    };
    let (lasted, ()) = tokio::join!(serve(stream, &service), ask);
    assert_eq!(lasted, 3 * 24 * 3600 * Duration::from_secs(1));
    assert!(service.log.lines().is_empty(), "{:?}", service.log.lines());
}

/// Asks about a session and returns how long the answer took and what it is.
async fn ask(peer: &mut DuplexStream, client: &str, port: u16) -> (Duration, String) {
    let (client, port) = (format!("client_address={client}"), format!("client_port={port}"));
    let start = Instant::now();
    peer.write_all(request(&["protocol_state=CONNECT", &client, &port]).as_bytes()).await.unwrap();
    let mut answer = vec![0; 1024];
    let length = peer.read(&mut answer).await.unwrap();
    answer.truncate(length);
    (start.elapsed(), String::from_utf8(answer).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_closed_connection_frees_its_delay_slot_at_once() {
    let service = service("threshold = 1\nwhitelist = []\ninitial_delay = 1\nmax_delayed = 1");
    let ((mut stays, one), (mut leaves, other)) = (duplex(1024), duplex(1024));
    let passes = "action=DUNNO\n\n".to_owned();
    let script = async {
        for client in ["192.0.2.1", "192.0.2.2"] {
            assert_eq!(ask(&mut stays, client, 1).await, (Duration::ZERO, passes.clone()));
        }
        let delayed = tokio::select! {
            answer = ask(&mut leaves, "192.0.2.1", 2) => Some(answer),
            () = sleep(Duration::from_millis(500)) => None,
        };
        assert_eq!(delayed, None);
        let (took, answer) = ask(&mut stays, "192.0.2.2", 2).await;
        assert!(took.is_zero() && answer.starts_with("action=DEFER_IF_PERMIT "), "the slot is taken: {answer}");
        drop(leaves);
        sleep(Duration::from_millis(1)).await;
        assert_eq!(ask(&mut stays, "192.0.2.2", 3).await, (Duration::from_secs(2), passes));
        drop(stays);
    };
    tokio::join!(serve(one, &service), serve(other, &service), script);
}
