//! A verdict to the bytes of a reply.

use std::io;

use bytes::BytesMut;
use tokio_util::codec::Encoder;

use crate::policy::action::{Action, Values};

/// What Postfix is told.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// No opinion: the client passes as far as we are concerned. Never `OK`, which would end the site's later checks.
    Dunno,
    /// Not now, for a reason of ours.
    Defer,
    /// The action the administrator chose for clients over the limit.
    Refuse(&'a Action, Values<'a>),
}

/// 4.3.0 is RFC 3463's "other mail system status".
const DEFER: &[u8] = b"action=DEFER_IF_PERMIT 4.3.0 Connections cannot be counted at the moment, try again later\n\n";

/// Writes replies.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyEncoder;

impl Encoder<Reply<'_>> for ReplyEncoder {
    type Error = io::Error;

    fn encode(&mut self, reply: Reply<'_>, output: &mut BytesMut) -> io::Result<()> {
        match reply {
            Reply::Dunno => output.extend_from_slice(b"action=DUNNO\n\n"),
            Reply::Defer => output.extend_from_slice(DEFER),
            Reply::Refuse(action, values) => {
                output.extend_from_slice(b"action=");
                action.write(&values, output);
                output.extend_from_slice(b"\n\n");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::key::KeyPart;

    #[test]
    fn a_pass_is_dunno_and_a_refusal_is_the_action_filled_in() {
        let mut output = BytesMut::new();
        ReplyEncoder.encode(Reply::Dunno, &mut output).unwrap();
        let action = Action::new("DEFER_IF_PERMIT", "{client} has {count} of {threshold}", "4.7.0", 429, &[]).unwrap();
        let (client, key) = ([192, 0, 2, 1].into(), &KeyPart::client([192, 0, 2, 1].into(), 32, 64));
        let (limit, request, said, now) = ("connections", None, None, 0);
        let values = Values { client, limit, count: 11, threshold: 10, left: 7, key, request, said, now };
        ReplyEncoder.encode(Reply::Refuse(&action, values), &mut output).unwrap();
        assert_eq!(output, "action=DUNNO\n\naction=DEFER_IF_PERMIT 4.7.0 192.0.2.1 has 11 of 10\n\n");
    }
}
