//! Every file of the fuzz targets' corpora goes through the target it is for.
//!
//! Inputs that a fuzzer found interesting, or that once broke something, are tested
//! again with every change, without a fuzzer.

#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn requests_are_decoded_as_a_naive_reader_would() {
    run_all("request", targets::request::run);
}

#[test]
fn configurations_are_accepted_or_rejected_with_a_reason() {
    run_all("toml", targets::toml::run);
}

#[test]
fn files_of_the_original_form_mean_the_same_as_toml() {
    run_all("original", targets::original::run);
}

#[test]
fn list_files_hold_what_a_plain_reader_finds() {
    run_all("lists", targets::lists::run);
}

#[test]
fn a_log_line_is_read_the_same_whatever_precedes_it() {
    run_all("log", targets::log::run);
}

#[test]
fn entries_of_a_log_are_read_however_they_are_cut_and_whatever_is_before_them() {
    run_all("records", targets::records::run);
}

#[test]
fn answers_of_memcached_are_read_however_they_are_cut() {
    run_all("memcached", targets::memcached::run);
}

#[test]
fn every_target_has_a_corpus_a_dictionary_and_a_test() {
    let listed = |dir: &str| {
        let files = files(dir);
        let mut names: Vec<_> =
            files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let targets = listed("fuzz_targets");
    assert!(!targets.is_empty());
    assert_eq!(listed("corpus"), targets);
    assert_eq!(listed("dictionaries"), targets);
    let tested = include_str!("fuzz_corpus.rs");
    for target in targets {
        assert!(
            tested.contains(&format!("run_all(\"{target}\", targets::{target}::run);")),
            "{target} is not run here"
        );
    }
}

fn run_all(target: &str, run: fn(&[u8])) {
    let corpus = files(&format!("corpus/{target}"));
    assert!(corpus.len() > 5, "{} files for {target}", corpus.len());
    for file in corpus {
        // Shown only when the target panics.
        println!("{}", file.display());
        run(&fs::read(file).unwrap());
    }
}

fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(dir);
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}
