//! Thresholds of single logins, senders and domains, from the configuration and from files: what they
//! may be, which of them decides, and what commands say of them. And values of conditions from files.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use connshaper::config::Config;
use serde_json::{Value, json};

use crate::support::{
    Daemon, Dir, Dovecot, Memcached, Policy, Postfix, Redis, Simulation, Sqlite, ask, command, say, until,
};

/// A limit of two messages by login, with thresholds of their own.
const USERS: &str = "
    threshold = 1000
    [limit.users]
    threshold = 2
    count = \"messages\"
    per = \"sasl_username\"
    [limit.users.thresholds]
    \"Alice@example.org\" = 4
    \"@example.org\" = 3
    \".example.org\" = 1
    \"bob\" = -1
    \"eve@example.org\" = 0
    ";

/// How many messages of a login pass, of seven.
fn passed(site: &mut Simulation, lines: &str) -> usize {
    (0..7).filter(|_| site.session_with("192.0.2.1", &format!("{lines}\n")) == "pass").count()
}

/// Runs a test on every kind of store.
fn on_all(rules: &str, story: impl Fn(&mut Simulation)) {
    story(&mut Simulation::new(rules));
    story(&mut Simulation::on(&Memcached::start(), rules));
    story(&mut Simulation::on_redis(&Redis::start(), rules));
    story(&mut Simulation::on_sqlite(&Sqlite::new(), rules));
}

#[test]
fn the_most_specific_threshold_decides_on_every_store_and_in_every_window() {
    for window in ["fixed", "sliding"] {
        on_all(&USERS.replace("threshold = 2\n", &format!("threshold = 2\nwindow = \"{window}\"\n")), |site| {
            for (login, messages) in [
                ("alice@example.org", 4),
                ("ALICE@Example.Org", 0),
                ("carol@example.org", 3),
                ("carol@mail.example.org", 1),
                ("dan@example.com", 2),
                ("bob", 7),
                ("eve@example.org", 0),
            ] {
                assert_eq!(passed(site, &format!("sasl_username={login}")), messages, "{window} {login}");
            }
        });
    }
}

#[test]
fn a_reload_changes_what_single_keys_may() {
    let mut site = Simulation::new(USERS);
    assert_eq!(passed(&mut site, "sasl_username=alice@example.org"), 4);
    assert_eq!(passed(&mut site, "sasl_username=bob"), 7);
    site.reload(&USERS.replace("= 4", "= 13").replace("= -1", "= 3"));
    assert_eq!(passed(&mut site, "sasl_username=alice@example.org"), 6, "seven were counted");
    assert_eq!(passed(&mut site, "sasl_username=bob"), 3, "nothing was counted");
}

#[test]
fn the_keys_are_of_the_part_that_has_such() {
    let limit = |per: &str, thresholds: &str| {
        format!(
            "threshold = 1000\n[limit.x]\nthreshold = 2\ncount = \"messages\"\nper = {per}\nthresholds = {thresholds}"
        )
    };
    for (per, thresholds, request, messages) in [
        ("[\"client\", \"sender\"]", "{ \"a@example.org\" = 5, \"<>\" = 4 }", "sender=A@example.org", 5),
        ("[\"client\", \"sender\"]", "{ \"a@example.org\" = 5, \"<>\" = 4 }", "sender=", 4),
        ("\"sender_domain\"", "{ \"example.org\" = 5, \".example.org\" = 3 }", "sender=x@example.org", 5),
        ("\"sender_domain\"", "{ \"example.org\" = 5, \".example.org\" = 3 }", "sender=x@a.example.org", 3),
        ("\"sender_domain\"", "{ \"@example.org\" = 5 }", "sender=x@example.org", 5),
        ("[\"helo_name\", \"sasl_username\"]", "{ joe = 5 }", "helo_name=a\nsasl_username=joe", 5),
        ("\"client_domain\"", "{ \"example.co.uk\" = 5 }", "client_name=mail.example.co.uk", 5),
        ("\"helo_name\"", "{ \".example.org\" = 5 }", "helo_name=a.b.example.org", 5),
        ("\"sender\"", "{ \"a\" = 5 }", "sender=b", 2),
    ] {
        let mut site = Simulation::new(&limit(per, thresholds));
        assert_eq!(passed(&mut site, request), messages, "{per} {thresholds} {request}");
    }
    // However long what the client says before it.
    let mut site = Simulation::new(&limit("[\"helo_name\", \"sasl_username\"]", "{ joe = 1 }"));
    assert_eq!(passed(&mut site, &format!("helo_name={}\nsasl_username=joe", "x".repeat(2000))), 1);
}

