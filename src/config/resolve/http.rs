//! The doors over HTTP: their sockets, their token, and the proxies they trust.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::diagnostics::quoted;
use super::super::settings::TableSettings;
use super::super::{HttpConfig, Token};
use super::endpoints;

/// The shortest token: a shorter one can be guessed.
const SHORTEST: usize = 16;

/// The longest.
const LONGEST: usize = 1024;

pub(super) fn read(s: &TableSettings) -> HttpConfig {
    let config = HttpConfig {
        listen: endpoints::listen(s, "http_listen"),
        token: token(s),
        trusted_proxies: trusted_proxies(s),
        client_header: header(s, "client_header").unwrap_or_default(),
        user_header: header(s, "user_header"),
        page: s.get("http_page"),
    };
    if config.listen.is_empty() {
        s.warn_each(
            &["http_token_file", "trusted_proxies", "client_header", "user_header", "http_page"],
            "has no effect without `http_listen`",
        );
    }
    config
}

fn trusted_proxies(s: &TableSettings) -> Vec<ipnet::IpNet> {
    let netblocks = s.netblocks("trusted_proxies");
    for (net, span) in netblocks.iter().filter(|(net, _)| net.prefix_len() == 0) {
        s.diagnostics.warn(span, format!("{net} lets every client say who it is"));
    }
    netblocks.iter().map(|(net, _)| *net).collect()
}

/// The name of a header, in lower case.
fn header(s: &TableSettings, key: &'static str) -> Option<String> {
    let name = s.get::<Option<String>>(key)?;
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(letter) {
        let problem = format!("{} is not a valid name of a header", quoted(&name));
        return s.error(key, problem, "write one as in \"X-Forwarded-For\"");
    }
    Some(name.to_ascii_lowercase())
}

/// The token in the file that is named: its first line.
fn token(s: &TableSettings) -> Option<Token> {
    const KEY: &str = "http_token_file";
    let path = s.get::<Option<String>>(KEY)?;
    let directory = s.diagnostics.source.path.parent().unwrap_or(Path::new(""));
    let path = directory.join(path);
    let remedy =
        "write one line of 16 to 1024 printable characters without blanks into it, as `openssl rand -hex 32` does";
    let text = match fs::metadata(&path).and_then(|file| Ok((file, fs::read_to_string(&path)?))) {
        Ok((file, text)) => {
            if file.permissions().mode() & 0o004 != 0 {
                s.warn(KEY, "names a file that every user of this host can read");
            }
            text
        }
        Err(error) => {
            let problem = format!("the token file {} cannot be read: {error}", quoted(&path.to_string_lossy()));
            return s.error(KEY, problem, remedy);
        }
    };
    let token = text.trim_end_matches(['\n', '\r']);
    if !(SHORTEST..=LONGEST).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let problem = format!("the token file {} has no valid token", quoted(&path.to_string_lossy()));
        return s.error(KEY, problem, remedy);
    }
    Some(Token(token.to_owned()))
}
