//! Limits at the doors for logins and web requests, beside Postfix's.

use std::path::Path;

use connshaper::config::Config;
use connshaper::engine::sessionless::CountMode;
use connshaper::policy::attribute::Attribute;
use connshaper::policy::door::Door;
use connshaper::policy::request::{LoginOutcome, Request};

use crate::support::{Memcached, Simulation, at};

/// A login of this client under this name.
fn login(client: &str, name: &str, login: LoginOutcome) -> Request<'static> {
    let values = [(Attribute::Login, name.as_bytes()), (Attribute::Protocol, b"imap".as_slice())];
    let mut request = Request::at(Door::Login, Some(client.parse().unwrap()), values);
    request.login = login;
    request
}

/// A login with a wrong password, if it may be tried at all.
fn wrong(site: &mut Simulation, client: &str, password: u64) -> String {
    let said = site.event(&login(client, "joe@example.org", LoginOutcome::Unknown), CountMode::Preview);
    if said == "pass" {
        site.report(&login(client, "joe@example.org", LoginOutcome::Failed), Some(password));
    }
    said
}

fn web(client: &str, method: &str, path: &str) -> Request<'static> {
    let values = [(Attribute::Method, method.as_bytes()), (Attribute::Path, path.as_bytes())];
    Request::at(Door::Web, Some(client.parse().unwrap()), values)
}

const GUESSES: &str = "threshold = 100\n[limit.guesses]\ndoor = \"login\"\nthreshold = 3\nexptime = \"10m\"\n";

const BANS: &str = "ban_time = \"1h\"\nban_doors = [\"smtp\", \"web\"]\n";

#[test]
fn as_many_wrong_passwords_may_be_tried_as_the_limit_allows() {
    let mut site = Simulation::new(GUESSES);
    let said: Vec<_> = (0..5).map(|password| wrong(&mut site, "192.0.2.1", password)).collect();
    assert_eq!(said, ["pass", "pass", "pass", "over guesses", "over guesses"]);
    assert_eq!(wrong(&mut site, "192.0.2.2", 9), "pass", "another client has a counter of its own");
    assert_eq!(site.session("192.0.2.1"), "pass", "the limit is at another door");
    site.now += 601_000;
    assert_eq!(wrong(&mut site, "192.0.2.1", 0), "pass");
}

#[test]
fn one_wrong_password_counts_once_however_often_it_is_tried() {
    let mut site = Simulation::new(GUESSES);
    for _ in 0..20 {
        assert_eq!(wrong(&mut site, "192.0.2.1", 7), "pass");
    }
    let said: Vec<_> = (0..3).map(|password| wrong(&mut site, "192.0.2.1", password)).collect();
    assert_eq!(said, ["pass", "pass", "over guesses"]);
}

#[test]
fn hosts_that_share_a_store_share_wrong_passwords_and_bans() {
    let memcached = Memcached::start();
    let rules = format!("{GUESSES}{BANS}");
    let mut hosts = [Simulation::on(&memcached, &rules), Simulation::on(&memcached, &rules)];
    for turn in 0..20 {
        assert_eq!(wrong(&mut hosts[turn % 2], "192.0.2.1", 7), "pass");
    }
    let said: Vec<_> = (0..3).map(|password| wrong(&mut hosts[password as usize % 2], "192.0.2.1", password)).collect();
    assert_eq!(said, ["pass", "pass", "over guesses"]);
    assert_eq!(hosts[1].session("192.0.2.1"), "banned guesses");
}

#[test]
fn a_successful_login_is_no_failed_one() {
    let rules = "[limit.failed]\ndoor = \"login\"\ncount = \"failed_logins\"\nthreshold = 2\n\
        [limit.all]\ndoor = \"login\"\ncount = \"logins\"\nthreshold = 4\n";
    let mut site = Simulation::new(rules);
    for _ in 0..4 {
        let asked = login("192.0.2.1", "joe", LoginOutcome::Unknown);
        assert_eq!(site.event(&asked, CountMode::Preview), "pass");
        site.report(&login("192.0.2.1", "joe", LoginOutcome::Succeeded), None);
    }
    let asked = login("192.0.2.1", "joe", LoginOutcome::Unknown);
    assert_eq!(site.event(&asked, CountMode::Preview), "over all");
    let asked = login("192.0.2.2", "joe", LoginOutcome::Unknown);
    for said in ["pass", "pass", "over failed"] {
        assert_eq!(site.event(&asked, CountMode::Preview), said);
        site.report(&login("192.0.2.2", "joe", LoginOutcome::Failed), None);
    }
}

