//! One log, written in the ways that hosts write it: the numbers are the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::support::{Dir, command};

/// A line of the log: seconds after 2026-11-01T09:00:00Z, the program, its process, and what it says.
pub struct Entry {
    second: u64,
    program: &'static str,
    process: u64,
    message: String,
}

/// Sessions of five clients, most of which deliver mail, one line after the other.
pub fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for session in 0..40 {
        let (second, process) = (session * 13, 400 + session % 3);
        let client = format!("c{n}.example.net[198.51.100.{n}]", n = 1 + session * session % 5);
        let id = format!("4Bc{session:X}Z");
        let mut say = |later: u64, program, process, message| {
            entries.push(Entry { second: second + later, program, process, message });
        };
        let (smtpd, qmgr) = ("postfix/smtpd", "postfix/qmgr");
        say(0, smtpd, process, format!("connect from {client}"));
        if session % 4 == 3 {
            let refusal = "450 4.7.1 <u@example.org>: no; from=<x@example.com> to=<u@example.org> proto=ESMTP helo=<h>";
            say(1, smtpd, process, format!("NOQUEUE: reject: RCPT from {client}: {refusal}"));
            say(2, smtpd, process, format!("disconnect from {client} ehlo=1 mail=1 rcpt=0/1 commands=2/3"));
            continue;
        }
        say(1, smtpd, process, format!("{id}: client={client}"));
        say(2, qmgr, 9, format!("{id}: from=<x@example.com>, size=9, nrcpt=1 (queue active)"));
        say(2, smtpd, process, format!("disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"));
        let reply = if session % 7 == 2 { "status=bounced (550 no)" } else { "status=sent (250 \"ok\" \\o/)" };
        say(3, "postfix/smtp", 80, format!("{id}: to=<y@example.org>, relay=x[192.0.2.9]:25, dsn=2.0.0, {reply}"));
        say(3, qmgr, 9, format!("{id}: removed"));
    }
    entries
}

/// A template with the parts of an entry: `%M` minute, `%S` second, `%U` seconds since the epoch, `%H` the same in
/// microseconds and hexadecimal, `%P` program, `%I` process, `%X` message, `%J` message within a string of JSON; `%N`
/// the length of what follows the blank behind it.
pub fn write(template: &str, entry: &Entry) -> String {
    let quoted = json!(entry.message).to_string();
    let parts = [
        ("%M", format!("{:02}", entry.second / 60)),
        ("%S", format!("{:02}", entry.second % 60)),
        ("%H", format!("{:x}", (1_793_523_600 + entry.second) * 1_000_000)),
        ("%U", (1_793_523_600 + entry.second).to_string()),
        ("%P", entry.program.to_owned()),
        ("%I", entry.process.to_string()),
        ("%J", quoted[1..quoted.len() - 1].to_owned()),
        ("%X", entry.message.clone()),
    ];
    let text = parts.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value));
    match text.strip_prefix("%N ") {
        Some(rest) => format!("{} {rest}", rest.len()),
        None => text,
    }
}

fn write_all(template: &str) -> String {
    entries().iter().map(|entry| write(template, entry)).collect()
}

pub const PLAIN: &str = "Nov  1 09:%M:%S mx %P[%I]: %X\n";

