//! The page of `connshaper advise --html`, in a browser.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{self, Dir, command, traffic};

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
note("left", at("time-status").textContent.split(",")[0]);
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
    assert!(note("peaks").starts_with("1 session in a window at the most: "), "{notes}");
    assert!(note("time").contains(" sessions, "), "{notes}");
    for (name, value) in [("left", "Point at the plot"), ("reachable", "true"), ("named", "true"), ("outside", "0")] {
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

/// What a reader of a small screen meets.
const LOOK: &str = r#"
<pre id="visit"></pre>
<script>
const at = id => document.getElementById(id);
const note = (what, shown) => at("visit").append(`${what}: ${shown}\n`);
const isShown = id => at(id).checkVisibility();
note("width", innerWidth);
note("fits", document.documentElement.scrollWidth <= innerWidth);
note("warnings", isShown("warnings") ? at("warning-list").textContent : "none");
note("choice", isShown("choice"));
note("nothing", isShown("nothing") ? at("nothing").textContent.replace(/\s+/g, " ") : "no");
note("year", document.body.innerText.includes("1970"));
note("read", at("read").textContent);
if (isShown("choice")) {
  const inside = (id, text) => { const a = at(id).getBoundingClientRect(), b = text.getBoundingClientRect(); return b.left >= a.left && b.right <= a.right; };
  const labels = id => [...at(id).querySelectorAll("text")];
  let isCut = false;
  for (const threshold of [1, 2, 9, 65534]) {
    at("threshold").value = threshold;
    at("threshold").dispatchEvent(new Event("input"));
    isCut ||= !["peaks", "time"].every(id => labels(id).every(text => inside(id, text)));
  }
  note("cut", isCut);
  note("views", [...at("view").options].map(option => option.textContent).join(", "));
  at("view").value = 1;
  at("view").dispatchEvent(new Event("change"));
  at("threshold").value = 1;
  at("threshold").dispatchEvent(new Event("input"));
  note("names", at("names").textContent);
  note("advice", at("advice-text").textContent.replaceAll("\n", " | "));
  at("view").value = 0;
  at("view").dispatchEvent(new Event("change"));
  note("small", Math.min(...labels("peaks").concat(labels("time")).map(text => text.getBoundingClientRect().height)) < 11);
  note("below", ["peaks", "time"].map(id => at(id).getBoundingClientRect().height - at(id).getBBox().height).join(" "));
  const ends = labels("time").map(text => text.textContent).find(text => text.includes(" to "));
  note("ends", ends);
}
</script>"#;

/// The notes of a look at a page on a screen of 400 pixels.
fn look(dir: &Dir, page: &Path) -> impl Fn(&str) -> String + use<> {
    let source = fs::read_to_string(page).unwrap();
    let looked = dir.write("looked.html", &source.replace("</body>", &format!("{LOOK}</body>")));
    let (document, said) = browse(dir, &looked, &["--dump-dom", "--window-size=400,900"]);
    let (_, notes) = document.split_once("<pre id=\"visit\">").unwrap_or_else(|| panic!("{said}\n{document}"));
    let notes = notes.split("</pre>").next().unwrap().to_owned();
    move |name| {
        let found = notes.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned));
        found.unwrap_or_else(|| panic!("no {name} in:\n{notes}"))
    }
}

#[test]
fn the_page_can_be_read_on_a_screen_of_400_pixels() {
    let dir = Dir::new();
    let note = look(&dir, &page(&dir));
    for (name, value) in [("fits", "true"), ("warnings", "none"), ("cut", "false"), ("small", "false")] {
        assert_eq!(note(name), value, "{name} at {} pixels", note("width"));
    }
    assert!(note("width").parse::<u32>().unwrap() <= 500);
    let below = note("below");
    assert!(below.split(' ').all(|empty| empty.parse::<f64>().unwrap() < 24.0), "{below}");
    // The time axis ends with the last session.
    let report: serde_json::Value =
        serde_json::from_slice(&advise(&dir, &["--json"]).output().unwrap().stdout).unwrap();
    let clock = |key: &str| report[key].as_str().unwrap()[11..16].to_owned();
    let ends = note("ends");
    assert!(
        ends.contains(&clock("from")) && ends.contains(&clock("to")),
        "{ends}: {} {}",
        report["from"],
        report["to"]
    );
}

#[test]
fn a_page_without_sessions_says_why_and_has_no_controls() {
    let dir = Dir::new();
    let client = "in.example.org[192.0.2.7]";
    let line = |said: &str| format!("Nov 21 09:00:00 mx postfix/smtpd[1]: {said} from {client}\n");
    fs::write(dir.join("mail.log"), line("connect") + &line("disconnect")).unwrap();
    let (empty, page) = (dir.write("empty", "no log\n"), dir.join("page.html"));
    advise(&dir, &["--html", page.to_str().unwrap()]).arg(empty).output().unwrap();
    let note = look(&dir, &page);
    assert_eq!((note("choice"), note("year"), note("fits")), ("false".into(), "false".into(), "true".into()));
    assert!(note("warnings").contains("no line of it is understood"), "{}", note("warnings"));
    let nothing = note("nothing");
    assert!(
        nothing.contains("1 session in the logs; Postfix would have asked about none.1 came from mynetworks"),
        "{nothing}"
    );
}

#[test]
fn the_page_shows_limits_on_users_too() {
    let dir = Dir::new();
    let line = |number: u32| {
        let (head, client) = (format!("Nov 21 09:{number:02}:00 mx postfix"), format!("unknown[198.51.100.{number}]"));
        format!(
            "{head}/submission/smtpd[{number}]: 4B{number}: client={client}, sasl_method=PLAIN, sasl_username=<b>joe\n\
             {head}/qmgr[3]: 4B{number}: from=<joe@example.org>, size=9, nrcpt=7 (queue active)\n"
        )
    };
    fs::write(dir.join("mail.log"), (0..20).map(line).collect::<String>()).unwrap();
    let page = dir.join("page.html");
    assert!(advise(&dir, &["--html", page.to_str().unwrap()]).output().unwrap().status.success());
    let note = look(&dir, &page);
    assert_eq!((note("choice"), note("fits"), note("year")), ("true".into(), "true".into(), "false".into()));
    assert!(
        note("views").starts_with("messages of a login, recipients of a login, addresses of a login, "),
        "{}",
        note("views")
    );
    assert!(note("names").contains("&lt;b&gt;joe"), "{}", note("names"));
    // The page proposes what the terminal does, and as long.
    let output = advise(&dir, &["--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let until = report["users"]["log_only_until"].as_str().unwrap();
    assert!(
        note("advice").contains(&format!(" | log_only = true    # until {until} | It rests on 1 login")),
        "{}",
        note("advice")
    );
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
    let rows = table.lines().filter(|line| line.ends_with(",client,connections"));
    let mut rows = rows.map(|line| line.split(',').collect::<Vec<_>>());
    let wanted = rows.rfind(|row| if options.is_empty() { row[2] == "yes" } else { row[1] == "2" }).unwrap();
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

/// The standard output and standard error of the browser, which runs the scripts of a page for five seconds of its time.
fn browse(dir: &Dir, page: &Path, arguments: &[&str]) -> (String, String) {
    let arguments = [&["--virtual-time-budget=5000"], arguments].concat();
    support::browse(dir, &format!("file://{}", page.display()), &arguments)
}
