//! Effects of a refusal beside the answer, over a policy connection and on every
//! store: the client is banned in its next session, or its hit is refunded.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use connshaper::config::Config;
use connshaper::engine::service::Service;
use connshaper::listener::Peer;
use connshaper::net::clock::Now;
use connshaper::net::shutdown::Shutdown;
use connshaper::net::stream::Stream;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::Policy;
use connshaper::policy::key::KeyPart;
use connshaper::policy::limit::Ban;
use connshaper::policy::lists::Lists;
use connshaper::policy::{CounterKind, Key, Limit};
use connshaper::postfix::connection::PolicyConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{self, Site, default_limit, eventually, on_every_store, request};

fn client() -> KeyPart {
    KeyPart::client([198, 51, 100, 1].into(), 32, 64)
}

/// A policy connection to a service with one limit.
struct Asker {
    postfix: UnixStream,
    service: Arc<Service>,
    sessions: u16,
}

impl Asker {
    fn new(site: &Site, limit: Limit) -> Self {
        let mut config = Config::default();
        (config.policy.lists, config.policy.limits) = (Lists::default(), vec![limit]);
        config.store.shared = site.shared();
        config.store.timeout = support::PATIENCE;
        // Without the over-limit cache every hit goes to the store.
        config.store.over_memory = std::time::Duration::ZERO;
        let service =
            Arc::new(Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Info)));
        let (postfix, ours) = UnixStream::pair().unwrap();
        let serving = Arc::clone(&service);
        tokio::spawn(async move {
            let (stream, session) = (Stream::try_from(ours).unwrap(), serving.sessions.attach(None));
            PolicyConnection::new(stream, Peer::Unix, session).serve(&serving, Shutdown::default()).await
        });
        Self { postfix, service, sessions: 0 }
    }

    /// Returns the answer to a new session of the client.
    async fn connect(&mut self) -> String {
        self.sessions += 1;
        let port = format!("client_port={}", self.sessions);
        let asked = request(&["protocol_state=CONNECT", "client_address=198.51.100.1", &port]);
        self.postfix.write_all(asked.as_bytes()).await.unwrap();
        let mut answer = [0; 512];
        let length = self.postfix.read(&mut answer).await.unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    fn lines(&self, keyword: &str) -> Vec<String> {
        self.service.log.lines().into_iter().filter(|line| line.starts_with(keyword)).collect()
    }
}

#[test]
fn a_client_that_goes_over_too_often_is_refused_until_its_ban_ends() {
    on_every_store(async |site: &Site| {
        let ban = Some(Ban { time: 60, threshold: 2, max: 180 });
        let limit = Limit { threshold: 1, exptime: 600, ban, forget_after: 600, ..default_limit("c:") };
        let mut asker = Asker::new(site, limit.clone());
        assert_eq!(asker.connect().await, "action=DUNNO\n\n");
        let left = async |asker: &mut Asker| -> u32 {
            let answer = asker.connect().await;
            let text = answer
                .strip_prefix("action=DEFER_IF_PERMIT 4.7.0 Too many connections from 198.51.100.1, try again in ");
            let left = text.and_then(|text| text.strip_suffix(" seconds\n\n"));
            left.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
        };
        // The text has the seconds to the end of the window, after the ban those to the end of the ban.
        for _ in 0..2 {
            let told = left(&mut asker).await;
            assert!((500..=600).contains(&told), "{told} s left");
        }
        eventually("a ban", || asker.lines("BANNED").pop()).await;
        let told = left(&mut asker).await;
        assert!((30..=60).contains(&told), "{told} s left");
        if site.is_shared() {
            // The ban holds on another host too; hits of a banned client are counted nevertheless.
            let mut other = Asker::new(site, limit);
            assert!((30..=60).contains(&left(&mut other).await));
            let line = other.lines("REFUSED").pop().unwrap();
            assert!(line.contains(" reason=banned ") && line.contains(" count=5 "), "{line}");
        }
        // Further hits in the window are no further violation.
        assert_eq!(asker.service.statistics.banned.load(Ordering::Relaxed), 1);
        assert_eq!(site.value("c:198.51.100.1!violations"), None);
    });
}

#[test]
fn what_is_refused_does_not_count_if_so_configured() {
    on_every_store(async |site: &Site| {
        let limit = Limit { threshold: 2, exptime: 600, count_refused: false, ..default_limit("c:") };
        let mut asker = Asker::new(site, limit);
        for _ in 0..2 {
            assert_eq!(asker.connect().await, "action=DUNNO\n\n");
        }
        for _ in 0..5 {
            assert!(asker.connect().await.starts_with("action=DEFER_IF_PERMIT "));
        }
        let rules = asker.service.rules.load();
        let (table, limit) = (rules.store.table(), &rules.policy.limits()[0]);
        let id = table.counter_id(Key { limit, part: &client(), kind: CounterKind::FixedWindow });
        assert_eq!(table.peek(id, Now::read().monotonic).unwrap().count, 2);
        if site.is_shared() {
            // The answer does not wait for the refund.
            eventually("a count of 2", || (site.value("c:198.51.100.1")? == "2").then_some(())).await;
        }
    });
}
