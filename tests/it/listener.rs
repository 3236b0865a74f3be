//! Listening sockets: stale files, modes and owners, and sockets passed by systemd.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;

use connshaper::config::SocketConfig;
use connshaper::listener::{ListenError, ListenProblem, Listener, Peer};
use connshaper::net::address::Address;
use connshaper::net::stream::Stream;
use connshaper::observe::log::{Log, Severity};
use nix::sys::signal::Signal;
use nix::unistd::{Group, User};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{self, Dir, Policy, Process, command, must_pass, own_process, role, until};

fn rights(mode: u32) -> SocketConfig {
    SocketConfig { mode, owner: None, group: None }
}

fn bind(address: &str) -> Result<Vec<Listener>, ListenError> {
    Listener::bind(&address.parse().unwrap(), &rights(0o660))
}

fn at(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

fn bind_unix(path: &Path, rights: &SocketConfig) -> Result<Listener, ListenError> {
    Listener::bind(&at(path), rights).map(|mut listeners| listeners.remove(0))
}

fn connect(listener: &Listener) -> TcpStream {
    let Address::Inet { host, port } = listener.address() else { panic!("{listener:?} is not over TCP") };
    TcpStream::connect((host.as_str(), *port)).unwrap()
}

async fn accept(listener: &mut Listener) -> (Stream, Peer) {
    listener.accept(&Log::in_memory(Severity::Debug)).await
}

#[tokio::test]
async fn a_connection_over_tcp_is_accepted_and_named() {
    let mut listener = bind("inet:127.0.0.1:0").unwrap().remove(0);
    let mut client = connect(&listener);
    let (mut stream, peer) = accept(&mut listener).await;
    assert_eq!(peer.to_string(), format!("inet:{}", client.local_addr().unwrap()));
    assert_eq!(peer.ip(), Some(Ipv4Addr::LOCALHOST.into()));
    let socket = SockRef::from(&stream);
    assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
    let keepalive = [socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()];
    assert_eq!((keepalive.map(|time| time.as_secs()), socket.tcp_keepalive_retries().unwrap()), ([60, 15], 4));

    client.write_all(b"request").unwrap();
    let mut request = [0; 7];
    stream.read_exact(&mut request).await.unwrap();
    stream.write_all(b"action").await.unwrap();
    drop(stream);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((&request, answer.as_str()), (b"request", "action"));
}

#[tokio::test]
async fn ipv4_and_ipv6_can_listen_on_the_same_port() {
    let mut six = bind("inet:[::]:0").unwrap().remove(0);
    let Address::Inet { port, .. } = *six.address() else { panic!() };
    let mut four = bind(&format!("inet:0.0.0.0:{port}")).unwrap().remove(0);
    let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    assert_eq!(accept(&mut four).await.1.ip().unwrap().to_string(), "127.0.0.1");
    let client = TcpStream::connect(("::1", port)).unwrap();
    let (_, peer) = accept(&mut six).await;
    assert_eq!(peer.to_string(), format!("inet:[::1]:{}", client.local_addr().unwrap().port()));
}

#[tokio::test]
async fn a_host_name_is_bound_at_each_of_its_addresses() {
    let mut expected: Vec<_> =
        ("localhost", 0).to_socket_addrs().unwrap().map(|address| address.ip().to_string()).collect();
    expected.sort();
    expected.dedup();
    let listeners = bind("inet:localhost:0").unwrap();
    let mut hosts = Vec::new();
    for listener in &listeners {
        connect(listener);
        let Address::Inet { host, .. } = listener.address() else { panic!() };
        hosts.push(host.clone());
    }
    hosts.sort();
    assert_eq!(hosts, expected);
}

#[tokio::test]
async fn an_address_that_cannot_be_bound_is_an_error_with_a_remedy() {
    let taken = bind("inet:127.0.0.1:0").unwrap().remove(0);
    let address = taken.address().to_string();
    let said = |address: &str| bind(address).unwrap_err().to_string();
    assert_eq!(
        said(&address),
        format!(
            "cannot listen at {address}: another program listens there; stop it (`ss -ltnp` names it) or set \
             `listen` to another port"
        )
    );
    assert!(said("inet:192.0.2.1:10040").contains("no interface of this host has the address"));
    assert!(said("inet:does-not-exist.invalid:10040").contains("write an address instead of the name"));
    assert!(said("unix:/nowhere/at/all").contains("there is no directory /nowhere/at; create it first"));
}

#[tokio::test]
async fn a_unix_socket_has_its_mode_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o660, 0o666, 0o777] {
        let path = dir.path().join("policy");
        let mut listener = bind_unix(&path, &rights(mode)).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, mode);
        let _client = UnixStream::connect(&path).unwrap();
        let (_, peer) = accept(&mut listener).await;
        assert_eq!((peer.to_string().as_str(), peer.ip()), ("unix", None));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left beside it");
    }
}

