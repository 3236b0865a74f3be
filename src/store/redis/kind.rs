//! What Redis is as a store: its keys of the configuration, and what is done with its settings.

use std::any::Any;
use std::sync::Arc;

use super::{Redis, RedisConfig, doctor};
use crate::observe::finding::Finding;
use crate::policy::config_key::ValueKind::*;
use crate::policy::config_key::{ConfigKey, key};
use crate::store::shared::backend::{Backend, BackendContext};
use crate::store::shared::kind::{SharedStoreConfig, StoreKind};

pub static KIND: StoreKind = StoreKind {
    name: "redis",
    keys: KEYS,
    read: |s| Arc::new(RedisConfig::read(s)),
    slides_exactly: true,
    is_bounded: false,
};

const KEYS: &[ConfigKey] = &[
    key("redis_server", OneOrMore, "", "Redis or Valkey servers that keep the counts; unset: none do"),
    key("redis_username", String, "", "user to log in as; unset: the default user"),
    key("redis_password_file", String, "", "file with the password; unset: no login"),
    key("redis_ca_file", String, "", "certificates that TLS servers must be signed by; unset: those of the system"),
    key("redis_certificate_file", String, "", "our certificate for TLS servers; unset: none"),
    key("redis_key_file", String, "", "key of our certificate"),
    key("redis_cluster", Boolean, "false", "whether the servers are nodes of a cluster"),
    key("redis_sentinel", String, "", "master that the servers know, as Sentinels; unset: they are no Sentinels"),
];

impl SharedStoreConfig for RedisConfig {
    fn kind(&self) -> &'static StoreKind {
        &KIND
    }

    fn open(&self, context: &BackendContext) -> Box<dyn Backend> {
        Box::new(Redis::new(self, context))
    }

    fn examine(&self) -> Vec<Finding> {
        doctor::examine(self)
    }

    fn equals(&self, other: &dyn SharedStoreConfig) -> bool {
        (other as &dyn Any).downcast_ref() == Some(self)
    }
}
