//! `connshaper advise`, from the outside: logs in, numbers out.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Dir, Postfix, command, traffic};

#[test]
fn the_recommendation_separates_the_senders_from_the_bots() {
    let dir = Dir::new();
    let log = dir.join("mail.log");
    traffic::write(&mut fs::File::create(&log).unwrap(), 150_000, 7).unwrap();
    let report = json(&["--mynetworks", traffic::MYNETWORKS], &[&log]);
    let best = &report["recommended"];
    assert_eq!(best["masked"]["refused_senders"], 0);
    assert!(best["masked"]["refused_sessions"].as_u64().unwrap() * 10 > report["sessions"].as_u64().unwrap(), "{best}");
    let length = the(&report["lengths"], |length| length["exptime"] == best["exptime"]);
    let threshold = best["threshold"].as_u64().unwrap();
    let kinds = |clients: &Value, is_over: bool| -> Vec<&str> {
        let clients = clients.as_array().unwrap().iter();
        let clients = clients.filter(|client| (client["peak"].as_u64().unwrap() > threshold) == is_over);
        clients.map(|client| traffic::kind(client["address"].as_str().unwrap())).collect()
    };
    assert_eq!(kinds(&length["senders"], true), [""; 0]);
    assert!(kinds(&length["senders"], false).contains(&"heavy"));
    let refused = kinds(&length["others"], true);
    assert!(
        !refused.is_empty() && refused.iter().all(|kind| ["hammer", "dictionary", "rotator"].contains(kind)),
        "{refused:?}"
    );
    assert_eq!(report["senders"].as_u64().unwrap(), senders(&log));
}

/// Counts the clients of a generated log that delivered mail, independently of the program.
fn senders(log: &Path) -> u64 {
    let text = fs::read_to_string(log).unwrap();
    let queued: std::collections::HashMap<&str, &str> = text
        .lines()
        .filter(|line| line.contains(" postfix/smtpd["))
        .filter_map(|line| {
            line.split_once(": client=").map(|(before, client)| (before.rsplit(' ').next().unwrap(), client))
        })
        .collect();
    let sent = text
        .lines()
        .filter(|line| line.contains("(queue active)"))
        .filter_map(|line| queued.get(line.split(": ").nth(1)?));
    let clients = sent.filter_map(|client| {
        let address = client.split(['[', ']']).nth(1)?;
        let network = address.split_once("::").map_or(address, |(network, _)| network);
        (!address.starts_with("192.0.2.")).then_some(network)
    });
    clients.collect::<std::collections::HashSet<_>>().len() as u64
}

#[test]
fn candidates_are_counted_as_the_daemon_counts() {
    let dir = Dir::new();
    let log = dir.write("mail.log", &sessions(&[(0, "a"), (10, "a"), (59, "a"), (60, "a"), (61, "b")]));
    let report = json(&["--threshold", "1,2,3", "--exptime", "60,10m"], &[&log]);
    let refused = |exptime: u64, threshold: u64| {
        let candidate = the(&report["candidates"], |it| it["exptime"] == exptime && it["threshold"] == threshold);
        (
            candidate["masked"]["refused_sessions"].as_u64().unwrap(),
            candidate["masked"]["refused_clients"].as_u64().unwrap(),
        )
    };
    // A session in the second in which the window ends may be the fourth of the window.
    assert_eq!([refused(60, 1), refused(60, 2), refused(60, 3)], [(2, 1), (1, 1), (0, 1)]);
    assert_eq!([refused(600, 1), refused(600, 2), refused(600, 3)], [(3, 1), (2, 1), (1, 1)]);
}

#[test]
fn a_sender_once_a_minute_needs_two_in_a_minute_where_stamps_are_whole_seconds() {
    let report =
        json(&["--exptime", "1m", "--mynetworks", "127.0.0.0/8"], &["tests/it/logs/whole_seconds.log".as_ref()]);
    let best = &report["recommended"];
    assert_eq!((&best["exptime"], &best["threshold"]), (&60.into(), &2.into()), "{report:#}");
    assert_eq!(best["masked"]["refused_senders"], 0);
    assert_eq!(report["lengths"][0]["senders"][0]["peak"], 2);
}

