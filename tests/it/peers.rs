//! Access control: over TCP by `allow_peers`, over a unix socket by the mode of its file.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use connshaper::config::Config;
use connshaper::listener::Peers;
use socket2::{Domain, Socket, Type};

use crate::support::{Daemon, Dir, PATIENCE, Policy, Port, command, install, request};

#[test]
fn a_peer_not_in_allow_peers_is_closed_counted_and_logged_once() {
    let port = Port::of([0, 0, 0, 0]);
    let config = "allow_peers = [\"127.0.0.2\", \"127.0.1.0/24\"]\nwhitelist = []";
    let mut daemon = Daemon::start_at(port.endpoint(), config);
    for _ in 0..50 {
        assert_eq!(ask_from("127.0.0.3", port.address().port()), "");
    }
    for listed in ["127.0.0.2", "127.0.1.9"] {
        assert_eq!(ask_from(listed, port.address().port()), "action=DUNNO\n\n", "{listed}");
    }
    daemon.stop();
    let lines = daemon.lines().with("REFUSED_PEER");
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    assert!(line.starts_with("REFUSED_PEER peer=inet:127.0.0.3:") && line.ends_with(" suppressed=0"), "{line}");
    let line = daemon.lines().wait_for("STATISTICS ");
    assert!(line.contains(" queries=2 ") && line.contains(" refused_peers=50 "), "{line}");
}

#[test]
fn a_reload_changes_allow_peers_and_keeps_open_connections() {
    let port = Port::new();
    let daemon = Daemon::start_at(port.endpoint(), "");
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    let line = daemon.reload("allow_peers = [\"192.0.2.0/24\"]");
    assert!(line.starts_with("RELOADED ") && line.ends_with(" after_restart=\"\""), "{line}");
    assert_eq!(policy.connected("198.51.100.1", 2), "DUNNO");
    assert_eq!(ask_from("127.0.0.1", port.address().port()), "");
    daemon.reload("");
    assert_eq!(ask_from("127.0.0.1", port.address().port()), "action=DUNNO\n\n");
}

