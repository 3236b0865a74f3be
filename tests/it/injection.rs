//! Values from clients stay values: a log entry is always one line, an answer always one action.

use std::path::Path;
use std::sync::LazyLock;

use connshaper::config::Config;
use connshaper::engine::service::Service;
use connshaper::listener::Peer;
use connshaper::net::shutdown::Shutdown;
use connshaper::observe::log::encode::MAX_LINE;
use connshaper::observe::log::{Log, Severity};
use connshaper::policy::Policy;
use connshaper::policy::door::Door;
use connshaper::policy::key_field::KeyField;
use connshaper::postfix::connection::PolicyConnection;
use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::mmdb;

/// Text that would end a line, an answer, a value or a field, or move a cursor, if it were not escaped.
const ODD: [&[u8]; 14] = [
    b"\r",
    b"\r\n",
    b"\0",
    b"\x1b[2J",
    b"\x7f",
    b"\"",
    b"\\",
    b" action=OK",
    b"{client}",
    b"\xff\xfe",
    "\u{85}".as_bytes(),
    "\u{2028}".as_bytes(),
    "\u{202e}".as_bytes(),
    b"REFUSED client=192.0.2.1",
];

proptest! {
    // Each case is a policy connection of its own, with counts of its own.
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn hostile_values_yield_one_action_per_request_and_whole_log_lines(requests in vec(request(), 1..8)) {
        let (answers, lines) = converse(&requests.concat());
        prop_assert_eq!(actions(&answers)?.len(), requests.len());
        printable(&lines)?;
        let told = lines.iter().any(|line| line.starts_with("REFUSED ") || line.starts_with("WOULD_REFUSE "));
        prop_assert!(told || requests.len() < 3, "nothing was refused, so nothing was tried: {lines:#?}");
    }

    #[test]
    fn arbitrary_bytes_yield_one_action_per_request_and_whole_log_lines(bytes in vec(piece(true), 0..40)) {
        let (answers, lines) = converse(&bytes.concat());
        actions(&answers)?;
        printable(&lines)?;
    }
}

/// A request that Postfix might send for a malicious client.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let known = NAMES.map(|name| name.as_bytes().to_vec()).to_vec();
    let name =
        prop_oneof![4 => select(known), 1 => vec(piece(false), 1..4).prop_map(|pieces| unnamed(pieces.concat()))];
    let value = vec(piece(false), 0..6).prop_map(|pieces| pieces.concat());
    let state = select(vec!["CONNECT", "RCPT", "DATA", "END-OF-MESSAGE", "VRFY"]);
    (state, vec((name, value), 0..12)).prop_map(|(state, attributes)| {
        let mut bytes = b"request=smtpd_access_policy\n".to_vec();
        for (name, value) in attributes {
            bytes.extend([name, b"=".to_vec(), value, b"\n".to_vec()].concat());
        }
        // Of a repeated attribute the last one counts.
        bytes.extend(format!("client_address=198.51.100.7\nprotocol_state={state}\n\n").into_bytes());
        bytes
    })
}

const NAMES: [&str; 15] = [
    "client_name",
    "reverse_client_name",
    "client_port",
    "server_address",
    "helo_name",
    "sender",
    "recipient",
    "recipient_count",
    "queue_id",
    "instance",
    "size",
    "stress",
    "sasl_username",
    "policy_context",
    "an_attribute_of_the_future",
];

/// An unknown attribute name, without characters that end a name.
fn unnamed(mut name: Vec<u8>) -> Vec<u8> {
    name.retain(|byte| *byte != b'=');
    name.insert(0, b'x');
    name
}

/// Some bytes, with line breaks or without.
fn piece(breaks: bool) -> impl Strategy<Value = Vec<u8>> {
    let odd = select(ODD.map(<[u8]>::to_vec).to_vec());
    let begun = select(vec![
        b"request=smtpd_access_policy\n".to_vec(),
        b"client_address=198.51.100.7\n".to_vec(),
        b"\n\n".to_vec(),
    ]);
    let any = vec(any::<u8>(), 0..30);
    prop_oneof![odd, "[a-z@.]{1,20}".prop_map(String::into_bytes), any, begun].prop_map(move |mut bytes| {
        bytes.retain(|byte| breaks || *byte != b'\n');
        bytes
    })
}

/// The answers of one policy connection, and the log lines.
fn converse(input: &[u8]) -> (Vec<u8>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = Log::in_memory(Severity::Debug);
        let service = Service::new(CONFIG.engine(), Policy::new(&CONFIG.policy, None), log.clone());
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut answers = Vec::new();
        let ask = async {
            // The daemon may hang up before it has read everything.
            let _ = client.write_all(input).await;
            let _ = client.shutdown().await;
            client.read_to_end(&mut answers).await.unwrap();
        };
        let connection = PolicyConnection::new(server, Peer::Unix, service.sessions.attach(None));
        tokio::join!(ask, connection.serve(&service, Shutdown::default()));
        (answers, log.lines())
    })
}

/// One limit for each attribute that a key may have, and an answer with every placeholder.
static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    let mut text = "
        threshold = 1
        whitelist = []
        action = \"REJECT\"
        text = \"{client} {limit} {count} {threshold} {left}\"\n"
        .to_owned();
    let directory = std::env::temp_dir().join(format!("connshaper-injection-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let halves = ["::/1", "8000::/1"].map(|half| half.parse::<IpNet>().unwrap());
    for (key, record) in [("asn_database", mmdb::asn(64500, "Example")), ("country_database", mmdb::country("ZZ"))] {
        std::fs::write(directory.join(key), mmdb::mmdb("Test", &halves.map(|half| (half, record.clone())))).unwrap();
        text += &format!("{key} = {:?}\n", directory.join(key));
    }
    let of_postfix = KeyField::WORDS.iter().filter(|(_, field)| field.is_at(Door::Smtp));
    for (number, (word, _)) in of_postfix.enumerate() {
        let log_only = number % 2 == 0;
        text +=
            &format!("[limit.{word}]\ncount = \"requests\"\nper = \"{word}\"\nthreshold = 1\nlog_only = {log_only}\n");
    }
    let config = Config::parse(Path::new("connshaper.toml"), text).unwrap_or_else(|error| panic!("{error}"));
    std::fs::remove_dir_all(directory).unwrap();
    config
});

/// The answers, each of which is one action line and an empty line.
fn actions(answers: &[u8]) -> Result<Vec<&str>, TestCaseError> {
    let text = str::from_utf8(answers).map_err(|error| TestCaseError::fail(error.to_string()))?;
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let whole = text.strip_suffix("\n\n");
    let actions: Vec<_> = whole.unwrap_or("").split("\n\n").collect();
    for action in &actions {
        let word = action.strip_prefix("action=").and_then(|action| action.split(' ').next());
        prop_assert!(matches!(word, Some("DUNNO" | "REJECT")), "{text:?}");
        prop_assert!(action.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text:?}");
    }
    Ok(actions)
}

fn printable(lines: &[String]) -> Result<(), TestCaseError> {
    for line in lines {
        prop_assert!(!line.contains(char::is_control) && !line.contains(['\u{2028}', '\u{202e}']), "{line:?}");
        prop_assert!(line.len() <= MAX_LINE, "{line:?}");
        let keyword = line.split(' ').next().unwrap_or("");
        let known = ["REFUSED", "WOULD_REFUSE", "PASSED", "BAD_REQUEST", "SUPPRESSED"];
        prop_assert!(known.contains(&keyword), "{line:?}");
    }
    Ok(())
}
