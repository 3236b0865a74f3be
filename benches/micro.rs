//! The data structures of the request path, one at a time.
//!
//! `cargo bench --bench micro`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use connshaper::config::Config;
use connshaper::net::clock::Now;
use connshaper::net::netblock::{NetblockTable, mask};
use connshaper::policy::limit::{CounterLimitId, SessionLimitId};
use connshaper::policy::lists::ListEntry;
use connshaper::policy::name_patterns::{NamePattern, NamePatterns};
use connshaper::policy::{CountRecord, CounterValue, Plan, Policy, Readings, Scope, SessionRecord};
use connshaper::postfix::decoder::RequestDecoder;
use connshaper::session::Sessions;
use connshaper::store::local::CounterId;
use connshaper::store::local::Table;
use criterion::{Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use tokio_util::codec::Decoder;

criterion_group!(micro, requests, hits, lookups, names);
criterion_main!(micro);

const MINUTE: u64 = 60_000;

const HIT: CounterValue = CounterValue { count: 1, left: 60, added: 1 };

/// A request as Postfix 3.7 sends it at RCPT.
const REQUEST: &str = "\
request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=198.51.100.7\n\
client_name=mail.example.net\nclient_port=41235\nreverse_client_name=mail.example.net\n\
server_address=192.0.2.25\nserver_port=25\nhelo_name=mail.example.net\nsender=newsletter@example.net\n\
recipient=someone@example.org\nrecipient_count=0\nqueue_id=\ninstance=1f4c.65a1b2c3.d4e5f.0\nsize=21874\n\
etrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\n\
ccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=TLSv1.3\n\
encryption_cipher=TLS_AES_256_GCM_SHA384\nencryption_keysize=256\npolicy_context=\n\n";

/// What a request costs between its read and its write, step by step.
fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let (mut decoder, mut input) = (RequestDecoder::default(), BytesMut::with_capacity(4096));
    let mut decode = || {
        input.reserve(2048);
        input.extend_from_slice(REQUEST.as_bytes());
        decoder.decode(&mut input).unwrap().unwrap()
    };
    group.bench_function("decode", |bencher| bencher.iter(|| drop(black_box(decode()))));

    let mut request = decode();
    let client = request.client.unwrap();
    let policy = Policy::new(&Config::default().policy, None);
    let sessions = Sessions::new(4096);
    let mut handle = sessions.attach(None);
    let now = Now::simulated(0);
    let count = CountRecord::new(SessionLimitId(0), Scope::Session, Some(HIT), 0, false);
    group.bench_function("begin a session and remember its count", |bencher| {
        bencher.iter(|| {
            request.client_port = request.client_port.wrapping_add(1).max(1);
            let lookup = pin!(handle.lookup(client, &request, now));
            match lookup.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(mut session) => session.record().keep(count),
                Poll::Pending => unreachable!("nothing is being counted"),
            }
        });
    });
    group.bench_function("plan and judge", |bencher| {
        bencher.iter(|| {
            let mut record = SessionRecord::default();
            if let Plan::Count(checks) = policy.plan(&request, &record, now) {
                let readings = Readings::new(&checks.operations(now), [Some(HIT)]);
                policy.judge(&checks, &readings, &record, now).settle(false, &mut record);
            }
            record
        });
    });
    group.bench_function("read the clock", |bencher| bencher.iter(Now::read));
}

fn hits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    for clients in [1000, 1_000_000] {
        for (family, client) in [("IPv4", ipv4 as fn(u64) -> IpAddr), ("IPv6", ipv6)] {
            let id = |number| {
                let (network, length) = mask(client(number), 32, 64);
                CounterId::client(CounterLimitId(0), network, length)
            };
            let table = Table::new(clients as usize);
            for number in 0..clients {
                table.hit(id(number), 1, MINUTE, 10, 0);
            }
            let mut turn = 0;
            group.bench_function(format!("a known {family} client of {clients}"), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    table.hit(id(scramble(turn) % clients), 1, MINUTE, 10, 0)
                });
            });
            let mut stranger = clients;
            group.bench_function(format!("a new {family} client, {clients} being all"), |bencher| {
                bencher.iter(|| {
                    stranger += 1;
                    table.hit(id(stranger), 1, MINUTE, 10, 0)
                });
            });
        }
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for size in [10, 10_000, 1_000_000] {
        let list: Vec<(IpNet, ())> = (0..size).map(|number| (netblock(number), ())).collect();
        if size > 10 {
            group.sample_size(10);
            group.bench_function(format!("build {size}"), |bencher| {
                bencher.iter(|| list.iter().copied().collect::<NetblockTable<()>>());
            });
            group.sample_size(100);
        }
        let netblocks: NetblockTable<()> = list.iter().copied().collect();
        // Half of the addresses are in some netblock for certain.
        let addresses: Vec<IpAddr> = (0..1 << 20)
            .map(|turn| match turn % 4 {
                0 => ipv4(turn),
                1 => ipv6(turn),
                _ => list[(scramble(turn) % size) as usize].0.addr(),
            })
            .collect();
        let mut turn = 0;
        group.bench_function(format!("in {size}"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % addresses.len();
                black_box(netblocks.lookup(addresses[turn]))
            });
        });
    }
}

/// Names of clients on lists: hosts and domains, and regular expressions as postgrey's list has them.
fn names(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("names");
    for (size, expressions) in [(10, 0), (10_000, 0), (10_000, 100)] {
        let name = |number: u64| match number.is_multiple_of(2) {
            true => NamePattern::Host(format!("mail{number}.example.com").into()),
            false => NamePattern::Domain(format!("domain{number}.example.net").into()),
        };
        let expression = |number| NamePattern::Matching(format!("^smtp{number}-[0-9]+\\.example\\.org$").into());
        let entries = (0..size).map(name).chain((0..expressions).map(expression));
        let names = NamePatterns::new(entries.map(|name| (name, ListEntry::Whitelist)).collect());
        for (kind, asked) in [("on", "mail.domain7.example.net"), ("not on", "mail.provider.example.org")] {
            group.bench_function(format!("{kind} a list of {size} and {expressions} expressions"), |bencher| {
                bencher.iter(|| names.lookup(black_box(asked.as_bytes())).is_some());
            });
        }
    }
}

/// Netblocks as lists have them: IPv4 networks and hosts, clustered IPv6 networks.
fn netblock(number: u64) -> IpNet {
    let (address, length) = match number % 10 {
        0..4 => (ipv4(number), 24),
        4 | 5 => (ipv4(number), 32),
        6 | 7 => (ipv6(number), 48),
        8 => (ipv6(number), 64),
        _ => (ipv6(number), 128),
    };
    IpNet::new(address, length).expect("lengths fit the families")
}

fn ipv4(number: u64) -> IpAddr {
    Ipv4Addr::from_bits(scramble(number) as u32).into()
}

/// Addresses of 20,000 providers, each with a /32.
fn ipv6(number: u64) -> IpAddr {
    let provider = 0x2a00_0000 + scramble(number) % 20_000 * 8;
    let rest = u128::from(scramble(!number)) << 32 | u128::from(number as u32);
    Ipv6Addr::from_bits(u128::from(provider) << 96 | rest).into()
}

/// A different, random-looking number for each number (the finisher of splitmix64).
fn scramble(number: u64) -> u64 {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
