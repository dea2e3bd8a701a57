//! A webhook receiver that shares no code with kfwatch: HTTP/1.1 on loopback, plain or over TLS. A test chooses its
//! answers, valid or not, and can kill it and restart it on the same port.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{event_log, loopback, wait::eventually};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use standardwebhooks::Webhook;

/// Two signing keys for tests.
pub(crate) const KEYS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

/// One complete request.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Whether its signature was valid for the first key on arrival: later, the reference implementation rejects it as
    /// too old.
    pub(crate) signed: bool,
    /// Whether it was confirmed: set when the answer is sent.
    pub(crate) confirmed: bool,
    /// Whether its connection was used for an earlier request.
    pub(crate) reused_connection: bool,
}

impl Delivery {
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map_or("", |(_, value)| value);
        assert!(found.next().is_none(), "{name} occurs twice");
        value
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        event_log::parsed(&self.body)
    }

    /// Official account and kf account.
    pub(crate) fn account(&self) -> (String, String) {
        event_log::account_of(&self.json())
    }

    /// Asserts that the reference implementation accepts the signature for this key.
    pub(crate) fn verify(&self, key: &str) {
        assert!(self.is_signed_with(key), "{self:?}");
    }

    fn is_signed_with(&self, key: &str) -> bool {
        let mut headers = reqwest::header::HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(name, self.header(name).parse().unwrap());
        }
        Webhook::new(key).unwrap().verify(self.body.as_bytes(), &headers).is_ok()
    }
}

/// A receiver's answer to a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A status, with these header lines, each ended by CR LF, and a body.
    Status(u16, String, String),
    /// No answer until the client gives up.
    Hang,
    /// The start of an answer, then the end of the connection.
    Reset,
    /// The end of the connection without an answer.
    HangUp,
    /// 204, then the end of the connection, which no header announces.
    Last,
    /// Bytes that are not HTTP.
    Garbage,
    /// 200 after a delay.
    Slow(Duration),
    /// 200 when the test waits at the barrier, too.
    Held(Arc<Barrier>),
    /// 200 and half a body, then the end of the connection.
    Cut,
    /// 200 and half a body, then silence.
    Stall,
    /// 200 and a body of a megabyte.
    Huge,
    /// 200 and an endless body, as fast as it is read.
    Endless,
    /// 200 and endless headers.
    EndlessHead,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(status, String::new(), String::new())
    }
}

type Decide = Box<dyn FnMut(&Delivery) -> Answer + Send>;

struct Shared {
    received: Mutex<Vec<Delivery>>,
    decide: Mutex<Decide>,
    connections: Mutex<Vec<TcpStream>>,
    dead: AtomicBool,
    tls: Option<Arc<ServerConfig>>,
    /// How long it waits for the next request before it closes the connection.
    idle_timeout: Mutex<Option<Duration>>,
}

/// A webhook receiver, running or killed.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts a receiver that confirms everything.
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts a receiver that confirms everything, over TLS with this certificate.
    pub(crate) fn start_tls(config: ServerConfig) -> Self {
        Self::start_with(Some(Arc::new(config)))
    }

    fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        // The names in certificates resolve to 127.0.0.1.
        let host = if tls.is_some() { Ipv4Addr::LOCALHOST } else { loopback::own_address() };
        let listener = TcpListener::bind((host, 0)).unwrap();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            decide: Mutex::new(Box::new(|_| Answer::status(204))),
            connections: Mutex::default(),
            dead: AtomicBool::new(false),
            tls,
            idle_timeout: Mutex::default(),
        });
        let mut receiver = Self { address: listener.local_addr().unwrap(), shared, acceptor: None };
        receiver.listen(listener);
        receiver
    }

    /// Sets the answer to all later requests.
    pub(crate) fn answer(&self, decide: impl FnMut(&Delivery) -> Answer + Send + 'static) {
        *self.shared.decide.lock().unwrap() = Box::new(decide);
    }

    /// Closes new connections that are idle for this long.
    pub(crate) fn close_idle_after(&self, idle: Duration) {
        *self.shared.idle_timeout.lock().unwrap() = Some(idle);
    }

    pub(crate) fn received(&self) -> Vec<Delivery> {
        self.shared.received.lock().unwrap().clone()
    }

    pub(crate) fn confirmed(&self) -> usize {
        self.shared.received.lock().unwrap().iter().filter(|delivery| delivery.confirmed).count()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Returns the URL with the name in its certificate, which resolves to loopback.
    pub(crate) fn https_url(&self, name: &str) -> String {
        format!("https://{name}:{}/kf", self.address.port())
    }

    /// Closes all connections, and refuses new ones.
    pub(crate) fn kill(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.dead.store(true, Ordering::SeqCst);
        // Wakes the accepting thread, which then closes the listener.
        drop(TcpStream::connect(self.address));
        acceptor.join().unwrap();
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            // The client may have closed it already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Starts listening again on the same port. A connection of another test may have it for a moment.
    pub(crate) fn restart(&mut self) {
        let listener = eventually("the port of the receiver", || TcpListener::bind(self.address).ok());
        self.shared.dead.store(false, Ordering::SeqCst);
        self.listen(listener);
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if shared.dead.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.lock().unwrap().push(connection.try_clone().unwrap());
                connection.set_read_timeout(*shared.idle_timeout.lock().unwrap()).unwrap();
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let socket = connection.try_clone().unwrap();
                    serve(wrapped(connection, &shared), &shared);
                    let _ = socket.shutdown(Shutdown::Both);
                });
            }
        }));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// A failed handshake shows at the first read.