#[test]
fn a_window_is_over_when_exptime_is_over() {
    let dir = Dir::new();
    let config = dir.write("connshaper.toml", "threshold = 1\nexptime = 60\n");
    // The client connects again 60.08 s after its first connection.
    let options = ["--seen", "connect", "--mynetworks", "127.0.0.0/8", "--threshold", "1", "--exptime", "60", "-c"];
    let options = [&options[..], &[text(&config)]].concat();
    let report = json(&options, &["tests/it/logs/window_edge.log".as_ref()]);
    let candidate = the(&report["candidates"], |it| it["threshold"] == 1);
    assert_eq!(
        (&candidate["masked"]["refused_sessions"], &candidate["masked"]["refused_clients"]),
        (&0.into(), &0.into())
    );
    assert_eq!((&report["sums"]["asked"], &report["config"]["refused_questions"]), (&3.into(), &0.into()));
}

#[test]
fn a_configuration_judges_as_the_candidate_with_its_numbers() {
    let dir = Dir::new();
    let log = dir.join("mail.log");
    traffic::write(&mut fs::File::create(&log).unwrap(), 40_000, 3).unwrap();
    let config = dir.write("connshaper.toml", "threshold = 8\nexptime = \"2m\"\nwhitelist = [\"198.100.0.0/24\"]\n");
    let verdicts = dir.join("verdicts");
    let options = ["--threshold", "8", "--exptime", "2m", "-c", text(&config), "--verdicts", text(&verdicts)];
    let report = json(&[&["--mynetworks", traffic::MYNETWORKS][..], &options].concat(), &[&log]);
    let candidate = the(&report["candidates"], |it| it["threshold"] == 8);
    assert!(candidate["masked"]["refused_sessions"].as_u64().unwrap() > 100, "{candidate}");
    assert_eq!(report["config"]["refused_questions"], candidate["masked"]["refused_sessions"]);
    let whitelisted = the(&report["config"]["verdicts"], |it| it["reason"] == "whitelisted");
    let exempt = whitelisted["questions"].as_u64().unwrap();
    assert!(exempt > 10);
    assert_eq!(report["sessions"].as_u64().unwrap() + exempt, report["sums"]["asked"].as_u64().unwrap());
    let written = fs::read_to_string(verdicts).unwrap();
    assert_eq!(written.lines().count() as u64, report["sums"]["asked"].as_u64().unwrap());
    let refused = written.lines().filter(|line| line.ends_with(" DEFER_IF_PERMIT")).count() as u64;
    assert_eq!(refused, report["config"]["refused_questions"].as_u64().unwrap());
}

#[test]
fn a_limit_on_messages_counts_every_message_of_a_session() {
    let dir = Dir::new();
    let client = "a.example.net[198.51.100.7]";
    let mut log = String::new();
    for session in 0..2 {
        log += &format!("Nov 21 09:00:0{session} mx postfix/smtpd[7]: connect from {client}\n");
        for message in 0..3 {
            log += &format!("Nov 21 09:00:0{session} mx postfix/smtpd[7]: 4B{session}{message}: client={client}\n");
        }
        log += &format!("Nov 21 09:00:0{session} mx postfix/smtpd[7]: disconnect from {client} mail=3 rcpt=3 data=3\n");
    }
    let log = dir.write("mail.log", &log);
    let config =
        "threshold = 1\nlog_only = false\n[limit.messages]\ncount = \"messages\"\nthreshold = 4\nexptime = 60\n";
    let config = dir.write("connshaper.toml", config);
    let report = json(&["-c", text(&config)], &[&log]);
    let verdicts = report["config"]["verdicts"].as_array().unwrap();
    let count = |reason: &str| {
        let found = verdicts.iter().find(|it| it["reason"] == reason);
        found.map_or(0, |it| it["questions"].as_u64().unwrap())
    };
    // The second session is over the connection limit, its second message over the other, too: the first limit decides.
    assert_eq!((count("within_limits"), count("connections"), count("messages")), (3, 3, 0), "{verdicts:?}");
    let config =
        dir.write("connshaper.toml", &fs::read_to_string(config).unwrap().replace("threshold = 1", "threshold = 9"));
    let report = json(&["-c", text(&config)], &[&log]);
    let messages = the(&report["config"]["verdicts"], |it| it["reason"] == "messages");
    assert_eq!(messages["questions"], 2);
}

