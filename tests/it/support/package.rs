//! The Debian package of the program under test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Dir;

/// The package, made once in a run of the tests; or the one that is to be released, which contrib/release-check names.
pub fn deb() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        if let Some(made) = std::env::var_os("CONNSHAPER_DEB") {
            return made.into();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = Dir::new();
        let program = dir.join("connshaper");
        // Without what debuggers read, as a release is.
        run(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_connshaper")));
        run(Command::new("contrib/package").current_dir(root).arg("--program").arg(&program).arg("deb"));
        let made = fs::read_dir(root.join("target/package")).unwrap().map(|entry| entry.unwrap().path());
        made.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb")).unwrap()
    })
}

/// Puts it into a directory.
pub fn copy_to(dir: &Dir) {
    let deb = deb();
    fs::copy(deb, dir.join(deb.file_name().unwrap())).unwrap();
}

/// Makes a newer package with the same program and another line in its configuration, in a directory.
pub fn newer_in(dir: &Dir) {
    let root = dir.join("newer");
    run(Command::new("dpkg-deb").arg("--raw-extract").arg(deb()).arg(&root));
    let edit = |file: &str, change: &dyn Fn(String) -> String| {
        let file = root.join(file);
        let text = change(fs::read_to_string(&file).unwrap());
        fs::write(file, text).unwrap();
    };
    edit("DEBIAN/control", &|text| text.replace("\nVersion: 0", "\nVersion: 1"));
    edit("etc/connshaper/connshaper.toml", &|text| text + "# A line of the newer package.\n");
    run(Command::new("dpkg-deb").args(["-Zgzip", "-z1", "--root-owner-group", "--build"]).arg(&root).arg(dir.path()));
    fs::remove_dir_all(root).unwrap();
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&said));
}
