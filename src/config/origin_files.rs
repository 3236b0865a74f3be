//! Databases of where clients are from. Their files are read, and read again, like list files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::Config;
use super::diagnostics::ConfigError;
use super::limit_files::unread;
use super::lists::{FileStamp, ListErrors};
use super::source;
use crate::net::origin::{OriginDatabase, OriginDatabases, OriginError, OriginKind};

/// A database as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginFile {
    pub path: PathBuf,
    pub kind: OriginKind,
    /// Its stamp when it was read.
    pub stamp: Option<FileStamp>,
}

/// Every kind with the key that names its file.
pub(super) const KEYS: [(&str, OriginKind); 2] =
    [("asn_database", OriginKind::Asn), ("country_database", OriginKind::Country)];

/// The remedy for a download that went wrong.
const AGAIN: &str = "download it again, to another name, and rename it when it is complete";

impl OriginFile {
    /// The key that names it.
    pub fn key(&self) -> &'static str {
        KEYS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(key, _)| key)
    }
}

/// The database of a kind.
pub fn database(databases: &OriginDatabases, kind: OriginKind) -> Option<&Arc<OriginDatabase>> {
    match kind {
        OriginKind::Asn => databases.asn.as_ref(),
        OriginKind::Country => databases.country.as_ref(),
    }
}

/// Reads the files. A file that is as it was when `known` was read of it is not read again. `Err`: what is wrong with
/// which of them.
pub(super) fn read(files: &mut [OriginFile], known: &OriginDatabases) -> Result<OriginDatabases, ListErrors> {
    let (mut databases, mut errors) = (OriginDatabases::default(), ListErrors::default());
    // One file may be named for both.
    let mut last: Option<(PathBuf, Bytes, FileStamp)> = None;
    for (place, file) in files.iter_mut().enumerate() {
        let slot = match file.kind {
            OriginKind::Asn => &mut databases.asn,
            OriginKind::Country => &mut databases.country,
        };
        let is_known = file.stamp.is_some() && file.stamp == FileStamp::of(&file.path);
        if let Some(known) = database(known, file.kind).filter(|_| is_known) {
            *slot = Some(Arc::clone(known));
            continue;
        }
        let content = match &last {
            Some((path, content, stamp)) if *path == file.path => Ok((content.clone(), *stamp)),
            _ => source::read_database(&file.path),
        };
        let read = content.and_then(|(content, stamp)| {
            last = Some((file.path.clone(), content.clone(), stamp));
            file.stamp = Some(stamp);
            OriginDatabase::new(content.clone(), file.kind).map_err(|error| wrong(file, &content, error))
        });
        match read {
            Ok(database) => *slot = Some(Arc::new(database)),
            Err((problem, remedy)) => errors.unread.push((place, problem, remedy)),
        }
    }
    errors.or(databases)
}

/// Problem and remedy.
fn wrong(file: &OriginFile, content: &[u8], error: OriginError) -> (String, String) {
    let path = file.path.display();
    let examples = match file.kind {
        OriginKind::Asn => "GeoLite2-ASN.mmdb, dbip-asn-lite.mmdb or ipinfo_lite.mmdb",
        OriginKind::Country => "GeoLite2-Country.mmdb, dbip-country-lite.mmdb or ipinfo_lite.mmdb",
    };
    match error {
        OriginError::Format(_) if content.starts_with(b"\x1f\x8b") => {
            let archive =
                Path::new(file.path.file_stem().unwrap_or_default()).extension().is_some_and(|it| it == "tar");
            let with = if archive { "tar -xzf" } else { "gunzip" };
            (format!("{path} is compressed"), format!("unpack it with {with}, and name the .mmdb file"))
        }
        OriginError::Format(_) if content.is_empty() => (format!("{path} is empty"), AGAIN.to_owned()),
        OriginError::Format(_) if !content[..content.len().min(512)].contains(&0) => {
            (format!("{path} is not in MaxMind's format, but a text"), format!("name a file such as {examples}"))
        }
        OriginError::Format(error) => {
            (format!("{path} is not in MaxMind's format, or its end is missing: {error}"), AGAIN.to_owned())
        }
        OriginError::Damaged(error) => (format!("{path} is damaged: {error}"), AGAIN.to_owned()),
        OriginError::NoField { database_type, has_other } => {
            let (what, other) = match file.kind {
                OriginKind::Asn => ("numbers of autonomous systems", "country_database"),
                OriginKind::Country => ("countries", "asn_database"),
            };
            let remedy = match has_other {
                true => format!("name it in `{other}`, and here a file such as {examples}"),
                false => format!("name a file such as {examples}"),
            };
            (format!("{path} ({database_type}) has no {what}"), remedy)
        }
    }
}

impl Config {
    /// Reads those databases again whose files have changed.
    pub(super) fn read_origin_files_again(&mut self) -> Result<(), ConfigError> {
        let databases = read(&mut self.origin_files, &self.policy.origins)
            .map_err(|errors| unread(errors, |place| self.origin_files[place].path.clone()))?;
        self.policy.origins = databases;
        Ok(())
    }
}
