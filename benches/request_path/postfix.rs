//! Mail through a real Postfix whose smtpd asks a policy server.
//!
//! One private instance with a port per policy server, so that both are asked by
//! the same Postfix: smtp-source sends the same mails to one port and the other in
//! turn, each in an SMTP session of its own, and all are discarded.

use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use nix::unistd::{Group, User};
use serde::Serialize;

use crate::Options;
use crate::load::Address;
use crate::process::Process;
use crate::report::progress;
use crate::server::{Place, Server};
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
        let spool = Spool::new(place)?;
        let ports = [free_port()?, free_port()?];
        let mut services = String::new();
        for (server, port) in servers.iter().zip(ports) {
            let Address::Unix(socket) = &server.address else {
                unreachable!("both listen on unix sockets");
            };
            let ask = format!("check_policy_service,unix:{}", socket.display());
            services += &format!("127.0.0.1:{port} inet n - n - - smtpd\n  -o smtpd_client_restrictions={ask}\n");
        }
        spool.configure(&services)?;
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
        self.spool.drained()?;
        Ok(f64::from(mails) / elapsed.as_secs_f64())
    }
}

/// The directories of an instance.
struct Spool(PathBuf);

impl Spool {
    fn new(place: &Place) -> anyhow::Result<Self> {
        let spool = Self(place.path("postfix"));
        let owner = User::from_name(&built_in("mail_owner")?)?.context("no user for Postfix")?;
        let group = Group::from_name(&built_in("setgid_group")?)?.context("no group for Postfix")?;
        for name in ["", "etc", "queue", "queue/pid"] {
            fs::create_dir(spool.path(name))?;
        }
        let make = |name: &str, mode, group: Option<&Group>| -> anyhow::Result<()> {
            let path = spool.path(name);
            fs::create_dir(&path)?;
            chown(&path, Some(owner.uid.as_raw()), group.map(|group| group.gid.as_raw()))?;
            Ok(fs::set_permissions(&path, Permissions::from_mode(mode))?)
        };
        make("data", 0o700, None)?;
        for name in QUEUES {
            make(&format!("queue/{name}"), 0o700, None)?;
        }
        make("queue/maildrop", 0o1730, Some(&group))?;
        make("queue/public", 0o2710, Some(&group))?;
        Ok(spool)
    }

    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.0.clone() } else { self.0.join(name) }
    }

    fn configure(&self, services: &str) -> anyhow::Result<()> {
        let main = self.path("etc/main.cf");
        fs::write(&main, MAIN_CF.replace("PLACE", &self.0.display().to_string()))?;
        // Postfix waits until main.cf is two seconds old, lest it read a half-written one.
        File::options().write(true).open(&main)?.set_modified(SystemTime::UNIX_EPOCH)?;
        Ok(fs::write(self.path("etc/master.cf"), format!("{services}{MASTER_CF}"))?)
    }

    /// Waits until no mail is queued.
    fn drained(&self) -> anyhow::Result<()> {
        let begin = Instant::now();
        while !["incoming", "active"].iter().all(|queue| is_empty(&self.path("queue").join(queue))) {
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

/// A value built into Postfix.
fn built_in(name: &str) -> anyhow::Result<String> {
    let output = Command::new("postconf").args(["-d", "-h", name]).output().context("cannot run postconf")?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

const QUEUES: [&str; 10] =
    ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "trace"];

const MAIN_CF: &str = "
compatibility_level = 3.6
queue_directory = PLACE/queue
data_directory = PLACE/data
maillog_file = PLACE/log
maillog_file_prefixes = PLACE/
inet_protocols = ipv4
myhostname = mx.example.org
mydestination = example.org
# The load comes from loopback, and is to be asked about.
mynetworks = 192.0.2.25
smtpd_relay_restrictions = reject_unauth_destination
# Asks no name server.
smtpd_peername_lookup = no
alias_maps =
local_recipient_maps =
local_transport = discard:
";

const MASTER_CF: &str = "
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
";
