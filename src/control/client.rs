//! The command's side of the control socket.

use std::{
    io::{self, ErrorKind},
    path::PathBuf,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

use super::{
    ControlCommand, HEALTH_PATH, HEARTBEAT, ReloadQuery, ReloadRow, ResponseLine, VERSION_HEADER,
    report::{CheckReport, PollReport},
    sessions::SessionReport,
    socket::{self, SocketError},
};
use crate::{
    dispatch::admin::{SinkAnswer, SinkCommand},
    domain::account_filter::AccountFilter,
    reload::{ReloadMode, ReloadOutcome, ReloadRefusal, ReloadReport},
};

/// A daemon that sends nothing for this long, not even a heartbeat, hangs.
const READ_TIMEOUT: Duration = HEARTBEAT.saturating_mul(6);

/// A longer line cannot be a result.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// The daemon did not carry the command out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlClientError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error(
        "no process listens on its control socket {}: it may be starting or stopping, or be another command or an \
         older kfwatch; try again in a minute",
        .0.display()
    )]
    NoListener(PathBuf),
    #[error("no permission to use its control socket {}: run as its owner", .0.display())]
    Permission(PathBuf),
    #[error(
        "it is kfwatch {theirs}, and this one is {ours}: use the program that it was started from, or restart it with \
         this one"
    )]
    OtherVersion { theirs: String, ours: &'static str },
    /// The daemon refused the command or could not finish it, for this reason.
    #[error("{0}")]
    Refused(String),
    /// The filter selects no account.
    #[error("{0}")]
    UnknownAccount(String),
    #[error("its response ended early: see its log")]
    Truncated,
    #[error("it does not answer")]
    TimedOut,
    #[error("its response is malformed: {0}")]
    Malformed(String),
    /// The client could not be built, or the request could not be sent.
    #[error("control socket")]
    Transport(#[source] reqwest::Error),
}

/// Sends commands to a daemon.
#[derive(Debug)]
pub(crate) struct ControlClient {
    http: reqwest::Client,
    socket: PathBuf,
    /// Called with each note for a person.
    on_note: fn(&str),
}

impl ControlClient {
    /// A client for the daemon with this control socket. Does not connect yet.
    pub(crate) fn new(socket: PathBuf) -> Result<Self, ControlClientError> {
        socket::check(&socket)?;
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .read_timeout(READ_TIMEOUT)
            // The socket uses no TLS, and the system may have no certificates.
            .tls_certs_only([])
            .build()
            .map_err(ControlClientError::Transport)?;
        Ok(Self { http, socket, on_note: |_| {} })
    }

    /// Passes the daemon's notes for a person to this function.
    pub(crate) fn on_note(self, on_note: fn(&str)) -> Self {
        Self { on_note, ..self }
    }

    /// Makes the daemon poll each selected kf account once.
    pub(crate) async fn polls(&self, filter: AccountFilter) -> Result<Vec<PollReport>, ControlClientError> {
        self.send(ControlCommand::Poll(filter)).await
    }

    pub(crate) async fn checks(&self, filter: AccountFilter) -> Result<Vec<CheckReport>, ControlClientError> {
        self.send(ControlCommand::Check(filter)).await
    }

    /// The open sessions that the daemon knows.
    pub(crate) async fn sessions(
        &self,
        filter: AccountFilter,
    ) -> Result<Vec<SessionReport>, ControlClientError> {
        self.send(ControlCommand::Sessions(filter)).await
    }

    pub(crate) async fn sinks(&self, command: SinkCommand) -> Result<SinkAnswer, ControlClientError> {
        let request = ControlCommand::Sinks(command.clone());
        match command {
            SinkCommand::Show => self.send(request).await.map(SinkAnswer::Sinks),
            SinkCommand::DeadLetters { .. } => self.send(request).await.map(SinkAnswer::DeadLetters),
            SinkCommand::Stop { .. }
            | SinkCommand::Resume { .. }
            | SinkCommand::Replay { .. }
            | SinkCommand::RetryDeadLetters { .. }
            | SinkCommand::DropDeadLetters { .. } => {
                let done = self.send(request).await?.into_iter().next();
                done.map(SinkAnswer::Changed).ok_or(ControlClientError::Truncated)
            }
        }
    }

    /// Makes the daemon apply its changed configuration, or only asks what would change.
    pub(crate) async fn reload(&self, mode: ReloadMode) -> Result<ReloadOutcome, ControlClientError> {
        let (mut report, mut reasons) = (ReloadReport::default(), Vec::new());
        for row in self.send(ControlCommand::Reload(mode)).await? {
            match row {
                ReloadRow::Change(change) => report.changes.push(change),
                ReloadRow::Deferred(deferred) => report.deferred.push(deferred),
                ReloadRow::Warning(warning) => report.warnings.push(warning),
                ReloadRow::Refused(reason) => reasons.push(reason),
            }
        }
        Ok(if reasons.is_empty() { Ok(report) } else { Err(ReloadRefusal { reasons }) })
    }

    /// Asks whether the daemon makes progress, for at most `timeout`. If it does not, the error is
    /// [`Refused`](ControlClientError::Refused) with what stalls.
    pub(crate) async fn health(&self, timeout: Duration) -> Result<(), ControlClientError> {
        let request = self.http.get(format!("http://kfwatch{HEALTH_PATH}"));
        self.response(request.timeout(timeout)).await.map(drop)
    }

    async fn send<T: DeserializeOwned>(&self, command: ControlCommand) -> Result<Vec<T>, ControlClientError> {
        let url = format!("http://kfwatch{}", command.path());
        let request = self.http.post(url);
        let request = match &command {
            ControlCommand::Poll(filter)
            | ControlCommand::Check(filter)
            | ControlCommand::Sessions(filter) => request.query(filter),
            ControlCommand::Sinks(command) => request.query(command),
            ControlCommand::Reload(mode) => request.query(&ReloadQuery { mode: *mode }),
        };
        read_rows(self.response(request).await?, self.on_note).await
    }

    /// Sends a request. The response is one that the daemon carries out.
    async fn response(&self, request: RequestBuilder) -> Result<Response, ControlClientError> {
        let response = request.send().await.map_err(|error| self.transport_error(error))?;
        let version = response.headers().get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        let theirs = version.unwrap_or("of an unknown version").to_owned();
        match response.status() {
            StatusCode::OK => Ok(response),
            // The daemon does not know this command, or not all of its parameters.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => {
                Err(ControlClientError::OtherVersion { theirs, ours: env!("CARGO_PKG_VERSION") })
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                let text = response.text().await.map_err(|error| self.transport_error(error))?;
                Err(ControlClientError::Refused(text))
            }
            status => Err(ControlClientError::Malformed(format!("status {status}"))),
        }
    }

    fn transport_error(&self, error: reqwest::Error) -> ControlClientError {
        match io_error_kind(&error) {
            Some(ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
                ControlClientError::NoListener(self.socket.clone())
            }
            Some(ErrorKind::PermissionDenied) => ControlClientError::Permission(self.socket.clone()),
            _ if error.is_timeout() => ControlClientError::TimedOut,
            _ => ControlClientError::Transport(error),
        }
    }
}

