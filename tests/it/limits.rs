//! Limits, written as in the configuration: one suite, on every kind of store.
//!
//! Tests in which time passes have a simulated clock, which memcached and Redis do not, so they run on the others.

use crate::support::{Memcached, Redis, Simulation, Sqlite, at};

const CLIENT: &str = "198.51.100.7";

/// Runs a test on each kind of store.
fn on_each(rules: &str, story: impl Fn(&mut Simulation)) {
    in_time(rules, &story);
    let memcached = Memcached::start();
    story(&mut Simulation::on(&memcached, rules));
    let redis = Redis::start();
    story(&mut Simulation::on_redis(&redis, rules));
}

/// Runs a test in which time passes.
fn in_time(rules: &str, story: impl Fn(&mut Simulation)) {
    story(&mut Simulation::new(rules));
    let sqlite = Sqlite::new();
    story(&mut Simulation::on_sqlite(&sqlite, rules));
}

/// The answers to a number of sessions of a client.
fn sessions(site: &mut Simulation, client: &str, number: usize) -> Vec<String> {
    (0..number).map(|_| site.session(client)).collect()
}

#[test]
fn the_first_limit_of_the_file_that_is_over_refuses() {
    let rules = "
        threshold = 4
        [limit.second]
        threshold = 2
        exptime = \"1d\"
        [limit.first]
        threshold = 2
        ";
    on_each(rules, |site| {
        let expected = ["pass", "pass", "over second", "over second", "over connections"];
        assert_eq!(sessions(site, CLIENT, 5), expected);
        assert_eq!(site.session("198.51.100.8"), "pass");
    });
}

#[test]
fn limits_with_different_windows_apply_together() {
    in_time("threshold = 2\n[limit.day]\nthreshold = 5\nexptime = \"1d\"", |site| {
        assert_eq!(sessions(site, CLIENT, 3), ["pass", "pass", "over connections"]);
        site.now = 60_000;
        assert_eq!(sessions(site, CLIENT, 2), ["pass", "pass"]);
        site.now = 120_000;
        assert_eq!(sessions(site, CLIENT, 1), ["over day"], "the refused one counts too");
        site.now = 86_400_000;
        assert_eq!(sessions(site, CLIENT, 1), ["pass"]);
    });
}

#[test]
fn two_limits_may_count_prefixes_of_different_lengths() {
    let rules = "
        threshold = 2
        [limit.network]
        threshold = 3
        ipv4_prefix_length = 24
        ipv6_prefix_length = 48
        ";
    on_each(rules, |site| {
        assert_eq!(sessions(site, "198.51.100.1", 2), ["pass", "pass"]);
        assert_eq!(sessions(site, "198.51.100.2", 2), ["pass", "over network"]);
        assert_eq!(sessions(site, "2001:db8:1:1::1", 2), ["pass", "pass"]);
        assert_eq!(sessions(site, "2001:db8:1:2::1", 2), ["pass", "over network"]);
        assert_eq!(sessions(site, "2001:db8:2::1", 1), ["pass"]);
    });
}

#[test]
fn a_sliding_window_never_exceeds_the_threshold_in_any_span() {
    let rules = "threshold = 1000000\n[limit.sliding]\nthreshold = 10\nwindow = \"sliding\"";
    // Where sliding windows are slots.
    let mut site = Simulation::new(rules);
    // Ten hits at the end of one fixed window and ten at the beginning of the next.
    site.now = 59_000;
    assert_eq!(sessions(&mut site, CLIENT, 11)[9..], ["pass", "over sliding"]);
    site.now = 61_000;
    assert_eq!(site.session(CLIENT), "over sliding");
    site.now = 59_000 + 60_000;
    assert_eq!(site.session(CLIENT), "over sliding", "slots count in full");
    site.now = 61_000 + 66_000;
    assert_eq!(site.session(CLIENT), "pass");
    on_each(rules, |site| assert_eq!(sessions(site, CLIENT, 11)[9..], ["pass", "over sliding"]));
}

/// The same, in a file whose sliding windows are exact.
fn exact(rules: &str, story: impl Fn(&mut Simulation)) {
    let sqlite = Sqlite::new();
    story(&mut Simulation::on_sqlite(&sqlite, rules));
}

#[test]
fn an_exact_sliding_window_allows_the_threshold_in_any_span_to_the_millisecond() {
    exact("threshold = 3\nexptime = 60\nwindow = \"sliding\"", |site| {
        for (now, expected) in [
            (0, "pass"),
            (20_000, "pass"),
            (40_000, "pass"),
            (59_999, "over connections"),
            // The hit that was refused counts, and another has left.
            (60_000, "over connections"),
            (100_000, "pass"),
            (119_998, "over connections"),
            (119_999, "over connections"),
            (119_999 + 59_999, "pass"),
        ] {
            site.now = now;
            assert_eq!(site.session(CLIENT), expected, "at {now}");
        }
    });
}

