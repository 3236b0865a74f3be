//! `connshaper report`: a day's sums, who sent most and who went over.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::{Daemon, Dir, Policy, Simulation, at, say};

/// The simulated clock begins at 22:13:20 UTC.
const TO_MIDNIGHT: u64 = (3600 + 46 * 60 + 40) * 1000;

const DAY: u64 = 86_400_000;

const LIMITS: &str = "
    whitelist = []
    threshold = 2
    exptime = 10
    [limit.users]
    threshold = 3
    exptime = \"1h\"
    count = \"recipients\"
    count_unsent = false
    per = \"sasl_username\"
    match = { sasl_username = true }
    [limit.senders]
    threshold = 1
    count = \"messages\"
    per = \"sender\"
    log_only = true
    ";

/// A message of a login that is sent to so many recipients, in a session of its own.
fn mail(site: &mut Simulation, session: usize, login: &str, recipients: u32) {
    let lines = format!("sasl_username={login}\nsender={login}@example.org\n");
    let client = format!("192.0.2.{}", session % 250);
    let mut passed = 0;
    for number in 0..recipients {
        let recipient = format!("recipient=r{number}@example.net\n");
        passed += u32::from(site.ask(session, &(at(&client, session, "RCPT", 0) + &lines + &recipient)) == "pass");
    }
    site.ask(session, &format!("{}{lines}recipient_count={passed}\n", at(&client, session, "DATA", 0)));
}

/// The sum of a limit, how often it was exceeded, and its keys with the same of each.
type Sums = (u64, u64, Vec<(String, u64, u64)>);

#[test]
fn a_day_has_the_sums_of_each_key_and_ends_at_local_midnight() {
    for (zone, midnight) in [("UTC", TO_MIDNIGHT), ("Asia/Kolkata", TO_MIDNIGHT + 18 * 3_600_000 + 1_800_000)] {
        let mut site = Simulation::new(&format!("time_zone = {zone:?}\n{LIMITS}"));
        mail(&mut site, 0, "joe", 5);
        mail(&mut site, 1, "ann", 2);
        // Of a mail that is not sent nothing stays.
        let lines = "sasl_username=bob\nsender=bob@example.org\nrecipient=x@example.net\n";
        site.ask(2, &(at("192.0.2.9", 2, "RCPT", 0) + lines));
        site.close(2);
        let of = |name: &str, count, over| (format!("sasl_username={name}"), count, over);
        let first: Sums = (5, 2, vec![of("joe", 3, 2), of("ann", 2, 0)]);
        assert_eq!(site.day_of("users", false), first);
        let of_sender = |name: &str| (format!("sender={name}@example.org"), 1, 0);
        assert_eq!(site.day_of("senders", false), (3, 0, ["ann", "bob", "joe"].map(of_sender).into()));
        site.now = midnight - 1000;
        mail(&mut site, 3, "ann", 1);
        assert_eq!(site.day_of("users", false), (6, 2, vec![of("ann", 3, 0), of("joe", 3, 2)]));
        assert_eq!(site.day_of("users", true), (0, 0, vec![]));
        site.now = midnight;
        mail(&mut site, 4, "eve", 1);
        assert_eq!(site.day_of("users", false), (1, 0, vec![of("eve", 1, 0)]));
        assert_eq!(site.day_of("users", true), (6, 2, vec![of("ann", 3, 0), of("joe", 3, 2)]));
        // A step of the clock over midnight loses nothing, and a day later there is another yesterday.
        site.now = midnight - 2000;
        mail(&mut site, 5, "eve", 1);
        assert_eq!(site.day_of("users", false).0, 2);
        site.now = midnight + DAY;
        assert_eq!(site.day_of("users", true), (2, 0, vec![of("eve", 2, 0)]));
        site.now = midnight + 3 * DAY;
        assert_eq!([true, false].map(|before| site.day_of("users", before).0), [0, 0]);
    }
}

#[test]
fn clients_are_named_when_they_go_over_and_their_sum_is_of_all() {
    let mut site = Simulation::new(LIMITS);
    for number in 0..4 {
        site.ask(number, &at("198.51.100.7", number, "RCPT", 0));
        site.ask(100 + number, &at(&format!("192.0.2.{number}"), 100 + number, "RCPT", 0));
    }
    let over = ("198.51.100.7".to_owned(), 0, 2);
    assert_eq!(site.day_of("connections", false), (6, 2, vec![over]));
}

#[test]
fn strangers_do_not_hide_who_sends_much() {
    let mut site = Simulation::new(&LIMITS.replace("threshold = 2\n", "threshold = 1000000\n"));
    let lines = |sender: &str, port| format!("sender={sender}@example.com\n{}", at("192.0.2.1", port, "RCPT", 0));
    for number in 0..5000 {
        site.ask(number % 7, &lines(&format!("stranger{number}"), number));
        if number % 50 == 0 {
            site.ask(8, &lines("heavy", 10_000 + number));
        }
    }
    let (sum, over, keys) = site.day_of("senders", false);
    assert_eq!((sum, over), (5100, 99), "every one of them, all but the first hit of the heavy one over");
    assert_eq!((keys[0].0.as_str(), keys[0].2), ("sender=heavy@example.com", 99));
    assert!((100..150).contains(&keys[0].1), "{:?}", keys[0]);
    assert!(keys.len() <= 1001, "{}", keys.len());
}

