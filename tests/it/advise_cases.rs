//! Small logs that other hosts write, each with what is right about it (`logs/`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::Value;

use super::support::{Dir, command};

#[test]
fn a_before_queue_filter_leaves_the_message_to_its_client() {
    let report = report("proxy_filter.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{report:#}");
}

#[test]
fn programs_may_log_under_names_of_their_own() {
    for log in ["transport_name.log", "smtpd_name.log"] {
        let report = report(log);
        assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{log}: {report:#}");
    }
}

#[test]
fn mailscanner_gives_a_message_a_new_queue_id() {
    let report = report("mailscanner.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{report:#}");
}

#[test]
fn what_a_filter_discards_is_not_delivered() {
    let report = report("amavis_discarded.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&0.into(), &1.into()), "{report:#}");
    assert_eq!(report["sums"]["discarded_messages"], 1);
}

#[test]
fn submission_services_are_told_by_their_names() {
    for log in ["submission_name.log", "submission_proxy.log"] {
        let report = report(log);
        let sums = &report["sums"];
        assert_eq!((&sums["submission"], &sums["sessions"]), (&1.into(), &0.into()), "{log}: {report:#}");
    }
}

#[test]
fn an_identifier_before_the_message_belongs_to_syslog() {
    let report = report("solaris_id.log");
    assert_eq!((&report["sums"]["sessions"], &report["sums"]["asked"]), (&2.into(), &2.into()), "{report:#}");
}

#[test]
fn a_time_may_stand_before_that_of_the_line() {
    let report = report("docker_logs_t.log");
    assert_eq!((&report["sums"]["asked"], &report["senders"]), (&1.into(), &1.into()), "{report:#}");
}

#[test]
fn an_smtpd_that_logs_another_zone_is_put_beside_the_other_programs() {
    let report = report("two_zones.log");
    assert_eq!(span(&report), 10_000, "{report:#}");
    assert_eq!(report["lengths"][0]["needed_threshold"], 2);
    assert!(report["troubles"][0].as_str().unwrap().contains("write another zone"), "{report:#}");
}

#[test]
fn a_late_line_of_one_host_moves_no_line_of_another() {
    let report = report("one_late_line_iso.log");
    assert_eq!((span(&report), &report["lengths"][0]["needed_threshold"]), (10_000, &2.into()), "{report:#}");
}

#[test]
fn a_log_with_the_newest_line_first_is_turned_around() {
    let report = report("newest_first.log");
    let numbers = (&report["sums"]["sessions"], &report["sums"]["asked"], &report["senders"]);
    assert_eq!(numbers, (&1.into(), &1.into(), &1.into()), "{report:#}");
}

#[test]
fn a_gap_of_more_than_half_a_year_keeps_the_year() {
    let report = report("gap.log");
    assert!(report["from"].as_str().unwrap().contains("-01-05T10:00:00"), "{report:#}");
    assert!(report["to"].as_str().unwrap().contains("-11-20T10:00:00"), "{report:#}");
    assert!(report["troubles"].to_string().contains("more than half a year after the line before"), "{report:#}");
}

#[test]
fn a_newer_log_before_an_older_one_on_one_stream_is_told_with_an_exit_code() {
    let log = |day: u32| {
        (0..50)
            .map(|n| format!("Nov {day} 09:00:{n:02} mx postfix/smtpd[1]: 4B{n}: client=a[192.0.2.1]\n"))
            .collect::<String>()
    };
    let dir = Dir::new();
    let path = dir.write("mail.log", &(log(21) + &log(14)));
    let output = run(&[&path]);
    assert_eq!(output.status.code(), Some(65), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("older lines follow newer ones"), "{output:?}");
    // As files of their own they are read in their order.
    let (newer, older) = (dir.write("a", &log(21)), dir.write("b", &log(14)));
    let output = run(&[&newer, &older]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn a_bad_file_does_not_stop_the_others() {
    let dir = Dir::new();
    let good = case("transport_name.log");
    let strange = dir.write("strange.log", "what?\n");
    let directory = dir.join("logs");
    std::fs::create_dir(&directory).unwrap();
    dir.write("logs/mail.log.1", "");
    for (bad, code, said, lines) in [
        (dir.join("absent"), 66, "absent: No such file", 6),
        (directory, 66, "name the files in it, as in mail.log.1", 6),
        (strange, 65, "no line of it is understood; the first: \"what?\"", 7),
        (good.clone(), 0, "named twice, read once", 6),
    ] {
        let output = run(&[&good, &bad]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(said), "{output:?}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["senders"], &report["lines"]["all"]), (&1.into(), &lines.into()), "{said}");
    }
}

/// Milliseconds from the first to the last session.
fn span(report: &Value) -> i64 {
    let time = |name: &str| report[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_millisecond();
    time("to") - time("from")
}

fn report(log: &str) -> Value {
    let output = advise(log);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn advise(log: &str) -> Output {
    run(&[&case(log)])
}

fn case(log: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/logs").join(log)
}

fn run(logs: &[&Path]) -> Output {
    let options = ["--json", "--seen", "rcpt", "--mynetworks", "127.0.0.0/8,::1/128", "--timezone", "UTC"];
    command().arg("advise").args(options).args(logs).output().unwrap()
}

#[test]
fn a_service_whose_clients_all_log_in_is_a_submission_service() {
    let mut log = String::new();
    for n in 10..40 {
        log += &format!("Nov  1 09:05:{n} mx users/smtpd[7]: connect from a[198.51.100.7]\n");
        log += &format!("Nov  1 09:05:{n} mx users/smtpd[7]: 4Bc{n}Z: client=a[198.51.100.7], sasl_method=PLAIN, ");
        log +=
            &format!("sasl_username=u\nNov  1 09:05:{n} mx users/smtpd[7]: disconnect from a[198.51.100.7] rcpt=1\n");
    }
    log += "Nov  1 09:06:00 mx users/smtpd[7]: connect from b[198.51.100.9]\n";
    log += "Nov  1 09:06:00 mx users/smtpd[7]: NOQUEUE: reject: RCPT from b[198.51.100.9]: 554 5.7.1 no; from=<x>\n";
    let dir = Dir::new();
    let file = dir.write("mail.log", &log);
    let asked = |output: Output| {
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["sums"]["submission"].clone(), report["sums"]["asked"].clone())
    };
    assert_eq!(asked(run(&[&file])), (31.into(), 0.into()));
    // One message without a login, and it is the service that anybody uses.
    let other = log.replacen(", sasl_method=PLAIN, sasl_username=u", "", 1);
    assert_eq!(asked(run(&[&dir.write("other.log", &other)])), (0.into(), 2.into()));
}

#[test]
fn a_service_is_one_of_submission_because_the_command_line_or_master_cf_says_so() {
    // The service has a syslog_name of its own, port 25 has none; one message of a local host has no login.
    let mut log = "Nov  1 09:05:00 mx postfix/smtpd[6]: connect from b[198.51.100.9]\n\
                   Nov  1 09:05:00 mx postfix/smtpd[6]: 4Bb1Z: client=b[198.51.100.9]\n\
                   Nov  1 09:05:00 mx postfix/smtpd[6]: disconnect from b[198.51.100.9] rcpt=1\n"
        .to_owned();
    for (n, login) in [(1, ", sasl_method=PLAIN, sasl_username=u"), (2, "")] {
        log += &format!("Nov  1 09:05:0{n} mx staff/smtpd[7]: connect from a[198.51.100.7]\n");
        log += &format!("Nov  1 09:05:0{n} mx staff/smtpd[7]: 4Bc{n}Z: client=a[198.51.100.7]{login}\n");
        log += &format!("Nov  1 09:05:0{n} mx staff/smtpd[7]: disconnect from a[198.51.100.7] rcpt=1\n");
    }
    let dir = Dir::new();
    let file = dir.write("mail.log", &log);
    std::fs::create_dir(dir.join("etc")).unwrap();
    dir.write_main_cf("etc/main.cf", "");
    let sums = |options: &[&str], master_cf: &str| {
        dir.write("etc/master.cf", master_cf);
        let mut command = command();
        command.env("MAIL_CONFIG", dir.join("etc")).args(["advise", "--json", "--timezone", "UTC"]);
        let output = command.args(options).arg(&file).output().unwrap();
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let sums = &report["sums"];
        [&sums["submission"], &sums["asked"], &sums["authenticated"]].map(|count| count.as_u64().unwrap())
    };
    let smtp = "smtp inet n - n - - smtpd\n";
    let service =
        |port: &str, option: &str| format!("{smtp}{port} inet n - n - - smtpd -o syslog_name=staff {option}\n");
    let (as_port_25, as_submission) = ([0, 2, 1], [2, 1, 0]);
    assert_eq!(sums(&[], smtp), as_port_25);
    assert_eq!(sums(&[], &service("2525", "")), as_port_25);
    for name in ["staff", "staff/smtpd", "other,staff"] {
        assert_eq!(sums(&["--submission", name], smtp), as_submission, "{name}");
    }
    assert_eq!(sums(&[], &service("submission", "")), as_submission);
    let logins = "-o smtpd_relay_restrictions=permit_sasl_authenticated,reject";
    assert_eq!(sums(&[], &service("2525", logins)), as_submission);
    // What the option names comes on top.
    assert_eq!(sums(&["--submission", "other"], &service("587", "")), as_submission);
}

#[test]
fn the_same_lines_in_two_files_count_once() {
    use std::process::Command;
    let entries = super::advise_forms::entries();
    let log: String =
        entries.iter().map(|entry| super::advise_forms::write(super::advise_forms::PLAIN, entry)).collect();
    let dir = Dir::new();
    let file = dir.write("mail.log", &log);
    // A part of them, from the middle on, as an info file that was rotated at another time.
    let middle = log[..log.len() / 2].rfind('\n').unwrap() + 1;
    let half = dir.write("mail.info", &log[middle..]);
    let copy = dir.write("mail.log.copy", &log);
    assert!(Command::new("gzip").arg(&copy).status().unwrap().success());
    let copy = copy.with_extension("copy.gz");
    let report = |output: Output| serde_json::from_slice::<Value>(&output.stdout).unwrap();
    let expected = super::advise_forms::numbers(&report(run(&[&file])));
    for logs in [[&*file, &*copy], [&*copy, &*file], [&*file, &*half], [&*half, &*file], [&*file, &*file]] {
        let output = run(&logs);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("they count once") || said.contains("named twice"), "{logs:?}: {said}");
        assert_eq!(super::advise_forms::numbers(&report(output)), expected, "{logs:?}");
    }
}

#[test]
fn a_log_of_another_server_is_named_as_that() {
    let exim = "2026-11-01 09:05:07 1t6nXa-0001Ab-2C <= a@example.org H=mx [192.0.2.1] P=esmtp S=9\n";
    let sendmail = "Nov  1 09:05:07 mx sm-mta[12]: 4A1957X1000012: from=<a@example.org>, size=9, relay=x [192.0.2.1]\n";
    let smtpd = "Nov  1 09:05:07 mx smtpd[12]: 3e smtp connected address=192.0.2.1 host=x\n";
    for (text, name) in [(exim, "Exim"), (sendmail, "Sendmail"), (smtpd, "OpenSMTPD")] {
        let dir = Dir::new();
        let output = run(&[&dir.write("mail.log", &text.repeat(3))]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(&format!("mail.log: a log of {name}")), "{said}");
        assert_eq!(output.status.code(), Some(65), "{said}");
    }
}

#[test]
fn a_text_in_utf_16_is_refused_with_the_way_out() {
    let dir = Dir::new();
    let line = "\u{feff}Nov  1 09:05:07 mx postfix/smtpd[1]: connect from a[192.0.2.1]\n";
    let path = dir.join("mail.log");
    std::fs::write(&path, line.repeat(3).encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let output = run(&[&path]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("mail.log: a text in UTF-16; convert it first, as with iconv"), "{said}");
    assert_eq!(output.status.code(), Some(65), "{said}");
}

#[test]
fn standard_input_has_one_name_wherever_it_is_told() {
    let run = |log: &str| {
        let mut command = command();
        command.args(["advise", "--seen", "rcpt", "--mynetworks", "192.0.2.0/24", "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(log.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap())
    };
    let [report, _] = run("Nov  1 09:05:07 mx postfix/smtpd[1]: connect from a[198.51.100.7]\n");
    assert!(report.contains(" of standard input in "), "{report}");
    for (log, why) in [("", "no line of a log in it"), ("what?\n", "no line of it is understood")] {
        let [_, said] = run(log);
        assert!(said.contains(&format!("connshaper: standard input: {why}")), "{said}");
    }
    let [report, _] = run("what?\n");
    assert!(report.contains(" of standard input in "), "{report}");
}

#[test]
fn every_log_that_adds_nothing_is_named() {
    let dir = Dir::new();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let output = run(&[&one, &two]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/one: No such file") && said.contains("/two: No such file"), "{said}");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(66), 0), "{said}");
    // A text without any time has lines, and they are counted as that.
    let output = run(&[&dir.write("notes", "hello\nworld\n"), &one]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("/notes: no line of it is understood") && said.contains("/one: No such file"), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["lines"]["not_understood"], 2, "{report:#}");
}

#[test]
fn what_is_doubtful_is_said_with_its_line() {
    let output = run(&[&case("two_zones.log")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("2 programs write another zone than the first one, from lines 3 and 4 on, as by 60 minutes;"),
        "{said}"
    );
    // An empty line counts as one.
    let late = "2026-11-01T09:05:00Z mx postfix/smtpd[1]: connect from a[192.0.2.1]\n\n\
                2026-11-01T08:05:00Z mx postfix/smtpd[1]: connect from b[192.0.2.2]\n\
                2026-11-01T09:06:00Z mx postfix/smtpd[1]: connect from c[192.0.2.3]\n";
    let output = run(&[&Dir::new().write("mail.log", late)]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("mail.log: line 3: late, by up to 60 minutes;"), "{said}");
}

#[test]
fn a_repeated_message_counts_as_often_as_it_says() {
    let said = |message: &str| format!("Nov  1 09:05:00 mx postfix/smtpd[1]: {message}\n");
    let client = "a[192.0.2.1]";
    let (connect, end) = (format!("connect from {client}"), format!("disconnect from {client} rcpt=1"));
    let once = said(&connect) + &said(&end);
    let repeated = said(&connect) + &said(&format!("message repeated 3 times: [ {connect}]")) + &said(&end);
    let dir = Dir::new();
    for (name, log, sessions) in [("once", &once, 1), ("repeated", &repeated, 4)] {
        let report: Value = serde_json::from_slice(&run(&[&dir.write(name, log)]).stdout).unwrap();
        assert_eq!(report["sums"]["sessions"], sessions, "{report:#}");
    }
}

#[test]
fn a_unit_may_stand_in_place_of_the_program() {
    let log = "Sun 2026-11-01 09:05:00 UTC mx postfix@-.service[1]: connect from a[192.0.2.1]\n\
               Sun 2026-11-01 09:05:01 UTC mx postfix@-.service[1]: 4Bc1Z: client=a[192.0.2.1]\n\
               Sun 2026-11-01 09:05:02 UTC mx postfix@-.service[1]: disconnect from a[192.0.2.1] rcpt=1\n";
    let report: Value = serde_json::from_slice(&run(&[&Dir::new().write("mail.log", log)]).stdout).unwrap();
    assert_eq!((&report["sums"]["sessions"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{report:#}");
}
