//! Windows of the calendar: real daemons shortly before midnight, on every store, and with a simulated clock what must
//! not depend on the time of day.

use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::{Daemon, Dir, Memcached, Policy, Postfix, Redis, Simulation, Sqlite, command, say, until};

const PASS: &str = "DUNNO";

/// A time zone by its difference from UTC, and when its next midnight is.
struct Midnight {
    zone: String,
    at: SystemTime,
}

impl Midnight {
    /// One in so many seconds.
    fn after(seconds: u64) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds;
        // What local clocks have to add to UTC; POSIX writes it with the other sign.
        let ahead = (86_400 - unix % 86_400) % 86_400;
        let (sign, offset) = if ahead > 43_200 { ('+', 86_400 - ahead) } else { ('-', ahead) };
        let zone = format!("<here>{sign}{}:{:02}:{:02}", offset / 3600, offset / 60 % 60, offset % 60);
        Self { zone, at: UNIX_EPOCH + Duration::from_secs(unix) }
    }

    /// A daemon in this time zone.
    fn daemon(&self, config: &str) -> Daemon {
        Daemon::start_after(&format!("export TZ='{}'", self.zone), config)
    }

    /// Seconds until then, rounded up; 0: it has been.
    fn left(&self) -> u64 {
        self.at.duration_since(SystemTime::now()).map_or(0, |left| left.as_millis().div_ceil(1000) as u64)
    }

    /// What texts say of it.
    fn said(&self) -> String {
        let unix = self.at.duration_since(UNIX_EPOCH).unwrap().as_secs();
        jiff::Timestamp::from_second(unix as i64).unwrap().strftime("%Y-%m-%d %H:%M UTC").to_string()
    }

    fn wait(&self) {
        while let Ok(left) = self.at.duration_since(SystemTime::now()) {
            thread::sleep(left + Duration::from_millis(5));
        }
    }
}

/// Tells `before` of a midnight that is near, again with one that is farther away if it has come before the end.
fn before_midnight<T>(before: impl Fn(&Midnight) -> T) -> (Midnight, T) {
    for seconds in [10, 30, 90, 270] {
        let midnight = Midnight::after(seconds);
        let found = before(&midnight);
        if midnight.left() > 1 {
            return (midnight, found);
        }
    }
    panic!("this machine is too slow");
}

/// Whether another session of a client passes, and what it is told.
fn connected(daemon: &Daemon, client: &str) -> String {
    static PORT: AtomicU16 = AtomicU16::new(1024);
    Policy::connect(daemon.endpoint()).connected(client, PORT.fetch_add(1, Ordering::Relaxed))
}

