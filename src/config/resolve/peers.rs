//! Who may ask over TCP.

use super::super::netblock;
use super::super::settings::Settings;
use crate::config::diagnostics::quoted;
use crate::listener::Peers;

pub(super) fn allow_peers(s: &Settings) -> Option<Peers> {
    let list = s.list("allow_peers")?;
    let mut netblocks = Vec::new();
    for (text, span) in &list {
        match netblock::parse(text) {
            Ok(block) => {
                if block.host_bits {
                    s.diagnostics.warn(span, format!("{} has host bits set, taken as {}", quoted(text), block.net));
                }
                if block.net.prefix_len() == 0 {
                    s.diagnostics.warn(span, format!("{} lets every host ask that reaches the port", block.net));
                }
                netblocks.push(block.net);
            }
            Err((problem, remedy)) => {
                s.diagnostics.error::<()>(span, format!("{}: {problem}", quoted(text)), remedy);
            }
        }
    }
    Some(Peers::new(netblocks))
}
