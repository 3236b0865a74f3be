//! Framed, versioned, checksummed sections of values, for the state file and the hand-over.

pub mod section;