#[test]
fn a_ban_holds_at_the_doors_that_are_named_and_no_other() {
    for (doors, smtp, at_web) in [
        ("", "pass", "pass"),
        ("ban_doors = \"smtp\"", "banned guesses", "pass"),
        ("ban_doors = [\"login\", \"web\"]", "pass", "banned guesses"),
        ("ban_doors = [\"smtp\", \"login\", \"web\"]", "banned guesses", "banned guesses"),
    ] {
        let mut site = Simulation::new(&format!("{GUESSES}ban_time = \"1h\"\n{doors}\n"));
        (0..4).for_each(|password| drop(wrong(&mut site, "192.0.2.1", password)));
        assert_eq!(wrong(&mut site, "192.0.2.1", 9), "banned guesses", "{doors}");
        assert_eq!(site.session("192.0.2.1"), smtp, "{doors}");
        assert_eq!(site.event(&web("192.0.2.1", "GET", "/"), CountMode::Count), at_web, "{doors}");
        assert_eq!(site.session("192.0.2.2"), "pass");
        site.now += 3_601_000;
        assert_eq!(site.session("192.0.2.1"), "pass", "the ban is over");
    }
}

#[test]
fn a_session_that_has_passed_is_not_asked_about_bans_again() {
    let mut site = Simulation::new(&format!("{GUESSES}{BANS}"));
    let lines = |message| at("192.0.2.1", 7, "RCPT", message);
    assert_eq!(site.ask(0, &lines(0)), "pass");
    (0..4).for_each(|password| drop(wrong(&mut site, "192.0.2.1", password)));
    assert_eq!(site.ask(0, &lines(0)), "pass", "one verdict for a session");
    assert_eq!(site.session("192.0.2.1"), "banned guesses");
}

#[test]
fn web_requests_are_counted_where_conditions_hold() {
    let mut site = Simulation::new(
        "[limit.forms]\ndoor = \"web\"\nthreshold = 2\nmatch = { path = \"/^.login/\", method = \"POST\" }\n",
    );
    let mut ask = |method, path| site.event(&web("192.0.2.1", method, path), CountMode::Count);
    assert_eq!([ask("POST", "/login"), ask("POST", "/login/2"), ask("POST", "/login")], ["pass", "pass", "over forms"]);
    assert_eq!([ask("GET", "/login"), ask("POST", "/about")], ["pass", "pass"]);
}

#[test]
fn lists_hold_at_every_door() {
    let rules =
        "whitelist = [\"192.0.2.1\"]\nblacklist = [\"192.0.2.2\"]\n[limit.all]\ndoor = \"web\"\nthreshold = 1\n";
    let mut site = Simulation::new(rules);
    for _ in 0..3 {
        assert_eq!(site.event(&web("192.0.2.1", "GET", "/"), CountMode::Count), "pass");
        assert_eq!(site.event(&web("192.0.2.2", "GET", "/"), CountMode::Count), "blacklisted blacklist");
        assert_eq!(wrong(&mut site, "192.0.2.2", 1), "blacklisted blacklist");
    }
    let line = site.lines().into_iter().find(|line| line.contains("REFUSED")).unwrap();
    assert!(line.contains("verdict=403") && line.ends_with("door=web"), "{line}");
}

#[test]
fn delays_at_another_door_hold_no_smtpd_process() {
    let mut site = Simulation::new(
        "max_delayed = 1\nthreshold = 1\ninitial_delay = \"1s\"\n\
         [limit.all]\ndoor = \"web\"\nthreshold = 1\ninitial_delay = \"1s\"\n",
    );
    let ask = |site: &mut Simulation| site.event(&web("192.0.2.1", "GET", "/"), CountMode::Count);
    assert_eq!([ask(&mut site), ask(&mut site), ask(&mut site)], ["pass", "wait 1000", "delay_limit all"]);
    assert_eq!([site.session("192.0.2.1"), site.session("192.0.2.1")], ["pass", "wait 1000"]);
}

#[test]
fn a_word_that_a_door_does_not_have_is_named_with_those_it_has() {
    let cases = [
        ("door = \"web\"\ncount = \"messages\"", "`count` of limit `x` cannot be `messages` at the web door"),
        ("door = \"web\"\nper = \"sender\"", "`per` of limit `x` cannot be `sender` at the web door"),
        ("door = \"login\"\nmatch = { path = \"a\" }", "`path` is not an attribute of a request at the login door"),
        ("door = \"smtp\"\nper = \"login\"", "`per` of limit `x` cannot be `login`"),
        ("door = \"imap\"", "write \"smtp\" or \"login\" or \"web\""),
        ("door = \"login\"\nban_time = 60\nban_doors = \"pop\"", "`ban_doors` of limit `x` cannot be `pop`"),
        (
            "door = \"login\"\nper = \"login\"\nban_time = 60\nban_doors = \"smtp\"",
            "a ban of limit `x` can hold at another door only if it is of a client",
        ),
        ("door = \"login\"\nmatch = { pwhash = true }", "write one of client_address, client_port"),
    ];
    for (keys, expected) in cases {
        let text = format!("[limit.x]\nthreshold = 5\n{keys}\n");
        let error = Config::parse(Path::new("connshaper.toml"), &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{keys}\n{error}");
    }
}
