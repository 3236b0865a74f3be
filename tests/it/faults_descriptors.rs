//! Open files: the highest number of policy connections, and a daemon without free descriptors.
//!
//! ```text
//! cargo test --test it -- faults_descriptors:: --nocapture
//! ```

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};

use crate::support::{Daemon, Dir, Policy, connect, must_pass, own_process, resident, role, statistic, until};

/// The hard limit of open files.
fn hard_limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).unwrap().1
}

#[test]
fn idle_connections_may_use_nearly_the_hard_limit_of_open_files() {
    if role().is_none() {
        // The test opens as many files as the daemon.
        let test = idle_connections_may_use_nearly_the_hard_limit_of_open_files;
        return must_pass(own_process(test, "ulimit -Sn $(ulimit -Hn)", "hold"));
    }
    let wanted = usize::try_from(hard_limit() - 100).unwrap().min(60_000);
    assert!(wanted >= 15_000, "the hard limit of open files allows {wanted} connections alone");
    let dir = Dir::new();
    let path = dir.join("policy");
    let endpoint = format!("unix:{}", path.display());
    let config = format!("max_connections = {wanted}\nwhitelist = []\nstatistics_interval = \"1s\"\n");
    // The daemon starts with a low soft limit, as in a shell.
    let daemon = Daemon::start_at_after(&endpoint, "ulimit -Sn 1024", &config);
    let before = resident(daemon.id());
    let start = Instant::now();
    let idle: Vec<_> = (0..wanted - 2).map(|_| UnixStream::connect(&path).unwrap()).collect();
    until("all of them", || (statistic(&daemon, "policy_connections")? as usize >= idle.len()).then_some(()));
    let took = start.elapsed();
    let mut policy = Policy::connect(&endpoint);
    let start = Instant::now();
    assert_eq!(policy.connected("198.51.100.1", 1), "DUNNO");
    let answer = start.elapsed();
    let each = (resident(daemon.id()) - before) * 1024 / idle.len() as u64;
    println!("{} idle connections in {took:.1?}, {each} bytes each; one that asks waits {answer:?}", idle.len());
    assert!(answer < Duration::from_secs(1), "{answer:?}");
    assert!(each < 8 * 1024, "{each} bytes for an idle connection");
    assert!(daemon.lines().with("TOO_MANY_CONNECTIONS").is_empty(), "{}", daemon.lines());
}

#[test]
fn without_free_descriptors_open_connections_are_served_and_new_ones_wait() {
    let dir = Dir::new();
    let endpoint = format!("unix:{}", dir.join("policy").display());
    let daemon = Daemon::start_at(&endpoint, "whitelist = []\nthreshold = 1000000\n");
    let mut served: Vec<_> = (0..20).map(|_| Policy::connect(&endpoint)).collect();
    for (policy, port) in served.iter_mut().zip(1..) {
        assert_eq!(policy.connected("198.51.100.1", port), "DUNNO");
    }
    // Lowers the limit to the files that are open now.
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    prlimit(daemon.id(), open);
    let waiting: Vec<_> = (0..10).map(|_| connect(&endpoint).unwrap()).collect();
    daemon.lines().wait_for("ACCEPT_FAILED ");
    for (policy, port) in served.iter_mut().zip(100..) {
        assert_eq!(policy.connected("198.51.100.1", port), "DUNNO");
    }
    prlimit(daemon.id(), open + 1000);
    for (stream, port) in waiting.into_iter().zip(200..) {
        assert_eq!(Policy::over(stream).connected("198.51.100.1", port), "DUNNO");
    }
    daemon.lines().wait_for("ACCEPT_RESUMED ");
}

/// Sets the limit of open files of a running process.
fn prlimit(id: u32, files: usize) {
    let mut command = Command::new("prlimit");
    let status = command.args(["--pid", &id.to_string(), &format!("--nofile={files}:")]).status();
    assert!(status.expect("prlimit, of util-linux").success());
}
