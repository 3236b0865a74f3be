//! Faults of a setup that `connshaper doctor` and the daemon find.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::redis::RIGHTS_WITHOUT_EVAL;
use crate::support::{self, Daemon, Dir, Memcached, Policy, Port, Postfix, Redis, Sentinel, Sqlite, command};

/// The findings of doctor for a main.cf, with its exit code.
fn examined(main_cf: &str, config: &str, dir: &Dir) -> (Vec<String>, i32) {
    examined_with(main_cf, "smtp inet n - n - - smtpd\n", config, dir)
}

fn examined_with(main_cf: &str, master_cf: &str, config: &str, dir: &Dir) -> (Vec<String>, i32) {
    dir.write_main_cf("main.cf", &format!("compatibility_level = 3.6\nmail_owner = postfix\n{main_cf}\n"));
    dir.write("master.cf", master_cf);
    let config = dir.write("doctor.toml", config);
    let mut doctor = command();
    doctor.args(["doctor", "--json", "-c"]).arg(config).env("MAIL_CONFIG", dir.path());
    let output = doctor.output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let finding =
        |finding: &Value| format!("{}: {}", finding["state"].as_str().unwrap(), finding["what"].as_str().unwrap());
    (said["findings"].as_array().unwrap().iter().map(finding).collect(), output.status.code().unwrap())
}

fn has(findings: &[String], beginning: &str) -> bool {
    findings.iter().any(|finding| finding.starts_with(beginning))
}

/// Whether a store answers. It is called doubtful only where a busy machine is slow to do so.
fn is_near(findings: &[String], found: &str) -> bool {
    let away = |finding: &&String| finding.contains(found) && finding.contains(" answers in ");
    findings.iter().any(|finding| away(&finding) && !finding.starts_with("wrong"))
}

#[test]
fn doctor_finds_nothing_wrong_in_a_correct_setup() {
    let (dir, memcached) = (Dir::new(), Memcached::start());
    let endpoint = format!("unix:{}", dir.join("policy").display());
    let config = format!(
        "listen = \"{endpoint}\"\nmemcached_server = \"{}\"\nsocket_group = \"postfix\"\ncontrol_socket = {:?}",
        memcached.server(),
        dir.join("control")
    );
    let daemon = Daemon::start_at(&endpoint, &config);
    let main_cf = format!(
        "smtpd_client_restrictions = permit_mynetworks, check_policy_service {{ {endpoint}, timeout=10s, default_action=DUNNO }}"
    );
    let (findings, code) = examined(&main_cf, &config, &dir);
    assert_eq!(code, 0, "{findings:#?}");
    // A busy machine may be slow to answer.
    let is_right = |finding: &String| finding.starts_with("right: ") || finding.contains(" answers in ");
    assert!(findings.iter().all(is_right), "{findings:#?}");
    for beginning in [
        format!("right: smtpd_client_restrictions asks {endpoint}"),
        format!("right: a request to {endpoint} is answered DUNNO in "),
        format!("right: {} is open to postfix", dir.join("policy").display()),
        "right: the control socket ".to_owned(),
    ] {
        assert!(has(&findings, &beginning), "{beginning} in {findings:#?}");
    }
    // The check counted no client.
    drop(daemon);
    assert_eq!(memcached.value("connshaper:unknown"), None);
}

#[test]
fn doctor_names_each_fault() {
    let (dir, port) = (Dir::new(), Port::new());
    let main_cf = format!("smtpd_data_restrictions = check_policy_service {}", port.endpoint());
    let (findings, code) = examined(&main_cf, &format!("memcached_server = \"{}\"", Port::new().address()), &dir);
    assert_eq!(code, 1);
    for beginning in [
        "wrong: limit connections counts only clients that already had a recipient accepted".to_owned(),
        "doubtful: smtpd_data_restrictions has no default_action".to_owned(),
        "doubtful: smtpd_data_restrictions has no permit_mynetworks".to_owned(),
        format!("wrong: a request to {} is not answered", port.endpoint()),
        "wrong: memcached at ".to_owned(),
    ] {
        assert!(has(&findings, &beginning), "{beginning} in {findings:#?}");
    }
    let (findings, code) = examined("", "", &dir);
    assert!(code == 1 && has(&findings, "wrong: Postfix asks no policy service"), "{findings:#?}");
}