#[test]
fn a_message_of_a_refused_session_stays_refused_and_recipients_have_their_own() {
    let rules = "
        threshold = 1000
        [limit.users]
        threshold = 5
        per = \"sasl_username\"
        thresholds = { joe = 1 }
        [limit.mailboxes]
        threshold = 1
        count = \"recipients\"
        per = \"recipient\"
        thresholds = { \"list@example.org\" = 3 }
        ";
    let mut site = Simulation::new(rules);
    let ask = |site: &mut Simulation, session: usize, message: u32, user: &str, recipient: &str| {
        let lines = crate::support::at("192.0.2.1", session, "RCPT", message);
        site.ask(session, &format!("{lines}sasl_username={user}\nrecipient={recipient}\n"))
    };
    assert_eq!(ask(&mut site, 0, 0, "joe", "a@example.org"), "pass");
    assert_eq!(ask(&mut site, 1, 1, "joe", "b@example.org"), "over users");
    assert_eq!(ask(&mut site, 1, 2, "joe", "c@example.org"), "over users");
    assert_eq!(ask(&mut site, 1, 3, "", "d@example.org"), "over users");
    for (message, expected) in ["pass", "pass", "pass", "over mailboxes"].into_iter().enumerate() {
        assert_eq!(ask(&mut site, 2, 10 + message as u32, "ann", "List@example.org"), expected, "{message}");
    }
    assert_eq!(ask(&mut site, 2, 20, "ann", "a@example.org"), "over mailboxes");
}

#[test]
fn what_cannot_be_a_threshold_is_an_error_with_a_remedy() {
    let wrong = |keys: &str| {
        let text = format!("[limit.users]\nthreshold = 1\n{keys}\n");
        Config::parse(Path::new("connshaper.toml"), text).expect_err(keys).to_string()
    };
    let users = "per = \"sasl_username\"\n";
    for (keys, problem, remedy) in [
        ("thresholds = { a = 1 }".to_owned(), "the limit counts by client", "into `netblocks`"),
        ("per = []\nthresholds = { a = 1 }".to_owned(), "all clients share one counter", "in `threshold`"),
        (
            "per = [\"sasl_username\", \"sender\"]\nthresholds = { a = 1 }".to_owned(),
            "may each be a sasl_username or a sender",
            "a limit for each",
        ),
        (format!("{users}thresholds = 5"), "`thresholds` of limit `users` is a table, not an integer", "examples"),
        (format!("{users}thresholds = {{ a = \"5\" }}"), "the threshold of \"a\" is a whole number", "write"),
        (format!("{users}thresholds = {{ a = -2 }}"), "the threshold of \"a\" is out of bounds", "write"),
        (format!("{users}thresholds = {{ a = 1.5 }}"), "the threshold of \"a\" is a whole number", "write"),
        (format!("{users}thresholds = {{ \"*@example.org\" = 5 }}"), "is never a sasl_username", "\"@example.org\""),
        (format!("{users}thresholds = {{ \"@\" = 5 }}"), "is not a domain", "write"),
        (format!("{users}thresholds = {{ joe = 5, JOE = 6 }}"), "\"joe\" stands in line 4 too", "keep one"),
        ("per = \"sender\"\nthresholds = { \"example.org\" = 5 }".to_owned(), "is not an address", "\"@example.org\""),
    ] {
        let error = wrong(&keys);
        assert!(error.contains(problem) && error.contains(remedy), "{keys}: {error}");
        assert!(error.contains("connshaper.toml:"), "{error}");
    }
    let sizes =
        "[limit.x]\nthreshold = \"1MB\"\ncount = \"bytes\"\nper = \"sender\"\nthresholds = { \"@a.org\" = \"1GiB\" }";
    assert_eq!(Config::parse(Path::new("c"), sizes).unwrap().warnings, []);
}

/// A daemon with a control socket.
struct Host {
    daemon: Daemon,
    socket: PathBuf,
    dir: Dir,
}

impl Host {
    fn start(rules: &str) -> Self {
        let dir = Dir::new();
        let socket = dir.join("control");
        let daemon = Daemon::start(&format!("control_socket = {:?}\n{rules}", socket.to_str().unwrap()));
        Self { daemon, socket, dir }
    }

    fn say(&self, words: &[&str]) -> String {
        say(&self.socket, words).0
    }

    fn ask(&self, words: &[&str]) -> Value {
        ask(&self.socket, words)
    }

    /// Messages of a login, each in a session of its own: the answers.
    fn mails(&self, login: &str, number: u32) -> Vec<String> {
        let mail = |message: u32| {
            let (login, instance) = (format!("sasl_username={login}"), format!("instance=1.{message}.0"));
            let (state, client) = ("protocol_state=RCPT", "client_address=198.51.100.7");
            let mut session = Policy::connect(self.daemon.endpoint());
            session.ask(&[state, client, &login, &instance, "sender=a@example.net", "recipient=a@example.net"])
        };
        (0..number).map(mail).collect()
    }
}

#[test]
fn commands_logs_and_alerts_know_the_threshold_of_a_key_and_where_it_is_from() {
    let alert = USERS.replace("threshold = 2\n", "threshold = 2\nalert = true\nalert_threshold = 1\n");
    let host = Host::start(&alert.replace("threshold = 1000", "threshold = 1000\nlog_interval = 1"));
    let (file, dir) = (host.daemon.config(), host.dir.path().display());
    let from = |key: &str, line: u32| format!("{key} in {} line {line}", file.display());
    let line_of = |text: &str| {
        let config = fs::read_to_string(&file).unwrap();
        1 + config.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{dir}: {config}")) as u32
    };
    let answers = host.mails("alice@example.org", 5);
    assert!(answers[3] == "DUNNO" && answers[4].starts_with("DEFER_IF_PERMIT"), "{answers:?}");
    let near = host.daemon.lines().wait_for("NEAR_LIMIT ");
    assert!(near.contains(" count=3 threshold=2 "), "{near}");
    let over = host.daemon.lines().wait_for("OVER_LIMIT ");
    assert!(over.contains(" count=5 threshold=4 "), "{over}");
    let refused = host.daemon.lines().wait_for("REFUSED ");
    assert!(refused.contains(" threshold=4 "), "{refused}");
    let alice = from("alice@example.org", line_of("Alice@"));
    let explained = host.say(&["explain", "login", "alice@example.org"]);
    assert!(explained.contains(&format!("6 of 4 (by {alice}) for sasl_username=alice@example.org")), "{explained}");
    let shown = host.ask(&["show", "login", "alice@example.org"]);
    let counter = &shown["counters"][0];
    assert_eq!((&counter["threshold"], &counter["threshold_from"]), (&json!(4), &json!(alice)), "{shown:#}");
    let listed = host.ask(&["show", "--over"]);
    assert_eq!(listed["listing"]["keys"][0]["threshold"], json!(4), "{listed:#}");
    assert!(host.mails("bob", 9).iter().all(|answer| answer == "DUNNO"));
    let bob = from("bob", line_of("\"bob\""));
    let explained = host.say(&["explain", "login", "bob"]);
    assert!(explained.contains(&format!("not asked: not limited by {bob}")), "{explained}");
    let shown = host.say(&["show", "login", "bob"]);
    assert!(shown.contains("unlimited") && shown.contains(&format!("by {bob}")), "{shown}");
    assert!(host.say(&["hit", "users", "bob"]).contains(&format!("not limited by {bob}")));
    assert!(host.say(&["check-hit", "users", "x@example.org"]).contains("of 3"));
    let explained = host.say(&["explain", "login", "eve@example.org"]);
    assert!(explained.contains("1 of 0 (by eve@example.org in "), "{explained}");
    let checked = command().args(["check", "-c"]).arg(&file).output().unwrap();
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.contains("; 5 keys have thresholds of their own by sasl_username."), "{checked}");
}

