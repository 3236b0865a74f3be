//! As much of HTTP as handing out one page takes. Every connection has one answer and is closed.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::http::metrics::{MetricsSource, page};
use crate::listener::Listener;
use crate::net::shutdown::Shutdown;
use crate::net::stream::Stream;

/// Connections held at once. A further one takes the place of the oldest, so that no number of idle ones keeps
/// Prometheus waiting.
const MAX_CONNECTIONS: usize = 64;

/// The longest request that is read.
const MAX_REQUEST: usize = 8 * 1024;

/// How long a request may take to come, and its answer to be taken.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the stop.
pub async fn serve(mut listener: Listener, source: Arc<MetricsSource>, stop: Shutdown) {
    let mut connections: VecDeque<JoinHandle<()>> = VecDeque::new();
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept(&source.service.log) => accepted,
            () = stop.wait() => return,
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let source = Arc::clone(&source);
        connections.push_back(tokio::spawn(async move {
            // A peer that hangs up or sends nothing has no page to wait for.
            let _ = timeout(TIMEOUT, answer(stream, &source)).await;
        }));
    }
}

async fn answer(mut stream: Stream, source: &MetricsSource) -> io::Result<()> {
    let mut request = Vec::new();
    while !complete(&request) && request.len() < MAX_REQUEST {
        let mut part = [0; 1024];
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            length => request.extend_from_slice(&part[..length]),
        }
    }
    let (status, body) = match target(&request) {
        _ if !complete(&request) => ("431 Request Header Fields Too Large", String::new()),
        Some(("GET" | "HEAD", "/metrics")) => ("200 OK", page(source)),
        Some(("GET" | "HEAD", "/")) => ("200 OK", "connshaper: /metrics\n".to_owned()),
        Some(("GET" | "HEAD", _)) => ("404 Not Found", "there is only /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let sent = if request.starts_with(b"HEAD ") { "" } else { &body };
    stream.write_all((head + sent).as_bytes()).await?;
    stream.shutdown().await
}

fn complete(request: &[u8]) -> bool {
    request.windows(4).any(|end| end == b"\r\n\r\n") || request.windows(2).any(|end| end == b"\n\n")
}

/// Method and path, without a query.
fn target(request: &[u8]) -> Option<(&str, &str)> {
    let line = request.split(|byte| *byte == b'\n').next()?;
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    Some((method, path.split('?').next().unwrap_or(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_method_and_a_path() {
        assert_eq!(target(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some(("GET", "/metrics")));
        assert_eq!(target(b"\xff\xff\r\n"), None);
        assert_eq!(target(b"GET\r\n"), None);
        assert!(complete(b"GET / HTTP/1.0\r\n\r\n") && !complete(b"GET / HTTP/1.0\r\n"));
    }
}