#[test]
fn without_refused_hits_an_exact_sliding_window_is_free_when_the_oldest_hit_leaves() {
    exact("threshold = 3\nexptime = 60\nwindow = \"sliding\"\ncount_refused = false", |site| {
        for now in [0, 20_000, 40_000] {
            site.now = now;
            assert_eq!(site.session(CLIENT), "pass", "at {now}");
        }
        for round in 1..20 {
            for (moment, expected) in [(0, "pass"), (1, "over connections"), (19_999, "over connections")] {
                site.now = round * 60_000 + moment;
                assert_eq!(site.session(CLIENT), expected, "at {}", site.now);
                site.now = round * 60_000 + 20_000 + moment;
            }
            for third in [20_000, 40_000] {
                site.now = round * 60_000 + third;
                assert_eq!(site.session(CLIENT), "pass", "at {}", site.now);
                assert_eq!(site.session(CLIENT), "over connections", "at {}", site.now);
            }
        }
    });
}

#[test]
fn a_hit_that_another_limit_refuses_leaves_an_exact_sliding_window() {
    let rules = "
        threshold = 1
        exptime = \"1h\"
        count_refused = false
        [limit.all]
        per = []
        exptime = 60
        threshold = 3
        window = \"sliding\"
        count_refused = false
        ";
    exact(rules, |site| {
        assert_eq!(site.session("198.51.100.1"), "pass");
        for _ in 0..10 {
            assert_eq!(site.session("198.51.100.1"), "over connections");
        }
        assert_eq!(site.session("198.51.100.2"), "pass");
        assert_eq!(site.session("198.51.100.3"), "pass");
        assert_eq!(site.session("198.51.100.4"), "over all");
        site.now = 60_000;
        assert_eq!(site.session("198.51.100.4"), "pass");
    });
}

#[test]
fn a_fixed_window_begins_with_the_first_hit_and_is_never_extended() {
    in_time("threshold = 2", |site| {
        for (now, expected) in [(0, "pass"), (30_000, "pass"), (59_999, "over connections"), (60_000, "pass")] {
            site.now = now;
            assert_eq!(site.session(CLIENT), expected, "at {now}");
        }
    });
}

#[test]
fn messages_are_counted_once_each_however_often_postfix_asks() {
    let rules = "threshold = 1\n[limit.messages]\ncount = \"messages\"\nthreshold = 2";
    on_each(rules, |site| {
        for (message, expected) in [(0, "pass"), (1, "pass"), (2, "over messages"), (3, "over messages")] {
            for state in ["RCPT", "RCPT", "DATA", "END-OF-MESSAGE"] {
                assert_eq!(site.ask(0, &at(CLIENT, 0, state, message)), expected, "message {message} at {state}");
            }
            assert_eq!(site.ask(0, &at(CLIENT, 0, "MAIL", 0)), "pass", "between messages");
        }
        assert_eq!(site.session(CLIENT), "over connections");
    });
}

#[test]
fn recipients_are_counted_once_each_and_refused_one_by_one() {
    let rules = "[limit.recipients]\ncount = \"recipients\"\nthreshold = 3";
    on_each(rules, |site| {
        let mut rcpt =
            |recipient: &str| site.ask(0, &format!("{}recipient={recipient}@example.org\n", at(CLIENT, 0, "RCPT", 0)));
        for recipient in ["a", "a", "A", "b", "c"] {
            assert_eq!(rcpt(recipient), "pass", "{recipient}");
        }
        assert_eq!(rcpt("d"), "over recipients");
        assert_eq!(rcpt("a"), "pass", "it was let in");
        assert_eq!(rcpt("d"), "over recipients", "it was refused");
        let data = format!("{}recipient_count=3\n", at(CLIENT, 0, "DATA", 0));
        assert_eq!(site.ask(0, &data), "pass", "all of them were asked about one by one");
    });
}

#[test]
fn recipients_not_seen_at_rcpt_are_counted_at_data() {
    let rules = "[limit.recipients]\ncount = \"recipients\"\nthreshold = 10";
    on_each(rules, |site| {
        let mut data =
            |message, count| site.ask(0, &format!("{}recipient_count={count}\n", at(CLIENT, 0, "DATA", message)));
        assert_eq!([data(0, 6), data(0, 6), data(1, 4), data(2, 1)], ["pass", "pass", "pass", "over recipients"]);
    });
}

#[test]
fn several_limits_count_each_of_many_recipients_once() {
    let limit = |name: &str| format!("[limit.{name}]\ncount = \"recipients\"\nthreshold = 1500\n");
    let mut site = Simulation::new(&[limit("one"), limit("two")].concat());
    for (number, times) in (0..1000).map(|number| (number, 2)).chain((1000..1400).map(|number| (number, 1))) {
        let lines = format!("{}recipient=u{number}@example.org\n", at(CLIENT, 0, "RCPT", 0));
        for _ in 0..times {
            assert_eq!(site.ask(0, &lines), "pass", "recipient {number}");
        }
    }
    let data = format!("{}recipient_count=1400\n", at(CLIENT, 0, "DATA", 0));
    assert_eq!(site.ask(0, &data), "pass", "all of them were asked about one by one");
    let more = format!("{}recipient_count=100\n", at(CLIENT, 0, "DATA", 1));
    assert_eq!(site.ask(0, &more), "pass");
    let more = format!("{}recipient_count=1\n", at(CLIENT, 0, "DATA", 2));
    assert_eq!(site.ask(0, &more), "over one");
}

