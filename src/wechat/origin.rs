//! Where access tokens come from that kfwatch does not fetch from WeChat.

use std::{borrow::Cow, fmt, path::PathBuf};

/// Who gives access tokens, if it is not WeChat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenOrigin {
    /// A file that another program writes.
    File(PathBuf),
    /// Scheme, host and port of a token server.
    Server(String),
}

impl TokenOrigin {
    /// What is common to the tokens that the same program gives: the server, or the directory of the file.
    pub(super) fn place(&self) -> Cow<'_, str> {
        match self {
            Self::File(path) => path.parent().unwrap_or(path).display().to_string().into(),
            Self::Server(server) => server.into(),
        }
    }
}

impl fmt::Display for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(server) => server.fmt(f),
        }
    }
}
