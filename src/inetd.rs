//! One policy connection on standard input and output, for inetd, xinetd and Postfix spawn(8).
//!
//! Whoever started us reads an exit as "no answer", which is a 451 for every
//! mail. So whatever is wrong is logged, and everyone passes.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use bytes::BytesMut;
use socket2::{Domain, Socket};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::codec::{Decoder, Encoder};
use tokio_util::sync::CancellationToken;

use crate::codec::{Reply, ReplyEncoder, RequestDecoder};
use crate::config::Config;
use crate::connection;
use crate::listener::{Peer, Stream};
use crate::log::{Log, Severity};
use crate::service::Service;

/// Serves until the other end closes, or SIGTERM.
pub async fn run(path: Option<&Path>) -> io::Result<()> {
    let loaded = Config::load(path).map_err(|error| error.summary());
    let config = loaded.and_then(|config| config.for_inetd());
    let target = config.as_ref().map_or_else(|_| Config::default().inetd_log, |config| config.log.clone());
    // Standard error is the policy connection too: nothing may be written there.
    let log = Log::open(&target)?;
    let (stream, peer) = standard_input()?;
    match config {
        Ok(config) => serve(stream, peer, &config, log.clone()).await?,
        Err(problem) => {
            log.line(Severity::Err, "CONFIGURATION", |line| {
                line.field("error", &problem).field("answer", "DUNNO to all");
            });
            pass_all(stream).await?;
        }
    }
    log.flush(std::time::Duration::from_secs(2));
    Ok(())
}

async fn serve(stream: Standard, peer: Peer, config: &Config, log: Log) -> io::Result<()> {
    let service = Service::new(config, log);
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stopper = stop.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stopper.cancel();
    });
    connection::serve(stream, peer, &service, stop).await;
    Ok(())
}

/// Answers `DUNNO` to whatever is asked.
async fn pass_all(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let (mut decoder, mut input, mut output) = (RequestDecoder::default(), BytesMut::new(), BytesMut::new());
    loop {
        while let Ok(Some(_)) = decoder.decode(&mut input) {
            output.clear();
            ReplyEncoder.encode(Reply::Dunno, &mut output)?;
            stream.write_all(&output).await?;
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
    }
}
