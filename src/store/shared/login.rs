//! The login at a server that requires one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::observe::finding::{Finding, doubtful, wrong};

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
            let text = fs::read_to_string(path);
            text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{}: {error}", path.display()))
        };
        self.password_file.as_ref().map(read).transpose()
    }

    /// Whether the password is there and kept from the other users of this host. Blocks.
    pub fn examine(&self) -> Option<Finding> {
        let file = self.password_file.as_ref()?;
        let path = file.display();
        match fs::metadata(file).map(|found| found.mode() & 0o004 != 0) {
            Ok(false) => None,
            Ok(true) => {
                let what = format!("every user of this host can read the password in {path}");
                Some(doubtful(what, format!("run chmod o= {path}")))
            }
            Err(error) => Some(wrong(
                format!("{path}: {error}"),
                "write the password into it, and let the user that the daemon runs as read it",
            )),
        }
    }
}
