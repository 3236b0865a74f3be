//! What systemd is told, seen by a stand-in for it.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use connshaper::daemon::notify;

/// The environment belongs to the whole process, so a child of ours speaks:
/// this same program, told by the environment which part it plays.
const ROLE: &str = "CONNSHAPER_TEST_NOTIFY";

fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("notify::{test}")]).env(ROLE, "speak").stdout(Stdio::null());
    command
}

#[tokio::test]
async fn systemd_is_told_of_start_reload_end_and_life() {
    if std::env::var_os(ROLE).is_some() {
        notify::ready().unwrap();
        notify::reloading().unwrap();
        notify::status("two\nlines").unwrap();
        notify::stopping().unwrap();
        notify::feed_watchdog().await;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut child = child("systemd_is_told_of_start_reload_end_and_life")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000")
        .env_remove("WATCHDOG_PID")
        .spawn()
        .unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = systemd.recv(&mut buffer).expect("a message");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!(told(), "READY=1\n");
    let reloading = told();
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    since.trim_end().parse::<u64>().unwrap();
    assert_eq!(told(), "STATUS=two lines\n");
    assert_eq!(told(), "STOPPING=1\n");
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1\n");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn nobody_is_told_where_nobody_asked() {
    if std::env::var_os(ROLE).is_some() {
        notify::ready().unwrap();
        notify::reloading().unwrap();
        notify::status("running").unwrap();
        notify::stopping().unwrap();
        let fed = tokio::time::timeout(Duration::from_millis(10), notify::feed_watchdog()).await;
        assert!(fed.is_err(), "without a watchdog there is nothing to do, and no end");
        return;
    }
    let mut child = child("nobody_is_told_where_nobody_asked");
    assert!(child.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").status().unwrap().success());
}
