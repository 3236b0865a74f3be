//! What SMTP clients see when a real Postfix asks connshaper.

use std::net::{IpAddr, Ipv6Addr};

use crate::support::{Daemon, Dir, Lines, Memcached, Port, Postfix, Reply, Setup, Smtp, install};

/// Values of smtpd_delay_reject: Postfix queries at each recipient, or when the client connects.
const DELAY_REJECT: [&str; 2] = ["yes", "no"];

/// Raises the error limits of Postfix, so that all refusals come from connshaper.
const PATIENT: &str = "
    smtpd_soft_error_limit = 1000
    smtpd_hard_error_limit = 1000";

#[test]
fn the_fourth_session_of_a_client_is_refused_at_every_recipient() {
    for delay_reject in DELAY_REJECT {
        let mut daemon = Daemon::start("threshold = 3\nwhitelist = []");
        let postfix = asking(&daemon, delay_reject).main_cf(PATIENT).start();
        for _ in 0..3 {
            let mut smtp = begun(&postfix, "127.0.0.2");
            assert_eq!(smtp.rcpts(50), [250; 50]);
            smtp.data().expect(250);
        }

        let mut smtp = begun(&postfix, "127.0.0.2");
        assert_eq!(smtp.rcpts(50), [450; 50]);
        let reply = smtp.rcpt();
        let text =
            "450 4.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2, try again in ";
        assert!(reply.text.starts_with(text), "{reply:?}");
        let elsewhere = smtp.command("RCPT TO:<recipient@example.com>");
        assert!(elsewhere.expect(554).text.contains("Relay access denied"), "other checks still refuse for good");

        let mut other = begun(&postfix, "127.0.0.3");
        assert_eq!(other.rcpts(50), [250; 50]);

        daemon.stop();
        assert_eq!(daemon.lines().with("REFUSED client=127.0.0.2 ").len(), 1, "{}", daemon.lines());
    }
}

#[test]
fn a_client_passes_by_a_name_that_postfix_has_verified_and_by_no_other() {
    for lookup in ["yes", "no"] {
        let mut daemon =
            Daemon::start("threshold = 1\nwhitelist = [\"/^localhost(\\\\.|$)/\", \"claimed.example.com\"]\n");
        let postfix = asking(&daemon, "yes").main_cf(PATIENT);
        let postfix = postfix.main_cf(&format!("smtpd_peername_lookup = {lookup}")).start();
        let codes = |client: &str| -> [u16; 2] {
            [(); 2].map(|()| {
                let mut smtp = postfix.client(client);
                smtp.command("EHLO claimed.example.com").expect(250);
                smtp.mail().expect(250);
                smtp.rcpt().code
            })
        };
        // This host knows the name of this address; the other has none.
        assert_eq!(codes("127.0.0.1"), if lookup == "yes" { [250; 2] } else { [250, 450] }, "{lookup}");
        assert_eq!(codes("127.0.0.2"), [250, 450]);
        daemon.stop();
    }
}

#[test]
fn at_postfix_own_limits_a_refused_client_sees_450_until_postfix_hangs_up() {
    for delay_reject in DELAY_REJECT {
        let daemon = Daemon::start("threshold = 1\nwhitelist = []");
        // The error limits are the defaults; only the pause of a second after each error is turned off.
        let postfix = asking(&daemon, delay_reject).main_cf("smtpd_error_sleep_time = 0").start();
        begun(&postfix, "127.0.0.2").rcpt().expect(250);

        let mut smtp = begun(&postfix, "127.0.0.2");
        assert_eq!(smtp.rcpts(20), [450; 20]);
        assert!(smtp.reply().expect(421).text.contains("too many errors"));
        assert!(smtp.is_closed());
    }
}

#[test]
fn two_daemons_with_one_memcached_count_a_client_together() {
    let store = Memcached::start();
    let config = format!("threshold = 3\nwhitelist = []\nmemcached_server = \"{}\"", store.server());
    let daemons = [Daemon::start(&config), Daemon::start(&config)];
    let hosts = daemons.each_ref().map(|daemon| asking(daemon, "yes").main_cf(PATIENT).start());
    for host in [0, 1, 0] {
        assert_eq!(begun(&hosts[host], "127.0.0.2").rcpts(50), [250; 50]);
    }
    for host in [1, 0] {
        assert_eq!(begun(&hosts[host], "127.0.0.2").rcpts(50), [450; 50]);
        assert_eq!(begun(&hosts[host], "127.0.0.3").rcpts(50), [250; 50]);
    }
    assert_eq!(store.value("connshaper:127.0.0.2").as_deref(), Some("5"));
}