#[test]
fn rotated_logs_in_any_order_and_compression_are_read_as_one() {
    let dir = Dir::new();
    let whole = dir.join("whole");
    traffic::write(&mut fs::File::create(&whole).unwrap(), 20_000, 5).unwrap();
    let text = fs::read(&whole).unwrap();
    let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
    let mut parts = Vec::new();
    let packers = ["cat", "gzip -c", "bzip2 -c", "zstd -c", "xz -c", "lzma -c", "lz4 -c", "zip -q -j -"];
    let length = lines.len().div_ceil(packers.len());
    for (part, packer) in packers.iter().enumerate() {
        let path = dir.join(format!("mail.log.{part}"));
        fs::write(&path, lines[part * length..lines.len().min((part + 1) * length)].concat()).unwrap();
        // Packed on standard output, so the file name does not show the compression.
        let (program, options) = packer.split_once(' ').unwrap_or((packer, ""));
        let packed = Command::new(program).args(options.split_whitespace()).arg(&path).output();
        let packed = packed.unwrap_or_else(|error| panic!("{program} (is it installed?): {error}"));
        assert!(packed.status.success(), "{packer}: {packed:?}");
        fs::write(&path, packed.stdout).unwrap();
        parts.push(path);
    }
    parts.rotate_left(2);
    let parts: Vec<&Path> = parts.iter().map(|path| path.as_path()).collect();
    let (one, many) = (json(&[], &[&whole]), json(&[], &parts));
    assert_eq!(one["logs"].as_array().unwrap().len(), 1);
    let order: Vec<String> =
        (0..packers.len()).map(|part| dir.join(format!("mail.log.{part}")).display().to_string()).collect();
    assert_eq!(many["logs"], serde_json::json!(order));
    for key in ["lines", "sums", "candidates", "lengths", "from", "to"] {
        assert_eq!(one[key], many[key], "{key}");
    }
}

#[test]
fn logs_of_two_hosts_of_the_same_time_are_merged_by_time() {
    let dir = Dir::new();
    let a = dir.write("a", &sessions(&[(0, "a"), (100, "a"), (200, "a")]));
    let b = dir.write("b", &sessions(&[(20, "a"), (30, "a"), (210, "a")]).replace(" mx ", " mx2 "));
    let report = json(&["--threshold", "2", "--exptime", "60"], &[&a, &b]);
    let candidate = the(&report["candidates"], |it| it["threshold"] == 2);
    assert_eq!(candidate["masked"]["refused_sessions"], 1);
}

#[test]
fn standard_input_is_read_and_every_log_format_gives_the_same_report() {
    let seconds = [0, 5, 70, 71, 72];
    let said = |second: i64, line: &str| {
        let (minute, second) = (second / 60, second % 60);
        let message = "NOQUEUE: reject: RCPT from unknown[198.51.100.7]: 450 4.7.1 no";
        let micros = (1_793_523_600 + minute * 60 + second) * 1_000_000;
        line.replace("MIN", &format!("{minute:02}"))
            .replace("SEC", &format!("{second:02}"))
            .replace("MICROS", &micros.to_string())
            .replace("SAID", message)
    };
    for line in [
        "Nov  1 09:MIN:SEC mx postfix/smtpd[SEC1]: SAID",
        "Nov 01 09:MIN:SEC mx postfix-in/smtpd[SEC1]: SAID",
        "2026-11-01T10:MIN:SEC.123456+01:00 mx postfix/smtpd[SEC1]: SAID",
        "2026-11-01T09:MIN:SEC+0000 mx postfix/smtpd[SEC1]: SAID",
        "<22>1 2026-11-01T09:MIN:SEC.5Z mx postfix/smtpd SEC1 - - SAID",
        r#"{"__REALTIME_TIMESTAMP":"MICROS","_HOSTNAME":"mx","SYSLOG_IDENTIFIER":"postfix/smtpd","_PID":"SEC1","MESSAGE":"SAID"}"#,
    ] {
        let log: String = seconds.iter().map(|second| said(*second, line) + "\n").collect();
        let output = advise(&["--json", "--threshold", "1,2", "--exptime", "60"], &["-".as_ref()], log.as_bytes());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{line}: {output:?}"));
        assert_eq!(report["sums"]["asked"], 5, "{line}");
        let refused: Vec<&Value> =
            report["candidates"].as_array().unwrap().iter().map(|it| &it["masked"]["refused_sessions"]).collect();
        assert_eq!(refused, [3, 1], "{line}");
    }
}

