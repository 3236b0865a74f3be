//! The web door: a web server asks about each request before it answers it.
//!
//! `/auth` is for Traefik's ForwardAuth and Caddy's forward_auth, `/auth/envoy` for Envoy's ext_authz, `/auth/nginx`
//! for nginx' auth_request. Each reads only what that server sets: a client can send the headers of the others.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Request as HttpRequest, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::time::sleep;

use super::{HttpContext, forwarded, to_the_end, token};
use crate::config::HttpConfig;
use crate::engine::delay_permits::DelayPermit;
use crate::engine::sessionless::{CountMode, Quota, decide_sessionless};
use crate::listener::Peer;
use crate::net::clock::Now;
use crate::observe::log::Severity;
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::request::Request;
use crate::policy::{Door, Refusal, Verdict};

/// The header in which `/auth/nginx` has the status for the client.
const STATUS: HeaderName = HeaderName::from_static("x-connshaper-status");

const X_FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const X_FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-original-host");

/// Bytes of an item beside its name: two numbers with their parameters, and what separates it.
const NUMBERS: usize = 32;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// The client's request, as the web server describes it.
struct ForwardedRequest<'a> {
    method: &'a [u8],
    uri: &'a [u8],
    host: &'a [u8],
}

pub async fn forwarded(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    let (head, _) = request.into_parts();
    let value = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
    let asked = ForwardedRequest {
        method: value(X_FORWARDED_METHOD).unwrap_or(head.method.as_str().as_bytes()),
        uri: value(X_FORWARDED_URI).unwrap_or_default(),
        host: value(X_FORWARDED_HOST).or(value(header::HOST)).unwrap_or_default(),
    };
    answer(&context, &head, &asked).await
}

pub async fn nginx(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    let (head, _) = request.into_parts();
    let value = |name: HeaderName| head.headers.get(name).map(HeaderValue::as_bytes);
    let asked = ForwardedRequest {
        method: value(X_ORIGINAL_METHOD).unwrap_or_default(),
        // The whole URL is what Kubernetes' ingress sends.
        uri: value(X_ORIGINAL_URI).or(value(X_ORIGINAL_URL).map(without_host)).unwrap_or_default(),
        host: value(X_ORIGINAL_HOST).or(value(header::HOST)).unwrap_or_default(),
    };
    let mut answer = answer(&context, &head, &asked).await;
    // nginx answers 500 for any status but 2xx, 401 and 403.
    if !answer.status().is_success() && answer.status() != StatusCode::UNAUTHORIZED {
        let status = HeaderValue::from(answer.status().as_u16());
        answer.headers_mut().insert(STATUS, status);
        *answer.status_mut() = StatusCode::FORBIDDEN;
    }
    answer
}

pub async fn envoy(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    let (head, _) = request.into_parts();
    let uri = head.uri.path_and_query().map_or("", |path| path.as_str());
    let asked = ForwardedRequest {
        method: head.method.as_str().as_bytes(),
        uri: uri.strip_prefix("/auth/envoy").unwrap_or(uri).as_bytes(),
        host: head.headers.get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default(),
    };
    answer(&context, &head, &asked).await
}

/// The part of a URL behind the host.
fn without_host(url: &[u8]) -> &[u8] {
    let after_scheme = url.windows(3).position(|part| part == b"://").map_or(0, |place| place + 3);
    let path = url[after_scheme..].iter().position(|byte| *byte == b'/');
    path.map_or(b"/", |place| &url[after_scheme + place..])
}

async fn answer(context: &Arc<HttpContext>, head: &Parts, asked: &ForwardedRequest<'_>) -> Response {
    if let Err(answer) = token::check(context, &head.headers) {
        return answer;
    }
    let service = &context.control.service;
    add(&service.statistics.web_requests, 1);
    let request = request(&context.config.load(), head, asked);
    if request.client.is_none() {
        service.log.limited(Severity::Warning, "NO_WEB_CLIENT", Now::read(), |line| {
            line.field("header", &context.config.load().client_header);
            line.field("remedy", "have the web server set it");
        });
    }
    let (answer, delay) = to_the_end(context, decide(Arc::clone(context), request)).await;
    if let Some((time, permit)) = delay {
        sleep(time).await;
        drop(permit);
    }
    answer
}

