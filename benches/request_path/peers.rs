//! Other policy servers in use, as far as they are installed.
//!
//! They are given what they are made for, a limit on a client's connections or a
//! greylist, and are to let everybody pass as far as they can be told to.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use crate::load::Address;
use crate::process::Process;
use crate::report::progress;
use crate::server::{Place, Server};

/// Starts those that are found. One that does not start is no reason to stop.
pub fn installed(place: &Place) -> Vec<Server> {
    let peers: [(_, Start); 3] =
        [("postgrey", postgrey), ("postfwd2", postfwd2), ("policyd-rate-limit", policyd_rate_limit)];
    let mut servers = Vec::new();
    for (name, start) in peers {
        if !is_installed(name) {
            continue;
        }
        match start(place) {
            Ok(server) => servers.push(Server { peer: true, ..server }),
            Err(error) => progress(format_args!("{name}: not measured: {error:#}")),
        }
    }
    servers
}

type Start = fn(&Place) -> anyhow::Result<Server>;

/// Whether a program is there.
fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

fn postgrey(place: &Place) -> anyhow::Result<Server> {
    let (socket, database) = (place.path("postgrey.sock"), directory("postgrey", place)?);
    let nobody = place.write("postgrey.whitelist", "")?;
    let mut command = Command::new("postgrey");
    command.arg(format!("--unix={}", socket.display())).arg(format!("--dbdir={}", database.display()));
    command.args(["--user=nobody", "--group=nogroup", "--delay=0"]);
    command.arg(format!("--whitelist-clients={}", nobody.display()));
    command.arg(format!("--whitelist-recipients={}", nobody.display()));
    Server::start("postgrey", command, Address::Unix(socket), place)
}

fn postfwd2(place: &Place) -> anyhow::Result<Server> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
    let pid_file = place.path("postfwd2.pid");
    let mut command = Command::new("postfwd2");
    command.args(["--nodns", "--user", "nobody", "--group", "nogroup", "--interface", "127.0.0.1"]);
    command.arg("--port").arg(address.port().to_string());
    command.arg("--cache_port").arg(free_port()?.to_string());
    command.arg("--pidfile").arg(&pid_file);
    let limit = "action=rate(client_address/10000/60/DEFER_IF_PERMIT over)";
    command.arg("--rule").arg(format!("id=R1; client_address!=127.0.0.1; {limit}"));
    let log = place.path("postfwd2.log");
    let mut process = Process::start(&mut command, &log)?;
    process.follow(&pid_file)?;
    Server::when_ready("postfwd2", process, Address::Tcp(address), &log)
}

fn policyd_rate_limit(place: &Place) -> anyhow::Result<Server> {
    let (socket, state) = (place.path("policyd.sock"), directory("policyd", place)?);
    let text = format!(
        "user: nobody\ngroup: nogroup\npidfile: {state}/pid\nsqlite_config:\n  database: {state}/db.sqlite3\n\
         backend: 0\nSOCKET: {socket}\nsocket_permission: 0666\nlimits:\n  - [10000, 60]\n\
         limit_by_ip: true\nlimit_by_sasl: false\nlimited_networks:\n  - 0.0.0.0/0\n  - ::/0\n\
         success_action: dunno\nfail_action: defer_if_permit Rate limit reached\ndb_error_action: dunno\n",
        state = state.display(),
        socket = socket.display()
    );
    let file = place.write("policyd.yaml", &text)?;
    let mut command = Command::new("policyd-rate-limit");
    command.arg("--file").arg(file);
    Server::start("policyd-rate-limit", command, Address::Unix(socket), place)
}

/// A directory that the server's own user may write to.
fn directory(name: &str, place: &Place) -> anyhow::Result<PathBuf> {
    let path = place.path(name);
    fs::create_dir(&path)?;
    std::os::unix::fs::chown(&path, user("nobody"), None)?;
    Ok(path)
}

fn user(name: &str) -> Option<u32> {
    nix::unistd::User::from_name(name).ok()?.map(|user| user.uid.as_raw())
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
