//! The page of metrics for Prometheus.
//!
//! Every counter of `observe::statistics` is on it; gauges and other metrics have a line here. A scrape reads numbers
//! that are counted anyway, and no request waits for it. Labels are names of limits, verdicts, reasons and servers: a
//! stranger cannot add any.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use strum::VariantArray;
use tokio_util::task::TaskTracker;

use super::{HttpContext, token};
use crate::engine::report::DecisionCount;
use crate::engine::service::Service;
use crate::net::clock::Now;
use crate::observe::exposition::Text;
use crate::policy::overrides::OverrideKind;
use crate::store::shared::breaker::{BreakerState, ServerHealth};

/// The sources of the metrics.
#[derive(Debug)]
pub struct MetricsSource {
    pub service: Arc<Service>,
    /// The policy connections.
    pub connections: TaskTracker,
    pub max_connections: usize,
    /// When the daemon began to serve.
    pub started: Now,
}

/// The metrics, for who has the token.
pub async fn answer(State(context): State<Arc<HttpContext>>, headers: HeaderMap) -> Response {
    match token::check(&context, &headers) {
        Ok(()) => page_alone(State(context)).await,
        Err(answer) => answer,
    }
}

/// The metrics, where nothing else is served.
pub async fn page_alone(State(context): State<Arc<HttpContext>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page(&context.metrics)).into_response()
}

/// The page.
pub fn page(source: &MetricsSource) -> String {
    let mut text = Text::default();
    process(&mut text, source);
    decisions(&mut text, source);
    store(&mut text, source);
    gauges(&mut text, source);
    text.finish()
}

fn process(text: &mut Text, source: &MetricsSource) {
    let service = &source.service;
    text.family("build_info", "gauge", "The version that runs.");
    text.sample("build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    text.gauge("start_time_seconds", "When it was started, in Unix time.", source.started.unix() as f64);
    text.gauge(
        "last_reload_successful",
        "0 after a reload that changed nothing.",
        f64::from(u8::from(!service.last_reload_failed())),
    );
    let counters = [
        (
            "log_lines_suppressed_total",
            "Log lines not written because of log_interval and log_rate.",
            service.log.suppressed(),
        ),
        ("log_lines_dropped_total", "Log lines lost because the logger was down or too slow.", service.log.dropped()),
    ];
    for (name, help, number) in counters {
        text.counter(name, help, number);
    }
}

fn decisions(text: &mut Text, source: &MetricsSource) {
    let statistics = &source.service.statistics;
    for counter in statistics.counters() {
        text.counter(counter.metric, counter.help, counter.get());
    }
    text.family(
        "decisions_total",
        "counter",
        "Decisions by door, limit, verdict and reason; of an SMTP session once for each count.",
    );
    for DecisionCount { limit, door, verdict, reason, number } in source.service.decisions.list() {
        let labels = [("limit", limit.as_str()), ("verdict", verdict), ("reason", reason), ("door", door.into_str())];
        text.sample("decisions_total", &labels, number as f64);
    }
}

fn store(text: &mut Text, source: &MetricsSource) {
    let (statistics, rules) = (&source.service.statistics, source.service.rules.load());
    text.family("store_up", "gauge", "Whether a store is asked: 0 while its breaker is open.");
    if !rules.store.is_shared() {
        text.sample("store_up", &[("server", "memory")], 1.0);
    }
    let servers = rules.store.servers();
    for ServerHealth { server, down_for, .. } in &servers {
        text.sample("store_up", &[("server", server)], f64::from(u8::from(down_for.is_none())));
    }
    text.family("store_breaker_state", "gauge", "1 for the state that the breaker before a server of the store is in.");
    for ServerHealth { server, breaker, .. } in &servers {
        for state in BreakerState::VARIANTS {
            let labels = [("server", server.as_str()), ("state", state.into_str())];
            text.sample("store_breaker_state", &labels, f64::from(u8::from(state == breaker)));
        }
    }
    let histogram = statistics.store_latency.histogram();
    let name = "store_latency_seconds";
    text.family(name, "histogram", "How long requests waited for the store.");
    for (bound, count) in &histogram.cumulative {
        let bound = if bound.is_finite() { bound.to_string() } else { "+Inf".to_owned() };
        text.sample(&format!("{name}_bucket"), &[("le", &bound)], *count as f64);
    }
    text.sample(&format!("{name}_sum"), &[], histogram.sum);
    text.sample(&format!("{name}_count"), &[], histogram.count as f64);
}

fn gauges(text: &mut Text, source: &MetricsSource) {
    let service = &source.service;
    let rules = service.rules.load();
    let table = rules.store.table();
    text.counter("evictions_total", "Clients forgotten because max_clients was reached.", table.evictions());
    let numbers = [
        ("clients", "Clients counted in this process.", table.len()),
        ("clients_max", "The most of them, max_clients.", table.max_clients()),
        ("known_sessions", "SMTP sessions remembered.", service.sessions.len()),
        ("waiting_sessions", "SMTP sessions whose answer is delayed.", service.delayed.len()),
        ("policy_connections", "Policy connections of Postfix.", source.connections.len()),
        ("policy_connections_max", "The most of them, max_connections.", source.max_connections),
    ];
    for (name, help, number) in numbers {
        text.gauge(name, help, number as f64);
    }
    let list = rules.policy.overrides().list();
    text.family("overrides", "gauge", "Bans and allowances of administrators in force.");
    for kind in [OverrideKind::Ban, OverrideKind::Allow] {
        let number = list.iter().filter(|entry| entry.kind == kind).count();
        text.sample("overrides", &[("word", kind.into_str())], number as f64);
    }
}
