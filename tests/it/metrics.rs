//! The metrics page, the alert rules and the dashboard.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Daemon, Dir, Memcached, PATIENCE, Policy, Port, Process, until};

/// A daemon with metrics.
struct Host {
    daemon: Daemon,
    port: Port,
}

impl Host {
    fn start(config: &str) -> Self {
        let port = Port::new();
        let daemon = Daemon::start(&format!("metrics_listen = \"{}\"\n{config}", port.endpoint()));
        Self { daemon, port }
    }

    fn get(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.port.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn page(&self) -> String {
        let answer = self.get("GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let (head, page) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        page.to_owned()
    }

    fn value(&self, series: &str) -> f64 {
        let page = self.page();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{series} ")));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
    }

    /// Lets clients connect: one goes over its limit, one is on the whitelist.
    fn traffic(&self) {
        let mut policy = Policy::connect(self.daemon.endpoint());
        for port in 1..=4 {
            policy.connected("198.51.100.7", port);
        }
        policy.connected("127.0.0.1", 5);
    }
}

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

fn promtool(arguments: &[&str], input: Option<&str>) -> Output {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(contrib("prometheus"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot run promtool (is it installed?): {error}"));
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(input.unwrap_or_default().as_bytes()).unwrap();
    drop(pipe);
    child.wait_with_output().unwrap()
}

#[test]
fn decisions_are_counted_by_limit_verdict_and_reason() {
    let host = Host::start("threshold = 2\n[limit.tried]\nthreshold = 3\nlog_only = true\n");
    host.traffic();
    let decided = |limit: &str, verdict: &str, reason: &str| {
        let labels = format!("limit=\"{limit}\",verdict=\"{verdict}\",reason=\"{reason}\",door=\"smtp\"");
        host.value(&format!("connshaper_decisions_total{{{labels}}}"))
    };
    assert_eq!(decided("connections", "refused", "over"), 2.0);
    assert_eq!(decided("tried", "would_refuse", "over"), 1.0);
    assert_eq!(decided("blacklist", "refused", "blacklisted"), 0.0);
    assert_eq!(decided("", "passed", "within_limits"), 2.0);
    assert_eq!(decided("", "passed", "whitelisted"), 1.0);
    assert_eq!(host.value("connshaper_queries_total"), 5.0);
    assert_eq!(host.value("connshaper_clients"), 2.0);
}

#[test]
fn the_page_is_valid_prometheus_text() {
    let memcached = Memcached::start();
    let host = Host::start(&format!("memcached_server = \"{}\"", memcached.server()));
    host.traffic();
    let checked = promtool(&["check", "metrics"], Some(&host.page()));
    assert!(checked.status.success(), "{checked:?}");
    assert_eq!(host.value("connshaper_store_latency_seconds_count"), 4.0);
    assert_eq!(host.value("connshaper_store_latency_seconds_bucket{le=\"+Inf\"}"), 4.0);
}

#[test]
fn the_breaker_metric_is_open_half_open_and_closed() {
    let memcached = Memcached::start();
    let host = Host::start(&format!("store_timeout = \"500ms\"\nmemcached_server = \"{}\"", memcached.server()));
    let states = || {
        let page = host.page();
        let is_in = |state: &&str| {
            let labels = format!("server=\"inet:{}\",state=\"{state}\"", memcached.server());
            page.contains(&format!("connshaper_store_breaker_state{{{labels}}} 1\n"))
        };
        ["closed", "open", "half_open"].into_iter().filter(is_in).collect::<Vec<_>>()
    };
    host.traffic();
    assert_eq!(states(), ["closed"]);
    // The server accepts connections and never answers, so each probe takes until its time-out.
    memcached.freeze();
    host.traffic();
    for state in ["open", "half_open"] {
        until(format!("a breaker that is {state}"), || (states() == [state]).then_some(()));
    }
    assert_eq!(host.value(&format!("connshaper_store_up{{server=\"inet:{}\"}}", memcached.server())), 0.0);
    memcached.thaw();
    until("a breaker that is closed", || (states() == ["closed"]).then_some(()));
}

#[test]
fn the_manual_explains_the_metrics_and_no_other() {
    let page = Host::start("").page();
    let told: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE connshaper_"))
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/connshaper.8")).unwrap();
    let (_, section) = manual.split_once("\n.Sh METRICS\n").unwrap();
    let (section, _) = section.split_once("\n.Sh ").unwrap();
    let entries = section.lines().filter_map(|line| line.strip_prefix(".It "));
    assert_eq!(entries.flat_map(|entry| entry.split(" , ")).collect::<BTreeSet<_>>(), told);
}

#[test]
fn other_http_requests_are_rejected_and_block_nothing() {
    let host = Host::start("");
    let status = |request: &str| host.get(request).lines().next().unwrap_or_default().to_owned();
    assert_eq!(status("GET /etc/passwd HTTP/1.1\r\nConnection: close\r\n\r\n"), "HTTP/1.1 404 Not Found");
    assert_eq!(status("POST /metrics HTTP/1.1\r\nConnection: close\r\n\r\n"), "HTTP/1.1 405 Method Not Allowed");
    let endless = format!("GET /metrics HTTP/1.1\r\nX: {}", "x".repeat(16_384 - "GET /metrics HTTP/1.1\r\nX: ".len()));
    assert_eq!(status(&endless), "HTTP/1.1 431 Request Header Fields Too Large");
    assert!(host.get("HEAD /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").ends_with("\r\n\r\n"));
    let idle: Vec<_> = (0..700).map(|_| TcpStream::connect(host.port.address()).unwrap()).collect();
    let begun = Instant::now();
    assert!(host.page().contains("connshaper_build_info"));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    drop(idle);
}

#[test]
fn the_alerts_fire_on_faults_only() {
    for arguments in [["check", "rules", "connshaper.rules.yml"], ["test", "rules", "connshaper.tests.yml"]] {
        let said = promtool(&arguments, None);
        assert!(
            said.status.success(),
            "{}",
            String::from_utf8_lossy(&said.stdout) + String::from_utf8_lossy(&said.stderr)
        );
    }
}

/// A Prometheus that scrapes a host five times a second.
struct Prometheus {
    _process: Process,
    port: Port,
    _dir: Dir,
}

impl Prometheus {
    fn start(host: &Host) -> Self {
        let (dir, port) = (Dir::new(), Port::new());
        // The shipped rules, with a shorter `for`.
        let rules =
            fs::read_to_string(contrib("prometheus/connshaper.rules.yml")).unwrap().replace("for: 1m", "for: 200ms");
        dir.write("rules.yml", &rules);
        let config = format!(
            "global: {{ scrape_interval: 200ms, evaluation_interval: 200ms }}\nrule_files: [rules.yml]\n\
             scrape_configs:\n  - job_name: connshaper\n    static_configs: [{{ targets: [\"{}\"] }}]\n",
            host.port.address()
        );
        let config = dir.write("prometheus.yml", &config);
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.join("data").display()));
        command.arg(format!("--web.listen-address={}", port.address()));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::start(&mut command, Signal::SIGKILL);
        Self { _process: process, port, _dir: dir }
    }

    /// The series that a query returns; `None` before Prometheus answers.
    fn ask(&self, query: &str) -> Option<Vec<Value>> {
        let mut stream = TcpStream::connect(self.port.address()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let request = format!("GET /api/v1/query?query={escaped} HTTP/1.0\r\nHost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let body: Value = serde_json::from_str(body).ok()?;
        assert!(body["status"] == "success" || answer.contains(" 503 "), "{query}: {body}");
        body["data"]["result"].as_array().cloned()
    }
}

#[test]
fn every_panel_of_the_dashboard_has_data_and_an_outage_fires_its_alert() {
    let mut memcached = Memcached::start();
    let host = Host::start(&format!("threshold = 2\nmemcached_server = \"{}\"", memcached.server()));
    let prometheus = Prometheus::start(&host);
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(contrib("grafana/connshaper.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let queries: Vec<String> = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m").replace("$instance", ".*"))
        .collect();
    assert!(queries.len() > 10);
    for query in &queries {
        until(format!("data of {query}"), || {
            host.traffic();
            let result = prometheus.ask(query)?;
            let number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
            (!result.is_empty() && result.iter().any(number)).then_some(())
        });
    }
    let firing = "ALERTS{alertname=\"ConnshaperStoreDown\",alertstate=\"firing\"}";
    assert_eq!(prometheus.ask(firing).unwrap(), Vec::<Value>::new());
    memcached.kill();
    until("an alert that memcached is away", || prometheus.ask(firing).filter(|result| !result.is_empty()));
    memcached.start_again();
    until("its end", || prometheus.ask(firing).filter(Vec::is_empty));
}
