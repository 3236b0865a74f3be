//! What the SQLite file is as a store: its keys of the configuration, and what is done with its settings.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use strum::VariantNames;

use super::settings::Synchronous;
use super::{Sqlite, SqliteConfig, doctor, file};
use crate::observe::finding::Finding;
use crate::policy::config_key::ValueKind::*;
use crate::policy::config_key::{ConfigKey, key};
use crate::store::shared::backend::{Backend, BackendContext};
use crate::store::shared::kind::{SharedStoreConfig, StoreKind};

pub static KIND: StoreKind = StoreKind {
    name: "sqlite",
    keys: KEYS,
    read: |s| Arc::new(SqliteConfig::read(s)),
    slides_exactly: true,
    is_bounded: true,
};

const KEYS: &[ConfigKey] = &[
    key("sqlite_file", String, "", "SQLite file that keeps the counts; unset: none does"),
    key(
        "sqlite_synchronous",
        Word(Synchronous::VARIANTS),
        r#""normal""#,
        "when counts in the SQLite file are on the disk",
    ),
];

impl SharedStoreConfig for SqliteConfig {
    fn kind(&self) -> &'static StoreKind {
        &KIND
    }

    fn open(&self, context: &BackendContext) -> Box<dyn Backend> {
        Box::new(Sqlite::new(self, context))
    }

    fn examine(&self) -> Vec<Finding> {
        doctor::examine(self)
    }

    fn equals(&self, other: &dyn SharedStoreConfig) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }

    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn try_file(&self) -> io::Result<()> {
        let opened = file::open(&self.path, self.synchronous);
        opened.map(drop).map_err(|error| io::Error::other(error.to_string()))
    }
}
