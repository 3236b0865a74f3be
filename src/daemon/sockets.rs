//! The sockets that Postfix asks at: had first of all, so that it finds them while long lists and counts are read.

use super::listening::Listening;
use crate::config::Config;
use crate::daemon::handover::receive::Handover;
use crate::listener::Listener;
use crate::net::address::Address;

/// What is there of sockets at the beginning. Some may not be had.
pub(super) struct Sockets {
    bound: anyhow::Result<(Vec<Listener>, Vec<Address>)>,
    by_option: bool,
    inheritance: Option<Handover>,
}

/// The sockets, and what the program before has left beside them.
pub(super) struct Found {
    pub listeners: Vec<Listener>,
    pub listening: Listening,
    pub inheritance: Option<Handover>,
}

impl Sockets {
    /// Those that `listen`, or else the configuration asks for.
    pub fn open(config: &Config, listen: &[Address]) -> Self {
        let by_option = !listen.is_empty();
        let listen = if by_option { listen } else { &config.listen };
        // Before anything is hashed: that is to be done as before.
        let mut inheritance = Handover::receive();
        let bound = listeners(config, listen, inheritance.as_mut());
        Self { bound, by_option, inheritance }
    }

    /// All of them.
    ///
    /// # Errors
    ///
    /// When one cannot be had.
    pub fn found(self) -> anyhow::Result<Found> {
        let (listeners, asked) = self.bound?;
        let listening = Listening::new(asked, self.by_option, &listeners);
        Ok(Found { listeners, listening, inheritance: self.inheritance })
    }
}

/// Sockets of the program before, or those that systemd passed, are used instead of what the configuration says.
/// With them comes what was asked for, which is nothing where systemd passed them.
fn listeners(
    config: &Config,
    listen: &[Address],
    inheritance: Option<&mut Handover>,
) -> anyhow::Result<(Vec<Listener>, Vec<Address>)> {
    let (passed, asked) = match inheritance {
        Some(inheritance) => (inheritance.listeners()?, inheritance.listen(listen)),
        None => (Listener::from_systemd()?, Vec::new()),
    };
    if !passed.is_empty() {
        return Ok((passed, asked));
    }
    Ok((bind(listen, config)?, listen.to_vec()))
}

/// Listens at each of these addresses.
pub(super) fn bind(addresses: &[Address], config: &Config) -> anyhow::Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.extend(Listener::bind(address, &config.socket)?);
    }
    Ok(listeners)
}
