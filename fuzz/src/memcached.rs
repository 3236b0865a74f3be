//! What a memcached server might answer, in pieces: the cuts make no difference, and nothing is taken of half an answer.

use bytes::BytesMut;
use connshaper::store::memcached::protocol::{
    Counted, MemcachedCommand, Probed, Protocol, ProtocolError, Response, Verb,
};
use connshaper::store::shared::backend::{CounterCommand, KeyText};

use super::cuts::Cuts;

/// Reads answers until they are nonsense or there are no more; then some that make sense.
pub fn run(data: &[u8]) {
    let (kinds, rest) = data.split_first().unwrap_or((&0, &[]));
    let input = Cuts::read(rest);
    let whole = read(*kinds, std::iter::once(&input.bytes[..]));
    let cut = read(*kinds, input.pieces());
    assert_eq!(cut, whole, "{input:?}");
    if let Some(Err(ProtocolError(said))) = cut.last() {
        // The log gets it, and shows no more than it was sent.
        assert!(said.chars().count() <= 64);
    }
    honest(rest);
}

/// What was asked.
#[derive(Clone)]
enum Asked {
    Probe,
    Verb(Verb),
}

/// An answer.
#[derive(Debug, PartialEq)]
enum Told {
    Probed(Probed),
    Answer(Response),
}

const VERBS: [Verb; 9] = [
    Verb::Counter(CounterCommand::Hit(1)),
    Verb::Counter(CounterCommand::Read),
    Verb::Counter(CounterCommand::TakeBack(1)),
    Verb::Counter(CounterCommand::Add(1)),
    Verb::Counter(CounterCommand::Replace(1)),
    Verb::Counter(CounterCommand::Touch),
    Verb::Counter(CounterCommand::Delete),
    Verb::Statistics,
    Verb::ReadValue,
];

/// What `kinds` says: the dialect, whether a probe comes first, one command again and again or all in turn, and which is first.
fn asked(kinds: u8) -> (Protocol, impl Iterator<Item = Asked>) {
    let dialect = if kinds & 1 == 0 { Protocol::Meta } else { Protocol::Classic };
    let probe = (kinds & 2 != 0).then_some(Asked::Probe);
    let step = usize::from(kinds & 4 != 0);
    let verbs = (0..).map(move |number| VERBS[(usize::from(kinds >> 3) + step * number) % VERBS.len()].clone());
    (dialect, probe.into_iter().chain(verbs.map(Asked::Verb)))
}

fn command(verb: Verb) -> MemcachedCommand {
    MemcachedCommand { key: KeyText::from_slice(b"c:192.0.2.1"), verb, exptime: 60, expiry: 60 }
}

fn read<'a>(kinds: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Told, ProtocolError>> {
    let (dialect, mut asked) = asked(kinds);
    let mut next = asked.next();
    let (mut buffer, mut answers) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(asked_next) = next.clone() {
            let before = buffer.len();
            let told = match &asked_next {
                Asked::Probe => dialect.read_probe(&mut buffer).map(|known| known.map(Told::Probed)),
                Asked::Verb(verb) => {
                    command(verb.clone()).read(dialect, &mut buffer).map(|answer| answer.map(Told::Answer))
                }
            };
            match told {
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "half an answer was taken");
                    assert!(before <= longest(&asked_next), "{before} bytes are no answer yet");
                    break;
                }
                Ok(Some(told)) => {
                    assert!(buffer.len() < before, "an answer of nothing");
                    answers.push(Ok(told));
                }
                Err(nonsense) => {
                    answers.push(Err(nonsense));
                    return answers;
                }
            }
            next = asked.next();
        }
    }
    answers
}

/// What an answer may be long: three lines, a list of statistics, or a value.
fn longest(asked: &Asked) -> usize {
    match asked {
        Asked::Verb(Verb::Statistics) => 64 * 1024,
        Asked::Verb(Verb::ReadValue) => (1 << 20) + 4095,
        _ => 4095,
    }
}

/// Writes counts as a server would, and reads them.
fn honest(data: &[u8]) {
    for (verb, dialect) in [
        (Verb::Counter(CounterCommand::Hit(1)), Protocol::Meta),
        (Verb::Counter(CounterCommand::Hit(1)), Protocol::Classic),
        (Verb::Counter(CounterCommand::Read), Protocol::Meta),
        (Verb::Counter(CounterCommand::Read), Protocol::Classic),
    ] {
        let mut buffer = BytesMut::new();
        let mut counts = Vec::new();
        for bytes in data.chunks_exact(8) {
            let count = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            let (left, length) = (count as u32 >> 7, count.to_string().len());
            let text = match (&verb, dialect) {
                (_, Protocol::Meta) => format!("VA {length} t{left}\r\n{count}\r\n"),
                (Verb::Counter(CounterCommand::Hit(_)), _) => format!("NOT_STORED\r\n{count}\r\n"),
                (_, _) => format!("VALUE c:192.0.2.1 0 {length}\r\n{count}\r\nEND\r\n"),
            };
            buffer.extend_from_slice(text.as_bytes());
            let left = (dialect == Protocol::Meta).then_some(left);
            counts.push(Counted { count: u32::try_from(count).unwrap_or(u32::MAX), left, endless: false });
        }
        for counted in counts {
            assert_eq!(command(verb.clone()).read(dialect, &mut buffer), Ok(Some(Response::Counted(counted))));
        }
        assert!(buffer.is_empty());
    }
}
