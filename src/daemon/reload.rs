//! Reload: the configuration or its list files are read again, and replace all rules at once. With a wrong file the old
//! rules stay.
//!
//! The counts stay: `Service::reload` always keeps the table of this process, and the store if its settings are the
//! same. `Policy::new` gives limits the ids that they had.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle, spawn_blocking};

use super::Daemon;
use crate::config::{Config, ConfigError, ListFile, ListKind};
use crate::net::clock::Now;
use crate::observe::log::Severity;
use crate::policy::Policy;
use crate::policy::lists::Lists;

/// The result of reading for a reload.
type LoadResult = Result<(Policy, Config), ConfigError>;

impl Daemon {
    /// Reads the configuration again. Long lists take their time, and requests do not wait for it.
    pub(super) fn load(&self, current: &Arc<Config>) -> JoinHandle<LoadResult> {
        let (path, current) = (self.path.clone(), Arc::clone(current));
        self.read(move || Config::load(path.as_deref()), current)
    }

    /// Reads the list files again, and nothing else.
    pub(super) fn load_lists(&self, current: &Arc<Config>) -> JoinHandle<LoadResult> {
        let current = Arc::clone(current);
        let again = Arc::clone(&current);
        self.read(move || again.with_lists_read_again(), current)
    }

    fn read(
        &self,
        read: impl FnOnce() -> Result<Config, ConfigError> + Send + 'static,
        current: Arc<Config>,
    ) -> JoinHandle<LoadResult> {
        let before = self.service.rules.load_full();
        spawn_blocking(move || {
            let mut config = read()?;
            config.keep_lists_that_shrank(&current.list_files, &before.policy);
            config.keep_limit_files_that_shrank(&current);
            Ok((Policy::new(&config.policy, Some(&before.policy)), config))
        })
    }

    /// Puts new rules in force; with a wrong file the old ones stay. Returns the new configuration, without
    /// the lists, which the policy has, and notes for the administrator. `Err`: why the old rules stay.
    pub(super) fn finish_reload(&self, loaded: Result<LoadResult, JoinError>) -> Result<(Config, Vec<String>), String> {
        match loaded {
            Ok(Ok((policy, config))) => Ok(self.put_in_force(policy, config)),
            Ok(Err(error)) => Err(self.keep_old_rules(error.summary())),
            Err(panic) => Err(self.keep_old_rules(panic.to_string())),
        }
    }

    /// The same for lists that were read again because these of them have changed.
    pub(super) fn finish_lists(&self, loaded: Result<LoadResult, JoinError>, changed: &[PathBuf]) -> Option<Config> {
        let (policy, mut config) = match loaded {
            Ok(Ok(loaded)) => loaded,
            wrong => return self.finish_reload(wrong).ok().map(|(config, _)| config),
        };
        self.service.reload(policy, config.engine(), Now::read());
        let entries =
            |kind| -> usize { config.list_files.iter().filter(|file| file.kind == kind).map(ListFile::entries).sum() };
        let changed: Vec<String> = changed.iter().map(|path| path.display().to_string()).collect();
        self.log.line(Severity::Info, "RELOADED", |line| {
            line.field("lists", changed.join(", "))
                .field("whitelist", entries(ListKind::White))
                .field("blacklist", entries(ListKind::Black));
            if !config.limit_files.is_empty() {
                line.field("limit_files", config.limit_files.iter().map(|file| file.entries).sum::<usize>());
            }
        });
        self.warn(&config);
        config.policy.lists = Lists::default();
        Some(config)
    }

    fn put_in_force(&self, policy: Policy, mut config: Config) -> (Config, Vec<String>) {
        self.service.reload(policy, config.engine(), Now::read());
        if let Some(http) = &self.http {
            http.context().config.store(Arc::new(config.http.clone()));
        }
        // These keep the value of the start until a restart.
        let (old, new) = (&self.config, &config);
        let unchanged = [
            ("listen", !self.listening.differs(new)),
            ("socket_mode, socket_owner or socket_group", old.socket == new.socket),
            ("control_socket or control_group", old.control == new.control),
            ("metrics_listen", old.metrics == new.metrics),
            ("http_listen", old.http.listen == new.http.listen),
            ("max_connections", old.max_connections == new.max_connections),
            ("log or a key of syslog", old.log.target == new.log.target),
            ("state_file or state_interval", old.state == new.state),
            ("statistics_interval", old.log.statistics_interval == new.log.statistics_interval),
        ];
        let later: Vec<&str> = unchanged.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect();
        self.log.line(Severity::Info, "RELOADED", |line| {
            line.field("form", config.form.into_str()).field("after_restart", later.join(", "));
        });
        self.warn(&config);
        let later = later.iter().map(|keys| format!("{keys} takes effect at the next start"));
        let warnings = config.warnings.iter().map(|warning| format!("warning: {warning}"));
        let notes = later.chain(warnings).collect();
        config.policy.lists = Lists::default();
        (config, notes)
    }

    fn keep_old_rules(&self, error: String) -> String {
        self.log.line(Severity::Err, "RELOAD_FAILED", |line| {
            line.field("error", &error);
        });
        self.service.reload_failed(&error);
        error
    }
}
