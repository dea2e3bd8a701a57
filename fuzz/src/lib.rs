//! What several fuzz targets need: a peer that sends the input over a connection, and checks of what people see.

use std::{
    borrow::Cow,
    cell::Cell,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::{Arc, LazyLock},
    time::Duration,
};

use kfwatch::{
    app::clock::SystemClock,
    config::Mistakes,
    domain::{characters::is_invisible, clock::Clock, event::EventType},
    store::{AccountId, LogPosition, StoredEvent},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
};

/// Separates the parts of an input that a peer sends one after the other.
const SEPARATOR: u8 = 0;

/// Stands in an input for the subject at which the client expects the response to what it published.
const INBOX: &[u8] = b"$INBOX";

/// How long the peer waits for the client to say something.
const TURN_TIMEOUT: Duration = Duration::from_millis(5);

/// How long the peer waits for the client to close a connection.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(10);

/// The longest text of a peer that is shown.
const MAX_PEER_TEXT_BYTES: usize = 512 + '…'.len_utf8();

/// The clock of the daemon.
pub fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

/// Fails if a text that people see has more than one line, or characters that are invisible or control a terminal.
pub fn check_line(text: &str) {
    assert!(!text.chars().any(is_invisible), "{text:?} is not one line of visible characters");
}

/// The same for a text that quotes a peer.
pub fn check_peer_text(text: &str) {
    check_line(text);
    assert!(text.len() <= MAX_PEER_TEXT_BYTES, "a peer's text of {} bytes", text.len());
}

/// Fails if one of the mistakes is not one line of visible characters.
pub fn check_mistakes(mistakes: &Mistakes) {
    mistakes.to_string().lines().for_each(check_line);
}

/// An event to deliver.
pub fn event() -> Arc<StoredEvent> {
    static EVENT: LazyLock<Arc<StoredEvent>> = LazyLock::new(|| {
        Arc::new(StoredEvent {
            id: LogPosition(1),
            account: AccountId(1),
            sequence: 1,
            event_type: EventType::SessionStarted,
            observed_at: jiff::Timestamp::UNIX_EPOCH,
            json: r#"{"id":"53bf2e6f-2586-56e7-801b-0ef62536be36","type":"kf.session.started","data":{"official_account":"shop"}}"#
                .to_owned(),
        })
    });
    Arc::clone(&EVENT)
}

/// A server that sends an input instead of what its protocol says.
pub struct Peer {
    runtime: Runtime,
    listener: TcpListener,
}

impl Peer {
    /// Listens on a free port of the loopback interface.
    pub fn listen() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        Self { runtime, listener }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Runs the client against an HTTP server: each request gets the next part of the input, later ones the last part. The
    /// connection is closed after each response, because only its end tells the client that a broken response is over.
    pub fn answer<T>(&self, input: &[u8], client: impl Future<Output = T>) -> T {
        let parts: Vec<&[u8]> = input.split(|byte| *byte == SEPARATOR).collect();
        let requests = Rc::new(Cell::new(0));
        self.run(client, async |mut connection: TcpStream| {
            let mut request = [0; 4096];
            if connection.read(&mut request).await.is_ok_and(|read| read > 0) {
                let n = requests.replace(requests.get() + 1);
                connection.write_all(parts[n.min(parts.len() - 1)]).await.ok();
                end(connection).await;
            }
        })
    }

    /// Runs the client against a server that speaks first: it sends the next part of the input, waits for something, and so
    /// on.
    pub fn converse<T>(&self, input: &[u8], client: impl Future<Output = T>) -> T {
        self.run(client, async |mut connection: TcpStream| {
            let mut received = vec![0; 4096];
            let mut inbox = String::new();
            let mut parts = input.split(|byte| *byte == SEPARATOR).peekable();
            while let Some(part) = parts.next() {
                let part = with_inbox(part, &inbox);
                if connection.write_all(&part).await.is_err() {
                    return;
                }
                if parts.peek().is_none() {
                    break;
                }
                // A client that waits for more says nothing.
                let read = tokio::time::timeout(TURN_TIMEOUT, connection.read(&mut received)).await;
                match read {
                    Ok(Ok(read @ 1..)) => inbox = reply_subject(&received[..read]).unwrap_or(inbox),
                    Ok(_) => return,
                    Err(_) => {}
                }
            }
            end(connection).await;
        })
    }

    fn run<T>(&self, client: impl Future<Output = T>, serve: impl AsyncFn(TcpStream)) -> T {
        self.runtime.block_on(async {
            let serving = async {
                loop {
                    if let Ok((connection, _)) = self.listener.accept().await {
                        connection.set_nodelay(true).ok();
                        serve(connection).await;
                    }
                }
            };
            tokio::select! {
                biased;
                result = client => result,
                () = serving => unreachable!("it serves for ever"),
            }
        })
    }
}

fn with_inbox<'a>(part: &'a [u8], inbox: &str) -> Cow<'a, [u8]> {
    match part.windows(INBOX.len()).position(|window| window == INBOX) {
        Some(at) => [&part[..at], inbox.as_bytes(), &part[at + INBOX.len()..]].concat().into(),
        None => part.into(),
    }
}

/// The subject at which the client expects the response, if it published something.
fn reply_subject(received: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(received);
    let published = text.lines().find(|line| line.starts_with("HPUB ") || line.starts_with("PUB "))?;
    published.split(' ').nth(2).map(str::to_owned)
}

/// Ends our side, and waits for the client: to close a connection with unread bytes would reset it, and the client would not
/// see what was sent.
async fn end(mut connection: TcpStream) {
    connection.shutdown().await.ok();
    let mut rest = [0; 4096];
    let drain = async { while connection.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    // A client may keep the connection and open another one.
    tokio::time::timeout(DRAIN_TIMEOUT, drain).await.ok();
}
