//! What a client costs in memory: connshaper's memory store, filled through the socket.

use serde::Serialize;

use crate::Options;
use crate::load::Load;
use crate::report::progress;
use crate::request::{Client, Requests};
use crate::server::{Place, Server};

/// Connections that fill the store. What a session costs is bounded by these, and paid before the first look.
const CONNECTIONS: usize = 8;

/// Clients counted before the first look.
const FIRST: u32 = 1000;

/// Memory after so many clients.
#[derive(Debug, Serialize)]
pub struct ClientMemory {
    pub family: &'static str,
    pub clients: u32,
    /// Resident, beyond what there was before the fill.
    pub bytes: u64,
}

impl ClientMemory {
    pub fn each(&self) -> f64 {
        self.bytes as f64 / f64::from(self.clients)
    }
}

pub fn measure(place: &Place, options: &Options) -> anyhow::Result<Vec<ClientMemory>> {
    let steps: &[u32] = if options.quick { &[1_000_000] } else { &[1_000_000, 10_000_000] };
    let mut measured = Vec::new();
    for (family, name) in [("IPv4", "clients-v4"), ("IPv6", "clients-v6")] {
        let client = |number| if family == "IPv4" { Client::V4(number) } else { Client::V6(number) };
        // No window ends before the fill does.
        let server = Server::connshaper(name, "exptime = '1d'\nthreshold = 1_000_000_000\n", place)?;
        let mut requests = Requests::short();
        let mut load = Load::connect(&server.address, CONNECTIONS, &mut requests)?;
        load.fill((0..FIRST).map(client))?;
        let before = server.process.rss()?;
        let mut next = FIRST;
        for &clients in steps {
            load.fill((next..next + clients - (next - FIRST)).map(client))?;
            next = FIRST + clients;
            let bytes = server.process.rss()? - before;
            let memory = ClientMemory { family, clients, bytes };
            progress(format_args!("{clients} {family} clients: {:.1} bytes each", memory.each()));
            measured.push(memory);
        }
    }
    Ok(measured)
}
