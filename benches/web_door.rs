//! The web door beside axum's own hello-world server, in one run; and what load on it does to the answers to Postfix.
//!
//! `cargo bench --bench web_door -- --seconds 3 --rounds 5 --connections 32`. Each server is a process with one thread
//! for HTTP; one thread makes the load, with one request under way on each of its connections. The rounds take turns.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Builder;

const PROGRAM: &str = env!("CARGO_BIN_EXE_connshaper");

/// Between two questions of Postfix.
const PAUSE: Duration = Duration::from_millis(2);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().position(|word| word == name).and_then(|at| arguments.get(at + 1));
    let number = |name: &str, usual: u64| value(name).map_or(usual, |text| text.parse().expect("a number"));
    if let Some(port) = value("--hello") {
        return hello(port.parse().expect("--hello takes a port"));
    }
    let (seconds, rounds) = (number("--seconds", 3), number("--rounds", 5));
    let connections = number("--connections", 32) as usize;
    let [hello_port, web_port, policy_port] = ports();
    let _hello = Server::start(Command::new(&arguments[0]).args(["--hello", &hello_port.to_string()]), hello_port);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("connshaper.toml");
    let text = format!(
        "http_listen = \"inet:127.0.0.1:{web_port}\"\nthreshold = 1000000\nwhitelist = []\n\
         [limit.pages]\ndoor = \"web\"\nthreshold = 1000000000\nmatch = {{ method = \"GET\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let listen = format!("inet:127.0.0.1:{policy_port}");
    let mut command = Command::new(PROGRAM);
    command.arg("-c").arg(&config).args(["--listen", &listen]);
    let _connshaper = Server::start(&mut command, web_port);
    let time = Duration::from_secs(seconds);
    let (mut ratios, mut idle, mut beside, mut under) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    println!("| round | hello-world, requests/s | web door, requests/s | ratio |\n| --- | --- | --- | --- |");
    for round in 0..rounds {
        let (_, calm) = measure(None, policy_port, connections, time);
        let (plain, near) = measure(Some(hello_port), policy_port, connections, time);
        let (door, loaded) = measure(Some(web_port), policy_port, connections, time);
        ratios.push(door / plain);
        idle.push(calm);
        beside.push(near);
        under.push(loaded);
        println!("| {} | {plain:.0} | {door:.0} | {:.2} |", round + 1, door / plain);
    }
    println!("\nweb door against hello-world, median: {:.2}", median(&mut ratios));
    let (idle, beside, under) = (median(&mut idle), median(&mut beside), median(&mut under));
    println!(
        "p99 of Postfix' door, median in ms: {idle:.3} idle, {beside:.3} with the load on hello-world, {under:.3} with it on the web door"
    );
    println!(
        "p99 under load on the web door against idle: {:.2}; against the same load elsewhere: {:.2}",
        under / idle,
        under / beside
    );
}

/// Requests a second at a port, if there is one; and the p99 of the answers to Postfix meanwhile, in milliseconds.
fn measure(port: Option<u16>, policy_port: u16, connections: usize, time: Duration) -> (f64, f64) {
    let stop = Arc::new(AtomicBool::new(false));
    let postfix = {
        let stop = Arc::clone(&stop);
        thread::spawn(move || postfix(policy_port, &stop))
    };
    let rate = match port {
        Some(port) => thread::spawn(move || load(port, connections, time)).join().unwrap(),
        None => {
            thread::sleep(time);
            0.0
        }
    };
    stop.store(true, Relaxed);
    let mut times = postfix.join().unwrap();
    times.sort_unstable();
    (rate, times[times.len() * 99 / 100].as_secs_f64() * 1e3)
}

/// Asks as Postfix, one question after the other, and says how long each took.
fn postfix(port: u16, stop: &AtomicBool) -> Vec<Duration> {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut writer, mut reader) = (stream.try_clone().unwrap(), BufReader::new(stream));
    let (mut times, mut line) = (Vec::new(), String::new());
    for number in 0_u32.. {
        if stop.load(Relaxed) {
            break;
        }
        let request = format!(
            "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\nclient_address=198.51.{}.{}\n\
             client_port={}\nserver_address=192.0.2.25\nserver_port=25\ninstance={number:x}.1.2.0\n\n",
            number >> 8 & 255,
            number & 255,
            1024 + number % 60_000
        );
        let begun = Instant::now();
        writer.write_all(request.as_bytes()).unwrap();
        for _ in 0..2 {
            line.clear();
            reader.read_line(&mut line).unwrap();
        }
        times.push(begun.elapsed());
        thread::sleep(PAUSE);
    }
    times
}

/// Requests a second of a closed loop.
///
/// Web servers are other processes, and on a host of their own take no processor from the servers: without
/// `--same-priority` the load has the lowest priority.
fn load(port: u16, connections: usize, time: Duration) -> f64 {
    if !std::env::args().any(|word| word == "--same-priority") {
        rustix::process::setpriority_process(None, 19).unwrap();
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let answered = Arc::new(AtomicU64::new(0));
    runtime.block_on(async {
        for number in 0..connections {
            let answered = Arc::clone(&answered);
            tokio::spawn(async move {
                let request = format!(
                    "GET /auth HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-For: 203.0.113.{number}\r\n\
                     X-Forwarded-Method: GET\r\nX-Forwarded-Host: www.example.org\r\nX-Forwarded-Uri: /a/page\r\n\
                     User-Agent: Mozilla/5.0\r\nAccept: */*\r\n\r\n"
                );
                let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let mut buffer = [0; 4096];
                loop {
                    stream.write_all(request.as_bytes()).await.unwrap();
                    // Both answer in one small write.
                    assert!(stream.read(&mut buffer).await.unwrap() > 0);
                    assert!(buffer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer));
                    answered.fetch_add(1, Relaxed);
                }
            });
        }
        // Connections and caches warm up.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (before, begun) = (answered.load(Relaxed), Instant::now());
        tokio::time::sleep(time).await;
        (answered.load(Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    })
}

/// axum's hello-world, in one thread as the web door.
fn hello(port: u16) {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let app = axum::Router::new().route("/auth", axum::routing::get(async || "Hello, World!"));
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        axum::serve(listener, app).await.unwrap();
    });
}

/// A server that is ended with this.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Self {
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{command:?} does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ports that are free.
fn ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
