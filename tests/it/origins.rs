//! Where clients are from: limits by autonomous system and by country, with databases as their makers write them.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use connshaper::config::{Config, ConfigError};
use connshaper::engine::sessionless::CountMode;
use connshaper::policy::request::Request;
use connshaper::policy::{CounterKind, Door};
use ipnet::IpNet;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::mmdb::{Field, asn, country, ipinfo, ipinfo_country, mmdb};
use crate::support::{Daemon, Dir, Policy, Postfix, Simulation, ask, command, resident, say, until};

const PASS: &str = "DUNNO";

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Three operators, one of which has many prefixes, in both families; and a hole.
fn networks() -> Vec<(IpNet, Field)> {
    let of = |text: &str, number| (net(text), asn(number, &format!("Operator {number}")));
    let rented = (0..50).map(|block| of(&format!("10.{block}.0.0/16"), 64500));
    let others = [
        of("192.0.2.0/24", 64501),
        of("192.0.2.128/25", 64502),
        of("2001:db8:a::/48", 64500),
        of("2001:db8:b::/48", 64501),
    ];
    rented.chain(others).collect()
}

fn countries() -> Vec<(IpNet, Field)> {
    [("10.0.0.0/9", "ZZ"), ("192.0.2.0/24", "XA"), ("2001:db8:a::/48", "ZZ")]
        .map(|(block, code)| (net(block), country(code)))
        .into()
}

/// Both databases in a directory.
struct Databases(Dir);

