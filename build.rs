//! Which commit this is, for `connshaper --version`.
//!
//! A release build says it; others would be compiled anew at every commit. It is taken from the first of: the variable
//! CONNSHAPER_COMMIT (`HASH DATE`), contrib/commit as git archive fills it in, what cargo package leaves in a crate, and git.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=CONNSHAPER_COMMIT");
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = match release {
        true => given().or_else(archived).or_else(packaged).or_else(of_git),
        false => given(),
    };
    let commit = commit.unwrap_or_else(|| if release { "unknown" } else { "not a release" }.to_owned());
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    let mut features: Vec<_> = env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok()?.strip_prefix("CARGO_FEATURE_").map(str::to_lowercase))
        .collect();
    features.sort();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(" ") };
    println!("cargo::rustc-env=BUILD_FEATURES={features}");
    println!("cargo::rustc-env=BUILD_TARGET={}", env::var("TARGET").unwrap_or_default());
}

fn given() -> Option<String> {
    env::var("CONNSHAPER_COMMIT").ok().filter(|commit| !commit.is_empty())
}

fn archived() -> Option<String> {
    println!("cargo::rerun-if-changed=contrib/commit");
    let text = fs::read_to_string("contrib/commit").ok()?;
    let line = text.lines().find(|line| !line.starts_with('#'))?;
    let (hash, date) = line.split_once(' ').filter(|(hash, _)| !hash.contains("Format"))?;
    Some(format!("{} {date}", hash.get(..12)?))
}

fn packaged() -> Option<String> {
    let text = fs::read_to_string(".cargo_vcs_info.json").ok()?;
    let (_, rest) = text.split_once("\"sha1\": \"")?;
    Some(rest.get(..12)?.to_owned())
}

fn of_git() -> Option<String> {
    // A file beside HEAD changes with every commit, also in a worktree.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = git(&["log", "-1", "--format=%h %cs", "--abbrev=12"])?;
    let changes = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit} with changes") })
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