#[test]
fn a_log_of_a_real_postfix_is_understood() {
    let postfix = Postfix::start("");
    for client in ["127.0.0.2", "127.0.0.2", "127.0.0.3"] {
        let mut smtp = postfix.client(client);
        smtp.ehlo();
        smtp.deliver(2);
        smtp.quit();
    }
    let mut refused = postfix.client("127.0.0.4");
    refused.ehlo();
    refused.mail();
    assert_eq!(refused.command("RCPT TO:<a@example.com>").code, 554);
    refused.quit();
    postfix.client("127.0.0.5").quit();
    postfix.lines().wait_for_more("disconnect from", 4);
    postfix.lines().wait_for_more(": removed", 2);
    let log = postfix.lines().with("").join("\n");
    let seen = |stage: &str| {
        let options = ["--json", "--seen", stage, "--mynetworks", "192.0.2.0/24", "--threshold", "1"];
        let output = advise(&options, &["-".as_ref()], log.as_bytes());
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let report = seen("rcpt");
    assert_eq!(report["lines"]["not_understood"], 0, "{log}");
    let sums = &report["sums"];
    assert_eq!(
        (&sums["sessions"], &sums["asked"], &sums["without_recipient"]),
        (&5.into(), &4.into(), &1.into()),
        "{log}"
    );
    assert_eq!((&report["clients"], &sums["discarded_messages"]), (&3.into(), &3.into()), "{log}");
    assert_eq!(report["candidates"][0]["masked"]["refused_sessions"], 1);
    assert_eq!(seen("connect")["sums"]["asked"], 5);
}

#[test]
fn options_not_given_are_read_from_postconf() {
    let dir = Dir::new();
    let log = dir.write("mail.log", &sessions(&[(0, "a"), (1, "b"), (2, "b")]));
    fs::create_dir(dir.join("etc")).unwrap();
    dir.write_main_cf("etc/main.cf", "smtpd_delay_reject = no\nmynetworks = 198.51.100.97 hash:/etc/nets\n");
    let report = |service: &str| -> Value {
        dir.write("etc/master.cf", service);
        let mut command = command();
        command.env("MAIL_CONFIG", dir.join("etc")).args(["advise", "--json"]).arg(&log);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap()
    };
    let main_cf = report("smtp inet n - n - - smtpd\n");
    assert_eq!(
        (&main_cf["seen"], &main_cf["sums"]["mynetworks"], &main_cf["sums"]["asked"]),
        (&"connect".into(), &1.into(), &2.into())
    );
    for note in [
        "smtpd_delay_reject = no, as postconf says",
        "mynetworks = 198.51.100.97/32,",
        "not read of mynetworks: hash:/etc/nets",
    ] {
        assert!(main_cf["notes"].to_string().contains(note), "{note}: {main_cf}");
    }
    let service = report("smtp inet n - n - - smtpd\n    -o smtpd_delay_reject=yes\n");
    assert_eq!(service["seen"], "rcpt");
}

#[test]
fn control_characters_and_markup_from_a_log_are_escaped_in_text_and_page() {
    let dir = Dir::new();
    let mut log = sessions(&[(0, "evil</script><b>\x1b]0;x\x07"), (1, "evil</script><b>\x1b]0;x\x07")]);
    log += "Nov 21 09:00:09 mx postfix/smtpd[1]: connect from \x1b]0;x\x07[198.51.100.9]\n\x1b[31m\n";
    let (log, page) = (dir.write("mail.log", &log), dir.join("page.html"));
    let output = advise(&["--html", text(&page)], &[&log], b"");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("evil??script??b???0?x?") && !said.contains('\x1b'), "{said}");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("evil??script??b???0?x?") && !page.contains('\x1b'));
    assert_eq!(page.matches("</script").count(), 1);
}

#[test]
fn csv_output_has_one_line_per_candidate() {
    let dir = Dir::new();
    let log = dir.write("mail.log", &sessions(&[(0, "a"), (1, "a"), (2, "b")]));
    let output = advise(&["--csv", "--threshold", "1,7", "--exptime", "1m"], &[&log], b"");
    let rows: Vec<Vec<String>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split(',').map(str::to_owned).collect())
        .collect();
    assert_eq!(rows[0][..3], ["exptime", "threshold", "recommended"]);
    assert_eq!(
        rows[1..],
        [
            ["60", "1", "no", "3", "1", "1", "1", "1", "1", "1"],
            ["60", "2", "yes", "3", "0", "0", "0", "0", "0", "0"],
            ["60", "7", "no", "3", "0", "0", "0", "0", "0", "0"],
        ]
    );
}

