//! The page for browsers, with what `connshaper top` shows.
//!
//! The page is made here as a whole, so it can be read without JavaScript; a script of a few lines fetches it again and
//! shows what has changed. Nothing on it comes from elsewhere, and it changes nothing.

use std::fmt::Write;
use std::sync::{Arc, LazyLock, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{HttpContext, token};
use crate::control::commands::ControlCommand;
use crate::control::text::lasting;
use crate::control::top::{TopAnswer, TopArgs};
use crate::engine::bans::counted_client;
use crate::net::clock::Now;
use crate::net::lock;
use crate::observe::terminal;
use crate::policy::overrides::OverrideKind;
use crate::store::local::listing::all_bans;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// The most rows of each table.
const MAX_ROWS: usize = 50;

/// A page serves everyone who asks within so many milliseconds: making one looks at every client that is counted.
const FRESH: u64 = 1000;

/// Seconds of one bar of the plot.
const BAR: usize = 5;

/// Bars that there is room for: the five minutes that are remembered.
const BARS: usize = 60;

/// The last page, and when it was made.
#[derive(Debug, Default)]
pub struct LastPage(Mutex<Option<(u64, Arc<str>)>>);

/// The page without what changes, and the Content-Security-Policy that lets no other script run.
static FRAME: LazyLock<(String, HeaderValue)> = LazyLock::new(|| {
    let page = include_str!("page.html").replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    );
    (page, HeaderValue::try_from(policy).expect("a policy is ASCII"))
});

