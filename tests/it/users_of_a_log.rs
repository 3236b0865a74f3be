//! What `connshaper advise` says of limits on users: logins, senders and their domains.

use std::fmt::Write;

use serde_json::Value;

use crate::support::{Dir, command};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

/// A message of a log: when, in milliseconds, the login, the client's address, the recipients.
type Message = (u64, &'static str, String, u32);

fn log(service: &str, mut messages: Vec<Message>) -> String {
    messages.sort();
    let mut text = String::new();
    for (number, (time, login, client, recipients)) in messages.iter().enumerate() {
        let (day, hour, minute) = (1 + time / DAY, time / HOUR % 24, time / 60_000 % 60);
        let head =
            format!("2026-10-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z mx postfix", time / 1000 % 60, time % 1000);
        let smtpd = format!("{head}/{service}[{number}]:");
        let sasl = format!("sasl_method=PLAIN, sasl_username={login}");
        writeln!(text, "{smtpd} connect from unknown[{client}]").unwrap();
        writeln!(text, "{smtpd} 4B{number:X}: client=unknown[{client}], {sasl}").unwrap();
        let from = format!("from=<{login}@Example.org>, size=9, nrcpt={recipients}");
        writeln!(text, "{head}/qmgr[9]: 4B{number:X}: {from} (queue active)").unwrap();
        writeln!(text, "{smtpd} disconnect from unknown[{client}] auth=1 mail=1 rcpt=1 data=1").unwrap();
    }
    text
}

/// Ten users who send a message to two recipients every two hours, each from one address; `carl` sends three in a row.
fn office(days: u64) -> Vec<Message> {
    let users = ["ann", "bob", "carl", "dora", "emil", "fay", "gus", "hal", "ida", "jan"];
    let mut messages = Vec::new();
    for (number, login) in users.iter().enumerate() {
        for visit in 0..days * 12 {
            let time = visit * 2 * HOUR + number as u64 * 60_000;
            for again in 0..if *login == "carl" { 3 } else { 1 } {
                messages.push((time + again * 1_000, *login, format!("198.51.100.{number}"), 2));
            }
        }
    }
    messages
}

/// On the last day `bob` sends a message a minute, to ten recipients each, from thirty addresses.
fn with_a_stolen_login(days: u64) -> Vec<Message> {
    let mut messages = office(days);
    let start = (days - 1) * DAY;
    messages.extend((0..200).map(|number| (start + number * 30_000, "bob", format!("203.0.113.{}", number % 30), 10)));
    messages
}

fn report(log: &str) -> (Value, String) {
    let dir = Dir::new();
    let log = dir.write("mail.log", log);
    let run = |options: &[&str]| {
        let mut command = command();
        command.args(["advise", "--seen", "rcpt", "--timezone", "UTC", "--mynetworks", "127.0.0.0/8"]);
        String::from_utf8(command.args(options).arg(&log).output().unwrap().stdout).unwrap()
    };
    (serde_json::from_str(&run(&["--json"])).unwrap(), run(&[]))
}

fn limit<'r>(report: &'r Value, per: &str, count: &str) -> &'r Value {
    let limits = report["users"]["limits"].as_array().unwrap();
    limits.iter().find(|limit| limit["per"] == per && limit["count"] == count).unwrap()
}

#[test]
fn a_stolen_login_is_named_and_decides_no_number() {
    let (report, text) = report(&log("submission/smtpd", with_a_stolen_login(10)));
    let stolen = &report["users"]["probably_stolen"];
    assert_eq!(stolen.as_array().unwrap().len(), 1, "{stolen:#}");
    assert_eq!((&stolen[0]["login"], &stolen[0]["exptime"]), (&"bob".into(), &3600.into()));
    // Thirty of the thief, and the user's own.
    assert_eq!((&stolen[0]["addresses"], &stolen[0]["median_addresses_of_others"]), (&31.into(), &1.into()));
    for (count, needed, best) in [("messages", 3, 3), ("recipients", 6, 6), ("addresses", 1, 1)] {
        let limit = limit(&report, "sasl_username", count);
        assert_eq!(limit["lengths"][2]["needed_threshold"], needed, "{count}");
        let recommended = &limit["recommended"];
        assert_eq!((&recommended["threshold"], &recommended["stopped_users"]), (&best.into(), &0.into()), "{count}");
        assert_eq!(recommended["stopped"], 1, "{count}");
    }
    assert!(text.contains("\n  bob: 31 addresses and "), "{text}");
    assert!(
        text.contains("Users: 1,640 messages to 4,880 recipients, of 10 logins, 10 senders and 1 sender domain\n"),
        "{text}"
    );
}

