//! The login at a server that requires one, and the files for it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

use crate::net::tls::TlsFiles;
use crate::observe::finding::{Finding, doubtful, wrong};
use crate::policy::config_key::{KeyValues, read_path};

/// An example of the path of a password, a certificate or a key.
const EXAMPLE: &str = "/etc/connshaper/NAME";

/// The user, and where its password is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreLogin {
    pub username: Option<String>,
    /// Read at each new connection. The password itself is in no configuration, and so in no output.
    pub password_file: Option<PathBuf>,
}

/// What the files say that a connection needs.
pub struct Secrets {
    pub password: Option<String>,
    pub tls: Option<TlsConnector>,
}

impl StoreLogin {
    /// Reads its keys. A user without a password is a mistake.
    pub fn read(s: &dyn KeyValues, user_key: &str, file_key: &str) -> Self {
        let login = Self { username: s.text(user_key), password_file: read_path(s, file_key, EXAMPLE) };
        if login.username.is_some() && login.password_file.is_none() {
            let problem = format!("`{user_key}` needs a password");
            s.error(user_key, &problem, &format!("name the file that has it in `{file_key}`"));
        }
        login
    }

    /// Reads the files of the login and of TLS, where there is any, on a thread that may block.
    ///
    /// # Errors
    ///
    /// Says which file is wrong, and how.
    pub async fn secrets(&self, tls: Option<&TlsFiles>) -> Result<Secrets, String> {
        let (password_file, tls) = (self.password_file.clone(), tls.cloned());
        if password_file.is_none() && tls.is_none() {
            return Ok(Secrets { password: None, tls: None });
        }
        let read = move || {
            let password = password_file.as_deref().map(read_password).transpose()?;
            Ok(Secrets { password, tls: tls.map(|files| files.connector()).transpose()? })
        };
        spawn_blocking(read).await.map_err(|error| error.to_string())?
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

/// Reads the keys of files for TLS. A certificate without its key is a mistake, and so is a key alone.
pub fn read_tls_files(s: &dyn KeyValues, [authorities, certificate, key]: [&str; 3]) -> TlsFiles {
    let files = (read_path(s, certificate, EXAMPLE), read_path(s, key, EXAMPLE));
    let alone = match &files {
        (Some(_), None) => Some((certificate, key)),
        (None, Some(_)) => Some((key, certificate)),
        _ => None,
    };
    if let Some((one, other)) = alone {
        s.error(one, &format!("`{one}` needs `{other}`"), "name both files, or neither");
    }
    TlsFiles { authorities: read_path(s, authorities, EXAMPLE), identity: files.0.zip(files.1) }
}

/// The password, without the line's end. Blocks.
fn read_password(path: &Path) -> Result<String, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