#[test]
fn doctor_says_of_each_limit_whether_postfix_can_ask_about_it() {
    let dir = Dir::new();
    let service = "check_policy_service { inet:127.0.0.1:9, default_action=DUNNO }";
    let login = "count = \"messages\"\nper = \"sasl_username\"";
    let limits = format!(
        "[limit.users]\nthreshold = 5\n{login}\n[limit.volume]\nthreshold = \"1MB\"\ncount = \"bytes\"\nper = \"sasl_username\"\n"
    );
    // Users are permitted before the service; bytes are asked about nowhere.
    let dead = format!("smtpd_recipient_restrictions = permit_sasl_authenticated, {service}");
    let (findings, code) = examined(&dead, &limits, &dir);
    for beginning in [
        "wrong: limit users never counts anything: it is about logins, and smtpd_recipient_restrictions has",
        "wrong: limit volume never counts anything: it needs a request at END-OF-MESSAGE",
        "right: limit connections is asked about at RCPT by smtpd_recipient_restrictions",
    ] {
        assert!(code == 1 && has(&findings, beginning), "{beginning} in {findings:#?}");
    }
    // As a service of master.cf has it, which real postconf reads.
    let submission = format!(
        "smtp inet n - n - - smtpd\nsubmission inet n - n - - smtpd\n  -o {{ smtpd_data_restrictions = {service} }}\n  \
         -o {{ smtpd_end_of_data_restrictions = {service} }}\n"
    );
    let (findings, _) = examined_with(&format!("smtpd_client_restrictions = {service}"), &submission, &limits, &dir);
    for beginning in [
        "right: limit users is asked about at RCPT by smtpd_client_restrictions",
        "right: limit volume is asked about at END-OF-MESSAGE by submission/inet: smtpd_end_of_data_restrictions",
        "right: submission/inet: smtpd_data_restrictions asks inet:127.0.0.1:9",
    ] {
        assert!(has(&findings, beginning), "{beginning} in {findings:#?}");
    }
    assert!(!has(&findings, "wrong: limit"), "{findings:#?}");
    // A site of quotas alone: the limit that every configuration has cannot do its work there.
    let (findings, _) = examined(&format!("smtpd_data_restrictions = {service}"), &limits, &dir);
    assert!(has(&findings, "doubtful: limit connections counts only clients that already had"), "{findings:#?}");
    assert!(has(&findings, "right: limit users is asked about at DATA by smtpd_data_restrictions"), "{findings:#?}");
}

#[test]
fn doctor_compares_what_begins_an_extension_where_a_limit_is_about_mailboxes() {
    let dir = Dir::new();
    let main_cf = |delimiters: &str| {
        let service = "smtpd_client_restrictions = check_policy_service { inet:127.0.0.1:9, default_action=DUNNO }";
        format!("{service}\nrecipient_delimiter = {delimiters}")
    };
    let users = |delimiters: &str| {
        let limit = "[limit.users]\nthreshold = 5\ncount = \"messages\"\nper = \"sender\"\n";
        format!("recipient_delimiter = {delimiters:?}\n{limit}")
    };
    let is =
        |theirs: &str, ours: &str| format!("recipient_delimiter is {theirs} in main.cf and {ours} in connshaper.toml");
    for (theirs, ours, found) in [
        ("+", "+", format!("right: {}", is("\"+\"", "\"+\""))),
        ("-+", "+-", format!("right: {}", is("\"-+\"", "\"+-\""))),
        ("+", "", format!("doubtful: {}: each extension of an address", is("\"+\"", "none"))),
        ("+-", "+", format!("doubtful: {}: each extension of an address", is("\"+-\"", "\"+\""))),
        ("", "+", format!("doubtful: {}: addresses that are several mailboxes", is("none", "\"+\""))),
    ] {
        let (findings, _) = examined(&main_cf(theirs), &users(ours), &dir);
        assert!(has(&findings, &found), "{found} in {findings:#?}");
    }
    for (theirs, config) in [("", users("")), ("+", "threshold = 5\n".to_owned())] {
        let (findings, _) = examined(&main_cf(theirs), &config, &dir);
        assert!(!findings.iter().any(|finding| finding.contains("recipient_delimiter")), "{findings:#?}");
    }
}

#[test]
fn doctor_looks_at_every_instance_of_postfix_that_asks() {
    let (dir, second) = (Dir::new(), Dir::new());
    let queue = second.path().join("queue");
    let main_cf = format!(
        "compatibility_level = 3.6\nmail_owner = postfix\nmulti_instance_name = postfix-in\nqueue_directory = {}\n\
         smtpd_client_restrictions = permit_mynetworks, check_policy_service {{ unix:private/connshaper, default_action=DUNNO }}\n",
        queue.display()
    );
    second.write_main_cf("main.cf", &main_cf);
    second.write("master.cf", "smtp inet n - y - - smtpd\n");
    let first = format!("multi_instance_enable = yes\nmulti_instance_directories = {}", second.path().display());
    let (findings, code) = examined(&first, "", &dir);
    assert!(
        has(&findings, "right: postfix-in: smtpd_client_restrictions asks unix:private/connshaper"),
        "{findings:#?}"
    );
    // The one that asks nobody only sends.
    assert!(!has(&findings, "wrong: Postfix asks no policy service"), "{findings:#?}");
    let socket = format!("wrong: a request to unix:{}/private/connshaper is not answered", queue.display());
    assert!(code == 1 && has(&findings, &socket), "{findings:#?}");
}

