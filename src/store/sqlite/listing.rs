//! The keys in the file, listed on a connection of its own: nothing that is counted waits for it.

use std::cmp::Reverse;
use std::io;
use std::path::Path;

use rusqlite::{Connection, params};

use super::file;
use crate::store::shared::backend::{KeyListing, KeyQuery, ListedKey};

/// Lists them, those with the most hits first. Blocks.
pub fn list(path: &Path, query: &KeyQuery, now: i64) -> io::Result<KeyListing> {
    let connection = file::open_to_read(path).map_err(|error| io::Error::other(error.to_string()))?;
    match connection {
        Some(connection) => search(&connection, query, now).map_err(io::Error::other),
        None => Ok(KeyListing::default()),
    }
}

fn search(
    connection: &Connection,
    KeyQuery { prefix, wanted, most }: &KeyQuery,
    now: i64,
) -> rusqlite::Result<KeyListing> {
    let mut statement =
        connection.prepare("SELECT key, count, ends FROM counter WHERE key >= ?1 AND key < ?2 AND ends > ?3")?;
    // No key has this character, which comes after all others.
    let mut rows = statement.query(params![prefix, format!("{prefix}\u{10ffff}"), now])?;
    let mut listing = KeyListing::default();
    while let Some(row) = rows.next()? {
        let key = row.get_ref(0)?.as_str()?;
        if !key.strip_prefix(prefix.as_str()).is_some_and(|rest| wanted(rest)) {
            continue;
        }
        let count = u32::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let left = u32::try_from((row.get::<_, i64>(2)? - now + 999) / 1000).unwrap_or(u32::MAX);
        listing.keys.push(ListedKey { key: key.to_owned(), count, left });
        if listing.keys.len() > 2 * most {
            shorten(&mut listing, *most);
        }
    }
    shorten(&mut listing, *most);
    Ok(listing)
}

fn shorten(listing: &mut KeyListing, most: usize) {
    listing.keys.sort_by_key(|key| Reverse(key.count));
    listing.more += listing.keys.len().saturating_sub(most);
    listing.keys.truncate(most);
}
