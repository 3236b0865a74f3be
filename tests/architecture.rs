//! The rooms of the source and who may import whom: a room imports only rooms above it in the table. And no type's name
//! stands for two things.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The rooms of `src/` in their order, with what each holds.
const ROOMS: [(&str, &str); 16] = [
    ("sysexits", "exit codes"),
    ("net", "what knows nothing of mail or limits: addresses, netblocks, streams, resolving, clock, shutdown"),
    ("snapshot", "framed, versioned, checksummed sections of values"),
    ("observe", "log, statistics, the text of metrics, rates, what doctor finds"),
    ("policy", "the decision: pure"),
    ("session", "which SMTP session a request is about, and what it remembers"),
    ("store", "where hits are counted"),
    ("listener", "sockets that accept, and who may connect"),
    ("engine", "one request from its session to its decision and effects; reload; overrides"),
    ("config", "files to settings"),
    ("postfix", "the policy protocol, policy connections, inetd"),
    ("control", "the control socket and its protocol"),
    ("http", "the front doors over HTTP, and metrics"),
    ("daemon", "start, reload, signals, readiness, state file, hand-over"),
    ("maillog", "Postfix's logs: advise and replay"),
    ("cli", "arguments, and what each command prints"),
];

/// Entries of `src/`: the rooms, `main.rs` and `lib.rs`.
const MAX_ENTRIES: usize = 18;

#[test]
fn rooms_import_only_rooms_above_them() {
    let mut broken = Vec::new();
    for (path, room) in sources() {
        for (line, import) in imports(&fs::read_to_string(&path).unwrap()) {
            if rank(&import).is_some_and(|imported| imported > rank(&room).unwrap()) {
                broken.push(format!(
                    "{}:{line}: `{room}` imports `crate::{import}`, which stands below it: \
                     {room} may import {}",
                    path.display(),
                    above(&room)
                ));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

/// Type names that may stand for several things.
const SHARED_TYPE_NAMES: [&str; 1] = ["Error"];

#[test]
fn no_two_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, _) in sources() {
        for (line, name) in types(&fs::read_to_string(&path).unwrap()) {
            places.entry(name).or_default().push(format!("{}:{line}", path.display()));
        }
    }
    places.retain(|name, places| places.len() > 1 && !SHARED_TYPE_NAMES.contains(&name.as_str()));
    assert!(places.is_empty(), "rename all but one of each: {places:#?}");
}

#[test]
fn types_are_found_in_every_form() {
    let text = "pub struct One;\npub(crate) enum Two<'a> {}\ntrait Three {\n    type Associated;\n}\n\
                type Four = u8;\nfn f() {\n    struct Five(u8);\n}\n// struct Six;\n\
                #[cfg(test)]\nmod tests {\n    struct Seven;\n}\n";
    let found: Vec<_> = types(text).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(found, ["1 One", "2 Two", "3 Three", "6 Four", "8 Five"]);
}

#[test]
fn every_entry_of_src_is_a_room_of_the_table() {
    let entries: BTreeSet<String> = fs::read_dir("src")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    let rooms = ROOMS.iter().map(|(name, _)| (*name).to_owned()).chain(["main".to_owned(), "lib".to_owned()]);
    assert_eq!(entries, rooms.collect(), "tests/architecture.rs lists the rooms of src/");
    assert!(entries.len() <= MAX_ENTRIES);
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::net::clock::Now;\n\
                use crate::{config, policy::{self, Limit}};\n\
                // crate::cli is not imported by a comment\n\
                fn f() -> crate::store::Store { crate::engine::service::new() }\n\
                #[cfg(test)]\nmod tests {\n    use crate::cli::Check;\n}\n";
    let found: Vec<_> = imports(text).into_iter().map(|(line, room)| format!("{line} {room}")).collect();
    assert_eq!(found, ["1 net", "2 config", "2 policy", "4 store", "4 engine"]);
}

/// Every source file of a room, and the room. Tests may look at everything.
fn sources() -> Vec<(PathBuf, String)> {
    let (mut found, mut folders) = (Vec::new(), vec![PathBuf::from("src")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let room = room(&path);
                if rank(&room).is_some() {
                    found.push((path, room));
                }
            }
        }
    }
    assert!(found.len() > 50, "the sources are found");
    found
}

fn room(path: &Path) -> String {
    let entry = path.iter().nth(1).unwrap().to_str().unwrap();
    entry.trim_end_matches(".rs").to_owned()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|(name, _)| *name == room)
}

fn above(room: &str) -> String {
    let names: Vec<_> = ROOMS[..rank(room).unwrap()].iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

/// A file without its unit tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The types that a file defines, with their lines; not those of its unit tests, nor associated types.
fn types(text: &str) -> Vec<(usize, String)> {
    let defined = |(number, line): (usize, &str)| {
        let item = line.trim_start();
        let item = item.strip_prefix("pub").map_or(item, |rest| rest.split_once(' ').map_or("", |(_, item)| item));
        let (kind, name) = item.split_once(' ')?;
        let is_type = ["struct", "enum", "trait"].contains(&kind) || kind == "type" && !line.starts_with(' ');
        is_type.then(|| (number + 1, identifier(name).to_owned()))
    };
    code(text).lines().enumerate().filter_map(defined).collect()
}

/// The rooms that a file names after `crate::`, with their lines; not those of its unit tests and comments.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in code(text).lines().enumerate() {
        let line = line.split("//").next().unwrap();
        for (place, _) in line.match_indices("crate::") {
            let rest = &line[place + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => found.extend(heads(group).into_iter().map(|name| (number + 1, name))),
                None => found.push((number + 1, identifier(rest).to_owned())),
            }
        }
    }
    found
}

/// The first name of each path in the braces of `use crate::{...}`.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut begins) = (0, Vec::new(), true);
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && depth == 0 && !character.is_whitespace() => {
                heads.push(identifier(&group[place..]).to_owned());
                begins = false;
            }
            _ => {}
        }
    }
    heads
}

fn identifier(text: &str) -> &str {
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_');
    &text[..end.unwrap_or(text.len())]
}
