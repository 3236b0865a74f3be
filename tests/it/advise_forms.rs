//! One log, written in the ways that hosts write it: the numbers are the same.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

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

/// A template with the parts of an entry: `%M` minute, `%S` second, `%U` seconds since the epoch, `%P` program,
/// `%I` process, `%X` message, `%J` message within a string of JSON.
pub fn write(template: &str, entry: &Entry) -> String {
    let quoted = json!(entry.message).to_string();
    let parts = [
        ("%M", format!("{:02}", entry.second / 60)),
        ("%S", format!("{:02}", entry.second % 60)),
        ("%U", (1_793_523_600 + entry.second).to_string()),
        ("%P", entry.program.to_owned()),
        ("%I", entry.process.to_string()),
        ("%J", quoted[1..quoted.len() - 1].to_owned()),
        ("%X", entry.message.clone()),
    ];
    parts.iter().fold(template.to_owned(), |text, (name, value)| text.replace(name, value))
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
    let entries = entries();
    let whole = |form: &str| entries.iter().map(|entry| write(form, entry)).collect::<String>();
    let expected = numbers(&report(&whole(PLAIN)));
    assert_eq!(expected[0]["asked"], 40);
    assert!(FORMS.len() >= 40);
    for form in FORMS {
        let report = report(&whole(form));
        assert_eq!(report["lines"]["not_understood"], 0, "{form}");
        assert_eq!(numbers(&report), expected, "{form}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_cut_and_any_order_of_files_in_any_form_give_the_same_numbers(
        form in prop::sample::select(FORMS),
        cuts in prop::collection::btree_set(1..40_usize, 1..6),
        order in Just((0..7).collect::<Vec<usize>>()).prop_shuffle(),
    ) {
        let (dir, entries) = (Dir::new(), entries());
        let whole = |form: &str| entries.iter().map(|entry| write(form, entry)).collect::<String>();
        let ends: Vec<usize> = cuts.iter().map(|cut| cut * 5).chain([entries.len()]).collect();
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
        prop_assert_eq!(numbers(&advise(&files, "")), numbers(&report(&whole(PLAIN))));
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
    let options = ["--json", "--seen", "rcpt", "--mynetworks", "127.0.0.0/8", "--timezone", "UTC"];
    let mut child = command()
        .args(["advise", "--threshold", "1,2", "--exptime", "50,200"])
        .args(options)
        .args(logs)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{input:.300}"))
}
