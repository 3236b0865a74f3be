//! What shared stores have in common: the trait that a store implements, and what is around its servers. Nothing here
//! depends on a single store.

pub mod backend;
pub mod breaker;
pub mod count;
pub mod doctor;
pub mod kind;
pub mod listing;
pub mod login;
pub mod losses;
pub mod over_limit;
pub mod queue;
pub mod rank;
pub mod server;
