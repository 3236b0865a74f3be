//! A generated log of a month at a mail host; the same for the same seed.
//!
//! Senders of mail, few of them heavy and most of them light, and several kinds
//! of bots, each with its own rate. The lines of a session are those of Postfix
//! 3. The name and the address of a client show its kind.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

/// Kinds of clients: their number and rates.
const KINDS: [Kind; 12] = [
    // A newsletter host: every ten seconds, and bursts of up to twelve.
    Kind { name: "heavy", count: 5, pause: 12_000, burst: 12, gap: 2_500, says: Says::Mail },
    Kind { name: "list", count: 60, pause: 600_000, burst: 4, gap: 4_000, says: Says::Mail },
    Kind { name: "light", count: 20_000, pause: 20_000_000, burst: 2, gap: 20_000, says: Says::Mail },
    // Sends from many addresses of one IPv6 network.
    Kind { name: "farm", count: 2, pause: 20_000, burst: 5, gap: 3_000, says: Says::Mail },
    Kind { name: "hammer", count: 12, pause: 5_000_000, burst: 400, gap: 300, says: Says::Refused },
    Kind { name: "dictionary", count: 20, pause: 20_000_000, burst: 1_500, gap: 2_000, says: Says::Refused },
    Kind { name: "rotator", count: 3, pause: 9_000_000, burst: 600, gap: 500, says: Says::Refused },
    // A bot connects twice a day, and sometimes delivers a message. Its rate is that of a sender.
    Kind { name: "botnet", count: 8_000, pause: 40_000_000, burst: 1, gap: 0, says: Says::Spam },
    Kind { name: "guesser", count: 25, pause: 30_000, burst: 3, gap: 1_500, says: Says::Guess },
    Kind { name: "scanner", count: 40, pause: 300_000, burst: 2, gap: 1_000, says: Says::Nothing },
    Kind { name: "inside", count: 5, pause: 15_000, burst: 20, gap: 200, says: Says::Mail },
    Kind { name: "user", count: 300, pause: 3_000_000, burst: 2, gap: 10_000, says: Says::Login },
];

/// The rate of a kind of clients. Times are in milliseconds.
struct Kind {
    name: &'static str,
    count: u32,
    /// Between visits, on average.
    pause: u64,
    /// Sessions of a visit, at most.
    burst: u64,
    /// Between sessions of a visit, on average.
    gap: u64,
    says: Says,
}

/// The result of a session.
#[derive(Clone, Copy, PartialEq)]
enum Says {
    Mail,
    Refused,
    Spam,
    Guess,
    Nothing,
    Login,
}

/// The network of `inside`.
pub const MYNETWORKS: &str = "192.0.2.0/24";

/// The first second of the log, on 1 November.
const FIRST: u64 = 0;

/// The kind of the client with this address, with or without a prefix length.
pub fn kind(address: &str) -> &'static str {
    let address = address.split('/').next().unwrap();
    let numbers: Vec<usize> = match address.split_once("2001:db8:") {
        Some((_, rest)) => vec![usize::from_str_radix(rest.split(':').next().unwrap(), 16).unwrap()],
        None if address.starts_with("192.0.2.") => return "inside",
        None => vec![address.split('.').nth(1).unwrap().parse().unwrap()],
    };
    KINDS[numbers[0] % 100].name
}

/// Writes at least so many lines of a log, the same for the same seed.
pub fn write(output: &mut impl Write, lines: u64, seed: u64) -> io::Result<()> {
    let mut traffic = Traffic { random: Random(seed), visits: BinaryHeap::new(), lines: BinaryHeap::new(), written: 0 };
    for (kind, of) in KINDS.iter().enumerate() {
        for client in 0..of.count {
            let start = traffic.random.below(of.pause);
            let left = traffic.random.below(of.burst) + 1;
            traffic.visits.push(Reverse(Visit { time: start, kind: kind as u32, client, left }));
        }
    }
    let mut session = 0;
    while traffic.written < lines {
        let Reverse(visit) = traffic.visits.pop().unwrap();
        traffic.write_until(visit.time, output)?;
        session += 1;
        traffic.session(&visit, session);
        let next = traffic.next(visit);
        traffic.visits.push(Reverse(next));
    }
    traffic.write_until(u64::MAX, output)
}

/// Future visits of clients, and lines to be written.
struct Traffic {
    random: Random,
    visits: BinaryHeap<Reverse<Visit>>,
    /// Time, order, text.
    lines: BinaryHeap<Reverse<(u64, u64, String)>>,
    written: u64,
}

/// The next session of a client.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Visit {
    time: u64,
    kind: u32,
    client: u32,
    /// Sessions of this visit, this one included.
    left: u64,
}

impl Traffic {
    fn next(&mut self, visit: Visit) -> Visit {
        let Kind { pause, burst, gap, .. } = KINDS[visit.kind as usize];
        if visit.left > 1 {
            return Visit { time: visit.time + gap / 2 + self.random.below(gap + 1), left: visit.left - 1, ..visit };
        }
        // Fewer visits at night.
        let hour = visit.time / 3_600_000 % 24;
        let slower = if KINDS[visit.kind as usize].says == Says::Mail && !(7..22).contains(&hour) { 3 } else { 1 };
        let pause = pause / 2 + self.random.below(pause * slower);
        let left = self.random.below(burst) + 1;
        Visit { time: visit.time + pause, left, ..visit }
    }

