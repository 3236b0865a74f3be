//! A list file: the netblocks a plain reader finds in it, or a reason why it cannot be used.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use connshaper::config::Config;
use connshaper::policy::lists::ListEntry;

use super::configuration::{printable, show, use_it};

/// A netblock as text: what else it might be made of is none of the program's.
type Netblocks = BTreeSet<(IpAddr, u8)>;

/// Has a configuration name a file of this content; the first byte says as what.
pub fn run(data: &[u8]) {
    let (kind, content) = data.split_first().unwrap_or((&0, &[]));
    let white = kind & 1 == 0;
    let directory = Directory::new();
    fs::write(directory.0.join("list"), content).expect("there is room for a file");
    let text = format!("whitelist = []\n{}list_file = \"list\"\n", if white { "white" } else { "black" });
    match Config::parse(&directory.0.join("connshaper.toml"), text) {
        Ok(config) => {
            use_it(&config);
            compare(&config, white, content);
        }
        Err(error) => show(&error, content),
    }
}

fn compare(config: &Config, white: bool, content: &[u8]) {
    let (expected, is_all) = plain(content);
    let found: Netblocks =
        config.policy.lists.netblocks.iter().map(|(net, _)| (net.addr(), net.prefix_len())).collect();
    assert!(found.is_superset(&expected), "{found:?} {expected:?}");
    assert!(!is_all || found == expected, "{found:?} {expected:?}");
    for (net, entry) in &config.policy.lists.netblocks {
        assert_eq!(net.trunc(), *net);
        match entry {
            ListEntry::Whitelist => assert!(white),
            ListEntry::Blacklist(reason) => {
                assert!(!white);
                if let Some(reason) = reason {
                    printable(&config.policy.lists.reasons[reason.index()]);
                }
            }
            ListEntry::Rate(_) => panic!("a rate in a list"),
        }
    }
}

/// The netblocks of the lines that are a netblock and a comment, and whether there are no lines of other forms.
fn plain(content: &[u8]) -> (Netblocks, bool) {
    let text = String::from_utf8_lossy(content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content)).into_owned();
    let (mut netblocks, mut is_all) = (Netblocks::new(), true);
    for line in text.split('\n') {
        let line = line.split('#').next().unwrap_or("").trim();
        match netblock(line) {
            Some(netblock) => drop(netblocks.insert(netblock)),
            None => is_all &= line.is_empty(),
        }
    }
    (netblocks, is_all)
}

fn netblock(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    let (address, length) = match (address, address.to_canonical()) {
        (IpAddr::V6(_), IpAddr::V4(mapped)) if length >= 96 => (IpAddr::V4(mapped), length - 96),
        _ => (address, length),
    };
    let cleared = match address {
        IpAddr::V4(address) if length <= 32 => {
            IpAddr::V4((u32::from(address) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).into())
        }
        IpAddr::V6(address) if length <= 128 => {
            IpAddr::V6((u128::from(address) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).into())
        }
        _ => return None,
    };
    Some((cleared, length))
}

/// A directory of this run alone, gone with its value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("connshaper-fuzz-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is in the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