#[test]
fn bytes_are_counted_at_the_end_of_each_message() {
    let rules = "[limit.bytes]\ncount = \"bytes\"\nthreshold = \"100KiB\"";
    on_each(rules, |site| {
        let mut message =
            |state: &str, number, size: u32| site.ask(0, &format!("{}size={size}\n", at(CLIENT, 0, state, number)));
        assert_eq!(message("RCPT", 0, 200_000), "pass", "what is announced is not counted");
        assert_eq!(message("END-OF-MESSAGE", 0, 60 * 1024), "pass");
        assert_eq!(message("END-OF-MESSAGE", 0, 60 * 1024), "pass", "asked again");
        assert_eq!(message("END-OF-MESSAGE", 1, 40 * 1024), "pass");
        assert_eq!(message("END-OF-MESSAGE", 2, 1), "over bytes");
    });
}

#[test]
fn requests_are_counted_every_time() {
    on_each("[limit.requests]\ncount = \"requests\"\nthreshold = 3", |site| {
        let answers: Vec<String> = (0..4).map(|_| site.ask(0, &at(CLIENT, 0, "RCPT", 0))).collect();
        assert_eq!(answers, ["pass", "pass", "pass", "over requests"]);
    });
}

#[test]
fn a_limit_per_user_is_judged_after_login_although_the_session_passed_before() {
    let rules = "
        threshold = 1
        [limit.users]
        count = \"messages\"
        per = \"sasl_username\"
        threshold = 2
        ";
    on_each(rules, |site| {
        assert_eq!(site.ask(0, &at(CLIENT, 0, "CONNECT", 0)), "pass");
        for (message, user, expected) in
            [(0, "joe", "pass"), (1, "JOE", "pass"), (2, "joe", "over users"), (3, "ann", "pass"), (4, "", "pass")]
        {
            let lines = format!("{}sasl_username={user}\n", at(CLIENT, 0, "RCPT", message));
            assert_eq!(site.ask(0, &lines), expected, "message {message} of {user:?}");
        }
    });
}

#[test]
fn a_user_is_counted_over_all_client_addresses() {
    on_each("[limit.users]\nper = \"sasl_username\"\nthreshold = 2", |site| {
        for (client, expected) in [("192.0.2.1", "pass"), ("192.0.2.2", "pass"), ("192.0.2.3", "over users")] {
            assert_eq!(site.session_with(client, "sasl_username=joe\n"), expected, "{client}");
        }
        assert_eq!(site.session_with("192.0.2.3", "sasl_username=ann\n"), "pass");
    });
}

#[test]
fn a_message_counts_once_for_each_recipient_domain() {
    let rules = "[limit.domains]\ncount = \"messages\"\nper = \"recipient_domain\"\nthreshold = 1";
    on_each(rules, |site| {
        let mut rcpt = |message, recipient: &str| {
            site.ask(0, &format!("{}recipient={recipient}\n", at(CLIENT, 0, "RCPT", message)))
        };
        assert_eq!(rcpt(0, "a@example.org"), "pass");
        assert_eq!(rcpt(0, "b@example.org"), "pass");
        assert_eq!(rcpt(0, "c@example.net"), "pass");
        assert_eq!(rcpt(1, "a@Example.org"), "over domains");
        assert_eq!(rcpt(1, "c@example.com"), "pass");
    });
}

#[test]
fn the_domain_of_a_host_name_ignores_case_and_a_final_dot() {
    on_each("threshold = 100\n[limit.domains]\nper = \"reverse_client_domain\"\nthreshold = 1", |site| {
        for (name, expected) in [
            ("MAIL.ONE.CO.UK", "pass"),
            ("MAIL.TWO.CO.UK", "pass"),
            ("mail.one.co.uk", "over domains"),
            ("Mx.Two.Co.Uk.", "over domains"),
        ] {
            assert_eq!(site.session_with(CLIENT, &format!("reverse_client_name={name}\n")), expected, "{name}");
        }
    });
}

#[test]
fn unknown_is_a_valid_user_name_but_means_no_host_name() {
    for (per, answer) in [("sasl_username", "over names"), ("helo_name", "over names"), ("client_name", "pass")] {
        let rules = format!("threshold = 100\n[limit.names]\nper = \"{per}\"\nthreshold = 1");
        on_each(&rules, |site| {
            let lines = format!("{per}=unknown\n");
            assert_eq!(site.session_with("192.0.2.1", &lines), "pass");
            assert_eq!(site.session_with("192.0.2.2", &lines), answer, "{per}");
        });
    }
}

