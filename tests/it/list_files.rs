//! List files: their syntax, their errors, and how a change takes effect.

use std::fs;
use std::path::Path;
use std::time::Duration;

use connshaper::config::{Config, ConfigError, ListKind};
use connshaper::net::netblock::NetblockTable;
use connshaper::policy::lists::ListEntry;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::{self, Daemon, Dir, Policy};

const PASS: &str = "DUNNO";

/// A configuration with these keys, and the files `white` and `black` in its directory.
fn read(dir: &Path, keys: &str, white: &str, black: &str) -> Result<Config, ConfigError> {
    fs::write(dir.join("white"), white).unwrap();
    fs::write(dir.join("black"), black).unwrap();
    let text = format!("whitelist_file = \"white\"\nblacklist_file = [\"black\"]\n{keys}\n");
    Config::parse(&dir.join("connshaper.toml"), text)
}

fn says(config: &Config, client: &str) -> Option<(ListEntry, Option<String>)> {
    let set: NetblockTable<ListEntry> = config.policy.lists.netblocks.iter().copied().collect();
    let (_, entry) = set.lookup(client.parse().unwrap())?;
    let reason = match entry {
        ListEntry::Blacklist(Some(place)) => Some(config.policy.lists.reasons[place.index()].to_string()),
        _ => None,
    };
    Some((*entry, reason))
}

#[test]
fn list_files_add_to_the_configured_lists_and_keep_comments() {
    let dir = tempfile::tempdir().unwrap();
    let black =
        "# comments\n\n  192.0.2.0/24\t# spam\r\n2001:db8::/32#spam\n198.51.100.7 REJECT go away # then\n203.0.113.1";
    let keys = "blacklist = [\"203.0.113.2\"]\n[netblocks]\n\"203.0.113.3\" = { threshold = 0, reason = \"own\" }";
    let config = read(dir.path(), keys, "192.0.2.7 # ours\n", black).unwrap();
    let reason = |client| match says(&config, client) {
        Some((ListEntry::Blacklist(_), reason)) => reason,
        other => panic!("{client}: {other:?}"),
    };
    assert_eq!(reason("192.0.2.1").as_deref(), Some("spam"));
    assert_eq!(reason("2001:db8::1").as_deref(), Some("spam"));
    assert_eq!(reason("198.51.100.7").as_deref(), Some("REJECT go away"));
    assert_eq!(reason("203.0.113.3").as_deref(), Some("own"));
    assert_eq!((reason("203.0.113.1"), reason("203.0.113.2")), (None, None));
    assert_eq!(config.policy.lists.reasons.len(), 3, "{:?}", config.policy.lists.reasons);
    // The longest netblock decides, in whichever list it is; loopback is still exempt.
    for client in ["192.0.2.7", "127.0.0.1"] {
        assert_eq!(says(&config, client), Some((ListEntry::Whitelist, None)), "{client}");
    }
    let files: Vec<_> = config.list_files.iter().map(|file| (file.kind, file.netblocks)).collect();
    assert_eq!(files, [(ListKind::White, 1), (ListKind::Black, 4)]);
    assert_eq!(config.warnings, []);
}

