//! What a memcached server might answer, in pieces: the cuts make no difference, and nothing is taken of half an answer.

use bytes::BytesMut;
use connshaper::store::wire::{self, Answer, Counted, Dialect, Nonsense};

use super::cuts::Cuts;

/// Reads answers until they are nonsense or there are no more; then some that make sense.
pub fn run(data: &[u8]) {
    let (kinds, rest) = data.split_first().unwrap_or((&0, &[]));
    let input = Cuts::read(rest);
    let whole = read(*kinds, std::iter::once(&input.bytes[..]));
    let cut = read(*kinds, input.pieces());
    assert_eq!(cut, whole, "{input:?}");
    if let Some(Err(Nonsense(said))) = cut.last() {
        // The log gets it, and shows no more than it was sent.
        assert!(said.chars().count() <= 64);
    }
    honest(rest);
}

/// What was asked.
#[derive(Clone, Copy)]
enum Kind {
    Probe,
    Touch,
    Hit,
}

/// An answer.
#[derive(Debug, PartialEq)]
enum Told {
    Probed(bool),
    Touched,
    Hit(Answer),
}

fn read<'a>(kinds: u8, pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Told, Nonsense>> {
    let dialect = if kinds & 1 == 0 { Dialect::Meta } else { Dialect::Classic };
    // As a connection has it: one probe, and now and then a touch among the hits.
    let mut asked = [kinds & 2 != 0].into_iter().filter(|probes| *probes).map(|_| Kind::Probe).chain(
        [false, kinds & 4 != 0].into_iter().cycle().map(|touches| if touches { Kind::Touch } else { Kind::Hit }),
    );
    let mut next = asked.next();
    let (mut buffer, mut answers) = (BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        while let Some(kind) = next {
            let before = buffer.len();
            let told = match kind {
                Kind::Probe => dialect.read_probe(&mut buffer).map(|known| known.map(Told::Probed)),
                Kind::Touch => wire::read_touched(&mut buffer).map(|touched| touched.map(|()| Told::Touched)),
                Kind::Hit => dialect.read_hit(60, &mut buffer).map(|answer| answer.map(Told::Hit)),
            };
            match told {
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "half an answer was taken");
                    // No answer is longer than two lines.
                    assert!(before < 4096, "{before} bytes are no answer yet");
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

/// Writes counts as a server would, and reads them.
fn honest(data: &[u8]) {
    for dialect in [Dialect::Meta, Dialect::Classic] {
        let mut buffer = BytesMut::new();
        let mut counts = Vec::new();
        for bytes in data.chunks_exact(8) {
            let count = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            let left = count as u32 >> 7;
            let text = match dialect {
                Dialect::Meta => format!("VA {} t{left}\r\n{count}\r\n", count.to_string().len()),
                Dialect::Classic => format!("NOT_STORED\r\n{count}\r\n"),
            };
            buffer.extend_from_slice(text.as_bytes());
            let left = (dialect == Dialect::Meta).then_some(left);
            counts.push(Counted { count: u32::try_from(count).unwrap_or(u32::MAX), left, endless: false });
        }
        for counted in counts {
            assert_eq!(dialect.read_hit(60, &mut buffer), Ok(Some(Answer::Counted(counted))));
        }
        assert!(buffer.is_empty());
    }
}