#[test]
fn a_limit_may_have_a_combined_key_or_none() {
    let rules = "
        threshold = 100
        [limit.pairs]
        per = [\"client\", \"sender_domain\"]
        threshold = 1
        [limit.everyone]
        per = []
        threshold = 4
        ";
    on_each(rules, |site| {
        let mut from = |client: &str, sender: &str| site.session_with(client, &format!("sender=joe@{sender}\n"));
        assert_eq!(from("192.0.2.1", "example.org"), "pass");
        assert_eq!(from("192.0.2.1", "example.net"), "pass");
        assert_eq!(from("192.0.2.2", "example.org"), "pass");
        assert_eq!(from("192.0.2.2", "EXAMPLE.org"), "over pairs");
        assert_eq!(from("192.0.2.3", "example.org"), "over everyone");
    });
}

#[test]
fn a_limit_counts_only_what_matches() {
    let rules = "
        threshold = 100
        [limit.dynamic]
        threshold = 1
        match = { client_name = [\"/^dyn-/\", \"unknown\"], sasl_username = false }
        unless = { client_address = \"192.0.2.128/25\", server_port = 587 }
        ";
    on_each(rules, |site| {
        let mut twice = |client: &str, lines: &str| {
            assert_eq!(site.session_with(client, lines), "pass", "{client} {lines}");
            site.session_with(client, lines)
        };
        assert_eq!(twice("192.0.2.1", "client_name=DYN-1.example.net\n"), "over dynamic");
        assert_eq!(twice("192.0.2.2", "client_name=unknown\n"), "over dynamic");
        assert_eq!(twice("192.0.2.3", "client_name=mail.example.net\n"), "pass");
        assert_eq!(twice("192.0.2.4", "client_name=unknown\nsasl_username=joe\n"), "pass");
        assert_eq!(twice("192.0.2.129", "client_name=unknown\n"), "pass");
        assert_eq!(twice("192.0.2.5", "client_name=unknown\nserver_port=587\n"), "pass");
    });
}

#[test]
fn recipients_that_do_not_match_are_not_counted_at_data() {
    for count in ["connections", "messages", "recipients"] {
        let rules = format!(
            "threshold = 100\n[limit.abroad]\ncount = \"{count}\"\nthreshold = 1\n\
             unless = {{ recipient = \"/@example[.]org$/\" }}"
        );
        on_each(&rules, |site| {
            let mut ask = |session: usize, message, recipient: &str| {
                let rcpt = format!("{}recipient={recipient}\n", at(CLIENT, session, "RCPT", message));
                site.ask(session, &rcpt)
            };
            for message in 0..3 {
                assert_eq!(ask(0, message, "a@example.org"), "pass");
                assert_eq!(ask(0, message, "b@example.org"), "pass");
            }
            assert_eq!(ask(1, 0, "a@example.net"), "pass");
            assert_eq!(ask(2, 0, "b@example.org"), "pass");
            assert_eq!(ask(2, 0, "b@example.net"), "over abroad", "{count}");
            for state in ["CONNECT", "DATA", "END-OF-MESSAGE"] {
                let lines = format!("{}recipient_count=2\n", at(CLIENT, 3, state, 0));
                assert_eq!(site.ask(3, &lines), "pass", "{count} at {state}");
            }
        });
    }
}

#[test]
fn the_most_specific_netblock_sets_the_rate() {
    let rules = "
        threshold = 1
        [netblocks]
        \"192.0.2.0/24\" = 2
        \"192.0.2.128/25\" = 3
        \"192.0.2.200\" = -1
        \"192.0.2.201\" = 0
        \"198.51.100.0/24\" = \"blacklist\"
        \"198.51.100.1\" = \"whitelist\"
        ";
    on_each(rules, |site| {
        for (client, allowed) in [("203.0.113.1", 1), ("192.0.2.1", 2), ("192.0.2.2", 2), ("192.0.2.129", 3)] {
            let answers = sessions(site, client, allowed + 1);
            assert!(answers[..allowed].iter().all(|answer| answer == "pass"), "{client}: {answers:?}");
            assert_eq!(answers[allowed], "over connections", "{client}");
        }
        assert_eq!(sessions(site, "192.0.2.200", 5), ["pass"; 5]);
        assert_eq!(sessions(site, "198.51.100.1", 5), ["pass"; 5]);
        assert_eq!(sessions(site, "192.0.2.201", 1), ["blacklisted blacklist"]);
        assert_eq!(sessions(site, "198.51.100.2", 1), ["blacklisted blacklist"]);
    });
}

#[test]
fn netblocks_and_groups_may_share_one_count() {
    let rules = "
        threshold = 100
        [netblocks]
        \"192.0.2.0/24\" = { threshold = 2, per = \"netblock\" }
        \"198.51.100.0/24\" = { threshold = 3, per = \"partners\" }
        \"2001:db8::/32\" = { threshold = 3, per = \"partners\" }
        ";
    on_each(rules, |site| {
        assert_eq!(site.session("192.0.2.1"), "pass");
        assert_eq!(site.session("192.0.2.2"), "pass");
        assert_eq!(site.session("192.0.2.3"), "over connections");
        assert_eq!(site.session("198.51.100.1"), "pass");
        assert_eq!(site.session("2001:db8::1"), "pass");
        assert_eq!(site.session("198.51.100.2"), "pass");
        assert_eq!(site.session("2001:db8:1::1"), "over connections");
    });
}

#[test]
fn a_named_limit_may_have_rates_and_exemptions_of_its_own() {
    let rules = "
        threshold = 100
        [limit.small]
        threshold = 1
        [limit.small.netblocks]
        \"192.0.2.0/24\" = 2
        \"192.0.2.1\" = \"whitelist\"
        ";
    on_each(rules, |site| {
        assert_eq!(sessions(site, "203.0.113.1", 2), ["pass", "over small"]);
        assert_eq!(sessions(site, "192.0.2.2", 3), ["pass", "pass", "over small"]);
        assert_eq!(sessions(site, "192.0.2.1", 4), ["pass"; 4]);
    });
}

#[test]
fn the_busy_mx_example_limits_a_provider_within_one_network() {
    let example = include_str!("../../conf/examples/busy-mx.toml");
    let elsewhere = ["memcached_server", "whitelist_file", "blacklist_file", "list_check_interval"];
    let rules: Vec<&str> = example.lines().filter(|line| !elsewhere.iter().any(|key| line.starts_with(key))).collect();
    for network in ["198.51.100.", "2001:db8:100::"] {
        let mut site = Simulation::new(&rules.join("\n"));
        for host in 0..600 {
            assert_eq!(site.session(&format!("{network}{}", host % 100 + 1)), "pass", "{host} of {network}");
        }
        assert_eq!(site.session(&format!("{network}1")), "wait 500");
    }
}

#[test]
fn a_netblock_longer_than_the_client_s_prefix_keeps_its_clients_apart() {
    let rules = "threshold = 1\n[netblocks]\n\"2001:db8::/96\" = 2";
    on_each(rules, |site| {
        assert_eq!(sessions(site, "2001:db8::1", 2), ["pass", "pass"]);
        assert_eq!(sessions(site, "2001:db8::1:0:0:1", 2), ["pass", "over connections"], "the rest of the /64");
        assert_eq!(sessions(site, "2001:db8::2", 1), ["over connections"]);
    });
}

#[test]
fn each_answer_over_the_limit_is_delayed_twice_as_long() {
    let rules = "threshold = 1\ninitial_delay = \"100ms\"\nmax_delay = \"300ms\"\nmax_concurrent = 10";
    on_each(rules, |site| {
        assert_eq!(sessions(site, CLIENT, 5), ["pass", "wait 100", "wait 200", "wait 300", "wait 300"]);
    });
}

#[test]
fn a_session_is_delayed_once() {
    in_time("threshold = 1\ninitial_delay = 1", |site| {
        assert_eq!(site.session(CLIENT), "pass");
        for (message, expected) in [(0, "wait 1000"), (0, "pass"), (1, "pass")] {
            assert_eq!(site.ask(5, &at(CLIENT, 5, "RCPT", message)), expected);
        }
    });
}

#[test]
fn several_limits_delay_a_session_once() {
    let rules = "
        threshold = 1
        initial_delay = 1
        [limit.network]
        threshold = 1
        ipv4_prefix_length = 24
        initial_delay = 2
        [limit.recipients]
        count = \"recipients\"
        threshold = 2
        initial_delay = 3
        ban_time = 60
        ban_threshold = 3
        ";
    on_each(rules, |site| {
        assert_eq!(site.session(CLIENT), "pass");
        let answers: Vec<String> = (0..4)
            .map(|number| site.ask(5, &format!("{}recipient=u{number}@example.org\n", at(CLIENT, 5, "RCPT", number))))
            .collect();
        assert_eq!(answers, ["wait 2000", "pass", "pass", "pass"]);
        assert_eq!(site.session(CLIENT), "banned recipients", "the later ones were violations");
    });
}

#[test]
fn a_delaying_blacklist_delays_a_session_once_and_it_passes() {
    let rules = "
        threshold = 1
        max_concurrent = 2
        blacklist = [\"198.51.100.0/24\"]
        blacklist_action = \"delay\"
        ";
    on_each(rules, |site| {
        for (session, expected) in
            [(0, ["wait 5000", "pass"]), (1, ["wait 5000", "pass"]), (2, ["delay_limit blacklist"; 2])]
        {
            assert_eq!([0, 0].map(|message| site.ask(session, &at(CLIENT, session, "RCPT", message))), expected);
        }
        site.answer_all();
        assert_eq!(site.ask(2, &at(CLIENT, 2, "RCPT", 1)), "delay_limit blacklist", "its session goes on");
        assert_eq!(site.session_with(CLIENT, "stress=yes\n"), "blacklisted blacklist");
        assert_eq!(site.session(CLIENT), "wait 5000");
    });
}

#[test]
fn beyond_max_delayed_a_session_is_refused_for_good() {
    let rules = "threshold = 1\ninitial_delay = 1\nmax_concurrent = 2\nmax_delayed = 3";
    in_time(rules, |site| {
        for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert_eq!(site.session(client), "pass");
        }
        assert_eq!(sessions(site, "192.0.2.1", 3), ["wait 1000", "wait 2000", "delay_limit connections"]);
        let refused = 5;
        assert_eq!(site.session("192.0.2.2"), "wait 1000");
        assert_eq!(site.session("192.0.2.3"), "delay_limit connections", "three wait in all");
        site.answer_all();
        assert_eq!(
            site.ask(refused, &at("192.0.2.1", refused, "RCPT", 0)),
            "delay_limit connections",
            "its session goes on"
        );
        assert_eq!(site.session("192.0.2.3"), "wait 2000");
    });
}

#[test]
fn count_refused_false_applies_beyond_max_delayed_too() {
    let rules = "threshold = 1\ncount_refused = false\ninitial_delay = 1\nmax_delayed = 1";
    on_each(rules, |site| {
        assert_eq!(sessions(site, CLIENT, 4)[..2], ["pass", "wait 1000"]);
        site.answer_all();
        site.session(CLIENT);
        let lines = site.lines();
        let crowded: Vec<&String> = lines.iter().filter(|line| line.contains(" reason=delay_limit ")).collect();
        assert!(crowded.iter().all(|line| line.contains(" count=3 ")), "{lines:?}");
        assert!(!crowded.is_empty(), "{lines:?}");
    });
}

#[test]
fn under_stress_sessions_are_refused_instead_of_delayed() {
    in_time("threshold = 1\ninitial_delay = 1", |site| {
        assert_eq!(site.session_with(CLIENT, "stress=yes\n"), "pass");
        assert_eq!(site.session_with(CLIENT, "stress=yes\n"), "over connections");
        assert_eq!(site.session_with(CLIENT, "stress=\n"), "wait 2000");
    });
}

#[test]
fn under_stress_another_threshold_may_apply() {
    on_each("threshold = 3\nstress_threshold = 1\nstress_action = \"421\"", |site| {
        assert_eq!(site.session_with(CLIENT, "stress=yes\n"), "pass");
        assert_eq!(site.session_with(CLIENT, "stress=yes\n"), "over connections");
        assert_eq!(site.session_with(CLIENT, "stress=\n"), "pass");
        assert_eq!(site.session_with(CLIENT, "stress=\n"), "over connections");
        let lines = site.lines();
        assert!(lines.iter().any(|line| line.contains(" verdict=421 ")), "{lines:?}");
    });
}

#[test]
fn a_log_only_limit_never_affects_an_enforced_one() {
    let rules = "
        threshold = 2
        [limit.shadow]
        threshold = 1
        log_only = true
        ";
    on_each(rules, |site| {
        assert_eq!(sessions(site, CLIENT, 3), ["pass", "pass", "over connections"]);
        let lines = site.lines();
        let of = |keyword: &str| lines.iter().filter(|line| line.starts_with(keyword)).count();
        assert_eq!((of("WOULD_REFUSE "), of("REFUSED ")), (1, 1), "{lines:?}");
        assert!(lines[0].contains(" limit=shadow ") && lines[0].contains(" count=2 threshold=1 "), "{lines:?}");
    });
}

#[test]
fn count_refused_false_works_for_a_log_only_limit() {
    for (count_refused, last) in [(true, " count=5 "), (false, " count=2 ")] {
        let rules = format!("threshold = 1\nexptime = 600\nlog_only = true\ncount_refused = {count_refused}");
        let mut site = Simulation::new(&rules);
        assert_eq!(sessions(&mut site, CLIENT, 4), ["pass"; 4]);
        site.now = 20_000;
        assert_eq!(site.session(CLIENT), "pass");
        let lines = site.lines();
        assert!(lines.last().unwrap().contains(last), "{count_refused}: {lines:?}");
    }
}

#[test]
fn with_log_only_the_blacklist_is_logged_even_where_no_limit_applies() {
    let rules = "log_only = true\nblacklist = [\"198.51.100.0/24\"]\nmatch = { sasl_username = true }";
    on_each(rules, |site| {
        for _ in 0..2 {
            assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass");
        }
        let lines = site.lines();
        assert!(
            lines.len() == 1 && lines[0].contains("WOULD_REFUSE ") && lines[0].contains(" reason=blacklisted "),
            "{lines:?}"
        );
    });
}

#[test]
fn with_log_only_counts_have_keys_of_their_own() {
    let memcached = Memcached::start();
    let rules = "threshold = 1\nblacklist = [\"192.0.2.0/24\"]";
    let mut dry = Simulation::on(&memcached, &format!("log_only = true\n{rules}"));
    assert_eq!(sessions(&mut dry, CLIENT, 3), ["pass"; 3]);
    assert_eq!(dry.session("192.0.2.1"), "pass");
    let lines = dry.lines();
    for reason in ["reason=over", "reason=blacklisted"] {
        assert!(lines.iter().any(|line| line.starts_with("WOULD_REFUSE ") && line.contains(reason)), "{lines:?}");
    }
    let mut live = Simulation::on(&memcached, rules);
    assert_eq!(sessions(&mut live, CLIENT, 2), ["pass", "over connections"]);
}

#[test]
fn a_ban_outlasts_the_window_and_is_longer_each_time() {
    in_time("threshold = 1\nban_time = \"10m\"\nban_max = \"30m\"", |site| {
        let minute = 60_000;
        for (at, expected) in [
            (0, "pass"),
            (1, "over connections"),
            (2, "banned connections"),
            (5 * minute, "banned connections"),
            (10 * minute + 1000, "pass"),
            // The second ban lasts twice as long, the third is bounded.
            (10 * minute + 2000, "over connections"),
            (29 * minute, "banned connections"),
            (30 * minute + 3000, "pass"),
            (30 * minute + 4000, "over connections"),
            (59 * minute, "banned connections"),
            (60 * minute + 5000, "pass"),
            // After a time without violations the next ban is short again.
            (200 * minute, "pass"),
            (200 * minute + 1000, "over connections"),
            (210 * minute + 2000, "pass"),
        ] {
            site.now = at;
            assert_eq!(site.session(CLIENT), expected, "at {} s", at / 1000);
        }
        let lines = site.lines();
        let bans: Vec<&String> = lines.iter().filter(|line| line.starts_with("BANNED ")).collect();
        let lengths = [600, 1200, 1800, 600].map(|seconds| format!(" seconds={seconds} "));
        assert!(bans.len() == 4 && bans.iter().zip(&lengths).all(|(ban, length)| ban.contains(length)), "{bans:?}");
    });
}

#[test]
fn ban_threshold_may_require_several_violations() {
    let rules = "threshold = 1\nban_time = \"10m\"\nban_threshold = 3";
    on_each(rules, |site| {
        let answers = sessions(site, CLIENT, 6);
        let expected = ["pass", "over connections", "over connections", "over connections", "banned connections"];
        assert_eq!(answers[..5], expected);
    });
}

#[test]
fn a_ban_ends_with_the_rule_it_came_from() {
    let mut site = Simulation::new("threshold = 1\nban_time = \"1d\"");
    assert_eq!(sessions(&mut site, CLIENT, 2), ["pass", "over connections"]);
    site.now = 61_000;
    assert_eq!(site.ask(5, &at(CLIENT, 5, "RCPT", 0)), "banned connections");
    site.reload("threshold = 1");
    assert_eq!(site.ask(5, &at(CLIENT, 5, "RCPT", 0)), "pass");
}

#[test]
fn coalesced_hits_are_one_violation() {
    in_time("threshold = 1\ncoalesce = \"1s\"\nban_time = 60\nban_threshold = 2", |site| {
        for (at, expected) in [
            (0, "pass"),
            (2_000, "over connections"),
            (2_100, "over connections"),
            (2_200, "over connections"),
            (3_000, "over connections"),
            (3_100, "banned connections"),
        ] {
            site.now = at;
            assert_eq!(site.session(CLIENT), expected, "at {at} ms");
        }
    });
}

#[test]
fn hits_during_a_ban_count_unless_count_refused_is_false() {
    for (count_refused, then) in [(true, "over connections"), (false, "pass")] {
        let rules = format!("threshold = 2\nexptime = 20\nban_time = 50\ncount_refused = {count_refused}");
        let mut site = Simulation::new(&rules);
        assert_eq!(sessions(&mut site, CLIENT, 4)[2..], ["over connections", "banned connections"]);
        for at in [41, 42, 43, 44] {
            site.now = at * 1000;
            assert_eq!(site.session(CLIENT), "banned connections");
        }
        site.now = 51_000;
        assert_eq!(site.session(CLIENT), then, "{count_refused}");
    }
}

#[test]
fn a_ban_on_one_host_is_a_ban_on_all() {
    let memcached = Memcached::start();
    let rules = "threshold = 1\nban_time = \"10m\"";
    let mut hosts = [Simulation::on(&memcached, rules), Simulation::on(&memcached, rules)];
    assert_eq!(sessions(&mut hosts[0], CLIENT, 3), ["pass", "over connections", "banned connections"]);
    assert_eq!(hosts[1].session(CLIENT), "banned connections");
    hosts[1].reload(&format!("memcached_server = \"{}\"\nwhitelist = [\"{CLIENT}\"]\n{rules}", memcached.server()));
    assert_eq!(hosts[1].session(CLIENT), "pass", "the whitelist lifts a ban at once");
}

#[test]
fn count_refused_false_leaves_refused_hits_out() {
    in_time(
        "threshold = 2\ncount_refused = false\n[limit.sliding]\nthreshold = 4\nexptime = 600\nwindow = \"sliding\"\ncount_refused = false",
        |site| {
            assert_eq!(sessions(site, CLIENT, 10)[1..4], ["pass", "over connections", "over connections"]);
            site.now = 60_000;
            assert_eq!(sessions(site, CLIENT, 10)[1..4], ["pass", "over connections", "over connections"]);
            site.now = 120_000;
            assert_eq!(site.session(CLIENT), "over sliding", "two and two have passed");
            site.now = 661_000;
            assert_eq!(site.session(CLIENT), "pass");
        },
    );
}

#[test]
fn a_session_that_passed_keeps_passing_when_a_reload_restarts_its_limit() {
    let mut site = Simulation::new("threshold = 1");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass");
    for rules in ["threshold = 1\nwindow = \"sliding\"", "threshold = 1"] {
        site.reload(rules);
        assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass", "{rules}");
    }
    site.reload("threshold = 1\nwindow = \"sliding\"");
    assert_eq!(sessions(&mut site, CLIENT, 2), ["pass", "over connections"], "the session was not counted again");
}

#[test]
fn a_limit_that_counts_something_else_after_a_reload_starts_at_zero() {
    let limit = |count| {
        let two = if count == "bytes" { 2048 } else { 2 };
        format!("threshold = 100\n[limit.mail]\ncount = \"{count}\"\nthreshold = {two}")
    };
    let memcached = Memcached::start();
    for counts in ["messages", "recipients", "connections", "requests", "bytes"] {
        let mut site = Simulation::on(&memcached, &limit(counts));
        let state = if counts == "bytes" { "END-OF-MESSAGE" } else { "RCPT" };
        let answers = [0, 1, 2].map(|session| site.ask(session, &at(CLIENT, session, state, 0)));
        assert_eq!(answers, ["pass", "pass", "over mail"], "{counts}");
    }
}

#[test]
fn a_ban_by_one_limit_precedes_the_verdict_of_another() {
    let rules = "threshold = 2\n[limit.strict]\nthreshold = 1\nban_time = \"10m\"";
    on_each(rules, |site| {
        assert_eq!(sessions(site, CLIENT, 4), ["pass", "over strict", "banned strict", "banned strict"]);
    });
}

#[test]
fn hits_within_coalesce_count_once() {
    in_time("threshold = 2\ncoalesce = \"500ms\"", |site| {
        for (at, expected) in [
            (0, "pass"),
            (499, "pass"),
            (500, "pass"),
            (900, "pass"),
            (1_000, "over connections"),
            (1_100, "over connections"),
            (60_100, "pass"),
        ] {
            site.now = at;
            assert_eq!(site.session(CLIENT), expected, "at {at} ms");
        }
    });
}

#[test]
fn a_hit_soon_after_a_refunded_hit_is_not_coalesced_with_it() {
    on_each("threshold = 2\nexptime = 600\ncoalesce = \"2s\"\ncount_refused = false", |site| {
        for (at, expected) in [
            (0, "pass"),
            (3_000, "pass"),
            (6_000, "over connections"),
            (7_000, "over connections"),
            (7_500, "over connections"),
        ] {
            site.now = at;
            assert_eq!(site.session(CLIENT), expected, "at {at} ms");
        }
    });
}

#[test]
fn a_reload_keeps_passes_and_judges_refusals_again() {
    let mut site = Simulation::new("threshold = 1");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass");
    assert_eq!(site.ask(1, &at(CLIENT, 1, "RCPT", 0)), "over connections");
    site.reload("threshold = 1\nblacklist = [\"198.51.100.0/24\"]");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass", "a pass stays a pass");
    assert_eq!(site.session(CLIENT), "blacklisted blacklist");
    site.reload("threshold = 3");
    assert_eq!(site.ask(1, &at(CLIENT, 1, "RCPT", 0)), "pass");
    assert_eq!(site.session(CLIENT), "pass", "the refused by the list were not counted");
}

#[test]
fn a_session_counts_again_after_fifty_messages() {
    on_each("threshold = 2\nexptime = 600", |site| {
        for message in 0..100 {
            assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", message)), "pass", "message {message}");
        }
        assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 100)), "over connections");
        assert_eq!(site.ask(0, &at(CLIENT, 0, "DATA", 100)), "over connections");
    });
}

#[test]
fn a_session_counts_again_after_five_minutes_with_its_next_message() {
    let mut site = Simulation::new("threshold = 1\nexptime = 60");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass");
    site.now = 299_999;
    assert_eq!(site.ask(1, &at(CLIENT, 1, "RCPT", 0)), "pass");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 1)), "pass");
    site.now = 300_000;
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 1)), "pass", "not within a message");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 2)), "over connections");
    // Where a window is longer, a session counts once in each.
    let mut site = Simulation::new("threshold = 1\nexptime = 3600");
    for (message, now) in [(0, 0), (1, 300_000), (2, 3_599_999), (3, 3_600_000)] {
        site.now = now;
        assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", message)), "pass");
    }
    assert_eq!(site.session(CLIENT), "over connections");
}

