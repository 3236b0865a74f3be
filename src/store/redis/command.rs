//! Commands for counters as a server takes them, and its answers. No I/O.
//!
//! Where a server allows scripts, all that waits is one call of `counters.lua`. Elsewhere each command is a few plain
//! ones, those that change a counter within MULTI and EXEC: a counter gets its expiry before its count, so none is
//! ever left without.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script, ServerError, Value};
use smallvec::SmallVec;

use crate::policy::sliding_window;
use crate::store::shared::backend::{CounterCommand, CounterReply, KeyText, Slide};

/// The script; a server knows it by its hash once it has seen it.
pub static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(CODE));

const CODE: &str = include_str!("counters.lua");

/// How a server is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandForm {
    /// By the script, whose hash it may have forgotten: then all of it is sent.
    Script { whole: bool },
    /// By plain commands: it allows no scripts.
    Plain,
}

/// One command to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisCommand {
    pub key: KeyText,
    pub command: CounterCommand,
    /// Seconds that the counter lives, where the command sets that.
    pub exptime: u32,
    /// See [`CounterRequest`](crate::store::shared::backend::CounterRequest); only the script takes notice.
    pub is_known: bool,
    /// Milliseconds since the Unix epoch. Only windows without a script need it; the script has the server's clock.
    pub unix_ms: u64,
    /// The key's slot is being migrated to the node, which serves it only after ASKING.
    pub asking: bool,
}

/// What a server made of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisReply {
    Reply(CounterReply),
    /// More was taken back than there was: the counter is below 0 by this, until it is given back.
    Below(u32),
    /// It said this instead, and did nothing.
    Refused(String),
}

/// What is to be done about a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerRefusal {
    /// The key holds something that is not ours.
    NotANumber,
    /// Another node has the key. `ask`: its slot is being migrated there (ASK, not MOVED).
    Elsewhere {
        address: String,
        ask: bool,
    },
    /// No node of the cluster has the key.
    Nowhere,
    /// The server does not know the script any more.
    NoScript,
    /// The server cannot do this for any key now.
    Unusable,
    Other,
}

impl ServerRefusal {
    /// The meaning of what a server says.
    pub fn of(text: &str) -> Self {
        let mut words = text.split(' ');
        let first = words.next().unwrap_or_default();
        match first {
            "WRONGTYPE" => Self::NotANumber,
            "ERR" if text.contains("not an integer") => Self::NotANumber,
            "NOSCRIPT" => Self::NoScript,
            "READONLY" | "LOADING" | "MASTERDOWN" | "NOAUTH" | "WRONGPASS" | "NOREPLICAS" | "MISCONF" => Self::Unusable,
            "CLUSTERDOWN" if text.contains("slot") => Self::Nowhere,
            "CLUSTERDOWN" => Self::Unusable,
            // The next connection finds out what is left to do.
            "NOPERM" if text.contains("'eval") => Self::Unusable,
            "MOVED" | "ASK" => match words.nth(1) {
                Some(address) => Self::Elsewhere { address: address.to_owned(), ask: first == "ASK" },
                None => Self::Other,
            },
            _ => Self::Other,
        }
    }
}

/// Appends the commands of a batch, and returns how many answers the server gives. `together`: one call of the script
/// does them all; in a cluster each key has a call of its own.
pub fn write(batch: &[&RedisCommand], form: CommandForm, together: bool, output: &mut Pipeline) -> usize {
    match form {
        CommandForm::Script { whole } if together => output_script(batch, whole, output),
        CommandForm::Script { whole } => {
            for (number, one) in batch.iter().enumerate() {
                asking(one, output);
                output_script(&[one], whole && number == 0, output);
            }
        }
        CommandForm::Plain => {
            for one in batch {
                asking(one, output);
                one.write_plain(output);
            }
        }
    }
    output.len()
}

