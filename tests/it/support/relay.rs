//! A TCP relay before a server, as between Postfix and the daemon: it counts connections and writes,
//! and loses answers.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use super::PATIENCE;

/// A running relay. Each thread ends with its connection; the listening thread ends with the tests.
pub struct Relay {
    address: SocketAddr,
    asked: Receiver<()>,
    writes: Arc<AtomicUsize>,
}

impl Relay {
    /// Forwards everything.
    pub fn to(endpoint: &str) -> Self {
        Self::start(endpoint, 0)
    }

    /// Forwards everything except the answers on the first connection.
    pub fn losing_first_answers(endpoint: &str) -> Self {
        Self::start(endpoint, 1)
    }

    fn start(endpoint: &str, deaf_connections: usize) -> Self {
        let to = endpoint.strip_prefix("inet:").and_then(|address| address.parse().ok());
        let to: SocketAddr = to.unwrap_or_else(|| panic!("a relay to {endpoint}"));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, (news, asked)) = (listener.local_addr().unwrap(), channel());
        let writes = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&writes);
        thread::spawn(move || serve(&listener, to, deaf_connections, &news, &count));
        Self { address, asked, writes }
    }

    /// Its address, as written in main.cf.
    pub fn endpoint(&self) -> String {
        format!("inet:{}", self.address)
    }

    /// The number of reads from clients. Writes without an answer in between may be read as one.
    pub fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// Waits until the first request over a further connection.
    #[track_caller]
    pub fn wait_for_connection(&self) {
        self.asked.recv_timeout(PATIENCE).expect("a question over another policy connection");
    }
}

fn serve(
    listener: &TcpListener,
    to: SocketAddr,
    deaf_connections: usize,
    news: &Sender<()>,
    writes: &Arc<AtomicUsize>,
) {
    let mut before: Vec<JoinHandle<()>> = Vec::new();
    for (number, postfix) in listener.incoming().enumerate() {
        let postfix = postfix.unwrap();
        // Postfix closes a connection before it queries over another: the daemon must see the same order.
        for questions in before.drain(..) {
            questions.join().unwrap();
        }
        let Ok(daemon) = TcpStream::connect(to) else { continue };
        let (questions, answers) = ((clone(&postfix), clone(&daemon)), (daemon, postfix));
        let (mut news, writes) = (Some(news.clone()), Arc::clone(writes));
        let questions = thread::spawn(move || {
            pass(questions, |bytes, daemon| {
                writes.fetch_add(1, Ordering::SeqCst);
                daemon.write_all(bytes)?;
                if let Some(news) = news.take() {
                    // The test may not wait any more.
                    let _ = news.send(());
                }
                Ok(())
            });
        });
        let deaf = number < deaf_connections;
        before.push(questions);
        thread::spawn(move || pass(answers, |bytes, postfix| if deaf { Ok(()) } else { postfix.write_all(bytes) }));
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().unwrap()
}

/// Forwards data until one side closes, then closes the other.
fn pass((mut from, mut to): (TcpStream, TcpStream), mut hand_on: impl FnMut(&[u8], &mut TcpStream) -> io::Result<()>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if hand_on(&buffer[..length], &mut to).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
