//! The decisions of a daemon without sockets, with a clock that the test sets.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use connshaper::config::Config;
use connshaper::engine::decide::{decide, take_back_all_unsent};
use connshaper::engine::delay_permits::DelayPermit;
use connshaper::engine::service::Service;
use connshaper::engine::sessionless::{CountMode, count_login, decide_sessionless};
use connshaper::engine::top_keys::TopKeys;
use connshaper::net::clock::Now;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::key::KeyPart;
use connshaper::policy::request::Request;
use connshaper::policy::{CounterKind, Key, Operation, Policy, Verdict};
use connshaper::postfix::decoder::RequestDecoder;
use connshaper::session::SessionHandle;
use connshaper::store::Store;
use tokio::runtime::{Builder, Runtime};
use tokio_util::codec::Decoder;

use super::{Memcached, Redis, Sqlite, default_limit, eventually};

/// A site with any number of policy connections.
pub struct Simulation {
    runtime: Runtime,
    service: Service,
    seats: Vec<SessionHandle>,
    /// Delayed answers.
    waiting: Vec<DelayPermit>,
    /// Milliseconds of the simulated clock.
    pub now: u64,
}

impl Simulation {
    /// With a configuration, counting in memory.
    pub fn new(rules: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let guard = runtime.enter();
        let config = read(rules);
        let service = Service::new(config.engine(), Policy::new(&config.policy, None), Log::in_memory(Severity::Info));
        drop(guard);
        Self { runtime, service, seats: Vec::new(), waiting: Vec::new(), now: 0 }
    }

    /// The same, counting in memcached, whose clock is real.
    pub fn on(memcached: &Memcached, rules: &str) -> Self {
        Self::new(&format!("memcached_server = \"{}\"\nstore_timeout = \"2s\"\n{rules}", memcached.server()))
    }

    /// The same, counting in Redis, whose clock is real.
    pub fn on_redis(redis: &Redis, rules: &str) -> Self {
        Self::new(&format!("{}store_timeout = \"2s\"\n{rules}", redis.config()))
    }

    /// The same, counting in a SQLite file, by the simulated clock.
    pub fn on_sqlite(sqlite: &Sqlite, rules: &str) -> Self {
        Self::new(&format!("{}store_timeout = \"2s\"\n{rules}", sqlite.config()))
    }

    /// Changes the rules as a reload does.
    pub fn reload(&mut self, rules: &str) {
        let guard = self.runtime.enter();
        let config = read(rules);
        let policy = Policy::new(&config.policy, Some(&self.service.rules.load().policy));
        self.service.reload(policy, config.engine(), Now::simulated(self.now));
        drop(guard);
    }

    /// Sends a request with these lines of attributes over a policy connection, and returns the result: `pass`,
    /// `wait MILLISECONDS`, `defer`, or `REASON LIMIT`.
    pub fn ask(&mut self, connection: usize, lines: &str) -> String {
        while self.seats.len() <= connection {
            self.seats.push(self.service.sessions.attach(None));
        }
        let request = request(lines);
        let now = Now::simulated(self.now);
        let rules = self.service.rules.load_full();
        let handle = &mut self.seats[connection];
        let (verdict, permit) = self.runtime.block_on(decide(&self.service, &rules, handle, &request, now));
        self.waiting.extend(permit);
        self.runtime.block_on(finish(&rules.store, now));
        said(&verdict)
    }

    /// Asks at another door, and returns the result in the same words.
    pub fn event(&mut self, request: &Request, mode: CountMode) -> String {
        let (now, rules) = (Now::simulated(self.now), self.service.rules.load_full());
        let decided = decide_sessionless(&self.service, &rules, request, mode, now);
        let ((verdict, permit), _) = self.runtime.block_on(decided);
        self.waiting.extend(permit);
        self.runtime.block_on(finish(&rules.store, now));
        said(&verdict)
    }

    /// Reports a login.
    pub fn report(&mut self, request: &Request, password: Option<u64>) {
        let (now, rules) = (Now::simulated(self.now), self.service.rules.load_full());
        self.runtime.block_on(count_login(&rules, request, password, now));
    }

    /// A session of its own at its first recipient.
    pub fn session(&mut self, client: &str) -> String {
        self.session_with(client, "")
    }