#[test]
fn a_unix_socket_is_open_to_its_group_alone() {
    let dir = Dir::new();
    let program = install(&dir);
    let open = dir.join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
    let path = open.join("policy");
    let config = "allow_peers = []\nsocket_group = \"mail\"";
    let _daemon = Daemon::start_at(format!("unix:{}", path.display()), config);
    assert_eq!(query_as("mail", &program, &path), Ok("DUNNO\n".to_owned()));
    let refused = query_as("nogroup", &program, &path).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");

    // A closed directory denies access whatever the mode of the socket.
    fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(query_as("nogroup", &program, &path), Ok("DUNNO\n".to_owned()));
    fs::set_permissions(&open, PermissionsExt::from_mode(0o700)).unwrap();
    let refused = query_as("nogroup", &program, &path).unwrap_err();
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[test]
fn without_allow_peers_only_loopback_may_query() {
    let loopback = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    assert_eq!(parse("").unwrap().allow_peers, Peers::new(loopback.to_vec()));
    let netblocks = ["192.0.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
    let config = parse("allow_peers = [\"192.0.2.0/24\", \"::ffff:198.51.100.0/120\"]").unwrap();
    assert_eq!(config.allow_peers, Peers::new(netblocks.to_vec()));
    let error = parse("allow_peers = [\"mx.example.org\"]").unwrap_err().to_string();
    assert!(error.starts_with("connshaper.toml:1:16: `mx.example.org`: not an address or netblock"), "{error}");
}

#[test]
fn allow_peers_that_does_not_fit_the_listeners_is_warned_of() {
    let cases = [
        (
            "listen = [\"inet:127.0.0.1:10040\", \"inet:0.0.0.0:10041\"]",
            vec![
                "1:1: `listen` has inet:0.0.0.0:10041, which other hosts can reach, but `allow_peers` admits none: \
                 name them there",
            ],
        ),
        (
            "listen = \"inet:mx.example.org:10040\"\nallow_peers = [\"127.0.0.2\"]",
            vec![
                "1:1: `listen` has inet:mx.example.org:10040, which other hosts can reach, but `allow_peers` admits \
                 none: name them there",
            ],
        ),
        ("listen = \"inet:[2001:db8::1]:10040\"\nallow_peers = [\"2001:db8::/64\"]", vec![]),
        ("listen = [\"inet:[::1]:10040\", \"inet:localhost:10040\"]", vec![]),
        ("allow_peers = []", vec!["1:1: `allow_peers` is empty: no host may connect over TCP"]),
        ("allow_peers = [\"0.0.0.0/0\"]", vec!["1:16: 0.0.0.0/0 lets every host ask that reaches the port"]),
        ("allow_peers = [\"192.0.2.1/24\"]", vec!["1:16: `192.0.2.1/24` has host bits set, taken as 192.0.2.0/24"]),
        (
            "listen = \"unix:/run/connshaper\"\nallow_peers = [\"192.0.2.1\"]",
            vec!["2:1: `allow_peers` has no effect: `listen` has no TCP address"],
        ),
    ];
    for (text, warnings) in cases {
        let said: Vec<_> = parse(text).unwrap().warnings.iter().map(ToString::to_string).collect();
        let expected: Vec<_> = warnings.iter().map(|warning| format!("connshaper.toml:{warning}")).collect();
        assert_eq!(said, expected, "{text}");
    }
}

#[test]
fn a_listener_by_option_or_systemd_that_no_peer_may_query_is_warned_of() {
    let warnings = |mut daemon: Daemon| {
        daemon.stop();
        daemon.lines().with("CONFIGURATION ")
    };
    let everywhere = Port::of([0, 0, 0, 0]);
    let advice = "which other hosts can reach, but `allow_peers` admits none: name them there";
    let expected = format!("CONFIGURATION warning=\"listening at {}, {advice}\"", everywhere.endpoint());
    assert_eq!(warnings(Daemon::start_at(everywhere.endpoint(), "")), [expected]);
    assert!(warnings(Daemon::start_at(everywhere.endpoint(), "allow_peers = [\"192.0.2.1\"]")).is_empty());
    assert!(warnings(Daemon::start("")).is_empty());
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let endpoint = format!("inet:{}", socket.local_addr().unwrap());
    let said = warnings(Daemon::start_at_socket(socket, &endpoint, ""));
    assert_eq!(said, [format!("CONFIGURATION warning=\"listening at {endpoint}, {advice}\"")]);
}

#[test]
fn check_reports_who_may_query() {
    let dir = Dir::new();
    let said = |text: &str| {
        let file = dir.write("connshaper.toml", text);
        let output = command().arg("check").arg("-c").arg(file).output().unwrap();
        assert!(output.status.success());
        let report = String::from_utf8(output.stdout).unwrap();
        let row = report.lines().find(|line| line.trim_start().starts_with("allow_peers ")).unwrap();
        row.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said(""), "allow_peers [\"127.0.0.0/8\", \"::1\"] default");
    assert_eq!(said("allow_peers = [\"192.0.2.1\"]"), "allow_peers [\"192.0.2.1/32\"] line 1");
    assert_eq!(said("allow_peers = []"), "allow_peers [] line 1");
}

fn parse(text: &str) -> Result<Config, connshaper::config::ConfigError> {
    Config::parse(Path::new("connshaper.toml"), text)
}

/// The answer to a request from an address; `None` when the daemon closes the connection.
fn ask_from(address: &str, port: u16) -> String {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let from: IpAddr = address.parse().unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    let mut stream = TcpStream::from(socket);
    let mut answer = Vec::new();
    // The daemon may close the connection before the request is written.
    let asked = stream.write_all(request(&["client_address=198.51.100.1"]).as_bytes());
    if asked.and_then(|()| stream.shutdown(std::net::Shutdown::Write)).is_ok() {
        let _ = stream.read_to_end(&mut answer);
    }
    String::from_utf8(answer).unwrap()
}

/// The output of `connshaper query` run by an unprivileged user in a group. `Err`: its error message.
fn query_as(group: &str, program: &Path, socket: &Path) -> Result<String, String> {
    let mut query = Command::new("setpriv");
    query.args(["--reuid=nobody", &format!("--regid={group}"), "--clear-groups"]).arg(program);
    query.args(["query", "--to", &format!("unix:{}", socket.display()), "198.51.100.1"]);
    let output = query.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}
