//! The doors over HTTP, for logins and web requests; actions of programs; metrics, and a page for browsers.
//!
//! `server` accepts and bounds connections, in a thread of its own, so that no load there keeps Postfix waiting. Each
//! path has a file: what it reads of a request, and what it answers. Decisions are made by `engine::sessionless`.

mod actions;
pub mod forwarded;
mod login;
pub mod metrics;
mod page;
pub mod server;
mod token;
mod web;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use tokio::time::timeout;

use crate::config::HttpConfig;
use crate::control::Control;
use metrics::MetricsSource;
pub use page::LastPage;

/// The longest body that is read. Dovecot sends some 300 bytes.
const MAX_BODY: usize = 16 * 1024;

/// How long a body may take to come.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The state that answers are made of.
#[derive(Debug)]
pub struct HttpContext {
    pub control: Arc<Control>,
    pub metrics: MetricsSource,
    /// As the last reload has it, but for the addresses.
    pub config: ArcSwap<HttpConfig>,
    pub last_page: LastPage,
}

/// The routes of `http_listen`.
fn doors(context: Arc<HttpContext>) -> Router {
    Router::new()
        .route("/", get(page::answer))
        .route("/metrics", get(metrics::answer))
        .route("/dovecot", post(login::answer))
        .route("/auth", any(web::forwarded))
        .route("/auth/nginx", any(web::nginx))
        .route("/auth/envoy", any(web::envoy))
        .route("/auth/envoy/", any(web::envoy))
        .route("/auth/envoy/{*path}", any(web::envoy))
        .route("/hit", post(actions::hit))
        .route("/check", post(actions::check))
        .route("/revoke", post(actions::revoke))
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such path\n"))
        .with_state(context)
}

/// The routes of `metrics_listen`.
fn metrics_alone(context: Arc<HttpContext>) -> Router {
    Router::new()
        .route("/", get(async || "connshaper: /metrics\n"))
        .route("/metrics", get(metrics::page_alone))
        .fallback(async || (StatusCode::NOT_FOUND, "there is only /metrics\n"))
        .with_state(context)
}

/// The answer at `/` if there is no page.
const INDEX: &str = "connshaper: /dovecot, /auth, /auth/nginx, /auth/envoy, /hit, /check, /revoke, /metrics\n";

/// Does the work of a request. Where that waits for the store, it goes on to its end even if the peer hangs up: a count
/// without the ban that follows from it would be worse than an answer that nobody reads.
async fn to_the_end<T: Send + 'static>(context: &HttpContext, work: impl Future<Output = T> + Send + 'static) -> T {
    if !context.control.service.rules.load().store.is_shared() {
        return work.await;
    }
    match tokio::spawn(work).await {
        Ok(done) => done,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime ends, and this with it.
        Err(_) => std::future::pending().await,
    }
}

/// All of a body, or why it is not read.
async fn body(body: Body) -> Result<Bytes, Response> {
    match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err((StatusCode::PAYLOAD_TOO_LARGE, "the body is too long, or was cut short\n").into_response()),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body takes too long\n").into_response()),
    }
}

/// An answer in JSON, which no cache may keep.
fn json_answer(status: StatusCode, text: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text).into_response()
}