#[test]
fn logins_have_thresholds_of_their_own_at_a_real_postfix() {
    let daemon = Daemon::start(USERS);
    let dovecot = Dovecot::start();
    let lists = format!("smtpd_recipient_restrictions = check_policy_service {}\n", daemon.endpoint());
    let postfix = Postfix::setup().main_cf(&(dovecot.main_cf() + &lists)).one_smtpd().start();
    for (login, allowed) in
        [("alice@example.org", 4), ("carol@mail.example.org", 1), ("dan@example.com", 2), ("eve@example.org", 0)]
    {
        let codes = (0..5).map(|_| {
            let mut smtp = postfix.client("127.0.0.2");
            smtp.login(login);
            smtp.mail().expect(250);
            smtp.rcpt().code
        });
        let codes: Vec<u16> = codes.collect();
        assert_eq!(codes, [vec![250; allowed], vec![450; 5 - allowed]].concat(), "{login}");
    }
    let mut smtp = postfix.client("127.0.0.2");
    smtp.login("bob");
    smtp.deliver(9);
}

/// A limit of two messages by login with these files in `dir`.
fn with_files(dir: &Path, files: &[&str]) -> String {
    let paths: Vec<String> = files.iter().map(|name| format!("{:?}", dir.join(name))).collect();
    format!(
        "threshold = 1000\n[limit.users]\nthreshold = 2\ncount = \"messages\"\nper = \"sasl_username\"\n\
         thresholds_file = [{}]\nthresholds = {{ joe = 1 }}\n",
        paths.join(", ")
    )
}