/// Takes the answers to a batch that was written so, one for each command.
pub fn read(batch: &[&RedisCommand], form: CommandForm, together: bool, values: Vec<Value>) -> Option<Vec<RedisReply>> {
    let mut values = values.into_iter();
    match form {
        CommandForm::Script { .. } if together => of_script(batch.len(), values.next()?),
        CommandForm::Script { .. } => {
            let mut answers = Vec::with_capacity(batch.len());
            for one in batch {
                if one.asking {
                    values.next()?;
                }
                answers.extend(of_script(1, values.next()?)?);
            }
            Some(answers)
        }
        CommandForm::Plain => batch.iter().map(|one| one.read_plain(&mut values)).collect(),
    }
}

fn asking(one: &RedisCommand, output: &mut Pipeline) {
    if one.asking {
        output.cmd("ASKING");
    }
}

fn output_script(batch: &[&RedisCommand], whole: bool, output: &mut Pipeline) {
    let mut call = Cmd::new();
    match whole {
        true => call.arg("EVAL").arg(CODE),
        false => call.arg("EVALSHA").arg(SCRIPT.get_hash()),
    };
    call.arg(batch.len());
    for one in batch {
        call.arg(&one.key[..]);
    }
    // Most are alike, and their arguments are sent once.
    for alike in batch.chunk_by(|one, next| (one.command, one.exptime) == (next.command, next.exptime)) {
        call.arg(alike.len());
        alike[0].write_arguments(&mut call);
        if matches!(alike[0].command, CounterCommand::Hit(_)) {
            let known: SmallVec<[u8; 128]> = alike.iter().map(|one| b'0' + u8::from(one.is_known)).collect();
            call.arg(&known[..]);
        }
    }
    output.add_command(call);
}

/// A text that a server answered.
pub fn text_of(error: &ServerError) -> String {
    match error.details() {
        Some(details) => format!("{} {details}", error.code()),
        None => error.code().to_owned(),
    }
}

fn of_script(commands: usize, value: Value) -> Option<Vec<RedisReply>> {
    let mut values = match value {
        Value::Array(values) => values.into_iter(),
        Value::ServerError(error) => return Some(vec![RedisReply::Refused(text_of(&error)); commands]),
        _ => return None,
    };
    let Value::BulkString(pairs) = values.next()? else { return None };
    let errors = values.as_slice();
    let reply = |pair: &[[u8; 8]; 2]| {
        let [count, left] = pair.map(i64::from_le_bytes);
        Some(match left {
            -4 => RedisReply::Refused(text_in(errors.get(usize::try_from(count).ok()?.checked_sub(1)?)?)),
            -3 => RedisReply::Reply(CounterReply::NotDone),
            -2 => RedisReply::Reply(CounterReply::Done),
            left => counted(count, left),
        })
    };
    let (numbers, rest) = pairs.as_chunks();
    let (pairs, odd) = numbers.as_chunks();
    let is_whole = rest.is_empty() && odd.is_empty() && pairs.len() == commands;
    is_whole.then(|| pairs.iter().map(reply).collect()).flatten()
}

fn text_in(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => error_in_script(&String::from_utf8_lossy(bytes)).to_owned(),
        Value::SimpleString(text) => error_in_script(text).to_owned(),
        _ => "ERR".to_owned(),
    }
}

/// An error as the command said it: Redis 6 puts the place in the script before some.
fn error_in_script(text: &str) -> &str {
    match text.strip_prefix("@user_script: ").and_then(|rest| rest.split_once(": ")) {
        Some((_, error)) => error_in_script(error),
        None => text.trim_start_matches('-'),
    }
}

/// A count with milliseconds left; negative: the counter has no expiry.
fn counted(count: i64, left: i64) -> RedisReply {
    let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
    let left = u64::try_from(left).ok().map(|left| u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX));
    RedisReply::Reply(CounterReply::Count { count, left })
}

