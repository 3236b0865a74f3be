//! The login door: Dovecot's auth policy protocol.
//!
//! `POST /dovecot?command=allow` asks whether a login may be tried: `{"status": 0}` lets it, `-1` refuses it, and a
//! number from 1 makes Dovecot wait so many seconds. `command=report` says what came of one; that is counted.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{HttpContext, body, json_answer, to_the_end, token};
use crate::engine::sessionless::{CountMode, count_login, decide_sessionless};
use crate::net::clock::Now;
use crate::observe::statistics::add;
use crate::policy::attribute::Attribute;
use crate::policy::request::{LoginOutcome, Request, address};
use crate::policy::{Door, Verdict};

/// Dovecot's names of our attributes; sites may add more in `auth_policy_request_attributes`.
const NAMES: [(&str, Attribute); 9] = [
    ("login", Attribute::Login),
    ("protocol", Attribute::Protocol),
    ("device_id", Attribute::DeviceId),
    ("session_id", Attribute::SessionId),
    ("mechanism", Attribute::Mechanism),
    ("tls", Attribute::Tls),
    ("client_port", Attribute::ClientPort),
    ("server_address", Attribute::ServerAddress),
    ("server_port", Attribute::ServerPort),
];

pub async fn answer(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    let (head, request_body) = request.into_parts();
    match process(&context, &head.headers, &head.uri, request_body).await {
        Ok(answer) | Err(answer) => answer,
    }
}

async fn process(
    context: &Arc<HttpContext>,
    headers: &HeaderMap,
    uri: &Uri,
    request_body: Body,
) -> Result<Response, Response> {
    token::check(context, headers)?;
    let wrong = |text: &'static str| (StatusCode::BAD_REQUEST, text).into_response();
    let pairs = uri.query().unwrap_or_default().split('&');
    let command = pairs.filter_map(|pair| pair.strip_prefix("command=")).next();
    let bytes = body(request_body).await?;
    let Ok(attributes) = serde_json::from_slice::<Map<String, Value>>(&bytes) else {
        return Err(wrong("the body is not a JSON object\n"));
    };
    let login = Login::read(&attributes);
    add(&context.control.service.statistics.login_requests, 1);
    match command {
        Some("allow") => Ok(to_the_end(context, allow(Arc::clone(context), login)).await),
        Some("report") => {
            to_the_end(context, report(Arc::clone(context), login)).await;
            Ok(json_answer(StatusCode::OK, json!({ "status": 0, "msg": "" }).to_string()))
        }
        _ => Err(wrong("write command=allow or command=report\n")),
    }
}

async fn allow(context: Arc<HttpContext>, login: Login) -> Response {
    let service = &context.control.service;
    let rules = service.rules.load_full();
    let ((verdict, permit), _) =
        decide_sessionless(service, &rules, &login.request, CountMode::Preview, Now::read()).await;
    let (status, text) = match &verdict {
        Verdict::Pass(_) => (0, String::new()),
        Verdict::Delay(delay) => {
            // Dovecot waits in whole seconds.
            let time = Duration::from_secs(delay.time.as_millis().div_ceil(1000) as u64);
            tokio::spawn(async move {
                tokio::time::sleep(time).await;
                drop(permit);
            });
            (time.as_secs() as i64, String::new())
        }
        Verdict::StoreDown => (-1, "Logins cannot be counted at the moment".to_owned()),
        Verdict::Refuse(refusal) => (-1, refusal.action.text(&refusal.values(&login.request, Now::read()))),
    };
    json_answer(StatusCode::OK, json!({ "status": status, "msg": text }).to_string())
}

async fn report(context: Arc<HttpContext>, login: Login) {
    // A login that we refused was not tried.
    if !login.refused {
        let rules = context.control.service.rules.load_full();
        count_login(&rules, &login.request, login.password, Now::read()).await;
    }
}

/// Dovecot's report about a login.
struct Login {
    request: Request<'static>,
    /// A digest of the login and of the wrong password's hash, which Dovecot sends.
    password: Option<u64>,
    /// A policy server refused it, so that it was not tried.
    refused: bool,
}

