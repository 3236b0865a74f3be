//! The HTTP server: who may ask, what it bounds, and what outlives a reload and an upgrade.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Daemon, Dir, HttpHost, Memcached, PATIENCE, Policy, Port, Process, fetch, until};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn nothing_is_served_over_http_unless_it_is_asked_for() {
    let daemon = Daemon::start("");
    assert!(!daemon.lines().wait_for("START ").contains("http"));
    let host = HttpHost::start("");
    assert_eq!(host.ask("GET /metrics HTTP/1.1", "").status, 200);
    assert_eq!(host.ask("GET /etc/passwd HTTP/1.1", "").status, 404);
    assert_eq!(host.ask("GET /dovecot HTTP/1.1", "").status, 405);
    assert_eq!(host.ask("GET / HTTP/1.1", "").status, 200);
}

#[test]
fn who_has_no_token_learns_nothing_and_changes_nothing() {
    let host = HttpHost::with_token(TOKEN, "[limit.failures]\nthreshold = 2\ncount = \"requests\"\n");
    let hit = r#"{"limit":"failures","key":"192.0.2.1"}"#;
    for path in ["GET /metrics", "GET /auth", "GET /auth/nginx", "POST /dovecot?command=allow", "POST /hit"] {
        for head in ["", "\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdee", "\r\nX-Connshaper-Token: x"] {
            assert_eq!(host.ask(&format!("{path} HTTP/1.1{head}"), hit).status, 401, "{path}{head}");
        }
    }
    let allowed = |path: &str| host.ask(&format!("{path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}"), hit);
    assert_eq!(allowed("GET /metrics").status, 200);
    for count in 1..=3 {
        let answer = allowed("POST /hit");
        let told: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(
            (answer.status, told["count"].as_u64(), told["over"].as_bool()),
            (200, Some(count), Some(count > 2))
        );
    }
    let told: Value = serde_json::from_str(&allowed("POST /revoke").body).unwrap();
    assert_eq!(told["count"], 2);
    let told: Value = serde_json::from_str(&allowed("POST /check").body).unwrap();
    assert_eq!((told["count"].as_u64(), told["over"].as_bool()), (Some(3), Some(true)));
    let wrong = host.ask(&format!("POST /hit HTTP/1.1\r\nAuthorization: Bearer {TOKEN}"), r#"{"limit":"x","key":"y"}"#);
    assert_eq!(wrong.status, 400);
    assert!(wrong.body.contains("there is no limit"), "{}", wrong.body);
    let lines = host.daemon.lines();
    assert!(lines.wait_for("CONTROL").contains("user=http"), "{lines}");
}

#[test]
fn actions_need_a_token_even_where_nothing_else_does() {
    let answer = HttpHost::start("").ask("POST /hit HTTP/1.1", r#"{"limit":"connections","key":"192.0.2.1"}"#);
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("http_token_file"), "{}", answer.body);
}

#[test]
fn a_peer_that_may_not_ask_is_not_answered() {
    let host = HttpHost::start("allow_peers = [\"127.0.0.1\"]\n");
    let mut stream = {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.7:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&host.address().into()).unwrap();
        TcpStream::from(socket)
    };
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    // It may be reset, or closed.
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty());
    host.daemon.lines().wait_for("REFUSED_PEER");
}

#[test]
fn heads_and_bodies_have_bounds() {
    let host = HttpHost::start("");
    let long = "x".repeat(20_000);
    let object = format!("{{\"login\":\"{long}\"}}");
    assert_eq!(host.ask_at_length("POST /dovecot?command=report HTTP/1.1", &object).status, 413);
    assert_eq!(host.ask_at_length(&format!("GET /auth HTTP/1.1\r\nX-Long: {long}"), "").status, 431);
    let many: String = (0..200).map(|number| format!("\r\nX-{number}: x")).collect();
    assert_eq!(host.ask_at_length(&format!("GET /auth HTTP/1.1{many}"), "").status, 431);
    for body in ["", "[]", "{", "\u{1}", "{\"login\":"] {
        assert_eq!(host.ask("POST /dovecot?command=allow HTTP/1.1", body).status, 400, "{body:?}");
    }
    assert_eq!(host.ask("POST /dovecot?command=forget HTTP/1.1", "{}").status, 400);
    assert_eq!(host.ask("POST /dovecot HTTP/1.1", "{}").status, 400);
}

#[test]
fn what_was_asked_is_done_to_its_end_for_a_peer_that_hangs_up() {
    let (memcached, dir) = (Memcached::start(), Dir::new());
    let token = dir.write("token", TOKEN);
    let config = format!(
        "http_token_file = {token:?}\nmemcached_server = \"{}\"\nstore_timeout = \"5s\"\nover_memory = 0\n\
         [limit.web]\ndoor = \"web\"\nthreshold = 1\nban_time = \"1h\"\n\
         [limit.failures]\nthreshold = 1\nban_time = \"1h\"\ncount = \"requests\"\n",
        memcached.server()
    );
    let host = HttpHost::start(&config);
    let bearer = format!("Authorization: Bearer {TOKEN}");
    let nginx = format!("GET /auth/nginx HTTP/1.1\r\n{bearer}\r\nX-Forwarded-For: 192.0.2.1\r\nHost: a\r\n\r\n");
    let body = r#"{"limit":"failures","key":"192.0.2.2"}"#;
    let hit = format!("POST /hit HTTP/1.1\r\n{bearer}\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for request in [&nginx, &hit] {
        let head = request.strip_suffix("\r\n\r\n").unwrap_or(request);
        let (head, body) = head.split_once("\r\n\r\n").unwrap_or((head, ""));
        let head = head.split("\r\nContent-Length").next().unwrap();
        assert_eq!(host.ask(head, body).status, 200);
    }
    memcached.freeze();
    let peers = [&hit, &nginx].map(|request| {
        let mut stream = TcpStream::connect(host.address()).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    });
    until("the web request", || host.say("status --json").contains("\"web_requests\": 2").then_some(()));
    drop(peers);
    // The server has heard that they hung up when it has answered connections that came later.
    for _ in 0..3 {
        assert_eq!(host.ask(&format!("GET /metrics HTTP/1.1\r\n{bearer}"), "").status, 200);
    }
    memcached.thaw();
    host.daemon.lines().wait_for("BANNED key=192.0.2.1 limit=web ");
    host.daemon.lines().wait_for("BANNED key=192.0.2.2 limit=failures ");
}

