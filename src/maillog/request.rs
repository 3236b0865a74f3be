//! The policy request that Postfix would have sent about a session of a log.

use std::fmt::Write;
use std::net::Ipv4Addr;

use super::sessions::{LoggedSession, Seen};
use super::text::printable;

/// Writes the request about a message of a session, or about its beginning.
///
/// The log does not have the client's port, the server's address, or the parts of `instance`: each session
/// gets values of its own, so that sessions are told apart. Senders, recipients and sizes are left empty.
pub fn write(request: &mut String, session: &LoggedSession<'_>, seen: Seen) {
    request.clear();
    let LoggedSession { client, number, message, .. } = *session;
    let name = if session.name.is_empty() { "unknown".into() } else { printable(session.name) };
    let port = 1_024 + number % 64_000;
    let [.., b, c, d] = (number / 64_000).to_be_bytes();
    let server = Ipv4Addr::new(127, b, c, d);
    let (state, instance) = match seen {
        Seen::Connect => ("CONNECT", String::new()),
        Seen::Rcpt => {
            // smtpd's process id, the time of MAIL FROM with microseconds, and the number of the message.
            let (process, seconds) = (session.process & 0xffff_ffff, session.time / 1000);
            ("RCPT", format!("{process:x}.{seconds:x}.{:x}.{message:x}", number % 1_000_000))
        }
    };
    let helo = if seen == Seen::Rcpt { &name } else { "" };
    let recipient = if seen == Seen::Rcpt { "unknown@localhost" } else { "" };
    // Writing to a string cannot fail.
    let _ = write!(
        request,
        "request=smtpd_access_policy\nprotocol_state={state}\nprotocol_name=ESMTP\nclient_address={client}\n\
         client_name={name}\nclient_port={port}\nreverse_client_name={name}\nserver_address={server}\n\
         server_port=25\nhelo_name={helo}\nsender=\nrecipient={recipient}\nrecipient_count=0\nqueue_id=\n\
         instance={instance}\nsize=0\netrn_domain=\nstress=\nsasl_method=\nsasl_username=\nsasl_sender=\n\
         ccert_subject=\nccert_issuer=\nccert_fingerprint=\nccert_pubkey_fingerprint=\nencryption_protocol=\n\
         encryption_cipher=\nencryption_keysize=0\npolicy_context=\n\n"
    );
}