/// A key of a slot of a sliding window, which servers without scripts have instead of an exact one.
fn slot_key(key: &[u8], number: u64) -> Vec<u8> {
    [key, format!("!{number:x}").as_bytes()].concat()
}

impl RedisCommand {
    fn milliseconds(&self) -> u64 {
        u64::from(self.exptime) * 1000
    }

    fn write_arguments(&self, call: &mut Cmd) {
        let expiry = self.milliseconds();
        match self.command {
            CounterCommand::Hit(amount) => call.arg("hit").arg(amount).arg(expiry.max(1)),
            CounterCommand::Read => call.arg("read"),
            CounterCommand::TakeBack(amount) => call.arg("back").arg(amount),
            CounterCommand::Slide(Slide { amount, threshold, keeps_over }) => {
                call.arg("slide").arg(amount).arg(expiry).arg(threshold).arg(u8::from(keeps_over))
            }
            CounterCommand::SlideBack(amount) => call.arg("slideback").arg(amount).arg(expiry),
            CounterCommand::Add(count) => call.arg("add").arg(count).arg(expiry),
            CounterCommand::Replace(count) => call.arg("replace").arg(count).arg(expiry),
            CounterCommand::Touch => call.arg("touch").arg(expiry),
            CounterCommand::Delete => call.arg("delete"),
        };
    }

    /// The slots of a sliding window now, the newest first.
    fn slots(&self) -> impl Iterator<Item = Vec<u8>> {
        sliding_window::slots(self.exptime, self.unix_ms).into_iter().map(|number| slot_key(&self.key, number))
    }

    fn write_plain(&self, output: &mut Pipeline) {
        let (key, expiry) = (&self.key[..], self.milliseconds());
        match self.command {
            CounterCommand::Hit(amount) => {
                output.cmd("MULTI");
                output.cmd("SET").arg(key).arg(0).arg("PX").arg(expiry.max(1)).arg("NX");
                output.cmd("INCRBY").arg(key).arg(amount);
                output.cmd("PTTL").arg(key);
                output.cmd("EXEC");
            }
            CounterCommand::Read => {
                output.cmd("MULTI");
                output.cmd("GET").arg(key);
                output.cmd("PTTL").arg(key);
                output.cmd("EXEC");
            }
            CounterCommand::TakeBack(amount) => take_back(key, amount, output),
            CounterCommand::Slide(Slide { amount, .. }) => {
                output.cmd("MULTI");
                if let Some(newest) = self.slots().next().filter(|_| amount > 0) {
                    let lifetime = u64::from(sliding_window::lifetime(self.exptime)) * 1000;
                    output.cmd("SET").arg(&newest).arg(0).arg("PX").arg(lifetime).arg("NX");
                    output.cmd("INCRBY").arg(&newest).arg(amount);
                }
                output.cmd("MGET");
                for slot in self.slots() {
                    output.arg(slot);
                }
                output.cmd("EXEC");
            }
            CounterCommand::SlideBack(amount) => {
                let newest = self.slots().next().unwrap_or_default();
                take_back(&newest, amount, output);
            }
            CounterCommand::Add(count) => {
                output.cmd("SET").arg(key).arg(count).arg("PX").arg(expiry).arg("NX");
            }
            CounterCommand::Replace(count) => {
                output.cmd("SET").arg(key).arg(count).arg("PX").arg(expiry).arg("XX");
            }
            CounterCommand::Touch => {
                output.cmd("PEXPIRE").arg(key).arg(expiry);
            }
            CounterCommand::Delete => {
                output.cmd("DEL").arg(key);
                // An exact window may be slots here. Other counters have no such names.
                for slot in self.slots().filter(|_| key.ends_with(b"!hits") && self.exptime > 0) {
                    output.arg(slot);
                }
            }
        }
    }

