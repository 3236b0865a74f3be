//! The list of what administrators said: how it changes, and how it lies in the store.

use std::io;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::engine::target::Target;
use crate::net::clock::Now;
use crate::policy::overrides::{MAX_OVERRIDES, Override, OverrideKind};

/// The version of the list's form.
const FORM: u64 = 1;

/// A change to the list.
#[derive(Clone, Debug)]
pub enum Change {
    /// Something is said of a netblock, in place of what was.
    Set(Override),
    /// What was said of this netblock no longer holds.
    Remove(IpNet),
    /// What was counted under a key was forgotten.
    Reset(KeyReset),
}

/// A reset of a key that is no address, which every host is to heed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReset {
    /// The key, as the log shows it.
    pub key: String,
    /// How long it is told, in seconds since the Unix epoch.
    pub ends: u64,
    /// Who said it, for people to read.
    pub by: String,
}

/// All of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverrideList {
    /// Of netblocks.
    pub words: Vec<Override>,
    /// Of keys, for a minute.
    pub keys: Vec<KeyReset>,
}

impl OverrideList {
    /// The list after these changes.
    pub fn after(mut self, changes: &[Change]) -> Self {
        for change in changes {
            let (netblock, reset) = match change {
                Change::Set(word) => (word.netblock, word.kind == OverrideKind::Reset),
                Change::Remove(netblock) => (*netblock, false),
                Change::Reset(reset) => {
                    self.keys.retain(|other| other.key != reset.key);
                    self.keys.push(reset.clone());
                    continue;
                }
            };
            // A reset is news, and stands beside what holds.
            self.words.retain(|word| word.netblock != netblock || (word.kind == OverrideKind::Reset) != reset);
            if let Change::Set(word) = change {
                self.words.push(word.clone());
            }
        }
        self
    }

    /// What of it has not ended.
    pub fn at(mut self, now: Now) -> Self {
        self.words.retain(|word| word.ends > now.unix());
        self.keys.retain(|reset| reset.ends > now.unix());
        self.words.truncate(MAX_OVERRIDES);
        self.keys.truncate(MAX_OVERRIDES);
        self
    }

    /// When each of it ends.
    pub fn ends(&self) -> impl Iterator<Item = u64> {
        self.words.iter().map(|word| word.ends).chain(self.keys.iter().map(|reset| reset.ends))
    }

    /// What was reset, and until when that is told.
    pub fn resets(&self) -> impl Iterator<Item = (Target, u64)> {
        let netblocks = self.words.iter().filter(|word| word.kind == OverrideKind::Reset);
        let netblocks = netblocks.map(|word| (Target::of_netblock(word.netblock), word.ends));
        netblocks.chain(self.keys.iter().map(|reset| (Target::Key(reset.key.clone()), reset.ends)))
    }
}

/// The list as it lies in the store.
pub fn spell(told: &OverrideList) -> String {
    let word = |word: &Override| json!({ "netblock": word.netblock.to_string(), "word": word.kind.name(), "ends": word.ends, "by": word.by });
    let key = |reset: &KeyReset| json!({ "key": reset.key, "ends": reset.ends, "by": reset.by });
    let words = told.words.iter().map(word).collect::<Vec<_>>();
    json!({ "v": FORM, "words": words, "keys": told.keys.iter().map(key).collect::<Vec<_>>() }).to_string()
}

/// Reads it.
///
/// # Errors
///
/// When it is none, or one of another version.
pub fn parse(value: &[u8]) -> io::Result<OverrideList> {
    let wrong = || io::Error::other("the list in memcached is not one of this version");
    let list: Value = serde_json::from_slice(value).map_err(|_| wrong())?;
    let words = list["words"].as_array().filter(|_| list["v"] == FORM).ok_or_else(wrong)?;
    let by = |said: &Value| Some(said["by"].as_str()?.chars().take(100).collect());
    let word = |word: &Value| {
        let kind = [OverrideKind::Allow, OverrideKind::Ban, OverrideKind::Reset]
            .into_iter()
            .find(|kind| word["word"] == kind.name())?;
        let (netblock, ends) = (word["netblock"].as_str()?.parse().ok()?, word["ends"].as_u64()?);
        Some(Override { netblock, kind, ends, by: by(word)? })
    };
    let key = |reset: &Value| match reset["key"].as_str()?.parse() {
        Ok(Target::Key(key)) => Some(KeyReset { key, ends: reset["ends"].as_u64()?, by: by(reset)? }),
        _ => None,
    };
    let words: Option<Vec<Override>> = words.iter().take(MAX_OVERRIDES).map(word).collect();
    let keys = list["keys"].as_array().into_iter().flatten().take(MAX_OVERRIDES).map(key);
    Ok(OverrideList { words: words.ok_or_else(wrong)?, keys: keys.collect::<Option<_>>().ok_or_else(wrong)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(netblock: &str, kind: OverrideKind) -> Override {
        Override { netblock: netblock.parse().unwrap(), kind, ends: 1_700_000_060, by: "root".to_owned() }
    }

    #[test]
    fn the_last_word_of_a_netblock_holds_and_a_reset_stands_beside_it() {
        let said = [
            Change::Set(word("192.0.2.0/24", OverrideKind::Ban)),
            Change::Set(word("192.0.2.0/24", OverrideKind::Reset)),
            Change::Set(word("192.0.2.0/24", OverrideKind::Allow)),
            Change::Set(word("2001:db8::/32", OverrideKind::Ban)),
        ];
        let told = OverrideList::default().after(&said);
        let kinds: Vec<_> = told.words.iter().map(|word| word.kind).collect();
        assert_eq!(kinds, [OverrideKind::Reset, OverrideKind::Allow, OverrideKind::Ban]);
        let told = told.after(&[Change::Remove("192.0.2.0/24".parse().unwrap())]);
        assert_eq!(told.words.len(), 2);
        let again = |ends| Change::Reset(KeyReset { key: "sender=joe".to_owned(), ends, by: "root".to_owned() });
        let told = told.after(&[again(10), again(20)]);
        assert_eq!((told.words.len(), told.resets().last()), (2, Some((Target::Key("sender=joe".to_owned()), 20))));
    }

    #[test]
    fn a_list_reads_back_as_it_was_written_and_nothing_else_is_one() {
        let words = vec![word("192.0.2.0/24", OverrideKind::Ban), word("2001:db8::1/128", OverrideKind::Allow)];
        let reset = KeyReset { key: "sasl_username=joe%20doe".to_owned(), ends: 1_700_000_060, by: "root".to_owned() };
        let told = OverrideList { words, keys: vec![reset] };
        assert_eq!(parse(spell(&told).as_bytes()).unwrap(), told);
        let address = "{\"v\":1,\"words\":[],\"keys\":[{\"key\":\"192.0.2.1\",\"ends\":1,\"by\":\"root\"}]}";
        let words = ["", "11", "{}", "{\"v\":2,\"words\":[]}", "{\"v\":1,\"words\":[{\"netblock\":\"x\"}]}"];
        for wrong in words.into_iter().chain([address]) {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}
