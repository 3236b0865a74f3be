//! The systemd units in contrib/: systemd accepts them and rates the service as well confined.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SERVICE: &str = "connshaper.service";
const SOCKET: &str = "connshaper.socket";

#[test]
fn systemd_understands_the_units() {
    let units = Units::new();
    let mut verify = Command::new("systemd-analyze");
    // The colon at the end adds the units of the system, to which ours refer.
    verify.env("SYSTEMD_UNIT_PATH", format!("{}:", units.0.path().display()));
    verify.args(["verify", "--man=no", "--recursive-errors=no"]).args([units.path(SERVICE), units.path(SOCKET)]);
    let output = run(&mut verify);
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
}

#[test]
fn the_service_can_do_little_beyond_its_task() {
    let units = Units::new();
    // In tenths of the exposure: 0 is fully locked down, 100 is unrestricted.
    let output = run(Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--threshold=15", "--no-pager"])
        .arg(units.path(SERVICE)));
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn without_postfixs_queue_directory_neither_unit_starts() {
    let units = Units::new();
    let socket = fs::read_to_string(units.path(SOCKET)).unwrap();
    // A failed condition is not an error: the service would start without the socket and listen elsewhere.
    assert!(!socket.contains("\nCondition"), "{socket}");
    assert!(fs::read_to_string(units.path(SERVICE)).unwrap().contains("\nRequires=connshaper.socket\n"));
    let queue = "=/var/spool/postfix/private\n";
    assert!(socket.contains(queue), "{socket}");
    let missing = units.0.path().join("missing");
    fs::write(units.path(SOCKET), socket.replace(queue, &format!("={}\n", missing.display()))).unwrap();
    let asserts = |told: &str| {
        let mut condition = Command::new("systemd-analyze");
        condition.env("SYSTEMD_UNIT_PATH", format!("{}:", units.0.path().display()));
        let output = run(condition.args(["condition", "--unit=connshaper.socket"]));
        let said = text(&output);
        assert!(said.contains(told), "{said}");
    };
    asserts("Asserts failed");
    fs::create_dir(&missing).unwrap();
    asserts("Asserts succeeded");
}

#[test]
fn systemd_understands_the_user_to_create() {
    let output = run(Command::new("systemd-sysusers").arg("--dry-run").arg(contrib("connshaper.sysusers")));
    assert!(output.status.success(), "{}", text(&output));
}

/// Copies of the units with the path of the built program: systemd checks that it exists.
struct Units(TempDir);

impl Units {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(contrib(SOCKET), dir.path().join(SOCKET)).unwrap();
        let service = fs::read_to_string(contrib(SERVICE)).unwrap();
        let installed = "ExecStart=/usr/local/sbin/connshaper ";
        assert!(service.contains(installed), "no line with {installed:?} in {SERVICE}");
        let built = format!("ExecStart={} ", env!("CARGO_BIN_EXE_connshaper"));
        fs::write(dir.path().join(SERVICE), service.replace(installed, &built)).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd").join(name)
}

fn run(command: &mut Command) -> Output {
    let output = command.output();
    output.unwrap_or_else(|error| panic!("cannot run {:?} (is systemd installed?): {error}", command.get_program()))
}

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{out}{err}", output.status)
}