pub const FORMS: &[&str] = &[
    "Nov 1 09:%M:%S mx %P[%I]: %X\n",
    "Nov 01 09:%M:%S mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S mx %P[%I]:   %X\n",
    "Nov  1 09:%M:%S mx %P[%I]: [ID 197553 mail.info] %X\n",
    "Nov  1 09:%M:%S.123456 mx %P[%I]: %X\n",
    "Nov  1 2026 09:%M:%S mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S 2026 mx %P[%I]: %X\n",
    "2026 Nov  1 09:%M:%S.123 mx %P[%I]: %X\n",
    "Sun Nov  1 09:%M:%S 2026 mx %P[%I]: %X\n",
    "nov. 1 09:%M:%S mx %P[%I]: %X\n",
    "ноя 01 09:%M:%S mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S\tmx\t%P[%I]:\t%X\n",
    "<22>Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S mx mail.info %P[%I]: %X\n",
    "Nov  1 09:%M:%S <mail.info> mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S %P[%I]: %X\n",
    "Nov  1 09:%M:%S [%P] %X\n",
    "2026-11-01T09:%M:%S+00:00 mx %P[%I]: %X\n",
    "2026-11-01T10:%M:%S.123456+01:00 mx %P[%I]: %X\n",
    "2026-11-01T09:%M:%S+0000 mx %P[%I]: %X\n",
    "2026-11-01T09:%M:%SZ mx %P[%I]: %X\n",
    "2026-11-01 09:%M:%S,123 mx %P[%I]: %X\n",
    "2026-11-01 10:%M:%S +0100 mx %P[%I]: %X\n",
    "2026/11/01 09:%M:%S.5 mx %P[%I]: %X\n",
    "Sun 2026-11-01 09:%M:%S UTC mx %P[%I]: %X\n",
    "Sun 2026-11-01 10:%M:%S CET mx %P[%I]: %X\n",
    "%U.123456 mx %P[%I]: %X\n",
    "<22>1 2026-11-01T09:%M:%S.5Z mx %P %I - - %X\n",
    "1 2026-11-01T09:%M:%SZ mx %P %I id [a@1 b=\"]\\\"\"] \u{feff}%X\n",
    "187 <22>1 2026-11-01T09:%M:%SZ mx %P %I - - %X\n",
    "%N <22>1 2026-11-01T09:%M:%SZ mx %P %I - - %X",
    "%N <22>1 2026-11-01T09:%M:%SZ mx %P %I - - %X\n",
    "%N <22>Nov  1 09:%M:%S mx %P[%I]: %X",
    "Sun 2026-11-01 09:%M:%S.000000 UTC [s=7;i=1;b=7;m=4c;t=%H;x=ed]\n    _HOSTNAME=mx\n    SYSLOG_IDENTIFIER=%P\n    \
     SYSLOG_PID=%I\n    MESSAGE=%X\n",
    "__CURSOR=s=7;i=1\n__REALTIME_TIMESTAMP=%U000000\n_HOSTNAME=mx\nSYSLOG_IDENTIFIER=%P\n_PID=%I\nMESSAGE=%X\n\n",
    "{\n\t\"__REALTIME_TIMESTAMP\" : \"%U000000\",\n\t\"_HOSTNAME\" : \"mx\",\n\t\"SYSLOG_IDENTIFIER\" : \"%P\",\n\t\
     \"SYSLOG_PID\" : \"%I\",\n\t\"MESSAGE\" : \"%J\"\n}\n",
    r#"{"date":%U.0,"host":"mx","ident":"%P","pid":"%I","message":"%J"}"#,
    "2026-11-01T09:%M:%S.123456789Z Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "2026-11-01T09:%M:%S.123456789Z 2026-11-01T09:%M:%S.5+00:00 mx %P[%I]: %X\n",
    "2026-11-01T09:%M:%S.123456789Z stdout F Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "2026-11-01T09:%M:%S.123456+00:00 INFO    %P[%I]: %X\n",
    "postfix-1  | Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "postfix-1  | 2026-11-01T09:%M:%S.1Z Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "/var/log/mail.log:Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "mail.log:17:Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "mail.log-2026-11-01T09:%M:%SZ mx %P[%I]: %X\n",
    "\u{feff}Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "\0\0\0Nov  1 09:%M:%S mx %P[%I]: %X\n",
    "Nov  1 09:%M:%S mx %P[%I]: %X\r\n",
    r#"{"__REALTIME_TIMESTAMP":"%U000000","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"%P","_PID":"1","SYSLOG_PID":"%I","MESSAGE":"%J"}
"#,
    "data: {\"__REALTIME_TIMESTAMP\":\"%U000000\",\"_HOSTNAME\":\"mx\",\"SYSLOG_IDENTIFIER\":\"%P\",\"_PID\":\"%I\",\"MESSAGE\":\"%J\"}\n\n",
    "\u{1e}{\"__REALTIME_TIMESTAMP\":\"%U000000\",\"_HOSTNAME\":\"mx\",\"SYSLOG_IDENTIFIER\":\"%P\",\"_PID\":\"%I\",\"MESSAGE\":\"%J\"}\n",
    r#"{"log":"Nov  1 09:%M:%S mx %P[%I]: %J\n","stream":"stdout","time":"2026-11-01T09:%M:%S.123456789Z"}
"#,
    r#"postfix-1  | {"log":"Nov  1 09:%M:%S mx %P[%I]: %J\n","stream":"stdout","time":"2026-11-01T09:%M:%S.1Z"}
"#,
    r#"{"timestamp":"2026-11-01T09:%M:%S+00:00","host":"mx","severity":"info","facility":"mail","syslogtag":"%P[%I]:","message":" %J"}
"#,
    r#"{"@timestamp":"2026-11-01T09:%M:%S.000Z","host":{"name":"mx"},"log":{"file":{"path":"/var/log/mail.log"}},"message":"Nov  1 09:%M:%S mx %P[%I]: %J"}
"#,
    r#"{"@timestamp":"2026-11-01T09:%M:%S.000Z","host":{"hostname":"mx"},"process":{"name":"%P","pid":%I},"message":"%J"}
"#,
    r#"{"appname":"%P","facility":"mail","host":"mx","hostname":"mx","message":"%J","procid":%I,"severity":"info","source_type":"syslog","timestamp":"2026-11-01T09:%M:%SZ"}
"#,
    r#"{"file":"/var/log/mail.log","host":"mx","message":"Nov  1 09:%M:%S mx %P[%I]: %J","source_type":"file","timestamp":"2026-11-01T09:%M:%SZ"}
"#,
    r#"{"date":%U.5,"host":"mx","ident":"%P","pid":"%I","message":"%J"}
"#,
    r#"{"date":%U.5,"log":"Nov  1 09:%M:%S mx %P[%I]: %J"}
"#,
    r#"{"PROGRAM":"%P","PID":"%I","MESSAGE":"%J","HOST":"mx","ISODATE":"2026-11-01T09:%M:%S+00:00"}
"#,
    r#"{"version":"1.1","host":"mx","short_message":"%J","timestamp":%U.5,"_application_name":"%P","_process_id":"%I"}
"#,
];

