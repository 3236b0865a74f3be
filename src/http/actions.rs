//! Actions of programs on other hosts: what the commands `hit`, `check-hit` and `revoke` do.

use std::sync::Arc;

use axum::extract::{Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::{HttpContext, body, json_answer, to_the_end, token};
use crate::control::check_hit::CheckHitArgs;
use crate::control::commands::ControlRequest;
use crate::control::hit::HitArgs;
use crate::control::revoke::RevokeArgs;
use crate::sysexits;

pub async fn hit(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    act::<HitArgs>(context, request).await
}

pub async fn check(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    act::<CheckHitArgs>(context, request).await
}

pub async fn revoke(State(context): State<Arc<HttpContext>>, request: HttpRequest) -> Response {
    act::<RevokeArgs>(context, request).await
}

/// Does a command whose arguments are the body, for who has the token.
async fn act<A: DeserializeOwned + Into<ControlRequest>>(context: Arc<HttpContext>, request: HttpRequest) -> Response {
    let (head, request_body) = request.into_parts();
    if let Err(answer) = token::require(&context, &head.headers) {
        return answer;
    }
    let bytes = match body(request_body).await {
        Ok(bytes) => bytes,
        Err(answer) => return answer,
    };
    let command: ControlRequest = match serde_json::from_slice::<A>(&bytes) {
        Ok(arguments) => arguments.into(),
        Err(error) => {
            let text = format!("write {{\"limit\": ..., \"key\": ..., \"amount\": 1}}: {error}\n");
            return (StatusCode::BAD_REQUEST, text).into_response();
        }
    };
    let control = Arc::clone(&context.control);
    let line = to_the_end(&context, async move { command.run(&control, "http").await }).await;
    json_answer(status(&line), line)
}

/// The HTTP response for the answer of a command.
fn status(line: &str) -> StatusCode {
    let answer: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    match (answer["ok"].as_bool(), answer["code"].as_u64()) {
        (Some(true), _) => StatusCode::OK,
        (_, Some(code)) if code == u64::from(sysexits::USAGE) => StatusCode::BAD_REQUEST,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}