#[tokio::test]
async fn owner_and_group_are_looked_up_and_set() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    // Only root may change the owner of a file; other users may set it to themselves.
    let own = fs::metadata(dir.path()).unwrap();
    let owner = match own.uid() {
        0 => User::from_name("nobody").unwrap().unwrap(),
        uid => User::from_uid(uid.into()).unwrap().unwrap(),
    };
    let group = Group::from_gid(owner.gid).unwrap().unwrap();
    let named = SocketConfig { mode: 0o660, owner: Some(owner.name), group: Some(group.name) };
    let listener = bind_unix(&path, &named).unwrap();
    let made = fs::metadata(&path).unwrap();
    assert_eq!((made.uid(), made.gid()), (owner.uid.as_raw(), owner.gid.as_raw()));
    drop(listener);

    let numbered = SocketConfig { owner: Some(owner.uid.to_string()), group: Some(owner.gid.to_string()), ..named };
    let listener = bind_unix(&path, &numbered).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().uid(), owner.uid.as_raw());
    drop(listener);

    let unknown = SocketConfig { mode: 0o660, owner: None, group: Some("no-such-group".to_owned()) };
    let error = bind_unix(&path, &unknown).unwrap_err().to_string();
    assert!(error.ends_with("there is no group `no-such-group`; set `socket_group` to one of this host"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    drop(UnixListener::bind(&path).unwrap());
    assert!(fs::metadata(&path).unwrap().file_type().is_socket(), "the file outlives its listener");
    let mut listener = bind_unix(&path, &rights(0o660)).unwrap();
    let _client = UnixStream::connect(&path).unwrap();
    accept(&mut listener).await;
}

#[tokio::test]
async fn a_live_socket_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let live = UnixListener::bind(&path).unwrap();
    let error = bind_unix(&path, &rights(0o660)).unwrap_err();
    assert!(matches!(error.problem, ListenProblem::SocketInUse), "{error}");
    let _client = UnixStream::connect(&path).unwrap();
    live.accept().unwrap();

    let other = dir.path().join("log");
    let _datagrams = UnixDatagram::bind(&other).unwrap();
    let error = bind_unix(&other, &rights(0o660)).unwrap_err();
    assert!(matches!(error.problem, ListenProblem::SocketInUse), "{error}");
}

#[tokio::test]
async fn a_live_socket_with_a_full_backlog_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    socket.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let error = bind_unix(&path, &rights(0o660)).unwrap_err();
    assert!(matches!(error.problem, ListenProblem::SocketInUse), "{error}");
}

#[tokio::test]
async fn a_path_without_room_for_a_name_beside_it_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(104 - dir.path().as_os_str().len()));
    fs::create_dir(&deep).unwrap();
    let error = bind_unix(&deep.join("p"), &rights(0o660)).unwrap_err();
    assert!(matches!(error.problem, ListenProblem::PathLong), "{error}");
}

#[tokio::test]
async fn a_file_that_is_not_a_socket_is_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    symlink(&file, &link).unwrap();
    for path in [&file, &link, dir.path()] as [&Path; 3] {
        let error = bind_unix(path, &rights(0o660)).unwrap_err();
        assert!(matches!(error.problem, ListenProblem::NotASocket), "{error}");
    }
    assert_eq!(fs::read_to_string(&link).unwrap(), "precious");
}

#[tokio::test]
async fn a_socket_file_is_removed_with_its_listener_unless_it_was_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let listener = bind_unix(&path, &rights(0o660)).unwrap();
    drop(listener);
    assert!(!path.exists());

    let listener = bind_unix(&path, &rights(0o660)).unwrap();
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    drop(listener);
    UnixStream::connect(&path).expect("the successor's socket is still there");
}