#[test]
fn ipv6_clients_are_counted_by_their_64() {
    let store = Memcached::start();
    let config = format!("threshold = 1\nwhitelist = []\nmemcached_server = \"{}\"", store.server());
    let daemon = Daemon::start(&config);
    let postfix = asking(&daemon, "yes").on(Ipv6Addr::LOCALHOST).start();
    begun(&postfix, "::1").rcpt().expect(250);
    begun(&postfix, "::1").rcpt().expect(450);
    assert_eq!(store.value("connshaper:::/64").as_deref(), Some("2"));
    daemon.lines().wait_for("REFUSED client=::1 key=::/64 ");
}

#[test]
fn neighbours_in_a_64_share_a_count() {
    let daemon = Daemon::start("threshold = 1");
    let postfix = asking(&daemon, "yes").main_cf("smtpd_authorized_xclient_hosts = 127.0.0.1").start();
    for (client, code) in [("2001:db8::1", 250), ("2001:db8::2:0:0:1", 450), ("2001:db8:0:1::1", 250)] {
        let mut smtp = postfix.client("127.0.0.1");
        smtp.ehlo();
        smtp.command(format!("XCLIENT ADDR=IPV6:{client} NAME=[UNAVAILABLE]")).expect(220);
        smtp.ehlo();
        smtp.mail();
        smtp.rcpt().expect(code);
    }
}

#[test]
fn whitelisted_clients_are_never_refused() {
    let table = [
        ("", "127.0.0.2", 250),
        ("", "127.255.255.254", 250),
        ("whitelist = []", "127.0.0.2", 450),
        ("whitelist = [\"127.0.0.2\"]", "127.0.0.2", 250),
        ("whitelist = [\"127.0.0.2\"]", "127.0.0.3", 450),
        ("whitelist = [\"127.0.0.0/30\"]", "127.0.0.3", 250),
        ("whitelist = [\"127.0.0.0/30\"]", "127.0.0.4", 450),
    ];
    for (whitelist, client, code) in table {
        let daemon = Daemon::start(&format!("threshold = 1\n{whitelist}"));
        let postfix = asking(&daemon, "yes").start();
        begun(&postfix, client).rcpt().expect(250);
        let reply = begun(&postfix, client).rcpt();
        assert_eq!(reply.code, code, "{client} with {whitelist:?}");
    }
}

#[test]
fn postfix_reaches_every_kind_of_endpoint() {
    let config = "threshold = 1\nwhitelist = []\nsocket_group = \"postfix\"";
    for (in_main_cf, chrooted) in
        [("unix:ABSOLUTE", false), ("unix:private/connshaper", false), ("unix:private/connshaper", true)]
    {
        let setup = Postfix::setup();
        let socket = setup.in_queue_directory("private/connshaper");
        let _daemon = Daemon::start_at(format!("unix:{}", socket.display()), config);
        let setup = setup.main_cf(&restrictions(&in_main_cf.replace("ABSOLUTE", socket.to_str().unwrap()), "yes"));
        let postfix = if chrooted { setup.chroot() } else { setup }.start();
        assert_refuses_the_second_session(&postfix);
    }
    for address in ["127.0.0.1", "::1"] {
        let port = Port::of(address.parse::<IpAddr>().unwrap());
        let daemon = Daemon::start_at(port.endpoint(), config);
        assert_refuses_the_second_session(&asking(&daemon, "no").start());
    }
}

#[test]
fn spawn_runs_one_policy_process_per_smtpd_and_all_count_together() {
    let (store, dir) = (Memcached::start(), Dir::new());
    let log = Lines::of_log_socket(&dir.join("log"));
    let config = dir.write(
        "connshaper.toml",
        &format!(
            "threshold = 1\nwhitelist = []\nmemcached_server = \"{}\"\nsyslog_socket = \"{}\"",
            store.server(),
            dir.join("log").display()
        ),
    );
    let postfix = Postfix::setup()
        .main_cf(&restrictions("unix:private/policy", "yes"))
        .main_cf("policy_time_limit = 3600")
        .master_cf(&format!(
            "policy unix - n n - 0 spawn user=nobody argv={} inetd -c {}",
            install(&dir).display(),
            config.display()
        ))
        .start();

    let mut first = begun(&postfix, "127.0.0.2");
    first.rcpt().expect(250);
    // The first session is still open, so this one has another smtpd.
    let mut second = begun(&postfix, "127.0.0.2");
    assert_eq!(second.rcpts(3), [450; 3]);
    assert_eq!(first.rcpts(3), [250; 3]);
    begun(&postfix, "127.0.0.3").rcpt().expect(250);

    assert_eq!(store.value("connshaper:127.0.0.2").as_deref(), Some("2"));
    let line = log.wait_for("REFUSED client=127.0.0.2 ");
    // <PRI> is the mail facility, severity info.
    assert!(line.starts_with("<22>connshaper["), "{line}");
}

