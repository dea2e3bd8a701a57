//! A receiver of webhooks that shares nothing with kfwatch: plain HTTP/1.1 on loopback, as well or as badly behaved as a test
//! wants it, and able to die and come back on the same port.

pub(crate) mod scene;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use standardwebhooks::Webhook;

/// Two keys for tests.
pub(crate) const KEYS: [&str; 2] =
    ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];

/// One request, as it was read whole.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
    /// Whether it was confirmed: set when the answer is sent.
    pub(crate) confirmed: bool,
}

impl Delivery {
    pub(crate) fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let value = found.next().map_or("", |(_, value)| value);
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Official account and kf account.
    pub(crate) fn account(&self) -> (String, String) {
        scene::account_of(&self.body)
    }

    /// Fails unless the signature is good for this key, in the eyes of the reference implementation.
    pub(crate) fn verify(&self, key: &str) {
        let mut headers = reqwest::header::HeaderMap::new();
        for name in ["webhook-id", "webhook-timestamp", "webhook-signature"] {
            headers.insert(name, self.header(name).parse().unwrap());
        }
        Webhook::new(key).unwrap().verify(self.body.as_bytes(), &headers).unwrap();
    }
}

/// What a receiver does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A status, with these header lines, each ended by CR LF, and a body.
    Status(u16, String, String),
    /// No answer until the other side gives up.
    Hang,
    /// The begin of an answer, and the end of the connection.
    Reset,
    /// Something that is not HTTP.
    Garbage,
    /// 200 after a time.
    Slow(Duration),
    /// 200 and half a body, and the end of the connection.
    Cut,
    /// 200 and half a body, and nothing more.
    Stall,
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
}

/// A receiver, dead or alive.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// One that confirms everything.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            decide: Mutex::new(Box::new(|_| Answer::status(204))),
            connections: Mutex::default(),
            dead: AtomicBool::new(false),
        });
        let mut receiver = Self { address: listener.local_addr().unwrap(), shared, acceptor: None };
        receiver.listen(listener);
        receiver
    }

    /// From now on it answers like this.
    pub(crate) fn answer(&self, decide: impl FnMut(&Delivery) -> Answer + Send + 'static) {
        *self.shared.decide.lock().unwrap() = Box::new(decide);
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

    /// All its connections break, and new ones are refused.
    pub(crate) fn kill(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.dead.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then closes the listener.
        drop(TcpStream::connect(self.address));
        acceptor.join().unwrap();
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            // The other side may have closed it already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// It is back, on the same port.
    pub(crate) fn revive(&mut self) {
        self.shared.dead.store(false, Ordering::SeqCst);
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    fn listen(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        self.acceptor = Some(std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if shared.dead.load(Ordering::SeqCst) {
                    return;
                }
                shared.connections.lock().unwrap().push(connection.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&connection, &shared));
            }
        }));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Serves a connection until it breaks.
fn serve(connection: &TcpStream, shared: &Shared) {
    let mut reader = BufReader::new(connection);
    while let Some(delivery) = read_request(&mut reader) {
        let answer = shared.decide.lock().unwrap()(&delivery);
        let confirms = match &answer {
            Answer::Status(status, ..) => (200..300).contains(status),
            Answer::Slow(_) | Answer::Cut | Answer::Stall => true,
            Answer::Hang | Answer::Reset | Answer::Garbage => false,
        };
        let place = {
            let mut received = shared.received.lock().unwrap();
            received.push(delivery);
            received.len() - 1
        };
        if let Answer::Slow(time) = answer {
            std::thread::sleep(time);
        }
        let mut writer = connection;
        let sent = match &answer {
            Answer::Status(status, headers, body) => writer.write_all(
                format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
                    .as_bytes(),
            ),
            Answer::Slow(_) => writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Answer::Garbage => writer.write_all(b"220 mail.example ESMTP\r\n\r\n"),
            Answer::Reset => writer.write_all(b"HTTP/1.1 2"),
            Answer::Cut | Answer::Stall => {
                writer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            }
            Answer::Hang => Ok(()),
        };
        if sent.is_err() {
            break;
        }
        shared.received.lock().unwrap()[place].confirmed = confirms;
        match answer {
            Answer::Status(..) | Answer::Slow(_) => {}
            // Until the other side closes; how it does so is all the same.
            Answer::Hang | Answer::Stall => {
                let _ = reader.read(&mut [0]);
                break;
            }
            Answer::Reset | Answer::Garbage | Answer::Cut => break,
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
}

/// None when the connection ends or breaks before a whole request.
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
    Some(Delivery { path, headers, body: String::from_utf8(body).unwrap(), confirmed: false })
}
