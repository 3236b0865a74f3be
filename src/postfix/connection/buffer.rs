//! Buffers, which a connection has only while there is something in them.
//!
//! An idle connection holds no memory for its next request; and as one request
//! is answered after the other, nearly all go through the buffer that was used
//! last, which is in the processor's cache.

use std::cell::RefCell;

use bytes::BytesMut;

/// Room for one more request; thirty attributes of usual length are about 700 bytes.
const ROOM: usize = 2 * 1024;

/// A buffer that has grown to this for one request is not kept for the next.
const LARGE: usize = 16 * 1024;

/// Spare buffers kept; as many requests may wait for the store at once before one has to be made.
const MAX_SPARE: usize = 128;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Makes room for more. What is in the buffer stays.
pub fn make_room(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        *buffer = SPARE.with_borrow_mut(Vec::pop).unwrap_or_default();
    }
    buffer.reserve(ROOM);
}

/// Gives an empty buffer back.
pub fn give_back(buffer: &mut BytesMut) {
    if !buffer.is_empty() || buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    if buffer.try_reclaim(LARGE) {
        return;
    }
    SPARE.with_borrow_mut(|spare| {
        if spare.len() < MAX_SPARE {
            spare.push(buffer);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_used_last_is_the_next_one() {
        let (mut first, mut second) = (BytesMut::new(), BytesMut::new());
        make_room(&mut first);
        make_room(&mut second);
        let (place, other) = (first.as_ptr(), second.as_ptr());
        assert_ne!(place, other);
        second.extend_from_slice(b"part of a request");
        give_back(&mut second);
        assert_eq!(second.as_ptr(), other, "what is in use stays");
        // A request was taken out of it.
        first.extend_from_slice(&[b'x'; 700]);
        drop(first.split_to(700));
        give_back(&mut first);
        assert_eq!(first.capacity(), 0);
        let mut third = BytesMut::new();
        make_room(&mut third);
        assert_eq!(third.as_ptr(), place);
        assert!(third.capacity() >= ROOM);
    }

    #[test]
    fn neither_large_buffers_nor_too_many_are_kept() {
        SPARE.with_borrow_mut(Vec::clear);
        let mut large = BytesMut::from(&[b'x'; 2 * LARGE][..]);
        drop(large.split_to(2 * LARGE - 10));
        large.clear();
        give_back(&mut large);
        assert_eq!(SPARE.with_borrow(Vec::len), 0);
        let mut many: Vec<_> = (0..MAX_SPARE + 10).map(|_| BytesMut::with_capacity(ROOM)).collect();
        many.iter_mut().for_each(give_back);
        assert_eq!(SPARE.with_borrow(Vec::len), MAX_SPARE);
    }
}