    /// The same with further attributes.
    pub fn session_with(&mut self, client: &str, lines: &str) -> String {
        let number = self.seats.len();
        self.ask(number, &format!("{}{lines}", at(client, number, "RCPT", 0)))
    }

    /// Closes a policy connection.
    pub fn close(&mut self, connection: usize) {
        let handle = std::mem::replace(&mut self.seats[connection], self.service.sessions.attach(None));
        handle.close(true, Now::simulated(self.now));
        self.housekeep();
    }

    /// What the daemon does once a second.
    pub fn housekeep(&mut self) {
        let now = Now::simulated(self.now);
        let _guard = self.runtime.enter();
        self.service.sessions.end_silent_messages(now);
        take_back_all_unsent(&self.service, now);
        let rules = self.service.rules.load();
        self.service.limit_use.conclude(&rules.policy, &self.service.log);
    }

    /// What a limit has counted today or yesterday: what it let pass, how often it was exceeded, and the same of each
    /// key, those with the most first.
    pub fn day_of(&self, limit: &str, yesterday: bool) -> (u64, u64, Vec<(String, u64, u64)>) {
        let rules = self.service.rules.load();
        let id = rules.policy.limits().iter().find(|one| one.name == limit).unwrap().id;
        self.service.daily.with(Now::simulated(self.now), |days, _| {
            let day = if yesterday { &days.yesterday } else { &days.today };
            let Some(day) = day.of(id) else { return (0, 0, Vec::new()) };
            let mut keys = day.most.largest(usize::MAX);
            keys.extend(day.exceeded.largest(usize::MAX).into_iter().filter(|(part, _)| day.most.get(part).is_none()));
            let sum = |sums: &TopKeys, part| sums.get(part).map_or(0, |sum| sum.sum);
            let sums = |part| (sum(&day.most, part), sum(&day.exceeded, part));
            let keys = keys.into_iter().map(|(part, _)| (part.to_string(), sums(part).0, sums(part).1));
            (day.passed, day.over, keys.collect())
        })
    }

    /// Counters held in this process.
    pub fn entries(&self) -> usize {
        self.service.rules.load().store.table().len()
    }

    /// Ends all delays.
    pub fn answer_all(&mut self) {
        self.waiting.clear();
    }

    /// The log lines.
    pub fn lines(&self) -> Vec<String> {
        self.service.log.lines()
    }
}

fn said(verdict: &Verdict<'_>) -> String {
    match verdict {
        Verdict::Pass(_) => "pass".to_owned(),
        Verdict::Delay(wait) => format!("wait {}", wait.time.as_millis()),
        Verdict::StoreDown => "defer".to_owned(),
        Verdict::Refuse(refusal) => format!("{} {}", refusal.reason.word(), refusal.limit),
    }
}

/// Attributes of a request: a client, its session, the protocol state, and the number of the message.
pub fn at(client: &str, session: usize, state: &str, message: u32) -> String {
    let port = 1024 + session % 60_000;
    let instance = match state {
        "CONNECT" | "EHLO" | "MAIL" => String::new(),
        _ => format!("a{session:x}.{message}.0.{message:x}"),
    };
    format!(
        "protocol_state={state}\nclient_address={client}\nclient_port={port}\nserver_address=192.0.2.25\n\
         server_port=25\ninstance={instance}\n"
    )
}

/// Waits for background operations: violations have the store until they are handled, and the answer to a read comes
/// after those to all earlier operations.
async fn finish(store: &Arc<Store>, now: Now) {
    let (limit, part) = (default_limit("simulation:"), KeyPart::group("none"));
    let key = Key { limit: &limit, part: &part, kind: CounterKind::FixedWindow };
    let read = Operation { key, amount: 0, exptime: 1, threshold: 1 };
    eventually("an end of what follows from violations", || (Arc::strong_count(store) == 1).then_some(())).await;
    store.count(std::iter::once(read), now).await;
}

fn request(lines: &str) -> Request<'static> {
    let text = format!("request=smtpd_access_policy\n{lines}\n");
    RequestDecoder::default().decode(&mut BytesMut::from(text.as_str())).unwrap().unwrap()
}

fn read(rules: &str) -> Config {
    Config::parse(Path::new("rules"), rules).unwrap_or_else(|error| panic!("{error}"))
}
