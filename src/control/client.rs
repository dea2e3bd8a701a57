//! The command's side of the control socket.

use std::{
    error::Error,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use reqwest::{Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{
    Command, HEARTBEAT, Line, VERSION_HEADER,
    report::{Checked, Polled},
    socket::{SocketError, path_beside},
};
use crate::dispatch::admin::{SinkAnswer, SinkCommand};

/// A daemon that says nothing for so long, not even that it is still at it, hangs.
const SILENCE: Duration = HEARTBEAT.saturating_mul(6);

/// The longest line that is believed to be a result.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The daemon did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There can be no socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody answers.
    #[error(
        "nobody listens on its control socket {}: it may be starting or stopping, or be another command or an older \
         kfwatch; try again, or stop it first",
        .0.display()
    )]
    NobodyListens(PathBuf),
    /// The socket belongs to another user.
    #[error("no permission to use its control socket {}: run as its owner", .0.display())]
    Permission(PathBuf),
    /// It speaks another version of the protocol.
    #[error(
        "it is kfwatch {theirs}, and this one is {ours}: use the program that it was started from, or restart it with \
         this one"
    )]
    OtherVersion {
        /// The daemon's version.
        theirs: String,
        /// This program's.
        ours: &'static str,
    },
    /// It cannot do it now, or could not finish.
    #[error("{0}")]
    Refused(String),
    /// It did not finish, and did not say why.
    #[error("its answer broke off: see its log")]
    BrokeOff,
    /// It hangs.
    #[error("it has said nothing for {} s", SILENCE.as_secs())]
    Silent,
    /// What comes is not what a kfwatch says.
    #[error("its answer cannot be read: {0}")]
    Malformed(String),
    /// The client could not be set up, or the request not be sent.
    #[error("control socket")]
    Transport(#[source] reqwest::Error),
}

/// Asks the daemon that runs on a store.
#[derive(Debug)]
pub struct ControlClient {
    http: reqwest::Client,
    socket: PathBuf,
}

impl ControlClient {
    /// A client of the daemon on this store. Connects to nothing yet.
    pub fn new(store: &Path) -> Result<Self, ControlError> {
        let socket = path_beside(store)?;
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .read_timeout(SILENCE)
            // There is no TLS on the socket, and the system may have no certificates.
            .tls_certs_only([])
            .build()
            .map_err(ControlError::Transport)?;
        Ok(Self { http, socket })
    }

    /// Has every kf account polled once.
    pub async fn polls(&self) -> Result<Vec<Polled>, ControlError> {
        self.rows(Command::Poll).await
    }

    /// Has everything looked after.
    pub async fn checks(&self) -> Result<Vec<Checked>, ControlError> {
        self.rows(Command::Check).await
    }

    /// Has something done about sinks.
    pub async fn sinks(&self, command: SinkCommand) -> Result<SinkAnswer, ControlError> {
        let asked = Command::Sinks(command.clone());
        match command {
            SinkCommand::Show => self.rows(asked).await.map(SinkAnswer::Sinks),
            SinkCommand::DeadLetters { .. } => self.rows(asked).await.map(SinkAnswer::DeadLetters),
            SinkCommand::Resume { .. }
            | SinkCommand::Replay { .. }
            | SinkCommand::RetryDeadLetters { .. }
            | SinkCommand::DropDeadLetters { .. } => {
                let done = self.rows(asked).await?.into_iter().next();
                done.map(SinkAnswer::Done).ok_or(ControlError::BrokeOff)
            }
        }
    }

    async fn rows<T: DeserializeOwned>(&self, command: Command) -> Result<Vec<T>, ControlError> {
        let url = format!("http://kfwatch{}", command.path());
        let mut request = self.http.post(url);
        if let Command::Sinks(command) = &command {
            request = request.query(command);
        }
        let response = request.send().await.map_err(|error| self.transport_error(error))?;
        let version = response.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        let theirs = version.unwrap_or("of an unknown version").to_owned();
        match response.status() {
            StatusCode::OK => read(response).await,
            // Of what this kfwatch asks for, that one knows nothing, or not all.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => {
                Err(ControlError::OtherVersion { theirs, ours: env!("CARGO_PKG_VERSION") })
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                let text = response.text().await.map_err(|error| self.transport_error(error))?;
                Err(ControlError::Refused(text))
            }
            status => Err(ControlError::Malformed(format!("status {status}"))),
        }
    }

    fn transport_error(&self, error: reqwest::Error) -> ControlError {
        match io_error_kind(&error) {
            Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                ControlError::NobodyListens(self.socket.clone())
            }
            Some(ErrorKind::PermissionDenied) => ControlError::Permission(self.socket.clone()),
            _ if error.is_timeout() => ControlError::Silent,
            _ => ControlError::Transport(error),
        }
    }
}

