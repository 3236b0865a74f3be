//! A browser without a window.

use std::process::{Command, Stdio};

use super::Dir;

/// Loads a page, and returns the standard output and standard error of the browser.
pub fn browse(dir: &Dir, url: &str, arguments: &[&str]) -> (String, String) {
    let output = Command::new("chromium")
        // chromium has no sandbox when it runs as root or in a container.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--enable-logging=stderr", "--lang=en-US"])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run chromium (is it installed?): {error}"));
    let [document, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "chromium: {}\n{said}", output.status);
    (document, said)
}
