//! Addresses of servers that are known by name.
//!
//! The system's resolver cannot be told to give up, and may take a thread for
//! as long as it likes. So a name is looked up once at a time: whoever wants it
//! meanwhile, after a reload as well, waits for the lookup that is under way.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::spawn_blocking;

type Found = Result<Vec<SocketAddr>, String>;

/// Where the answers for names that are being looked up will be. They are names out of configurations, so few.
static UNDER_WAY: Mutex<BTreeMap<String, watch::Receiver<Option<Found>>>> = Mutex::new(BTreeMap::new());

/// The addresses of a host, as they are now.
///
/// # Errors
///
/// When it has none. There is no bound on the time: a caller who has one drops this, and asks again.
pub async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let mut answer = lookup(host);
    let found = answer.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
    let mut found = found.unwrap_or_else(|| Err("the lookup was given up".to_owned())).map_err(io::Error::other)?;
    found.iter_mut().for_each(|address| address.set_port(port));
    Ok(found)
}

/// The lookup that is under way, or a new one.
fn lookup(host: &str) -> watch::Receiver<Option<Found>> {
    let mut under_way = under_way();
    if let Some(answer) = under_way.get(host) {
        return answer.clone();
    }
    let (sender, answer) = watch::channel(None);
    under_way.insert(host.to_owned(), answer.clone());
    let place = Place(host.to_owned());
    spawn_blocking(move || {
        let found = (place.0.as_str(), 0).to_socket_addrs();
        // Whoever asks from here on wants to know anew.
        drop(place);
        sender.send_replace(Some(found.map(Iterator::collect).map_err(|error| error.to_string())));
    });
    answer
}

fn under_way() -> MutexGuard<'static, BTreeMap<String, watch::Receiver<Option<Found>>>> {
    // A map is whole after any panic.
    UNDER_WAY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that is being looked up. Not any more when this is dropped, also by a runtime that ends.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        under_way().remove(&self.0);
    }
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
        assert!(under_way().get("localhost").is_none());
    }

    #[tokio::test]
    async fn whoever_asks_while_a_lookup_is_under_way_waits_for_that_one() {
        let (sender, answer) = watch::channel(None);
        under_way().insert("slow.test".to_owned(), answer);
        let place = Place("slow.test".to_owned());
        let two = async { tokio::join!(addresses("slow.test", 1), addresses("slow.test", 2)) };
        let end = async {
            tokio::task::yield_now().await;
            drop(place);
            sender.send_replace(Some(Ok(vec!["192.0.2.9:0".parse().unwrap()])));
        };
        let ((one, other), ()) = tokio::join!(two, end);
        assert_eq!(one.unwrap(), ["192.0.2.9:1".parse().unwrap()]);
        assert_eq!(other.unwrap(), ["192.0.2.9:2".parse().unwrap()]);
    }
}
