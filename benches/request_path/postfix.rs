//! Mail through a real Postfix whose smtpd asks a policy server.
//!
//! One private instance with a port per policy server, so that both are asked by
//! the same Postfix: smtp-source sends the same mails to one port and the other in
//! turn, each in an SMTP session of its own, and all are discarded.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use crate::Options;
use crate::load::Address;
use crate::process::Process;
use crate::report::progress;
use crate::server::{Place, Server};
use crate::spool::{Spool, built_in};
use crate::spread::Spread;

/// SMTP sessions at once.
const SESSIONS: &str = "8";

#[derive(Debug, Serialize)]
pub struct Mail {
    /// Mails a second with connshaper, divided by those with the null server, round by round.
    pub ratio: Spread,
    /// Mails a second with connshaper.
    pub connshaper: Spread,
    /// Mails a second with the null server.
    pub null: Spread,
}

pub fn measure(null: &Server, memory: &Server, place: &Place, options: &Options) -> anyhow::Result<Mail> {
    let postfix = Postfix::start([null, memory], place)?;
    let mails = if options.quick { 200 } else { 500 };
    // The processes of both ports are there before the first round.
    for port in &postfix.ports {
        postfix.send(*port, 50)?;
    }
    let mut rates = [Vec::new(), Vec::new()];
    // Each mail is written to disk, and disks have moods: many short rounds.
    for round in 0..2 * options.rounds() {
        for place in 0..2 {
            let server = (place + round) % 2;
            rates[server].push(postfix.send(postfix.ports[server], mails)?);
        }
    }
    let [null, connshaper] = rates;
    let ratio = Spread::of(connshaper.iter().zip(&null).map(|(connshaper, null)| connshaper / null));
    let mail = Mail {
        ratio: ratio.expect("there was a round"),
        connshaper: Spread::of(connshaper).expect("there was a round"),
        null: Spread::of(null).expect("there was a round"),
    };
    progress(format_args!(
        "Postfix: {:.0} mails/s with connshaper, {} of those with null",
        mail.connshaper.median, mail.ratio
    ));
    Ok(mail)
}

struct Postfix {
    _master: Process,
    ports: [u16; 2],
    spool: Spool,
}

impl Postfix {
    fn start(servers: [&Server; 2], place: &Place) -> anyhow::Result<Self> {
        let root = place.path("postfix");
        fs::create_dir(&root)?;
        let spool = Spool::new(root)?;
        let ports = [free_port()?, free_port()?];
        let mut services = String::new();
        for (server, port) in servers.iter().zip(ports) {
            let Address::Unix(socket) = &server.address else {
                unreachable!("both listen on unix sockets");
            };
            let ask = format!("check_policy_service,unix:{}", socket.display());
            services += &format!("127.0.0.1:{port} inet n - n - - smtpd\n  -o smtpd_client_restrictions={ask}\n");
        }
        spool.configure("", &services)?;
        let log = place.path("postfix.log");
        let mut command = Command::new(built_in("daemon_directory")? + "/master");
        // It leaves this process group, and is to end by itself should nobody end it.
        command.arg("-c").arg(spool.path("etc")).args(["-e", "600"]);
        let mut master = Process::start(&mut command, &log)?;
        let listening = |port| TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).ok();
        for port in ports {
            master.wait_until(&log, || listening(port))?;
        }
        Ok(Self { _master: master, ports, spool })
    }

    /// Mails a second.
    fn send(&self, port: u16, mails: u32) -> anyhow::Result<f64> {
        let mut source = Command::new("smtp-source");
        source.args(["-s", SESSIONS, "-m", &mails.to_string(), "-l", "1000"]);
        source.args(["-f", "sender@example.net", "-t", "recipient@example.org"]);
        source.arg(format!("inet:127.0.0.1:{port}")).stdin(Stdio::null());
        let begin = Instant::now();
        let output = source.output().context("cannot run smtp-source")?;
        let elapsed = begin.elapsed();
        ensure!(output.status.success(), "smtp-source: {}", String::from_utf8_lossy(&output.stderr));
        // The next round must not find this one's mail still being delivered.
        self.drained()?;
        Ok(f64::from(mails) / elapsed.as_secs_f64())
    }

    /// Waits until no mail is queued.
    fn drained(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !["queue/incoming", "queue/active"].iter().all(|queue| is_empty(&self.spool.path(queue))) {
            ensure!(begin.elapsed() < Duration::from_secs(20), "Postfix does not deliver");
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