async fn read_rows<T: DeserializeOwned>(
    mut response: Response,
    on_note: fn(&str),
) -> Result<Vec<T>, ControlClientError> {
    let (mut rows, mut text) = (Vec::new(), BytesMut::new());
    loop {
        let chunk = match response.chunk().await {
            Ok(Some(chunk)) => chunk,
            Err(error) if error.is_timeout() => return Err(ControlClientError::TimedOut),
            Ok(None) | Err(_) => return Err(ControlClientError::Truncated),
        };
        text.extend_from_slice(&chunk);
        while let Some(line) = next_line(&mut text) {
            match serde_json::from_slice(&line) {
                Ok(ResponseLine::Row(row)) => rows.push(row),
                Ok(ResponseLine::Note(note)) => on_note(&note),
                Ok(ResponseLine::Failed(reason)) => return Err(ControlClientError::Refused(reason)),
                Ok(ResponseLine::UnknownAccount(text)) => {
                    return Err(ControlClientError::UnknownAccount(text));
                }
                Ok(ResponseLine::Done) => return Ok(rows),
                Err(error) => return Err(ControlClientError::Malformed(error.to_string())),
            }
        }
        if text.len() > MAX_LINE_BYTES {
            let reason = format!("a line of more than {MAX_LINE_BYTES} bytes");
            return Err(ControlClientError::Malformed(reason));
        }
    }
}

/// Removes the first line that is not empty.
fn next_line(text: &mut BytesMut) -> Option<BytesMut> {
    loop {
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let line = text.split_to(end);
        text.advance(1);
        if !line.is_empty() {
            return Some(line);
        }
    }
}

fn io_error_kind(error: &reqwest::Error) -> Option<ErrorKind> {
    crate::causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn lines_are_split_across_chunks() {
        let (mut text, mut found) = (BytesMut::new(), Vec::new());
        for chunk in ["{\"a\"", ":1}\n\n\n{\"b\":", "", "2}\n\"done\"\n", "\n"] {
            text.extend_from_slice(chunk.as_bytes());
            let lines = std::iter::from_fn(|| next_line(&mut text));
            found.extend(lines.map(|line| String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(found, ["{\"a\":1}", "{\"b\":2}", "\"done\""]);
        assert!(text.is_empty());
    }

    /// What a client returns for this response.
    async fn polls_from(response: &str) -> Result<Vec<PollReport>, ControlClientError> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(response.as_bytes()).await.unwrap();
        };
        let client = ControlClient::new(socket).unwrap();
        tokio::join!(client.polls(AccountFilter::default()), daemon).0
    }

    #[tokio::test]
    async fn other_daemon_version_is_reported() {
        let refused =
            polls_from("HTTP/1.1 404 Not Found\r\nkfwatch-version: 9.8.7\r\ncontent-length: 0\r\n\r\n").await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("it is kfwatch 9.8.7, and this one is "), "{refused}");
    }

    #[tokio::test]
    async fn truncated_or_malformed_response_is_an_error() {
        let row = r#"{"row":{"official_account":"shop","kf_account":"kf1@shop","result":"ok"}}"#;
        let response = |lines: &str| format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{lines}");
        assert!(matches!(
            polls_from(&response(&format!("{row}\n"))).await,
            Err(ControlClientError::Truncated)
        ));
        assert_eq!(polls_from(&response(&format!("{row}\n\n\n{row}\n\"done\"\n"))).await.unwrap().len(), 2);
        let failed = polls_from(&response(&format!("{row}\n{{\"failed\":\"of this\"}}\n"))).await;
        assert_eq!(failed.unwrap_err().to_string(), "of this");
        assert!(matches!(polls_from(&response("garbage\n")).await, Err(ControlClientError::Malformed(_))));
        let endless = response(&"x".repeat(MAX_LINE_BYTES + 1));
        assert!(matches!(polls_from(&endless).await, Err(ControlClientError::Malformed(_))));
    }
}