/// A time zone in which midnight is hours away.
fn by_day() -> &'static str {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() % 86_400;
    if seconds < 43_200 { "Etc/GMT-6" } else { "Etc/GMT+6" }
}

#[test]
fn of_a_client_too_nothing_stays_of_mail_that_is_not_sent() {
    let mut site = Simulation::new(
        "whitelist = []
        threshold = 1000
        exptime = 10
        [limit.incoming]
        threshold = 100
        exptime = \"1h\"
        count = \"recipients\"
        count_unsent = false
        ",
    );
    let recipient = |site: &mut Simulation, session| {
        site.ask(session, &(at("192.0.2.9", session, "RCPT", 0) + "sender=a@example.org\nrecipient=x@example.net\n"))
    };
    recipient(&mut site, 0);
    site.ask(0, &(at("192.0.2.9", 0, "DATA", 0) + "sender=a@example.org\nrecipient_count=1\n"));
    recipient(&mut site, 1);
    site.close(1);
    assert_eq!(site.day_of("incoming", false), (1, 0, vec![]));
}

/// Single recipients of this login, each in a session of its own.
fn recipients(daemon: &Daemon, login: &str, ports: std::ops::Range<u32>) {
    for port in ports {
        let (number, instance) = (format!("client_port={port}"), format!("instance={port:x}.1.0.0"));
        let login = format!("sasl_username={login}");
        Policy::connect(daemon.endpoint()).ask(&[
            "protocol_state=RCPT",
            &format!("client_address=198.51.{}.1", port % 250),
            &number,
            &instance,
            &login,
            "sender=x@example.org",
            "recipient=a@example.net",
        ]);
    }
}

#[test]
fn the_report_is_a_table_json_and_csv_and_outlives_restart_and_upgrade() {
    let dir = Dir::new();
    let (socket, state) = (dir.join("control"), dir.join("state"));
    let config = |limits: &str| {
        format!("control_socket = {socket:?}\nstate_file = {state:?}\ntime_zone = {:?}\n{limits}", by_day())
    };
    let limits = LIMITS.replace("    count_unsent = false\n", "");
    let mut daemon = Daemon::start(&config(&limits));
    recipients(&daemon, "joe", 1..6);
    recipients(&daemon, "ann", 6..8);
    let users = |words: &[&str]| {
        let (text, code) = say(&socket, [&["report", "--json", "--limit", "users"], words].concat());
        assert_eq!(code, 0, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()["limits"][0].clone()
    };
    let first = users(&[]);
    assert_eq!([&first["counts"], &first["count"], &first["over"]], [&json!("recipients"), &json!(5), &json!(2)]);
    let key = &first["keys"][0];
    assert_eq!([&key["key"], &key["count"], &key["over"]], [&json!("sasl_username=joe"), &json!(3), &json!(2)]);
    assert!(key["over_since"].as_str().is_some_and(|since| since.ends_with('Z')), "{first:#}");
    assert_eq!(first["keys"][1]["key"], "sasl_username=ann");
    assert_eq!((first["keys"].as_array().unwrap().len(), &first["more"]), (2, &json!(0)));
    let one = users(&["--most", "1"]);
    assert_eq!((one["keys"].as_array().unwrap().len(), &one["more"]), (1, &json!(1)), "{one:#}");

    // A limit before them changes nothing, over a restart and over an upgrade.
    std::fs::write(daemon.config(), config(&format!("{limits}[limit.another]\nthreshold = 5"))).unwrap();
    assert!(daemon.stop().success());
    daemon.start_again();
    assert_eq!(users(&[]), first);
    recipients(&daemon, "ann", 8..9);
    daemon.upgrade();
    let upgraded = users(&[]);
    assert_eq!(
        [&upgraded["count"], &upgraded["over"], &upgraded["keys"][0]["key"]],
        [&json!(6), &json!(2), &json!("sasl_username=ann")]
    );

    let (text, _) = say(&socket, ["report"]);
    assert!(text.contains("\nlimit users: recipients let pass: 6, over: 2\n"), "{text}");
    assert!(text.contains("  sasl_username=joe      3     2  20"), "{text}");
    assert!(text.contains("\nlimit senders: messages let pass: 6, over: 7, only logged\n"), "{text}");
    assert!(text.contains("\nlimit another: connections let pass: "), "{text}");
    let (csv, _) = say(&socket, ["report", "--csv"]);
    assert!(csv.starts_with("date,limit,key,count,excess,over,over_since,log_only\r\n20"), "{csv}");
    assert!(csv.contains(",users,,6,0,2,,false\r\n") && csv.contains(",users,sasl_username=joe,3,0,2,20"), "{csv}");
    let (text, code) = say(&socket, ["report", "yesterday"]);
    assert_eq!((text.as_str(), code), ("nothing is known of that day: the daemon has run since a later one\n", 0));
    let (text, code) = say(&socket, ["report", "--limit", "user"]);
    assert!(code == 64 && text.contains("there are connections, users, senders, another"), "{text}");
}