#[test]
fn who_of_the_real_users_a_number_would_have_stopped_is_named() {
    let (report, text) = report(&log("submission/smtpd", office(10)));
    assert_eq!(report["users"]["probably_stolen"], serde_json::json!([]));
    let messages = limit(&report, "sasl_username", "messages");
    let user = &messages["lengths"][0]["users"][0];
    assert_eq!((&user["name"], &user["peak"], &user["messages"]), (&"carl".into(), &3.into(), &360.into()));
    assert!(text.contains("The most messages of a login within 1 hour: carl 3\n"), "{text}");
    // Each message is to two recipients, each hour holds one visit of every user.
    let domain = limit(&report, "sender_domain", "recipients");
    assert_eq!(domain["lengths"][2]["users"][0]["name"], "example.org");
    assert_eq!(domain["lengths"][2]["needed_threshold"], 24);
    assert_eq!(
        (&report["users"]["too_little"], &report["users"]["log_only_until"]),
        (&serde_json::json!([]), &Value::Null)
    );
}

#[test]
fn thresholds_that_were_asked_for_say_whom_they_stop() {
    let dir = Dir::new();
    let log = dir.write("mail.log", &log("smtpd", office(2)));
    let mut command = command();
    command.args(["advise", "--csv", "--threshold", "2", "--exptime", "1h", "--seen", "rcpt", "--timezone", "UTC"]);
    let table =
        String::from_utf8(command.args(["--mynetworks", "127.0.0.0/8"]).arg(log).output().unwrap().stdout).unwrap();
    assert!(table.lines().next().unwrap().ends_with("whole_refused_senders,per,count"), "{table}");
    // 24 visits of one user, with a third message each.
    assert!(table.contains("\n3600,2,no,288,24,1,1,,,,sasl_username,messages\n"), "{table}");
    assert!(table.contains("\n3600,3,yes,288,0,0,0,,,,sasl_username,messages\n"), "{table}");
}

#[test]
fn a_short_log_of_few_users_is_too_little_to_stop_them_on() {
    let (report, text) = report(&log("submission/smtpd", vec![(0, "ann", "198.51.100.1".into(), 1)]));
    assert_eq!(report["users"]["too_little"], serde_json::json!(["days", "senders", "untested"]));
    assert!(
        text.contains("It rests on 1 login in 1 second.\nToo little to refuse mail on: less than 7 days, fewer than"),
        "{text}"
    );
    assert!(text.contains("Users: 1 message to 1 recipient, of 1 login, 1 sender and 1 sender domain\n"), "{text}");
}

#[test]
fn mail_of_strangers_is_none_of_users() {
    let stranger = log("smtpd", office(1)).replace(", sasl_method", ", orig_sasl_method").replace("sasl_username", "x");
    assert_eq!(report(&stranger).0["users"], Value::Null);
}

#[test]
fn a_user_once_a_minute_needs_two_in_a_minute_where_stamps_are_whole_seconds() {
    let messages = || (0..20).map(|minute| (minute * 60_000, "ann", format!("198.51.100.{}", minute % 3), 1)).collect();
    let log = log("submission/smtpd", messages());
    let needed = |log: &str| {
        let (report, _) = report(log);
        ["messages", "recipients", "addresses"].map(|count| {
            let lengths = limit(&report, "sasl_username", count)["lengths"].as_array().unwrap().clone();
            let minute = lengths.iter().find(|length| length["exptime"] == 60).unwrap();
            minute["needed_threshold"].as_u64().unwrap()
        })
    };
    assert_eq!(needed(&log), [1, 1, 1]);
    assert_eq!(needed(&log.replace(".000Z", "Z")), [2, 2, 2]);
}
