//! Whether a request has the token, where the configuration asks for one.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::HttpContext;

/// The header in which a web server passes the client's own `Authorization`.
const HEADER: &str = "x-connshaper-token";

/// Admits a request that has the token; without a configured token, any request. `Err` is the answer to others.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
pub fn check(context: &HttpContext, headers: &HeaderMap) -> Result<(), Response> {
    match &context.config.load().token {
        Some(token) if !has(headers, token.as_str()) => Err(unauthorized()),
        _ => Ok(()),
    }
}

/// The same for what only programs with a token may do.
#[expect(clippy::result_large_err, reason = "the error is the answer")]
pub fn require(context: &HttpContext, headers: &HeaderMap) -> Result<(), Response> {
    if context.config.load().token.is_none() {
        return Err((StatusCode::FORBIDDEN, "this takes a token: set http_token_file\n").into_response());
    }
    check(context, headers)
}

fn unauthorized() -> Response {
    let ways = [
        (header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"connshaper\"")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (StatusCode::UNAUTHORIZED, ways, "the token is missing or wrong\n").into_response()
}

/// Whether one of the headers has it: as a bearer token, as the password of any user, or alone.
fn has(headers: &HeaderMap, token: &str) -> bool {
    let alone = headers.get(HEADER).map(|value| value.as_bytes().to_vec());
    let bearer = authorization(headers, "bearer").map(|token| token.as_bytes().to_vec());
    let password = basic(headers).map(|(_, password)| password);
    [alone, bearer, password].into_iter().flatten().any(|given| is_same(&given, token.as_bytes()))
}

/// In a time that says nothing about where two tokens differ.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    Sha256::digest(one) == Sha256::digest(other)
}

/// The user that a client names, without proof.
pub fn user(headers: &HeaderMap) -> Option<Vec<u8>> {
    basic(headers).map(|(user, _)| user)
}

/// The user and the password of `Authorization: Basic`.
fn basic(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut pair = STANDARD.decode(authorization(headers, "basic")?).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    let password = pair.split_off(colon + 1);
    pair.truncate(colon);
    Some((pair, password))
}

/// The credentials of a scheme in `Authorization`.
fn authorization<'h>(headers: &'h HeaderMap, scheme: &str) -> Option<&'h str> {
    let (given, credentials) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    given.eq_ignore_ascii_case(scheme).then(|| credentials.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn a_token_comes_in_three_ways() {
        let basic = format!("Basic {}", STANDARD.encode("joe:secret:word"));
        for (name, value) in [
            ("authorization", "Bearer secret:word"),
            ("authorization", "bearer secret:word"),
            ("authorization", &basic),
            ("x-connshaper-token", "secret:word"),
        ] {
            assert!(has(&headers(name, value), "secret:word"), "{name}: {value}");
            assert!(!has(&headers(name, value), "secret:work"), "{name}: {value}");
        }
        assert!(!has(&HeaderMap::new(), "secret:word"));
        for wrong in ["Bearer", "Bearer ", "Basic !!", "Digest secret:word", "secret:word"] {
            assert!(!has(&headers("authorization", wrong), "secret:word"), "{wrong}");
        }
        assert_eq!(user(&headers("authorization", &basic)).unwrap(), b"joe");
    }
}