#[test]
fn one_log_has_the_same_numbers_in_every_form() {
    let expected = numbers(&report(&write_all(PLAIN)));
    assert_eq!(expected[0]["asked"], 40);
    assert!(FORMS.len() >= 40);
    for form in FORMS {
        let report = report(&write_all(form));
        assert_eq!(report["lines"]["not_understood"], 0, "{form}");
        assert_eq!(numbers(&report), expected, "{form}");
    }
}

#[test]
fn every_output_of_journalctl_has_the_same_numbers_or_is_refused_with_the_way_out() {
    let (dir, entries) = (Dir::new(), entries());
    let template = "__REALTIME_TIMESTAMP=%U000000\n__MONOTONIC_TIMESTAMP=%U\n_BOOT_ID=00000000000000000000000000000007\n\
                    _HOSTNAME=mx\nSYSLOG_IDENTIFIER=%P\nSYSLOG_PID=%I\nMESSAGE=%X\n\n";
    let export: String = entries.iter().map(|entry| write(template, entry)).collect();
    let (export, journal) = (dir.write("mail.export", &export), dir.join("mail.journal"));
    let remote = Command::new("/lib/systemd/systemd-journal-remote").arg("-o").arg(&journal).arg(&export).output();
    let remote = remote.unwrap_or_else(|error| panic!("systemd-journal-remote (is it installed?): {error}"));
    assert!(remote.status.success(), "{remote:?}");
    let journalctl = |arguments: &[&str]| {
        let output =
            Command::new("journalctl").arg("--file").arg(&journal).arg("--utc").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let forms = Command::new("journalctl").args(["-o", "help"]).output().unwrap();
    let forms = String::from_utf8(forms.stdout).unwrap();
    let (mut read, mut refused) = (0, Vec::new());
    let expected = numbers(&report(&write_all(PLAIN)));
    for form in forms.lines() {
        for order in [&["-o", form][..], &["-o", form, "-r"]] {
            let log = journalctl(order);
            if matches!(form, "short-monotonic" | "short-delta" | "cat") {
                let output = run(&["-".as_ref()], &log);
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(said.contains(&format!("journalctl -o {form} have")), "{said}");
                assert!(said.contains("write them anew with journalctl -o short-iso-precise"), "{said}");
                assert_eq!(output.status.code(), Some(65), "{said}");
                refused.push(form);
                continue;
            }
            let report = report(&log);
            assert_eq!(
                (&report["lines"]["not_understood"], numbers(&report)),
                (&0.into(), expected.clone()),
                "{order:?}"
            );
            read += 1;
        }
    }
    assert!(read >= 20 && refused.len() == 6, "{read} {refused:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_cut_and_any_order_of_files_in_any_form_give_the_same_numbers(
        form in prop::sample::select(FORMS),
        cuts in prop::collection::btree_set(1..200_usize, 1..6),
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let (dir, entries) = (Dir::new(), entries());
        let ends: Vec<usize> = cuts.iter().copied().chain([entries.len()]).collect();
        let starts = [0].into_iter().chain(ends.iter().copied());
        let mut files: Vec<PathBuf> = starts
            .zip(&ends)
            .enumerate()
            .map(|(n, (start, end))| {
                let text: String = entries[start..*end].iter().map(|entry| write(form, entry)).collect();
                dir.write(&format!("mail.log.{n}"), &text)
            })
            .collect();
        files.sort_by_key(|path| order[path.extension().unwrap().to_str().unwrap().parse::<usize>().unwrap()]);
        let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
        prop_assert_eq!(numbers(&advise(&files, "")), numbers(&report(&write_all(PLAIN))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_zone_of_a_program_and_any_pause_give_the_same_numbers(
        quarters in prop_oneof![(-12..=14_i64).prop_map(|hours| hours * 4), Just(22), Just(-14), Just(23)],
        program in prop::sample::select(&["postfix/smtpd", "postfix/qmgr"]),
        pause in 1..120_i64,
    ) {
        let log = |quarters: i64| -> String {
            let line = |entry: &Entry| {
                let zone = if entry.program == program { quarters * 900 } else { 0 };
                let second = 1_793_523_600 + entry.second as i64 * pause + zone;
                let time = jiff::Timestamp::from_second(second).unwrap().strftime("%b %e %H:%M:%S").to_string();
                format!("{time} mx {}[{}]: {}\n", entry.program, entry.process, entry.message)
            };
            entries().iter().map(line).collect()
        };
        prop_assert_eq!(numbers(&report(&log(quarters))), numbers(&report(&log(0))));
    }
}

/// What must not depend on how a log is written.
pub fn numbers(report: &Value) -> Value {
    let candidates = report["candidates"].as_array().unwrap().iter();
    let refused: Vec<&Value> = candidates.map(|it| &it["masked"]["refused_sessions"]).collect();
    json!([report["sums"], refused, report["clients"], report["senders"]])
}

fn report(log: &str) -> Value {
    advise(&["-".as_ref()], log)
}

fn advise(logs: &[&Path], input: &str) -> Value {
    let output = run(logs, input);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{input:.300}"))
}

fn run(logs: &[&Path], input: &str) -> Output {
    let options = ["--json", "--seen", "rcpt", "--mynetworks", "127.0.0.0/8", "--timezone", "UTC"];
    let mut child = command()
        .args(["advise", "--threshold", "1,2", "--exptime", "50,200"])
        .args(options)
        .args(logs)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}
