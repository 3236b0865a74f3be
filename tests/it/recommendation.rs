//! What `connshaper advise` says its recommendation rests on.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::support::{Dir, command, traffic};

const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

/// Sessions of a log: when, in milliseconds, and the last byte of the client's address. Each delivers a message.
fn log(mut sessions: Vec<(u64, u8)>) -> String {
    sessions.sort_unstable();
    let mut text = String::new();
    for (number, (time, client)) in sessions.iter().enumerate() {
        let (day, hour, minute) = (1 + time / DAY, time / 3_600_000 % 24, time / MINUTE % 60);
        let head = format!("2026-10-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z mx", time / 1000 % 60, time % 1000);
        let client = format!("c{client}.example.net[198.51.100.{client}]");
        writeln!(text, "{head} postfix/smtpd[{number}]: connect from {client}").unwrap();
        writeln!(text, "{head} postfix/smtpd[{number}]: 4B{number:X}: client={client}").unwrap();
        writeln!(text, "{head} postfix/qmgr[9]: 4B{number:X}: from=<a@b>, size=9, nrcpt=1 (queue active)").unwrap();
        writeln!(text, "{head} postfix/lmtp[8]: 4B{number:X}: to=<c@d>, relay=e, dsn=2.0.0, status=sent (ok)").unwrap();
        writeln!(text, "{head} postfix/smtpd[{number}]: disconnect from {client} mail=1 rcpt=1 data=1").unwrap();
    }
    text
}

/// Twenty senders that come twice a day in a minute, for so many days.
fn steady(days: u64) -> Vec<(u64, u8)> {
    let of_day = |day: u64| {
        let of_client = move |client: u8| {
            let time = day * DAY + u64::from(client) * 20 * MINUTE;
            [(time, client), (time + 10_000, client)]
        };
        (1..=20).flat_map(of_client)
    };
    (0..days).flat_map(of_day).collect()
}

fn run(options: &[&str], log: &Path) -> String {
    let mynetworks = if options.contains(&"--mynetworks") { &[][..] } else { &["--mynetworks", traffic::MYNETWORKS] };
    let mut command = command();
    command.args(["advise", "--seen", "rcpt", "--timezone", "UTC"]).args(mynetworks);
    let output = command.args(options).arg(log).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn both(log: String) -> (Value, String) {
    let dir = Dir::new();
    let log = dir.write("mail.log", &log);
    (serde_json::from_str(&run(&["--json"], &log)).unwrap(), run(&[], &log))
}

#[test]
fn a_long_log_of_many_senders_gives_a_number_that_may_be_enforced() {
    let (report, text) = both(log(steady(20)));
    let (best, basis) = (&report["recommended"], &report["basis"]);
    assert_eq!((&best["threshold"], &best["log_only"]), (&2.into(), &false.into()), "{report:#}");
    assert_eq!((&basis["senders"], &basis["refused_senders"]), (&20.into(), &0.into()), "{basis:#}");
    assert!(basis["days"].as_f64().unwrap() > 19.0 && basis["parts"].as_array().unwrap().len() >= 3, "{basis:#}");
    assert!(text.contains("It rests on 20 senders of mail in 19.") && !text.contains("log_only"), "{text}");
}

#[test]
fn a_number_that_the_rest_of_the_log_would_not_have_given_is_not_enforced() {
    // In the last days two more senders come, with five sessions in a minute.
    let mut sessions = steady(20);
    for client in [30, 31] {
        sessions.extend((0..5).map(|number| (18 * DAY + u64::from(client) * MINUTE + number * 5_000, client)));
    }
    let (report, text) = both(log(sessions));
    let basis = &report["basis"];
    assert_eq!(
        (&basis["refused_senders"], &basis["too_little"][0]),
        (&2.into(), &"refused_senders".into()),
        "{basis:#}"
    );
    assert_eq!((&basis["refused"][0]["peak"], &basis["refused"][0]["threshold_of_the_rest"]), (&5.into(), &2.into()));
    assert_eq!((&report["recommended"]["threshold"], &report["recommended"]["log_only"]), (&5.into(), &true.into()));
    assert!(text.contains("made from the others it is 2 to 5 and refuses 2 senders:\n"), "{text}");
    assert!(
        text.contains("c30.example.net[198.51.100.30], 5 sessions, 5 messages delivered; the others gave 2"),
        "{text}"
    );
}

#[test]
fn a_short_log_gives_a_number_to_log_only_and_a_date() {
    let (report, text) = both(log(steady(2)));
    let best = &report["recommended"];
    let date = best["log_only_until"].as_str().unwrap();
    assert!(date.parse::<jiff::civil::Date>().unwrap() > jiff::Zoned::now().date(), "{date}");
    assert_eq!(report["basis"]["too_little"], serde_json::json!(["days"]));
    assert!(text.contains(&format!("\n  log_only = true    # until {date}\n")), "{text}");
    assert!(text.contains("Too little to refuse mail on: less than 7 days.\n"), "{text}");
    assert!(!text.contains("no need"), "{text}");
}

#[test]
fn the_only_sender_is_to_be_whitelisted() {
    let (report, text) = both(log(vec![(0, 7), (5_000, 7)]));
    assert_eq!(report["only_sender"]["address"], "198.51.100.7");
    assert_eq!(report["recommended"]["log_only"], true);
    assert!(
        text.contains("\n  whitelist: add 198.51.100.7\n    c7.example.net[198.51.100.7] is the only client"),
        "{text}"
    );
    assert!(text.contains("  2 sessions of 1 client (") && text.contains("none of 2 sessions.\n"), "{text}");
}

#[test]
fn a_client_that_carries_nearly_all_sessions_is_named_as_a_gateway() {
    let mut sessions: Vec<(u64, u8)> = (0..200).map(|number| (number * MINUTE, 9)).collect();
    sessions.extend((0..10).map(|number| (number * 7 * MINUTE + 1, number as u8 + 20)));
    let (report, text) = both(log(sessions));
    assert_eq!((&report["gateway"]["address"], &report["only_sender"]), (&"198.51.100.9".into(), &Value::Null));
    assert!(text.contains("c9.example.net[198.51.100.9] has 95.2 % of all sessions: it is a smart host"), "{text}");
}

#[test]
fn the_plot_of_refusals_shows_none_where_the_text_has_none() {
    let log = Path::new("tests/it/logs/plot.log");
    let text = run(&["--mynetworks", "127.0.0.0/8", "--exptime", "1m"], log);
    assert!(text.contains("  64             0       0 %          0                    0  <- recommended\n"), "{text}");
    let (_, plot) = text.split_once("Refusals per 1 second with threshold 64 in 60 seconds\n").unwrap();
    let rows: Vec<&str> = plot.lines().take(6).collect();
    assert_eq!(rows[0], "            0", "{plot}");
    assert!(rows.iter().all(|row| !row.contains(|c| c > '\u{2800}' && c <= '\u{28ff}' || c == '#')), "{plot}");
}