pub async fn answer(State(context): State<Arc<HttpContext>>, headers: HeaderMap) -> Response {
    if let Err(answer) = token::check(&context, &headers) {
        return answer;
    }
    if !context.config.load().page {
        return super::INDEX.into_response();
    }
    let now = Now::read();
    let last = lock(&context.last_page.0).clone();
    let page = match last.filter(|(made, _)| now.monotonic.saturating_sub(*made) < FRESH) {
        Some((_, page)) => page,
        None => {
            let page: Arc<str> = make(&context, now).await.into();
            *lock(&context.last_page.0) = Some((now.monotonic, Arc::clone(&page)));
            page
        }
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, FRAME.1.clone()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (headers, page.to_string()).into_response()
}

async fn make(context: &HttpContext, now: Now) -> String {
    let main = match (TopArgs { limit: None, clients: MAX_ROWS }).run(&context.control, "http", now).await {
        Ok(answer) => {
            let bans = bans(context, now).await;
            render(&answer, &bans)
        }
        Err(problem) => format!("<p class=\"bad\">{}</p>", escape(&problem.error)),
    };
    FRAME.0.replace("<!--MAIN-->", &main)
}

/// A ban that is in force.
struct BanRow {
    key: String,
    by: String,
    left: u64,
}

/// The bans of administrators, then those of limits that this process knows, the longest first.
async fn bans(context: &HttpContext, now: Now) -> Vec<BanRow> {
    let rules = context.control.service.rules.load_full();
    let entries = rules.policy.overrides().list().into_iter().filter(|entry| entry.kind == OverrideKind::Ban);
    let mut bans: Vec<BanRow> = entries
        .map(|entry| BanRow {
            key: entry.target.to_string(),
            by: match &entry.note {
                Some(note) => format!("{} (administrator): {note}", entry.by),
                None => format!("{} (administrator)", entry.by),
            },
            left: entry.left(now),
        })
        .collect();
    let mut of_limits: Vec<BanRow> = Vec::new();
    for client in all_bans(rules.store.table(), now).await {
        let Some(counted) = counted_client(&rules.policy, &client) else { continue };
        let doors = counted.limit.ban_doors.words().replace(',', ", ");
        let by = format!("{} ({doors})", counted.limit.name);
        of_limits.push(BanRow { key: counted.part.to_string(), by, left: client.hit.left_seconds().into() });
    }
    of_limits.sort_by_key(|ban| std::cmp::Reverse(ban.left));
    bans.append(&mut of_limits);
    bans
}

fn render(answer: &TopAnswer, bans: &[BanRow]) -> String {
    let mut text = String::new();
    let status = &answer.status;
    let total = |name: &str| status.since_start.get(name).copied().unwrap_or(0);
    let store = if status.store.state == "down" { "bad" } else { "good" };
    let facts = [
        ("Requests of Postfix", format!("{:.1}/s", status.queries_per_second), format!("{} in all", total("queries"))),
        ("Refusals", format!("{:.1}/s", status.refusals_per_second), format!("{} in all", total("refused"))),
        ("Login door", total("login_requests").to_string(), "questions and reports".to_owned()),
        ("Web door", total("web_requests").to_string(), "questions".to_owned()),
        ("Clients", status.clients.to_string(), format!("room for {}", status.max_clients)),
        ("SMTP sessions", status.sessions.to_string(), format!("{} waiting", status.waiting)),
    ];
    text += "<dl>\n";
    for (name, value, more) in facts {
        fact(&mut text, name, "", &value, &more);
    }
    let kind = if status.store.servers.is_empty() { "on this host" } else { status.store.kind.as_str() };
    fact(&mut text, "Store", store, &status.store.state, kind);
    fact(&mut text, "Running", "", &lasting(status.uptime), &format!("version {}", status.version));
    text += "</dl>\n";
    servers(&mut text, answer);
    list(&mut text, "Warnings", &status.warnings());
    plot(&mut text, &status.refusals);
    let rows: Vec<_> = answer.busiest.iter().take(MAX_ROWS).collect();
    text += "<h2 id=\"clients\">Busiest clients</h2>\n";
    let columns = [("client", false), ("limit", false), ("count", true), ("of", true), ("left", true), ("", false)];
    table(
        &mut text,
        "clients",
        &columns,
        rows.iter().map(|row| {
            let state = if row.over { "<span class=\"bad\">over</span>" } else { "" };
            let (count, of) = (row.count.to_string(), row.threshold.to_string());
            [escape(&row.key), escape(&row.limit()), count, of, lasting(row.left), state.to_owned()]
        }),
    );
    let _ = writeln!(text, "<h2 id=\"bans\">Bans <small>{}</small></h2>", bans.len());
    let columns = [("client", false), ("by", false), ("left", true)];
    let shown = bans.iter().take(MAX_ROWS);
    table(&mut text, "bans", &columns, shown.map(|ban| [escape(&ban.key), escape(&ban.by), lasting(ban.left)]));
    text
}

fn fact(text: &mut String, name: &str, class: &str, value: &str, more: &str) {
    let (value, more) = (escape(value), escape(more));
    let _ = writeln!(text, "<div><dt>{name}</dt><dd class=\"{class}\">{value}<small>{more}</small></dd></div>");
}

/// Each server of a shared store.
fn servers(text: &mut String, answer: &TopAnswer) {
    let servers = &answer.status.store.servers;
    if servers.is_empty() {
        return;
    }
    *text += "<h2>Store</h2>\n";
    let columns = [("server", false), ("state", false), ("down for", true)];
    table(
        text,
        "servers",
        &columns,
        servers.iter().map(|server| {
            let state = if server.down { "<span class=\"bad\">down</span>" } else { "<span class=\"good\">up</span>" };
            [escape(&server.server), state.to_owned(), server.down_seconds.map(lasting).unwrap_or_default()]
        }),
    );
}

fn list(text: &mut String, heading: &str, items: &[String]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(text, "<h2>{heading}</h2>\n<ul class=\"bad\">");
    for item in items {
        let _ = writeln!(text, "<li>{}</li>", escape(item));
    }
    *text += "</ul>\n";
}

/// Refusals a minute, of each five seconds, the latest at the right.
fn plot(text: &mut String, refusals: &[u64]) {
    let a_minute = 60 / BAR as u64;
    let bars: Vec<u64> = refusals.rchunks(BAR).map(|chunk| chunk.iter().sum::<u64>() * a_minute).take(BARS).collect();
    let most = bars.iter().copied().max().unwrap_or(0);
    let _ = writeln!(
        text,
        "<h2>Refusals a minute</h2>\n<p class=\"dim\">the last five minutes, at most {most}</p>\n\
         <svg viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Refusals a minute in the \
         last five minutes, at most {most}\">",
        BARS * 10
    );
    for (place, bar) in bars.iter().enumerate().filter(|(_, bar)| **bar > 0) {
        let height = (*bar * 95).div_ceil(most.max(1));
        let (x, y) = ((BARS - 1 - place) * 10 + 1, 100 - height);
        let _ = writeln!(text, "<rect x=\"{x}\" y=\"{y}\" width=\"8\" height=\"{height}\"/>");
    }
    *text += "</svg>\n";
}

/// A table; what is in its cells is HTML.
fn table<const N: usize>(
    text: &mut String,
    id: &str,
    columns: &[(&str, bool); N],
    rows: impl Iterator<Item = [String; N]>,
) {
    let class = |number: bool| if number { " class=\"number\"" } else { "" };
    let _ =
        write!(text, "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{id}\"><table>\n<thead><tr>");
    for (name, number) in columns {
        let _ = write!(text, "<th scope=\"col\"{}>{name}</th>", class(*number));
    }
    *text += "</tr></thead>\n<tbody>\n";
    let mut any = false;
    for row in rows {
        any = true;
        *text += "<tr>";
        for (cell, (_, number)) in row.iter().zip(columns) {
            let _ = write!(text, "<td{}>{cell}</td>", class(*number));
        }
        *text += "</tr>\n";
    }
    if !any {
        let _ = writeln!(text, "<tr><td colspan=\"{N}\" class=\"dim\">none</td></tr>");
    }
    *text += "</tbody></table></div>\n";
}

/// A text as HTML has it, without characters that hide or turn around what stands beside them: some keys are what
/// strangers choose.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in terminal::escape(text).chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_stranger_chooses_is_code() {
        assert_eq!(escape("<script>&'\""), "&lt;script&gt;&amp;&#39;&quot;");
        assert_eq!(escape("root\u{202e}\n"), "root\\xe2\\x80\\xae\\x0a");
        let bans = [BanRow { key: "sender=<b>".into(), by: "x".into(), left: 1 }];
        let answer = TopAnswer {
            status: Default::default(),
            busiest: Vec::new(),
            keys: None,
            latency: crate::control::top::StoreLatency { median: None, p99: None },
        };
        assert!(render(&answer, &bans).contains("sender=&lt;b&gt;"));
    }

    #[test]
    fn the_latest_bar_is_at_the_right_and_the_highest_fits() {
        let mut text = String::new();
        plot(&mut text, &[0, 0, 0, 0, 0, 1, 0, 0, 0, 9]);
        assert!(text.contains("at most 120") && text.contains("x=\"591\" y=\"5\""), "{text}");
        let mut nothing = String::new();
        plot(&mut nothing, &[]);
        assert!(!nothing.contains("<rect"));
    }
}
