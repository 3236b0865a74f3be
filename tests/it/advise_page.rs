//! The page of `connshaper advise --html`, in a browser.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Dir, command, traffic};

/// Simulates a user. Each step adds a line with what the page then shows to the document.
const VISIT: &str = r#"
<pre id="visit"></pre>
<script>
const at = id => document.getElementById(id);
const figures = () => ["refused-sessions", "refused-senders"].map(id => at(id).textContent).join(" ");
const note = (what, shown) => at("visit").append(`${what}: ${shown}\n`);
const key = (id, name) => at(id).dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
note("first", figures());
at("threshold").value = 2;
at("threshold").dispatchEvent(new Event("input"));
note("two", `${figures()} rows ${at("names").rows.length} first ${at("names").rows[0].cells[0].textContent}`);
note("current", [...at("candidates").rows].filter(row => row.getAttribute("aria-current")).length);
const limit = Number(at("limit").getAttribute("x1"));
at("slider").value = 1000;
at("slider").dispatchEvent(new Event("input"));
note("slider", `${figures()} moved ${Number(at("limit").getAttribute("x1")) > limit}`);
at("recommended").click();
note("again", figures());
at("exptime").selectedIndex = 1;
at("exptime").dispatchEvent(new Event("change"));
note("longer", figures());
at("candidates").rows[0].querySelector("button").click();
note("shown", `${at("exptime").selectedOptions[0].textContent} ${at("threshold").value}`);
at("peaks").focus();
note("focus", document.activeElement.id);
key("peaks", "Home");
note("peaks", at("peaks-status").textContent);
key("time", "End");
note("time", at("time-status").textContent);
key("time", "Escape");
note("left", at("time-status").textContent.length);
const reachable = [...document.querySelectorAll("select, input, button, svg, .scroll")].every(it => it.tabIndex === 0);
note("reachable", reachable);
note("named", [...document.querySelectorAll("select, input")].every(it => it.labels.length === 1));
note("outside", performance.getEntriesByType("resource").length);
</script>"#;

#[test]
fn the_page_responds_to_input() {
    let dir = Dir::new();
    let page = page(&dir);
    let source = fs::read_to_string(&page).unwrap();
    assert!(source.contains("default-src 'none'") && !source.contains("http-equiv=\"refresh\""));
    let visited = dir.write("visited.html", &source.replace("</body>", &format!("{VISIT}</body>")));
    let (document, said) = browse(&dir, &visited, &["--dump-dom"]);
    assert!(!said.contains("Uncaught") && !said.contains("Refused to"), "{said}");
    let (_, notes) = document.split_once("<pre id=\"visit\">").unwrap_or_else(|| panic!("{said}\n{document}"));
    let notes = notes.split("</pre>").next().unwrap();
    let note = |name: &str| {
        let found = notes.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        found.unwrap_or_else(|| panic!("no {name} in:\n{notes}\n{said}"))
    };
    let best = refused(&dir, &[]);
    let two = refused(&dir, &["--threshold", "2", "--exptime", &best.exptime]);
    assert_eq!(note("first"), best.figures());
    assert!(note("two").starts_with(&format!("{} rows ", two.figures())), "{} for {}", note("two"), two.figures());
    assert!(note("two").contains(".example.net"), "{notes}");
    assert_eq!(note("current"), "0");
    assert!(note("slider").starts_with("0 0 moved true"), "{notes}");
    assert_eq!(note("again"), best.figures());
    assert_ne!(note("longer"), best.figures());
    assert_eq!(note("shown"), "1m 3");
    assert_eq!(note("focus"), "peaks");
    assert!(note("peaks").starts_with("1 sessions in a window at the most: "), "{notes}");
    assert!(note("time").contains(" sessions, "), "{notes}");
    for (name, value) in [("left", "0"), ("reachable", "true"), ("named", "true"), ("outside", "0")] {
        assert_eq!(note(name), value, "{name}");
    }
}

#[test]
fn the_page_has_a_light_and_a_dark_theme() {
    let dir = Dir::new();
    let page = page(&dir);
    let shot = |scheme: &str| {
        let image = dir.join(format!("{scheme}.png"));
        let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(scheme == "light"));
        browse(&dir, &page, &[&format!("--screenshot={}", image.display()), "--window-size=900,1200", &scheme]);
        fs::read(image).unwrap()
    };
    let (light, dark) = (shot("light"), shot("dark"));
    // An image of an empty page has a tenth of this size.
    assert!(light.len() > 30_000 && dark.len() > 30_000, "{} {}", light.len(), dark.len());
    assert_ne!(light, dark);
}

/// What a candidate refuses, as `--json` reports it.
struct Refused {
    exptime: String,
    sessions: u64,
    senders: u64,
}

impl Refused {
    fn figures(&self) -> String {
        let grouped = |number: u64| match number {
            0..1_000 => number.to_string(),
            _ => format!("{},{:03}", number / 1_000, number % 1_000),
        };
        format!("{} {}", grouped(self.sessions), grouped(self.senders))
    }
}

fn refused(dir: &Dir, options: &[&str]) -> Refused {
    let output = advise(dir, options).arg("--csv").output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let rows = table.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let wanted = rows.filter(|row| if options.is_empty() { row[2] == "yes" } else { row[1] == "2" }).last().unwrap();
    Refused { exptime: wanted[0].to_owned(), sessions: wanted[4].parse().unwrap(), senders: wanted[6].parse().unwrap() }
}

fn page(dir: &Dir) -> std::path::PathBuf {
    traffic::write(&mut fs::File::create(dir.join("mail.log")).unwrap(), 30_000, 11).unwrap();
    let page = dir.join("page.html");
    assert!(advise(dir, &["--html", page.to_str().unwrap()]).output().unwrap().status.success());
    page
}

fn advise(dir: &Dir, options: &[&str]) -> Command {
    let mut command = command();
    command.args(["advise", "--seen", "rcpt", "--timezone", "UTC", "--mynetworks", traffic::MYNETWORKS]);
    command.args(options).arg(dir.join("mail.log"));
    command
}

/// The standard output and standard error of the browser.
fn browse(dir: &Dir, page: &Path, arguments: &[&str]) -> (String, String) {
    let profile = dir.join("profile");
    let output = Command::new("chromium")
        // chromium has no sandbox when it runs as root or in a container.
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=5000", "--lang=en-US"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run chromium (is it installed?): {error}"));
    let [document, said] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "chromium: {}\n{said}", output.status);
    (document, said)
}
