//! Addresses of servers that are known by name.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use super::lookup::Lookups;

type Found = Result<Vec<SocketAddr>, String>;

/// Names out of configurations, so few.
static HOSTS: Lookups<String, Found> = Lookups::none();

/// The addresses of a host, as they are now.
///
/// # Errors
///
/// When it has none. There is no bound on the time: a caller who has one drops this, and asks again.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let resolve = |host: &String| {
        let found = (host.as_str(), 0).to_socket_addrs();
        found.map(Iterator::collect).map_err(|error| error.to_string())
    };
    let found = HOSTS.get(host.to_owned(), resolve).await;
    let mut found: Vec<SocketAddr> =
        found.unwrap_or_else(|| Err("the lookup was given up".to_owned())).map_err(io::Error::other)?;
    found.iter_mut().for_each(|address| address.set_port(port));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_and_a_name_is_looked_up() {
        assert_eq!(addresses("192.0.2.1", 7).await.unwrap(), ["192.0.2.1:7".parse().unwrap()]);
        assert_eq!(addresses("2001:db8::1", 7).await.unwrap(), ["[2001:db8::1]:7".parse().unwrap()]);
        let found = addresses("localhost", 7).await.unwrap();
        assert!(!found.is_empty() && found.iter().all(|address| address.ip().is_loopback() && address.port() == 7));
    }
}