#[test]
fn wrong_input_is_explained_and_sets_a_sysexits_code() {
    let dir = Dir::new();
    let log = dir.write("mail.log", &sessions(&[(0, "a")]));
    let config = dir.write("wrong.toml", "treshold = 3\n");
    let empty = dir.write("empty", "");
    let nowhere = dir.join("no/page.html");
    for (options, log, code, said) in [
        (&["--exptime", "0"][..], log.as_path(), 64, "write a time from 1s to 365d"),
        (&["--threshold", "0"], &log, 64, "0 is not in 1..=65534"),
        (&["--timezone", "Mars/Olympus"], &log, 64, "there is no such zone"),
        (&["--mynetworks", "x"], &log, 64, "x cannot be read; write a network or an address"),
        (&["--verdicts", "x"], &log, 64, "--config"),
        (&[], &dir.join("absent"), 66, "absent: No such file"),
        (&[], &empty, 66, "no line of a log in it"),
        (&["--html", text(&nowhere)], &log, 73, "page.html: cannot be written: No such file"),
        (&["-c", text(&config)], &log, 78, "did you mean `threshold`?"),
    ] {
        let output = advise(options, &[log], b"");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{options:?}: {error}");
        assert!(error.contains(said), "{options:?}: {error}");
    }
}

#[test]
fn a_truncated_compressed_log_is_reported_and_its_beginning_used() {
    let dir = Dir::new();
    let plain = dir.write("mail.log", &sessions(&(0..2_000).map(|n| (n, "a")).collect::<Vec<_>>()));
    let packed = Command::new("gzip").arg("-c").arg(&plain).output().unwrap().stdout;
    let cut = dir.join("mail.log.1.gz");
    fs::write(&cut, &packed[..packed.len() - 20]).unwrap();
    let output = advise(&["--json"], &[&cut], b"");
    assert_eq!(output.status.code(), Some(65));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("mail.log.1.gz: "), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["sums"]["asked"].as_u64().unwrap() > 100, "{report}");
}

/// A log of sessions at these seconds after 09:00; each delivers a message. A client `a` is
/// `a.example.net` at an address made of its first letter.
fn sessions(sessions: &[(u64, &str)]) -> String {
    let mut log = String::new();
    for (number, (second, name)) in sessions.iter().enumerate() {
        let time = format!("Nov 21 {:02}:{:02}:{:02} mx postfix", 9 + second / 3600, second / 60 % 60, second % 60);
        let client = format!("{name}.example.net[198.51.100.{}]", name.as_bytes()[0]);
        log += &format!("{time}/smtpd[{number}]: connect from {client}\n");
        log += &format!("{time}/smtpd[{number}]: 4B{number:X}: client={client}\n");
        log += &format!("{time}/qmgr[9]: 4B{number:X}: from=<a@b>, size=9, nrcpt=1 (queue active)\n");
        log += &format!(
            "{time}/smtpd[{number}]: disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5\n"
        );
    }
    log
}

/// The report for a site whose Postfix queries at RCPT TO and whose clock is UTC.
fn json(options: &[&str], logs: &[&Path]) -> Value {
    let output = advise(&[&["--json"], options].concat(), logs, b"");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn advise(options: &[&str], logs: &[&Path], input: &[u8]) -> Output {
    let has = |name: &str| options.contains(&name);
    let mut command = command();
    command.arg("advise").args(options);
    for (name, value) in [("--seen", "rcpt"), ("--timezone", "UTC"), ("--mynetworks", "192.0.2.0/24")] {
        if !has(name) {
            command.args([name, value]);
        }
    }
    let mut child =
        command.args(logs).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Commands that do not read standard input close it early.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// The only element of a list that meets the condition.
#[track_caller]
fn the(list: &Value, is_it: impl Fn(&Value) -> bool) -> &Value {
    let found: Vec<&Value> = list.as_array().unwrap().iter().filter(|it| is_it(it)).collect();
    assert_eq!(found.len(), 1, "{list:#}");
    found[0]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