#[test]
fn files_add_thresholds_and_the_first_of_equal_keys_counts() {
    let dir = Dir::new();
    let one = "\u{feff}# comment\n\n joe 5\r\n@example.org\t3 # a reason\nann 4\nann 4 # again\nann 5\n";
    dir.write("one", one);
    dir.write("two", "ann 7\nx@example.org 6 # mine\n\"#\"@example.org 1\n".replace("\"#\"", "a#b").as_str());
    let text = with_files(dir.path(), &["one", "two"]);
    let config = Config::parse(Path::new("connshaper.toml"), &text).unwrap();
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let first = format!("{}: \"ann\" has another threshold in line 5, which counts", dir.join("one").display());
    assert_eq!(warnings, [first.replace("one: ", "one:7:1: ")]);
    assert_eq!(config.limit_files.iter().map(|file| file.entries).collect::<Vec<_>>(), [3, 3]);
    let mut site = Simulation::new(&text);
    for (login, messages) in
        [("joe", 1), ("ann", 4), ("x@example.org", 6), ("y@example.org", 3), ("a#b@example.org", 1)]
    {
        assert_eq!(passed(&mut site, &format!("sasl_username={login}")), messages, "{login}");
    }
}

#[test]
fn an_error_in_a_file_has_file_line_column_and_remedy() {
    let dir = Dir::new();
    let read = |content: &[u8]| {
        fs::write(dir.join("file"), content).unwrap();
        Config::parse(Path::new("connshaper.toml"), with_files(dir.path(), &["file"]))
    };
    let cases: [(&[u8], &str); 8] = [
        (b"a 1\nb\n", "2:1: there is no threshold beside `b`"),
        (b"a 1\n  b 1 2\n", "2:7: `2` stands behind the threshold"),
        (b"a = 1\n", "1:5: `1` stands behind the threshold"),
        (b"a x\n", "1:3: `x` is not a valid threshold"),
        (b"a 1k\n", "1:3: `1k` is not a valid threshold"),
        (b"*@example.org 1\n", "1:1: `*@example.org` is never a sasl_username"),
        (b"a 99999999999999999999\n", "1:3: `99999999999999999999` is not a valid threshold"),
        (b"a 1\n\xff\xfe 1\n", "2:1: "),
    ];
    for (content, expected) in cases {
        let error = read(content).unwrap_err();
        let expected = format!("{}:{expected}", dir.join("file").display());
        assert!(error.summary().starts_with(&expected), "{error}");
        assert!(error.to_string().contains("= help: write "), "{error}");
    }
    let error = read(&b"x\n".repeat(10_000)).unwrap_err();
    assert_eq!(error.diagnostics.len() + error.more, 10_000);
    assert!(
        read(b"# nothing\n").unwrap().warnings[0].to_string().ends_with("file:1:1: there is no threshold in this file")
    );
    for (files, problem) in [
        (["absent", "file"], "absent cannot be read"),
        (["file", "file"], "is named twice"),
        (["file", ""], "is not a file but a directory"),
    ] {
        let error = Config::parse(Path::new("connshaper.toml"), with_files(dir.path(), &files)).unwrap_err();
        assert!(error.summary().contains(problem) && error.summary().starts_with("connshaper.toml:6:"), "{error}");
    }
    let client = format!("[limit.x]\nthreshold = 1\nthresholds_file = {:?}\n", dir.join("file"));
    let error = Config::parse(Path::new("connshaper.toml"), client).unwrap_err();
    assert!(error.summary().contains("the limit counts by client"), "{error}");
}

/// Replaces a file by renaming a new one, as the manual says.
fn replace(dir: &Dir, name: &str, content: &str) {
    dir.write("new", content);
    fs::rename(dir.join("new"), dir.join(name)).unwrap();
}