    fn read_plain(&self, values: &mut impl Iterator<Item = Value>) -> Option<RedisReply> {
        if self.asking {
            values.next()?;
        }
        let queued = match self.command {
            CounterCommand::Hit(_) => 3,
            CounterCommand::Read | CounterCommand::TakeBack(_) | CounterCommand::SlideBack(_) => 2,
            CounterCommand::Slide(Slide { amount: 0, .. }) => 1,
            CounterCommand::Slide(_) => 3,
            CounterCommand::Add(_) | CounterCommand::Replace(_) | CounterCommand::Touch | CounterCommand::Delete => {
                return Some(match values.next()? {
                    Value::ServerError(error) => RedisReply::Refused(text_of(&error)),
                    Value::Nil | Value::Int(0) => RedisReply::Reply(CounterReply::NotDone),
                    _ => RedisReply::Reply(CounterReply::Done),
                });
            }
        };
        // Why a command was not queued, which says more than that EXEC was refused then.
        let mut refused = None;
        for _ in 0..=queued {
            if let Value::ServerError(error) = values.next()? {
                refused.get_or_insert_with(|| text_of(&error));
            }
        }
        let results = match values.next()? {
            Value::Array(results) => results,
            Value::ServerError(error) => return Some(RedisReply::Refused(refused.unwrap_or_else(|| text_of(&error)))),
            _ => return None,
        };
        if let Some(Value::ServerError(error)) = results.iter().find(|one| matches!(one, Value::ServerError(_))) {
            return Some(RedisReply::Refused(text_of(error)));
        }
        self.of_results(&results)
    }

    fn of_results(&self, results: &[Value]) -> Option<RedisReply> {
        Some(match (self.command, results) {
            (CounterCommand::Hit(_), [_, Value::Int(count), Value::Int(left)]) => counted(*count, *left),
            (CounterCommand::Read, [Value::Nil, _]) => RedisReply::Reply(CounterReply::NotDone),
            (CounterCommand::Read, [Value::BulkString(count), Value::Int(left)]) => match number(count) {
                // A refund has created the counter for a millisecond, or took it below 0 and has yet to correct that.
                Some(..0) => RedisReply::Reply(CounterReply::NotDone),
                Some(count) => counted(count, *left),
                None => RedisReply::Refused("ERR value is not an integer or out of range".to_owned()),
            },
            (CounterCommand::Slide(slide), [.., Value::Array(slots)]) => self.slid(slide, slots),
            // It was reset since those hits, so DECRBY took it below 0.
            (CounterCommand::TakeBack(_) | CounterCommand::SlideBack(_), [Value::Nil, Value::Int(left @ ..0)]) => {
                RedisReply::Below(u32::try_from(left.unsigned_abs()).unwrap_or(u32::MAX))
            }
            (CounterCommand::TakeBack(_) | CounterCommand::SlideBack(_), [Value::Nil, _]) => {
                RedisReply::Reply(CounterReply::Done)
            }
            // SET NX has created it, for a millisecond: there was nothing to take from.
            (CounterCommand::TakeBack(_) | CounterCommand::SlideBack(_), [_, _]) => {
                RedisReply::Reply(CounterReply::NotDone)
            }
            _ => return None,
        })
    }

    fn slid(&self, slide: Slide, slots: &[Value]) -> RedisReply {
        let count = |slot: &Value| match slot {
            Value::BulkString(count) => {
                number(count).map_or(0, |count| u32::try_from(count.max(0)).unwrap_or(u32::MAX))
            }
            _ => 0,
        };
        let counts: Vec<u32> = slots.iter().map(count).collect();
        let sum = counts.iter().fold(0_u32, |sum, count| sum.saturating_add(*count));
        if slide.amount == 0 && sum == 0 {
            return RedisReply::Reply(CounterReply::NotDone);
        }
        let left = sliding_window::left(&counts, slide.threshold, self.exptime, self.unix_ms);
        RedisReply::Reply(CounterReply::Count { count: sum, left: Some(left) })
    }

