//! The page that shows what `top` shows, in a browser.

use std::fs;
use std::path::Path;

use crate::support::{self, Dir, HttpHost, Policy};

/// A host with a page, clients over their limits, a ban, and a key that a stranger chose.
fn host() -> HttpHost {
    let host = HttpHost::start(
        "http_page = true\nthreshold = 3\n[limit.all]\ndoor = \"web\"\nthreshold = 2\nban_time = \"1h\"\n\
         ban_doors = [\"smtp\", \"web\"]\n",
    );
    let mut policy = Policy::connect(host.daemon.endpoint());
    for port in 1..=9 {
        policy.connected("198.51.100.7", port);
        policy.connected("2001:db8:1234:5678::7", port);
    }
    for _ in 0..4 {
        host.ask("GET /auth HTTP/1.1\r\nX-Forwarded-For: 203.0.113.9", "");
    }
    assert!(host.say("ban 192.0.2.0/24").contains("192.0.2.0/24"));
    host
}

#[test]
fn the_page_is_whole_without_a_script() {
    let host = host();
    let answer = host.ask("GET / HTTP/1.1", "");
    assert_eq!(answer.status, 200);
    for shown in [
        "198.51.100.7",
        "2001:db8:1234:5678::/64",
        "all (web)",
        "192.0.2.0/24",
        "over",
        "(smtp, web)",
        "Refusals a minute",
    ] {
        assert!(answer.body.contains(shown), "{shown}\n{}", answer.body);
    }
    let policy = answer.header("Content-Security-Policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!answer.body.contains("http://") && !answer.body.contains("https://"), "nothing comes from elsewhere");
}

#[test]
fn the_page_is_there_only_if_it_is_asked_for_and_behind_the_token() {
    const TOKEN: &str = "0123456789abcdef";
    let answer = HttpHost::start("").ask("GET / HTTP/1.1", "");
    assert!(answer.body.starts_with("connshaper: /dovecot"), "{}", answer.body);
    let host = HttpHost::with_token(TOKEN, "http_page = true\n");
    let refused = host.ask("GET / HTTP/1.1", "");
    assert_eq!((refused.status, refused.header("WWW-Authenticate")), (401, Some("Basic realm=\"connshaper\"")));
    // any:0123456789abcdef
    let answer = host.ask("GET / HTTP/1.1\r\nAuthorization: Basic YW55OjAxMjM0NTY3ODlhYmNkZWY=", "");
    assert!(answer.status == 200 && answer.body.contains("<h1>connshaper"), "{answer:?}");
}

#[test]
fn a_browser_shows_the_page_live_and_runs_nothing_else() {
    let host = host();
    let dir = Dir::new();
    let (document, said) = browse(&dir, &host, &["--dump-dom", "--virtual-time-budget=9000"]);
    assert!(!said.contains("Refused to") && !said.contains("Uncaught"), "{said}");
    assert!(document.contains("id=\"live\" class=\"\">live<") || document.contains("id=\"live\">live<"), "{document}");
    assert!(document.contains("198.51.100.7"), "{document}");
}

#[test]
fn the_page_has_a_light_and_a_dark_theme_on_small_and_large_screens() {
    let host = host();
    let dir = Dir::new();
    for width in [400, 1400] {
        let shot = |scheme: &str| {
            let image = dir.join(format!("{scheme}-{width}.png"));
            let setting = format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light"));
            let (image_argument, size) =
                (format!("--screenshot={}", image.display()), format!("--window-size={width},1200"));
            browse(&dir, &host, &[&image_argument, &size, &setting]);
            keep(&image);
            fs::read(image).unwrap()
        };
        let (light, dark) = (shot("light"), shot("dark"));
        assert!(light.len() > 15_000 && dark.len() > 15_000, "{} {}", light.len(), dark.len());
        assert_ne!(light, dark);
    }
}

/// Keeps a picture for people to look at, where `CONNSHAPER_PICTURES` says.
fn keep(image: &Path) {
    if let Some(folder) = std::env::var_os("CONNSHAPER_PICTURES") {
        fs::copy(image, Path::new(&folder).join(image.file_name().unwrap())).unwrap();
    }
}

fn browse(dir: &Dir, host: &HttpHost, arguments: &[&str]) -> (String, String) {
    let arguments = [&["--hide-scrollbars"], arguments].concat();
    support::browse(dir, &format!("http://{}/", host.address()), &arguments)
}