#[test]
fn an_error_in_a_list_has_file_line_and_remedy() {
    let cases = [
        ("", "192.0.2.0/24 x\n10.0.0\n", "black:2:1: `10.0.0`: not an address or netblock"),
        ("", "\n   192.0.2.0/33\n", "black:2:4: `192.0.2.0/33`: a prefix length of 33 is too long"),
        ("", "::1 OK\n", "black:1:1: the line says `OK`, but this is a blacklist"),
        ("# x\n::1 554 spam", "", "white:2:1: the line says `554`, but this is a whitelist"),
        ("example", "", "white:1:1: `example`: not an address or netblock"),
        ("a.example.org b.example.org", "", "white:1:1: two entries on a line"),
        ("", "/(x/\n", "black:1:1: `(x` is not a valid regular expression: unclosed group"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (white, black, expected) in cases {
        let error = read(dir.path(), "", white, black).unwrap_err();
        let expected = format!("{}/{expected}", dir.path().display());
        assert_eq!(error.summary(), expected);
        assert!(error.to_string().contains("= help: "), "{error}");
    }
    // All errors are reported in one run.
    let error = read(dir.path(), "treshold = 3", "x\n", "y\nz\n").unwrap_err();
    assert_eq!(error.diagnostics.len(), 4, "{error}");
    let error = read(dir.path(), "", "", &"x\n".repeat(10_000)).unwrap_err();
    assert_eq!(error.diagnostics.len() + error.more, 10_000);
}

#[test]
fn of_equal_netblocks_the_more_lenient_list_wins_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let keys =
        "whitelist = [\"192.0.2.1\"]\nblacklist = [\"192.0.2.5\"]\n[netblocks]\n\"192.0.2.2\" = 9\n\"192.0.2.3\" = 9\n";
    let config = read(
        dir.path(),
        keys,
        "192.0.2.3\n192.0.2.4\n192.0.2.5\n192.0.2.9/24\n",
        "192.0.2.1\n192.0.2.2\n192.0.2.4\n0.0.0.0/0\n",
    )
    .unwrap();
    for client in ["192.0.2.1", "192.0.2.3", "192.0.2.4", "192.0.2.5"] {
        assert_eq!(says(&config, client), Some((ListEntry::Whitelist, None)), "{client}");
    }
    assert!(matches!(says(&config, "192.0.2.2"), Some((ListEntry::Rate(_), _))));
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let place = format!("{}/", dir.path().display());
    let warnings: Vec<String> = warnings.iter().map(|warning| warning.replace(&place, "")).collect();
    let expected = [
        "white:1:1: 192.0.2.3/32 has a threshold in `netblocks`, which has no effect: it is on the whitelist",
        "white:2:1: 192.0.2.4/32 is on the blacklist too: it passes",
        "white:3:1: 192.0.2.5/32 is on the blacklist too: it passes",
        "white:4:1: `192.0.2.9/24` has host bits set, taken as 192.0.2.0/24",
        "black:1:1: 192.0.2.1/32 is on the whitelist too: it passes",
        "black:2:1: 192.0.2.2/32 has a threshold in `netblocks`, so it is not refused",
        "black:4:1: 0.0.0.0/0 refuses every IPv4 client",
    ];
    assert_eq!(warnings, expected);
}

#[test]
fn an_empty_list_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let config = read(dir.path(), "", "# nothing yet\n", "192.0.2.1").unwrap();
    assert!(config.warnings[0].to_string().ends_with("/white:1:1: there is no netblock in this list"));
}

#[test]
fn a_list_must_be_a_regular_file_of_bounded_size() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("huge");
    fs::File::create(&file).unwrap().set_len(65 << 20).unwrap();
    mkfifo(&dir.path().join("pipe"), Mode::S_IRWXU).unwrap();
    for (path, problem) in [
        ("huge", "huge is larger than 64 MiB"),
        ("/dev/zero", "/dev/zero is not a file but a device"),
        ("pipe", "pipe is not a file but a named pipe"),
        ("absent", "cannot be read"),
    ] {
        let error = Config::parse(&dir.path().join("c"), format!("\nblacklist_file = \"{path}\"")).unwrap_err();
        assert!(error.summary().contains(problem), "{error}");
        assert_eq!(error.diagnostics[0].snippet.as_ref().map(|spot| (spot.line, spot.column)), Some((2, 18)));
    }
}

#[test]
fn only_the_lists_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let before = read(dir.path(), "threshold = 3", "192.0.2.1", "192.0.2.2").unwrap();
    fs::write(dir.path().join("black"), "192.0.2.3 # new").unwrap();
    let after = before.with_lists_read_again().unwrap();
    assert_eq!(says(&after, "192.0.2.2"), None);
    assert_eq!(says(&after, "192.0.2.3").unwrap().1.as_deref(), Some("new"));
    assert_eq!(says(&after, "192.0.2.1"), Some((ListEntry::Whitelist, None)));
    assert_eq!(after.policy.limits, before.policy.limits);
    assert_ne!(after.list_files[1].stamp, before.list_files[1].stamp);
    fs::remove_file(dir.path().join("black")).unwrap();
    let error = after.with_lists_read_again().unwrap_err();
    assert!(error.summary().contains("black"), "{error}");
}