#[test]
fn each_action_has_its_effect_in_postfix() {
    // Replies at RCPT to a client over its limit, if Postfix queries at RCPT.
    let table = [
        (
            "DEFER_IF_PERMIT",
            450,
            "4.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2",
        ),
        ("DEFER", 450, "4.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2"),
        ("REJECT", 554, "5.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2"),
        ("452", 452, "4.7.0 <unknown[127.0.0.2]>: Client host rejected: Too many connections from 127.0.0.2"),
        ("450 4.2.0 {count} of {threshold}", 450, "4.2.0 <unknown[127.0.0.2]>: Client host rejected: 2 of 1"),
        ("550 5.7.1 Go away, {client}", 550, "5.7.1 <unknown[127.0.0.2]>: Client host rejected: Go away, 127.0.0.2"),
        ("421 4.7.0 Slow down", 421, "4.7.0 <unknown[127.0.0.2]>: Client host rejected: Slow down"),
        ("WARN {count} connections", 250, "2.1.5 Ok"),
        ("over_the_limit", 470, "4.7.0 <unknown[127.0.0.2]>: Client host rejected: by a class"),
    ];
    for (action, code, text) in table {
        let daemon = Daemon::start(&format!(
            "threshold = 1\nwhitelist = []\naction = \"{action}\"\nrestriction_classes = [\"over_the_limit\"]"
        ));
        let postfix = asking(&daemon, "yes").main_cf(
            "
            smtpd_restriction_classes = over_the_limit
            over_the_limit = check_client_access inline:{{127.0.0.2 = 470 4.7.0 by a class}}",
        );
        let postfix = postfix.start();
        begun(&postfix, "127.0.0.2").rcpt().expect(250);
        let mut smtp = begun(&postfix, "127.0.0.2");
        let reply = smtp.rcpt();
        assert!(reply.code == code && reply.text[4..].starts_with(text), "{action}: {reply:?}");
        match action.split(' ').next() {
            Some("421") => assert!(smtp.is_closed()),
            Some("WARN") => drop(postfix.lines().wait_for("2 connections")),
            _ => assert_eq!(smtp.rcpt().code, code),
        }
    }
}

#[test]
fn action_421_at_connect_replaces_the_banner_and_closes() {
    let daemon = Daemon::start("threshold = 1\nwhitelist = []\naction = \"421 4.7.0 Slow down, {client}\"");
    let postfix = asking(&daemon, "no").start();
    postfix.client("127.0.0.2").greeting().clone().expect(220);
    let mut smtp = postfix.client("127.0.0.2");
    let Reply { code, text } = smtp.greeting();
    assert_eq!((*code, text.contains("Slow down, 127.0.0.2")), (421, true), "{text}");
    assert!(smtp.is_closed());
}

#[test]
fn warn_if_reject_refuses_nobody() {
    let daemon = Daemon::start("threshold = 1\nwhitelist = []");
    let postfix = Postfix::start(&format!(
        "smtpd_client_restrictions = warn_if_reject check_policy_service {}",
        daemon.endpoint()
    ));
    for _ in 0..2 {
        begun(&postfix, "127.0.0.2").rcpt().expect(250);
    }
    let line = postfix.lines().wait_for("reject_warning: ");
    assert!(line.contains("Too many connections from 127.0.0.2"), "{line}");
    daemon.lines().wait_for("REFUSED client=127.0.0.2 ");
}

/// A Postfix that queries `daemon` in smtpd_client_restrictions.
fn asking(daemon: &Daemon, delay_reject: &str) -> Setup {
    Postfix::setup().main_cf(&restrictions(daemon.endpoint(), delay_reject))
}

fn restrictions(endpoint: &str, delay_reject: &str) -> String {
    format!("smtpd_client_restrictions = check_policy_service {endpoint}\nsmtpd_delay_reject = {delay_reject}")
}

/// A session whose next command is RCPT.
fn begun(postfix: &Postfix, from: &str) -> Smtp {
    let mut smtp = postfix.client(from);
    smtp.ehlo().expect(250);
    smtp.mail().expect(250);
    smtp
}

#[track_caller]
fn assert_refuses_the_second_session(postfix: &Postfix) {
    begun(postfix, "127.0.0.2").rcpt().expect(250);
    begun(postfix, "127.0.0.2").rcpt().expect(450);
}