#[test]
fn what_a_limit_does_not_count_now_keeps_its_count() {
    let mut site = Simulation::new(
        "threshold = 9\n[limit.mailers]\ncount = \"connections\"\nthreshold = 1\nexptime = 60\n\
         match = { helo_name = \"mail.example.net\" }\n",
    );
    let helo = "helo_name=mail.example.net\n";
    assert_eq!(site.session_with(CLIENT, helo), "pass");
    let connection = 1;
    assert_eq!(site.ask(connection, &(at(CLIENT, connection, "RCPT", 0) + helo)), "over mailers");
    site.now = 300_000;
    assert_eq!(site.ask(connection, &at(CLIENT, connection, "RCPT", 1)), "over mailers");
    assert_eq!(site.ask(connection, &(at(CLIENT, connection, "RCPT", 2) + helo)), "pass", "it counts in a new window");
}

#[test]
fn the_blacklist_is_checked_again_with_every_message() {
    let mut site = Simulation::new("");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 0)), "pass");
    site.reload("blacklist = [\"198.51.100.0/24\"]");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "DATA", 0)), "pass", "within a message");
    for state in ["RCPT", "DATA"] {
        assert_eq!(site.ask(0, &at(CLIENT, 0, state, 1)), "blacklisted blacklist");
    }
    let refused = site.lines().into_iter().filter(|line| line.contains("REFUSED")).count();
    assert_eq!(refused, 1, "it is logged");
    site.reload("");
    assert_eq!(site.ask(0, &at(CLIENT, 0, "RCPT", 2)), "pass");
}