    fn session(&mut self, visit: &Visit, number: u64) {
        let kind = &KINDS[visit.kind as usize];
        let client = self.client(visit);
        let process = 2_000 + number % 97;
        let smtpd = match kind.says {
            Says::Login => format!("postfix/submission/smtpd[{process}]"),
            _ => format!("postfix/smtpd[{process}]"),
        };
        let (start, mut end) = (visit.time, visit.time + 50 + self.random.below(900));
        let counters = match kind.says {
            Says::Mail | Says::Login => {
                self.message(start, end, &smtpd, &client, number, kind.says);
                "ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7"
            }
            Says::Spam if self.random.below(40) == 0 => {
                self.message(start, end, &smtpd, &client, number, kind.says);
                "helo=1 mail=1 rcpt=1 data=1 commands=4"
            }
            Says::Refused | Says::Spam => {
                end += 500;
                let text = format!(
                    "NOQUEUE: reject: RCPT from {client}: 550 5.1.1 <user{n}@example.org>: Recipient address rejected: \
                     User unknown in virtual mailbox table; from=<{n}@example.com> to=<user{n}@example.org> proto=ESMTP \
                     helo=<host{n}.example.com>",
                    n = number % 5_000
                );
                self.line(start + 40, &smtpd, &text);
                "ehlo=1 mail=1 rcpt=0/1 commands=2/3"
            }
            Says::Guess => {
                let text = format!("warning: {client}: SASL LOGIN authentication failed: UGFzc3dvcmQ6");
                self.line(start + 40, &smtpd, &text);
                "ehlo=1 auth=0/1 quit=1 commands=2/3"
            }
            Says::Nothing => {
                self.line(start + 40, &smtpd, &format!("lost connection after CONNECT from {client}"));
                "commands=0/0"
            }
        };
        self.line(start, &smtpd, &format!("connect from {client}"));
        self.line(end, &smtpd, &format!("disconnect from {client} {counters}"));
        if number.is_multiple_of(50) {
            self.line(end, "postfix/anvil[777]", &format!("statistics: max connection rate 7/60s for (smtp:{client})"));
        }
        if number.is_multiple_of(4) {
            let text = format!("imap-login: Login: user=<user{}>, method=PLAIN, rip=192.0.2.9, TLS", number % 300);
            self.line(start + 7, "dovecot", &text);
        }
    }

    fn message(&mut self, start: u64, end: u64, smtpd: &str, client: &str, number: u64, says: Says) {
        let id = format!("4{number:08X}");
        let login = if says == Says::Login { ", sasl_method=PLAIN, sasl_username=user" } else { "" };
        self.line(start + 30, smtpd, &format!("{id}: client={client}{login}"));
        self.line(start + 45, "postfix/cleanup[801]", &format!("{id}: message-id=<{number}@mail.example.net>"));
        let size = 1_000 + self.random.below(50_000);
        let queued = format!("{id}: from=<sender@example.net>, size={size}, nrcpt=1 (queue active)");
        self.line(end, "postfix/qmgr[802]", &queued);
        let sent = format!(
            "{id}: to=<user{}@example.org>, relay=mail.example.org[private/dovecot-lmtp], delay=0.4, \
             delays=0.2/0/0.1/0.1, dsn=2.0.0, status=sent (250 2.0.0 <user@example.org> Saved)",
            number % 5_000
        );
        self.line(end + 90, "postfix/lmtp[803]", &sent);
        self.line(end + 95, "postfix/qmgr[802]", &format!("{id}: removed"));
    }

    /// `name[address]`; the second number of the address is the place of the kind.
    fn client(&mut self, visit: &Visit) -> String {
        let Visit { kind, client, .. } = *visit;
        let [.., c, d] = client.to_be_bytes();
        let name = KINDS[kind as usize].name;
        match name {
            "inside" => format!("{name}{client}.example.org[192.0.2.{}]", d + 1),
            "farm" | "rotator" => {
                let host = self.random.below(4_096) + 1;
                let known = if name == "farm" { format!("out{host}.farm.example.net") } else { "unknown".to_owned() };
                format!("{known}[2001:db8:{:x}:{client:x}::{host:x}]", kind + 100)
            }
            "heavy" | "list" | "light" => format!("{name}{client}.example.net[198.{}.{c}.{d}]", kind + 100),
            _ => format!("unknown[203.{}.{c}.{d}]", kind + 100),
        }
    }

    fn line(&mut self, time: u64, program: &str, message: &str) {
        let seconds = FIRST + time / 1000;
        let (day, hour, minute, second) = (seconds / 86_400 + 1, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        let text = format!("Nov {day:>2} {hour:02}:{minute:02}:{second:02} mx {program}: {message}\n");
        let order = self.random.0;
        self.lines.push(Reverse((time, order, text)));
    }

    fn write_until(&mut self, time: u64, output: &mut impl Write) -> io::Result<()> {
        while let Some(Reverse((at, ..))) = self.lines.peek()
            && *at < time
        {
            let Reverse((.., text)) = self.lines.pop().unwrap();
            output.write_all(text.as_bytes())?;
            self.written += 1;
        }
        Ok(())
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
