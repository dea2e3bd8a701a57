//! What the errors of PostgreSQL mean for the store.

use std::sync::Arc;

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

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// No answer came. Whether the statement was executed is unknown.
    NoAnswer,
    /// The statement was not executed, but can be a moment later.
    Busy,
    /// The server can execute nothing for us now: it starts, ends, or is a standby. The next connection may reach another one.
    Unserving,
    /// A value of the statement is refused, or a row is there already.
    Refused,
    /// A division by zero: the statement's own check of what it found has failed.
    CheckFailed,
    /// Repeating it does not help.
    Lasting,
}

impl Failure {
    /// No answer came in time.
    pub(super) fn timeout() -> Self {
        let error: Box<dyn std::error::Error + Send + Sync> = "no answer in time".into();
        Self { kind: FailureKind::NoAnswer, error: StoreError::Unreachable { source: error.into() } }
    }

    /// The server is not what the store needs.
    pub(super) fn unsuitable(what: impl Into<String>) -> Self {
        Self { kind: FailureKind::Lasting, error: StoreError::WrongServer(what.into()) }
    }

    /// Whether a repetition may succeed.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self.kind, FailureKind::NoAnswer | FailureKind::Busy | FailureKind::Unserving)
    }

    /// Whether the next statement needs a new connection.
    pub(super) fn ends_session(&self) -> bool {
        matches!(self.kind, FailureKind::NoAnswer | FailureKind::Unserving)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { kind: FailureKind::Lasting, error }
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
        return Failure::unsuitable(format!("{refusal}; set ca_file to the authority of its certificate"));
    }
    let kind = match error.code() {
        None => FailureKind::NoAnswer,
        Some(code) => kind_of(code),
    };
    let code = error.code().cloned();
    let source: Cause = Arc::new(error);
    let error = match kind {
        FailureKind::NoAnswer | FailureKind::Busy | FailureKind::Unserving => {
            StoreError::Unreachable { source }
        }
        FailureKind::Refused | FailureKind::CheckFailed => StoreError::Corrupt { source },
        FailureKind::Lasting => match code {
            Some(code) if code == SqlState::DISK_FULL || code == SqlState::OUT_OF_MEMORY => {
                StoreError::Full { source }
            }
            _ => StoreError::Unavailable { source },
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
    ]
    .contains(code)
    {
        return FailureKind::Busy;
    }
    if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
        return FailureKind::Unserving;
    }
    // The class of a code is its first two characters.
    match code.code().get(..2) {
        Some("08" | "57") => FailureKind::Unserving,
        Some("22" | "23") => FailureKind::Refused,
        _ => FailureKind::Lasting,
    }
}