#[test]
fn clients_behind_a_nat64_are_counted_and_listed_by_their_ipv4_addresses() {
    in_time(
        "threshold = 1\nblacklist = [\"192.0.2.0/24\"]\nwhitelist = [\"127.0.0.0/8\", \"64:ff9b::203.0.113.1\"]",
        |site| {
            assert_eq!(site.session("64:ff9b::198.51.100.1"), "pass");
            assert_eq!(site.session("64:ff9b::198.51.100.2"), "pass", "another client");
            assert_eq!(site.session("198.51.100.1"), "over connections", "the same client");
            assert_eq!(site.session("64:ff9b::192.0.2.7"), "blacklisted blacklist");
            for _ in 0..3 {
                assert_eq!(site.session("203.0.113.1"), "pass", "it is on the whitelist");
            }
            // Nobody has this address, which the whitelist has.
            assert_eq!(site.session("64:ff9b::127.0.0.1"), "pass");
            assert_eq!(site.session("64:ff9b::127.0.0.1"), "over connections");
            // A translator with another prefix is not known.
            assert_eq!(site.session("64:ff9b:1:1::198.51.100.7"), "pass");
            assert_eq!(site.session("64:ff9b:1:1::198.51.100.8"), "over connections");
        },
    );
    in_time("threshold = 1\nipv4_in_ipv6 = [\"64:ff9b:1:1::/96\"]", |site| {
        assert_eq!(site.session("64:ff9b:1:1::198.51.100.7"), "pass");
        assert_eq!(site.session("64:ff9b:1:1::198.51.100.8"), "pass");
        assert_eq!(site.session("198.51.100.8"), "over connections");
    });
}
