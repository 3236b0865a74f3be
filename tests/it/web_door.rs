//! The web door: real nginx, and the requests of other web servers.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Caddy, Dir, HttpHost, Nginx, Port, replay};

/// Only 127.0.0.1 is a proxy of ours, and no address is exempt.
const SITE: &str = "whitelist = []\ntrusted_proxies = [\"127.0.0.1\"]\n";

const ALL: &str = "[limit.all]\ndoor = \"web\"\nthreshold = 2\n";

#[test]
fn nginx_answers_429_over_the_limit_and_says_when_to_come_back() {
    let host = HttpHost::start(&format!("{SITE}{ALL}"));
    let nginx = Nginx::before(&host);
    for _ in 0..2 {
        let answer = nginx.get_from("127.0.0.2", "/a", "");
        assert_eq!((answer.status, answer.body.as_str()), (200, "the page\n"));
    }
    let refused = nginx.get_from("127.0.0.2", "/a", "");
    assert_eq!((refused.status, refused.body.as_str()), (429, "Too many requests\n"));
    let retry: u32 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
    assert_eq!(nginx.get_from("127.0.0.3", "/a", "").status, 200);
    let line = host.daemon.lines().wait_for("REFUSED");
    assert!(line.contains("verdict=429") && line.contains("door=web"), "{line}");
}

#[test]
fn a_client_that_makes_up_where_it_comes_from_is_counted_all_the_same() {
    let host = HttpHost::start(&format!("{SITE}{ALL}"));
    let nginx = Nginx::before(&host);
    let from = |number: u32| {
        let header =
            format!("\r\nX-Forwarded-For: 198.51.100.{number}\r\nX-Original-URI: /free\r\nX-Real-IP: 192.0.2.1");
        nginx.get_from("127.0.0.2", "/a", &header).status
    };
    assert_eq!((1..=4).map(from).collect::<Vec<_>>(), [200, 200, 429, 429]);
    assert!(host.daemon.lines().wait_for("REFUSED").contains("client=127.0.0.2"));
}

#[test]
fn paths_methods_hosts_and_users_are_those_of_the_client() {
    let rules = "[limit.forms]\ndoor = \"web\"\nthreshold = 1\nmatch = { path = \"/^.login/\", method = \"POST\" }\n\
        [limit.users]\ndoor = \"web\"\nthreshold = 1\nper = \"user\"\nmatch = { host = \"shop.example.org\" }\n";
    let host = HttpHost::start(&format!("{SITE}{rules}"));
    let nginx = Nginx::before(&host);
    let said = |method, path, headers| nginx.ask(method, path, headers).status;
    let client = "\r\nX-Forwarded-For: 192.0.2.9";
    // A page that is posted to nginx' own files is 405.
    assert_eq!([said("POST", "/login?a=1", client), said("POST", "/login", client)], [405, 429]);
    assert_eq!([said("GET", "/login", client), said("GET", "/a?/login", client)], [200, 200]);
    // joe, of any address, as the client says it.
    let joe = "\r\nX-Original-Host: other.example\r\nAuthorization: Basic am9lOng=\r\nX-Forwarded-For: 192.0.2.8";
    assert_eq!([said("GET", "/", joe), said("GET", "/", joe)], [200, 200], "another host");
}

#[test]
fn the_blacklist_is_403_and_the_whitelist_passes() {
    let rules = "whitelist = [\"127.0.0.5\"]\nblacklist = [\"127.0.0.6\"]\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let host = HttpHost::start(&format!("{rules}{ALL}"));
    let nginx = Nginx::before(&host);
    assert_eq!(nginx.get_from("127.0.0.6", "/", "").status, 403);
    assert!((0..5).all(|_| nginx.get_from("127.0.0.5", "/", "").status == 200));
}

