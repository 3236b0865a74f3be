//! The login at a server that requires one.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The user, and where its password is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreLogin {
    pub username: Option<String>,
    /// Read at each new connection. The password itself is in no configuration, and so in no output.
    pub password_file: Option<PathBuf>,
}

impl StoreLogin {
    /// The password, without the line's end. Blocks.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn password(&self) -> Result<Option<String>, String> {
        let read = |path: &PathBuf| {
            let text = std::fs::read_to_string(path);
            text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        self.password_file.as_ref().map(read).transpose()
    }

    /// Whether every user of this host may read the password. Blocks.
    ///
    /// # Errors
    ///
    /// When nothing is known of the file.
    pub fn is_open_to_all(&self) -> io::Result<bool> {
        match &self.password_file {
            Some(path) => Ok(std::fs::metadata(path)?.mode() & 0o004 != 0),
            None => Ok(false),
        }
    }
}