    /// Gives a counter back what was taken from it beyond 0. One that has ended meanwhile is there for a millisecond.
    pub fn give_back(&self, amount: u32) -> Self {
        let key = match self.command {
            CounterCommand::SlideBack(_) => self.slots().next().unwrap_or_default().as_slice().into(),
            _ => self.key.clone(),
        };
        Self { key, command: CounterCommand::Hit(amount), exptime: 0, ..self.clone() }
    }

    /// What has to follow an answer from a server without scripts: a hit that is not to be kept is taken back, and a
    /// counter without an expiry gets one.
    pub fn follow_up(&self, form: CommandForm, reply: CounterReply) -> Option<Self> {
        let CounterReply::Count { count, left } = reply else { return None };
        let command = match self.command {
            _ if form != CommandForm::Plain => return None,
            CounterCommand::Slide(slide) if slide.amount > 0 && !slide.keeps_over && count > slide.threshold => {
                CounterCommand::SlideBack(slide.amount)
            }
            CounterCommand::Hit(_) if left.is_none() && self.exptime > 0 => CounterCommand::Touch,
            _ => return None,
        };
        Some(Self { command, asking: false, ..self.clone() })
    }
}

/// Subtracts from a counter. One that does not exist is created first, for a millisecond: DECRBY would create it
/// without an expiry. A counter that was reset may go below 0, and [`RedisCommand::give_back`] follows.
fn take_back(key: &[u8], amount: u32, output: &mut Pipeline) {
    output.cmd("MULTI");
    output.cmd("SET").arg(key).arg(0).arg("PX").arg(1).arg("NX");
    output.cmd("DECRBY").arg(key).arg(amount);
    output.cmd("EXEC");
}

fn number(text: &[u8]) -> Option<i64> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_script_are_two_numbers_for_each_command() {
        let key = KeyText::from_slice(b"connshaper:192.0.2.1");
        let one = RedisCommand {
            key,
            command: CounterCommand::Hit(1),
            exptime: 60,
            is_known: false,
            unix_ms: 0,
            asking: false,
        };
        let answered = |pairs: &[i64], errors: &[&str]| {
            let numbers = pairs.iter().flat_map(|number| number.to_le_bytes()).collect();
            let texts = errors.iter().map(|text| Value::BulkString(text.as_bytes().to_vec()));
            let values = std::iter::once(Value::BulkString(numbers)).chain(texts).collect();
            read(&[&one, &one], CommandForm::Script { whole: false }, true, vec![Value::Array(values)])
        };
        let count = |count, left| RedisReply::Reply(CounterReply::Count { count, left });
        let refused = RedisReply::Refused("OOM".to_owned());
        assert_eq!(answered(&[3, 1001, -1, -1], &[]), Some(vec![count(3, Some(2)), count(0, None)]));
        let done = [CounterReply::Done, CounterReply::NotDone].map(RedisReply::Reply);
        assert_eq!(answered(&[0, -2, 0, -3], &[]), Some(done.to_vec()));
        assert_eq!(answered(&[1 << 40, 1, 1, -4], &["OOM"]), Some(vec![count(u32::MAX, Some(1)), refused]));
        // Not what was asked.
        for wrong in [&[3, 1000][..], &[3, 1000, 1], &[3, 1000, 1, 1000, 1, 1000], &[1, 1000, 2, -4], &[1, 1000, 0, -4]]
        {
            assert_eq!(answered(wrong, &["OOM"]), None);
        }
    }

    #[test]
    fn errors_in_a_script_are_those_of_the_commands_whatever_the_version() {
        for text in ["MISCONF Redis is", "-MISCONF Redis is", "@user_script: 99: @user_script: 99: -MISCONF Redis is"] {
            assert_eq!(error_in_script(text), "MISCONF Redis is", "{text}");
            assert_eq!(ServerRefusal::of(error_in_script(text)), ServerRefusal::Unusable);
        }
    }
}