#[test]
fn published_lists_are_read_as_they_are() {
    let lists = [
        (
            "; Spamhaus DROP List 2026/01/02 - (c) 2026 The Spamhaus Project\n; Last-Modified: Fri, 02 Jan 2026\n\
             192.0.2.0/24 ; SBL256894\n198.51.100.0/25 ; SBL434604\n",
            2,
            "SBL256894",
        ),
        (
            "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL256894\",\"rir\":\"apnic\"}\n\
             {\"cidr\":\"2001:db8::/29\",\"sblid\":\"SBL1\",\"rir\":\"apnic\"}\n\
             {\"type\":\"metadata\",\"timestamp\":1784054642,\"size\":99,\"records\":2,\"copyright\":\"(c) 2026\"}\n",
            2,
            "SBL256894",
        ),
        ("# last updated 1767312061 (Fri Jan  2 00:01:01 2026 GMT)\n192.0.2.0/24\n10.0.0.0/8\n100.64.0.0/10\n", 3, ""),
        (
            "#\n# firehol_level1\n#\n# ipv4 hash:net ipset\n#\n# Entries        : 4496 subnets, 611 unique IPs\n#\n\
             192.0.2.0/24\n5.134.128.7\n",
            2,
            "",
        ),
        ("192.0.2.1\n2001:db8::7\n198.51.100.7\n", 3, ""),
        (
            "#    If a range is assigned to multiple users, the first one is listed.\n#\n\
             Start\tEnd\tNetmask\tAttacks\tName\tCountry\temail\n\
             192.0.2.0\t192.0.2.255\t24\t9424\tEXAMPLE-AS ,\tRU\tabuse@example.net\n",
            1,
            "24 9424 EXAMPLE-AS , RU abuse@example.net",
        ),
        (
            "\"first_seen_utc\",\"dst_ip\",\"dst_port\",\"malware\"\r\n\
             \"2026-01-01 00:00:00\",\"192.0.2.1\",\"443\",\"Emotet\"\r\n",
            1,
            "2026-01-01 00:00:00 443 Emotet",
        ),
        ("// routers\n192.0.2.0 255.255.255.0 // ours\n198.51.100.0 /24\n203.0.113.1 - 203.0.113.2\n", 4, "ours"),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (list, netblocks, reason) in lists {
        let config = read(dir.path(), "", "", list).unwrap_or_else(|error| panic!("{list}{error}"));
        assert_eq!(config.list_files[1].netblocks, netblocks, "{list}");
        let (entry, said) = says(&config, "192.0.2.1").unwrap_or_else(|| panic!("{list}"));
        assert!(matches!(entry, ListEntry::Blacklist(_)), "{list}");
        assert_eq!(said.unwrap_or_default(), reason, "{list}");
    }
    // Half of a line would be another client.
    for (list, expected) in [
        ("192.0.2.1\n192.0.2.0 192.0.2.99\n", "black:2:1: two addresses: are they two clients or the ends of a range?"),
        ("192.0.2.0/24, 198.51.100.0/240\n", "black:1:15: `198.51.100.0/240`: not an address or netblock"),
        ("{\"asn\":64500,\"rir\":\"arin\"}\n", "black:1:1: this JSON object has no netblock"),
    ] {
        let error = read(dir.path(), "", "", list).unwrap_err();
        assert_eq!(error.summary(), format!("{}/{expected}", dir.path().display()));
    }
}

/// Replaces a list by renaming a new file, as the manual says.
fn replace(dir: &Dir, name: &str, content: &str) {
    dir.write("new", content);
    fs::rename(dir.join("new"), dir.join(name)).unwrap();
}

#[test]
fn a_changed_list_takes_effect_without_a_signal() {
    let dir = Dir::new();
    dir.write("black", "192.0.2.1 # spam\n");
    let config = format!("blacklist_file = {:?}\nlist_check_interval = 1\n", dir.join("black"));
    let mut daemon = Daemon::start(&config);
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 0;
    let mut is_refused = |client: &str| {
        port += 1;
        policy.connected(client, port) != PASS
    };
    assert!(is_refused("192.0.2.1") && !is_refused("192.0.2.2"));
    // Only the lists are read again: this configuration would be an error.
    fs::write(daemon.config(), "treshold = 1\n").unwrap();
    replace(&dir, "black", "192.0.2.2 # spam\n");
    let line = daemon.lines().wait_for("RELOADED");
    assert!(line.contains("black") && line.contains(" blacklist=1"), "{line}");
    assert!(!is_refused("192.0.2.1") && is_refused("192.0.2.2"));
    // After an error the old list stays, and the error is logged once.
    replace(&dir, "black", "192.0.2.1\nexample\n");
    let line = daemon.lines().wait_for("RELOAD_FAILED");
    assert!(line.contains("black:2:1"), "{line}");
    assert!(!is_refused("192.0.2.1") && is_refused("192.0.2.2"));
    assert_eq!(daemon.lines().wait_within(Duration::from_millis(2500), "RELOAD_FAILED", 1), None);
    replace(&dir, "black", "192.0.2.1\n");
    daemon.lines().wait_for_more("RELOADED", 1);
    assert!(is_refused("192.0.2.1") && !is_refused("192.0.2.2"));
    daemon.stop();
}

#[test]
fn a_list_that_became_a_pipe_blocks_neither_reload_nor_start() {
    let dir = Dir::new();
    dir.write("black", "192.0.2.1\n");
    let config = format!("blacklist_file = {:?}\nlist_check_interval = 1\n", dir.join("black"));
    let mut daemon = Daemon::start(&config);
    let pipe = dir.join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    fs::rename(&pipe, dir.join("black")).unwrap();
    for reload in 0..2 {
        let line = match reload {
            0 => daemon.lines().wait_for("RELOAD"),
            _ => daemon.reload(&config),
        };
        assert!(line.starts_with("RELOAD_FAILED") && line.contains("black is not a file but a named pipe"), "{line}");
    }
    assert_ne!(Policy::connect(daemon.endpoint()).connected("192.0.2.1", 1), PASS, "the old list stays");
    let started = support::command().args(["serve", "-c"]).arg(daemon.config()).output().unwrap();
    let said = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(78), "{said}");
    assert!(
        said.contains("black is not a file but a named pipe") && said.contains("= help: name a plain file"),
        "{said}"
    );
    daemon.stop();
}