#[test]
fn doctor_finds_a_socket_that_smtpd_cannot_open() {
    let dir = Dir::new();
    let path = dir.join("policy");
    let _daemon = Daemon::start_at(format!("unix:{}", path.display()), "");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let (findings, code) =
        examined(&format!("smtpd_client_restrictions = check_policy_service unix:{}", path.display()), "", &dir);
    assert!(code == 1 && has(&findings, &format!("wrong: {} is closed to postfix", path.display())), "{findings:#?}");
}

#[test]
fn the_daemon_logs_once_that_it_is_queried_too_late() {
    let dir = Dir::new();
    let control = dir.join("control");
    let daemon = Daemon::start(&format!("control_socket = {control:?}"));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut ask = |sessions: std::ops::Range<u32>| {
        for number in sessions {
            let client = format!("client_address=198.51.{}.{}", number / 250, number % 250);
            let instance = format!("instance={number:x}.10.0.0");
            policy.ask(&["protocol_state=END-OF-MESSAGE", &client, "client_port=4711", &instance]);
        }
    };
    ask(0..300);
    let line = daemon.lines().wait_for("DIAGNOSIS ");
    assert!(line.contains("asks only when a message comes") && line.contains("smtpd_client_restrictions"), "{line}");
    let status = || {
        let output = command().args(["status", "--socket"]).arg(&control).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(status().contains("warning: Postfix asks only when a message comes"), "{}", status());
    ask(300..600);
    support::until("as many sessions as were begun", || status().contains("600 in all").then_some(()));
    daemon.lines().wait_for("DIAGNOSIS ");
    assert_eq!(daemon.lines().with("DIAGNOSIS ").len(), 1);
}

#[test]
fn the_daemon_logs_duplicate_queries_of_two_restriction_lists() {
    let right = "smtpd_client_restrictions = check_policy_service POLICY\n\
                 smtpd_data_restrictions = check_policy_service POLICY\n\
                 smtpd_end_of_data_restrictions = check_policy_service POLICY";
    let twice = format!("{right}\nsmtpd_recipient_restrictions = check_policy_service POLICY, permit");
    for (main_cf, noticed) in [(right, 0), (&twice, 1)] {
        let mut daemon = Daemon::start("");
        let postfix = Postfix::setup().one_smtpd().main_cf(&main_cf.replace("POLICY", daemon.endpoint())).start();
        for session in 0..210 {
            let mut smtp = postfix.client("127.0.0.2");
            smtp.ehlo();
            // Several messages and recipients; some sessions name a recipient twice in a row.
            smtp.deliver(1 + session % 3);
            smtp.mail().expect(250);
            for _ in 0..=session % 4 / 3 {
                smtp.command("RCPT TO:<twice@example.net>");
            }
            smtp.quit();
        }
        // The diagnosis about local clients is made at the same moment.
        daemon.lines().wait_for("asks about connections from its own host");
        daemon.stop();
        let said = daemon.lines().with("asks the same twice");
        assert_eq!(said.len(), noticed, "{main_cf}: {said:?}");
        assert!(said.iter().all(|line| line.contains("keep check_policy_service in smtpd_client_restrictions")));
    }
}

#[test]
fn doctor_examines_the_file_of_counts() {
    let sqlite = Sqlite::new();
    let config = sqlite.config();
    let examine = || examined("", &config, sqlite.dir());
    let place = sqlite.file().display().to_string();
    assert!(has(&examine().0, &format!("right: {place} is made with the first connection")));
    {
        let daemon = Daemon::start(&format!("{config}store_timeout = \"5s\"\n"));
        Policy::connect(daemon.endpoint()).connected("198.51.100.1", 1);
    }
    let (findings, _) = examine();
    assert!(has(&findings, &format!("right: {place} is whole, with 1 counters")), "{findings:#?}");
    let directory = sqlite.dir().path().display().to_string();
    assert!(findings.iter().any(|finding| finding.contains(&format!("{directory} has "))), "{findings:#?}");
    {
        let _lock = sqlite.lock();
        let (findings, code) = examine();
        assert!(code == 1 && has(&findings, &format!("wrong: {place} has been locked for 2 s")), "{findings:#?}");
    }
    // A page in the middle.
    sqlite.say("PRAGMA wal_checkpoint(TRUNCATE)");
    let mut bytes = fs::read(sqlite.file()).unwrap();
    bytes[3 * 4096..4 * 4096].fill(0xa5);
    fs::write(sqlite.file(), bytes).unwrap();
    let (findings, code) = examine();
    assert!(code == 1 && has(&findings, &format!("wrong: {place} is damaged")), "{findings:#?}");
    fs::write(sqlite.file(), "a text").unwrap();
    let (findings, code) = examine();
    assert!(code == 1 && has(&findings, &format!("wrong: {place} is not used")), "{findings:#?}");
    let elsewhere = format!("sqlite_file = \"{directory}/none/counts.db\"");
    let (findings, code) = examined("", &elsewhere, sqlite.dir());
    assert!(code == 1 && has(&findings, &format!("wrong: {directory}/none/counts.db is not used")), "{findings:#?}");
    let (findings, _) = examined("", &format!("{config}max_clients = 1000000000"), sqlite.dir());
    assert!(has(&findings, &format!("doubtful: {directory} has ")), "{findings:#?}");
}

#[test]
fn doctor_asks_redis_whether_it_can_count_and_keeps_counts() {
    let dir = Dir::new();
    let of = |config: &str| examined("", config, &dir).0;
    let redis = Redis::start();
    let findings = of(&redis.config());
    let found = format!(": Redis at redis://127.0.0.1:{}/0 ", redis.port());
    assert!(is_near(&findings, &found), "{findings:#?}");
    assert!(!findings.iter().any(|finding| finding.contains("maxmemory")), "{findings:#?}");
    redis.say(&["CONFIG", "SET", "maxmemory", "100mb"]);
    redis.say(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let findings = of(&redis.config());
    assert!(findings.iter().any(|finding| finding.contains("maxmemory-policy is allkeys-lru")), "{findings:#?}");
    let findings = of(&Redis::with_rights(RIGHTS_WITHOUT_EVAL).config());
    assert!(findings.iter().any(|finding| finding.contains("allows no scripts")), "{findings:#?}");
    let findings = of(&Redis::with_rights("+get").config());
    assert!(findings.iter().any(|finding| finding.starts_with("wrong: Redis at") && finding.contains("NOPERM")));
    let findings = of("redis_server = \"redis://127.0.0.1:1\"\n");
    assert!(has(&findings, "wrong: Redis at redis://127.0.0.1:1/0 cannot be used: "), "{findings:#?}");
    let sentinel = Sentinel::start();
    let findings = of(&sentinel.config());
    assert!(has(&findings, "right: the master mymaster is redis://127.0.0.1:"), "{findings:#?}");
}

#[test]
fn doctor_says_that_memcached_removes_counts() {
    let (dir, memcached) = (Dir::new(), Memcached::start());
    memcached.store(200_000);
    let findings = examined("", &format!("memcached_server = \"{}\"\n", memcached.server()), &dir).0;
    let evicts =
        |finding: &String| finding.starts_with("doubtful: memcached at ") && finding.contains("of which it has 8 MB");
    assert!(findings.iter().any(evicts), "{findings:#?}");
}

#[test]
fn doctor_logs_in_to_memcached_and_names_a_password_that_all_may_read() {
    let dir = Dir::new();
    let (with_login, with_tls) = (Memcached::start_with_login(), Memcached::start_with_tls());
    let password = with_login.file("password");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o640)).unwrap();
    let findings = examined("", &with_login.config(), &dir).0;
    assert!(is_near(&findings, &format!(": memcached at inet:{} ", with_login.server())), "{findings:#?}");
    let is_open = |findings: &[String]| findings.iter().any(|finding| finding.contains("can read the password in"));
    assert!(!is_open(&findings), "{findings:#?}");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(is_open(&examined("", &with_login.config(), &dir).0));
    fs::write(&password, "wrong").unwrap();
    let findings = examined("", &with_login.config(), &dir).0;
    assert!(findings.iter().any(|finding| finding.contains("it refuses the login")), "{findings:#?}");
    let findings = examined("", &with_tls.config(), &dir).0;
    assert!(is_near(&findings, ": memcached at inet:localhost:"), "{findings:#?}");
    let plain = format!("memcached_server = \"{}\"\n", with_tls.server());
    let findings = examined("", &plain, &dir).0;
    assert!(findings.iter().any(|finding| finding.contains("see memcached_tls")), "{findings:#?}");
}