#[test]
fn a_request_waits_as_long_as_it_is_to() {
    let host = HttpHost::start(&format!("{SITE}{ALL}initial_delay = \"700ms\"\n"));
    let nginx = Nginx::before(&host);
    assert!((0..2).all(|_| nginx.get_from("127.0.0.2", "/", "").status == 200));
    let begun = Instant::now();
    assert_eq!(nginx.get_from("127.0.0.2", "/", "").status, 200);
    assert!(begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
}

#[test]
fn nginx_lets_everyone_in_while_the_daemon_is_down_or_hangs() {
    let mut host = HttpHost::start(&format!("{SITE}{ALL}"));
    let nginx = Nginx::before(&host);
    assert_eq!((0..3).map(|_| nginx.get_from("127.0.0.2", "/", "").status).collect::<Vec<_>>(), [200, 200, 429]);
    assert!(host.daemon.stop().success());
    assert!((0..3).all(|_| nginx.get_from("127.0.0.2", "/", "").status == 200));
    // One that accepts and says nothing.
    let silent = std::net::TcpListener::bind(host.address()).unwrap();
    let begun = Instant::now();
    assert_eq!(nginx.get_from("127.0.0.2", "/", "").status, 200);
    assert!(begun.elapsed() > Duration::from_secs(5), "it waited for an answer");
    drop(silent);
    host.daemon.start_again();
    assert_eq!((0..3).map(|_| nginx.get_from("127.0.0.2", "/", "").status).collect::<Vec<_>>(), [200, 200, 429]);
}

#[test]
fn caddy_refuses_over_the_limit_and_lets_everyone_in_while_the_daemon_is_down_or_hangs() {
    let mut host = HttpHost::start(&format!("{SITE}{ALL}"));
    let caddy = Caddy::before(&host);
    let made_up = "\r\nX-Forwarded-For: 203.0.113.66\r\nX-Forwarded-Uri: /free";
    let ask = || caddy.get_from("127.0.0.2", "/a?b", made_up);
    let page = ask();
    assert_eq!((page.status, page.body.as_str()), (200, "the page\n"));
    assert_eq!([ask().status, ask().status], [200, 429]);
    let refused = ask();
    let retry: u32 = refused.header("Retry-After").unwrap().parse().unwrap();
    assert!((1..=60).contains(&retry), "{retry}");
    assert!(host.daemon.lines().wait_for("REFUSED").contains("client=127.0.0.2"));
    assert_eq!(caddy.get_from("127.0.0.3", "/a", "").status, 200);
    assert!(host.daemon.stop().success());
    assert!((0..3).all(|_| ask().status == 200));
    // One that accepts and says nothing.
    let silent = std::net::TcpListener::bind(host.address()).unwrap();
    let begun = Instant::now();
    assert_eq!(ask().status, 200);
    assert!(begun.elapsed() > Duration::from_secs(5), "it waited for an answer");
    drop(silent);
    host.daemon.start_again();
    assert_eq!([ask().status, ask().status, ask().status], [200, 200, 429]);
}

#[test]
fn the_web_server_is_told_to_come_back_while_the_store_is_down() {
    let port = Port::new();
    let rules = format!("memcached_server = \"{}\"\non_store_failure = \"defer\"\n", port.address());
    let host = HttpHost::start(&format!("{rules}{SITE}{ALL}"));
    let ask = |path: &str| host.ask(&format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1"), "");
    let answer = ask("/auth");
    assert_eq!((answer.status, answer.header("Retry-After")), (503, Some("60")));
    let answer = ask("/auth/nginx");
    assert_eq!((answer.status, answer.header("X-Connshaper-Status")), (403, Some("503")));
    assert_eq!(host.dovecot("allow", "192.0.2.1", "")["status"], 0, "there is no limit at that door");
}

/// The status of an answer, and the host that was told of it.
fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_requests_of_traefik_caddy_and_envoy_are_understood() {
    // Recorded from Traefik 3.7.15's ForwardAuth, Caddy 2.6.2's forward_auth and Envoy 1.40.0's ext_authz, with the
    // client's address instead of that of the recording. The client had sent all of X-Forwarded-For, -Method and -Uri.
    let traefik = "GET /auth HTTP/1.1\r\nHost: 127.0.0.1:10041\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nX-Forwarded-For: 192.0.2.7\r\n\
        X-Forwarded-Host: shop.example.org\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Port: 80\r\n\
        X-Forwarded-Proto: http\r\nX-Forwarded-Server: vm\r\nX-Forwarded-Uri: /login?next=%2F\r\n\
        X-Real-Ip: 192.0.2.7\r\nAccept-Encoding: gzip\r\n\r\n";
    let caddy = "GET /auth?next=%2F HTTP/1.1\r\nHost: shop.example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\
        Content-Type: application/x-www-form-urlencoded\r\nX-Forwarded-For: 192.0.2.7\r\n\
        X-Forwarded-Host: shop.example.org\r\nX-Forwarded-Method: POST\r\nX-Forwarded-Proto: http\r\n\
        X-Forwarded-Uri: /login?next=%2F\r\nAccept-Encoding: gzip\r\n\r\n";
    let envoy = "POST /auth/envoy/login?next=%2F HTTP/1.1\r\nhost: shop.example.org\r\ncontent-length: 0\r\n\
        x-forwarded-for: 203.0.113.66,192.0.2.7\r\nuser-agent: curl/8.5.0\r\nx-envoy-internal: true\r\n\
        x-envoy-expected-rq-timeout-ms: 10000\r\n\r\n";
    let nginx = "GET /auth/nginx HTTP/1.1\r\nX-Original-Method: POST\r\nX-Original-URI: /login?next=%2F\r\n\
        X-Original-Host: shop.example.org\r\nX-Forwarded-For: 192.0.2.7\r\nHost: connshaper\r\n\
        User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
    let rules = "[limit.forms]\ndoor = \"web\"\nthreshold = 1\nstatus = 420\ntext = \"Enhance your calm\"\n\
        match = { path = \"/login\", method = \"POST\", host = \"shop.example.org\", query = \"next=%2F\" }\n";
    for (name, bytes, refused) in
        [("traefik", traefik, 420), ("caddy", caddy, 420), ("envoy", envoy, 420), ("nginx", nginx, 403)]
    {
        let host = HttpHost::start(&format!("{SITE}{rules}"));
        assert_eq!(status(&replay(&host, bytes)), 200, "{name}");
        let answer = replay(&host, bytes);
        assert_eq!(status(&answer), refused, "{name}: {answer}");
        assert!(answer.contains("ratelimit: \"forms\";r=0;t="), "{name}: {answer}");
        assert!(answer.contains("ratelimit-policy: \"forms\";q=1;w=60"), "{name}: {answer}");
        assert!(host.daemon.lines().wait_for("REFUSED").contains("client=192.0.2.7"), "{name}");
        for other in ["/about?", "/?", "//login?", "/%zz?"] {
            assert_eq!(status(&replay(&host, &bytes.replace("/login?", other))), 200, "{name}: {other}");
        }
    }
}

#[test]
fn a_header_of_the_sites_choice_has_the_client_and_another_the_user() {
    let rules = "whitelist = []\nclient_header = \"X-Real-IP\"\nuser_header = \"Remote-User\"\n\
        [limit.users]\ndoor = \"web\"\nthreshold = 1\nper = [\"client\", \"user\"]\n";
    let host = HttpHost::start(rules);
    let ask = |headers: &str| host.ask(&format!("GET /auth HTTP/1.1{headers}"), "").status;
    assert_eq!(ask("\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.9\r\nRemote-User: joe"), 200);
    assert_eq!(ask("\r\nX-Real-IP: 192.0.2.1\r\nRemote-User: Joe"), 429);
    assert_eq!(ask("\r\nX-Real-IP: 192.0.2.1\r\nRemote-User: jane"), 200);
    assert_eq!(ask("\r\nX-Real-IP: 192.0.2.1"), 200, "without a user there is no key");
    assert_eq!(ask(""), 200);
    assert!(host.daemon.lines().wait_for("NO_WEB_CLIENT").contains("header=x-real-ip"));
}

/// One of the examples, behind a proxy at 127.0.0.1, without its stores, and with these changes.
fn example(name: &str, changes: &[(&str, &str)]) -> (HttpHost, Nginx, Dir) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples");
    let dir = Dir::new();
    let mut text = fs::read_to_string(directory.join(name)).unwrap();
    for list in ["whitelist", "blacklist"] {
        let path = dir.write(list, &fs::read_to_string(directory.join(list)).unwrap());
        text = text.replace(&format!("{list}_file = \"{list}\""), &format!("{list}_file = {path:?}"));
    }
    for (from, to) in changes {
        assert!(text.contains(from), "{name}: {from}");
        text = text.replace(from, to);
    }
    let of_stores =
        |line: &&str| !["memcached_server", "key_prefix", "http_listen"].iter().any(|key| line.starts_with(key));
    let text: String = text.lines().filter(of_stores).map(|line| format!("{line}\n")).collect();
    let host = HttpHost::start(&format!("trusted_proxies = [\"127.0.0.1\"]\n{text}"));
    let nginx = Nginx::before(&host);
    (host, nginx, dir)
}

/// The statuses of requests of these clients for these paths, one after the other.
fn statuses(nginx: &Nginx, requests: &[(&str, &str)]) -> Vec<u16> {
    let ask = |(client, path): &(&str, &str)| nginx.get(path, &format!("\r\nX-Forwarded-For: {client}")).status;
    requests.iter().map(ask).collect()
}

#[test]
fn perlbals_throttle_through_nginx() {
    let quick = [("initial_delay = 10\n", "initial_delay = \"100ms\"\n"), ("exptime = 3\n", "exptime = 30\n")];
    let (host, nginx, _dir) = example("web-perlbal-throttle.toml", &quick);
    let app = "/webapp/x";
    // Allowed, then on probation and delayed twice as long each time, then banned.
    let mut waits = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        assert_eq!(statuses(&nginx, &[("198.18.0.7", app)]), [200]);
        waits.push(begun.elapsed().as_millis());
    }
    for (wait, least) in waits.iter().zip([0, 100, 200, 400, 800]) {
        assert!(*wait >= least, "{waits:?}");
    }
    assert_eq!(statuses(&nginx, &[("198.18.0.7", app)]), [503]);
    assert!(host.daemon.lines().wait_for("BANNED").contains("seconds=180"));
    // Another path, another method, another client; the lists.
    assert_eq!(statuses(&nginx, &[("198.18.0.8", "/static"); 3]), [200; 3]);
    let lists = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/blacklist")).unwrap();
    let black = lists.lines().find(|line| line.starts_with(|c: char| c.is_ascii_digit())).unwrap();
    let black = black.split(['/', ' ', '#']).next().unwrap();
    assert_eq!(statuses(&nginx, &[(black, app)]), [403]);
}