#[test]
fn a_list_that_shrank_is_kept_as_it_was_and_others_are_not() {
    let dir = Dir::new();
    let list = |clients: std::ops::Range<u8>, reason: &str| -> String {
        clients.map(|last| format!("192.0.2.{last} # {reason}\n")).collect()
    };
    dir.write("one", &list(0..10, "one"));
    dir.write("two", &list(10..20, "two"));
    dir.write("white", "192.0.2.200\n192.0.2.201\n");
    let files = format!(
        "blacklist_file = [{:?}, {:?}]\nwhitelist_file = {:?}\nblacklist = [\"198.51.100.1\"]\n",
        dir.join("one"),
        dir.join("two"),
        dir.join("white")
    );
    let config = format!("{files}list_check_interval = 1\n");
    let mut daemon = Daemon::start(&config);
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 0;
    let mut is_refused = |client: &str| {
        port += 1;
        policy.connected(client, port) != PASS
    };
    // A download that failed, while another list has changed.
    replace(&dir, "two", &list(30..40, "new"));
    replace(&dir, "one", "# 503 Service Unavailable\n");
    let said = |warning: &'static str| {
        support::until(warning, || daemon.lines().with("CONFIGURATION").into_iter().find(|line| line.contains(warning)))
    };
    let line = said("the list shrank from 10 entries to 0, so it is kept as it was");
    assert!(line.contains("/one:1:1: "), "{line}");
    let refused = ["192.0.2.0", "192.0.2.9", "192.0.2.30", "198.51.100.1"];
    assert!(refused.iter().all(|client| is_refused(client)), "{}", daemon.lines());
    assert!(["192.0.2.10", "192.0.2.200"].iter().all(|client| !is_refused(client)));
    // At half of them it is believed; below that at a reload by hand no more than by itself.
    replace(&dir, "one", &list(0..5, "one"));
    support::until("another list", || (!is_refused("192.0.2.9")).then_some(()));
    assert!(is_refused("192.0.2.0"));
    replace(&dir, "one", &list(0..2, "one"));
    replace(&dir, "white", "192.0.2.201\n");
    daemon.reload(&config);
    assert!(is_refused("192.0.2.4") && is_refused("192.0.2.30"));
    daemon.reload(&format!("{config}list_may_shrink = true\n"));
    assert!(is_refused("192.0.2.1") && !is_refused("192.0.2.4"));
    daemon.stop();
}

