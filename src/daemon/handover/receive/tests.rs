use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::daemon::handover::send;
use crate::observe::log::{Log, Severity};
use crate::snapshot::section::SectionWriter;
use crate::store::KnownCounts;

/// The handover of a program with one listener, one connection in the middle of a request, and one count.
fn given() -> (Vec<OwnedFd>, UnixStream) {
    let config = Config::default();
    let service = Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Debug));
    let policy = &service.rules.load().policy;
    let part = crate::policy::key::KeyPart::client([192, 0, 2, 1].into(), 32, 64);
    let key =
        crate::policy::Key { limit: &policy.limits()[0], part: &part, kind: crate::policy::CounterKind::FixedWindow };
    let (rules, now) = (service.rules.load(), Now::read());
    let table = rules.store.table();
    table.hit(table.counter_id(key), 3, 60_000, 10, now.monotonic);
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
    let listener = Listener::inherited(listener.into(), None).unwrap();
    let http = UnixListener::bind(dir.path().join("http")).unwrap();
    let http = Listener::inherited(http.into(), None).unwrap().detach().unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (stream, _) = Stream::inherited(theirs.into()).unwrap();
    let mut suspended = PolicyConnection::new(stream, Peer::Unix, service.sessions.attach(None));
    suspended.state.input = b"request=smtpd_"[..].into();
    (
        transport::receive(&send::load(&service, &config.listen, &[listener], &[&http], &[suspended], now).unwrap())
            .unwrap(),
        ours,
    )
}

/// The same, but that one section comes in a version that nobody knows yet.
fn newer(mut descriptors: Vec<OwnedFd>, kind: u16) -> Vec<OwnedFd> {
    let mut file = File::from(descriptors.remove(0));
    file.rewind().unwrap();
    let mut reader = SectionReader::begin(BufReader::new(file)).unwrap();
    let mut writer = SectionWriter::begin(tempfile::tempfile().unwrap()).unwrap();
    while let Some(section) = reader.next_section().unwrap() {
        let version = section.version + u16::from(section.kind == kind);
        writer.add(section.kind, version, &section.content).unwrap();
    }
    descriptors.insert(0, writer.finish().unwrap().into());
    descriptors
}

/// The result: listeners, connections, bytes that wait on them, counts, problems.
fn taken(descriptors: Vec<OwnedFd>) -> [usize; 5] {
    let mut handover = Handover::of(descriptors);
    if handover.begin().is_err() {
        handover.problems.push(String::new());
    }
    let config = Config::default();
    let (policy, now) = (Policy::new(&config.policy, None), Now::read());
    let (listeners, http) = handover.listeners().unwrap();
    assert_eq!(handover.listen(&config.listen), config.listen);
    let RestoredCounts { table, ids, .. } = handover.counts(&policy, 1000, now);
    let (counters, outages) = (table.len(), handover.outages());
    let service = Service::restored(
        config.engine(),
        policy,
        Log::in_memory(Severity::Debug),
        KnownCounts { table: Arc::new(table), outages },
    );
    let suspended = handover.connections(&service, &ids, now);
    let waiting = suspended.iter().map(|suspended| suspended.state.input.len()).sum();
    [listeners.len() + http.len(), suspended.len(), waiting, counters, handover.problems.len()]
}

#[tokio::test]
async fn what_is_not_understood_is_left_behind_and_the_sockets_are_taken_over() {
    let (descriptors, _ours) = given();
    assert_eq!(taken(descriptors), [2, 1, 14, 1, 0]);
    for (kind, waiting, counters) in [
        (1, 14, 0),
        (2, 14, 0),
        (kind::ORIGIN.0, 14, 1),
        (kind::LISTENERS.0, 14, 1),
        (kind::SESSIONS.0, 14, 1),
        (kind::CONNECTIONS.0, 0, 1),
        (kind::STATISTICS.0, 14, 1),
        (kind::LOG.0, 14, 1),
        (kind::LISTEN.0, 14, 1),
        (kind::COALESCE.0, 14, 1),
        (kind::OUTAGES.0, 14, 1),
        (kind::LINK.0, 14, 1),
    ] {
        let (descriptors, _ours) = given();
        assert_eq!(taken(newer(descriptors, kind)), [2, 1, waiting, counters, 1], "{kind}");
    }
}

#[tokio::test]
async fn sockets_are_taken_over_from_a_program_that_says_nothing_else() {
    let (mut descriptors, _ours) = given();
    descriptors[0] = tempfile::tempfile().unwrap().into();
    let [listeners, connections, ..] = taken(descriptors);
    assert_eq!((listeners, connections), (2, 1));
}