#[test]
fn idle_connections_keep_nobody_out() {
    let host = HttpHost::start("");
    let idle: Vec<_> = (0..700)
        .map(|number| {
            let mut stream = TcpStream::connect(host.address()).unwrap();
            // Some say a little, slowly.
            if number % 2 == 0 {
                stream.write_all(b"GET /auth HTTP/1.1\r\nX-").unwrap();
            }
            stream
        })
        .collect();
    let begun = Instant::now();
    assert_eq!(host.ask("GET /metrics HTTP/1.1", "").status, 200);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(idle);
}

#[test]
fn a_connection_serves_request_after_request() {
    let host = HttpHost::start("[limit.all]\ndoor = \"web\"\nthreshold = 1000\n");
    let mut stream = TcpStream::connect(host.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for number in 1..=20 {
        stream.write_all(b"GET /auth HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(&format!("\"all\";r={};", 1000 - number)), "{answer}");
    }
}

#[test]
fn a_reload_changes_the_token_and_whom_it_believes() {
    let host = HttpHost::start("");
    assert_eq!(host.ask("GET /metrics HTTP/1.1", "").status, 200);
    let dir = Dir::new();
    let file = dir.write("token", TOKEN);
    let said = host.daemon.reload(&host.keys(&format!("http_token_file = {file:?}\n")));
    assert!(said.contains("RELOADED"), "{said}");
    assert_eq!(host.ask("GET /metrics HTTP/1.1", "").status, 401);
    dir.write("token", "short");
    let said = host.daemon.reload(&host.keys(&format!("http_token_file = {file:?}\n")));
    assert!(said.contains("RELOAD_FAILED") && said.contains("no valid token"), "{said}");
    let said = host.daemon.reload("http_listen = \"inet:127.0.0.1:1\"\n");
    assert!(said.contains("http_listen"), "{said}");
}

#[test]
fn an_upgrade_hands_the_sockets_over() {
    let dir = Dir::new();
    let path = dir.join("http");
    let port = Port::new();
    let daemon = Daemon::start(&format!(
        "http_listen = [\"{}\", \"unix:{}\"]\n[limit.all]\ndoor = \"web\"\nthreshold = 100\n",
        port.endpoint(),
        path.display()
    ));
    let ask = || {
        let answer = fetch(port.address(), None, "GET /auth HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1", "");
        answer.header("RateLimit").unwrap().to_owned()
    };
    assert!(ask().contains("r=99"));
    let idle = TcpStream::connect(port.address()).unwrap();
    let said = daemon.upgrade();
    assert!(said.contains("UPGRADED"), "{said}");
    assert!(daemon.lines().with("UPGRADE_INCOMPLETE").is_empty(), "{}", daemon.lines());
    assert!(ask().contains("r=98"), "counts outlive it");
    drop(idle);
    let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let mut daemon = daemon;
    assert!(daemon.stop().success());
    assert!(!path.exists(), "the file goes with it");
}

#[test]
fn requests_wait_while_a_program_that_does_not_work_is_tried() {
    let host = HttpHost::start("[limit.all]\ndoor = \"web\"\nthreshold = 100\n");
    let program = host.daemon.program();
    std::fs::remove_file(&program).unwrap();
    std::os::unix::fs::symlink("/bin/false", &program).unwrap();
    let said = host.daemon.upgrade();
    assert!(said.contains("UPGRADE_FAILED"), "{said}");
    let answer = until("an answer", || {
        let answer = host.ask("GET /auth HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1", "");
        (answer.status == 200).then_some(answer)
    });
    assert!(answer.header("RateLimit").is_some());
}

#[test]
fn systemd_passes_the_sockets_of_the_doors_by_name() {
    let (policy, http, dir) = (Port::new(), Port::new(), Dir::new());
    let config = dir.write("connshaper.toml", "[limit.all]\ndoor = \"web\"\nthreshold = 1\n");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &policy.address().to_string(), "-l", &http.address().to_string(), "--fdname=policy:http"]);
    command.arg(env!("CARGO_BIN_EXE_connshaper")).arg("-c").arg(config);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _systemd = Process::start(&mut command, Signal::SIGTERM);
    until("a socket of systemd", || TcpStream::connect(policy.address()).ok());
    let ask = || fetch(http.address(), None, "GET /auth HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1", "").status;
    assert_eq!([ask(), ask()], [200, 429]);
    assert!(Policy::connect(&policy.endpoint()).connected("192.0.2.1", 1).contains("DUNNO"));
}