#[test]
fn a_reload_reads_the_lists_again() {
    let dir = Dir::new();
    dir.write("white", "192.0.2.1\n");
    let config = format!("whitelist_file = {:?}\nthreshold = 1\n", dir.join("white"));
    let mut daemon = Daemon::start(&config);
    let mut policy = Policy::connect(daemon.endpoint());
    assert_eq!(policy.connected("192.0.2.1", 1), PASS);
    assert_eq!(policy.connected("192.0.2.1", 2), PASS);
    replace(&dir, "white", "192.0.2.\n");
    let line = daemon.reload(&config);
    assert!(line.contains("RELOAD_FAILED") && line.contains("white:1:1"), "{line}");
    assert_eq!(policy.connected("192.0.2.1", 3), PASS);
    replace(&dir, "white", "192.0.2.2\n");
    let line = daemon.reload(&config);
    assert!(line.contains("RELOADED"), "{line}");
    assert_eq!(policy.connected("192.0.2.1", 4), PASS);
    assert_ne!(policy.connected("192.0.2.1", 5), PASS);
    daemon.stop();
}

#[test]
fn lists_have_names_that_postfix_has_verified() {
    let dir = Dir::new();
    // As Debian ships it, but shorter.
    let postgrey = "# postgrey whitelist for mail client hostnames\n# ---\n\nsouthwest.com\n/^mail\\d+\\.telekom\\.de$/\n195.235.39\n";
    dir.write("white", postgrey);
    dir.write("black", ".dyn.example.net REJECT dial-up # x\n");
    let daemon = Daemon::start(&format!(
        "threshold = 1\nwhitelist = [\"mail.example.com\", \"192.0.2.0/24\"]\nblacklist = [\".example.net\", \"192.0.2.7\"]\n\
         whitelist_file = {:?}\nblacklist_file = {:?}\nblacklist_text = \"no\"\n",
        dir.join("white"),
        dir.join("black")
    ));
    let mut policy = Policy::connect(daemon.endpoint());
    let mut port = 0;
    // The answer to its second connection.
    let mut is_passed = |client: &str, name: &str| {
        let mut ask = || {
            port += 1;
            policy.ask(&[
                "protocol_state=CONNECT",
                &format!("client_address={client}"),
                &format!("client_port={port}"),
                &format!("client_name={name}"),
                // Anyone can claim a name.
                "reverse_client_name=mail.example.com",
                "helo_name=mail.example.com",
            ])
        };
        ask();
        match ask().as_str() {
            PASS => Some(true),
            answer if answer.ends_with(" no") => Some(false),
            _ => None,
        }
    };
    for name in ["mail.example.com", "MAIL.example.com", "a.b.southwest.com", "southwest.com", "mail7.telekom.de"] {
        assert_eq!(is_passed("198.51.100.1", name), Some(true), "{name}");
    }
    for name in ["unknown", "", "x.mail.example.com", "notsouthwest.com", "mail.telekom.de"] {
        assert_eq!(is_passed("198.51.100.2", name), None, "{name}");
    }
    for name in ["example.net", "a.example.net", "a.dyn.example.net"] {
        assert_eq!(is_passed("198.51.100.3", name), Some(false), "{name}");
    }
    assert_eq!(is_passed("195.235.39.1", "unknown"), Some(true));
    // A netblock on the whitelist passes whatever the name, and a name whatever the netblock.
    assert_eq!(is_passed("192.0.2.1", "a.example.net"), Some(true));
    assert_eq!(is_passed("192.0.2.7", "mail.example.com"), Some(true));
    assert_eq!(is_passed("192.0.2.7", "unknown"), Some(false));
    is_passed("198.51.100.4", "a.dyn.example.net");
    let refused = daemon.lines().wait_for("REFUSED client=198.51.100.4 ");
    let expected = "key=198.51.100.4 limit=blacklist reason=blacklisted count=0 threshold=0 left=0 \
                    verdict=DEFER_IF_PERMIT suppressed=0 note=\"REJECT dial-up\"";
    assert!(refused.ends_with(expected), "{refused}");
}