fn wrapped(connection: TcpStream, shared: &Shared) -> Box<dyn Stream> {
    match &shared.tls {
        None => Box::new(connection),
        Some(config) => {
            let tls = ServerConnection::new(Arc::clone(config)).unwrap();
            Box::new(StreamOwned::new(tls, connection))
        }
    }
}

/// Serves a connection until it breaks.
fn serve(connection: Box<dyn Stream>, shared: &Shared) {
    let mut reader = BufReader::new(connection);
    let mut reused_connection = false;
    while let Some(delivery) = read_request(&mut reader) {
        let delivery = Delivery { reused_connection, ..delivery };
        reused_connection = true;
        let answer = shared.decide.lock().unwrap()(&delivery);
        let confirms = match &answer {
            Answer::Status(status, ..) => (200..300).contains(status),
            Answer::Slow(_)
            | Answer::Held(_)
            | Answer::Last
            | Answer::Cut
            | Answer::Stall
            | Answer::Huge
            | Answer::Endless => true,
            Answer::Hang | Answer::Reset | Answer::HangUp | Answer::Garbage | Answer::EndlessHead => false,
        };
        let place = {
            let mut received = shared.received.lock().unwrap();
            received.push(delivery);
            received.len() - 1
        };
        match &answer {
            Answer::Slow(time) => std::thread::sleep(*time),
            Answer::Held(barrier) => {
                barrier.wait();
            }
            _ => {}
        }
        let writer = reader.get_mut();
        if writer.write_all(&beginning(&answer)).and_then(|()| writer.flush()).is_err() {
            break;
        }
        shared.received.lock().unwrap()[place].confirmed = confirms;
        match answer {
            Answer::Status(..) | Answer::Slow(_) | Answer::Held(_) => {}
            // Until the client closes; how it does so does not matter.
            Answer::Hang | Answer::Stall => {
                let _ = reader.read(&mut [0]);
                break;
            }
            Answer::Huge => {
                if writer.write_all(&vec![b'x'; MEGABYTE]).is_err() {
                    break;
                }
            }
            Answer::Endless => while writer.write_all(&[b'x'; 4096]).is_ok() {},
            Answer::EndlessHead => while writer.write_all(b"X-More: and more\r\n").is_ok() {},
            Answer::Reset | Answer::HangUp | Answer::Last | Answer::Garbage | Answer::Cut => break,
        }
    }
}

/// Returns the answer, or the part that determines what it is.
fn beginning(answer: &Answer) -> Vec<u8> {
    match answer {
        Answer::Status(status, headers, body) => {
            format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len()).into()
        }
        Answer::Slow(_) | Answer::Held(_) => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".into(),
        Answer::Last => b"HTTP/1.1 204 No Content\r\n\r\n".into(),
        Answer::Garbage => b"220 mail.example ESMTP\r\n\r\n".into(),
        Answer::Reset => b"HTTP/1.1 2".into(),
        Answer::Cut | Answer::Stall => b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into(),
        Answer::Huge => format!("HTTP/1.1 200 OK\r\nContent-Length: {MEGABYTE}\r\n\r\n").into(),
        Answer::Endless => b"HTTP/1.1 200 OK\r\n\r\n".into(),
        Answer::EndlessHead => b"HTTP/1.1 200 OK\r\n".into(),
        Answer::Hang | Answer::HangUp => Vec::new(),
    }
}

const MEGABYTE: usize = 1024 * 1024;

/// Returns `None` if the connection ends or breaks before a complete request.
fn read_request(reader: &mut impl BufRead) -> Option<Delivery> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?, words.next()?.to_owned());
    assert_eq!(method, "POST");
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() && !line.is_empty() => break,
            None => return None,
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length")?.1.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = String::from_utf8(body).unwrap();
    let mut delivery =
        Delivery { path, headers, body, signed: false, confirmed: false, reused_connection: false };
    delivery.signed = delivery.is_signed_with(KEYS[0]);
    Some(delivery)
}