fn ends_at_midnight_on(store: &str) {
    let config = format!(
        "whitelist = []\nthreshold = 2\nwindow = \"calendar\"\nexptime = \"1d\"\nover_memory = \"10s\"\n\
         store_timeout = \"5s\"\ntext = \"left {{left}} until {{until}}\"\n{store}"
    );
    let client = "198.51.100.1";
    // Every try has counters of its own.
    let (midnight, daemon) = before_midnight(|midnight| {
        let prefix = format!("key_prefix = \"{}:\"\n", midnight.zone.replace(['<', '>', '+', '-', ':'], "_"));
        let daemon = midnight.daemon(&format!("{prefix}{config}"));
        let answers = [(); 4].map(|()| connected(&daemon, client));
        if midnight.left() <= 1 {
            return daemon;
        }
        assert_eq!([&answers[0], &answers[1]], [PASS; 2], "{store}");
        for answer in &answers[2..] {
            let (_, said) = answer.split_once("left ").unwrap_or_else(|| panic!("{store}: {answer}"));
            let (left, until) = said.split_once(" until ").unwrap();
            let left: u64 = left.parse().unwrap();
            assert!((midnight.left()..=midnight.left() + 270).contains(&left) && left <= 271, "{store}: {answer}");
            assert_eq!(until, midnight.said(), "{store}: {answer}");
        }
        daemon
    });
    midnight.wait();
    let answers = [(); 3].map(|()| connected(&daemon, client));
    assert_eq!([&answers[0], &answers[1]], [PASS; 2], "{store}");
    let left: u64 = answers[2].split_once("left ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
    assert!((86_400 - 300..=86_400).contains(&left), "{store}: {}", answers[2]);
}

#[test]
fn windows_in_memory_and_in_sqlite_end_at_local_midnight() {
    let sqlite = Sqlite::new();
    thread::scope(|scope| {
        scope.spawn(|| ends_at_midnight_on(""));
        scope.spawn(|| ends_at_midnight_on(&sqlite.config()));
    });
    let kinds = sqlite.say("SELECT DISTINCT kind FROM counts");
    assert_eq!(kinds.trim(), "calendar");
}

#[test]
fn windows_in_memcached_and_in_redis_end_at_local_midnight() {
    let (memcached, redis) = (Memcached::start(), Redis::start());
    thread::scope(|scope| {
        scope.spawn(|| ends_at_midnight_on(&format!("memcached_server = {:?}\n", memcached.server())));
        scope.spawn(|| ends_at_midnight_on(&redis.config()));
    });
}

#[test]
fn a_real_postfix_lets_a_login_less_sender_go_on_after_midnight() {
    let (midnight, (daemon, postfix)) = before_midnight(|midnight| {
        let daemon = midnight.daemon(
            "whitelist = []\nthreshold = 1000\n[limit.daily]\nthreshold = 1\ncount = \"messages\"\n\
             per = \"sender_domain\"\nwindow = \"calendar\"\nexptime = \"1d\"\n\
             text = \"One message a day, the next one in {left} seconds, at {until}\"\n",
        );
        let list = format!("smtpd_recipient_restrictions = check_policy_service {}", daemon.endpoint());
        let postfix = Postfix::start(&list);
        postfix.client("127.0.0.2").deliver(1);
        let mut smtp = postfix.client("127.0.0.3");
        smtp.mail().expect(250);
        let reply = smtp.rcpt();
        if midnight.left() > 1 {
            assert_eq!(reply.code, 450, "{reply:?}");
            assert!(reply.text.contains("One message a day") && reply.text.contains(&midnight.said()), "{reply:?}");
        }
        (daemon, postfix)
    });
    midnight.wait();
    postfix.client("127.0.0.2").deliver(1);
    let mut smtp = postfix.client("127.0.0.3");
    smtp.mail().expect(250);
    smtp.rcpt().expect(450);
    drop(daemon);
}

/// A month of the calendar, which is longer than memcached takes for a time from now on, in a time zone.
fn monthly(zone: &str, store: &str) -> String {
    format!(
        "whitelist = []\nthreshold = 2\nwindow = \"calendar\"\nexptime = \"1 month\"\ntime_zone = {zone:?}\n\
         store_timeout = \"5s\"\nover_memory = 0\n{store}"
    )
}

#[test]
fn hosts_of_one_time_zone_count_together_and_those_of_others_apart() {
    let (memcached, redis, sqlite) = (Memcached::start(), Redis::start(), Sqlite::new());
    for store in [format!("memcached_server = {:?}\n", memcached.server()), redis.config(), sqlite.config()] {
        let [vienna, berlin, tokyo] =
            ["Europe/Vienna", "Europe/Berlin", "Asia/Tokyo"].map(|zone| Daemon::start(&monthly(zone, &store)));
        let answers = [&vienna, &berlin, &tokyo].map(|daemon| connected(daemon, "198.51.100.1"));
        assert_eq!(answers, [PASS; 3], "{store}");
        assert_ne!(connected(&vienna, "198.51.100.1"), PASS, "{store}");
        assert_ne!(connected(&berlin, "198.51.100.1"), PASS, "{store}");
        assert_eq!(connected(&tokyo, "198.51.100.1"), PASS, "{store}");
        assert_ne!(connected(&tokyo, "198.51.100.1"), PASS, "{store}");
    }
}

#[test]
fn a_month_survives_a_restart_an_upgrade_and_a_reload() {
    let dir = Dir::new();
    let state = format!("state_file = {:?}\n", dir.join("state"));
    let mut daemon = Daemon::start(&monthly("Europe/Berlin", &state));
    let client = "198.51.100.1";
    assert_eq!([(); 2].map(|()| connected(&daemon, client)), [PASS; 2]);
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_ne!(connected(&daemon, client), PASS, "the third, after a restart");
    assert!(daemon.upgrade().starts_with("UPGRADED "));
    assert_ne!(connected(&daemon, client), PASS, "the fourth, after an upgrade");
    let more = monthly("Europe/Berlin", &state).replace("threshold = 2", "threshold = 5");
    assert!(daemon.reload(&more).starts_with("RELOADED "));
    assert_eq!(connected(&daemon, client), PASS, "the fifth");
    assert_ne!(connected(&daemon, client), PASS, "the sixth");
    // Windows of another length, or elsewhere, are others.
    for other in [more.replace("1 month", "1w"), more.replace("Europe/Berlin", "Asia/Kolkata")] {
        assert!(daemon.reload(&other).starts_with("RELOADED "));
        assert_eq!(connected(&daemon, client), PASS, "{other}");
    }
}

#[test]
fn commands_see_the_window_of_this_moment() {
    let (dir, sqlite, memcached) = (Dir::new(), Sqlite::new(), Memcached::start());
    let stores = [String::new(), sqlite.config(), format!("memcached_server = {:?}\n", memcached.server())];
    for (number, store) in stores.iter().enumerate() {
        let control = dir.join(format!("control{number}"));
        let more = format!("{store}control_socket = {control:?}\n");
        let daemon = Daemon::start(&monthly("Europe/Berlin", &more));
        let say = |words: &str| say(&control, words.split(' ')).0;
        for _ in 0..3 {
            connected(&daemon, "198.51.100.1");
        }
        let shown: serde_json::Value = serde_json::from_str(&say("show 198.51.100.1 --json")).unwrap();
        let counters = shown.to_string();
        assert!(counters.contains("\"count\":3"), "{store}: {counters}");
        for words in ["show 198.51.100.0/24", "top --json", "show --over"] {
            assert!(say(words).contains("198.51.100.1"), "{store}: {}", say(words));
        }
        let explained = say("explain 198.51.100.1");
        assert!(explained.contains("4 of 2 for 198.51.100.1"), "{store}: {explained}");
        say("reset 198.51.100.1");
        assert_eq!(connected(&daemon, "198.51.100.1"), PASS, "{store}: after a reset");
        let explained = say("explain 198.51.100.1");
        assert!(explained.contains("2 of 2 for 198.51.100.1"), "{store}: {explained}");
    }
}

/// The simulated clock begins at 22:13:20 UTC, so the hour ends after 2800 seconds and the day after 6400.
const SECOND: u64 = 1000;

#[test]
fn refusals_that_do_not_count_bans_and_alerts_go_by_the_window() {
    let rules = "
        whitelist = []
        time_zone = \"UTC\"
        threshold = 1000
        [limit.hourly]
        threshold = 2
        window = \"calendar\"
        exptime = \"1h\"
        count_refused = false
        alert = true
        [limit.daily]
        threshold = 4
        window = \"calendar\"
        exptime = \"1d\"
        ban_time = \"2h\"
        ";
    let sqlite = Sqlite::new();
    for mut site in [Simulation::new(rules), Simulation::on_sqlite(&sqlite, rules)] {
        let client = "198.51.100.1";
        assert_eq!([site.session(client), site.session(client)], ["pass"; 2]);
        assert_eq!([site.session(client), site.session(client)], ["over hourly"; 2]);
        // The daily limit has counted those too.
        site.now = 2799 * SECOND + 999;
        assert_eq!(site.session(client), "over hourly");
        site.now = 2800 * SECOND;
        assert_eq!(site.session(client), "banned daily", "the ban began with the fifth session");
        site.now = 2800 * SECOND + 7200 * SECOND;
        // Past midnight, and past the ban.
        assert_eq!([site.session(client), site.session(client)], ["pass"; 2]);
        assert_eq!(site.session(client), "over hourly");
    }
}

#[test]
fn the_thirty_six_hundredth_second_begins_the_next_hour_in_every_part_of_a_process() {
    let rules =
        "whitelist = []\ntime_zone = \"Asia/Kolkata\"\nthreshold = 1\nwindow = \"calendar\"\nexptime = \"1h\"\n";
    let mut site = Simulation::new(rules);
    // It is 03:43:20 there.
    assert_eq!(site.session("198.51.100.1"), "pass");
    site.now = 999 * SECOND + 999;
    assert_eq!(site.session("198.51.100.1"), "over connections");
    site.now = 1000 * SECOND;
    assert_eq!([site.session("198.51.100.1"), site.session("198.51.100.1")], ["pass", "over connections"]);
    site.now = 4599 * SECOND + 999;
    assert_eq!(site.session("198.51.100.1"), "over connections");
    site.now = 4600 * SECOND;
    assert_eq!(site.session("198.51.100.1"), "pass");
}

#[test]
fn advise_judges_a_log_by_its_own_midnights() {
    let dir = Dir::new();
    let line = |(number, time): (usize, &&str)| {
        format!("{time} mx postfix/smtpd[{number}]: NOQUEUE: reject: RCPT from unknown[198.51.100.1]: 450 4.7.1 no\n")
    };
    let times = ["2026-03-28T22:58:00Z", "2026-03-28T22:59:00Z", "2026-03-28T23:00:00Z", "2026-03-29T21:59:59Z"];
    let times = [&times[..], &["2026-03-29T22:00:00Z"]].concat();
    let log = dir.write("mail.log", &times.iter().enumerate().map(line).collect::<String>());
    let config = dir.write(
        "connshaper.toml",
        "whitelist = []\nthreshold = 1\nwindow = \"calendar\"\nexptime = \"1d\"\ntime_zone = \"Europe/Berlin\"\n",
    );
    let verdicts = dir.join("verdicts");
    let output =
        command().args(["advise", "-c"]).arg(&config).arg("--verdicts").arg(&verdicts).arg(&log).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let verdicts = std::fs::read_to_string(verdicts).unwrap();
    let words: Vec<&str> = verdicts.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(words, [PASS, "DEFER_IF_PERMIT", PASS, "DEFER_IF_PERMIT", PASS], "{verdicts}");
}

#[test]
fn check_says_when_the_windows_end() {
    let dir = Dir::new();
    for (exptime, sentence) in [
        ("\"1h\"", "in each hour from the full hour on (Europe/Berlin)"),
        ("86400", "in each day from midnight on (Europe/Berlin)"),
        ("\"7d\"", "in each week from Monday 00:00 on (Europe/Berlin)"),
        ("\"1 month\"", "in each month from the first of the month on (Europe/Berlin)"),
    ] {
        let text = format!("window = \"calendar\"\nexptime = {exptime}\ntime_zone = \"Europe/Berlin\"\n");
        let output = command().args(["check", "-c"]).arg(dir.write("connshaper.toml", &text)).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success() && said.contains(sentence), "{said}");
    }
}

#[test]
fn a_limit_without_an_end_by_the_calendar_is_as_before_beside_one() {
    // The first reads no time zone, whatever the second does.
    let daemon = Daemon::start_after(
        "export TZ=:nowhere",
        "whitelist = []\nthreshold = 1\nexptime = \"1h\"\n[limit.day]\nthreshold = 3\nwindow = \"calendar\"\nexptime = \"1d\"\n",
    );
    assert_eq!(connected(&daemon, "198.51.100.1"), PASS);
    let refused = until("a refusal", || Some(connected(&daemon, "198.51.100.1")).filter(|answer| answer != PASS));
    assert!(refused.contains("Too many connections"), "{refused}");
}
