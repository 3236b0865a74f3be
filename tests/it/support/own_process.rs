//! A test in a process of its own.
//!
//! The environment, standard error, open files and memory belong to a whole process, and all tests share one. A test
//! about these starts the test program again, for itself alone: the child finds a role there, and does the work.

use std::any::type_name;
use std::env;
use std::ffi::{OsStr, OsString};
use std::process::Command;

const ROLE: &str = "CONNSHAPER_TEST_ROLE";

/// The role that a test gave to this process; `None` in the process of all tests.
pub fn role() -> Option<OsString> {
    env::var_os(ROLE)
}

/// A command that runs a test function again, alone and with a role, after this shell command.
pub fn own_process<F: Fn()>(_test: F, preparation: &str, role: impl AsRef<OsStr>) -> Command {
    // A test's name is its path without the name of the test program.
    let (_, name) = type_name::<F>().split_once("::").expect("a function of the test program");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{preparation} && exec \"$0\" \"$@\"")]).arg(env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture"]).env(ROLE, role);
    command
}

/// Runs such a command, which must succeed. Shows what it says as if the test itself said it.
#[track_caller]
pub fn must_pass(mut command: Command) {
    let output = command.output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}");
    assert!(output.status.success() && said.contains("test result: ok. 1 passed"), "{}\n{errors}", output.status);
}
