//! What a section is made of beside plain numbers: things that may be absent, and bytes of any length.

use bytes::{Buf, BufMut};

use super::section::SnapshotError;

/// Adds a number that may be absent.
pub fn put_option(output: &mut Vec<u8>, number: Option<u64>) {
    output.put_u8(number.is_some().into());
    if let Some(number) = number {
        output.put_u64_le(number);
    }
}

/// Takes one off.
pub fn take_option(input: &mut &[u8]) -> Result<Option<u64>, SnapshotError> {
    let is_there = take_truth(input)?;
    Ok(if is_there { Some(input.try_get_u64_le()?) } else { None })
}

/// Takes a yes or no off, which was put as a byte.
pub fn take_truth(input: &mut &[u8]) -> Result<bool, SnapshotError> {
    Ok(input.try_get_u8()? != 0)
}

/// Adds bytes with their length.
pub fn put_bytes(output: &mut Vec<u8>, bytes: &[u8]) {
    output.put_u64_le(bytes.len() as u64);
    output.put_slice(bytes);
}

/// Takes them off.
pub fn take_bytes<'i>(input: &mut &'i [u8]) -> Result<&'i [u8], SnapshotError> {
    let length = usize::try_from(input.try_get_u64_le()?).map_err(|_| SnapshotError::Corrupt)?;
    input.split_off(..length).ok_or(SnapshotError::Corrupt)
}
