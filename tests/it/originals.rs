//! The features of the five programs that connshaper follows, through a real Postfix.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::{self, Daemon, Dir, Memcached, Postfix, Smtp};

/// Postfix does not slow down or disconnect clients on errors, and accepts XCLIENT from loopback.
const PATIENT: &str = "
    smtpd_error_sleep_time = 0
    smtpd_soft_error_limit = 1000
    smtpd_hard_error_limit = 1000
    smtpd_authorized_xclient_hosts = 127.0.0.0/8";

/// A Postfix that queries `daemon` in smtpd_client_restrictions and in these further restriction lists.
fn asking(daemon: &Daemon, lists: &[&str]) -> Postfix {
    let ask = |list: &&str| format!("{list} = check_policy_service {}\n", daemon.endpoint());
    let lists: String = ["smtpd_client_restrictions"].iter().chain(lists).map(ask).collect();
    Postfix::setup().main_cf(PATIENT).main_cf(&lists).start()
}

/// A session whose next command is MAIL.
fn greeted(postfix: &Postfix, from: &str) -> Smtp {
    let mut smtp = postfix.client(from);
    smtp.ehlo().expect(250);
    smtp
}

/// The reply code to the first recipient of a new session.
fn rcpt(postfix: &Postfix, from: &str) -> u16 {
    let mut smtp = greeted(postfix, from);
    smtp.mail().expect(250);
    smtp.rcpt().code
}

/// Probes after a window of a second, for each probe is a hit: with two in a window the client would be banned anew.
fn later(probe: impl FnOnce() -> bool) -> Option<()> {
    sleep(Duration::from_millis(1_200));
    probe().then_some(())
}

/// A session of a user who has logged in.
fn logged_in(postfix: &Postfix, from: &str, user: &str) -> Smtp {
    let mut smtp = greeted(postfix, from);
    smtp.command(format!("XCLIENT ADDR={from} LOGIN={user}")).expect(220);
    smtp.ehlo().expect(250);
    smtp
}

mod connection_shaper {
    use super::*;

    #[test]
    fn the_eleventh_connection_within_a_minute_is_refused() {
        let daemon = Daemon::start("exptime = 60\nthreshold = 10\nwhitelist = [\"127.0.0.9\"]");
        let postfix = asking(&daemon, &[]);
        assert_eq!((1..=11).map(|_| rcpt(&postfix, "127.0.0.2")).collect::<Vec<_>>()[9..], [250, 450]);
        assert!((1..=11).all(|_| rcpt(&postfix, "127.0.0.9") == 250), "whitelisted");
    }
}

mod perlbal_throttle {
    use super::*;

    #[test]
    fn a_second_connection_too_soon_waits_for_its_answer_and_the_next_twice_as_long() {
        let daemon = Daemon::start("threshold = 1\nexptime = 60\nwhitelist = []\ninitial_delay = \"400ms\"");
        let postfix = asking(&daemon, &["smtpd_recipient_restrictions"]);
        for least in [0, 400, 800] {
            let mut smtp = greeted(&postfix, "127.0.0.2");
            smtp.mail().expect(250);
            let start = Instant::now();
            smtp.rcpt().expect(250);
            let waited = start.elapsed().as_millis();
            assert!((least..least + 7000).contains(&waited), "{waited} ms, not {least}");
            let start = Instant::now();
            assert_eq!(smtp.rcpts(20), [250; 20]);
            assert!(start.elapsed() < Duration::from_millis(7000), "once per session");
        }
        assert_eq!(daemon.lines().wait_for("DELAYED client=127.0.0.2 ").matches(" reason=over ").count(), 1);
    }

    #[test]
    fn max_concurrent_and_max_delayed_bound_the_delayed_sessions() {
        let rules = "threshold = 1\nwhitelist = []\ninitial_delay = 3\nmax_concurrent = 1\nmax_delayed = 2";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        let clients = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
        assert_eq!(clients.map(|client| rcpt(&postfix, client)), [250; 3]);
        let waiting = [clients[0], clients[1]].map(|client| {
            let mut smtp = greeted(&postfix, client);
            smtp.mail().expect(250);
            smtp.send("RCPT TO:<recipient@example.org>");
            daemon.lines().wait_for(&format!("DELAYED client={client} "));
            smtp
        });
        assert_eq!(rcpt(&postfix, clients[0]), 450, "one of a client may wait");
        assert_eq!(rcpt(&postfix, clients[2]), 450, "two in all may wait");
        let line = daemon.lines().wait_for("REFUSED client=127.0.0.4 ");
        assert!(line.contains(" reason=delay_limit "), "{line}");
        assert_eq!(waiting.map(|mut smtp| smtp.reply().code), [250; 2]);
    }