/// The answer to a request, and how long it is to be delayed.
async fn decide(context: Arc<HttpContext>, request: Request<'static>) -> (Response, Option<(Duration, DelayPermit)>) {
    let service = &context.control.service;
    let rules = service.rules.load_full();
    let ((verdict, permit), quotas) =
        decide_sessionless(service, &rules, &request, CountMode::Count, Now::read()).await;
    let mut delayed = None;
    let mut answer = match &verdict {
        Verdict::Pass(_) => StatusCode::OK.into_response(),
        Verdict::Delay(delay) => {
            delayed = permit.map(|permit| (delay.time, permit));
            StatusCode::OK.into_response()
        }
        Verdict::StoreDown => {
            let text = "Requests cannot be counted at the moment, try again later\n";
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, HeaderValue::from_static("60"))], text)
                .into_response()
        }
        Verdict::Refuse(refusal) => refuse(refusal, &request),
    };
    describe(&quotas, answer.headers_mut());
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (answer, delayed)
}

fn refuse(refusal: &Refusal<'_>, request: &Request) -> Response {
    let status = refusal.action.status_text().parse().unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut answer = (status, refusal.action.text(&refusal.values(request, Now::read())) + "\n").into_response();
    if refusal.left > 0 {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(refusal.left));
    }
    answer
}

/// The remaining hits of each limit, in the form of draft-ietf-httpapi-ratelimit-headers-10.
fn describe(quotas: &[Quota<'_>], headers: &mut HeaderMap) {
    if quotas.is_empty() {
        return;
    }
    let room = quotas.iter().map(|quota| quota.limit.len() + NUMBERS).sum();
    let (mut policy, mut rest) = (Vec::with_capacity(room), Vec::with_capacity(room));
    for Quota { limit, threshold, exptime, remaining, left } in quotas {
        // Names of limits have nothing that a quoted string would have to escape.
        item(&mut policy, limit, [(";q=", *threshold), (";w=", *exptime)]);
        item(&mut rest, limit, [(";r=", *remaining), (";t=", *left)]);
    }
    for (name, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, rest)] {
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
            headers.insert(name, value);
        }
    }
}

/// Adds an item of a list, a name with two numbers.
fn item(list: &mut Vec<u8>, name: &str, numbers: [(&str, u32); 2]) {
    list.extend_from_slice(if list.is_empty() { b"\"" } else { b", \"" });
    list.extend_from_slice(name.as_bytes());
    list.push(b'"');
    for (parameter, number) in numbers {
        list.extend_from_slice(parameter.as_bytes());
        list.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    }
}

fn request(config: &HttpConfig, head: &Parts, asked: &ForwardedRequest<'_>) -> Request<'static> {
    let peer = head.extensions.get::<Peer>().copied().unwrap_or(Peer::Unix);
    let client = forwarded::client(peer, &head.headers, &config.client_header, &config.trusted_proxies);
    let mut parts = asked.uri.splitn(2, |byte| *byte == b'?');
    let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let user = match &config.user_header {
        Some(name) => head.headers.get(name).map(|value| value.as_bytes().to_vec()),
        None => token::user(&head.headers),
    };
    let agent = head.headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    let values = [
        (Attribute::Method, asked.method),
        (Attribute::Path, path),
        (Attribute::Query, query),
        (Attribute::Host, without_port(asked.host)),
        (Attribute::User, user.as_deref().unwrap_or_default()),
        (Attribute::UserAgent, agent),
    ];
    Request::at(Door::Web, client, values)
}

/// A host without its port.
fn without_port(host: &[u8]) -> &[u8] {
    let digits = host.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    match host.len().checked_sub(digits + 1) {
        Some(colon) if digits > 0 && host[colon] == b':' => &host[..colon],
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_paths_are_found_in_what_proxies_write() {
        for (host, expected) in [
            ("a.example:8080", "a.example"),
            ("a.example", "a.example"),
            ("[2001:db8::1]:80", "[2001:db8::1]"),
            ("", ""),
        ] {
            assert_eq!(without_port(host.as_bytes()), expected.as_bytes());
        }
        for (url, expected) in
            [("https://a.example/b?c=//d", "/b?c=//d"), ("https://a.example", "/"), ("/b", "/b"), ("", "/")]
        {
            assert_eq!(without_host(url.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn what_is_left_is_said_as_the_draft_has_it() {
        let quota = |limit: &'static str, remaining| Quota { limit, threshold: 10, exptime: 60, remaining, left: 7 };
        let mut headers = HeaderMap::new();
        describe(&[quota("a", 0), quota("b", 3)], &mut headers);
        assert_eq!(headers["ratelimit-policy"], "\"a\";q=10;w=60, \"b\";q=10;w=60");
        assert_eq!(headers["ratelimit"], "\"a\";r=0;t=7, \"b\";r=3;t=7");
        describe(&[], &mut HeaderMap::new());
    }
}