impl Databases {
    fn new() -> Self {
        let databases = Self(Dir::new());
        databases.put("asn.mmdb", &mmdb("GeoLite2-ASN", &networks()));
        databases.put("country.mmdb", &mmdb("GeoLite2-Country", &countries()));
        databases
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Replaces a file as a download should.
    fn put(&self, name: &str, content: &[u8]) {
        fs::write(self.path("new"), content).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// A configuration that names them.
    fn config(&self, rest: &str) -> String {
        let (asn, country) = (self.path("asn.mmdb"), self.path("country.mmdb"));
        format!("asn_database = {asn:?}\ncountry_database = {country:?}\n{rest}")
    }

    fn read(&self, text: &str) -> Result<Config, ConfigError> {
        Config::parse(&self.path("connshaper.toml"), text)
    }
}

/// What `mmdblookup` of Debian's `mmdb-bin` says of a field.
fn looked_up(file: &Path, address: &str, field: &[&str]) -> String {
    let output = Command::new("mmdblookup").arg("--file").arg(file).args(["--ip", address]).args(field).output();
    let output = output.expect("mmdblookup cannot be started; tests/run installs it");
    [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat().trim().to_owned()
}

#[test]
fn the_databases_of_these_tests_are_what_the_library_of_their_inventor_reads() {
    let databases = Databases::new();
    let (asn, country) = (databases.path("asn.mmdb"), databases.path("country.mmdb"));
    for (address, number) in [
        ("10.0.0.1", "64500"),
        ("10.49.255.255", "64500"),
        ("192.0.2.127", "64501"),
        ("192.0.2.128", "64502"),
        ("2001:db8:a:ffff::1", "64500"),
    ] {
        assert_eq!(looked_up(&asn, address, &["autonomous_system_number"]), format!("{number} <uint32>"));
    }
    assert_eq!(looked_up(&country, "10.127.0.1", &["country", "iso_code"]), "\"ZZ\" <utf8_string>");
    for unknown in ["10.50.0.0", "192.0.3.1", "2001:db8:c::1"] {
        assert!(looked_up(&asn, unknown, &[]).contains("Could not find an entry"), "{unknown}");
    }
}

#[test]
fn an_operator_is_one_key_however_many_prefixes_it_has() {
    let databases = Databases::new();
    let rules = databases.config("threshold = 1000\n[limit.operators]\nper = \"asn\"\nthreshold = 5");
    let mut site = Simulation::new(&rules);
    let answers: Vec<_> = (0..8).map(|block| site.session(&format!("10.{block}.1.{block}"))).collect();
    assert_eq!(answers[..5], ["pass"; 5]);
    assert_eq!(answers[5..], ["over operators"; 3]);
    // IPv6 of the same operator; IPv4 in IPv6, as it is and behind a translator.
    for client in ["2001:db8:a:1::1", "::ffff:10.20.0.1", "64:ff9b::10.30.0.1"] {
        assert_eq!(site.session(client), "over operators", "{client}");
    }
    for client in ["192.0.2.1", "192.0.2.129", "2001:db8:b::1"] {
        assert_eq!(site.session(client), "pass", "{client}");
    }
    let line = site.lines().into_iter().find(|line| line.contains("REFUSED ")).unwrap();
    assert!(line.contains("client=10.5.1.5 key=\"asn=64500\" limit=operators "), "{line}");
    assert!(line.ends_with(" asn=64500 country=ZZ"), "{line}");
}

#[test]
fn addresses_that_no_database_knows_are_counted_one_by_one() {
    let databases = Databases::new();
    for (per, key) in [("asn", "asn"), ("country", "country")] {
        let rules = databases.config(&format!("threshold = 1000\n[limit.own]\nper = \"{per}\"\nthreshold = 1"));
        let mut site = Simulation::new(&rules);
        for client in ["198.51.100.1", "198.51.100.2", "2001:db8:c:1::1", "2001:db8:c:2::1"] {
            assert_eq!(site.session(client), "pass", "{client}");
            assert_eq!(site.session(client), "over own", "{client}");
        }
        // As everywhere IPv6 is masked.
        assert_eq!(site.session("2001:db8:c:1::2"), "over own");
        let keys: Vec<_> = site.lines().into_iter().filter(|line| line.contains("REFUSED ")).collect();
        assert!(keys[0].contains(&format!("key=\"{key}=198.51.100.1\"")), "{}", keys[0]);
        assert!(keys[2].contains(&format!("key=\"{key}=2001:db8:c:1::/64\"")), "{}", keys[2]);
        assert!(!keys[0].contains(" asn=") && !keys[0].contains(" country="), "{}", keys[0]);
    }
}

#[test]
fn origins_are_parts_of_keys_with_others() {
    let databases = Databases::new();
    let rules = databases.config(
        "threshold = 1000\n[limit.pairs]\nper = [\"country\", \"sender_domain\"]\ncount = \"messages\"\nthreshold = 1",
    );
    let mut site = Simulation::new(&rules);
    let mut mail = |client: &str, sender: &str| site.session_with(client, &format!("sender={sender}\n"));
    assert_eq!(mail("10.1.0.1", "a@example.org"), "pass");
    assert_eq!(mail("10.2.0.1", "b@example.org"), "over pairs");
    assert_eq!(mail("10.3.0.1", "b@example.com"), "pass");
    assert_eq!(mail("192.0.2.1", "b@example.org"), "pass");
    let line = site.lines().into_iter().find(|line| line.contains("REFUSED ")).unwrap();
    assert!(line.contains("key=\"country=zz,sender_domain=example.org\""), "{line}");
}

#[test]
fn conditions_ask_where_a_client_is_from() {
    let databases = Databases::new();
    let table: [(&str, &[(&str, bool)]); 8] = [
        ("match = { asn = [64500] }", &[("10.1.0.1", true), ("192.0.2.1", false), ("198.51.100.1", false)]),
        ("match = { asn = \"AS64501\" }", &[("10.1.0.1", false), ("192.0.2.1", true), ("2001:db8:b::1", true)]),
        ("match = { asn = \"64501..64502\" }", &[("10.1.0.1", false), ("192.0.2.200", true)]),
        ("match = { country = [\"ZZ\"] }", &[("10.1.0.1", true), ("10.100.0.1", true), ("192.0.2.1", false)]),
        ("match = { country = \"zz\", asn = 64500 }", &[("10.1.0.1", true), ("10.100.0.1", false)]),
        ("match = { asn = false }", &[("10.1.0.1", false), ("10.100.0.1", true), ("198.51.100.1", true)]),
        ("match = { country = true }", &[("10.1.0.1", true), ("10.100.0.1", true), ("198.51.100.1", false)]),
        (
            "unless = { country = [\"XA\", \"XB\"] }",
            &[("10.1.0.1", true), ("192.0.2.1", false), ("198.51.100.1", true)],
        ),
    ];
    for (condition, clients) in table {
        let rules = databases.config(&format!("threshold = 1000\n[limit.own]\nthreshold = 1\n{condition}"));
        let mut site = Simulation::new(&rules);
        for (client, applies) in clients {
            assert_eq!(site.session(client), "pass");
            let second = if *applies { "over own" } else { "pass" };
            assert_eq!(site.session(client), second, "{client} with {condition}");
        }
    }
}

#[test]
fn operators_have_thresholds_of_their_own() {
    let databases = Databases::new();
    let rules = "threshold = 1000\n[limit.operators]\nper = \"asn\"\nthreshold = 1\n\
                 thresholds = { \"AS64500\" = 3, \"64501\" = -1 }";
    let mut site = Simulation::new(&databases.config(rules));
    let mut sessions = |client: &str| (0..4).map(|_| site.session(client)).filter(|said| said == "pass").count();
    assert_eq!([sessions("10.1.0.1"), sessions("192.0.2.1"), sessions("192.0.2.200")], [3, 4, 1]);
}

#[test]
fn every_door_has_them() {
    let databases = Databases::new();
    let rules = databases.config(
        "threshold = 1000\n[limit.web]\ndoor = \"web\"\nper = \"asn\"\nthreshold = 1\n\
         [limit.logins]\ndoor = \"login\"\nper = \"country\"\nthreshold = 1\ncount = \"logins\"",
    );
    let mut site = Simulation::new(&rules);
    for (door, limit) in [(Door::Web, "over web"), (Door::Login, "over logins")] {
        let mut ask = |client: [u8; 4]| site.event(&Request::at(door, Some(client.into()), []), CountMode::Count);
        assert_eq!([ask([10, 1, 0, 1]), ask([10, 2, 0, 1])], ["pass", limit]);
        assert_eq!(ask([192, 0, 2, 1]), "pass");
    }
}

#[test]
fn the_files_of_several_makers_are_understood() {
    let databases = Databases::new();
    let block = || net("10.0.0.0/8");
    let both = |number| vec![(net("192.0.2.0/24"), ipinfo_country("XX")), (block(), ipinfo(number, "ZZ"))];
    for number in ["AS64500", "64500"] {
        databases.put("asn.mmdb", &mmdb("ipinfo ipinfo_lite.mmdb", &both(number)));
        let config = databases.read("asn_database = \"asn.mmdb\"\ncountry_database = \"asn.mmdb\"").unwrap();
        let origin = config.policy.origins.lookup("10.1.2.3".parse().unwrap());
        assert_eq!((origin.asn, origin.country.map(|code| code.to_string())), (Some(64500), Some("ZZ".to_owned())));
        assert_eq!(config.policy.origins.organization("10.1.2.3".parse().unwrap()), Some("Example Ltd"));
    }
    databases.put("country.mmdb", &mmdb("ipinfo country.mmdb", &[(block(), ipinfo_country("ZZ"))]));
    let config = databases.read("country_database = \"country.mmdb\"").unwrap();
    let origin = config.policy.origins.lookup("10.1.2.3".parse().unwrap());
    assert_eq!(origin.country.map(|code| code.to_string()).as_deref(), Some("ZZ"));
}

#[test]
fn words_without_a_database_and_files_that_are_none_are_errors_with_a_way_out() {
    let databases = Databases::new();
    let whole = mmdb("GeoLite2-ASN", &networks());
    databases.put("cut.mmdb", &whole[..whole.len() / 2]);
    let mut odd = whole.clone();
    // The first record, a map before its first name, has more in it than there is.
    let name = b"autonomous_system_number";
    odd[whole.windows(name.len()).position(|bytes| bytes == name).unwrap() - 2] = 0xff;
    databases.put("odd.mmdb", &odd);
    databases.put("text.mmdb", b"# a list\n192.0.2.0/24\n");
    databases.put("empty.mmdb", b"");
    databases.put("GeoLite2-ASN.tar.gz", b"\x1f\x8b\x08\x00 and so on");
    databases.put("names.mmdb", &mmdb("Names", &[(net("10.0.0.0/8"), Field::Map(vec![]))]));
    for (text, problem, remedy) in [
        ("per = \"asn\"", "`per` asks for `asn`, and no database says it", "set `asn_database` at the top level"),
        (
            "[limit.x]\nper = [\"client\", \"country\"]\nthreshold = 3",
            "`per` of limit `x` asks for `country`",
            "set `country_database` at the top",
        ),
        ("[limit.x]\nthreshold = 3\nmatch = { asn = 1 }", "`match` of limit `x` asks for `asn`", "set `asn_database`"),
        ("[limit.x]\nthreshold = 3\nunless = { country = \"ZZ\" }", "asks for `country`", "set `country_database`"),
        (
            "asn_database = \"absent.mmdb\"",
            "the database ABSENT cannot be read: No such file",
            "name a file that exists",
        ),
        ("asn_database = \"\"", "`asn_database` names no file", "write its path"),
        (
            "asn_database = \"country.mmdb\"",
            "(GeoLite2-Country) has no numbers of auto",
            "name it in `country_database`",
        ),
        ("country_database = \"asn.mmdb\"", "(GeoLite2-ASN) has no countries", "name it in `asn_database`, and here a"),
        ("country_database = \"names.mmdb\"", "(Names) has no countries", "name a file such as GeoLite2-Country.mmdb"),
        ("asn_database = \"cut.mmdb\"", "is not in MaxMind's format, or its end is missing", "download it again"),
        ("asn_database = \"odd.mmdb\"", "is damaged: ", "download it again"),
        ("asn_database = \"text.mmdb\"", "is not in MaxMind's format, but a text", "name a file such as GeoLite2-ASN"),
        ("asn_database = \"empty.mmdb\"", "is empty", "download it again"),
        ("asn_database = \"GeoLite2-ASN.tar.gz\"", "is compressed", "unpack it with tar -xzf"),
        ("asn_database = \".\"", "is not a file but a directory", "name a plain file"),
    ] {
        let error = databases.read(text).expect_err(text);
        let [only] = error.diagnostics.as_slice() else { panic!("{text}: {error}") };
        let problem = problem.replace("ABSENT", &databases.path("absent.mmdb").display().to_string());
        assert!(only.problem.contains(&problem), "{text}: {error}");
        assert!(only.remedy.contains(remedy), "{text}: {error}");
        assert!(only.snippet.is_some(), "{text}: {error}");
    }
    let known = databases.config("[limit.x]\nthreshold = 3\n");
    for (text, problem) in [
        ("match = { country = \"Germany\" }", "`country` is a code of two letters, and `Germany` is none"),
        ("match = { asn = \"AS-EXAMPLE\" }", "`asn` is a number, and `AS-EXAMPLE` compares with none"),
        ("per = \"asn\"\nthresholds = { \"Example\" = 3 }", "`Example` is not the number of an autonomous system"),
        ("per = \"country\"\nthresholds = { \"Example\" = 3 }", "`Example` is not the code of a country"),
    ] {
        let error = databases.read(&format!("{known}{text}")).expect_err(text);
        assert!(error.diagnostics[0].problem.contains(problem), "{text}: {error}");
    }
}

/// A daemon with a control socket.
struct Host {
    daemon: Daemon,
    databases: Databases,
    port: u16,
}

impl Host {
    fn start(rules: &str) -> Self {
        let databases = Databases::new();
        let daemon = Daemon::start(&Self::config(&databases, rules));
        Self { daemon, databases, port: 0 }
    }

    fn config(databases: &Databases, rules: &str) -> String {
        databases.config(&format!("control_socket = {:?}\n{rules}", databases.path("control")))
    }

    fn say(&self, words: &[&str]) -> String {
        say(&self.databases.path("control"), words).0
    }

    fn ask(&self, words: &[&str]) -> Value {
        ask(&self.databases.path("control"), words)
    }

    /// A connection of a client.
    fn connect(&mut self, client: &str) -> String {
        self.port += 1;
        Policy::connect(self.daemon.endpoint()).connected(client, self.port)
    }

    /// Whether the second client is counted with the first.
    fn are_one(&mut self, clients: [&str; 2]) -> bool {
        self.say(&["reset", "--all"]);
        let _ = clients.map(|client| self.say(&["reset", client]));
        let [first, second] = clients.map(|client| self.connect(client));
        assert_eq!(first, PASS);
        second != PASS
    }
}

const OPERATORS: &str = "threshold = 1000\nlist_check_interval = 1\n[limit.operators]\nper = \"asn\"\nthreshold = 1\n";

#[test]
fn a_replaced_database_is_read_and_a_damaged_one_is_not_taken() {
    let mut host = Host::start(OPERATORS);
    assert_eq!([host.connect("10.1.0.1"), host.connect("192.0.2.1")], [PASS; 2]);
    assert_ne!(host.connect("10.2.0.1"), PASS);
    // One operator buys another.
    let merged =
        mmdb("GeoLite2-ASN", &[(net("10.0.0.0/8"), asn(64510, "New")), (net("192.0.2.0/24"), asn(64510, "New"))]);
    host.databases.put("asn.mmdb", &merged);
    let line = host.daemon.lines().wait_for("RELOADED ");
    assert!(line.contains("asn.mmdb"), "{line}");
    assert_eq!(host.connect("10.3.0.1"), PASS);
    assert_ne!(host.connect("192.0.2.1"), PASS);
    // A download that broke off.
    host.databases.put("asn.mmdb", &merged[..merged.len() - 100]);
    let line = host.daemon.lines().wait_for("RELOAD_FAILED ");
    assert!(line.contains("asn.mmdb is not in MaxMind's format, or its end is missing"), "{line}");
    assert_ne!(host.connect("192.0.2.2"), PASS);
    let status = host.say(&["status"]);
    assert!(status.contains("asn.mmdb is not in MaxMind's format"), "{status}");
    // At SIGHUP it is the same; and a whole file is taken again.
    host.daemon.signal(Signal::SIGHUP);
    host.daemon.lines().wait_for_more("RELOAD_FAILED ", 1);
    host.databases.put("asn.mmdb", &mmdb("GeoLite2-ASN", &networks()));
    host.daemon.signal(Signal::SIGHUP);
    until("the first database again", || (host.connect("192.0.2.200") == PASS).then_some(()));
    let status = host.say(&["status"]);
    assert!(!status.contains("MaxMind"), "{status}");
    host.daemon.stop();
}

#[test]
fn a_list_that_changes_does_not_have_databases_read_again() {
    let databases = Databases::new();
    fs::write(databases.path("black"), "203.0.113.1\n").unwrap();
    let config = databases.config("blacklist_file = \"black\"");
    let before = databases.read(&config).unwrap();
    fs::write(databases.path("black"), "203.0.113.1\n203.0.113.2\n").unwrap();
    let after = before.with_lists_read_again().unwrap();
    assert_eq!(after.list_files[0].netblocks, 2);
    let (old, new) = (before.policy.origins.asn.unwrap(), after.policy.origins.asn.as_ref().unwrap());
    assert!(std::sync::Arc::ptr_eq(&old, new));
    databases.put("asn.mmdb", &mmdb("GeoLite2-ASN", &[(net("10.0.0.0/8"), asn(1, "One"))]));
    let again = after.with_lists_read_again().unwrap();
    assert_eq!(again.policy.origins.lookup("10.200.0.1".parse().unwrap()).asn, Some(1));
    assert_eq!(again.policy.origins.country, after.policy.origins.country);
}

#[test]
fn commands_tell_where_a_client_is_from() {
    let mut host = Host::start(&format!("log_events = \"all\"\nwhitelist = []\n{OPERATORS}"));
    host.connect("10.1.0.1");
    host.connect("10.2.0.1");
    let explained = host.say(&["explain", "10.7.0.1"]);
    assert!(explained.contains("\n  origin         AS64500 Operator 64500, ZZ\n"), "{explained}");
    assert!(explained.contains(" over: 3 of 1 for asn=64500, "), "{explained}");
    assert!(explained.contains("from AS64500, try again in "), "{explained}");
    let answer = host.ask(&["explain", "10.7.0.1"]);
    let origin = json!({"asn": 64500, "country": "ZZ", "organization": "Operator 64500"});
    assert_eq!(answer["origin"], origin, "{answer:#}");
    assert_eq!(host.ask(&["explain", "198.51.100.1"]).get("origin"), None);
    for words in [vec!["explain", "asn=64500"], vec!["explain", "10.1.0.1", "country=ZZ"]] {
        let answer = host.say(&words);
        assert!(answer.contains("a database says ") && answer.contains("connshaper show "), "{answer}");
    }
    assert!(host.say(&["show", "10.1.0.1"]).contains("\n  origin    AS64500 Operator 64500, ZZ\n"));
    for key in ["asn=64500", "asn=AS64500", "asn 64500"] {
        let words: Vec<_> = ["show"].into_iter().chain(key.split(' ')).collect();
        let answer = host.ask(&words);
        assert_eq!(answer["counters"][0]["count"], 2, "{key}: {answer:#}");
    }
    let most = host.say(&["show", "--most", "operators"]);
    assert!(most.contains("asn=64500 ") && most.contains("AS64500 Operator 64500, ZZ"), "{most}");
    let top = host.ask(&["top"]);
    assert_eq!(top["busiest"][0]["origin"], origin, "{top:#}");
    let top = host.ask(&["top", "operators"]);
    assert_eq!((&top["keys"][0]["key"], &top["keys"][0]["origin"]), (&json!("asn=64500"), &origin), "{top:#}");
    // Unknown clients are found by what the log shows.
    host.connect("2001:db8:c::1");
    host.connect("2001:db8:c::1");
    let line = host.daemon.lines().wait_for("key=\"asn=2001:db8:c::/64\"");
    assert!(line.contains("REFUSED client=2001:db8:c::1 ") && !line.contains(" country="), "{line}");
    assert_eq!(host.ask(&["reset", "asn=2001:db8:c::/64"])["keys"], 1);
    assert_eq!(host.connect("2001:db8:c::1"), PASS);
    assert_eq!(host.ask(&["reset", "asn=64500"])["keys"], 1);
    assert!(host.are_one(["10.3.0.1", "10.4.0.1"]));
    host.daemon.stop();
}

#[test]
fn check_tells_of_the_databases() {
    let databases = Databases::new();
    let config = databases.config("[limit.operators]\nper = \"asn\"\nthreshold = 5\nmatch = { country = \"ZZ\" }\n");
    fs::write(databases.path("connshaper.toml"), config).unwrap();
    let check = |more: &[&str]| {
        let output =
            command().arg("check").arg("-c").arg(databases.path("connshaper.toml")).args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(&[]);
    assert!(said.contains("Each autonomous system "), "{said}");
    assert!(said.contains("where country is ZZ"), "{said}");
    assert!(said.contains("asn_database      GeoLite2-ASN, made 2026-01-02      /"), "{said}");
    let answer: Value = serde_json::from_str(&check(&["--json"])).unwrap();
    assert_eq!(answer["databases"][1]["type"], "GeoLite2-Country", "{answer:#}");
    assert_eq!(answer["databases"][1]["built"], 1_767_312_000, "{answer:#}");
}

#[test]
fn doctor_says_how_old_the_databases_are() {
    let databases = Databases::new();
    fs::write(databases.path("connshaper.toml"), databases.config("")).unwrap();
    let output = command().args(["doctor", "--json", "-c"]).arg(databases.path("connshaper.toml")).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let about =
        |what: &str| findings.iter().find(|finding| finding["what"].as_str().unwrap().starts_with(what)).unwrap();
    let found = about("asn_database (GeoLite2-ASN) was made ");
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().saturating_sub(1_767_312_000) / 86_400;
    assert_eq!(found["state"], if days > 90 { "doubtful" } else { "right" }, "{found:#}");
    about("country_database (GeoLite2-Country) was made ");
}

/// Networks of the large database, unless `CONNSHAPER_NETWORKS` says another number. GeoLite2-ASN has 500,000.
const NETWORKS: usize = 30_000;

#[test]
fn a_database_takes_its_size_in_memory_and_no_more_after_it_is_replaced() {
    let number = std::env::var("CONNSHAPER_NETWORKS").ok().and_then(|number| number.parse().ok()).unwrap_or(NETWORKS);
    // Of many lengths, spread over the address space; one in eight is IPv6.
    let network = |number: usize| {
        let scattered = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let net: IpNet = match number % 8 {
            0 => IpNet::new(
                Ipv6Addr::from((0x2000 | (scattered as u128 >> 51)) << 112 | (scattered as u128) << 64).into(),
                40,
            ),
            other => IpNet::new(Ipv4Addr::from((scattered >> 32) as u32).into(), 17 + other as u8),
        }
        .unwrap();
        let operator = 1 + number as u32 % 80_000;
        (net.trunc(), asn(operator, &format!("Operator {operator}, Example Networks Ltd")))
    };
    let content = mmdb("GeoLite2-ASN", &(0..number).map(network).collect::<Vec<_>>());
    let databases = Databases::new();
    databases.put("asn.mmdb", &content);
    let without = Daemon::start("");
    let begun = Instant::now();
    let daemon = Daemon::start(&format!("asn_database = {:?}\nlist_check_interval = 1", databases.path("asn.mmdb")));
    let start = begun.elapsed();
    let file = content.len() as u64 / 1024;
    let more = |daemon: &Daemon| resident(daemon.id()).saturating_sub(resident(without.id()));
    let first = more(&daemon);
    databases.put("asn.mmdb", &content);
    daemon.lines().wait_for("RELOADED ");
    // The old one goes when the last request that looks at it is answered.
    let second = until("one database in memory", || Some(more(&daemon)).filter(|more| *more < first + file / 2 + 2048));
    println!("{number} networks, {file} KiB: RSS more by {first} KiB, after a reread {second} KiB; start {start:?}");
    // What looks a file through keeps notes of its records meanwhile.
    assert!(first < file * 2 + 4096, "{file} KiB: {first} KiB");
}

#[test]
fn a_botnet_of_one_operator_is_one_key_for_postfix() {
    let databases = Databases::new();
    let daemon = Daemon::start(&databases.config("threshold = 2\n[limit.operators]\nper = \"asn\"\nthreshold = 5\n"));
    let postfix = Postfix::setup()
        .main_cf(&format!(
            "smtpd_client_restrictions = check_policy_service {}\nsmtpd_authorized_xclient_hosts = 127.0.0.1",
            daemon.endpoint()
        ))
        .start();
    let session = |client: &str| {
        let mut smtp = postfix.client("127.0.0.1");
        smtp.ehlo();
        smtp.command(format!("XCLIENT ADDR={client} NAME=[UNAVAILABLE]")).expect(220);
        smtp.ehlo();
        smtp.mail();
        smtp.rcpt()
    };
    // No client is near its own limit.
    let replies: Vec<_> = (0..12).map(|bot| session(&format!("10.{bot}.{bot}.7")).code).collect();
    assert_eq!(replies, [vec![250; 5], vec![450; 7]].concat());
    let reply = session("IPV6:2001:db8:a::1").expect(450);
    assert!(reply.text.contains("Too many connections from AS64500, try again in"), "{reply:?}");
    session("192.0.2.1").expect(250);
    session("198.51.100.1").expect(250);
    let line = daemon.lines().wait_for("REFUSED ");
    assert!(line.contains("client=10.5.5.7 key=\"asn=64500\" limit=operators"), "{line}");
    assert!(line.ends_with(" asn=64500 country=ZZ"), "{line}");
}

#[test]
fn counters_of_origins_are_texts_in_a_shared_store() {
    let databases = Databases::new();
    let config = databases.read(&databases.config("[limit.x]\nper = [\"asn\", \"country\"]\nthreshold = 3")).unwrap();
    let policy = connshaper::policy::Policy::new(&config.policy, None);
    let target = "asn=AS64500,country=ZZ".parse().unwrap();
    let target = policy.canonical_target(&target);
    let counted = policy.counters_of(&target);
    let mut key = String::new();
    counted[0].key(CounterKind::FixedWindow).write(&mut key).unwrap();
    assert_eq!(key, "connshaper:x/asn=64500,country=zz");
}