    #[test]
    fn a_client_that_keeps_connecting_is_banned() {
        let rules = "threshold = 1\nexptime = 1\nwhitelist = []\nban_threshold = 2\nban_time = 2";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        assert_eq!([(); 4].map(|()| rcpt(&postfix, "127.0.0.2")), [250, 450, 450, 450]);
        daemon.lines().wait_for("BANNED key=127.0.0.2 ");
        assert_eq!(rcpt(&postfix, "127.0.0.3"), 250);
        support::until("the ban to end", || later(|| rcpt(&postfix, "127.0.0.2") == 250));
    }

    #[test]
    fn whitelist_and_blacklist_files_are_read_again_on_reload() {
        let dir = Dir::new();
        let (white, black) = (dir.join("white"), dir.join("black"));
        dir.write("white", "127.0.0.8/31 # the office\n");
        dir.write("black", "# nobody yet\n");
        let rules = format!(
            "threshold = 1\nwhitelist = []\nwhitelist_file = {white:?}\nblacklist_file = {black:?}\nblacklist_action = \"REJECT\""
        );
        let daemon = Daemon::start(&rules);
        let postfix = asking(&daemon, &[]);
        assert_eq!([(); 3].map(|()| rcpt(&postfix, "127.0.0.9")), [250; 3]);
        assert_eq!(rcpt(&postfix, "127.0.0.2"), 250);
        dir.write("black", "127.0.0.2 # seen in a botnet\n");
        assert!(daemon.reload(&rules).starts_with("RELOADED"));
        assert_eq!(rcpt(&postfix, "127.0.0.2"), 554);
        let line = daemon.lines().wait_for(" reason=blacklisted ");
        assert!(line.contains("note=\"seen in a botnet\""), "{line}");
        dir.write("black", "127.0.0.2/33\n");
        assert!(daemon.reload(&rules).starts_with("RELOAD_FAILED"));
        assert_eq!(rcpt(&postfix, "127.0.0.2"), 554, "the old list stays");
    }

    #[test]
    fn the_blacklist_may_delay_instead_of_refuse() {
        let rules = "whitelist = []\nblacklist = [\"127.0.0.2\"]\nblacklist_action = \"delay\"\nmax_delay = 1";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        let start = Instant::now();
        assert_eq!(rcpt(&postfix, "127.0.0.2"), 250);
        assert!(start.elapsed() >= Duration::from_secs(1));
        assert!(daemon.lines().wait_for("DELAYED ").contains(" reason=blacklisted "));
    }

    #[test]
    fn only_matching_requests_are_limited() {
        let rules = "
            threshold = 1000
            whitelist = []
            [limit.robots]
            threshold = 1
            match = { helo_name = \"/^bot/\" }";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        let helo = |name: &str| {
            let mut smtp = postfix.client("127.0.0.2");
            smtp.command(format!("EHLO {name}")).expect(250);
            smtp.mail().expect(250);
            smtp.rcpt().code
        };
        assert_eq!(["bot1", "mail", "BOT2", "mail"].map(helo), [250, 250, 450, 250]);
    }

    #[test]
    fn a_dry_run_is_logged_only() {
        let daemon = Daemon::start("threshold = 1\nwhitelist = []\nlog_only = true\nban_time = \"1h\"");
        let postfix = asking(&daemon, &[]);
        assert_eq!([(); 4].map(|()| rcpt(&postfix, "127.0.0.2")), [250; 4]);
        daemon.lines().wait_for("WOULD_REFUSE client=127.0.0.2 ");
        daemon.lines().wait_for("WOULD_BAN ");
    }
}

mod cgi_ratelimit {
    use super::*;

    #[test]
    fn named_limits_are_per_user_before_they_are_per_address() {
        let rules = "
            threshold = 1000
            whitelist = []
            [limit.user]
            count = \"messages\"
            per = \"sasl_username\"
            threshold = 2
            exptime = \"10m\"
            text = \"{limit}: {count} of {threshold}\"
            [limit.address]
            count = \"messages\"
            match = { sasl_username = false }
            threshold = 1
            exptime = \"10m\"";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        let mut smtp = logged_in(&postfix, "127.0.0.2", "joe");
        smtp.deliver(3);
        smtp.deliver(3);
        smtp.mail().expect(250);
        assert!(smtp.rcpt().expect(450).text.contains("user: 3 of 2"));
        let mut elsewhere = logged_in(&postfix, "127.0.0.3", "joe");
        elsewhere.mail().expect(250);
        elsewhere.rcpt().expect(450);
        assert_eq!([(); 2].map(|()| rcpt(&postfix, "127.0.0.2")), [250, 450]);
        logged_in(&postfix, "127.0.0.2", "ann").deliver(1);
    }
}

mod plack_greylist {
    use super::*;