#[tokio::test]
async fn sockets_from_systemd_are_served() {
    if role().is_some() {
        let mut listeners = Listener::from_systemd().unwrap();
        assert_eq!(listeners.len(), 2);
        assert!(Listener::from_systemd().unwrap().is_empty(), "they are taken once");
        for (_, listener) in &mut listeners {
            let (mut stream, _) = accept(listener).await;
            stream.write_all(listener.address().to_string().as_bytes()).await.unwrap();
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tcp = format!("127.0.0.1:{port}");
    // systemd-socket-activate passes on only the variables named by -E.
    let activate = format!("exec systemd-socket-activate -l {tcp} -l {} -E CONNSHAPER_TEST_ROLE", path.display());
    let mut systemd = own_process(sockets_from_systemd_are_served, &format!("{activate} \"$0\" \"$@\""), "serve")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(systemd.stderr.take().unwrap()).lines();
    // It prints a line for each socket that listens.
    let listening = said.by_ref().map(Result::unwrap).filter(|line| line.starts_with("Listening on")).take(2);
    assert_eq!(listening.count(), 2);

    let mut answers = [String::new(), String::new()];
    TcpStream::connect(&tcp).unwrap().read_to_string(&mut answers[0]).unwrap();
    UnixStream::connect(&path).unwrap().read_to_string(&mut answers[1]).unwrap();
    assert_eq!(answers, [format!("inet:{tcp}"), format!("unix:{}", path.display())]);
    let rest: Vec<_> = said.map(Result::unwrap).collect();
    assert!(systemd.wait().unwrap().success(), "{rest:?}");
    assert!(path.exists(), "the file belongs to systemd");
}

#[tokio::test]
async fn a_passed_descriptor_of_another_kind_is_named() {
    if let Some(report) = role() {
        let error = Listener::from_systemd().unwrap_err().to_string();
        fs::write(report, error).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let passed = "exec 3</dev/null && export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=policy";
    must_pass(own_process(a_passed_descriptor_of_another_kind_is_named, passed, &report));
    let error = fs::read_to_string(&report).unwrap();
    assert!(error.starts_with("cannot listen at descriptor 3 (policy): it is not a socket; "), "{error}");
}

#[tokio::test]
async fn accepting_outlives_a_lack_of_descriptors() {
    if role().is_some() {
        outlive_a_lack_of_descriptors().await;
        return;
    }
    must_pass(own_process(accepting_outlives_a_lack_of_descriptors, "ulimit -n 40", "starve"));
}

async fn outlive_a_lack_of_descriptors() {
    let log = Log::in_memory(Severity::Info);
    let mut listener = bind("inet:127.0.0.1:0").unwrap().remove(0);
    let _client = connect(&listener);
    let mut hoard = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        hoard.push(file);
    }
    // Accepting pauses on errors; meanwhile the other future frees descriptors.
    let relief = async {
        while log.lines().is_empty() {
            tokio::task::yield_now().await;
        }
        hoard.clear();
    };
    tokio::join!(listener.accept(&log), relief);
    let lines = log.lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("ACCEPT_FAILED listen=inet:127.0.0.1:"), "{lines:?}");
    assert!(lines[1].starts_with("ACCEPT_RESUMED listen=inet:127.0.0.1:"), "{lines:?}");
}

#[test]
fn of_programs_that_start_at_once_at_one_unix_socket_one_serves_and_the_others_end() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let config = dir.write("connshaper.toml", &format!("listen = \"unix:{}\"\n", path.display()));
    let start = || {
        let mut command = command();
        command.args(["serve", "-c"]).arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        Process::start(&mut command, Signal::SIGKILL)
    };
    for _ in 0..10 {
        let mut programs: Vec<_> = (0..8).map(|_| start()).collect();
        until("the end of all but one", || {
            programs.retain_mut(|program| match program.ended() {
                Some(status) => {
                    assert_eq!(status.code(), Some(69), "{status}");
                    false
                }
                None => true,
            });
            (programs.len() == 1).then_some(())
        });
        let mut policy =
            until("an answer", || support::connect(&format!("unix:{}", path.display())).ok().map(Policy::over));
        assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
        assert!(programs[0].ended().is_none());
        programs[0].signal(Signal::SIGTERM);
        programs[0].wait();
    }
}
