//! Upgrades and restarts of the daemon under load, seen by clients of a real Postfix.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Daemon, Dir, Postfix, Smtp, until};

/// The pause of an smtpd that has lost its policy connection.
const RETRY_DELAY: Duration = Duration::from_secs(1);

const RULES: &str = "whitelist = []\nthreshold = 2\nexptime = 3600";

fn asking(endpoint: &str) -> Postfix {
    Postfix::start(&format!("smtpd_client_restrictions = check_policy_service {endpoint}"))
}

/// A session whose next command is RCPT.
fn begun(postfix: &Postfix, from: &str) -> Smtp {
    let mut smtp = postfix.client(from);
    smtp.ehlo().expect(250);
    smtp.mail().expect(250);
    smtp
}

/// Runs `act` while eight sessions send RCPT without a pause. Returns the number of recipients, and the time of
/// the slowest reply.
fn under_load(postfix: &Postfix, act: impl FnOnce(&dyn Fn())) -> (u32, Duration) {
    let (over, named) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let talk = |client: usize| {
            let mut longest = Duration::ZERO;
            let mut smtp = begun(postfix, &format!("127.0.1.{client}"));
            for recipient in 1.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let start = Instant::now();
                smtp.rcpt().expect(250);
                longest = longest.max(start.elapsed());
                named.fetch_add(1, Ordering::Relaxed);
                // Below smtpd_recipient_limit.
                if recipient % 100 == 0 {
                    smtp.command("RSET").expect(250);
                    smtp.mail().expect(250);
                }
            }
            smtp.quit();
            longest
        };
        let talking: Vec<_> = (1..=8).map(|client| scope.spawn(move || talk(client))).collect();
        let goes_on = || {
            let before = named.load(Ordering::Relaxed);
            until("further recipients", || (named.load(Ordering::Relaxed) > before + 16).then_some(()));
        };
        goes_on();
        act(&goes_on);
        over.store(true, Ordering::Relaxed);
        let longest = talking.into_iter().map(|talk| talk.join().unwrap()).max().unwrap();
        (named.load(Ordering::Relaxed), longest)
    })
}

#[test]
fn smtp_sessions_keep_their_verdicts_over_upgrades() {
    let daemon = Daemon::start(RULES);
    let postfix = asking(daemon.endpoint());
    let mut passed = [begun(&postfix, "127.0.0.2"), begun(&postfix, "127.0.0.2")];
    for smtp in &mut passed {
        smtp.rcpt().expect(250);
    }
    let mut refused = begun(&postfix, "127.0.0.2");
    refused.rcpt().expect(450);

    let (named, longest) = under_load(&postfix, |goes_on| {
        for _ in 0..5 {
            let line = daemon.upgrade();
            assert!(line.starts_with("UPGRADED "), "{line}");
            goes_on();
            for smtp in &mut passed {
                smtp.rcpt().expect(250);
            }
            refused.rcpt().expect(450);
        }
    });
    eprintln!("{named} recipients, the longest reply after {longest:?}");
    assert!(longest < RETRY_DELAY, "{longest:?}");
    begun(&postfix, "127.0.0.2").rcpt().expect(450);
    for smtp in passed {
        smtp.quit();
    }
    assert!(postfix.lines().with("problem talking to server").is_empty(), "{}", postfix.lines());
}

#[test]
fn with_socket_activation_a_restart_under_load_costs_no_recipient() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let socket = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    let endpoint = format!("unix:{}", path.display());
    let mut daemon = Daemon::start_at_socket(socket, &endpoint, RULES);
    let postfix = asking(&endpoint);
    let (named, longest) = under_load(&postfix, |goes_on| {
        for _ in 0..3 {
            assert!(daemon.stop().success());
            daemon.start_again();
            goes_on();
        }
    });
    eprintln!("{named} recipients, the longest reply after {longest:?}");
    assert!(postfix.lines().with("problem talking to server").is_empty(), "{}", postfix.lines());
}