    #[test]
    fn netblocks_have_rates_and_share_counters() {
        let rules = "
            threshold = 3
            whitelist = []
            [netblocks]
            \"127.0.1.0/24\" = { threshold = 1, per = \"netblock\" }
            \"127.0.2.0/24\" = { threshold = 1, per = \"partners\" }
            \"127.0.3.0/24\" = { threshold = 1, per = \"partners\" }
            \"127.0.3.9\" = \"whitelist\"
            \"127.0.4.0/24\" = \"blacklist\"";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &[]);
        for (client, code) in [
            ("127.0.1.1", 250),
            ("127.0.1.2", 450),
            ("127.0.2.1", 250),
            ("127.0.3.1", 450),
            ("127.0.3.9", 250),
            ("127.0.4.1", 450),
        ] {
            assert_eq!(rcpt(&postfix, client), code, "{client}");
        }
        assert_eq!([(); 4].map(|()| rcpt(&postfix, "127.0.5.1")), [250, 250, 250, 450], "the default rate");
        let line = daemon.lines().wait_for("REFUSED client=127.0.1.2 ");
        assert!(line.contains(" key=127.0.1.0/24 limit=connections reason=over count=2 threshold=1 left="), "{line}");
    }
}

mod mod_ip_count {
    use super::*;

    #[test]
    fn keys_spread_over_servers_and_a_ban_outlasts_the_window() {
        let stores = [Memcached::start(), Memcached::start()];
        let [one, other] = stores.each_ref().map(|store| format!("{:?}", store.server()));
        let rules = format!(
            "threshold = 2\nexptime = 1\nban_time = 3\nwhitelist = []\nmemcached_server = [{one}, {other}]\naction = \"421\""
        );
        let daemons = [Daemon::start(&rules), Daemon::start(&rules)];
        let hosts = daemons.each_ref().map(|daemon| asking(daemon, &[]));
        assert_eq!([(); 3].map(|()| rcpt(&hosts[0], "127.0.0.2")), [250, 250, 421]);
        assert_eq!(rcpt(&hosts[1], "127.0.0.2"), 421, "blocked on all hosts");
        let start = Instant::now();
        support::until("the block to end", || later(|| rcpt(&hosts[1], "127.0.0.2") == 250));
        assert!(start.elapsed() > Duration::from_millis(1500), "it outlasts the window of a second");
    }

    #[test]
    fn connections_in_quick_succession_count_as_one() {
        let daemon = Daemon::start("threshold = 1\nwhitelist = []\ncoalesce = \"10s\"");
        let postfix = asking(&daemon, &[]);
        assert_eq!([(); 3].map(|()| rcpt(&postfix, "127.0.0.2")), [250; 3]);
    }
}

mod busy_sites {
    use super::*;

    #[test]
    fn recipients_and_bytes_are_limited_over_all_messages() {
        let rules = "
            threshold = 1000
            whitelist = []
            [limit.recipients]
            count = \"recipients\"
            threshold = 5
            [limit.bytes]
            count = \"bytes\"
            threshold = \"4KiB\"
            text = \"{count} of {threshold} bytes\"";
        let daemon = Daemon::start(rules);
        let postfix = asking(&daemon, &["smtpd_data_restrictions", "smtpd_end_of_data_restrictions"]);
        let mut smtp = greeted(&postfix, "127.0.0.2");
        smtp.mail().expect(250);
        assert_eq!(smtp.rcpts(6), [250, 250, 250, 250, 250, 450], "one by one");
        smtp.data().expect(250);

        let mut smtp = greeted(&postfix, "127.0.0.3");
        for code in [250, 250, 250, 250, 450] {
            smtp.mail().expect(250);
            smtp.rcpt().expect(250);
            let reply = smtp.data();
            assert_eq!(reply.code, code, "{reply:?}");
        }
        let line = daemon.lines().wait_for(" limit=bytes ");
        assert!(line.contains(" count=5120 threshold=4096 "), "{line}");
    }

    #[test]
    fn count_refused_false_spares_a_retrying_queue() {
        let rules = "threshold = 2\nexptime = 3\nwhitelist = []\ncount_refused = false";
        let memcached = Memcached::start();
        let daemon = Daemon::start(&format!("{rules}\nmemcached_server = {:?}", memcached.server()));
        let postfix = asking(&daemon, &[]);
        assert_eq!([(); 5].map(|()| rcpt(&postfix, "127.0.0.2")), [250, 250, 450, 450, 450]);
        support::until("refused ones to be taken back", || {
            (memcached.value("connshaper:127.0.0.2")?.trim() == "2").then_some(())
        });
    }
}
