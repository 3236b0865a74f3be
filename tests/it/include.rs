//! `include`: further files of a configuration, and how mistakes in them are reported.

use std::fs;
use std::path::Path;

use connshaper::config::{Config, ConfigError, ListKind};

use crate::support::command;

/// Reads a configuration beside these files.
fn read(directory: &Path, main: &str, files: &[(&str, &str)]) -> Result<Config, ConfigError> {
    fs::create_dir_all(directory.join("conf.d")).unwrap();
    for (name, text) in files {
        fs::write(directory.join(name), text).unwrap();
    }
    Config::parse(&directory.join("connshaper.toml"), main)
}

/// The first error with its place, without the directory.
fn wrong(main: &str, files: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let error = read(directory.path(), main, files).unwrap_err();
    error.summary().replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn included_files_add_limits_lists_and_netblocks() {
    let directory = tempfile::tempdir().unwrap();
    let main = "include = [\"conf.d/*.toml\", \"more\"]\nthreshold = 3\nblacklist_file = \"list\"\n[limit.a]\nthreshold = 1\n\
                [netblocks]\n\"192.0.2.0/24\" = 5\n";
    let files = [
        ("conf.d/20-b.toml", "whitelist = [\"198.51.100.1\", \".example.com\"]\n[limit.c]\nthreshold = 2\n"),
        (
            "conf.d/10-a.toml",
            "exptime = 30\n[limit.b]\nthreshold = 2\nexptime = 7\n[netblocks]\n\"192.0.2.7\" = \"blacklist\"\n",
        ),
        ("conf.d/not-included", "nonsense\n"),
        ("more", "blacklist_file = [\"other\"]\nwhitelist = [\"198.51.100.2\"]"),
        ("list", "203.0.113.1\n"),
        ("other", "203.0.113.2\n203.0.113.3\n"),
    ];
    let config = read(directory.path(), main, &files).unwrap();
    let limits: Vec<_> =
        config.policy.limits.iter().map(|limit| (&*limit.name, limit.threshold, limit.exptime)).collect();
    assert_eq!(limits, [("connections", 3, 30), ("a", 1, 30), ("b", 2, 7), ("c", 2, 30)]);
    // Where only included files have a whitelist, loopback stays exempt.
    let white: Vec<String> = config.whitelist().map(ToString::to_string).collect();
    assert_eq!(white, ["127.0.0.0/8", "::1/128", "198.51.100.1/32", "198.51.100.2/32"]);
    assert_eq!(config.policy.lists.names.len(), 1);
    let files: Vec<_> = config.list_files.iter().map(|file| (file.kind, file.netblocks)).collect();
    assert_eq!(files, [(ListKind::Black, 1), (ListKind::Black, 2)]);
    assert_eq!(config.warnings, []);
    assert!(read(directory.path(), "include = [\"conf.d/*.none\"]", &[]).is_ok(), "a package may have none yet");
}

#[test]
fn a_mistake_in_an_included_file_has_its_file_and_line_and_one_of_two_files_names_both() {
    let main = "include = [\"conf.d/a.toml\"]\nthreshold = 3\n[limit.x]\nthreshold = 1\n[netblocks]\n\"::1\" = 2\n";
    let a = |text| wrong(main, &[("conf.d/a.toml", text)]);
    for (text, expected) in [
        ("\nthreshold = 4\n", "conf.d/a.toml:2:1: `threshold` is set twice, also in connshaper.toml line 2"),
        ("[limit.x]\nthreshold = 9\n", "conf.d/a.toml:1:8: `limit.x` is set twice, also in connshaper.toml line 3"),
        (
            "[netblocks]\n\"::1\" = 2\n",
            "conf.d/a.toml:2:1: `netblocks.::1` is set twice, also in connshaper.toml line 6",
        ),
        ("exptime = 3\ntreshold = 4\n", "conf.d/a.toml:2:1: unknown key `treshold`"),
        (
            "[limit.y]\nthreshold = \"x\"\n",
            "conf.d/a.toml:2:13: `threshold` of limit `y` is a whole number, not a string",
        ),
        ("exptime = 3\nwindow = sliding\n", "conf.d/a.toml:2:10: a value without quotes"),
        ("include = [\"b\"]\n", "conf.d/a.toml:1:1: an included file includes no others"),
        ("exptime = \"1 year\"\n", "conf.d/a.toml:1:11: "),
        ("whitelist = [\"192.0.2.0/33\"]\n", "conf.d/a.toml:1:14: `192.0.2.0/33`: a prefix length of 33 is too long"),
    ] {
        let said = a(text);
        assert!(said.starts_with(expected), "{text}: {said}");
    }
    let said = wrong("\ninclude = [\"absent.toml\"]", &[]);
    assert!(said.starts_with("connshaper.toml:2:12: the included absent.toml cannot be read"), "{said}");
    let said = wrong("include = [\"conf.d\"]", &[]);
    assert!(said.starts_with("connshaper.toml:1:12: the included conf.d is not a file but a directory"), "{said}");
    let said = wrong("include = \"conf.d/*.toml\"", &[("conf.d/a.toml", "")]);
    assert!(said.starts_with("connshaper.toml:1:11: `include` is a list, not one string"), "{said}");
}

#[test]
fn check_says_in_which_file_a_key_is_set() {
    let directory = tempfile::tempdir().unwrap();
    let main = "include = [\"conf.d/*.toml\"]\n";
    read(directory.path(), main, &[("conf.d/window.toml", "\nexptime = 30\n"), ("connshaper.toml", main)]).unwrap();
    let output = command().args(["check", "-c"]).arg(directory.path().join("connshaper.toml")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.trim_start().starts_with("exptime ")).unwrap();
    assert!(line.ends_with("window.toml line 2"), "{line}");
}

#[test]
fn variables_wildcards_and_comments_behind_values_are_named_for_what_they_are() {
    let cases = [
        (
            "memcached_server = \"$MEMCACHED\"",
            "connshaper.toml:1:20: `memcached_server` has `$MEMCACHED`: variables of the environment are not replaced here",
        ),
        ("threshold = $THRESHOLD", "connshaper.toml:1:13: variables of the environment are not replaced here"),
        ("threshold = \"${THRESHOLD}\"", ""),
        ("whitelist = [\"${NET}/24\"]", "connshaper.toml:1:14: `whitelist` has `${NET}/24`: variables"),
        (
            "ban_time = \"1h\"\nban_command = [\"/bin/x\", \"$HOME\"]",
            "connshaper.toml:2:26: `ban_command` has `$HOME`: variables",
        ),
        ("listen = \"inet:*:10040\"", "connshaper.toml:1:10: `inet:*:10040` is not a valid address to listen at"),
        ("exptime 60\nthreshold 3 # inline\n", "connshaper.toml:2:13: this form has no comments behind values"),
        ("whitelist 10.0.0, 192.168.1.\t# ours\n", "connshaper.toml:1:30: this form has no comments behind values"),
        ("memcached_server $HOST\n", "connshaper.toml:1:18: variables of the environment are not replaced here"),
    ];
    for (text, expected) in cases {
        let said = wrong(text, &[]);
        assert!(said.starts_with(expected), "{text}: {said}");
    }
    let directory = tempfile::tempdir().unwrap();
    for right in [
        "text = \"It costs $US 5 {client}\"",
        "[match]\nclient_name = \"/^a$/\"",
        "whitelist = [\"/x$/\"]",
        "whitelist 10.0.0#\n",
    ] {
        let read = read(directory.path(), right, &[]);
        assert!(read.is_ok() || right.starts_with("whitelist 10"), "{right}: {read:?}");
    }
}
