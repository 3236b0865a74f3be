//! Notifications to systemd, received by a socket of the test.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use connshaper::daemon::notify;

use crate::support::{must_pass, own_process, role};

#[tokio::test]
async fn systemd_is_notified_of_start_reload_stop_and_watchdog() {
    if role().is_some() {
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
    let mut child = own_process(systemd_is_notified_of_start_reload_stop_and_watchdog, ":", "speak")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "2000")
        .env_remove("WATCHDOG_PID")
        .stdout(Stdio::null())
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
async fn nothing_is_sent_without_a_notify_socket() {
    if role().is_some() {
        notify::ready().unwrap();
        notify::reloading().unwrap();
        notify::status("running").unwrap();
        notify::stopping().unwrap();
        let fed = tokio::time::timeout(Duration::from_millis(10), notify::feed_watchdog()).await;
        assert!(fed.is_err(), "without a watchdog there is nothing to do, and no end");
        return;
    }
    must_pass(own_process(nothing_is_sent_without_a_notify_socket, "unset NOTIFY_SOCKET WATCHDOG_USEC", "speak"));
}