impl Login {
    fn read(attributes: &Map<String, Value>) -> Self {
        let text = |name: &str| attributes.get(name).and_then(text);
        let client = text("remote").and_then(|remote| address(remote.as_bytes()));
        let values: Vec<_> =
            NAMES.iter().filter_map(|(name, attribute)| Some((*attribute, text(name)?.into_bytes()))).collect();
        let values = values.iter().map(|(attribute, value)| (*attribute, value.as_slice()));
        let mut request = Request::at(Door::Login, client, values);
        let is_true = |name: &str| attributes.get(name) == Some(&Value::Bool(true));
        let fail_type = text("fail_type").unwrap_or_default();
        let failed = attributes.contains_key("success") && !is_true("success") && fail_type != "internal";
        request.login = match (attributes.contains_key("success"), failed) {
            (false, _) => LoginOutcome::Unknown,
            (true, true) => LoginOutcome::Failed,
            // A failure within Dovecot is not a wrong password.
            (true, false) => LoginOutcome::Succeeded,
        };
        let hash = text("pwhash").filter(|hash| !hash.is_empty());
        let password = hash.map(|hash| digest(&text("login").unwrap_or_default(), &hash));
        Self { request, password, refused: is_true("policy_reject") || fail_type == "policy" }
    }
}

/// A value as text: Dovecot sends some as they are in JSON.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The same on every host that shares the counts.
fn digest(login: &str, hash: &str) -> u64 {
    let mut digest = Sha256::new();
    digest.update(login.to_lowercase());
    digest.update([0]);
    digest.update(hash);
    let digest = digest.finalize();
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str) -> Login {
        Login::read(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap())
    }

    #[test]
    fn what_dovecot_sends_is_read() {
        // Recorded from Dovecot 2.3.19 and 2.4.1.
        let asked = login(
            r#"{"device_id":"","login":"joe","protocol":"imap","pwhash":"0a1","remote":"192.0.2.7","session_id":"x","tls":false}"#,
        );
        assert_eq!(asked.request.client.unwrap().to_string(), "192.0.2.7");
        assert_eq!(asked.request.value(Attribute::Login), b"joe");
        assert_eq!(asked.request.value(Attribute::Tls), b"false");
        assert_eq!((asked.request.login, asked.refused), (LoginOutcome::Unknown, false));
        let reported = login(
            r#"{"device_id":"","fail_type":"credentials","login":"joe","protocol":"imap","pwhash":"0a8f","remote":"192.0.2.7","session_id":"imqYvDRh1M5/AAAB","success":false,"policy_reject":false,"tls":false}"#,
        );
        assert_eq!((reported.request.login, reported.refused), (LoginOutcome::Failed, false));
        assert!(reported.password.is_some());
        // With attributes of the site.
        let failed = login(
            r#"{"login":"joe","remote":"::ffff:192.0.2.7","server_port":993,"attrs":{"cos":"a"},"success":false,"policy_reject":false,"fail_type":"credentials"}"#,
        );
        assert_eq!(failed.request.client.unwrap().to_string(), "192.0.2.7");
        assert_eq!(failed.request.value(Attribute::ServerPort), b"993");
        assert_eq!((failed.request.login, failed.password), (LoginOutcome::Failed, None));
        let outcome = |rest: &str| login(&format!(r#"{{"login":"joe","remote":"192.0.2.7",{rest}}}"#));
        assert_eq!(outcome(r#""success":true"#).request.login, LoginOutcome::Succeeded);
        assert_eq!(outcome(r#""success":false,"fail_type":"internal""#).request.login, LoginOutcome::Succeeded);
        assert!(outcome(r#""success":false,"policy_reject":true"#).refused);
        assert!(login("{}").request.client.is_none());
    }

    #[test]
    fn a_password_is_told_from_another_and_from_another_login() {
        let digest = |name: &str, hash: &str| login(&format!(r#"{{"login":"{name}","pwhash":"{hash}"}}"#)).password;
        assert_eq!(digest("Joe", "0a1"), digest("joe", "0a1"));
        assert!(digest("joe", "0a1") != digest("joe", "0a2") && digest("joe", "0a1") != digest("jo", "0a1"));
        assert_eq!(digest("joe", ""), None);
    }
}
