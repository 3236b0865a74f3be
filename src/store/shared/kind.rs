//! What each shared store declares in its folder: its name, its keys, and what is done with its settings.

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::backend::{Backend, BackendContext};
use crate::observe::finding::Finding;
use crate::policy::config_key::{ConfigKey, KeyValues};

/// A shared store, whether or not it is chosen.
#[derive(Debug)]
pub struct StoreKind {
    /// Its name for people, such as `memcached`.
    pub name: &'static str,
    /// Its own keys of the configuration. The first one chooses it.
    pub keys: &'static [ConfigKey],
    /// Makes its settings of them. Mistakes are noted.
    pub read: fn(&dyn KeyValues) -> Arc<dyn SharedStoreConfig>,
    /// Whether its sliding windows are exact.
    pub slides_exactly: bool,
    /// Whether `max_clients` bounds what it keeps.
    pub is_bounded: bool,
}

impl StoreKind {
    /// The key that chooses it.
    pub fn key(&self) -> &'static str {
        self.keys[0].name
    }
}

/// The settings of a shared store.
pub trait SharedStoreConfig: Any + Debug + Send + Sync {
    fn kind(&self) -> &'static StoreKind;

    /// Starts talking to the servers, or opens the file. Must be called within a runtime.
    fn open(&self, context: &BackendContext) -> Box<dyn Backend>;

    /// The checks of `connshaper doctor`. Blocks.
    fn examine(&self) -> Vec<Finding>;

    /// Whether these are the same settings of the same store.
    fn equals(&self, other: &dyn SharedStoreConfig) -> bool;

    /// The file that has the counts, on which commands work while no daemon runs; `None`: servers have them.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// Looks whether that file can be used. Blocks. `Err` has the way out.
    fn try_file(&self) -> io::Result<()> {
        Ok(())
    }
}

impl PartialEq for dyn SharedStoreConfig {
    fn eq(&self, other: &Self) -> bool {
        self.equals(other)
    }
}

impl Eq for dyn SharedStoreConfig {}
