//! What memcached is as a store: its keys of the configuration, and what is done with its settings.

use std::any::Any;
use std::sync::Arc;

use super::{Memcached, MemcachedConfig, doctor};
use crate::observe::finding::Finding;
use crate::policy::config_key::ValueKind::*;
use crate::policy::config_key::{ConfigKey, key};
use crate::store::shared::backend::{Backend, BackendContext};
use crate::store::shared::kind::{SharedStoreConfig, StoreKind};

pub static KIND: StoreKind = StoreKind {
    name: "memcached",
    keys: KEYS,
    read: |s| Arc::new(MemcachedConfig::read(s)),
    slides_exactly: false,
    is_bounded: false,
};

const KEYS: &[ConfigKey] = &[
    key("memcached_server", OneOrMore, "", "memcached servers that keep the counts; unset: none do"),
    key("memcached_port", Integer(1, 65_535), "11211", "port of memcached servers that are named without one"),
    key("memcached_username", String, "", "user to log in as, where memcached requires a login; unset: no login"),
    key("memcached_password_file", String, "", "file with the password"),
    key("memcached_tls", Boolean, "false", "whether memcached is spoken to over TLS"),
    key("memcached_ca_file", String, "", "certificates that memcached's must be signed by; unset: those of the system"),
    key("memcached_certificate_file", String, "", "our certificate for memcached; unset: none"),
    key("memcached_key_file", String, "", "key of our certificate for memcached"),
    key("replicas", Integer(1, 2), "1", "memcached servers that keep each key"),
    key("failover", Boolean, "false", "whether the next memcached server keeps the keys of one that is down"),
];

impl SharedStoreConfig for MemcachedConfig {
    fn kind(&self) -> &'static StoreKind {
        &KIND
    }

    fn open(&self, context: &BackendContext) -> Box<dyn Backend> {
        Box::new(Memcached::new(self, context))
    }

    fn examine(&self) -> Vec<Finding> {
        doctor::examine(self)
    }

    fn equals(&self, other: &dyn SharedStoreConfig) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}