#[test]
fn a_million_thresholds_take_effect_when_their_file_changes_and_shrink_not_by_themselves() {
    const LINES: u32 = 1_000_000;
    let dir = Dir::new();
    dir.write("big", "carol@example.org 1\n");
    dir.write("black", "198.51.100.99\n");
    let rules = with_files(dir.path(), &["big"]);
    let lists = format!("list_check_interval = 1\nblacklist_file = {:?}\n", dir.join("black"));
    let host = Host::start(&format!("{lists}{rules}"));
    let number = |answers: Vec<String>| answers.iter().filter(|answer| *answer == "DUNNO").count();
    assert_eq!(number(host.mails("carol@example.org", 4)), 1);
    let mut big = String::new();
    for user in 0..LINES {
        writeln!(big, "user{user}@example.org {} # customer", user % 1000 + 3).unwrap();
    }
    replace(&dir, "big", &big);
    let line = host.daemon.lines().wait_for("RELOADED ");
    assert!(line.contains("/big"), "{line}");
    let entries = line.split(" limit_files=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u32>().ok());
    assert!(entries.is_some_and(|entries| entries >= LINES), "{line}");
    assert_eq!(number(host.mails("user500002@example.org", 7)), 5);
    assert_eq!(number(host.mails("user999999@example.org", 4)), 4);
    assert_eq!(number(host.mails("dan@example.org", 4)), 2);
    let explained = host.say(&["explain", "login", "user500002@example.org"]);
    let from = format!("8 of 5 (by user500002@example.org in {} line 500003: customer) for", dir.join("big").display());
    assert!(explained.contains(&from), "{explained}");
    let shown = host.say(&["show", "login", "user500002@example.org"]);
    assert!(shown.contains("big line 500003: customer"), "{shown}");
    // A download that failed.
    replace(&dir, "big", "# 503\n");
    let said = until("a warning", || {
        let lines = host.daemon.lines().with("CONFIGURATION");
        lines.into_iter().find(|line| line.contains("the file shrank from 1000000 entries to 0, so it is kept"))
    });
    assert!(said.contains("/big:1:1: "), "{said}");
    assert_eq!(number(host.mails("user600004@example.org", 9)), 7);
    // An error leaves all as it was, and the lists are still there.
    replace(&dir, "big", &format!("{big}joe\n"));
    let line = host.daemon.lines().wait_for("RELOAD_FAILED ");
    assert!(line.contains("big:1000001:1: there is no threshold beside `joe`"), "{line}");
    assert_eq!(number(host.mails("user700006@example.org", 10)), 9);
    let mut policy = Policy::connect(host.daemon.endpoint());
    assert_ne!(policy.connected("198.51.100.99", 1), "DUNNO");
    assert_eq!(policy.connected("127.0.0.1", 2), "DUNNO");
}

#[test]
fn lists_of_the_configuration_outlive_a_change_of_a_file_of_thresholds() {
    let dir = Dir::new();
    dir.write("file", "joe 1\n");
    let rules = with_files(dir.path(), &["file"]);
    let host = Host::start(&format!("list_check_interval = 1\nblacklist = [\"198.51.100.99\"]\n{rules}"));
    for (at, content) in ["ann 3\nbob 3\n", "ann 4\nbob 4\n"].into_iter().enumerate() {
        replace(&dir, "file", content);
        host.daemon.lines().wait_for_more("RELOADED ", at);
        let mut policy = Policy::connect(host.daemon.endpoint());
        assert_ne!(policy.connected("198.51.100.99", at as u16 + 1), "DUNNO", "{content}");
    }
    assert_eq!(host.mails("bob", 5).iter().filter(|answer| *answer == "DUNNO").count(), 4);
    let config = host.daemon.config();
    let checked = command().args(["check", "-c"]).arg(&config).output().unwrap();
    let checked = String::from_utf8(checked.stdout).unwrap();
    assert!(checked.contains("thresholds of limit users  2 entries"), "{checked}");
}

/// A limit of two messages by login, for the logins of a file.
fn of_listed(dir: &Dir, condition: &str) -> String {
    let condition = condition.replace("DIR", &dir.path().display().to_string());
    format!(
        "threshold = 1000\n[limit.users]\nthreshold = 2\ncount = \"messages\"\nper = \"sasl_username\"\n{condition}\n"
    )
}

#[test]
fn conditions_take_their_values_from_files() {
    let dir = Dir::new();
    dir.write("logins", "# all\nJoe\nJürgen@bücher.example\n  ann@example.org # newsletter\r\n@example.com\n.example.net\n/^x[0-9]+$/\n");
    dir.write("more", "bob\n");
    dir.write("hosts", "192.0.2.0/24\n");
    for (condition, is_listed) in [
        ("match = { sasl_username = \"file:DIR/logins\" }", true),
        ("unless = { sasl_username = [\"file:DIR/logins\", \"bob\"] }", false),
        ("match = { sasl_username = [\"file:DIR/more\", \"file:DIR/logins\"] }", true),
        ("match = { sasl_username = \"file:DIR/logins\", client_address = \"file:DIR/hosts\" }", true),
    ] {
        let mut site = Simulation::new(&of_listed(&dir, condition));
        for login in
            ["joe", "ann@example.org", "x@Example.com", "x@a.example.net", "x12", "jÜrgen@xn--bcher-kva.example"]
        {
            let messages = if is_listed { 2 } else { 7 };
            assert_eq!(passed(&mut site, &format!("sasl_username={login}")), messages, "{condition} {login}");
        }
        let messages = if is_listed { 7 } else { 2 };
        assert_eq!(passed(&mut site, "sasl_username=eve@example.org"), messages, "{condition}");
    }
    let config = Config::parse(
        Path::new("connshaper.toml"),
        of_listed(&dir, "match = { sasl_username = [\"file:DIR/more\", \"file:DIR/logins\"] }"),
    );
    assert_eq!(config.unwrap().limit_files.iter().map(|file| file.entries).collect::<Vec<_>>(), [1, 6]);
}

#[test]
fn an_error_in_a_file_of_values_has_file_line_column_and_remedy() {
    let dir = Dir::new();
    let read = |condition: &str| Config::parse(Path::new("connshaper.toml"), of_listed(&dir, condition));
    for (content, attribute, expected) in [
        ("a\n*@example.org\n", "sasl_username", "2:1: `sasl_username` is never `*@example.org`"),
        ("a\n hash:/x\n", "sender", "2:2: `sender` is never `hash:/x`"),
        ("10.0.0\n", "client_address", "1:1: `client_address` is never `10.0.0`"),
        ("50\nx\n", "recipient_count", "2:1: `recipient_count` is a number"),
        ("/(/\n", "sender", "1:1: `sender` has `/(/`, which is not a valid regular expression"),
    ] {
        dir.write("file", content);
        let error = read(&format!("match = {{ {attribute} = \"file:DIR/file\" }}")).unwrap_err();
        assert!(error.summary().starts_with(&format!("{}:{expected}", dir.join("file").display())), "{error}");
        assert!(error.to_string().contains("= help: write "), "{error}");
    }
    dir.write("file", &"/x/\n".repeat(1001));
    let error = read("match = { sender = \"file:DIR/file\" }").unwrap_err();
    assert!(error.summary().contains("file:1001:1: more than 1000 regular expressions"), "{error}");
    for (path, problem) in [("DIR/absent", "absent cannot be read"), ("", "`sender` names no file")] {
        let error = read(&format!("match = {{ sender = \"file:{path}\" }}")).unwrap_err();
        assert!(error.summary().starts_with("connshaper.toml:6:") && error.summary().contains(problem), "{error}");
    }
}

#[test]
fn a_million_values_take_effect_when_their_file_changes() {
    let dir = Dir::new();
    dir.write("logins", "user7@example.org\n");
    let rules = of_listed(&dir, "match = { sasl_username = \"file:DIR/logins\" }");
    let host = Host::start(&format!("list_check_interval = 1\n{rules}"));
    let number = |login: &str| host.mails(login, 4).iter().filter(|answer| *answer == "DUNNO").count();
    assert_eq!((number("user7@example.org"), number("user600000@example.org")), (2, 4));
    let mut logins = String::new();
    for user in 1000..1_001_000 {
        writeln!(logins, "user{user}@example.org").unwrap();
    }
    replace(&dir, "logins", &logins);
    host.daemon.lines().wait_for("RELOADED ");
    assert_eq!((number("user8@example.org"), number("user600001@example.org")), (4, 2));
    // A download that failed.
    replace(&dir, "logins", "user8@example.org\n");
    let said = until("a warning", || {
        let lines = host.daemon.lines().with("CONFIGURATION");
        lines.into_iter().find(|line| line.contains("the file shrank from 1000000 entries to 1, so it is kept"))
    });
    assert!(said.contains("/logins:1:1: "), "{said}");
    assert_eq!((number("user9@example.org"), number("user600002@example.org")), (4, 2));
}