#[test]
fn cgis_ratelimit_through_nginx() {
    let (host, nginx, _dir) = example("web-cgi-ratelimit.toml", &[]);
    // Without a login the address is the identity; each action has a limit of its own.
    let sent = statuses(&nginx, &[("192.0.2.1", "/send"); 6]);
    assert_eq!(sent, [200, 200, 200, 200, 200, 429]);
    assert_eq!(statuses(&nginx, &[("192.0.2.2", "/send"), ("192.0.2.1", "/other")]), [200, 200]);
    // nginx names no user here, so a user comes as from another proxy.
    let list = |user: &str| {
        let head = format!(
            "GET /auth HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Uri: /list\r\nX-Forwarded-User: {user}"
        );
        host.ask(&head, "").status
    };
    assert_eq!([list("joe"), list("joe"), list("jane")], [200, 429, 200]);
    let hit = |command: &str| host.say(&format!("{command} failed_login 192.0.2.1"));
    assert!(
        hit("hit").contains("within") && hit("hit").contains("within") && hit("check-hit").contains("would be over")
    );
    assert!(hit("revoke").contains("1") && hit("check-hit").contains("would be within"));
}

#[test]
fn placks_greylist_through_nginx() {
    let (_host, nginx, _dir) = example(
        "web-plack-greylist.toml",
        &[
            ("threshold = 250", "threshold = 4"),
            ("threshold = 100", "threshold = 3"),
            ("threshold = 60", "threshold = 2"),
        ],
    );
    let cases: [(&[&str], &[u16]); 5] = [
        // The default rate, per address.
        (
            &["203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.1", "203.0.113.2"],
            &[200, 200, 200, 200, 429, 200],
        ),
        // A netblock counts as one.
        (&["172.16.1.1", "172.16.1.2", "172.16.1.3", "172.16.1.4", "172.16.1.200"], &[200, 200, 200, 429, 200]),
        // Two netblocks of a group, too.
        (&["192.0.2.1", "2001:db8:7::1", "192.0.2.9"], &[200, 200, 429]),
        (&["192.168.0.1", "192.168.0.1", "192.168.0.1", "192.168.0.1", "192.168.0.1"], &[200; 5]),
        (&["198.51.100.1", "198.51.100.2"], &[403, 403]),
    ];
    for (clients, expected) in cases {
        let requests: Vec<_> = clients.iter().map(|client| (*client, "/")).collect();
        assert_eq!(statuses(&nginx, &requests), expected, "{clients:?}");
    }
    let refused = nginx.get("/", "\r\nX-Forwarded-For: 203.0.113.1");
    assert!(refused.header("Retry-After").is_some_and(|left| left.parse::<u32>().unwrap() <= 60));
}

#[test]
fn mod_ip_count_through_nginx() {
    let (host, nginx, _dir) = example("web-mod-ip-count.toml", &[("coalesce = \"500ms\"\n", "")]);
    let (script, client) = ("/a.js", "203.0.113.1");
    assert_eq!(statuses(&nginx, &[(client, script), (client, "/index.html"), (client, script)]), [200; 3]);
    assert_eq!(statuses(&nginx, &[(client, "/free"), (client, "/a.js?x=1&for=bar")]), [200; 2], "these do not count");
    assert_eq!(statuses(&nginx, &[(client, script), (client, script)]), [503, 503]);
    assert!(host.daemon.lines().wait_for("BANNED").contains("seconds=300"));
    assert_eq!(statuses(&nginx, &[("127.0.0.1", script); 5]), [200; 5], "exempt");
    // Latency: requests close together count as one.
    let (_host, nginx, _dir) = example("web-mod-ip-count.toml", &[("coalesce = \"500ms\"", "coalesce = \"10s\"")]);
    assert_eq!(statuses(&nginx, &[(client, script); 6]), [200; 6]);
}
