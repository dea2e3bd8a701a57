//! What the errors of PostgreSQL mean for the store.

use std::{sync::Arc, time::Duration};

use tokio_postgres::error::SqlState;

use crate::{
    store::error::{Cause, StoreError},
    tls::TlsRefusal,
};

/// Why a statement failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    /// What callers and operators learn.
    pub(super) error: StoreError,
}

/// How the store reacts to a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer came. Whether the statement was executed is unknown.
    NoAnswer,
    /// The statement was not executed, but can be a moment later.
    Busy,
    /// The server can execute nothing for us now: it starts, ends, or is a standby. The next connection may reach another one.
    ServerUnavailable,
    /// A value of the statement is refused, or a row is there already.
    Rejected,
    /// A division by zero: the statement's own check of what it found has failed.
    CheckFailed,
    /// Retrying does not help.
    Permanent,
}

impl Failure {
    /// No answer came in time.
    pub(super) fn timeout(limit: Duration) -> Self {
        let error: Box<dyn std::error::Error + Send + Sync> = format!("no answer within {limit:?}").into();
        Self { kind: FailureKind::NoAnswer, error: StoreError::Unreachable { source: error.into() } }
    }

    /// The server is not what the store needs.
    pub(super) fn wrong_server(what: impl Into<String>) -> Self {
        Self { kind: FailureKind::Permanent, error: StoreError::WrongServer(what.into()) }
    }

    /// Whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, FailureKind::NoAnswer | FailureKind::Busy | FailureKind::ServerUnavailable)
    }

    /// Whether the next statement needs a new connection.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self.kind, FailureKind::NoAnswer | FailureKind::ServerUnavailable)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { kind: FailureKind::Permanent, error }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What an error of the client or of the server means.
pub(super) fn classify(error: tokio_postgres::Error) -> Failure {
    if let Some(refusal) = TlsRefusal::find(&error) {
        let error = StoreError::Tls(format!("{refusal}: {}", refusal.remedy_at_sink()));
        return Failure { kind: FailureKind::Permanent, error };
    }
    if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
        return Failure { kind: FailureKind::ServerUnavailable, error: StoreError::NotPrimary };
    }
    let kind = match error.code() {
        None => FailureKind::NoAnswer,
        Some(code) => kind_of(code),
    };
    let code = error.code().cloned();
    let source: Cause = Arc::new(error);
    let error = match kind {
        FailureKind::NoAnswer | FailureKind::Busy | FailureKind::ServerUnavailable => {
            StoreError::Unreachable { source }
        }
        FailureKind::Rejected | FailureKind::CheckFailed => StoreError::Rejected { source },
        FailureKind::Permanent => match code {
            Some(code) if code == SqlState::DISK_FULL => StoreError::Full { source },
            _ => StoreError::DatabaseRefused { source },
        },
    };
    Failure { kind, error }
}

fn kind_of(code: &SqlState) -> FailureKind {
    if *code == SqlState::DIVISION_BY_ZERO {
        return FailureKind::CheckFailed;
    }
    if [
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::QUERY_CANCELED,
        SqlState::TOO_MANY_CONNECTIONS,
        SqlState::OUT_OF_MEMORY,
    ]
    .contains(code)
    {
        return FailureKind::Busy;
    }
    // The class of a code is its first two characters.
    match code.code().get(..2) {
        Some("08" | "57") => FailureKind::ServerUnavailable,
        Some("22" | "23") => FailureKind::Rejected,
        _ => FailureKind::Permanent,
    }
}
