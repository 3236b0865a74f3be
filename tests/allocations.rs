//! The request path allocates nothing once a policy connection is warm, but the box of a refusal.

use connshaper::config::Config;
use connshaper::engine::service::Service;
use connshaper::listener::Peer;
use connshaper::net::shutdown::Shutdown;
use connshaper::net::stream::Stream;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::Policy;
use connshaper::policy::lists::Lists;
use connshaper::postfix::connection::PolicyConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CLIENTS: u32 = 1000;

/// A full request of a session of its own. Every number is another port and message, and one of a thousand clients.
fn write_request(number: u32, bytes: &mut Vec<u8>) {
    use std::io::Write;
    bytes.clear();
    let (client, port) = (number % CLIENTS, 1024 + number % 60_000);
    write!(
        bytes,
        "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=198.51.{}.{}\n\
         client_name=mail.example.net\nclient_port={port}\nreverse_client_name=mail.example.net\n\
         server_address=192.0.2.25\nserver_port=25\nhelo_name=mail.example.net\nsender=someone@example.net\n\
         recipient=somebody@example.org\nrecipient_count=0\nqueue_id=\ninstance=a1b.65a1b2c3.{number:x}.0\nsize=4711\n\
         etrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n\
         ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=\nencryption_cipher=\n\
         encryption_keysize=0\npolicy_context=\ncompatibility_level=3.6\nmail_version=3.8.0\n\n",
        client / 250,
        client % 250,
    )
    .expect("a vector grows as needed");
}

/// Asks with requests of these numbers, and says how many were refused.
async fn ask(postfix: &mut UnixStream, request: &mut Vec<u8>, numbers: impl Iterator<Item = u32>) -> u32 {
    let (mut reply, mut refused) = ([0; 512], 0);
    for number in numbers {
        write_request(number, request);
        postfix.write_all(request).await.unwrap();
        let length = postfix.read(&mut reply).await.unwrap();
        assert!(reply[..length].ends_with(b"\n\n"));
        refused += u32::from(reply.starts_with(b"action=DEFER_IF_PERMIT "));
    }
    refused
}

#[test]
fn a_request_on_the_memory_store_allocates_nothing_unless_it_is_refused() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut request = Vec::with_capacity(4096);
    let mut postfix = runtime.block_on(async {
        let mut config = Config::default();
        config.policy.lists = Lists::default();
        let service =
            Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Warning));
        let (postfix, ours) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (stream, session) = (Stream::try_from(ours).unwrap(), service.sessions.attach(None));
            PolicyConnection::new(stream, Peer::Unix, session).serve(&service, Shutdown::default()).await
        });
        postfix
    });
    let mut measure = |rounds: std::ops::Range<u32>| {
        let mut refused = 0;
        let numbers = rounds.start * CLIENTS..rounds.end * CLIENTS;
        let allocations = allocation_counter::measure(|| {
            refused = runtime.block_on(ask(&mut postfix, &mut request, numbers));
        });
        (refused, allocations.count_total)
    };
    // A thousand clients get to know the limit of ten; then the tables of counts and of clients over it grow no more.
    assert_eq!(measure(0..1).0, 0);
    assert_eq!(measure(1..10), (0, 0), "within the limit");
    assert_eq!(measure(10..11).0, CLIENTS);
    assert_eq!(measure(11..20), (9 * CLIENTS, u64::from(9 * CLIENTS)), "over the limit: a refusal is one");
}