async fn read<T: DeserializeOwned>(mut response: Response) -> Result<Vec<T>, ControlError> {
    let (mut rows, mut lines) = (Vec::new(), Lines::default());
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Err(error) if error.is_timeout() => return Err(ControlError::Silent),
            Ok(None) | Err(_) => return Err(ControlError::BrokeOff),
        };
        lines.text.extend_from_slice(&chunk);
        for line in lines.by_ref() {
            match serde_json::from_slice(&line) {
                Ok(Line::Row(row)) => rows.push(row),
                Ok(Line::Failed(why)) => return Err(ControlError::Refused(why)),
                Ok(Line::Done) => return Ok(rows),
                Err(error) => return Err(ControlError::Malformed(error.to_string())),
            }
        }
        if lines.text.len() > MAX_LINE_BYTES {
            return Err(ControlError::Malformed(format!("a line of more than {MAX_LINE_BYTES} bytes")));
        }
    }
}

/// Text as it comes, taken apart into lines.
#[derive(Default)]
struct Lines {
    text: BytesMut,
}

impl Iterator for Lines {
    type Item = BytesMut;

    /// The next whole line that is not empty.
    fn next(&mut self) -> Option<BytesMut> {
        loop {
            let end = self.text.iter().position(|byte| *byte == b'\n')?;
            let line = self.text.split_to(end);
            self.text.advance(1);
            if !line.is_empty() {
                return Some(line);
            }
        }
    }
}

fn io_error_kind(error: &reqwest::Error) -> Option<ErrorKind> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn lines_are_found_however_the_text_comes() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for chunk in ["{\"a\"", ":1}\n\n\n{\"b\":", "", "2}\n\"done\"\n", "\n"] {
            lines.text.extend_from_slice(chunk.as_bytes());
            found.extend(lines.by_ref().map(|line| String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(found, ["{\"a\":1}", "{\"b\":2}", "\"done\""]);
        assert!(lines.text.is_empty());
    }

    /// What a client makes of a daemon that answers so.
    async fn polls_of(answer: &str) -> Result<Vec<Polled>, ControlError> {
        let directory = tempfile::tempdir().unwrap();
        let store = directory.path().join("kfwatch.db");
        let listener = tokio::net::UnixListener::bind(path_beside(&store).unwrap()).unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        let client = ControlClient::new(&store).unwrap();
        tokio::join!(client.polls(), daemon).0
    }

    #[tokio::test]
    async fn a_daemon_of_another_version_is_named() {
        let refused =
            polls_of("HTTP/1.1 404 Not Found\r\nkfwatch-version: 9.8.7\r\ncontent-length: 0\r\n\r\n").await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("it is kfwatch 9.8.7, and this one is "), "{refused}");
    }

    #[tokio::test]
    async fn an_answer_without_an_end_is_no_answer() {
        let row = r#"{"row":{"official_account":"shop","kf_account":"kf1@shop","result":"ok"}}"#;
        let answer = |lines: &str| format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{lines}");
        assert!(matches!(polls_of(&answer(&format!("{row}\n"))).await, Err(ControlError::BrokeOff)));
        assert_eq!(polls_of(&answer(&format!("{row}\n\n\n{row}\n\"done\"\n"))).await.unwrap().len(), 2);
        let failed = polls_of(&answer(&format!("{row}\n{{\"failed\":\"of this\"}}\n"))).await;
        assert_eq!(failed.unwrap_err().to_string(), "of this");
        assert!(matches!(polls_of(&answer("garbage\n")).await, Err(ControlError::Malformed(_))));
        let endless = answer(&"x".repeat(MAX_LINE_BYTES + 1));
        assert!(matches!(polls_of(&endless).await, Err(ControlError::Malformed(_))));
    }
}
