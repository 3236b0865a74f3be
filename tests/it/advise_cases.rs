//! Small logs that other hosts write, each with what is right about it (`logs/`).

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use super::support::command;

#[test]
fn a_before_queue_filter_leaves_the_message_to_its_client() {
    let report = report("proxy_filter.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{report:#}");
}

#[test]
fn programs_may_log_under_names_of_their_own() {
    for log in ["transport_name.log", "smtpd_name.log"] {
        let report = report(log);
        assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{log}: {report:#}");
    }
}

#[test]
fn mailscanner_gives_a_message_a_new_queue_id() {
    let report = report("mailscanner.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&1.into(), &1.into()), "{report:#}");
}

#[test]
fn what_a_filter_discards_is_not_delivered() {
    let report = report("amavis_discarded.log");
    assert_eq!((&report["senders"], &report["sums"]["asked"]), (&0.into(), &1.into()), "{report:#}");
    assert_eq!(report["sums"]["discarded_messages"], 1);
}

#[test]
fn submission_services_are_told_by_their_names() {
    for log in ["submission_name.log", "submission_proxy.log"] {
        let report = report(log);
        let sums = &report["sums"];
        assert_eq!((&sums["submission"], &sums["sessions"]), (&1.into(), &0.into()), "{log}: {report:#}");
    }
}

#[test]
fn an_identifier_before_the_message_belongs_to_syslog() {
    let report = report("solaris_id.log");
    assert_eq!((&report["sums"]["sessions"], &report["sums"]["asked"]), (&2.into(), &2.into()), "{report:#}");
}

#[test]
fn a_time_may_stand_before_that_of_the_line() {
    let report = report("docker_logs_t.log");
    assert_eq!((&report["sums"]["asked"], &report["senders"]), (&1.into(), &1.into()), "{report:#}");
}

fn report(log: &str) -> Value {
    let output = advise(log);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn advise(log: &str) -> Output {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/logs").join(log);
    let options = ["--json", "--seen", "rcpt", "--mynetworks", "127.0.0.0/8,::1/128", "--timezone", "UTC"];
    command().arg("advise").args(options).arg(path).output().unwrap()
}
