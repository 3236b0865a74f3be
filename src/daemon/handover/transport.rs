//! Sends descriptors to the new program of an upgrade.
//!
//! They wait in the queue of a socket, which keeps them open, and that socket is
//! standard input of the other program. So none of ours is ever without its
//! close-on-exec flag, and if the other one cannot be called nothing has happened.

use std::env;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::unistd::dup2_stdin;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

/// Says that standard input is such a socket; its value is the number of the process that it is meant for.
pub const VARIABLE: &str = "CONNSHAPER_UPGRADE_PID";

/// As many as the kernel takes in one message, or a few less.
const AT_ONCE: usize = 250;

const SPACE: usize = rustix::cmsg_space!(ScmRights(AT_ONCE));

/// A socket in whose queue the descriptors are, in their order.
pub fn load(descriptors: &[BorrowedFd<'_>]) -> io::Result<OwnedFd> {
    let (sender, receiver) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    for some in descriptors.chunks(AT_ONCE) {
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(some)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        sendmsg(&sender, &[IoSlice::new(b"d")], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(receiver)
}

/// Whether another program hands over to this process.
pub fn is_offered() -> bool {
    env::var(VARIABLE).ok().and_then(|pid| pid.parse().ok()) == Some(std::process::id())
}

/// Takes the descriptors out of standard input, which is /dev/null from then on. `None`: nobody hands anything
/// over to this process.
pub fn unload() -> io::Result<Option<Vec<OwnedFd>>> {
    if !is_offered() {
        return Ok(None);
    }
    let receiver = io::stdin().as_fd().try_clone_to_owned()?;
    dup2_stdin(File::open("/dev/null")?)?;
    receive(&receiver).map(Some)
}

pub(crate) fn receive(receiver: &OwnedFd) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    loop {
        let (mut space, mut byte) = ([MaybeUninit::uninit(); SPACE], [0]);
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(receiver, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC);
        // The other end was closed by the call of this program: after the last message there is none.
        if received?.bytes == 0 {
            return Ok(descriptors);
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = message {
                descriptors.extend(some);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn there_is_room_for_as_many_as_a_process_may_have_open() {
        let (one, _other) = UnixStream::pair().unwrap();
        load(&vec![one.as_fd(); 65_536]).unwrap();
    }

    #[test]
    fn descriptors_come_out_in_the_order_they_went_in_and_are_open_all_the_while() {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..450).map(|_| UnixStream::pair().unwrap()).unzip();
        let carrier = load(&theirs.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
        drop(theirs);
        let received = receive(&carrier).unwrap();
        assert_eq!(received.len(), ours.len());
        for (number, (mut ours, theirs)) in (0_u32..).zip(ours.into_iter().zip(received)) {
            ours.write_all(&number.to_le_bytes()).unwrap();
            let mut bytes = [0; 4];
            UnixStream::from(theirs).read_exact(&mut bytes).unwrap();
            assert_eq!(u32::from_le_bytes(bytes), number);
        }
    }
}
